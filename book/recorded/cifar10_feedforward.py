"""Repeat the recorded runs on inverting the logits of published networks for CIFAR-10, standard and robust.

    INVKIT_DATA=FOLDER INVKIT_WORK=OTHER python book/recorded/cifar10_feedforward.py logits
    INVKIT_DATA=FOLDER INVKIT_WORK=OTHER python book/recorded/cifar10_feedforward.py uses
    INVKIT_DATA=FOLDER INVKIT_WORK=OTHER python book/recorded/cifar10_feedforward.py beyond
    INVKIT_DATA=FOLDER python book/recorded/cifar10_feedforward.py controls

``FOLDER`` holds ``cifar10_4600.npz``, ``cifar10_jpeg_train.zip`` (training images, a folder for each class),
``mnist.npz``, ``imagenet_photos/`` and ``weights/`` with the networks. ``INVKIT_WORK`` names a folder in which
networks that were trained under attack are kept, for the next try.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.analysis.logit_probe import LogitInverter, LogitProbe
from invkit.attacks import pgd, random_perturbation, robust_accuracy
from invkit.book.recorded import load_recorded
from invkit.book.recording import NETWORKS, Run, command_line, recorded_run, zipped_images
from invkit.data.batching import to_float
from invkit.data.images import load_image, quantise
from invkit.metrics import baselines, psnr


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
}
HARDENING: dict[str, Any] = {
    "steps": 700, "warmup": 30, "lr": 1e-3, "batch_size": 64, "eps": 4 / 255, "attack_steps": 2, "shift": 4,
    "flip": True, "label_smoothing": 0.0,
}  # fmt: skip
OURS: dict[str, Any] = {
    "schedule": "cosine", "batch_size": 32, "latent": 32, "hidden": 128, "discriminator_steps": 1, "ema": 0.995,
}  # fmt: skip
BASELINE: dict[str, Any] = {"schedule": "cosine", "batch_size": 32, "image": 1.0}
# Six settings of each method, all of them tried for each network. Weights of Dosovitskiy & Brox around the best of an
# earlier search over 0.01 to 1 of the features and 1 and 10 of the discriminator.
GRIDS: dict[str, dict[str, list[Any]]] = {
    "ours": {"lr": [5e-4, 1e-3, 2e-3], "width": [16, 32]},
    "Dosovitskiy & Brox": {"lr": [1e-3, 2e-3, 4e-3], "features": [0.01, 0.1], "adversarial": [1.0], "width": [16]},
    "regression": {"lr": [1e-3, 2e-3, 4e-3], "width": [16, 32]},
}
# What that search found lies at an edge of these: one step further, the rest as it was found.
RIVAL: dict[str, Any] = {"lr": 4e-3, "features": 0.1, "adversarial": 1.0, "width": 16}
FURTHER: dict[str, tuple[str, dict[str, Any]]] = {
    "Dosovitskiy & Brox, twice the learning rate": ("Dosovitskiy & Brox", RIVAL | {"lr": 8e-3}),
    "Dosovitskiy & Brox, features of three times the weight": ("Dosovitskiy & Brox", RIVAL | {"features": 0.3}),
}
BEYOND: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "ResNet-20": {"ours, half the learning rate": ("ours", {"lr": 2.5e-4, "width": 16})} | FURTHER,
    "ResNet-20, robust": {"ours, twice the learning rate": ("ours", {"lr": 4e-3, "width": 16})} | FURTHER,
}
RADIUS = 8 / 255
TIMED = 500  # images with which a step is timed: their number does not matter to it


@recorded_run(
    data=True,
    smoke={"seconds": 0.1, "tuning_seconds": 0.1, "seeds": 1, "train": 64, "each": 2, "judged": 20},
)
def logits(
    run: Run, *, seconds: float = 180.0, tuning_seconds: float = 30.0, seeds: int = 3, train: int = 4000,
    each: int = 2000, judged: int = 300,
) -> None:  # fmt: skip
    """Tune, train and measure every method, in equal time of the processor for each training."""
    data = ik.load_data(f"npz:{run.data / 'cifar10_4600.npz'}", limit=train)
    verifier = run.network("cifar10_resnet44")
    pool, apart = learnt_and_apart(run, verifier.spec.classes, each, judged // len(verifier.spec.classes))
    test = data.test.per_class(judged // 10)
    targets = {name: network(run, subject, data) for name, subject in SUBJECTS.items()}
    tuner = run.network("cifar10_resnet4b_robust")  # of another family than the verifier
    settings: dict[str, dict[str, dict[str, Any]]] = {}
    shown = torch.arange(0, len(test), judged // 10)
    pictures = {"test images": test.images[shown]}
    for name, target in targets.items():
        settings[name] = tuned(run, pool, apart, name, target, tuner, tuning_seconds)
        trainings = trainings_of(name, target, pool.pixels, settings[name])
        timed = trainings_of(name, target, pool.pixels[:TIMED], settings[name])
        steps = steps_within(timed, seconds, rounds=1 if run.quick else 3)
        for seed in range(seeds):
            probes = {}
            for method, learn in trainings.items():
                start = time.process_time()
                inverse = learn(steps[method], ik.seeded(seed))
                print(f"{name}, {method}: {time.process_time() - start:.0f} s of the processor", flush=True)
                probes[method] = LogitProbe(target, inverse, test, verifier)
                run.row(f"{name} / {method}", probes[method].scores() | {"steps": steps[method]})
            ours = probes["ours"]
            drawn = ours.draws(1, ik.seeded(seed))[0]
            run.row(f"{name} / ours, drawn", ours.scores(drawn))
            if seed == 0:
                pictures[f"{name}: ours"], pictures[f"{name}: ours, drawn"] = ours.reconstructions[shown], drawn[shown]
                rivals = [method for method in probes if method != "ours"]
                pictures |= {f"{name}: {method}": probes[method].reconstructions[shown] for method in rivals}
        for guess, images in ours.baselines(pool).items():
            run.row(f"{name} / {guess}", ours.scores(images))
    few_bytes = {row: images.mul(31).round().div(31) for row, images in pictures.items()}
    run.record(
        "cifar10_feedforward",
        title="Test images of CIFAR-10 from the ten logits of a standard and a robust network",
        config={
            "ours": OURS,
            "baselines": BASELINE,
            "seconds": seconds,
            "tuning": {"seconds": tuning_seconds, "grids": GRIDS, "found": settings},
            "robust": HARDENING,
        },
        seeds=seeds,
        claims=("ff.rich", "ff.robust", "ff.better"),
        figure=show.image_rows(few_bytes, list(verifier.spec.classes), columns=10, scale=1.5),
        note=f"{len(test)} test images, which no network was trained on; {seeds} seeds of the inverses, of one network "
        f"of each kind. Each inverse took as many steps as fit into {seconds:.0f} s of the processor, timed in turns, "
        f"on {len(pool):,} training images, kept as JPEG, and their logits, with the best of six settings for each: "
        "that of least feature distance times Fréchet distance, in a robust network's features, on "
        f"{len(apart)} images that no inverse learnt from, after {tuning_seconds:.0f} s. The verifier, whose features "
        "the distances here take, is a ResNet-44. ResNet-20, robust: the published ResNet-20 trained on for "
        f"{HARDENING['steps']} steps under attack with radius 4/255.",
    )


@recorded_run(data=True, smoke={"share": 0.002, "seeds": 1, "train": 64, "each": 2, "judged": 20, "attack_steps": 1})
def uses(
    run: Run, *, share: float = 1.0, seeds: int = 3, first: int = 3, train: int = 4000, each: int = 2000,
    judged: int = 300, attack_steps: int = 20,
) -> None:  # fmt: skip
    """Ask inverses of attacked images, of other data, of moved logits: other seeds than those of the comparison."""
    before = load_recorded("cifar10_feedforward", Path(__file__).parent)
    found = {name: before.config["tuning"]["found"][name]["ours"] for name in SUBJECTS}
    steps = {name: round(share * before.measured[f"{name} / ours"]["steps"][0]) for name in SUBJECTS}
    data = ik.load_data(f"npz:{run.data / 'cifar10_4600.npz'}", limit=train)
    verifier = run.network("cifar10_resnet44")
    pool, _ = learnt_and_apart(run, verifier.spec.classes, each, judged // len(verifier.spec.classes))
    test = data.test.per_class(judged // 10)
    others = outside(run, judged, verifier.spec)
    measured: dict[str, dict[str, list[float]]] = {}
    chosen = range(first, first + seeds)
    for seed in chosen:
        for name, subject in SUBJECTS.items():
            target = network(run, subject, data, seed)
            inverse = training("ours", target, subject, pool.pixels, found[name])(steps[name], ik.seeded(seed))
            probe = LogitProbe(target, inverse, test, verifier)
            numbers = used(probe, others, attack_steps)
            print(f"seed {seed}, {name}: {numbers}", flush=True)
            for use, number in numbers.items():
                measured.setdefault(use, {}).setdefault(name, []).append(number)
    run.record(
        "cifar10_feedforward_uses",
        title="What the inverses of logits tell of networks for CIFAR-10",
        config={"ours": OURS, "settings": found, "steps": steps, "robust": HARDENING},
        seeds=chosen,
        claims=("ff.invariance", "ff.attacked", "ff.ood"),
        measured=measured,
        note=f"{len(test)} test images, which no network was trained on, and {len(pool):,} that the inverses learnt "
        "from, with the settings and as many steps as in the comparison of methods, but other seeds: of the inverses, "
        f"and of the robust networks, each the published ResNet-20 trained on for {HARDENING['steps']} steps under "
        f"attack with radius 4/255. Accuracy under attack: {attack_steps} steps of PGD with radius 4/255; images moved "
        "by attacks and by random changes: radius 8/255, in the features of the verifier, a ResNet-44, in units of the "
        "distance between two images. Logits moved by half the distance between those of two images.",
    )


@recorded_run(data=True, smoke={"share": 0.002, "seeds": 1, "train": 64, "each": 2, "judged": 20})
def beyond(
    run: Run, *, share: float = 1.0, seeds: int = 3, train: int = 4000, each: int = 2000, judged: int = 300
) -> None:
    """Train with settings one step beyond the edge of the search, for as many steps and on the same images."""
    before = load_recorded("cifar10_feedforward", Path(__file__).parent).measured
    data = ik.load_data(f"npz:{run.data / 'cifar10_4600.npz'}", limit=train)
    verifier = run.network("cifar10_resnet44")
    pool, _ = learnt_and_apart(run, verifier.spec.classes, each, judged // len(verifier.spec.classes))
    test = data.test.per_class(judged // 10)
    for name, subject in SUBJECTS.items():
        target = network(run, subject, data)
        for setting, (method, chosen) in BEYOND[name].items():
            learn = training(method, target, subject, pool.pixels, chosen)
            steps = round(share * before[f"{name} / {method}"]["steps"][0])
            for seed in range(seeds):
                probe = LogitProbe(target, learn(steps, ik.seeded(seed)), test, verifier)
                run.row(f"{name} / {setting}", probe.scores() | {"steps": steps})
                if method == "ours":
                    drawn = probe.draws(1, ik.seeded(seed))[0]
                    run.row(f"{name} / {setting}, drawn", probe.scores(drawn) | {"steps": steps})
    run.record(
        "cifar10_feedforward_beyond",
        title="Images from logits of CIFAR-10 with settings beyond those that were tried",
        config={
            "ours": OURS,
            "baselines": BASELINE,
            "share of the steps": share,
            "settings": BEYOND,
            "robust": HARDENING,
        },
        seeds=seeds,
        note="As the run on the same logits, whose search found its best setting at an edge of what it tried: here "
        "one step further, for as many steps as there, on the same training and test images.",
    )


@recorded_run(data=True, smoke={"train": 64, "each": 2, "judged": 20})
def controls(run: Run, *, train: int = 4000, each: int = 2000, judged: int = 300) -> None:
    """Images that need no network, judged as the inverses' are; of other data their mean colour and mean image."""
    data = ik.load_data(f"npz:{run.data / 'cifar10_4600.npz'}", limit=train)
    verifier, target = run.network("cifar10_resnet44"), run.network("cifar10_resnet20")
    pool, _ = learnt_and_apart(run, verifier.spec.classes, each, judged // len(verifier.spec.classes))
    test = data.test.per_class(judged // 10)
    probe = LogitProbe(target, lambda logits: logits, test, verifier)  # its inverse is not asked
    guesses = baselines(test.images, test.labels, pool.images, pool.labels)
    shown = torch.arange(0, len(test), judged // 10)
    pictures = {"test images": test.images[shown]}
    for guess in ("mean colour", "nearest in pixels", "random training image", "noise"):
        run.row(guess, probe.scores(guesses[guess]))
        pictures[guess] = guesses[guess][shown]
    for source, images in outside(run, judged, verifier.spec).items():
        colour, mean = images.mean((2, 3), keepdim=True).expand_as(images), images.mean(0, keepdim=True)
        run.row(f"{source}, mean colour of each", {"psnr": psnr(quantise(colour), images)})
        run.row(f"{source}, mean of all", {"psnr": psnr(quantise(mean.expand_as(images)), images)})
    few_bytes = {row: images.mul(31).round().div(31) for row, images in pictures.items()}
    run.record(
        "cifar10_feedforward_controls",
        title="What needs no logits: guesses beside the inverses of networks for CIFAR-10",
        config={"images": each},
        seeds=1,
        figure=show.image_rows(few_bytes, list(verifier.spec.classes), columns=10, scale=1.5),
        note=f"The {len(test)} test images of the run on logits, its verifier, and its {len(pool):,} training images, "
        "among which the nearest is looked up. "
        "Agreement and logits are those of the standard ResNet-20. Of other data: each image "
        "in its own mean colour, and the mean of all of them in the place of each. Only the random image and "
        "the noise involve chance.",
    )


def outside(run: Run, count: int, spec: ik.ImageSpec) -> dict[str, Tensor]:
    """Images of other data, at the size of these."""
    photographs = sorted((run.data / "imagenet_photos").glob("*.jpg"))[:count]
    return {
        "MNIST": ik.data.other_images("mnist", count, spec),
        "photographs": torch.cat([load_image(photograph, size=spec.size) for photograph in photographs]),
    }


Training = Callable[[int, torch.Generator], Callable[[Tensor], Tensor] | LogitInverter]
"""Gives an inverse after so many steps."""


def training(
    method: str, target: ik.Target, subject: Subject, images: Tensor, chosen: dict[str, Any]
) -> Training:  # fmt: skip
    """The training of a method with the settings that were chosen for it, on these images and their logits."""

    def ours(steps: int, generator: torch.Generator) -> LogitInverter:
        settings = {name: value for name, value in chosen.items() if name != "lr"}
        rates = {f"lr_{network}": chosen["lr"] for network in ("generator", "discriminator")}
        config = ik.FeedforwardConfig(**OURS | settings | rates, steps=steps)
        return ik.feedforward_inversion(target, images, config, generator=generator)[0]

    def baseline(steps: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
        plain = {"features": 0.0, "adversarial": 0.0}
        config = ik.DeePSiMConfig(**BASELINE | plain | chosen, steps=steps)
        inverse, _ = ik.deepsim(
            target, to_float(images), subject.layer, config, generator=generator, comparator=subject.comparator
        )
        return inverse

    return ours if method == "ours" else baseline


def trainings_of(
    name: str, target: ik.Target, images: Tensor, settings: dict[str, dict[str, Any]]
) -> dict[str, Training]:  # fmt: skip
    """The training of each method on these images."""
    return {method: training(method, target, SUBJECTS[name], images, chosen) for method, chosen in settings.items()}


def steps_within(learns: dict[str, Training], seconds: float, rounds: int) -> dict[str, int]:
    """How many steps of each training fit into some seconds of the processor, without what comes before the first.

    The trainings take turns, and of several rounds the fastest counts: other work on the machine makes a step longer,
    and must not do so for one of them alone.
    """
    best = dict.fromkeys(learns, math.inf)
    for _ in range(rounds):
        for name, learn in learns.items():
            times = []
            for steps in (2, 22):
                start = time.process_time()
                learn(steps, ik.seeded(0))
                times.append(time.process_time() - start)
            best[name] = min(best[name], max(times[1] - times[0], 1e-6) / 20)
    return {name: max(1, int(seconds / step)) for name, step in best.items()}


def learnt_and_apart(run: Run, classes: tuple[str, ...], each: int, tested: int) -> tuple[ik.Split, ik.Split]:
    """The first images of each class, to learn from, and the next ones, on which settings are compared."""
    images = zipped_images(run.data / "cifar10_jpeg_train.zip", classes, each + tested)
    first = torch.arange(len(images)) % (each + tested) < each
    return images[first.nonzero()[:, 0]], images[(~first).nonzero()[:, 0]]


def tuned(
    run: Run, pool: ik.Split, apart: ik.Split, name: str, target: ik.Target, judging: ik.Target, seconds: float
) -> dict[str, dict[str, Any]]:
    """Each method's setting that brings back images best which it did not learn from, trained for less time."""
    few = pool.pixels[torch.randperm(len(pool), generator=ik.seeded(0))[:4000]]

    def method(word: str) -> Callable[..., Tensor]:
        def invert(logits: Tensor, generator: torch.Generator, **settings: Any) -> Tensor:
            learn = training(word, target, SUBJECTS[name], few, settings)
            timed = {word: training(word, target, SUBJECTS[name], few[:TIMED], settings)}
            steps = steps_within(timed, seconds, rounds=1 if run.quick else 2)[word]
            inverse = learn(steps, generator)
            return inverse.draws(logits, 1, generator=generator)[0] if hasattr(inverse, "draws") else inverse(logits)

        return invert

    probe = LogitProbe(target, lambda logits: logits, apart, judging)

    def judge(images: Tensor) -> dict[str, float]:
        scores = probe.scores(images)
        return {"nearness": -math.log(scores["distance"] * scores["Fréchet"])}

    found = ik.analysis.tune(
        {word: (method(word), grid) for word, grid in GRIDS.items()},
        probe.logits, judge, "nearness", tries=1 if run.quick else None, seeds=(100,),
        folder=run.work / f"tuning of {name}",
    )  # fmt: skip
    for word, best in found.items():
        print(name, word, best.rows, flush=True)
    return {word: best.settings for word, best in found.items()}


def network(run: Run, subject: Subject, data: ik.DataSet, seed: int = 0) -> ik.Target:
    """One of the published networks; the robust ResNet-20 is the standard one, trained on under attack."""
    target = run.network(subject.weights)
    if not subject.hardened:
        return target
    label = "ResNet-20 trained on under attack" + (f", seed {seed}" if seed else "")
    name = "resnet20_robust" + (f"_{seed}" if seed else "")
    file, log = run.work / f"{name}.safetensors", run.work / f"{name}.seconds"
    if file.exists():
        run.earlier[label] = float(log.read_text())
    else:
        module = copy.deepcopy(target.module).requires_grad_(True)
        config = ik.ClassifierConfig(**HARDENING | run.trial)
        _, result = ik.train_classifier(module, replace(data, spec=target.spec), config, seed=seed, device="cpu")
        log.write_text(str(result.seconds))
        save_file({k: v.contiguous() for k, v in module.state_dict().items()}, file)
    spec = run.data / "weights" / f"{subject.weights}.json"
    hardened = ik.load_target(NETWORKS[subject.weights], weights=file, spec=spec, device="cpu")
    return run.uses(hardened, label)


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
    command_line(logits, uses, beyond, controls)
