"""Repeat the recorded runs of chapter 1 on digits: other weights, what each trick does, and what students learn.

    python book/recorded/digits_deepinversion_pieces.py weights
    python book/recorded/digits_deepinversion_pieces.py tricks
    python book/recorded/digits_deepinversion_pieces.py students

They need no data but the scans of scikit-learn, and have the networks and the settings of chapter 1.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import torch
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.book.recording import Run, command_line, recorded_run
from invkit.metrics import Judge, accuracy, inception_score
from invkit.networks import build

GRID = {"tv": (0.05, 0.5, 5.0), "batch_norm": (0.1, 1.0, 10.0)}
ELSEWHERE: dict[str, dict[str, float]] = {
    "as published": {"lr": 0.05, "tv": 1e-4, "l2": 1e-2},  # by DeepInversion's authors
    "the report's best": {},
}
TRICKS: dict[str, dict[str, Any]] = {"both": {}, "no clipping": {"clip": False}, "no jitter": {"jitter": 0}}
BUDGETS = (20, 40, 80)
SIDE = 8  # pixels of the images at half size


class Setting(NamedTuple):
    """The digits, the network that is inverted, and who judges."""

    data: ik.DataSet
    target: ik.Target
    verifier: ik.Target
    judge: Judge
    quick: bool

    def labels(self, each: int) -> Tensor:
        """Every class in turn, so many times."""
        return torch.arange(self.target.spec.n_classes).repeat(4 if self.quick else each)

    def config(self, steps: int, **changes: Any) -> ik.DeepInversionConfig:
        """How to invert."""
        return ik.DeepInversionConfig.for_profile("book", steps=min(steps, 2) if self.quick else steps, **changes)

    def invert(self, labels: Tensor, seed: int, config: ik.DeepInversionConfig) -> ik.engine.InversionResult:
        """One batch, from the noise and the jitter of that seed."""
        return ik.deep_inversion(self.target, labels, config, generator=ik.seeded(seed))


def setting(run: Run) -> Setting:
    """The networks as the chapter trains them."""
    data = ik.load_data("digits")

    def trained(name: str, seed: int) -> ik.Target:
        config = ik.ClassifierConfig.for_network(name, **run.trial)
        return ik.load_or_train(name, data, config, width=16, seed=seed)

    target = run.uses(trained("bn_cnn", 0), "digits, bn_cnn")
    verifier = run.uses(trained("repvgg_tiny", 1), "digits, judge")
    judge = Judge(target=target, verifiers={"verifier": verifier}, real=data.test.images)
    return Setting(data, target, verifier, judge, run.quick)


@recorded_run(smoke={"seeds": 1, "steps": 1})
def weights(run: Run, *, seeds: int = 3, steps: int = 40) -> None:
    """The Inception Score over a grid of both weights, and with two sets of weights from elsewhere."""
    here = setting(run)
    labels = here.labels(4)

    def score(row: str, config: ik.DeepInversionConfig) -> None:
        for seed in range(seeds):
            images = here.invert(labels, seed, config).images
            run.row(row, {"Inception Score": inception_score(here.verifier, images)[0]})

    for tv in GRID["tv"]:
        for batch_norm in GRID["batch_norm"]:
            config = here.config(steps, tv=tv, batch_norm=batch_norm)
            score(f"alpha_tv {tv:g}, alpha_f {batch_norm:g}", config)
    for name, changes in ELSEWHERE.items():
        score(name, ik.DeepInversionConfig.paper(steps=steps, jitter=0.125, **changes))
    run.record(
        "digits_deepinversion_weights",
        title="DeepInversion of a network for digits: a grid of both weights, and weights from elsewhere",
        config={"grid": GRID, "elsewhere": ELSEWHERE, "steps": steps},
        seeds=seeds,
        claims=("di.sensitive", "di.published-weights"),
        note=f"Inception Score of {len(labels)} images, by a network of another architecture; the seed changes the "
        "noise that they start from and the jitter. alpha_tv is the weight of total variation, alpha_f that of the "
        "statistics. The last two rows have the optimiser, the jitter and the units of the report, with the weights of "
        "DeepInversion's authors and with those that the report found best.",
    )


@recorded_run(smoke={"seeds": 1})
def tricks(run: Run, *, seeds: int = 3) -> None:
    """Clipping and jitter left out, and half of the steps at half the size."""
    here = setting(run)
    labels = here.labels(6)
    columns = ("verifier", "frechet", "penalty", "tv", "saturated")
    shown: dict[str, Tensor] = {}
    for name, changes in TRICKS.items():
        for seed in range(seeds):
            made = here.invert(labels, seed, here.config(100, **changes))
            scores = here.judge(made.images, labels)
            run.row(name, {"loss": made.history["total"][-1]} | {column: scores[column] for column in columns})
            shown.setdefault(name, made.images[:10].clamp(0, 1))
    for steps in BUDGETS:
        for seed in range(seeds):
            timed(run, here, labels, seed, f"full size, {steps} steps", here.config(steps))
            low = here.config(steps // 2, low_resolutions=((SIDE, steps // 2),))
            timed(run, here, labels, seed, f"half size first, {steps} steps", low)
    run.record(
        "digits_deepinversion_tricks",
        title="DeepInversion of a network for digits without clipping, without jitter, and with low resolution first",
        config={"settings": here.config(100), "tricks": TRICKS, "budgets": BUDGETS},
        seeds=seeds,
        claims=("di.clipping", "di.jitter", "di.multiresolution"),
        figure=show.image_rows(
            shown, labels[:10].tolist(), columns=10, numbers_name="verifier",
            numbers={name: f"{run.mean(name, 'verifier'):.0%}" for name in shown},
        ),
        note=f"{len(labels)} images, six of each class, in one batch; the seed changes the noise that they start from "
        "and the jitter. First with clipping and jitter, then with each of them left out, in 100 "
        "steps; the picture shows the "
        "first of each class, first seed. loss: at the last step; roughness: by how much a pixel differs from its "
        "neighbours. Without clipping pixels are cut off at the end. Then full size alone, and half of the steps at "
        "half the size first; seconds are the processor's, on one thread. The verifier is of another architecture.",
    )  # fmt: skip


def timed(run: Run, here: Setting, labels: Tensor, seed: int, row: str, config: ik.DeepInversionConfig) -> None:
    """What the verifier recognises of one batch, and the processor's seconds that it took."""
    start = time.process_time()
    images = here.invert(labels, seed, config).images
    seconds = time.process_time() - start
    run.row(row, {"seconds": seconds, "verifier": here.judge(images, labels)["verifier"]})


