"""Repeat the recorded run on inverting the logits of published networks for CIFAR-10, standard and robust.

    INVKIT_DATA=FOLDER INVKIT_WORK=OTHER python book/recorded/cifar10_feedforward.py

``FOLDER`` holds ``cifar10_4600.npz``, ``cifar10_jpeg_train.zip`` (training images, a folder for each class),
``mnist.npz``, ``imagenet_photos/``, ``weights/`` with the networks, and ``networks.py`` with the source of the one that
is not in the package. ``INVKIT_WORK`` names a folder in which what was trained is kept, for the next try.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

import invkit as ik
from invkit import show
from invkit.analysis.logit_probe import LogitProbe
from invkit.attacks import robust_accuracy
from invkit.core.rng import seeded
from invkit.data.batching import to_float
from invkit.data.datasets import Split
from invkit.data.images import load_image

COMMAND = "INVKIT_DATA=FOLDER python book/recorded/cifar10_feedforward.py"
ROBUST, STANDARD, PUBLISHED = "ResNet-20, robust", "ResNet-20", "robust net"
NETWORKS = {  # where it comes from, its weights, the layer of its logits, and the one the baseline compares in
    STANDARD: ("invkit/resnet20", "cifar10_resnet20", "linear", "layer3"),
    ROBUST: ("invkit/resnet20", "cifar10_resnet20", "linear", "layer3"),  # the same, trained on under attack
    PUBLISHED: ("networks:ResNet4B", "cifar10_resnet4b_robust", "linear2", "layer2"),
    "ResNet-44": ("invkit/resnet44", "cifar10_resnet44", "linear", "layer3"),
}
HARDENING: dict[str, Any] = {
    "steps": 700, "warmup": 30, "lr": 1e-3, "batch_size": 64, "eps": 4 / 255, "attack_steps": 2, "shift": 4,
    "flip": True, "label_smoothing": 0.0,
}  # fmt: skip
OURS: dict[str, Any] = {
    "schedule": "cosine", "batch_size": 32, "latent": 32, "width": 16, "hidden": 128, "discriminator_steps": 1,
    "lr_generator": 1e-3, "lr_discriminator": 1e-3, "ema": 0.995,
}  # fmt: skip
BASELINE: dict[str, Any] = {"schedule": "cosine", "steps": 600, "batch_size": 32, "lr": 2e-3, "width": 16, "image": 1.0}
BASELINES = {  # weights of the feature and the adversarial loss beside 1 for the image
    "Dosovitskiy & Brox": {"features": 0.01, "adversarial": 10.0},
    "regression": {"features": 0.0, "adversarial": 0.0},
}
RADIUS = 8 / 255
JUDGED = 300
Inverse = Callable[[Tensor], Tensor]


def training_images(archive: Path, classes: tuple[str, ...], each: int) -> Split:
    """The first images of each class, all classes in turn."""
    pixels, labels = [], []
    with zipfile.ZipFile(archive) as files:
        names = sorted(files.namelist())
        for label, name in enumerate(classes):
            for file in [n for n in names if n.startswith(f"{name}/")][:each]:
                pixels.append(pil_to_tensor(Image.open(io.BytesIO(files.read(file))).convert("RGB")))
                labels.append(label)
    return Split(pixels=torch.stack(pixels), labels=torch.tensor(labels))


def network(name: str, folder: Path, work: Path, data: ik.DataSet) -> ik.Target:
    """One of the published networks; the robust ResNet-20 is the standard one, trained on under attack."""
    where, weights, *_ = NETWORKS[name]
    target = ik.load_target(where, weights=folder / "weights" / f"{weights}.safetensors", device="cpu")
    if name != ROBUST:
        return target
    kept = work / "resnet20_robust.safetensors"
    if not kept.exists():
        module = copy.deepcopy(target.module).requires_grad_(True)
        ik.train_classifier(module, replace(data, spec=target.spec), ik.ClassifierConfig(**HARDENING), device="cpu")
        save_file({k: v.contiguous() for k, v in module.state_dict().items()}, kept)
    return ik.load_target(where, weights=kept, spec=folder / "weights" / f"{weights}.json", device="cpu")


def inverses(target: ik.Target, name: str, images: Tensor, work: Path, steps: int) -> tuple[dict[str, Inverse], float]:
    """The feedforward inverse and the baselines, all learnt from the same images and their logits, and the seconds."""
    _, _, layer, comparator = NETWORKS[name]
    folder, settings = work / name.replace(" ", "_").replace(",", ""), ik.FeedforwardConfig(steps=steps, **OURS)
    folder.mkdir(parents=True, exist_ok=True)

    def learn(label: str) -> tuple[Inverse, Any]:
        kept = folder / f"{label}.pt"
        if label == "ours":
            return ik.feedforward_inversion(target, images, settings, generator=seeded(0), checkpoint=kept)
        config = ik.DeePSiMConfig(**BASELINE, **BASELINES[label])
        return ik.deepsim(
            target, to_float(images), layer, config, generator=seeded(0), comparator=comparator, checkpoint=kept
        )

    found: dict[str, Inverse] = {}
    spent = folder / "seconds.json"  # a run that finds its checkpoint takes no time
    seconds: dict[str, float] = json.loads(spent.read_text()) if spent.exists() else {}
    for label in ("ours", *BASELINES):
        found[label], result = learn(label)
        seconds.setdefault(label, result.seconds)
        spent.write_text(json.dumps(seconds))
        print(f"{name}, {label}: {seconds[label]:.0f} s, stopped by {result.stopped}", flush=True)
    return found, sum(seconds.values())


def probed(target: ik.Target, found: dict[str, Inverse], test: Split, eye: ik.Target, pool: Split) -> dict[str, Any]:
    """Scores of every method on the test images, and of guesses that need no inverse."""
    probe = LogitProbe(target, found["ours"], test, eye)
    rows = {label: LogitProbe(target, inverse, test, eye).scores() for label, inverse in found.items()}
    rows["ours, drawn"] = probe.scores(probe.draws(1, seeded(0))[0])
    return rows | {label: probe.scores(made) for label, made in probe.naive(pool).items()}


def used(probe: LogitProbe, sets: dict[str, Tensor]) -> dict[str, float]:
    """What our inverse does with other logits: of attacked and wrongly classified images, of other data, moved ones."""
    told = {"accuracy": float((~probe.wrong()).double().mean())}
    told["accuracy under attack"] = robust_accuracy(probe.target, probe.real, probe.labels, eps=HARDENING["eps"])
    attack = ik.pgd(probe.target, probe.real, probe.labels, eps=RADIUS, steps=20, generator=seeded(0))
    for how, changed in (
        ("attacked", attack),
        ("changed at random", ik.random_perturbation(probe.real, RADIUS, generator=seeded(0))),
    ):
        told[f"{how}, image moved"] = probe.after(changed)["distance"]
        told[f"{how}, read rightly"] = probe.after(changed)["verifier"]
    for answer, row in probe.by_answer().items():
        told |= {f"{answer} answers, {name}": row[name] for name in ("psnr", "true class", "answered class")}
    for name, images in sets.items():
        there = probe.elsewhere(images)
        told |= {f"{name}, psnr": there["psnr"], f"{name}, psnr to another": there["psnr to another"]}
    noise = probe.under_noise(seeded(0))
    told |= {f"other noise, {name}": noise[name] for name in ("images", "logits", "logits, borrowed")}
    return told | {f"{how}, image per logit change": v for how, v in probe.gains(0.5, seeded(0)).items()}


def main() -> None:
    """Train what is not there yet, measure, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4000, help="training steps of our inverses")
    parser.add_argument("--each", type=int, default=2000, help="training images of each class")
    given = parser.parse_args()
    folder, start = Path(os.environ["INVKIT_DATA"]), time.perf_counter()
    work = Path(os.environ.get("INVKIT_WORK") or tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(folder))
    data = ik.load_data(f"npz:{folder / 'cifar10_4600.npz'}")
    eye = network("ResNet-44", folder, work, data)
    pool = training_images(folder / "cifar10_jpeg_train.zip", eye.spec.classes, given.each)
    test = data.test.per_class(JUDGED // 10)
    photos = sorted((folder / "imagenet_photos").glob("*.jpg"))
    sets = {
        "MNIST": ik.other_images("mnist", JUDGED, eye.spec),
        "photographs": torch.cat([load_image(photo, size=eye.spec.size) for photo in photos]),
    }
    shown = torch.arange(0, len(test), JUDGED // 10)
    scores: dict[str, float] = {}
    uses: dict[str, float] = {}
    pictures, trained = {"test images": test.images[shown]}, 0.0
    for name in (STANDARD, ROBUST, PUBLISHED):
        target = network(name, folder, work, data)
        found, spent = inverses(target, name, pool.pixels, work, given.steps)
        probe, trained = LogitProbe(target, found["ours"], test, eye), trained + spent
        rows, told = probed(target, found, test, eye, pool), used(probe, sets)
        scores |= {f"{name} / {row}: {column}": v for row, values in rows.items() for column, v in values.items()}
        uses |= {f"{what}: {name}": value for what, value in told.items()}
        pictures[f"{name}: ours"] = probe.made[shown]
        pictures[f"{name}: ours, drawn"] = probe.draws(1, seeded(0), shown)[0]
        pictures |= {f"{name}: {label}": LogitProbe(target, found[label], test, eye).made[shown] for label in BASELINES}
        print(f"{name}: {rows} {told}", flush=True)
    kept: dict[str, Any] = {
        "config": {"ours": {"steps": given.steps, **OURS}, "baselines": BASELINE | BASELINES, "robust": HARDENING},
        "command": f"{COMMAND} --steps {given.steps} --each {given.each}",
        "seed": 0,
        "seconds": time.perf_counter() - start + trained,
        "device": "cpu",
        "overwrite": True,
    }
    note = (
        f"{len(test)} test images, which no network was trained on; one seed. Inverses learnt from {len(pool):,} "
        "training images, stored as JPEG, and their logits; the verifier is a ResNet-44. ResNet-20, robust: the "
        f"published ResNet-20 trained on for {HARDENING['steps']} steps under attack with radius 4/255; robust net: "
        "published, another architecture, without batch norm. The time leaves out that of the training under attack."
    )
    show.record(
        "cifar10_feedforward",
        title="Test images of CIFAR-10 from the ten logits of standard and robust networks",
        measured=scores,
        figure=show.image_rows(
            {k: v.mul(31).round().div(31) for k, v in pictures.items()}, list(eye.spec.classes), columns=10, scale=1.5
        ),
        note=note,
        **kept,
    )
    show.record(
        "cifar10_feedforward_uses",
        title="What the inverses of logits tell of networks for CIFAR-10",
        measured=uses,
        note=f"{note} Accuracy under attack: 20 steps of PGD with radius 4/255; images moved by attacks and by random "
        "changes: radius 8/255, in the verifier's features, in units of the distance between two images. Logits moved "
        "by half the distance between those of two images.",
        **kept,
    )


if __name__ == "__main__":
    main()
