"""Repeat the recorded run of chapter 9's comparison on digits: equal time, as many settings tried for each method.

    python book/recorded/digits_feedforward_time.py

It needs no data but the scans of scikit-learn. Settings are sought on training images that no inverse learnt from then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.analysis.grid import Grid
from invkit.analysis.logit_probe import LogitInverter, LogitProbe
from invkit.book.recording import Run, command_line, recorded_run

LAYER, COMPARATOR = "head.5", "features"  # of bn_cnn: its logits, and its last grid of features
ATTACK = {"eps": 0.1, "attack_steps": 2}
OURS, BASELINE, REGRESSION = "this method", "Dosovitskiy & Brox", "regression"
# Six settings of each; the baseline's weights are those around the best of the four that digits_feedforward tries.
GRIDS: dict[str, Grid] = {
    OURS: {"lr": [1e-3, 2e-3, 4e-3], "width": [16, 32]},
    BASELINE: {"lr": [1e-3, 2e-3, 4e-3], "weights": [(0.1, 1.0), (0.01, 10.0)]},
    REGRESSION: {"lr": [1e-3, 2e-3, 4e-3], "width": [16, 32]},
}
SOUGHT = 200  # seed of the networks and inverses of the tuning, so that none is evaluated
APART = 300  # training images on which settings are compared

Training = Callable[[int, torch.Generator], LogitInverter | Callable[[Tensor], Tensor]]
"""Gives an inverse after so many steps."""


def training(method: str, target: ik.Target, learnt: ik.Split, settings: dict[str, Any]) -> Training:
    """The training of a method with some settings on these images and their logits."""

    def ours(steps: int, generator: torch.Generator) -> LogitInverter:
        rates = {f"lr_{network}": settings["lr"] for network in ("generator", "discriminator")}
        config = ik.FeedforwardConfig.for_profile("book", steps=steps, width=settings["width"], **rates)
        return ik.feedforward_inversion(target, learnt.pixels, config, generator=generator)[0]

    def baseline(steps: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
        chosen = dict(settings)
        features, adversarial = chosen.pop("weights", (0.0, 0.0))
        config = ik.DeePSiMConfig.for_profile(
            "book", steps=steps, image=1.0, features=features, adversarial=adversarial, **chosen
        )
        inverse, _ = ik.deepsim(target, learnt.images, LAYER, config, generator=generator, comparator=COMPARATOR)
        return inverse

    return ours if method == OURS else baseline


def steps_within(learns: dict[str, Training], seconds: float, rounds: int) -> dict[str, int]:
    """How many steps of each training fit into some seconds of the processor, without what comes before the first.

    The trainings take turns, and of several rounds the fastest counts: other work on the machine makes a step longer,
    and must not do so for one of them alone.
    """
    best = dict.fromkeys(learns, math.inf)
    for _ in range(rounds):
        for name, learn in learns.items():
            times = []
            for steps in (2, 32):
                start = time.process_time()
                learn(steps, ik.seeded(0))
                times.append(time.process_time() - start)
            best[name] = min(best[name], max(times[1] - times[0], 1e-6) / 30)
    return {name: max(1, int(seconds / step)) for name, step in best.items()}


def classifier(run: Run, data: ik.DataSet, name: str, width: int, seed: int, **attack: float) -> ik.Target:
    """A classifier as the chapter trains it."""
    config = ik.ClassifierConfig.for_network(name, **attack, **run.trial)
    return ik.load_or_train(name, data, config, width=width, seed=seed)


def sought(run: Run, data: ik.DataSet, seconds: float) -> dict[str, dict[str, Any]]:
    """The setting of each method that brings back training images best which it did not learn from."""
    target = classifier(run, data, "bn_cnn", 16, SOUGHT, **ATTACK)
    judging = classifier(run, data, "resnet20", 8, SOUGHT)  # of another family than the verifier
    order = torch.randperm(len(data.train), generator=ik.seeded(SOUGHT))
    apart, learnt = data.train[order[:APART]], data.train[order[APART:]]
    probe = LogitProbe(target, lambda logits: logits, apart, judging)

    def method(name: str) -> Callable[..., Tensor]:
        def invert(logits: Tensor, generator: torch.Generator, **settings: Any) -> Tensor:
            learn = training(name, target, learnt, settings)
            steps = steps_within({name: learn}, seconds, rounds=1 if run.quick else 2)[name]
            inverse = learn(steps, generator)
            return inverse.draws(logits, 1, generator=generator)[0] if hasattr(inverse, "draws") else inverse(logits)

        return invert

    def judge(images: Tensor) -> dict[str, float]:
        scores = probe.scores(images)
        return {"nearness": -math.log(scores["distance"] * scores["Fréchet"])}

    found = ik.analysis.tune(
        {name: (method(name), grid) for name, grid in GRIDS.items()},
        probe.logits, judge, "nearness", tries=1 if run.quick else None, seeds=(SOUGHT,),
    )  # fmt: skip
    for name, best in found.items():
        print(name, best.rows, flush=True)
    return {name: dict(best.settings) for name, best in found.items()}


@recorded_run(smoke={"seconds": 0.1, "tuning_seconds": 0.1, "seeds": 1})
def logits(run: Run, *, seconds: float = 60.0, tuning_seconds: float = 20.0, seeds: int = 3) -> None:
    """Tune, train and measure every method, in equal time of the processor for each training."""
    data = ik.load_data("digits")
    heldout = data.heldout.per_class(3) if run.quick else data.heldout
    settings = sought(run, data, tuning_seconds)
    pictures = {}
    for seed in range(seeds):
        target = classifier(run, data, "bn_cnn", 16, seed, **ATTACK)
        verifier = classifier(run, data, "repvgg_tiny", 16, seed + 100)
        trainings = {name: training(name, target, data.train, chosen) for name, chosen in settings.items()}
        steps = steps_within(trainings, seconds, rounds=1 if run.quick else 3)
        probes = {}
        for name, learn in trainings.items():
            probes[name] = LogitProbe(target, learn(steps[name], ik.seeded(seed)), heldout, verifier)
            run.row(name, probes[name].scores() | {"steps": steps[name]})
        drawn = probes[OURS].draws(1, ik.seeded(seed))[0]
        run.row(f"{OURS}, drawn", probes[OURS].scores(drawn))
        for guess, images in probes[OURS].baselines(data.train).items():
            run.row(guess, probes[OURS].scores(images))
        if seed == 0:
            shown = torch.cat([torch.nonzero(heldout.labels == k)[:1, 0] for k in range(data.spec.n_classes)])
            pictures["held-out"], pictures[f"{OURS}, drawn"] = heldout.images[shown], drawn[shown]
            pictures |= {name: probe.reconstructions[shown] for name, probe in probes.items()}
    run.record(
        "digits_feedforward_time",
        title="Logits of robust classifiers of digits, inverted in equal time, six settings tried for each method",
        config={
            "seconds": seconds,
            "tuning": {"seconds": tuning_seconds, "grids": GRIDS, "found": settings},
            "robust": ATTACK,
        },
        seeds=seeds,
        claims=("ff.rich", "ff.better"),
        figure=show.image_rows(pictures, columns=10),
        note=f"{len(heldout)} held-out images; each seed has a target, a verifier and inverses of its own. They "
        f"took as many steps as fit into {seconds:.0f} s of the processor, timed in turns, with the best of six "
        f"settings: that of least feature distance times Fréchet distance. The search: {tuning_seconds:.0f} s for each "
        f"setting, on one further target, judged in another network's features on {APART} training images that the "
        "inverses did not see. The picture is of seed 0.",
    )


if __name__ == "__main__":
    command_line(logits)
