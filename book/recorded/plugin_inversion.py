"""Repeat the recorded runs of Plug-In Inversion on trained networks at their full input size.

    INVKIT_DATA=FOLDER python book/recorded/plugin_inversion.py imagenet --network tinydarknet
    INVKIT_DATA=FOLDER python book/recorded/plugin_inversion.py deepinversion
    INVKIT_DATA=FOLDER python book/recorded/plugin_inversion.py cifar10
    INVKIT_DATA=FOLDER python book/recorded/plugin_inversion.py ablations

The first inverts one of three networks for ImageNet with the same settings, judged by the others; the second goes on
with DeepInversion where Plug-In Inversion ended; the last two invert a standard and a robust network for CIFAR-10.

``FOLDER`` holds ``weights/``, ``imagenet_photos/``, ``cifar10_4600.npz`` and ``networks.py`` with the source of the
networks that are in neither torchvision nor the package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

import invkit as ik
from invkit import show
from invkit.book.recording import Run, command_line, recorded_run
from invkit.data.images import load_image, quantise
from invkit.metrics import (
    accuracy,
    central_share,
    low_frequency_share,
    probabilities,
    roughness,
    saliency,
    statistics_penalty,
)

TINYDARKNET, SQUEEZENET = "imagenet_tinydarknet", "imagenet_squeezenet1_0"
LITE0, LITE2 = "imagenet_efficientnet_lite0", "imagenet_efficientnet_lite2"
RESNET20, RESNET44, ROBUST = "cifar10_resnet20", "cifar10_resnet44", "cifar10_resnet4b_robust"
TITLES = {
    TINYDARKNET: "TinyDarknet", SQUEEZENET: "SqueezeNet", LITE0: "EfficientNet-Lite0", LITE2: "EfficientNet-Lite2",
    RESNET20: "ResNet-20", ROBUST: "robust net",
}  # fmt: skip
# Of each network that is inverted, those of other architectures; the two EfficientNets are one.
JUDGES = {
    "tinydarknet": (TINYDARKNET, (SQUEEZENET, LITE0, LITE2)),
    "squeezenet": (SQUEEZENET, (TINYDARKNET, LITE0, LITE2)),
    "efficientnet_lite0": (LITE0, (TINYDARKNET, SQUEEZENET)),
}
# Settings of a run that only shows that it runs.
TRIAL = {"steps": 1, "stages": 1, "ensemble": 1, "resize": "always", "bf16": False}
CLASSES = ("volcano", "Tibetan terrier", "jay", "daisy", "goldfish", "schooner")
SHOWN = 4  # classes in a picture

# Every row is a Plug-In Inversion: without stages, shifts and jitter it is cross-entropy on pixels.
ALONE: dict[str, Any] = {"stages": 1, "zoom": False, "centering": False, "color_shift": False, "jitter": 0}
# With a little total variation and a larger step, an eighth of the published steps.
SMOOTH: dict[str, Any] = {"ensemble": 2, "steps": 100, "lr": 0.03, "tv": 0.02}
IMAGENET: dict[str, dict[str, Any]] = {
    "cross-entropy + TV": ALONE | {"lr": 0.03, "tv": 0.02},
    "PII + TV, e = 1": {"lr": 0.03, "tv": 0.02, "ensemble": 1},
    "PII + TV, e = 4": {"lr": 0.03, "tv": 0.02, "ensemble": 4},
}
TAKEN_APART: dict[str, dict[str, Any]] = {
    "zoom alone, e = 1": {"lr": 0.03, "tv": 0.02, "ensemble": 1, "centering": False},
    "centering alone, e = 1": {"lr": 0.03, "tv": 0.02, "ensemble": 1, "zoom": False},
}
REFINED: dict[str, Any] = {
    "lr": 0.05, "schedule": "cosine", "patience": None, "betas": (0.5, 0.9), "jitter": 32, "wrap": True, "flip": 0.5,
    "cross_entropy": 10.0, "tv": 0.3, "l2": 0.0, "batch_norm": 1.0,
}  # fmt: skip
SMALL: dict[str, Any] = {"steps": 40, "lr": 0.02, "ensemble": 4, "jitter": 4, "resize": "always"}
CIFAR: dict[str, dict[str, Any]] = {"cross-entropy": ALONE | {"steps": 200, "lr": 0.03}, "PII": SMALL}
THEN: dict[str, Any] = {"steps": 150, "low_resolutions": ()}
AUGMENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "noise": v2.GaussianNoise(sigma=0.1),
    "blur": v2.GaussianBlur(5, (0.5, 1.5)),
    "rotation": v2.RandomAffine(20),
    "crop": v2.RandomAffine(0, scale=(1.0, 1.5)),
}


def invert(
    run: Run, target: ik.Target, labels: Tensor, settings: Mapping[str, Any], seed: int = 0, **options: Any
) -> Tensor:
    """Images by Plug-In Inversion with these settings instead of the published ones."""
    config = ik.PlugInConfig(**{**settings, **(TRIAL if run.quick else {})})
    return ik.plug_in_inversion(target, labels, config, generator=ik.seeded(seed), **options).images


@recorded_run(data=True, smoke={"classes": 2, "seeds": 1, "photographs": 2})
def imagenet(
    run: Run, *, network: str = "tinydarknet", classes: int = 4, steps: int = 50, seeds: int = 3,
    photographs: int = 143,
) -> None:  # fmt: skip
    """A network at 224 pixels under the same settings as the others, other classes for each seed; judged by others."""
    if network not in JUDGES:
        raise ValueError(f"network must be one of {', '.join(JUDGES)}, not {network!r}")
    file, others = JUDGES[network]
    target, judges = run.network(file), {TITLES[name]: run.network(name) for name in others}
    for name, judge in judges.items():
        if judge.spec.classes != target.spec.classes:
            raise ValueError(f"the classes of {name} are not in the order of those of {TITLES[file]}")
    settings = IMAGENET | (TAKEN_APART if network == "tinydarknet" else {})
    images: dict[str, Tensor] = {}
    names: list[str] = []
    for seed in range(seeds):
        drawn = drawn_classes(run, classes, seed)
        names += drawn
        labels = torch.tensor([target.spec.classes.index(name) for name in drawn])
        for row, changes in settings.items():
            start = run.seconds
            # Without stages, the steps of two.
            made = invert(run, target, labels, {"steps": steps * (2 if "stages" in changes else 1)} | changes, seed)
            minutes = (run.seconds - start) / 60
            run.row(row, at_full_size(made, labels, target, judges) | {"minutes": minutes})
            images.setdefault(row, made)
        noise = torch.rand(len(labels), *target.spec.shape, generator=ik.seeded(seed))
        run.row("pure noise", at_full_size(noise, labels, target, judges))
    real, truth = photos(run, target.spec.classes, photographs)
    run.row(f"{len(real)} photographs", at_full_size(real, truth, target, judges))
    run.record(
        f"plugin_inversion_{network}",
        title=f"Plug-In Inversion of {TITLES[file]} for ImageNet at 224 pixels, judged by {' and '.join(judges)}",
        config=settings | {"in all": {"classes": names, "steps": steps}},
        seeds=seeds,
        figure=sheet(run, images, names[:classes]),
        photographs=True,
        claims=("pii.universal", "pii.ensemble", "pii.centering", "pii.zoom", "pii.both"),
        note=f"One image of each of {classes} classes, other classes for each of the {seeds} seeds, drawn from those "
        "of the photographs; the picture is of the first seed, reduced. Settings not named are the published ones, "
        "and the same for all networks. Recognised: the mean of the judges, all of other architectures, after "
        "rounding to 8 bits; top-5 likewise. The photographs are one of each of their classes and may have been "
        "training images.",
    )


def drawn_classes(run: Run, count: int, seed: int) -> list[str]:
    """The classes of a seed: the next ones in an order drawn once from those that there is a photograph of."""
    files = sorted((run.data / "imagenet_photos").glob("*.jpg"))
    order = torch.randperm(len(files), generator=ik.seeded(0)).tolist()
    return [class_name(files[i]) for i in order[count * seed : count * (seed + 1)]]


def at_full_size(
    images: Tensor, labels: Tensor, target: ik.Target, judges: Mapping[str, ik.Target]
) -> dict[str, float]:
    """What the network and its judges read after rounding to 8 bits, and what the pixels are like."""
    images = quantise(images)
    rates = {
        name: accuracy(judge, ik.transforms.resize_images(images, judge.spec.size), labels, batch_size=16)
        for name, judge in judges.items()
    }
    parts = [saliency(target, *part) for part in zip(images.split(16), labels.split(16), strict=True)]
    return {
        "own": accuracy(target, images, labels, batch_size=16)["top1"],
        **{name: rate["top1"] for name, rate in rates.items()},
        "recognised": fmean(rate["top1"] for rate in rates.values()),
        "top-5": fmean(rate["top5"] for rate in rates.values()),
        "saliency in the middle": central_share(torch.cat(parts)),
        "low frequencies": low_frequency_share(images),
        "roughness": roughness(images),
    }


def sheet(run: Run, images: Mapping[str, Tensor], names: Sequence[str]) -> show.Canvas:
    """The images of the first seed, reduced to half their size."""
    size = [side // 2 for side in next(iter(images.values())).shape[-2:]]
    rows = {
        row: F.interpolate(made, size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
        for row, made in images.items()
    }
    numbers = {row: f"{run.mean(row, 'recognised'):.0%}" for row in images}
    shown = min(6, len(names))
    return show.image_rows(
        rows, names[:shown], columns=shown, pixelated=False, numbers=numbers, numbers_name="recognised"
    )


def photos(run: Run, classes: Sequence[str], count: int) -> tuple[Tensor, Tensor]:
    """The first photographs, the middle of each at 224 pixels, and their labels."""
    files = sorted((run.data / "imagenet_photos").glob("*.jpg"))[:count]
    labels = torch.tensor([classes.index(class_name(file)) for file in files])
    return torch.cat([load_image(file, size=(224, 224)) for file in files]), labels


def class_name(file: Path) -> str:
    """What a photograph's file is named for."""
    return file.stem.partition("_")[2].replace("_", " ")


