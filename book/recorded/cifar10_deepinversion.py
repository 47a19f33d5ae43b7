"""Repeat the recorded runs on CIFAR-10: DeepInversion of a published ResNet-20, judged by others.

    INVKIT_DATA=FOLDER python book/recorded/cifar10_deepinversion.py images
    INVKIT_DATA=FOLDER python book/recorded/cifar10_deepinversion.py student

``FOLDER`` holds ``cifar10_4600.npz`` (4,000 training and 600 test images), ``weights/`` with the networks, and
``networks.py`` with the source of the one that is not in the package.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.book.recording import Run, command_line, recorded_run
from invkit.networks.classifiers import build

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
COLUMNS = ("own", "ResNet-44", "robust net", "frechet", "diversity", "penalty", "tv")


@recorded_run(data=True, smoke={"steps": 1, "coarse_steps": 1, "each": 2, "real": 60})
def images(run: Run, *, steps: int = 600, coarse_steps: int = 300, each: int = 6, real: int = 600) -> None:
    """The same noise under one term more at a time, over seeds; then the last config on three times as many."""
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
        pictures[row] = batches[0]

    for row, terms in TERMS.items():
        config = ik.DeepInversionConfig.for_profile("book", **terms, **amount)
        add(row, [ik.deep_inversion(target, labels, config, generator=ik.seeded(k)).images for k in range(SEEDS)])
    config = ik.DeepInversionConfig.for_profile("book", **SHIFTED, **amount, micro_batch=len(labels))
    wide = ik.deep_inversion(target, labels.repeat(SEEDS), config, generator=ik.seeded(0)).images
    add(f"in a batch of {len(wide)}", list(wide.split(len(labels))))
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
        config={row: terms | amount for row, terms in TERMS.items()} | {f"in a batch of {len(wide)}": config},
        seeds=SEEDS,
        figure=figure,
        note=f"Mean and standard deviation over three seeds (the thirds of the batch of {len(wide)}, three samples of "
        "real images). Scores as in the chapter, after rounding to 8 bits; Fréchet distance in ResNet-44's features.",
    )


@recorded_run(data=True, smoke={"images": 20, "steps": 1, "coarse_steps": 1})
def student(run: Run, *, images: int = 640, steps: int = 400, coarse_steps: int = 300) -> None:
    """A fresh ResNet-20 taught on synthetic images only, and on as many real ones, tested on real images."""
    data = ik.load_data(f"npz:{run.data / 'cifar10_4600.npz'}")
    target = run.network("cifar10_resnet20")
    inversion = ik.DeepInversionConfig.for_profile(
        "book", **SHIFTED, steps=steps, low_resolutions=((16, coarse_steps),)
    )
    distillation = ik.DistillationConfig(**{"steps": 1200, "shift": 4, "flip": True} | run.trial)
    genuine = data.train.images[torch.randperm(len(data.train), generator=ik.seeded(0))[:images]]
    sources = {"synthetic": synthetic(run, target, images, inversion), "real": genuine}
    run.row("teacher", {"test accuracy": accuracy(target, data)})
    for source, pictures in sources.items():
        for count in (images // 4, images):
            chosen = pictures[torch.randperm(len(pictures), generator=ik.seeded(1))[:count]]
            network = build("resnet20", target.spec, seed=0)
            with torch.no_grad():
                answers = torch.cat([target(part).argmax(1) for part in chosen.split(256)])
            taught, _ = ik.distil(target, network, chosen, answers, distillation, generator=ik.seeded(0))
            run.row(f"student of {count} {source} images", {"test accuracy": accuracy(taught, data)})
    run.record(
        "cifar10_student",
        title="A ResNet-20 taught without data: accuracy on 600 real test images of CIFAR-10",
        config={"inversion": inversion, "distillation": distillation},
        note=f"Students start from the same random weights and take {distillation.steps:,} steps with the "
        "teacher's soft answers.",
    )


def synthetic(run: Run, target: ik.Target, count: int, config: ik.DeepInversionConfig) -> Tensor:
    """Images that DeepInversion makes of all classes in turn, kept in the run's folder of work."""
    folder = ik.synthesise(
        target, count, run.work / "synthetic", batch_size=64, config=config,
        invert=lambda labels, generator: ik.deep_inversion(target, labels, config, generator=generator),
    )  # fmt: skip
    data = ik.load_data(f"folder:{folder}")
    return torch.cat([part.images for part in (data.train, data.test, data.heldout)])


def accuracy(network: ik.Target, data: ik.DataSet) -> float:
    """Share of the test images that a network classifies rightly."""
    return ik.metrics.accuracy(network, data.test.images, data.test.labels)["top1"]


if __name__ == "__main__":
    command_line(images, student)
