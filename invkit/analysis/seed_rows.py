"""Rows of scores by seed, and what one row has over another."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """By how much one method is above another, over seeds that both ran with; negative where it is below.

    >>> print(Lead(mean=1.0, low=0.2, high=1.8, seeds=3, level=0.95))
    1 [0.2, 1.8] (95%, 3 seeds)
    """

    mean: float
    """Mean difference."""
    low: float
    """Lower end of its interval; minus infinity with a single seed, which tells nothing of the spread."""
    high: float
    """Upper end of its interval; infinity with a single seed."""
    seeds: int
    """Seeds that were compared."""
    level: float
    """Confidence of the interval, in (0, 1)."""

    @property
    def certain(self) -> bool:
        """Whether the interval leaves out zero and everything below.

        >>> Lead(mean=1.0, low=0.2, high=1.8, seeds=3, level=0.95).certain
        True
        """
        return self.low > 0

    def __str__(self) -> str:
        if self.seeds < 2:
            return f"{self.mean:.3g} (one seed: no interval)"
        return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}] ({self.level:.0%}, {self.seeds} seeds)"


class SeedRows(dict[str, Sequence[Mapping[str, float]]]):
    """Names with one mapping of scores for each seed, as :func:`invkit.show.table` shows them.

    Args:
        rows: Names to lists of mappings, one for each seed; one mapping alone counts as one seed.

    >>> rows = SeedRows({"a": [{"x": 3.0}, {"x": 5.0}], "b": [{"x": 1.0}, {"x": 4.0}]})
    >>> rows.mean("a", "x"), rows.worst_lead("x", "a", "b")
    (4.0, 1.0)
    """

    def __init__(self, rows: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.add(rows or {})

    def add(self, rows: Mapping[str, Any], suffix: str = "") -> None:
        """Take further rows in, under their names with ``suffix``.

        Args:
            rows: As the constructor takes them.
            suffix: What is put behind each name.

        >>> rows = SeedRows({"a": {"x": 3.0}})
        >>> rows.add({"a": {"x": 4.0}}, " on digits")
        >>> list(rows)
        ['a', 'a on digits']
        """
        for name, row in rows.items():
            self[name + suffix] = [row] if isinstance(row, Mapping) else row

    def columns(self, keys: Iterable[str], *names: str) -> dict[str, list[float]]:
        """The numbers of some rows, one list over the seeds for each row and score.

        Args:
            keys: Which scores.
            names: Which rows.

        Returns:
            ``{"name, key": [one number for each seed]}``, as :meth:`~invkit.book.ledger.claims.Claims.test` takes it.

        >>> SeedRows({"a": [{"x": 3.0}, {"x": 5.0}]}).columns(["x"], "a")
        {'a, x': [3.0, 5.0]}
        """
        return {f"{name}, {key}": self._values(name, key) for key in keys for name in names}

    def mean(self, name: str, key: str) -> float:
        """Mean of the score ``key`` of the row ``name`` over its seeds.

        Args:
            name: The row.
            key: The score.

        Returns:
            The mean.

        >>> SeedRows({"a": [{"x": 3.0}, {"x": 5.0}]}).mean("a", "x")
        4.0
        """
        return statistics.fmean(self._values(name, key))

    def deviation(self, name: str, key: str) -> float:
        """Standard deviation of the score ``key`` of the row ``name`` over its seeds.

        Args:
            name: The row.
            key: The score.

        Returns:
            The deviation, with n - 1 in the denominator; nan for a single seed.

        >>> SeedRows({"a": [{"x": 3.0}, {"x": 5.0}]}).deviation("a", "x") ** 2
        2.0000...
        """
        values = self._values(name, key)
        return statistics.stdev(values) if len(values) > 1 else math.nan

    def lead(self, key: str, first: str, second: str, level: float = 0.95) -> Lead:
        """By how much ``first`` is above ``second``, with the interval of a paired t-test over the seeds.

        Rows are compared seed by seed, as far as both go.

        Args:
            key: The score.
            first: A row.
            second: The row that it is compared with.
            level: Confidence of the interval, in (0, 1).

        Returns:
            The mean difference and its interval, which is infinite for a single seed.

        Raises:
            ValueError: For a level outside (0, 1), or rows without a seed in common.

        >>> rows = SeedRows({"a": [{"x": 3.0}, {"x": 5.0}], "b": [{"x": 1.0}, {"x": 4.0}]})
        >>> print(rows.lead("x", "a", "b"))
        1.5 [-4.85, 7.85] (95%, 2 seeds)
        """
        if not 0 < level < 1:
            raise ValueError(f"level must lie in (0, 1), not {level}")
        differences = self._differences(key, first, second)
        mean, count = statistics.fmean(differences), len(differences)
        if count < 2:
            return Lead(mean=mean, low=-math.inf, high=math.inf, seeds=count, level=level)
        from scipy.stats import t  # imported where needed: it takes a second

        half = float(t.ppf((1 + level) / 2, count - 1)) * statistics.stdev(differences) / math.sqrt(count)
        return Lead(mean=mean, low=mean - half, high=mean + half, seeds=count, level=level)

    def worst_lead(self, key: str, first: str, second: str) -> float:
        """By how much ``first`` is above ``second`` at the seed where it leads by least; negative where it is below.

        Args:
            key: The score.
            first: A row.
            second: The row that it is compared with, seed by seed, as far as both go.

        Returns:
            The smallest difference.

        Raises:
            ValueError: For rows without a seed in common.

        >>> rows = SeedRows({"a": [{"x": 3.0}, {"x": 5.0}], "b": [{"x": 1.0}, {"x": 4.0}]})
        >>> rows.worst_lead("x", "a", "b")
        1.0
        """
        return min(self._differences(key, first, second))

    def _values(self, name: str, key: str) -> list[float]:
        return [row[key] for row in self[name]]

    def _differences(self, key: str, first: str, second: str) -> list[float]:
        pairs = list(zip(self._values(first, key), self._values(second, key), strict=False))
        if not pairs:
            raise ValueError(f"{first!r} and {second!r} have no seed in common to be compared at")
        return [one - other for one, other in pairs]