def scores(images: Tensor, labels: Tensor, target: ik.Target, verifier: ik.Target) -> dict[str, float]:
    """Whether both networks know the class, after rounding to 8 bits, and what the pixels are like."""
    images = quantise(images)
    own, other = accuracy(target, images, labels), accuracy(verifier, images, labels)
    chance = probabilities(verifier, images)[torch.arange(len(labels)), labels]
    return {
        "own top-1": own["top1"],
        "verifier top-1": other["top1"],
        "verifier top-5": other["top5"],
        "verifier's probability": float(chance.mean()),
        "roughness": roughness(images),
    }


def picture(run: Run, images: Mapping[str, Tensor], verifier: str) -> show.Canvas:
    """The first images of each row, reduced, and what the verifier recognises."""
    return show.image_rows(
        {row: small(batch[:SHOWN]) for row, batch in images.items()},
        CLASSES[: min(SHOWN, *map(len, images.values()))],
        columns=SHOWN,
        scale=1.0,
        numbers={row: f"{run.mean(row, 'verifier top-1'):.0%}" for row in images},
        numbers_name=verifier,
    )


def small(images: Tensor) -> Tensor:
    """At most 96 pixels wide and 12 levels of each colour, for a picture of few bytes."""
    size = (96, 96) if images.shape[-1] > 96 else images.shape[-2:]
    smaller = F.interpolate(images, size=tuple(size), mode="bilinear", antialias=True, align_corners=False)
    return ((smaller * 11).round() / 11).clamp(0, 1)


