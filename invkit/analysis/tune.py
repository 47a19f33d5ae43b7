"""Tuning that is the same for all: as many settings of each method, tried off the images that are evaluated."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invkit.analysis.compare import compare
from invkit.analysis.grid import Grid, grid_points
from invkit.core.config import plain
from invkit.core.results import InversionResult
from invkit.core.rng import seeded

Tunable = Callable[..., Tensor | InversionResult]
"""``method(references, generator, **settings)`` gives images, as :data:`~invkit.analysis.compare.Method` does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """The best setting of a method, and what was tried to find it.

    >>> Tuned(settings={"tv": 0.1}, score=20.5, tried=12, rows=()).tried
    12
    """

    settings: dict[str, Any]
    """What scored highest; arguments for the method."""
    score: float
    """Its score on the tuning references, the mean over the seeds. It says nothing of other images: evaluate anew."""
    tried: int
    """Settings that were tried, those that failed among them."""
    rows: tuple[dict[str, Any], ...]
    """Each setting with its score, in the order tried; one that failed has minus infinity."""


def tune(
    methods: Mapping[str, tuple[Tunable, Grid]],
    references: Tensor,
    judge: Callable[..., Mapping[str, float]],
    score: str,
    *,
    tries: int | None = None,
    seeds: Sequence[int] = (0,),
    evaluation: Tensor | None = None,
    generator: torch.Generator | None = None,
    folder: str | Path | None = None,
) -> dict[str, Tuned]:
    """Random search over each method's grid, with as many tries for each method.

    A baseline with its paper's weights beside a method with weights of one's own is a straw man, and weights chosen
    on the images that are then evaluated flatter whatever was chosen.

    Args:
        methods: By name a callable ``(references, generator, **settings)`` and its grid: settings by name with the
            values they may take. What one learns from has no place here: train with the settings inside the callable.
        references: What is inverted for tuning, one for each image: labels, features, logits.
        judge: As :func:`~invkit.analysis.compare.compare` takes it; it must know of these references alone.
        score: The name of the judge's score to be highest.
        tries: Settings of each method, drawn without repetition; None takes all of the smallest grid.
        seeds: Runs of each setting.
        evaluation: What is inverted for evaluation; refused where one of them is among ``references``. Labels repeat
            and cannot be told apart, so leave it out for them.
        generator: Draws the settings; a fixed one if None.
        folder: Where runs are kept, not to be repeated.

    Returns:
        By method its best setting, the score, and how many were tried.

    Raises:
        ValueError: For no methods, an empty grid, a grid with fewer points than ``tries``, a score that the judge does
            not give, references that are evaluated too, or a method that failed at every setting.

    >>> def brightness(references, generator, level):
    ...     return torch.full((len(references), 1, 4, 4), level)
    >>> def judge(images):
    ...     return {"closeness": -abs(float(images.mean()) - 0.3)}
    >>> tuned = tune({"grey": (brightness, {"level": [0.0, 0.25, 1.0]})}, torch.zeros(2, 1), judge, "closeness")
    >>> tuned["grey"].settings, tuned["grey"].tried
    ({'level': 0.25}, 3)
    """
    if evaluation is not None:
        _check_apart(references, evaluation)
    points = {name: grid_points(grid, f"the grid of {name!r}") for name, (_, grid) in methods.items()}
    if not points:
        raise ValueError("methods must be one or more, not none")
    smallest = min(points, key=lambda name: len(points[name]))
    tries = len(points[smallest]) if tries is None else tries
    if not 1 <= tries <= len(points[smallest]):
        raise ValueError(
            f"tries must lie in 1..{len(points[smallest])}, the points of the grid of {smallest!r}, not {tries}: each "
            "method is to have as many"
        )
    generator = generator or seeded(0)
    tuned = {}
    for name, (method, _) in methods.items():
        order = torch.randperm(len(points[name]), generator=generator)[:tries].tolist()
        chosen = [points[name][i] for i in order]
        tuned[name] = _best(name, method, chosen, references, judge, score, seeds, folder)
    return tuned


def _best(
    name: str, method: Tunable, chosen: Sequence[dict[str, Any]], references: Tensor,
    judge: Callable[..., Mapping[str, float]], score: str, seeds: Sequence[int], folder: str | Path | None,
) -> Tuned:  # fmt: skip
    settings = {f"{name} {plain(point)}": point for point in chosen}
    candidates = {title: partial(method, **point) for title, point in settings.items()}
    comparison = compare(candidates, references, judge, seeds, folder=folder)
    rows = []
    for title, point in settings.items():
        runs = comparison.scores.get(title, ())
        if runs and score not in runs[0]:
            raise ValueError(f"score must be one of the judge's, {', '.join(runs[0])}, not {score!r}")
        # A setting that failed at one seed is no setting to rely on.
        whole = len(runs) == len(seeds)
        rows.append(point | {score: comparison.mean(title, score) if whole else -math.inf})
    best = max(range(len(rows)), key=lambda i: rows[i][score])
    if rows[best][score] == -math.inf:
        raise ValueError(f"{name!r} failed at every setting: {'; '.join(comparison.failures.values())}")
    return Tuned(settings=chosen[best], score=rows[best][score], tried=len(rows), rows=tuple(rows))


def _check_apart(references: Tensor, evaluation: Tensor) -> None:
    seen = {row.numpy().tobytes() for row in evaluation.detach().cpu().contiguous()}
    common = sum(row.numpy().tobytes() in seen for row in references.detach().cpu().contiguous())
    if common:
        raise ValueError(f"references must not be evaluated too, but {common} of {len(references)} are")
