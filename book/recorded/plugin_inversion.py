"""Repeat the recorded runs of Plug-In Inversion on trained networks at their full input size.

    INVKIT_DATA=FOLDER python book/recorded/plugin_inversion.py tinydarknet
    INVKIT_DATA=FOLDER python book/recorded/plugin_inversion.py squeezenet
    INVKIT_DATA=FOLDER python book/recorded/plugin_inversion.py deepinversion
    INVKIT_DATA=FOLDER python book/recorded/plugin_inversion.py cifar10
    INVKIT_DATA=FOLDER python book/recorded/plugin_inversion.py ablations

The first two invert two ImageNet networks with the same settings, each judged by the other; the third goes on with
DeepInversion where Plug-In Inversion ended; the last two invert a standard and a robust network for CIFAR-10.

``FOLDER`` holds ``weights/``, ``imagenet_photos/``, ``cifar10_4600.npz`` and ``networks.py`` with the source of the
networks that are in neither torchvision nor the package.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.core.rng import seeded
from invkit.data.images import load_image, quantise
from invkit.metrics.judge import roughness, statistics_penalty
from invkit.metrics.quality import accuracy, probabilities

COMMAND = "INVKIT_DATA=FOLDER python book/recorded/plugin_inversion.py"
NAMES = {
    "tinydarknet": ("TinyDarknet", "networks:tiny_darknet", "imagenet_tinydarknet"),
    "squeezenet": ("SqueezeNet", "torchvision/squeezenet1_0", "imagenet_squeezenet1_0"),
    "resnet20": ("ResNet-20", "invkit/resnet20", "cifar10_resnet20"),
    "resnet44": ("ResNet-44", "invkit/resnet44", "cifar10_resnet44"),
    "robust": ("robust net", "networks:ResNet4B", "cifar10_resnet4b_robust"),
}
CLASSES = ("volcano", "Tibetan terrier", "jay", "daisy", "goldfish", "schooner")
SHOWN = 4  # classes in a picture

# Every row is a Plug-In Inversion: without stages, shifts and jitter it is cross-entropy on pixels.
ALONE: dict[str, Any] = {"stages": 1, "zoom": False, "centering": False, "color_shift": False, "jitter": 0}
SMOOTH: dict[str, Any] = {"ensemble": 2, "steps": 100, "lr": 0.03, "tv": 0.02}
IMAGENET: dict[str, dict[str, Any]] = {
    "cross-entropy": ALONE | {"steps": 400},
    "cross-entropy + TV": ALONE | {"steps": 400, "lr": 0.03, "tv": 0.02},
    "PII as published, but e = 1": {"ensemble": 1},
    "PII + TV, fewer steps": SMOOTH,
}
REFINED: dict[str, Any] = {
    "steps": 250, "lr": 0.05, "schedule": "cosine", "patience": None, "betas": (0.5, 0.9), "jitter": 32, "flip": 0.5,
    "cross_entropy": 10.0, "tv": 0.3, "l2": 0.0, "batch_norm": 1.0, "bf16": True,
}  # fmt: skip
SMALL: dict[str, Any] = {"steps": 50, "lr": 0.02, "ensemble": 4, "jitter": 4, "resize": "always"}
CIFAR: dict[str, dict[str, Any]] = {"cross-entropy": ALONE | {"steps": 200, "lr": 0.03}, "PII": SMALL}


def load(name: str, folder: Path, device: str) -> ik.Target:
    """A network with its published weights."""
    _, where, file = NAMES[name]
    return ik.load_target(where, weights=folder / "weights" / f"{file}.safetensors", device=device)


def photos(folder: Path, classes: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """The photographs, the middle of each at 224 pixels, and their labels."""
    files = sorted((folder / "imagenet_photos").glob("*.jpg"))
    names = [file.stem.partition("_")[2].replace("_", " ") for file in files]
    labels = torch.tensor([classes.index(name) for name in names])
    return torch.cat([load_image(file, size=(224, 224)) for file in files]), labels


def invert(target: ik.Target, labels: Tensor, settings: Mapping[str, Any], seed: int) -> ik.InversionResult:
    """Plug-In Inversion with these settings instead of the published ones."""
    config = ik.PlugInConfig(**{"bf16": True, **settings})
    return ik.plug_in_inversion(target, labels, config, generator=seeded(seed))


def scores(images: Tensor, labels: Tensor, target: ik.Target, verifier: ik.Target) -> dict[str, float]:
    """Whether both networks know the class, after rounding to 8 bits, and what the pixels are like."""
    images = quantise(images)
    own, other = (accuracy(network, images, labels) for network in (target, verifier))
    chance = probabilities(verifier, images)[torch.arange(len(labels)), labels]
    return {
        "own top-1": own["top1"],
        "verifier top-1": other["top1"],
        "verifier top-5": other["top5"],
        "verifier's probability": float(chance.mean()),
        "roughness": roughness(images),
    }


def colours(images: Tensor) -> dict[str, float]:
    """Mean of each channel, and the mean over images of its standard deviation within an image."""
    means, spreads = images.mean((0, 2, 3)), images.flatten(2).std(2).mean(0)
    named = zip(("red", "green", "blue"), means.tolist(), spreads.tolist())
    return {f"{word} {c}": v for c, m, s in named for word, v in (("mean", m), ("sd", s))}


def small(images: Tensor) -> Tensor:
    """At most 96 pixels wide and 12 levels of each colour, for a picture of few bytes."""
    size = (96, 96) if images.shape[-1] > 96 else images.shape[-2:]
    smaller = F.interpolate(images, size=tuple(size), mode="bilinear", antialias=True, align_corners=False)
    return ((smaller * 11).round() / 11).clamp(0, 1)


def table(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """``row: column`` names for a recorded table."""
    return {f"{row}: {column}": value for row, found in rows.items() for column, value in found.items()}


def imagenet(name: str, folder: Path, device: str) -> None:
    """One network under all settings, judged by the other."""
    other = next(n for n in ("tinydarknet", "squeezenet") if n != name)
    target, verifier = (load(n, folder, device) for n in (name, other))
    if target.spec.classes != verifier.spec.classes:
        raise ValueError("the networks' classes are not in the same order")
    labels, start = torch.tensor([target.spec.classes.index(c) for c in CLASSES]), time.perf_counter()
    images: dict[str, Tensor] = {}
    found: dict[str, dict[str, float]] = {}
    for row, settings in IMAGENET.items():
        result = invert(target, labels, settings, 0)
        images[row] = result.images
        found[row] = scores(result.images, labels, target, verifier) | {"minutes": result.seconds / 60}
        print(row, found[row], flush=True)
    real, truth = photos(folder, target.spec.classes)
    found[f"{len(real)} photographs"] = scores(real, truth, target, verifier)
    figure = picture(images, found, "verifier")
    show.record(
        f"plugin_inversion_{name}",
        title=f"Plug-In Inversion of {NAMES[name][0]} for ImageNet at 224 pixels, judged by {NAMES[other][0]}",
        config=IMAGENET | {"in all": {"bf16": True, "classes": CLASSES}},
        measured=table(found),
        command=f"{COMMAND} {name}",
        seed=0,
        seconds=time.perf_counter() - start,
        device=device,
        figure=figure,
        note=f"One image of each of {len(CLASSES)} classes, one seed, so a step of {1 / len(CLASSES):.1%}; the first "
        f"{SHOWN} are shown, reduced. Settings not named are the published ones, and the same for both networks. "
        "Networks ran in bfloat16 autocast; scores are of images rounded to 8 bits, in float32. "
        "The photographs may have been training images.",
        overwrite=True,
    )


def picture(images: Mapping[str, Tensor], found: Mapping[str, Mapping[str, float]], name: str) -> Any:
    """The first images of each row, reduced, and what the verifier ``name`` recognises."""
    return show.image_rows(
        {row: small(batch[:SHOWN]) for row, batch in images.items()},
        CLASSES[:SHOWN],
        columns=SHOWN,
        scale=1.0,
        numbers={row: f"{found[row]['verifier top-1']:.0%}" for row in images},
        numbers_name=name,
    )


def deepinversion(folder: Path, device: str) -> None:
    """DeepInversion from where Plug-In Inversion ended, and from noise, on the network with batch norms."""
    target, verifier = load("tinydarknet", folder, device), load("squeezenet", folder, device)
    labels, start = torch.tensor([target.spec.classes.index(c) for c in CLASSES]), time.perf_counter()
    plugged = invert(target, labels, SMOOTH, 0)
    refine = ik.DeepInversionConfig(**REFINED)
    images = {"PII": plugged.images}
    for row, init in {"DeepInversion": None, "PII, then DeepInversion": plugged.images}.items():
        images[row] = ik.deep_inversion(target, labels, refine, generator=seeded(0), init=init).images
    real, truth = photos(folder, target.spec.classes)
    sample = torch.linspace(0, len(real) - 1, len(labels)).long()
    found = {row: judged(target, verifier, batch, labels) for row, batch in images.items()}
    found[f"{len(sample)} photographs"] = judged(target, verifier, real[sample], truth[sample])
    found[f"{len(real)} photographs"] = judged(target, verifier, real, truth)
    figure = picture(images, found, "SqueezeNet")
    show.record(
        "plugin_inversion_deepinversion",
        title="DeepInversion of TinyDarknet at 224 pixels, from noise and from where Plug-In Inversion ended",
        config={"PII": SMOOTH, "DeepInversion": refine, "classes": CLASSES},
        measured=table(found),
        command=f"{COMMAND} deepinversion",
        seed=0,
        seconds=time.perf_counter() - start,
        device=device,
        figure=figure,
        note=f"One image of each of {len(CLASSES)} classes in one batch, one seed: a step of {1 / len(CLASSES):.1%}; "
        f"the first {SHOWN} are shown, reduced. The penalty is that of the batch, so compare it with as many "
        "photographs, which are of other classes and may have been training images. Means and standard deviations of "
        "the channels in units of the pixel range.",
        overwrite=True,
    )


def judged(target: ik.Target, verifier: ik.Target, images: Tensor, labels: Tensor) -> dict[str, float]:
    """The scores, the distance of the batch's statistics from the stored ones, and the colours."""
    images = quantise(images)
    penalty = {"penalty": statistics_penalty(target, images)}
    return scores(images, labels, target, verifier) | penalty | colours(images)


