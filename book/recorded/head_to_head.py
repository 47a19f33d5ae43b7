"""Repeat the recorded runs of chapter 11: every method on networks for CIFAR-10 and ImageNet, at equal processor time.

    INVKIT_DATA=FOLDER python book/recorded/head_to_head.py labels
    INVKIT_DATA=FOLDER python book/recorded/head_to_head.py features
    INVKIT_DATA=FOLDER python book/recorded/head_to_head.py imagenet

The first two invert a ResNet-20 for CIFAR-10, the third EfficientNet-Lite0 at 224 pixels. ``FOLDER`` holds
``cifar10_4600.npz``, ``imagenet_photos/``, ``weights/`` and ``networks.py``, as for ``one_setting.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import invkit as ik
from invkit import metrics, show
from invkit.book.recording import Run, command_line, recorded_run
from invkit.data.images import load_image, quantise
from invkit.methods import layer_features
from invkit.metrics import accuracy, roughness
from invkit.report import Contestant, feature_contestants, label_contestants
from invkit.transforms import resize_images

LAYER = "layer2.2"
COLUMNS = ("own", "ResNet-44", "robust net", "frechet", "diversity", "tv")


def opened(run: Run) -> tuple[ik.DataSet, ik.Target, dict[str, ik.Target]]:
    """The images, the network that is inverted, and the judges."""
    data = ik.load_data(f"npz:{run.data / 'cifar10_4600.npz'}")
    judges = {"ResNet-44": run.network("cifar10_resnet44"), "robust net": run.network("cifar10_resnet4b_robust")}
    return data, run.network("cifar10_resnet20"), judges


def timed(contestants: Mapping[str, Contestant], references: Any, seconds: float, quick: bool) -> dict[str, int]:
    """Steps of each method within the time."""
    return {n: 2 if quick else c.steps_within(seconds, references) for n, c in contestants.items()}


@recorded_run(data=True, smoke={"seconds": 0.1, "seeds": 1, "each": 2, "real": 20})
def labels(run: Run, *, seconds: float = 30.0, seeds: int = 3, each: int = 2, real: int = 600) -> None:
    """Images of all classes by every method, judged by two networks that took no part."""
    data, target, judges = opened(run)
    judge = ik.Judge(target=target, verifiers=judges, real=data.test.images[:real])
    classes = torch.arange(10 * each) % 10
    train = data.train.images[:100]
    shown: dict[str, Tensor] = {}

    def add(row: str, images: Tensor, **more: float) -> None:
        scores = judge(images, classes)
        nearest = float(metrics.similarities(images, train).amax(1).mean())
        shown.setdefault(row, images[:10])
        run.row(row, {column: scores[column] for column in COLUMNS} | {"nearest training image": nearest} | more)

    contestants = label_contestants(target)
    steps = timed(contestants, classes, seconds, run.quick)
    for name, contestant in contestants.items():
        memory = contestant.memory(classes)
        for seed in range(seeds):
            images = contestant.run(classes, steps[name], ik.seeded(seed))
            add(name, images, **{"steps": steps[name]} | ({} if math.isnan(memory) else {"MiB a step": memory}))
    for seed in range(seeds):
        order = torch.randperm(len(data.heldout), generator=ik.seeded(seed))
        chosen = [order[data.heldout.labels[order] == k][:each] for k in range(10)]
        add("real images", data.heldout.images[torch.stack(chosen).T.flatten()])
        add("noise", torch.rand(len(classes), *target.spec.shape, generator=ik.seeded(seed)))
    means = torch.stack([data.train.of_class(k).images.mean(0) for k in range(10)])
    for _ in range(seeds):
        add("class mean", means[classes])
    run.record(
        "head_to_head_labels",
        title=f"From labels to images: every method on a ResNet-20 for CIFAR-10, {seconds:.0f} processor seconds each",
        config={"steps": steps, "needs": {name: contestant.needs for name, contestant in contestants.items()}},
        seeds=seeds,
        figure=show.image_rows(
            shown, [target.spec.classes[int(y)] for y in classes[:10]], columns=10,
            numbers={row: f"{run.mean(row, 'ResNet-44'):.0%}" for row in shown}, numbers_name="ResNet-44",
        ),
        note=f"{len(classes)} images, {each} of each class, {seeds} seeds; one thread. Steps are those that fit into "
        "the time, training of generators included, but DeepInversion's stop at 400, since more gain nothing. Shares "
        "of images that the inverted network itself (own) and two others read as the class asked for; Fréchet distance "
        f"to {real} test images in ResNet-44's features; nearest training image by SSIM, of 100.",
    )  # fmt: skip


@recorded_run(data=True, smoke={"seconds": 0.1, "seeds": 1, "test": 10, "train": 12})
def features(run: Run, *, seconds: float = 90.0, seeds: int = 3, test: int = 60, train: int = 2000) -> None:
    """Test images from the features of a residual block in the middle, by every method."""
    data, target, judges = opened(run)
    split = data.test.per_class(test // 10)
    known = data.train[torch.randperm(len(data.train), generator=ik.seeded(0))[:train]]
    judge = ik.PairJudge(real=split.images, labels=split.labels, verifiers=judges)
    sought = layer_features(target, split.images, LAYER)
    contestants = feature_contestants(target, LAYER, known.images)
    steps = timed(contestants, sought, seconds, run.quick)
    first = torch.arange(10) * (test // 10)
    shown = {"test images": split.images[first]}
    for name, contestant in contestants.items():
        for seed in range(seeds):
            images = contestant.run(sought, steps[name], ik.seeded(seed))
            shown.setdefault(name, images[first])
            run.row(name, judge(images) | {"steps": steps[name]})
    trivial = metrics.baselines(
        split.images, split.labels, data.train.images, data.train.labels,
        features=lambda x: layer_features(target, x, LAYER),
    )  # fmt: skip
    for name, images in trivial.items():
        run.row(name, judge(images))
    shown["nearest in features"] = trivial["nearest in features"][first]
    run.record(
        "head_to_head_features",
        title=f"From features to images: every method at {LAYER} of a ResNet-20 for CIFAR-10, {seconds:.0f} processor "
        "seconds each",
        config={"steps": steps, "layer": LAYER, "training images": train},
        seeds=seeds,
        figure=show.image_rows(
            shown, [target.spec.classes[int(y)] for y in split.labels[first]], columns=10,
            numbers={row: f"{run.mean(row, 'psnr'):.1f} dB" for row in shown if row in run.measured},
            numbers_name="PSNR",
        ),
        note=f"{test} test images, {seeds} seeds; one thread. Inverses learn from {train:,} real training images "
        "within the time; the others change the pixels of all test images together. PSNR with its deviation over "
        "images, distance in ResNet-44's features in units of that between two real images. The trivial answers run no "
        "network backwards.",
    )  # fmt: skip


CLASSES = (
    "daisy", "goldfish", "volcano", "zebra", "lemon", "Tibetan terrier", "jay", "schooner", "pizza", "flamingo",
)  # fmt: skip
JUDGES = {
    "Lite2": "imagenet_efficientnet_lite2", "SqueezeNet": "imagenet_squeezenet1_0",
    "Tiny Darknet": "imagenet_tinydarknet",
}  # fmt: skip


@recorded_run(data=True, smoke={"seconds": 0.1, "seeds": 1, "classes": 2, "photographs": 3})
def imagenet(
    run: Run, *, seconds: float = 180.0, seeds: int = 3, classes: int = 10, photographs: int = 143
) -> None:  # fmt: skip
    """Ten classes of ImageNet by every method that needs no training, judged by three networks that took no part."""
    target = run.network("imagenet_efficientnet_lite0")
    judges = {"Lite0": target} | {title: run.network(file) for title, file in JUDGES.items()}
    names = target.spec.classes
    wanted = torch.tensor([names.index(name) for name in CLASSES[:classes]])
    shown: dict[str, Tensor] = {}

    def add(row: str, images: Tensor, truth: Tensor, **more: float) -> None:
        columns = {"own": read(judges["Lite0"], images, truth)["top1"]}
        for title in JUDGES:
            rates = read(judges[title], images, truth)
            columns |= {title: rates["top1"], f"{title} top-5": rates["top5"]}
        run.row(row, columns | {"roughness": roughness(images)} | more)

    contestants = label_contestants(target)
    steps = timed(contestants, wanted, seconds, run.quick)
    for name, contestant in contestants.items():
        memory = contestant.memory(wanted)
        for seed in range(seeds):
            images = quantise(contestant.run(wanted, steps[name], ik.seeded(seed)))
            shown.setdefault(name, resize_images(images, (112, 112)))
            add(name, images, wanted, **{"steps": steps[name], "MiB a step": memory})
    files = sorted((run.data / "imagenet_photos").glob("*.jpg"))[:photographs]
    truth = torch.tensor([names.index(file.stem.partition("_")[2].replace("_", " ")) for file in files])
    add("photographs", torch.cat([load_image(file, size=target.spec.size) for file in files]), truth)
    for seed in range(seeds):
        add("noise", torch.rand(len(wanted), *target.spec.shape, generator=ik.seeded(seed)), wanted)
    run.record(
        "head_to_head_imagenet",
        title=f"From labels to images at 224 pixels: EfficientNet-Lite0, {seconds:.0f} processor seconds each",
        config={"steps": steps, "needs": {name: contestant.needs for name, contestant in contestants.items()}},
        seeds=seeds,
        photographs=True,
        figure=show.image_rows(
            shown, [names[int(y)] for y in wanted], columns=len(wanted),
            numbers={row: f"{run.mean(row, 'SqueezeNet'):.0%}" for row in shown}, numbers_name="SqueezeNet",
        ),
        note=f"One image of each of {len(wanted)} classes for each of {seeds} seeds; one thread. Steps are those that "
        "fit into the time, so that DeepInversion is cut short of its 400. Shares of images that the inverted network "
        "itself (own) and three others read as the class asked for, each at its own size; Lite2 is a larger relative, "
        "the other two are not. Photographs are of other classes and may have been training images. A generator for "
        "1,000 classes of this size does not begin to learn in the time: Network Inversion and Reconstruction are left "
        "out. Shown at half size.",
    )  # fmt: skip


def read(network: ik.Target, images: Tensor, truth: Tensor) -> dict[str, float]:
    """Top-1 and top-5 of a network that sees the images at its own size."""
    return accuracy(network, resize_images(images, network.spec.size), truth, batch_size=16)


if __name__ == "__main__":
    command_line(labels, features, imagenet)