@recorded_run(data=True, smoke={"steps": 1, "classes": 2, "photographs": 3})
def deepinversion(run: Run, *, steps: int = 250, classes: int = 6, photographs: int = 143) -> None:
    """DeepInversion from where Plug-In Inversion ended, and from noise, on the network with batch norms."""
    target, verifier = run.network(TINYDARKNET), run.network(SQUEEZENET)
    labels = torch.tensor([target.spec.classes.index(c) for c in CLASSES[:classes]])
    config = ik.DeepInversionConfig.for_profile("book", **REFINED | {"steps": steps, "bf16": not run.quick})
    images = {"PII": invert(run, target, labels, SMOOTH | {"bf16": True})}
    for row, init in {"DeepInversion": None, "PII, then DeepInversion": images["PII"]}.items():
        images[row] = ik.deep_inversion(target, labels, config, generator=ik.seeded(0), init=init).images
    for row, batch in images.items():
        run.row(row, with_statistics(target, verifier, batch, labels))
    real, truth = photos(run, target.spec.classes, photographs)
    sample = torch.linspace(0, len(real) - 1, len(labels)).long()
    run.row(f"{len(sample)} photographs", with_statistics(target, verifier, real[sample], truth[sample]))
    run.row(f"{len(real)} photographs", with_statistics(target, verifier, real, truth))
    run.record(
        "plugin_inversion_deepinversion",
        title="DeepInversion of TinyDarknet at 224 pixels, from noise and from where Plug-In Inversion ended",
        config={"PII": SMOOTH, "DeepInversion": config, "classes": CLASSES[:classes]},
        figure=picture(run, images, "SqueezeNet"),
        note=f"One image of each of {classes} classes in one batch, one seed: a step of {1 / classes:.1%}; "
        f"the first {SHOWN} are shown, reduced. The penalty is that of the batch, so compare it with as many "
        "photographs, which are of other classes and may have been training images. Means and standard deviations of "
        "the channels in units of the pixel range.",
    )


