"""Repeat the recorded run on inverting the logits of published networks for CIFAR-10, standard and robust.

    INVKIT_DATA=FOLDER INVKIT_WORK=OTHER python book/recorded/cifar10_feedforward.py

``FOLDER`` holds ``cifar10_4600.npz``, ``cifar10_jpeg_train.zip`` (training images, a folder for each class),
``mnist.npz``, ``imagenet_photos/``, ``weights/`` with the networks, and ``networks.py`` with the source of the one that
is not in the package. ``INVKIT_WORK`` names a folder in which what was trained is kept, for the next try.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.analysis.logit_probe import LogitProbe
from invkit.attacks import pgd, random_perturbation, robust_accuracy
from invkit.book.recording import NETWORKS, Run, command_line, recorded_run, zipped_images
from invkit.data.batching import to_float
from invkit.data.images import load_image


@dataclass(frozen=True)
class Subject:
    """A network that is inverted: its weights, the layer of its logits, and the one the baseline compares in."""

    weights: str
    layer: str
    comparator: str
    hardened: bool = False


SUBJECTS = {
    "ResNet-20": Subject("cifar10_resnet20", "linear", "layer3"),
    "ResNet-20, robust": Subject("cifar10_resnet20", "linear", "layer3", hardened=True),
    "robust net": Subject("cifar10_resnet4b_robust", "linear2", "layer2"),
}
HARDENING: dict[str, Any] = {
    "steps": 700, "warmup": 30, "lr": 1e-3, "batch_size": 64, "eps": 4 / 255, "attack_steps": 2, "shift": 4,
    "flip": True, "label_smoothing": 0.0,
}  # fmt: skip
OURS: dict[str, Any] = {
    "schedule": "cosine", "batch_size": 32, "latent": 32, "width": 16, "hidden": 128, "discriminator_steps": 1,
    "lr_generator": 1e-3, "lr_discriminator": 1e-3, "ema": 0.995,
}  # fmt: skip
BASELINE: dict[str, Any] = {"schedule": "cosine", "batch_size": 32, "lr": 2e-3, "width": 16, "image": 1.0}
BASELINES = {  # weights of the feature and the adversarial loss beside 1 for the image
    "Dosovitskiy & Brox": {"features": 0.01, "adversarial": 10.0},
    "regression": {"features": 0.0, "adversarial": 0.0},
}
RADIUS = 8 / 255
Inverse = Callable[[Tensor], Tensor]


@recorded_run(
    data=True,
    smoke={"steps": 1, "baseline_steps": 1, "train": 64, "each": 2, "judged": 20,
           "attack_steps": 1},
)  # fmt: skip
def logits(
    run: Run, *, steps: int = 8000, baseline_steps: int = 600, train: int = 4000,
    each: int = 2000, judged: int = 300, attack_steps: int = 20,
) -> None:  # fmt: skip
    """Train what is not there yet, measure, record."""
    data = ik.load_data(f"npz:{run.data / 'cifar10_4600.npz'}", limit=train)
    verifier = run.network("cifar10_resnet44")
    pool = zipped_images(run.data / "cifar10_jpeg_train.zip", verifier.spec.classes, each)
    test = data.test.per_class(judged // 10)
    photos = sorted((run.data / "imagenet_photos").glob("*.jpg"))[:judged]
    others = {
        "MNIST": ik.data.other_images("mnist", judged, verifier.spec),
        "photographs": torch.cat([load_image(photo, size=verifier.spec.size) for photo in photos]),
    }
    shown = torch.arange(0, len(test), judged // 10)
    pictures = {"test images": test.images[shown]}
    uses: dict[str, dict[str, float]] = {}
    for name, subject in SUBJECTS.items():
        target = network(run, subject, data)
        inverses = learn(run, name, target, pool.pixels, steps, baseline_steps)
        probes = {method: LogitProbe(target, inverse, test, verifier) for method, inverse in inverses.items()}
        for method, probe in probes.items():
            run.row(f"{name} / {method}", probe.scores())
        ours = probes["ours"]
        drawn = ours.draws(1, ik.seeded(0))[0]
        run.row(f"{name} / ours, drawn", ours.scores(drawn))
        for guess, images in ours.baselines(pool).items():
            run.row(f"{name} / {guess}", ours.scores(images))
        for use, number in used(ours, others, attack_steps).items():
            uses.setdefault(use, {})[name] = number
        pictures[f"{name}: ours"] = ours.reconstructions[shown]
        pictures[f"{name}: ours, drawn"] = ours.draws(1, ik.seeded(0), shown)[0]
        pictures |= {f"{name}: {method}": probes[method].reconstructions[shown] for method in BASELINES}
    config = {
        "ours": {"steps": steps, **OURS},
        "baselines": {"steps": baseline_steps} | BASELINE | BASELINES,
        "robust": HARDENING,
    }
    note = (
        f"{len(test)} test images, which no network was trained on; one seed. Inverses learnt from {len(pool):,} "
        "training images, stored as JPEG, and their logits; the verifier is a ResNet-44. ResNet-20, robust: the "
        f"published ResNet-20 trained on for {HARDENING['steps']} steps under attack with radius 4/255; robust net: "
        "published, another architecture, without batch norm."
    )
    few_bytes = {row: images.mul(31).round().div(31) for row, images in pictures.items()}
    run.record(
        "cifar10_feedforward",
        title="Test images of CIFAR-10 from the ten logits of standard and robust networks",
        config=config,
        figure=show.image_rows(few_bytes, list(verifier.spec.classes), columns=10, scale=1.5),
        note=note,
    )
    run.record(
        "cifar10_feedforward_uses",
        title="What the inverses of logits tell of networks for CIFAR-10",
        config=config,
        measured=uses,
        note=f"{note} Accuracy under attack: {attack_steps} steps of PGD with radius 4/255; images moved by attacks "
        "and by random changes: radius 8/255, in the verifier's features, in units of the distance between two images. "
        "Logits moved by half the distance between those of two images.",
    )


def network(run: Run, subject: Subject, data: ik.DataSet) -> ik.Target:
    """One of the published networks; the robust ResNet-20 is the standard one, trained on under attack."""
    target = run.network(subject.weights)
    if not subject.hardened:
        return target
    file, log = run.work / "resnet20_robust.safetensors", run.work / "resnet20_robust.seconds"
    if file.exists():
        run.earlier["training under attack"] = float(log.read_text())
    else:
        module = copy.deepcopy(target.module).requires_grad_(True)
        config = ik.ClassifierConfig(**HARDENING | run.trial)
        _, result = ik.train_classifier(module, replace(data, spec=target.spec), config, device="cpu")
        log.write_text(str(result.seconds))
        save_file({k: v.contiguous() for k, v in module.state_dict().items()}, file)
    spec = run.data / "weights" / f"{subject.weights}.json"
    return ik.load_target(NETWORKS[subject.weights], weights=file, spec=spec, device="cpu")


def learn(
    run: Run, name: str, target: ik.Target, images: Tensor, steps: int, baseline_steps: int
) -> dict[str, Inverse]:
    """The feedforward inverse and the baselines, all learnt from the same images and their logits, and kept."""
    subject, folder = SUBJECTS[name], run.work / name.replace(" ", "_").replace(",", "")
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "seconds.json"  # a run that finds its checkpoint takes no time
    seconds: dict[str, float] = json.loads(log.read_text()) if log.exists() else {}
    inverses: dict[str, Inverse] = {}
    for method in ("ours", *BASELINES):
        checkpoint = folder / f"{method}.pt"
        if method == "ours":
            config = ik.FeedforwardConfig(steps=steps, **OURS)
            inverses[method], result = ik.feedforward_inversion(
                target, images, config, generator=ik.seeded(0), checkpoint=checkpoint
            )
        else:
            inverses[method], result = ik.deepsim(
                target, to_float(images), subject.layer,
                ik.DeePSiMConfig(**BASELINE, **BASELINES[method], steps=baseline_steps),
                generator=ik.seeded(0), comparator=subject.comparator, checkpoint=checkpoint,
            )  # fmt: skip
        if method in seconds:
            run.earlier[f"{name}, {method}"] = seconds[method]
        seconds.setdefault(method, result.seconds)
        log.write_text(json.dumps(seconds))
    return inverses


def used(probe: LogitProbe, others: dict[str, Tensor], attack_steps: int) -> dict[str, float]:
    """What our inverse does with other logits: of attacked and wrongly classified images, of other data, moved ones."""
    eps = HARDENING["eps"]
    numbers = {"accuracy": float((~probe.misclassified()).double().mean())}
    numbers["accuracy under attack"] = robust_accuracy(
        probe.target, probe.real, probe.labels, eps=eps, steps=attack_steps
    )
    changes = {
        "attacked": pgd(probe.target, probe.real, probe.labels, eps=RADIUS, steps=attack_steps, generator=ik.seeded(0)),
        "changed at random": random_perturbation(probe.real, RADIUS, generator=ik.seeded(0)),
    }
    for change, images in changes.items():
        numbers[f"{change}, image moved"] = probe.under_change(images)["distance"]
        numbers[f"{change}, read rightly"] = probe.under_change(images)["verifier"]
    for answer, row in probe.by_answer().items():
        for column in ("psnr", "true class", "answered class"):
            numbers[f"{answer} answers, {column}"] = row[column]
    for source, images in others.items():
        there = probe.on_other_images(images)
        numbers[f"{source}, psnr"] = there["psnr"]
        numbers[f"{source}, psnr to another"] = there["psnr to another"]
    noise = probe.under_noise(ik.seeded(0))
    for column in ("images", "logits", "logits, borrowed"):
        numbers[f"other noise, {column}"] = noise[column]
    for move, gain in probe.sensitivity(0.5, ik.seeded(0)).items():
        numbers[f"{move}, image per logit change"] = gain
    return numbers


if __name__ == "__main__":
    command_line(logits)
