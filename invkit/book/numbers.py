"""Measured numbers: their mean and spread over seeds, and how they are told."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np


def summaries(measured: Any, what: str) -> dict[str, dict[str, Any]]:
    """Mean, standard deviation (absent for one value) and count of each measured quantity.

    Raises ``ValueError``, beginning with ``what``, if there is no number or one is not finite.
    """
    named = measured if isinstance(measured, Mapping) else {"": measured}
    if not named:
        raise ValueError(f"{what}: measured is empty")
    return {str(name): _summary(value, f"{what}{' ' * bool(name)}{name}") for name, value in named.items()}


def _summary(value: Any, what: str) -> dict[str, Any]:
    try:
        values = [float(v) for v in np.atleast_1d(np.asarray(value, dtype=float))]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: measured should be numbers, not {value!r}") from error
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(f"{what}: measured holds no number or one that is not finite: {values}")
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": spread, "n": len(values)}


def tell(found: Mapping[str, Any]) -> str:
    """A summary as ``mean ± sd`` with three significant digits."""
    mean, sd = found["mean"], found["sd"]
    return _digits(mean) if sd is None else f"{_digits(mean)} ± {_digits(sd, 2)}"


def _digits(value: float, n: int = 3) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.{n}g}"
