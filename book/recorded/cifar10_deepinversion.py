"""Repeat the recorded runs on CIFAR-10: DeepInversion of a published ResNet-20, judged by others.

    INVKIT_DATA=FOLDER python book/recorded/cifar10_deepinversion.py images
    INVKIT_DATA=FOLDER python book/recorded/cifar10_deepinversion.py student

``FOLDER`` holds ``cifar10_4600.npz`` (4,000 training and 600 test images), ``weights/`` with the networks, and
``networks.py`` with the source of the one that is not in the package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

import invkit as ik
from invkit import show
from invkit.book.recording import Run, command_line, recorded_run
from invkit.networks.classifiers import build
from invkit.transforms import RandomViews

COMMON: dict[str, Any] = {
    "lr": 0.05, "schedule": "cosine", "patience": None, "betas": (0.5, 0.9), "flip": 0.5,
    "cross_entropy": 50.0, "tv": 0.3, "l2": 0.0, "batch_norm": 1.0,
}  # fmt: skip
WRAPPED = COMMON | {"jitter": 2, "wrap": True}
SHIFTED = COMMON | {"jitter": 4, "wrap": False}
TERMS = {
    "cross-entropy": WRAPPED | {"tv": 0.0, "batch_norm": 0.0},
    "+ image prior": WRAPPED | {"batch_norm": 0.0},
    "+ statistics": WRAPPED,
    "shifted as in training": SHIFTED,
}
SEEDS = 3
WIDER = 3  # times as many images in the large batch
COLUMNS = ("own", "ResNet-44", "robust net", "frechet", "diversity", "penalty", "tv")


@recorded_run(data=True, smoke={"steps": 1, "coarse_steps": 1, "each": 2, "real": 60})
def images(run: Run, *, steps: int = 400, coarse_steps: int = 200, each: int = 6, real: int = 600) -> None:
    """The same noise under one term more at a time, over seeds; then the last config on three times as many images."""
    data = ik.load_data(f"npz:{run.data / 'cifar10_4600.npz'}")
    target = run.network("cifar10_resnet20")
    # A deeper network of its family, and a robust one without batch norm.
    verifiers = {"ResNet-44": run.network("cifar10_resnet44"), "robust net": run.network("cifar10_resnet4b_robust")}
    judge = ik.Judge(target=target, verifiers=verifiers, real=data.test.images[:real])
    labels = torch.arange(10 * each) % 10
    amount = {"steps": steps, "low_resolutions": ((16, coarse_steps),)}
    pictures: dict[str, Tensor] = {}

    def add(row: str, batches: list[Tensor]) -> None:
        for batch in batches:
            scores = judge(batch, labels)
            run.row(row, {column: scores[column] for column in COLUMNS})
        pictures.setdefault(row, batches[0])

    for row, terms in TERMS.items():
        config = ik.DeepInversionConfig.for_profile("book", **terms, **amount)
        add(row, [ik.deep_inversion(target, labels, config, generator=ik.seeded(k)).images for k in range(SEEDS)])
    config = ik.DeepInversionConfig.for_profile("book", **SHIFTED, **amount, micro_batch=len(labels))
    wide = len(labels) * WIDER
    row = f"in a batch of {wide}"
    for seed in range(SEEDS):
        many = ik.deep_inversion(target, labels.repeat(WIDER), config, generator=ik.seeded(seed)).images
        add(row, [many[: len(labels)]])  # as many images as of the other rows, for Fréchet distances depend on it
    run.row("noise", judge_noise(judge, target, labels))
    genuine = data.heldout.per_class(SEEDS * each).images
    order = torch.arange(len(genuine)).view(10, SEEDS * each).T.flatten()  # from class by class to classes in turn
    add("real images", list(genuine[order].split(len(labels))))
    figure = show.image_rows(
        pictures,
        [target.spec.classes[int(y)] for y in labels[:10]],
        columns=10,
        numbers={row: f"{run.mean(row, 'ResNet-44'):.0%}" for row in pictures},
        numbers_name="ResNet-44",
    )
    run.record(
        "cifar10_deepinversion",
        title=f"DeepInversion of a ResNet-20 for CIFAR-10: {len(labels)} images, one more term at a time",
        config={row: terms | amount for row, terms in TERMS.items()} | {row: config},
        seeds=SEEDS,
        figure=figure,
        claims=("di.feature-term", "di.batch-size"),
        note=f"Three seeds, three samples of real images. Of the batch of {wide} the first {len(labels)} count. "
        "Scores as in the chapter, after rounding to 8 bits; Fréchet distance in ResNet-44's features.",
    )


def judge_noise(judge: ik.Judge, target: ik.Target, labels: Tensor) -> dict[str, float]:
    """What the judges take uniform noise for."""
    scores = judge(torch.rand(len(labels), *target.spec.shape, generator=ik.seeded(0)), labels)
    return {column: scores[column] for column in COLUMNS}


# A quarter of the default's steps, which the judges hardly notice; bfloat16 is fast on processors that have it.
SYNTHESIS: dict[str, Any] = {"steps": 100, "low_resolutions": ((0.5, 60),), "bf16": True}
COUNTS = (640, 4000)
VIEWS = RandomViews(
    v2.Compose([
        v2.RandomAffine(25, translate=(0.15, 0.15), scale=(0.7, 1.5), fill=0.5),
        v2.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.1),
    ])
)  # fmt: skip


@recorded_run(data=True, smoke={"images": 20, "inversion_steps": 1, "steps": 1, "seeds": 1, "rounds": 2})
def student(
    run: Run, *, images: int = 4000, inversion_steps: int = 100, steps: int = 2000, seeds: int = 3, rounds: int = 4
) -> None:
    """Fresh ResNet-20s taught on growing sets: synthetic, adaptive, real images and noise, tested on real ones."""
    data = ik.load_data(f"npz:{run.data / 'cifar10_4600.npz'}")
    target = run.network("cifar10_resnet20")
    inversion = ik.DeepInversionConfig(**SYNTHESIS | {"steps": inversion_steps})
    distillation = ik.DistillationConfig(**{"steps": steps, "shift": 4, "flip": True, "bf16": True} | run.trial)
    plain = run.synthetic(target, images, inversion)
    order = torch.randperm(len(data.train), generator=ik.seeded(0))
    sources = {
        "synthetic": plain,
        "real": data.train.images[order[:images]],
        "noise": torch.rand(len(plain), *target.spec.shape, generator=ik.seeded(0)),
    }
    run.row("teacher", {"test accuracy": accuracy(target, data)})
    run.row("chance", {"test accuracy": 1 / target.spec.n_classes})

    def teach(pictures: Tensor, seed: int, views: RandomViews | None = VIEWS) -> ik.Target:
        network = build("resnet20", target.spec, seed=seed)
        with torch.no_grad():
            labels = torch.cat([target(part).argmax(1) for part in pictures.split(256)])
        return ik.distil(
            target, network, pictures, labels, distillation, views=views, generator=ik.seeded(seed)
        )[0]  # fmt: skip

    for source, pictures in sources.items():
        counts = [count for count in COUNTS if count < len(pictures)] + [len(pictures)]
        for count in counts if source == "synthetic" else counts[-1:]:
            for seed in range(seeds):
                taught = teach(pictures[:count], seed)
                run.row(f"{count:,} {source} images", {"test accuracy": accuracy(taught, data)})
    for seed in range(seeds):
        taught = teach(plain, seed, views=None)
        run.row(f"{len(plain):,} synthetic images as they are", {"test accuracy": accuracy(taught, data)})
    for seed in range(seeds if rounds else 0):
        grown = adaptive(run, target, plain[: images // 2], images, rounds, inversion, teach, seed)
        run.row(f"{images:,} adaptive images", {"test accuracy": accuracy(teach(grown, seed), data)})
    run.record(
        "cifar10_student",
        title="ResNet-20s taught without data: accuracy on 600 real test images of CIFAR-10",
        config={"inversion": inversion, "distillation": distillation, "views": repr(VIEWS.transform)},
        seeds=seeds,
        claims=("di.distillation",),
        note=f"Students start from random weights, one for each seed, and take {distillation.steps:,} steps with the "
        "teacher's soft answers, on images that are flipped, shifted, turned, scaled and changed in colour anew in "
        "each step; as they are: flipped and shifted only."
        + f" Adaptive: half of the images are the plain ones, the others were made in {rounds} rounds where teacher "
        "and the student of the round before disagree." * bool(rounds),
    )


def adaptive(
    run: Run, target: ik.Target, start: Tensor, images: int, rounds: int, config: ik.DeepInversionConfig,
    teach: Callable[[Tensor, int], ik.Target], seed: int,
) -> Tensor:  # fmt: skip
    """A set that grows round by round, by images for which teacher and student compete (§2.2)."""
    grown = start
    competing = replace(config, competition=10.0)
    each = (images - len(start)) // rounds
    for k in range(rounds):
        taught = teach(grown, seed)
        new = run.synthetic(target, each, competing, folder=f"adaptive_{seed}_{k}", student=taught, seed=1 + k)
        grown = torch.cat([grown, new])
    return grown


def accuracy(network: ik.Target, data: ik.DataSet) -> float:
    """Share of the test images that a network classifies rightly."""
    return ik.metrics.accuracy(network, data.test.images, data.test.labels)["top1"]


if __name__ == "__main__":
    command_line(images, student)
