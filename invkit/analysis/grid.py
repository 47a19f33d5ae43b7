"""Searching a grid of settings: every point, the best of them, and how many hills the scores have."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from invkit.core.config import config_hash, plain
from invkit.core.device import progress
from invkit.core.files import read_json, write_json

Row = dict[str, Any]
"""A point of a grid with its scores."""
Grid = Mapping[str, Sequence[Any]]
"""Settings by name with the values that they may take."""


def grid_points(grid: Grid, what: str = "a grid") -> list[dict[str, Any]]:
    """All points of a grid, the last setting moving fastest.

    Args:
        grid: Settings by name with the values that they may take.
        what: What to call it in an error.

    Returns:
        One mapping of settings for each point.

    Raises:
        ValueError: For no settings, or one without values.

    >>> grid_points({"tv": [0.1, 1.0], "l2": [0.0]})
    [{'tv': 0.1, 'l2': 0.0}, {'tv': 1.0, 'l2': 0.0}]
    """
    if not grid or not all(len(values) for values in grid.values()):
        raise ValueError(f"{what} needs at least one value for each of its settings")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def grid_search(
    evaluate: Callable[..., Mapping[str, float]],
    grid: Grid,
    *,
    folder: str | Path | None = None,
) -> list[Row]:
    """Evaluate a function at every point of a grid; the paper scored points by Inception Score (Botach & Cohen, §5.1).

    Args:
        evaluate: Called with one value of each parameter by name; returns scores by name.
        grid: Parameters with their values.
        folder: Where each finished point is kept, not to be evaluated again.

    Returns:
        Rows that hold the point and its scores, in the grid's order.

    Raises:
        ValueError: For an empty grid, or a file of a finished point that is damaged.

    >>> grid_search(lambda a, b: {"sum": a + b}, {"a": [1, 2], "b": [3]})
    [{'a': 1, 'b': 3, 'sum': 4}, {'a': 2, 'b': 3, 'sum': 5}]
    """
    rows: list[Row] = []
    points = grid_points(grid)
    for point in progress(points, len(points), "grid"):
        path = Path(folder) / f"{config_hash(point)}.json" if folder else None
        if path and path.exists():
            rows.append(read_json(path, "point of a grid", advice="; remove it to evaluate the point again"))
            continue
        rows.append(plain(point | dict(evaluate(**point))))
        if path:
            write_json(path, rows[-1])
    return rows


def best_row(rows: Sequence[Row], score: str) -> Row:
    """The row with the highest score.

    Args:
        rows: As :func:`grid_search` gives them.
        score: The name of the score.

    Returns:
        One of ``rows``, the first of several.

    >>> best_row([{"a": 1, "s": 0.5}, {"a": 2, "s": 0.7}], "s")
    {'a': 2, 's': 0.7}
    """
    return max(rows, key=lambda row: row[score])


def local_maxima(rows: Sequence[Row], grid: Grid, score: str, *, margin: float = 0.0) -> list[Row]:
    """Rows that score more than every neighbour, one step away along one of the grid's axes or along several at once.

    More than one such row means that the score is not concave over the grid.

    Args:
        rows: As :func:`grid_search` gives them.
        grid: The grid that they come from.
        score: The name of the score.
        margin: How much more, as a share of the neighbour's score: noise alone makes maxima of a small one.

    Returns:
        Some of ``rows``.

    >>> grid = {"a": [0, 1, 2]}
    >>> len(local_maxima([{"a": a, "s": s} for a, s in zip([0, 1, 2], [3, 1, 2])], grid, "s"))
    2
    """
    axes = {name: plain(list(values)) for name, values in grid.items()}  # as the rows, whose tuples may be lists
    positions = {tuple(values.index(plain(row[name])) for name, values in axes.items()): row for row in rows}
    maxima = []
    for position, row in positions.items():
        around = itertools.product((-1, 0, 1), repeat=len(position))
        neighbours = {tuple(map(sum, zip(position, step, strict=True))) for step in around} - {position}
        beside = [positions[place][score] for place in neighbours if place in positions]
        if all(row[score] > value + margin * abs(value) for value in beside):
            maxima.append(row)
    return maxima