def with_statistics(target: ik.Target, verifier: ik.Target, images: Tensor, labels: Tensor) -> dict[str, float]:
    """The scores, the distance of the batch's statistics from the stored ones, and the colours."""
    images = quantise(images)
    penalty = {"penalty": statistics_penalty(target, images)}
    return scores(images, labels, target, verifier) | penalty | colours(images)


def colours(images: Tensor) -> dict[str, float]:
    """Mean of each channel, and the mean over images of its standard deviation within an image."""
    means, deviations = images.mean((0, 2, 3)), images.flatten(2).std(2).mean(0)
    columns: dict[str, float] = {}
    for name, mean, deviation in zip(("red", "green", "blue"), means.tolist(), deviations.tolist(), strict=True):
        columns |= {f"mean {name}": mean, f"sd {name}": deviation}
    return columns


class CifarJudge:
    """Judges an inverted CIFAR network by a standard ResNet-44, and by the other network that was inverted."""

    def __init__(self, run: Run, real: int) -> None:
        self.data = ik.load_data(f"npz:{run.data / 'cifar10_4600.npz'}")
        self.real = self.data.test.images[:real]
        self.networks = {name: run.network(name) for name in (RESNET20, ROBUST, RESNET44)}
        self.classes = self.networks[ROBUST].spec.classes
        self.noise = torch.rand(20, *self.networks[ROBUST].spec.shape, generator=ik.seeded(0))

    def __call__(self, name: str, images: Tensor, labels: Tensor) -> dict[str, float]:
        """Scores of the images of one seed."""
        other = ROBUST if name == RESNET20 else RESNET20
        judge = ik.Judge(
            target=self.networks[name],
            verifiers={"ResNet-44": self.networks[RESNET44], "the other net": self.networks[other]},
            real=self.real,
        )
        numbers = judge(images, labels)
        return {column: numbers[column] for column in ("own", "ResNet-44", "the other net", "frechet", "tv")}

    def compared(self, images: Tensor, start: Tensor) -> dict[str, float]:
        """Colours off those of real images, and likeness in ResNet-44's features to the image's start and to another.

        Likeness is the cosine of features less their mean over real images; the other start is of the same class.
        """
        images, network = quantise(images), self.networks[RESNET44]
        moments = [torch.cat(torch.std_mean(batch, (0, 2, 3))) for batch in (images, self.real)]
        with torch.no_grad():
            middle = network.features(self.real).mean(0)
            ours, theirs = (network.features(batch) - middle for batch in (images, quantise(start)))
        others = theirs.roll(len(self.classes), 0)  # the classes come in turn
        return {
            "colours off": float((moments[0] - moments[1]).norm()),
            "like own start": float(F.cosine_similarity(ours, theirs).mean()),
            "like other start": float(F.cosine_similarity(ours, others).mean()),
        }

    def real_images(self, seed: int) -> Tensor:
        """Twenty test images, the classes in turn; others for each of the first seeds."""
        of_class = [self.data.test.of_class(label).images for label in range(len(self.classes))]
        return torch.stack([images[2 * seed : 2 * seed + 2] for images in of_class], 1).flatten(0, 1)


