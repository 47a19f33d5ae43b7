"""Scores of several ways of doing a thing, each measured with the same seeds, and how they compare seed by seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class SeedRows(dict[str, Sequence[Mapping[str, float]]]):
    """Names with one mapping of scores for each seed; :func:`~invkit.show.tables.table` shows them and their spread."""

    def __init__(self, rows: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.add(rows or {})

    def columns(self, keys: Iterable[str], *names: str) -> dict[str, list[float]]:
        """``{"name, key": [one number for each seed]}``, as :meth:`~invkit.show.claims.Claims.add` takes it."""
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