class CifarJudge:
    """Judges an inverted CIFAR network by a standard ResNet-44, and by the other network that was inverted."""

    def __init__(self, folder: Path, device: str) -> None:
        self.data = ik.load_data(f"npz:{folder / 'cifar10_4600.npz'}")
        self.nets = {name: load(name, folder, device) for name in ("resnet20", "robust", "resnet44")}
        self.classes = self.nets["robust"].spec.classes

    def __call__(self, name: str, batches: Sequence[Tensor], labels: Tensor) -> dict[str, list[float]]:
        """Scores of the images of each seed."""
        other = "robust" if name == "resnet20" else "resnet20"
        judge = ik.Judge(
            target=self.nets[name],
            verifiers={"ResNet-44": self.nets["resnet44"], "the other net": self.nets[other]},
            real=self.data.test.images,
        )
        found = [judge(images, labels) for images in batches]
        return {c: [row[c] for row in found] for c in ("own", "ResNet-44", "the other net", "frechet", "tv")}


def cifar10(folder: Path, device: str) -> None:
    """A standard and a robust network under the same settings, judged by networks that took no part."""
    judge, labels, start = CifarJudge(folder, device), torch.arange(40) % 10, time.perf_counter()
    images: dict[str, Tensor] = {}
    found: dict[str, dict[str, list[float]]] = {}
    for setting, settings in CIFAR.items():
        for name in ("resnet20", "robust"):
            made = [invert(judge.nets[name], labels, settings, seed).images for seed in range(3)]
            row = f"{NAMES[name][0]}, {setting}"
            images[row], found[row] = made[0], judge(name, made, labels)
            print(row, found[row], flush=True)
    genuine = judge.data.heldout.per_class(12).images
    order = torch.arange(120).view(10, 3, 4).permute(1, 2, 0).reshape(3, 40)  # three samples, the classes in turn
    for name in ("resnet20", "robust"):
        found[f"real images, own is {NAMES[name][0]}"] = judge(name, [genuine[i] for i in order], labels)
    figure = show.image_rows(
        images,
        [judge.classes[int(y)] for y in labels[:10]],
        columns=10,
        numbers={row: f"{sum(found[row]['ResNet-44']) / 3:.0%}" for row in images},
        numbers_name="ResNet-44",
    )
    show.record(
        "plugin_inversion_cifar10",
        title="Plug-In Inversion of a standard and of an adversarially trained network for CIFAR-10",
        config=CIFAR,
        measured=table(found),
        command=f"{COMMAND} cifar10",
        seed=0,
        seconds=time.perf_counter() - start,
        device=device,
        figure=figure,
        note="40 images, four of each class; mean and standard deviation over three seeds (of real images: three "
        "samples, taken from the training set of all three networks). ResNet-44 and ResNet-20 are of one family and "
        "trained alike; the other net is the one of the two that was not inverted. The robust net takes only whole "
        "images, so patches are resized for both. Networks ran in bfloat16 autocast; scores are of images rounded to 8 "
        "bits. Fréchet distance in ResNet-44's features.",
        overwrite=True,
    )


