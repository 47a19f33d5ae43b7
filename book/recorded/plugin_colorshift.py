"""Repeat the recorded run on ColorShift at its best strength, against other augmentations at theirs.

    INVKIT_DATA=FOLDER python book/recorded/plugin_colorshift.py

A robust network for CIFAR-10 is inverted. Strengths are sought with one seed, which is not judged. ``FOLDER`` holds
``weights/``, ``cifar10_4600.npz`` and ``networks.py`` with the source of the robust network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

import invkit as ik
from invkit import show
from invkit.book.recording import Run, command_line, recorded_run
from invkit.transforms import RandomViews

TARGET, JUDGES = "cifar10_resnet4b_robust", {"ResNet-44": "cifar10_resnet44", "ResNet-20": "cifar10_resnet20"}
SETTINGS: dict[str, Any] = {"steps": 50, "lr": 0.02, "ensemble": 4, "jitter": 4, "resize": "always", "bf16": True}
TRIAL = {"steps": 1, "stages": 1, "ensemble": 1, "bf16": False}
Change = Callable[[float], tuple[dict[str, Any], Any]]
"""From a strength to settings of Plug-In Inversion, and to views that stand in ColorShift's place."""


def in_place(augmentation: Callable[[float], Any]) -> Change:
    """An augmentation in the place of ColorShift."""
    return lambda strength: ({}, RandomViews(augmentation(strength)))


WAYS: dict[str, tuple[tuple[float, ...], Change]] = {
    "ColorShift": ((0.1, 0.2, 0.5, 1.0), lambda strength: ({"alpha": strength, "beta": strength}, None)),
    "noise": ((0.05, 0.1, 0.2, 0.4), in_place(lambda sigma: v2.GaussianNoise(sigma=sigma))),
    "blur": ((0.5, 1.0, 1.5, 2.0), in_place(lambda sigma: v2.GaussianBlur(5, (0.3, sigma)))),
    "rotation": ((10.0, 20.0, 30.0, 45.0), in_place(lambda degrees: v2.RandomAffine(degrees))),
    "crop": ((1.25, 1.5, 2.0, 3.0), in_place(lambda zoom: v2.RandomAffine(0, scale=(1.0, zoom)))),
}
PAPER = 1.0  # alpha and beta as published
# Of the total variation. At ten times the largest the network itself accepts a fifth of the images with ColorShift.
WEIGHTS = (0.0, 0.001, 0.003, 0.01, 0.1)
SOUGHT = 100  # seed of the search


class Bench:
    """The network that is inverted, and the two that judge."""

    def __init__(self, run: Run, real: int) -> None:
        self.run, self.labels = run, torch.arange(40) % 10
        self.target = run.network(TARGET)
        data = ik.load_data(f"npz:{run.data / 'cifar10_4600.npz'}")
        verifiers = {name: run.network(file) for name, file in JUDGES.items()}
        self.judge = ik.Judge(target=self.target, verifiers=verifiers, real=data.test.images[:real])

    def invert(self, seed: int, changes: dict[str, Any], views: Any = None) -> Tensor:
        """Images of all classes."""
        config = ik.PlugInConfig(**SETTINGS | changes | (TRIAL if self.run.quick else {}))
        return ik.plug_in_inversion(self.target, self.labels, config, generator=ik.seeded(seed), views=views).images

    def scores(self, images: Tensor) -> dict[str, float]:
        """What the target and both judges recognise, and the images' grain."""
        numbers = self.judge(images, self.labels)
        return {column: numbers[column] for column in ("own", *JUDGES, "tv")}

    def recognised(self, images: Tensor) -> float:
        """The mean share that the judges recognise."""
        return sum(self.scores(images)[name] for name in JUDGES) / len(JUDGES)


@recorded_run(data=True, smoke={"seeds": 1, "real": 60})
def colorshift(run: Run, *, seeds: int = 3, real: int = 600) -> None:
    """Seek each augmentation's strength, judge it with other seeds; the total variation with ColorShift and without."""
    bench = Bench(run, real)
    tried: dict[str, dict[str, float]] = {}
    for way, (strengths, change) in WAYS.items():
        few = strengths[:1] if run.quick else strengths
        tried[way] = {f"{s:g}": bench.recognised(bench.invert(SOUGHT, *change(s))) for s in few}
        print(way, tried[way], flush=True)
    best = {way: float(max(shares, key=lambda s: shares[s])) for way, shares in tried.items()}
    rows: dict[str, tuple[dict[str, Any], Any]] = {
        f"{way}, {best[way]:g}": change(best[way]) for way, (_, change) in WAYS.items()
    }
    sweeps = {
        f"ColorShift, {best['ColorShift']:g}": WAYS["ColorShift"][1](best["ColorShift"])[0],
        f"ColorShift, {PAPER:g}": WAYS["ColorShift"][1](PAPER)[0],
        "no augmentation": {"color_shift": False, "ensemble": 1},
    }
    for name, settings in sweeps.items():
        for weight in WEIGHTS:
            rows[name if weight == 0 else f"{name}, TV {weight:g}"] = (settings | {"tv": weight}, None)
    images: dict[str, Tensor] = {}
    for row, (settings, views) in rows.items():
        for seed in range(seeds):
            made = bench.invert(seed, settings, views)
            images.setdefault(row, made)
            run.row(row, bench.scores(made))
    classes = bench.target.spec.classes
    run.record(
        "plugin_colorshift",
        title="ColorShift at its best strength on a robust network for CIFAR-10, and other augmentations at theirs",
        config={
            "in all": SETTINGS,
            "tried": {way: strengths for way, (strengths, _) in WAYS.items()},
            "recognised in the search": tried,
            "weights of the total variation": WEIGHTS,
        },
        seeds=seeds,
        claims=("pii.colorshift-stable", "pii.colorshift-best"),
        figure=show.image_rows(
            {row: batch for row, batch in images.items() if "TV" not in row},
            [classes[int(y)] for y in bench.labels[:10]],
            columns=10,
            scale=1.5,
            numbers={row: f"{run.mean(row, 'ResNet-44'):.0%}" for row in images},
            numbers_name="ResNet-44",
        ),
        note=f"{len(bench.labels)} images of each seed, ten shown. The number behind a name is its strength: of "
        "ColorShift alpha and beta, of noise and blur the largest standard deviation, of rotation degrees, of crops "
        "the largest zoom; of the four strengths tried, it is the one at which the two judges on average recognised "
        "most images of one further seed. "
        "There are four copies, without augmentation one, as all would be the same. The judges are no "
        "relatives of the network. Networks ran in bfloat16 autocast; scores are of images rounded to 8 bits.",
    )


if __name__ == "__main__":
    command_line(colorshift)