@recorded_run(smoke={"seeds": 1})
def students(run: Run, *, seeds: int = 3) -> None:
    """Small and large batches, students taught on the large one, and half of it made anew against a student."""
    here = setting(run)
    n_classes, many = here.target.spec.n_classes, here.labels(12)
    first, second = many.chunk(2)
    config = here.config(100, micro_batch=128)
    against = here.config(100, competition=5.0)
    shown: dict[str, Tensor] = {}

    def judged(row: str, images: Tensor, labels: Tensor) -> None:
        run.row(row, here.judge(images, labels))
        shown.setdefault(row, images[:10])

    for seed in range(seeds):
        generator = ik.seeded(seed)  # one for all batches, so that none repeats another
        parts = [ik.deep_inversion(here.target, part, config, generator=generator) for part in first.split(n_classes)]
        judged(f"batches of {n_classes}", torch.cat([part.images for part in parts]), first)
        made = here.invert(many, seed, config).images
        judged(f"one of {len(many)}", made.chunk(2)[0], first)
        student = taught(run, here, made, seed)
        generator = ik.seeded(seed + seeds)
        adaptive = ik.deep_inversion(here.target, second, against, student=student, generator=generator)
        judged("plain", made.chunk(2)[1], second)
        judged("adaptive", adaptive.images, second)
    run.record(
        "digits_deepinversion_students",
        title="DeepInversion of a network for digits: small and large batches, students of these, adaptive images",
        config={"settings": config, "competition": against.competition, "students": distillation(run)},
        seeds=seeds,
        claims=("di.batch-size", "di.distillation", "di.adaptive"),
        figure=show.image_rows(
            shown, first[:10].tolist(), columns=10, numbers_name="verifier",
            numbers={name: f"{run.mean(name, 'verifier'):.0%}" for name in shown},
        ),
        note=f"{len(first)} images are judged in each row, made in batches of {n_classes} or as the first half of one "
        f"batch of {len(many)}; plain is its second half, adaptive are as many images made anew, which also ask that "
        "the network and the student of the first half disagree. Students: small ResNets, taught by the network on "
        f"the whole large batch (synthetic), on its first half, on {len(many)} real training images, and on noise; "
        "accuracy on real test images. The seed changes the noise that images start from, the real images, and the "
        "students' first weights. The verifier is of another architecture; the picture shows the first seed.",
    )  # fmt: skip


def distillation(run: Run) -> ik.DistillationConfig:
    """How students are taught."""
    return ik.DistillationConfig.for_profile("book", **{"steps": 100} | run.trial)


def taught(run: Run, here: Setting, made: Tensor, seed: int) -> ik.Target:
    """Students by what they learn from, with the answers of the network itself; returned is that of half the images."""
    order = torch.randperm(len(here.data.train), generator=ik.seeded(seed))
    students = {}
    for name, images in {
        "half as many": made.chunk(2)[0],
        "synthetic": made,
        "as many real": here.data.train[order[: len(made)]].images,
        "noise": torch.rand(made.shape, generator=ik.seeded(seed)),
    }.items():
        fresh = build("resnet20", here.target.spec, width=8, seed=seed)
        answers = here.target(images.to(here.target.device)).argmax(1).cpu()
        generator = ik.seeded(seed)
        students[name], _ = ik.distil(here.target, fresh, images, answers, distillation(run), generator=generator)
        known = accuracy(students[name], here.data.test.images, here.data.test.labels)
        run.row(f"student, {name}", {"test accuracy": known["top1"]})
    return students["half as many"]


if __name__ == "__main__":
    command_line(weights, tricks, students)