@recorded_run(data=True, smoke={"seeds": 1, "real": 60})
def cifar10(run: Run, *, seeds: int = 5, real: int = 600) -> None:
    """A standard and a robust network under the same settings, judged by others; then DeepInversion of the first."""
    judge, labels = CifarJudge(run, real), torch.arange(20) % 10
    images: dict[str, Tensor] = {}
    starts: list[Tensor] = []

    def add(name: str, row: str, batch: Tensor, **more: float) -> None:
        run.row(row, judge(name, batch, labels) | more)
        images.setdefault(row, batch)

    for setting, settings in CIFAR.items():
        for name in (RESNET20, ROBUST):
            for seed in range(seeds):
                batch = invert(run, judge.networks[name], labels, settings, seed)
                start = name == RESNET20 and setting == "PII"
                add(name, f"{TITLES[name]}, {setting}", batch, **(judge.compared(batch, batch) if start else {}))
                starts += [batch] if start else []
    config = ik.DeepInversionConfig(**THEN | ({"steps": 1} if run.quick else {}))
    for seed, start in enumerate(starts):
        for row, init in {"DeepInversion": None, "PII, then DeepInversion": start}.items():
            generator = ik.seeded(seed)
            made = ik.deep_inversion(judge.networks[RESNET20], labels, config, generator=generator, init=init).images
            add(RESNET20, f"ResNet-20, {row}", made, **judge.compared(made, start))
    for name in (RESNET20, ROBUST):
        for seed in range(seeds):
            run.row(f"real images, own is {TITLES[name]}", judge(name, judge.real_images(seed), labels))
        run.row(f"pure noise, own is {TITLES[name]}", judge(name, judge.noise, labels))
    run.record(
        "plugin_inversion_cifar10",
        title="Plug-In Inversion of a standard and of an adversarially trained network for CIFAR-10",
        config=CIFAR | {"DeepInversion": config},
        seeds=seeds,
        figure=show.image_rows(
            images,
            [judge.classes[int(y)] for y in labels[:10]],
            columns=10,
            numbers={row: f"{run.mean(row, 'ResNet-44'):.0%}" for row in images},
            numbers_name="ResNet-44",
        ),
        claims=("pii.universal", "pii.then-di"),
        note=f"20 images, two of each class, for each of {seeds} seeds, and as many test images. ResNet-44 and "
        "ResNet-20 are of one family and trained alike; the other net is the one of the two that was not inverted. The "
        "robust net takes only whole images, so patches are resized for both. Scores are of images rounded to 8 bits. "
        "Fréchet distance in ResNet-44's features, and so the likeness (a cosine, less the mean of real images) to the "
        "image that DeepInversion started from, and to the other start of its class.",
    )


@recorded_run(data=True, smoke={"seeds": 1, "real": 60})
def ablations(run: Run, *, seeds: int = 5, real: int = 600) -> None:
    """The recipe taken apart on the robust network: stages, total variation, ColorShift, others, the ensemble."""
    judge, labels = CifarJudge(run, real), torch.arange(20) % 10
    target = judge.networks[ROBUST]
    settings: dict[str, dict[str, Any]] = {}
    for word, shift in (("with", True), ("without", False)):
        for tv in (0.0, 0.1, 1.0, 10.0):
            settings[f"{word} ColorShift, TV {tv:g}"] = {"tv": tv, "color_shift": shift}
    settings |= {f"ensemble of {ensemble}": {"ensemble": ensemble} for ensemble in (1, 2, 16)}
    settings |= {
        "neither": {"zoom": False, "centering": False},
        "zoom alone": {"centering": False},
        "centering alone": {"zoom": False},
    }
    views = {name: ik.transforms.RandomViews(transform) for name, transform in AUGMENTATIONS.items()}
    images: dict[str, Tensor] = {}
    for row in (*settings, *views):
        for seed in range(seeds):
            changes = SMALL | settings.get(row, {})
            batch = invert(run, target, labels, changes, seed, views=views.get(row))
            images.setdefault(row, batch)
            pixels = {
                "saliency in the middle": central_share(saliency(target, batch, labels)),
                "low frequencies": low_frequency_share(batch),
            }
            run.row(row, judge(ROBUST, batch, labels) | pixels)
    run.row("pure noise", judge(ROBUST, judge.noise, labels))
    run.record(
        "plugin_inversion_ablations",
        title="Plug-In Inversion of a robust network for CIFAR-10, taken apart",
        config={"in all": SMALL} | settings | {name: repr(view) for name, view in views.items()},
        seeds=seeds,
        figure=show.image_rows(
            images,
            [judge.classes[int(y)] for y in labels[:8]],
            columns=8,
            scale=1.0,
            numbers={row: f"{run.mean(row, 'ResNet-44'):.0%}" for row in images},
            numbers_name="ResNet-44",
        ),
        claims=(
            "pii.centering", "pii.zoom", "pii.both", "pii.colorshift-stable", "pii.ensemble", "pii.colorshift-best",
        ),
        note=f"20 images, two of each class, for each of {seeds} seeds; eight are shown. The other net is ResNet-20. "
        "Without ColorShift all copies would be the same, so there is one; with it, and with another augmentation in "
        "its place, there are 4 unless said. Scores are of images rounded to 8 bits. Fréchet distance in ResNet-44's "
        "features.",
    )  # fmt: skip


if __name__ == "__main__":
    command_line(imagenet, deepinversion, cifar10, ablations)
