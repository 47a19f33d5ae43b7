"""What would help: measures against leaks, each tried on networks that are trained anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from invkit.core.rng import seeded
from invkit.core.target import Target
from invkit.data.datasets import Split, channel_statistics
from invkit.metrics.leakage import mean_interval
from invkit.metrics.membership import measure_membership, membership_scores
from invkit.report.case import Case
from invkit.report.section import Section, listed

SEEDS = 4
ENOUGH = 400
"""Images of each kind: dozens of networks are trained on half of these, and asked about the others."""


def remedies(case: Case, seconds: float) -> Section:
    """Accuracy and membership of networks trained with and without each measure, on the same halves of the images."""
    section = Section(name="remedies", title="What would help")
    if case.labelled is None or case.unseen is None:
        section.skipped = "this needs twenty or more labelled images of each kind, to train networks with and without"
        return section
    ways = measures(case)
    seeds = 2 if case.least else SEEDS
    each = seconds / (seeds * sum(1 for _, digits in ways.values() if digits is None))
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for seed in range(seeds):
        whole = case.small(case.labelled)
        order = torch.randperm(len(whole), generator=seeded(case.seed + seed))[:ENOUGH]
        inside, outside = whole[order[: len(order) // 2]], whole[order[len(order) // 2 :]]
        unseen = case.small(case.unseen)
        unseen = unseen[torch.randperm(len(unseen), generator=seeded(case.seed))[:ENOUGH]]
        plain: Target | None = None
        for name, (train, digits) in ways.items():
            network = plain if digits is not None and plain is not None else train(inside, each, case.seed + seed)
            plain = network if plain is None else plain
            scores[name].append(_scored(network, inside, outside, unseen, digits))
    rows = {name: _row(runs, scores["as it is"]) for name, runs in scores.items()}
    section.table(f"Trained anew on half of the training images, {seeds} times (mean, 95% interval)", rows)
    section.say(
        f"Accuracy is that on {min(len(case.unseen), ENOUGH)} held-out images; the AUROC is that of the half that was "
        "trained on against the other half.",
        "These networks are of this network's shape, except for those with a garbage class, which are small "
        "convolutional networks (bn_cnn): there the change mixes shape and measure."
        if case.same_shape
        else "These networks are small (bn_cnn) and stand in for a network of this size.",
        "The garbage class is filled with noise alone.",
        "How yours was trained is not known here; what helps them is worth trying with it.",
    )
    section.summary = _summary(section, scores)
    return section


def measures(case: Case) -> dict[str, tuple[Callable[[Split, float, int], Target], int | None]]:
    """How to train with each measure, and to how many decimal places its answers are rounded."""

    def plain(**changes: Any) -> Callable[[Split, float, int], Target]:
        return lambda split, seconds, seed: case.train(split, seconds, seed, **{"shift": 0} | changes)

    flip = {"flip": True} if case.spec.channels == 3 else {}

    def garbage(split: Split, seconds: float, seed: int) -> Target:
        return with_noise(case, split, seconds, seed)

    return {
        "as it is": (plain(), None),
        "a quarter of the steps": (plain(part=0.25), None),
        "augmentation": (plain(shift=max(1, case.small_spec.size[0] // 8), **flip), None),
        "label smoothing": (plain(label_smoothing=0.2), None),
        "weight decay": (plain(weight_decay=0.3), None),
        "garbage class": (garbage, None),
        "answers rounded to one decimal": (plain(), 1),
    }


def with_noise(case: Case, split: Split, seconds: float, seed: int) -> Target:
    """A network with one more class, which is filled with noise like the images, a tenth as many."""
    mean, std = channel_statistics(split.pixels)
    generator, spec = seeded(seed), case.small_spec
    count = max(2, len(split) // 10)
    noise = torch.randn(count, *spec.shape, generator=generator)
    scale, centre = (torch.tensor(values).view(-1, 1, 1) for values in (std, mean))
    pixels = ((noise * scale + centre).clamp(0, 1) * 255).round().byte()
    more = Split(
        pixels=torch.cat([split.pixels, pixels]),
        labels=torch.cat([split.labels, torch.full((count,), spec.n_classes)]),
    )
    wider = replace(spec, classes=(*spec.classes, "garbage"))
    return case.train(more, seconds, seed, module=case.untrained(seed, extra_class=True), spec=wider, shift=0)


def _scored(network: Target, inside: Split, outside: Split, unseen: Split, digits: int | None) -> dict[str, float]:
    members, others = (
        membership_scores(network, part.images, part.labels, digits=digits) for part in (inside, outside)
    )
    right = torch.cat([network(part).argmax(1) for part in unseen.images.split(256)]) == unseen.labels
    return {"accuracy": float(right.double().mean()), "AUROC": measure_membership(members, others, draws=1).auroc}


def _row(runs: list[dict[str, float]], plain: list[dict[str, float]]) -> dict[str, str]:
    row = {"change of AUROC": "" if runs is plain else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*_change(runs, plain))}
    for column in ("accuracy", "AUROC"):
        values = [run[column] for run in runs]
        low, high = mean_interval(values)
        spread = f"[{max(low, 0):.2f}, {min(high, 1):.2f}]"
        if f"{min(values):.2f}" == f"{max(values):.2f}":
            spread = f"in each of {len(values)}"
        row[column] = f"{sum(values) / len(values):.2f} {spread}"
    return row


def _change(
    runs: list[dict[str, float]], plain: list[dict[str, float]], column: str = "AUROC"
) -> tuple[float, float, float]:
    """Mean of the paired differences, and its interval."""
    gaps = [run[column] - other[column] for run, other in zip(runs, plain, strict=True)]
    return sum(gaps) / len(gaps), *mean_interval(gaps)


def _summary(section: Section, scores: dict[str, list[dict[str, float]]]) -> str:
    plain = scores["as it is"]
    changes = {name: _change(runs, plain) for name, runs in scores.items() if name != "as it is"}
    section.numbers |= {f"change by {name}": change for name, (change, _, _) in changes.items()}
    sure = {name: change for name, change in changes.items() if change[2] < 0}
    if not sure:
        return f"None of {len(changes)} measures against leaks, each tried on {len(plain)} networks, is shown to help."
    told = []
    for name in sorted(sure, key=lambda name: sure[name][0]):
        cost = 100 * _change(scores[name], plain, "accuracy")[0]
        told.append(f"{name} ({sure[name][0]:+.2f}, accuracy {cost:+.0f} points)")
    return (
        f"{len(sure)} of {len(changes)} measures {'lowers' if len(sure) == 1 else 'lower'} the AUROC of membership, "
        f"each tried on {len(plain)} networks: {listed(told)}."
    )