def ablations(folder: Path, device: str) -> None:
    """The weight of total variation with and without ColorShift, and the size of the ensemble, on the robust net."""
    judge, labels, start = CifarJudge(folder, device), torch.arange(20) % 10, time.perf_counter()
    settings: dict[str, dict[str, Any]] = {
        f"{word} ColorShift, TV {tv:g}": SMALL | {"tv": tv, "color_shift": shift}
        for word, shift in (("with", True), ("without", False))
        for tv in (0.0, 0.01, 0.1, 1.0, 10.0)
    } | {f"ensemble of {e}, TV 0": SMALL | {"ensemble": e} for e in (1, 16)}
    found: dict[str, dict[str, list[float]]] = {}
    images: dict[str, Tensor] = {}
    for row, chosen in settings.items():
        made = [invert(judge.nets["robust"], labels, chosen, seed).images for seed in range(3)]
        images[row], found[row] = made[0], judge("robust", made, labels)
        print(row, found[row], flush=True)
    figure = show.image_rows(
        images,
        [judge.classes[int(y)] for y in labels[:6]],
        columns=6,
        scale=1.0,
        numbers={row: f"{sum(found[row]['ResNet-44']) / 3:.0%}" for row in images},
        numbers_name="ResNet-44",
    )
    show.record(
        "plugin_inversion_ablations",
        title="Plug-In Inversion of a robust network for CIFAR-10: total variation, ColorShift and the ensemble",
        config={"in all": SMALL}
        | {row: {k: v for k, v in c.items() if SMALL.get(k) != v} for row, c in settings.items()},
        measured=table(found),
        command=f"{COMMAND} ablations",
        seed=0,
        seconds=time.perf_counter() - start,
        device=device,
        figure=figure,
        note="20 images, two of each class, of which six are shown; mean and standard deviation over three seeds. The "
        "other net is ResNet-20. Without ColorShift all copies would be the same, so there is one; with it there are 4 "
        "unless said. Networks ran in bfloat16 autocast; scores are of images rounded to 8 bits. Fréchet distance in "
        "ResNet-44's features.",
        overwrite=True,
    )


def main() -> None:
    """Read the command line and run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("tinydarknet", "squeezenet", "deepinversion", "cifar10", "ablations"))
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    folder = Path(os.environ["INVKIT_DATA"])
    sys.path.insert(0, str(folder))
    if given.part in ("tinydarknet", "squeezenet"):
        imagenet(given.part, folder, given.device)
    else:
        parts = {"deepinversion": deepinversion, "cifar10": cifar10, "ablations": ablations}
        parts[given.part](folder, given.device)


if __name__ == "__main__":
    main()
