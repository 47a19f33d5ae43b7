"""Repeat the recorded run on the garbage class: MNIST against CIFAR-10 in grey, and the other way round.

    INVKIT_DATA=FOLDER python book/recorded/mnist_ood.py

``FOLDER`` holds ``mnist.npz`` and ``cifar10_4600.npz`` (4,000 training and 600 test images).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.book.recording import Run, command_line, recorded_run
from invkit.data.datasets import channel_statistics
from invkit.metrics import auroc, compare_scores, fpr_at_tpr, in_batches
from invkit.networks.classifiers import build

SIZE = 28
SOURCES = {"noise only": "noise", "inverted": "inversion"}
Classifiers = dict[str, tuple[ik.Target, Tensor | None]]


@recorded_run(data=True, smoke={"steps": 2, "seeds": 1, "train": 80, "test": 40, "noise": 12, "per_class": 1})
def garbage(
    run: Run, *, steps: int = 380, seeds: int = 3, train: int = 3000, test: int = 600, noise: int = 300,
    per_class: int = 25,
) -> None:  # fmt: skip
    """Classifiers with and without a garbage class, each asked about the other data set."""
    mnist = ik.load_data("mnist", folder=run.data, limit=train)
    cifar = ik.load_data(f"npz:{run.data / 'cifar10_4600.npz'}", size=SIZE, limit=train)
    sets = {"MNIST": grey(mnist, "MNIST", test), "CIFAR-10": grey(cifar, "CIFAR-10", test)}
    brief = {"warmup": 0, "inversion_steps": 1} if run.quick else {}
    # A tenth as much noise as training images, and a twelfth of them added after each epoch. Smoothed labels would move
    # the confidences that are compared.
    sizes = {"steps": steps, "noise": noise, "per_class": per_class, "label_smoothing": 0.0} | brief
    configs = {kind: ik.GarbageConfig.for_profile("book", **sizes, source=source) for kind, source in SOURCES.items()}
    rows: dict[str, Tensor] = {}
    for (name, data), other in zip(sets.items(), reversed(sets.values()), strict=True):
        run.row(f"{name} inside, no network", nearest(data, other.test.images))
        for seed in range(seeds):
            classifiers = trained(run, data, configs, seed)
            for kind, (network, fed) in classifiers.items():
                scores = measure(network, fed is not None, data, other.test.images)
                run.row(f"{name} inside, {kind}", scores)
            fed = classifiers["inverted"][1]
            if seed == 0 and fed is not None:
                rows[f"{name}: test images"] = data.test.per_class(1).images
                for epoch, images in ends(fed, configs["inverted"]).items():
                    rows[f"{name}: garbage, {epoch} epoch"] = images
    run.record(
        "mnist_ood",
        title="A garbage class filled by inversion: MNIST against CIFAR-10 in grey, and the other way round",
        config={"garbage": configs["inverted"], "training images": train, "size": SIZE},
        seeds=seeds,
        figure=show.image_rows(rows, columns=10),
        claims=("ood.majority", "ood.threshold", "ood.inverted-help"),
        note=f"{seeds} seeds of networks and generators; 28 pixels, grey, {test} test images of each set, labels not "
        "smoothed. 1 % inside: the confidence that all but one in a hundred of the images inside exceed; 99 % outside: "
        "the one that as many of those outside stay below which are put into a class, 0 where none is; violating: the "
        "share of the images outside that are as confident as the first. No network: nearness to the nearest training "
        "image, in pixels. The picture shows one image of each class that the garbage was fed after the first and "
        "after the last epoch.",
    )


def grey(data: ik.DataSet, name: str, test: int) -> ik.DataSet:
    """The same images with one channel, at most ``test`` of them for testing, the classes balanced."""
    splits = {
        part: replace(split, pixels=split.pixels.float().mean(1, keepdim=True).round().byte())
        for part, split in (("train", data.train), ("test", data.test.per_class(test // 10)), ("heldout", data.heldout))
    }
    mean, std = channel_statistics(splits["train"].pixels)
    return replace(data, name=name, spec=replace(data.spec, channels=1, mean=mean, std=std), **splits)


def trained(run: Run, data: ik.DataSet, configs: Mapping[str, ik.GarbageConfig], seed: int) -> Classifiers:
    """The three classifiers of the chapter, and what the garbage class of two of them holds."""
    config = configs["inverted"]
    plain = ik.ClassifierConfig.for_profile("book", steps=config.steps, warmup=config.warmup, label_smoothing=0.0)
    module = build("bn_cnn", data.spec, width=16, seed=seed)
    ik.train_classifier(module, data, plain, seed=seed, device="cpu")
    classifiers: Classifiers = {"no garbage": (ik.Target(module, data.spec), None)}
    for kind, with_garbage in configs.items():
        module = build("bn_cnn", ik.methods.with_garbage(data.spec), width=16, seed=seed)
        trained_with, _ = ik.train_with_garbage(
            module, data, with_garbage, ik.NetworkInversionConfig.for_profile("book", **run.trial),
            generator=ik.seeded(seed), device="cpu",
        )  # fmt: skip
        classifiers[kind] = (trained_with.target, trained_with.garbage)
    return classifiers


def measure(network: ik.Target, has_garbage: bool, data: ik.DataSet, outside: Tensor) -> dict[str, float]:
    """Every number of one classifier, for one seed."""
    inside, labels = data.test.images, data.test.labels
    logits = in_batches(network, inside)
    columns = {"accuracy": float((logits.argmax(1) == labels).double().mean())}
    for score, row in compare_scores(network, data.train, inside, outside, garbage=has_garbage).items():
        if score != "energy":
            columns[f"AUROC, {score}"] = row["auroc"]
    return columns | thresholds(logits, in_batches(network, outside), data.spec.n_classes)


def thresholds(inside: Tensor, outside: Tensor, n_classes: int) -> dict[str, float]:
    """Low confidences inside and high ones outside, of images that are put into a class and not into the garbage."""
    columns, confidences = {}, []
    if outside.shape[1] > n_classes:
        columns["share in garbage"] = float((outside.argmax(1) == n_classes).double().mean())
    for logits in (inside, outside):
        confidence, answer = logits.double().softmax(1).max(1)
        confidences.append(confidence[answer < n_classes])
    low = float(confidences[0].quantile(0.01)) if len(confidences[0]) else 0.0
    high = float(confidences[1].quantile(0.99)) if len(confidences[1]) else 0.0
    columns |= {"1 % inside": low, "99 % outside": high, "difference": low - high}
    return columns | {"violating": int((confidences[1] >= low).sum()) / len(outside)}


def nearest(data: ik.DataSet, outside: Tensor) -> dict[str, float]:
    """How well minus the distance to the nearest training image, in pixels, tells the two sets apart."""
    train = data.train.images.flatten(1)
    scores = [-torch.cdist(images.flatten(1), train).amin(1) for images in (data.test.images, outside)]
    return {"AUROC, nearest training image": auroc(*scores), "FPR95, nearest training image": fpr_at_tpr(*scores)}


def ends(fed: Tensor, config: ik.GarbageConfig) -> dict[str, Tensor]:
    """One image of each class, as added after the first and after the last epoch."""
    first = slice(config.noise, config.noise + 10 * config.per_class, config.per_class)
    last = slice(len(fed) - 10 * config.per_class, None, config.per_class)
    return {"first": fed[first], "last": fed[last]}


if __name__ == "__main__":
    command_line(garbage)
