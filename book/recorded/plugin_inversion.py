"""Repeat the recorded runs of Plug-In Inversion on trained networks at their full input size.

    INVKIT_DATA=FOLDER python book/recorded/plugin_inversion.py tinydarknet
    INVKIT_DATA=FOLDER python book/recorded/plugin_inversion.py squeezenet
    INVKIT_DATA=FOLDER python book/recorded/plugin_inversion.py deepinversion
    INVKIT_DATA=FOLDER python book/recorded/plugin_inversion.py imagenet
    INVKIT_DATA=FOLDER python book/recorded/plugin_inversion.py imagenet_ensemble
    INVKIT_DATA=FOLDER python book/recorded/plugin_inversion.py cifar10
    INVKIT_DATA=FOLDER python book/recorded/plugin_inversion.py ablations

The first two invert two ImageNet networks with the same settings, each judged by the other; the third goes on with
DeepInversion where Plug-In Inversion ended; the fourth inverts three ImageNet networks by seed, one of them
without zoom or centering; the fifth one of them with ensembles of one to sixteen; the last two invert a standard and a
robust network for CIFAR-10.

``FOLDER`` holds ``weights/``, ``imagenet_photos/``, ``cifar10_4600.npz`` and ``networks.py`` with the source of the
networks that are in neither torchvision nor the package.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
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
    in_batches,
    low_frequency_share,
    probabilities,
    roughness,
    saliency,
    statistics_penalty,
)
from invkit.transforms import RandomViews, resize_images

TINYDARKNET, SQUEEZENET = "imagenet_tinydarknet", "imagenet_squeezenet1_0"
LITE0, LITE2 = "imagenet_efficientnet_lite0", "imagenet_efficientnet_lite2"
RESNET20, RESNET44, ROBUST = "cifar10_resnet20", "cifar10_resnet44", "cifar10_resnet4b_robust"
TITLES = {
    TINYDARKNET: "Tiny Darknet", SQUEEZENET: "SqueezeNet", LITE0: "EfficientNet-Lite0", LITE2: "EfficientNet-Lite2",
    RESNET20: "ResNet-20", ROBUST: "robust net",
}  # fmt: skip
# Settings of a run that only shows that it runs.
TRIAL = {"steps": 1, "stages": 1, "ensemble": 1, "resize": "always", "bf16": False}
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
    "lr": 0.05, "schedule": "cosine", "patience": None, "betas": (0.5, 0.9), "jitter": 32, "wrap": True, "flip": 0.5,
    "cross_entropy": 10.0, "tv": 0.3, "l2": 0.0, "batch_norm": 1.0,
}  # fmt: skip
EIGHT = (*CLASSES, "zebra", "lemon")
TWENTY = (
    *EIGHT, "tree frog", "hummingbird", "tusker", "giant panda", "acoustic guitar", "basketball", "pirate", "sombrero",
    "spider web", "strawberry", "traffic light", "teddy",
)  # fmt: skip
STAGES: dict[str, dict[str, Any]] = {
    "both": {}, "zoom alone": {"centering": False}, "centering alone": {"zoom": False},
    "neither": {"zoom": False, "centering": False},
}  # fmt: skip
SMALL: dict[str, Any] = {"steps": 50, "lr": 0.02, "ensemble": 4, "jitter": 4, "resize": "always"}
CIFAR: dict[str, dict[str, Any]] = {"cross-entropy": ALONE | {"steps": 200, "lr": 0.03}, "PII": SMALL}


def invert(
    run: Run, target: ik.Target, labels: Tensor, settings: Mapping[str, Any], seed: int = 0, views: Any = None
) -> Tensor:
    """Images by Plug-In Inversion with these settings instead of the published ones."""
    config = ik.PlugInConfig(**{"bf16": True, **settings, **(TRIAL if run.quick else {})})
    return ik.plug_in_inversion(target, labels, config, generator=ik.seeded(seed), views=views).images


@recorded_run(data=True, smoke={"classes": 2, "photographs": 2})
def tinydarknet(run: Run, *, classes: int = 6, photographs: int = 143) -> None:
    """Tiny Darknet under all settings, judged by SqueezeNet."""
    settings_on(run, TINYDARKNET, SQUEEZENET, classes, photographs)


@recorded_run(data=True, smoke={"classes": 2, "photographs": 2})
def squeezenet(run: Run, *, classes: int = 6, photographs: int = 143) -> None:
    """SqueezeNet under all settings, judged by Tiny Darknet."""
    settings_on(run, SQUEEZENET, TINYDARKNET, classes, photographs)


def settings_on(run: Run, name: str, judge: str, count: int, photographs: int) -> None:
    """One network under all settings, judged by the other."""
    target, verifier = run.network(name), run.network(judge)
    if target.spec.classes != verifier.spec.classes:
        raise ValueError("the networks' classes are not in the same order")
    classes = CLASSES[:count]
    labels = torch.tensor([target.spec.classes.index(c) for c in classes])
    images: dict[str, Tensor] = {}
    for row, settings in IMAGENET.items():
        start = run.seconds
        images[row] = invert(run, target, labels, settings)
        run.row(row, scores(images[row], labels, target, verifier) | {"minutes": (run.seconds - start) / 60})
    real, truth = photos(run, target.spec.classes, photographs)
    run.row(f"{len(real)} photographs", scores(real, truth, target, verifier))
    run.record(
        f"plugin_inversion_{TITLES[name].lower().replace(' ', '')}",
        title=f"Plug-In Inversion of {TITLES[name]} for ImageNet at 224 pixels, judged by {TITLES[judge]}",
        config=IMAGENET | {"in all": {"bf16": True, "classes": classes}},
        figure=picture(run, images, "verifier"),
        note=f"One image of each of {len(classes)} classes, one seed, so a step of {1 / len(classes):.1%}; the first "
        f"{SHOWN} are shown, reduced. Settings not named are the published ones, and the same for both networks. "
        "Networks ran in bfloat16 autocast; scores are of images rounded to 8 bits, in float32. "
        "The photographs may have been training images.",
    )


def photos(run: Run, classes: Sequence[str], count: int) -> tuple[Tensor, Tensor]:
    """The first photographs, the middle of each at 224 pixels, and their labels."""
    files = sorted((run.data / "imagenet_photos").glob("*.jpg"))[:count]
    names = [file.stem.partition("_")[2].replace("_", " ") for file in files]
    labels = torch.tensor([classes.index(name) for name in names])
    return torch.cat([load_image(file, size=(224, 224)) for file in files]), labels


def scores(images: Tensor, labels: Tensor, target: ik.Target, verifier: ik.Target) -> dict[str, float]:
    """Whether both networks know the class, after rounding to 8 bits, and what the pixels are like."""
    images = quantise(images)
    seen = resize_images(images, verifier.spec.shape[1:])
    own, other = accuracy(target, images, labels), accuracy(verifier, seen, labels)
    chance = probabilities(verifier, seen)[torch.arange(len(labels)), labels]
    return {
        "own top-1": own["top1"],
        "verifier top-1": other["top1"],
        "verifier top-5": other["top5"],
        "verifier's probability": float(chance.mean()),
        "roughness": roughness(images),
    }


def picture(run: Run, images: Mapping[str, Tensor], verifier: str, classes: Sequence[str] = CLASSES) -> show.Canvas:
    """The first images of each row, reduced, and what the verifier recognises."""
    return show.image_rows(
        {row: small(batch[:SHOWN]) for row, batch in images.items()},
        classes[: min(SHOWN, *map(len, images.values()))],
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


@recorded_run(data=True, smoke={"seeds": 1, "classes": 2, "photographs": 3})
def imagenet(run: Run, *, seeds: int = 3, classes: int = 20, photographs: int = 143) -> None:
    """Three networks under one setting, one of them without zoom or centering, all judged by EfficientNet-Lite2."""
    verifier = run.network(LITE2)
    real, truth = photos(run, verifier.spec.classes, photographs)
    images: dict[str, Tensor] = {}
    rows = {f"{TITLES[TINYDARKNET]}, {name}": (TINYDARKNET, changes) for name, changes in STAGES.items()}
    rows |= {TITLES[name]: (name, {}) for name in (SQUEEZENET, LITE0)}
    for row, (name, changes) in rows.items():
        target = run.network(name)
        labels = torch.tensor([target.spec.classes.index(c) for c in TWENTY[:classes]])
        for seed in range(seeds):
            start = run.seconds
            settings = SMOOTH | changes
            made = run.kept(
                "imagenet",
                settings | {"network": target.fingerprint(), "classes": labels.tolist(), "seed": seed},
                functools.partial(invert, run, target, labels, settings, seed),
            )
            images.setdefault(row, made)
            run.row(row, with_content(target, verifier, made, labels) | {"minutes": (run.seconds - start) / 60})
    target = run.network(TINYDARKNET)
    run.row(f"{len(real)} photographs", with_content(target, verifier, real, truth))
    noise = torch.rand(real.shape, generator=ik.seeded(0))
    run.row("noise", with_content(target, verifier, noise, truth))
    run.record(
        "plugin_inversion_imagenet",
        title="Plug-In Inversion of three ImageNet networks at 224 pixels under one setting, by seed",
        config=STAGES | {"in all": SMOOTH | {"bf16": True, "classes": TWENTY[:classes]}},
        seeds=seeds,
        claims=("pii.universal", "pii.zoom", "pii.both", "pii.centering"),
        figure=picture(run, images, "Lite2", TWENTY),
        note=f"One image of each of {classes} classes and seed, so a step of {1 / classes:.1%}; the first {SHOWN} are "
        "shown, reduced. One setting for all networks. The judge is EfficientNet-Lite2, a larger relative of Lite0 and "
        "none of the others; photographs, which may have been training images, and noise are judged by it as well. The "
        "middle is the middle quarter of the area; coarse are periods of 32 pixels or more. Networks ran in bfloat16 "
        "autocast; scores are of images rounded to 8 bits, in float32.",
    )


@recorded_run(data=True, smoke={"seeds": 1, "classes": 2})
def imagenet_ensemble(run: Run, *, seeds: int = 3, classes: int = 4, steps: int = 50) -> None:
    """One network with ensembles of one to sixteen copies, judged by two networks that took no part."""
    target, verifier, other = run.network(LITE0), run.network(LITE2), run.network(SQUEEZENET)
    labels = torch.tensor([target.spec.classes.index(c) for c in EIGHT[:classes]])
    images: dict[str, Tensor] = {}
    for seed in range(seeds):
        for ensemble in (1, 2, 4, 16):
            row, start = f"ensemble of {ensemble}", run.seconds
            made = invert(run, target, labels, SMOOTH | {"steps": steps, "ensemble": ensemble}, seed)
            images.setdefault(row, made)
            columns = scores(made, labels, target, verifier)
            columns["SqueezeNet top-5"] = scores(made, labels, target, other)["verifier top-5"]
            run.row(row, columns | {"minutes": (run.seconds - start) / 60})
    run.record(
        "plugin_inversion_imagenet_ensemble",
        title="Plug-In Inversion of EfficientNet-Lite0 at 224 pixels by the size of the ensemble, by seed",
        config=SMOOTH | {"steps": steps, "ensemble": (1, 2, 4, 16), "bf16": True, "classes": EIGHT[:classes]},
        seeds=seeds,
        claims=("pii.ensemble",),
        figure=picture(run, images, "Lite2", EIGHT),
        note=f"One image of each of {classes} classes and seed, so a step of {1 / classes:.0%}; reduced. As many steps "
        "for each size. The verifier is EfficientNet-Lite2, a larger relative of the network that is inverted, and "
        "SqueezeNet none. Networks ran in bfloat16 autocast; scores are of images rounded to 8 bits, in float32.",
    )


def with_content(target: ik.Target, verifier: ik.Target, images: Tensor, labels: Tensor) -> dict[str, float]:
    """The scores, where the target looks, and how coarse the images are."""
    names = ("own top-1", "verifier top-1", "verifier top-5", "roughness")
    all_scores, saved = scores(images, labels, target, verifier), quantise(images)
    return {name: all_scores[name] for name in names} | {
        "centre crops": accuracy(verifier, centre_crop(saved, verifier.spec.shape[1:]), labels)["top1"],
        "saliency in the middle": central_share(saliency(target, saved, labels)),
        "coarse structure": low_frequency_share(saved, cutoff=1 / 16),
    }


def centre_crop(images: Tensor, size: Sequence[int]) -> Tensor:
    """The middle three quarters of each side, at the size of the network that is to see it."""
    height, width = images.shape[-2:]
    middle = images[..., height // 8 : height - height // 8, width // 8 : width - width // 8]
    return resize_images(middle, size)


@recorded_run(data=True, smoke={"steps": 1, "classes": 2, "photographs": 3, "seeds": 2})
def deepinversion(run: Run, *, steps: int = 250, classes: int = 6, photographs: int = 143, seeds: int = 3) -> None:
    """DeepInversion from where Plug-In Inversion ended, and from noise, on the network with batch norms."""
    target, verifier = run.network(TINYDARKNET), run.network(SQUEEZENET)
    labels = torch.tensor([target.spec.classes.index(c) for c in CLASSES[:classes]])
    config = ik.DeepInversionConfig.for_profile("book", **REFINED | {"steps": steps, "bf16": not run.quick})
    real, truth = photos(run, target.spec.classes, photographs)
    starts = [invert(run, target, labels, SMOOTH, seed) for seed in range(seeds)]
    shown: dict[str, Tensor] = {}
    for seed, start in enumerate(starts):
        images = {"PII": start}
        for row, init in {"DeepInversion": None, "PII, then DeepInversion": start}.items():
            images[row] = ik.deep_inversion(target, labels, config, generator=ik.seeded(seed), init=init).images
        for row, batch in images.items():
            likeness = alike(verifier, batch, start, [other for other in starts if other is not start], real)
            run.row(row, with_statistics(target, verifier, batch, labels) | likeness)
            shown.setdefault(row, batch)
    sample = torch.linspace(0, len(real) - 1, len(labels)).long()
    run.row(f"{len(sample)} photographs", with_statistics(target, verifier, real[sample], truth[sample]))
    run.row(f"{len(real)} photographs", with_statistics(target, verifier, real, truth))
    run.record(
        "plugin_inversion_deepinversion",
        title="DeepInversion of Tiny Darknet at 224 pixels, from noise and from where Plug-In Inversion ended",
        config={"PII": SMOOTH, "DeepInversion": config, "classes": CLASSES[:classes]},
        seeds=seeds,
        claims=("pii.then-di",),
        figure=picture(run, shown, "SqueezeNet"),
        note=f"One image of each of {classes} classes in one batch and seed; the seed changes the noise that both "
        f"methods begin from, of one network. The first {SHOWN} of the first seed are shown, reduced. The penalty is "
        "that of the batch, so compare it with as many photographs, which are of other classes and may have been "
        "training images. Like own start: cosine of SqueezeNet's features, less their mean over the photographs, with "
        "those of the image that the seed began from; like other start: with those of the same class that the other "
        "seeds began from. Means and standard deviations of the channels in units of the pixel range.",
    )


def alike(
    verifier: ik.Target, images: Tensor, start: Tensor, others: Sequence[Tensor], photographs: Tensor
) -> dict[str, float]:  # fmt: skip
    """Cosine of the verifier's features with those of the images' own starts, and of other starts of their class."""

    def features(batch: Tensor) -> Tensor:
        return in_batches(verifier.features, resize_images(quantise(batch), verifier.spec.shape[1:]), batch_size=16)

    middle = features(photographs).mean(0)
    ours = features(images) - middle
    own, *rest = (F.cosine_similarity(ours, features(batch) - middle).mean() for batch in (start, *others))
    return {"like own start": float(own), "like other start": float(torch.stack(rest).mean())}


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


@recorded_run(data=True, smoke={"seeds": 1, "real": 60})
def cifar10(run: Run, *, seeds: int = 3, real: int = 600) -> None:
    """A standard and a robust network under the same settings, judged by networks that took no part."""
    judge, labels = CifarJudge(run, real), torch.arange(40) % 10
    images: dict[str, Tensor] = {}
    for setting, settings in CIFAR.items():
        for name in (RESNET20, ROBUST):
            row = f"{TITLES[name]}, {setting}"
            for seed in range(seeds):
                batch = invert(run, judge.networks[name], labels, settings, seed)
                images.setdefault(row, batch)
                run.row(row, judge(name, batch, labels))
    genuine = judge.data.heldout.per_class(12).images
    order = torch.arange(120).view(10, 3, 4).permute(1, 2, 0).reshape(3, 40)  # three samples, the classes in turn
    for name in (RESNET20, ROBUST):
        for sample in order:
            run.row(f"real images, own is {TITLES[name]}", judge(name, genuine[sample], labels))
    run.record(
        "plugin_inversion_cifar10",
        title="Plug-In Inversion of a standard and of an adversarially trained network for CIFAR-10",
        config=CIFAR,
        seeds=seeds,
        figure=show.image_rows(
            images,
            [judge.classes[int(y)] for y in labels[:10]],
            columns=10,
            numbers={row: f"{run.mean(row, 'ResNet-44'):.0%}" for row in images},
            numbers_name="ResNet-44",
        ),
        note=f"40 images, four of each class; {seeds} seeds (of real images: three "
        "samples, taken from the training set of all three networks). ResNet-44 and ResNet-20 are of one family and "
        "trained alike; the other net is the one of the two that was not inverted. The robust net takes only whole "
        "images, so patches are resized for both. Networks ran in bfloat16 autocast; scores are of images rounded to 8 "
        "bits. Fréchet distance in ResNet-44's features.",
    )


AUGMENTATIONS = {
    "noise": v2.GaussianNoise(sigma=0.1),
    "blur": v2.GaussianBlur(3, (0.3, 1.0)),
    "rotation": v2.RandomAffine(20),
    "crop": v2.RandomAffine(0, scale=(1.0, 1.5)),
}
WEIGHTS = (0.0, 0.01, 0.1, 1.0)  # of the total variation


@recorded_run(data=True, smoke={"seeds": 1, "real": 60})
def ablations(run: Run, *, seeds: int = 3, real: int = 600) -> None:
    """Total variation with and without ColorShift, the size of the ensemble, other augmentations; on the robust net."""
    judge, labels = CifarJudge(run, real), torch.arange(40) % 10
    rows: dict[str, tuple[dict[str, Any], Any]] = {}
    for word, shift in (("with", True), ("without", False)):
        for tv in WEIGHTS:
            rows[f"{word} ColorShift, TV {tv:g}"] = ({"tv": tv, "color_shift": shift}, None)
    for ensemble in (1, 2, 16):
        rows[f"ensemble of {ensemble}, TV 0"] = ({"ensemble": ensemble}, None)
    for name, augmentation in AUGMENTATIONS.items():
        rows[f"{name}, TV 0"] = ({}, RandomViews(augmentation))
    images: dict[str, Tensor] = {}
    for row, (changes, views) in rows.items():
        for seed in range(seeds):
            made = invert(run, judge.networks[ROBUST], labels, SMALL | changes, seed, views)
            images.setdefault(row, made)
            run.row(row, judge(ROBUST, made, labels))
    run.record(
        "plugin_inversion_ablations",
        title="Plug-In Inversion of a robust network for CIFAR-10: ColorShift, total variation, ensemble, by seed",
        config={"in all": SMALL} | {row: changes for row, (changes, _) in rows.items()},
        seeds=seeds,
        claims=("pii.colorshift-stable", "pii.colorshift-best", "pii.ensemble"),
        figure=show.image_rows(
            images,
            [judge.classes[int(y)] for y in labels[:6]],
            columns=6,
            scale=1.5,
            numbers={row: f"{run.mean(row, 'ResNet-44'):.0%}" for row in images},
            numbers_name="ResNet-44",
        ),
        note=f"{len(labels)} images of each seed, six shown. The other net is ResNet-20. Without ColorShift "
        "all copies would be the same, so there is one; with it, and with what stands in its place, there are 4 unless "
        "said. Networks ran in bfloat16 autocast; scores are of images rounded to 8 bits. Fréchet distance in "
        "ResNet-44's features.",
    )


if __name__ == "__main__":
    command_line(tinydarknet, squeezenet, imagenet, imagenet_ensemble, deepinversion, cifar10, ablations)
