"""Methods and settings side by side: grids of settings, scores seed by seed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from invkit.core.config import config_hash, plain
from invkit.core.device import progress
from invkit.core.files import write_json

Row = dict[str, Any]


def grid_search(
    evaluate: Callable[..., Mapping[str, float]],
    grid: Mapping[str, Sequence[Any]],
    *,
    folder: str | Path | None = None,
) -> list[Row]:
    """``evaluate(**point)`` at every point of ``grid``; rows hold the point and its scores, in the grid's order.

    With ``folder``, each finished point is kept there and not evaluated again. The paper scored points by Inception
    Score (Botach & Cohen, §5.1). Raises ``ValueError`` for an empty grid.
    """
    if not grid or not all(len(values) for values in grid.values()):
        raise ValueError("a grid needs at least one value for each of its parameters")
    rows: list[Row] = []
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    for point in progress(points, len(points), "grid"):
        path = Path(folder) / f"{config_hash(point)}.json" if folder else None
        if path and path.exists():
            rows.append(json.loads(path.read_text(encoding="utf-8")))
            continue
        rows.append(plain(point | dict(evaluate(**point))))
        if path:
            write_json(path, rows[-1])
    return rows


def best_row(rows: Sequence[Row], score: str) -> Row:
    """The row with the highest ``score``."""
    return max(rows, key=lambda row: row[score])


def local_maxima(rows: Sequence[Row], grid: Mapping[str, Sequence[Any]], score: str) -> list[Row]:
    """Rows whose ``score`` exceeds that of every neighbour, one step along one axis of the grid; more than one means
    that the score is not concave over the grid.

    >>> grid = {"a": [0, 1, 2]}
    >>> len(local_maxima([{"a": a, "s": s} for a, s in zip([0, 1, 2], [3, 1, 2])], grid, "s"))
    2
    """
    places = {tuple(list(values).index(row[name]) for name, values in grid.items()): row for row in rows}

    def peaks(place: tuple[int, ...], row: Row) -> bool:
        steps = ((*place[:k], place[k] + d, *place[k + 1 :]) for k in range(len(place)) for d in (-1, 1))
        return all(row[score] > places[n][score] for n in steps if n in places)

    return [row for place, row in places.items() if peaks(place, row)]


class SeedRows(dict[str, Sequence[Mapping[str, float]]]):
    """Names with one mapping of scores for each seed; :func:`~invkit.show.tables.table` shows them and their spread."""

    def __init__(self, rows: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.add(rows or {})

    def columns(self, keys: Iterable[str], *names: str) -> dict[str, list[float]]:
        """``{"name, key": [one number for each seed]}``, as :meth:`~invkit.book.claims.Claims.add` takes it."""
        return {f"{name}, {key}": [row[key] for row in self[name]] for key in keys for name in names}

    def lead(self, key: str, first: str, second: str) -> float:
        """By how much ``first`` is above ``second`` at the seed where it leads by least; negative where it is below.

        Rows are compared seed by seed, as far as both go.

        >>> SeedRows({"a": [{"x": 3.0}, {"x": 5.0}], "b": [{"x": 1.0}, {"x": 4.0}]}).lead("x", "a", "b")
        1.0
        """
        return min(one[key] - other[key] for one, other in zip(self[first], self[second], strict=False))

    def add(self, rows: Mapping[str, Any], suffix: str = "") -> None:
        """Takes further rows in, under their names with ``suffix``; one mapping alone counts as one seed."""
        for name, row in rows.items():
            self[name + suffix] = [row] if isinstance(row, Mapping) else row
