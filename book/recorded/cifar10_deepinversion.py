"""Repeat the recorded runs on CIFAR-10: DeepInversion of a published ResNet-20, judged by others.

    INVKIT_DATA=FOLDER python book/recorded/cifar10_deepinversion.py images
    INVKIT_DATA=FOLDER python book/recorded/cifar10_deepinversion.py student
    INVKIT_DATA=FOLDER python book/recorded/cifar10_deepinversion.py student_longer
    INVKIT_DATA=FOLDER python book/recorded/cifar10_deepinversion.py adaptive
    INVKIT_DATA=FOLDER python book/recorded/cifar10_deepinversion.py adaptive_many
    INVKIT_DATA=FOLDER python book/recorded/cifar10_deepinversion.py tricks

``FOLDER`` holds ``cifar10_4600.npz`` (4,000 training and 600 test images), ``weights/`` with the networks, and
``networks.py`` with the source of the one that is not in the package.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

import invkit as ik
from invkit import show
from invkit.book.recording import Run, command_line, recorded_run
from invkit.metrics import in_batches
from invkit.networks.classifiers import build
from invkit.objectives.losses import jensen_shannon
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


def judged_target(run: Run, real: int) -> tuple[ik.DataSet, ik.Target, ik.Judge]:
    """CIFAR-10, the ResNet-20, and who judges: a deeper network of its family, and a robust one without batch norm."""
    data = ik.load_data(f"npz:{run.data / 'cifar10_4600.npz'}")
    target = run.network("cifar10_resnet20")
    verifiers = {"ResNet-44": run.network("cifar10_resnet44"), "robust net": run.network("cifar10_resnet4b_robust")}
    return data, target, ik.Judge(target=target, verifiers=verifiers, real=data.test.images[:real])


@recorded_run(data=True, smoke={"steps": 1, "coarse_steps": 1, "each": 2, "real": 60})
def images(run: Run, *, steps: int = 400, coarse_steps: int = 200, each: int = 6, real: int = 600) -> None:
    """The same noise under one term more at a time, over seeds; then the last config on three times as many images."""
    data, target, judge = judged_target(run, real)
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
COUNTS = (640, 2500, 4000)
VIEWS = RandomViews(
    v2.Compose([
        v2.RandomAffine(25, translate=(0.15, 0.15), scale=(0.7, 1.5), fill=0.5),
        v2.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.1),
    ])
)  # fmt: skip


@recorded_run(data=True, smoke={"images": 20, "inversion_steps": 1, "steps": 1, "seeds": 1})
def student(run: Run, *, images: int = 4000, inversion_steps: int = 100, steps: int = 1200, seeds: int = 3) -> None:
    """Fresh ResNet-20s taught on few and many synthetic and real images, and on noise, tested on real ones."""
    data, target, inversion, plain, real = schooling(run, images, inversion_steps)
    distillation = lessons(run, steps, bf16=True)
    sources = {
        "synthetic": plain,
        "real": real,
        "noise": torch.rand(len(plain), *target.spec.shape, generator=ik.seeded(0)),
    }
    run.row("teacher", {"test accuracy": accuracy(target, data)})
    run.row("chance", {"test accuracy": 1 / target.spec.n_classes})
    for source, pictures in sources.items():
        counts = [count for count in COUNTS if count < len(pictures)] + [len(pictures)]
        for count in counts[-1:] if source == "noise" else counts:
            for seed in range(seeds):
                taught = teach(target, pictures[:count], distillation, seed)
                run.row(f"{count:,} {source} images", {"test accuracy": accuracy(taught, data)})
    for seed in range(seeds):
        taught = teach(target, plain, distillation, seed, views=None)
        run.row(f"{len(plain):,} synthetic images as they are", {"test accuracy": accuracy(taught, data)})
    run.record(
        "cifar10_student",
        title="ResNet-20s taught without data: accuracy on 600 real test images of CIFAR-10",
        config={"inversion": inversion, "distillation": distillation, "views": repr(VIEWS.transform)},
        seeds=seeds,
        claims=("di.distillation",),
        note=f"Students start from random weights, one for each seed, and take {distillation.steps:,} steps with the "
        "teacher's soft answers, on images that are flipped, shifted, turned, scaled and changed in colour anew in "
        "each step; as they are: flipped and shifted only.",
    )


@recorded_run(data=True, smoke={"images": 20, "few": 10, "inversion_steps": 1, "steps": 1, "seeds": 1})
def student_longer(
    run: Run, *, images: int = 4000, few: int = 640, inversion_steps: int = 100, steps: int = 2400, seeds: int = 3
) -> None:
    """Few and many synthetic images, and real ones, in lessons twice as long as those of :func:`student`."""
    data, target, inversion, plain, real = schooling(run, images, inversion_steps)
    distillation = lessons(run, steps, bf16=True)
    sets = {"synthetic": [plain[:few], plain], "real": [real]}
    for source, members in sets.items():
        for pictures in members:
            for seed in range(seeds):
                taught = teach(target, pictures, distillation, seed)
                run.row(f"{len(pictures):,} {source} images", {"test accuracy": accuracy(taught, data)})
    run.record(
        "cifar10_student_longer",
        title=f"ResNet-20s taught without data for {steps:,} steps: accuracy on 600 real test images of CIFAR-10",
        config={"inversion": inversion, "distillation": distillation, "views": repr(VIEWS.transform)},
        seeds=seeds,
        note=f"Students start from random weights, one for each seed, and take {distillation.steps:,} steps with the "
        "teacher's soft answers, on images that are flipped, shifted, turned, scaled and changed in colour anew in "
        "each step.",
    )


def schooling(
    run: Run, images: int, inversion_steps: int
) -> tuple[ik.DataSet, ik.Target, ik.DeepInversionConfig, Tensor, Tensor]:
    """CIFAR-10, the teacher, the config of its images, these images, and as many photographs, or all there are."""
    data = ik.load_data(f"npz:{run.data / 'cifar10_4600.npz'}")
    target = run.network("cifar10_resnet20")
    inversion = ik.DeepInversionConfig(**SYNTHESIS | {"steps": inversion_steps})
    plain = run.synthetic(target, images, inversion)
    order = torch.randperm(len(data.train), generator=ik.seeded(0))
    return data, target, inversion, plain, data.train.images[order[:images]]


@recorded_run(
    data=True, smoke={"images": 20, "rounds": 2, "inversion_steps": 1, "round_steps": 1, "steps": 1, "seeds": 1}
)
def adaptive(
    run: Run, *, images: int = 600, rounds: int = 3, inversion_steps: int = 100, round_steps: int = 200,
    steps: int = 600, seeds: int = 3, competition: float = 10.0,
) -> None:  # fmt: skip
    """A set that grows by images on which a student disagrees with its teacher, against as many plain ones (§2.2)."""
    target = run.network("cifar10_resnet20")
    inversion = ik.DeepInversionConfig(steps=inversion_steps, low_resolutions=SYNTHESIS["low_resolutions"])
    competing = replace(inversion, competition=competition)
    between, at_last = lessons(run, round_steps), lessons(run, steps)
    plain = run.synthetic(target, images, inversion, folder="plain")
    grow(run, "cifar10_student_adaptive", target, plain, images, rounds, competing, between, at_last, seeds)


@recorded_run(
    data=True,
    smoke={"pool": 40, "images": 20, "rounds": 2, "inversion_steps": 1, "round_steps": 1, "steps": 1, "seeds": 1},
)
def adaptive_many(
    run: Run, *, pool: int = 4000, images: int = 2500, rounds: int = 2, inversion_steps: int = 100,
    round_steps: int = 400, steps: int = 2400, seeds: int = 3, competition: float = 10.0,
) -> None:  # fmt: skip
    """As :func:`adaptive`, with sets of four times the size, out of a pool of plain images, and longer lessons."""
    _, target, inversion, plain, _ = schooling(run, pool, inversion_steps)
    competing = replace(inversion, competition=competition)
    between, at_last = lessons(run, round_steps, bf16=True), lessons(run, steps, bf16=True)
    grow(run, "cifar10_student_adaptive_many", target, plain, images, rounds, competing, between, at_last, seeds)


def grow(
    run: Run, name: str, target: ik.Target, plain: Tensor, images: int, rounds: int, competing: ik.DeepInversionConfig,
    between: ik.DistillationConfig, at_last: ik.DistillationConfig, seeds: int,
) -> None:  # fmt: skip
    """Record students taught on sets whose one half is plain images, the other plain too or made against a student."""
    data = ik.load_data(f"npz:{run.data / 'cifar10_4600.npz'}")
    judge = ik.Judge(target=target, verifiers={"ResNet-44": run.network("cifar10_resnet44")}, real=data.test.images)
    half = images // 2
    for seed in range(seeds):
        order = torch.randperm(len(plain), generator=ik.seeded(seed))
        first, second = plain[order[:half]], plain[order[half : 2 * half]]
        grown = first
        for k in range(rounds):
            taught = teach(target, grown, between, seed)
            new = run.synthetic(
                target, half // rounds, competing, folder=f"adaptive_{seed}_{k}", student=taught,
                seed=1 + seed * rounds + k,  # 0 is the plain images' noise
            )  # fmt: skip
            for kind, pictures in {"plain": second[: len(new)], "adaptive": new}.items():
                answers = (in_batches(network, pictures) for network in (target, taught))
                run.row(f"{kind} images of round {k + 1}", {"disagreement": float(jensen_shannon(*answers).mean())})
            grown = torch.cat([grown, new])
        added = {"plain": second[: len(grown) - half], "adaptive": grown[half:]}
        for kind, pictures in added.items():
            scores = judge(pictures, in_batches(target, pictures).argmax(1))
            taught = teach(target, torch.cat([first, pictures]), at_last, seed)
            run.row(
                f"half of them {kind}",
                {"diversity": scores["diversity"], "ResNet-44": scores["ResNet-44"]}
                | {"test accuracy": accuracy(taught, data)},
            )
    run.record(
        name,
        title=f"ResNet-20s taught on {images:,} synthetic images, half of them made in rounds against the student",
        config={
            "inversion": competing, "distillation of a round": between, "distillation": at_last,
            "views": repr(VIEWS.transform),
        },
        seeds=seeds,
        claims=("di.adaptive",),
        note=f"Half of each set are the same plain images. The others are plain too, or were made in {rounds} rounds, "
        "each against a student fresh from what there was so far. Diversity: mean distance of two images of a class in "
        "ResNet-44's features, of the half that differs. Disagreement: Jensen-Shannon divergence in bits between "
        f"teacher and that round's student. Students take {at_last.steps:,} steps at last.",
    )  # fmt: skip


TRICKS: dict[str, dict[str, Any]] = {"both": {}, "no clipping": {"clip": False}, "no jitter": {"jitter": 0}}
# About a square root of two between neighbours, so that a saving is measured finely.
BUDGETS = (10, 14, 20, 28, 40, 56, 80, 112, 160)


@recorded_run(data=True, smoke={"each": 2, "seeds": 1, "steps": 2, "real": 60})
def tricks(run: Run, *, each: int = 6, seeds: int = 3, steps: int = 200, real: int = 600) -> None:
    """Clipping and jitter left out, and half of the steps at half the size (report, §3.1.2 and §3.1.3)."""
    _, target, judge = judged_target(run, real)
    labels = torch.arange(10 * each) % 10
    shown: dict[str, Tensor] = {}

    def invert(seed: int, **changes: Any) -> tuple[dict[str, float], Tensor]:
        """Scores of a batch with the processor's seconds that it took, and its images."""
        start = time.process_time()
        config = ik.DeepInversionConfig(**{"low_resolutions": ()} | changes)
        made = ik.deep_inversion(target, labels, config, generator=ik.seeded(seed))
        seconds = time.process_time() - start
        return judge(made.images, labels) | {"loss": made.history["total"][-1], "seconds": seconds}, made.images

    for name, changes in TRICKS.items():
        for seed in range(seeds):
            scores, made = invert(seed, steps=steps, **changes)
            columns = ("loss", "ResNet-44", "robust net", "frechet", "penalty", "tv", "saturated")
            run.row(name, {column: scores[column] for column in columns})
            shown.setdefault(name, made[:10].clamp(0, 1))
    for budget in BUDGETS[:: 8 if run.quick else 1]:
        half = budget // 2
        for way, changes in {
            "full size": {"steps": budget},
            "half size first": {"steps": half, "low_resolutions": ((0.5, half),)},
        }.items():
            for seed in range(seeds):
                scores, _ = invert(seed, **changes)
                run.row(f"{way}, {budget} steps", {c: scores[c] for c in ("seconds", "ResNet-44", "robust net")})
    run.record(
        "cifar10_deepinversion_tricks",
        title="DeepInversion of a ResNet-20 for CIFAR-10 without clipping, without jitter, with low resolution first",
        config={
            "settings": ik.DeepInversionConfig(steps=steps, low_resolutions=()), "tricks": TRICKS, "budgets": BUDGETS,
        },
        seeds=seeds,
        claims=("di.clipping", "di.jitter", "di.multiresolution"),
        figure=show.image_rows(
            shown, [target.spec.classes[int(y)] for y in labels[:10]], columns=10, numbers_name="ResNet-44",
            numbers={name: f"{run.mean(name, 'ResNet-44'):.0%}" for name in shown},
        ),
        note=f"{len(labels)} images in a batch, the method's defaults without low resolution. First {steps} steps with "
        "clipping and jitter, then with each of them left out. "
        "loss: at the last step; roughness: by how much a pixel differs from "
        "its neighbours. Without clipping pixels are cut off at the end. Then full size alone, and half of the steps "
        "at half the size first; seconds are the processor's, on one thread.",
    )  # fmt: skip


def lessons(run: Run, steps: int, *, bf16: bool = False) -> ik.DistillationConfig:
    """How a student is taught, with images shifted and flipped in each step."""
    return ik.DistillationConfig(**{"steps": steps, "shift": 4, "flip": True, "bf16": bf16} | run.trial)


def teach(
    target: ik.Target, pictures: Tensor, config: ik.DistillationConfig, seed: int, views: RandomViews | None = VIEWS
) -> ik.Target:
    """A fresh ResNet-20 that has learnt the teacher's answers to some images."""
    network = build("resnet20", target.spec, seed=seed)
    return ik.distil(
        target,
        network,
        pictures,
        in_batches(target, pictures).argmax(1),
        config,
        views=views,
        generator=ik.seeded(seed),
    )[0]


def accuracy(network: ik.Target, data: ik.DataSet) -> float:
    """Share of the test images that a network classifies rightly."""
    return ik.metrics.accuracy(network, data.test.images, data.test.labels)["top1"]


if __name__ == "__main__":
    command_line(images, student, student_longer, adaptive, adaptive_many, tricks)
