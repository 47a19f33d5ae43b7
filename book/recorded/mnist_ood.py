"""Repeat the recorded run on the garbage class: MNIST against CIFAR-10 in grey, and the other way round.

    INVKIT_DATA=FOLDER python book/recorded/mnist_ood.py

``FOLDER`` holds ``mnist.npz`` and ``cifar10_4600.npz`` (4,000 training and 600 test images).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

import invkit as ik
from invkit import show
from invkit.book.recording import Run, command_line, recorded_run
from invkit.data.datasets import channel_statistics
from invkit.metrics import compare_scores, confidence_gap, in_batches
from invkit.networks.classifiers import build

SIZE = 28
SOURCES = {"noise only": "noise", "inverted": "inversion"}
Classifiers = dict[str, tuple[ik.Target, Tensor | None]]


@recorded_run(data=True, smoke={"steps": 2, "seeds": 1, "train": 80, "test": 40, "noise": 12, "per_class": 1})
def garbage(
    run: Run, *, steps: int = 380, seeds: int = 2, train: int = 3000, test: int = 600, noise: int = 300,
    per_class: int = 25,
) -> None:  # fmt: skip
    """Classifiers with and without a garbage class, each asked about the other data set."""
    mnist = ik.load_data("mnist", folder=run.data, limit=train)
    cifar = ik.load_data(f"npz:{run.data / 'cifar10_4600.npz'}", size=SIZE, limit=train)
    sets = {"MNIST": grey(mnist, "MNIST", test), "CIFAR-10": grey(cifar, "CIFAR-10", test)}
    brief = {"warmup": 0, "inversion_steps": 1} if run.quick else {}
    # A tenth as much noise as training images, and a twelfth of them added after each epoch.
    configs = {
        kind: ik.GarbageConfig.for_profile(
            "book", **{"steps": steps, "noise": noise, "per_class": per_class, "source": source} | brief
        )
        for kind, source in SOURCES.items()
    }
    rows: dict[str, Tensor] = {}
    for (name, data), other in zip(sets.items(), reversed(sets.values()), strict=True):
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
        note=f"Mean and standard deviation over {seeds} seeds; 28 pixels, grey, {test} test images of each. "
        "The picture shows one image of each class that the garbage was fed after the first and after the last epoch.",
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
    plain = ik.ClassifierConfig.for_profile("book", steps=configs["inverted"].steps, warmup=configs["inverted"].warmup)
    module = build("bn_cnn", data.spec, width=16, seed=seed)
    ik.train_classifier(module, data, plain, seed=seed, device="cpu")
    classifiers: Classifiers = {"no garbage": (ik.Target(module, data.spec), None)}
    for kind, config in configs.items():
        module = build("bn_cnn", ik.methods.with_garbage(data.spec), width=16, seed=seed)
        trained_with, _ = ik.train_with_garbage(
            module, data, config, ik.NetworkInversionConfig.for_profile("book", **run.trial),
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
    gap = confidence_gap(logits, in_batches(network, outside), data.spec.n_classes if has_garbage else None)
    if has_garbage:
        columns["share in garbage"] = gap.rejected
    return columns | {
        "lowest inside": gap.lowest_inside,
        "highest outside": gap.highest_outside,
        "violating": gap.violating,
    }


def ends(fed: Tensor, config: ik.GarbageConfig) -> dict[str, Tensor]:
    """One image of each class, as added after the first and after the last epoch."""
    first = slice(config.noise, config.noise + 10 * config.per_class, config.per_class)
    last = slice(len(fed) - 10 * config.per_class, None, config.per_class)
    return {"first": fed[first], "last": fed[last]}


if __name__ == "__main__":
    command_line(garbage)
