"""Measured numbers: their mean and standard deviation over seeds, and how they are written."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

import numpy as np


class Summary(TypedDict):
    """Mean, standard deviation (None for a single value) and number of values."""

    mean: float
    sd: float | None
    n: int


def is_summary(value: Any) -> bool:
    """Whether ``value`` is a :class:`Summary` already.

    >>> is_summary({"mean": 0.5, "sd": None, "n": 1}), is_summary([0.5])
    (True, False)
    """
    return isinstance(value, Mapping) and set(value) == {"mean", "sd", "n"}


def finite(value: Any, what: str) -> list[float]:
    """The numbers of ``value``, which is one number or a sequence, array or tensor of them.

    Args:
        value: One number, or one for each seed.
        what: Name of the quantity, with which an error begins.

    Raises:
        ValueError: If there is no number, or one is not finite.

    >>> finite(2, "loss"), finite(np.array([1.0, 2.0]), "loss")
    ([2.0], [1.0, 2.0])
    """
    try:
        values = [float(v) for v in np.atleast_1d(np.asarray(value, dtype=float))]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: measured should be numbers, not {value!r}") from error
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(f"{what}: measured holds no number or one that is not finite: {values}")
    return values


def summarise(value: Any, what: str = "value") -> Summary:
    """Mean, standard deviation and count of one number or several; a summary comes back as it is.

    Raises:
        ValueError: If there is no number, or one is not finite.

    >>> summarise([1.0, 3.0])
    {'mean': 2.0, 'sd': 1.4142..., 'n': 2}
    """
    if is_summary(value):
        finite(value["mean"], what)
        return Summary(mean=value["mean"], sd=value["sd"], n=value["n"])
    values = finite(value, what)
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": deviation, "n": len(values)}


def summaries(measured: Any, what: str) -> dict[str, Summary]:
    """A summary of each measured quantity; of a single one, without a name, under the empty name.

    Raises:
        ValueError: If there is no quantity, or one of them holds no number or one that is not finite.

    >>> summaries({"own": [1.0, 1.0]}, "chapter 1"), summaries(0.5, "chapter 1")
    ({'own': {'mean': 1.0, 'sd': 0.0, 'n': 2}}, {'': {'mean': 0.5, 'sd': None, 'n': 1}})
    """
    named = measured if isinstance(measured, Mapping) else {"": measured}
    if not named:
        raise ValueError(f"{what}: measured is empty")
    return {str(name): summarise(value, f"{what} {name}".rstrip()) for name, value in named.items()}


def format_summary(summary: Summary) -> str:
    """A summary as ``mean ± sd``, both with as many decimals: the mean's for three significant digits, or fewer where
    the deviation has no more than two.

    >>> format_summary(summarise([1.0, 3.0])), format_summary(summarise(12345.6))
    ('2.0 ± 1.4', '12,346')
    >>> format_summary({"mean": 373.2, "sd": 104.4, "n": 3}), format_summary({"mean": 12.94, "sd": 0.027, "n": 3})
    ('373 ± 104', '12.9 ± 0.03')
    >>> format_summary({"mean": -4e-5, "sd": 0.0021, "n": 3}), format_summary({"mean": 8.5e-5, "sd": 1.1e-4, "n": 3})
    ('0.0000 ± 0.0021', '0.00009 ± 0.00011')
    """
    mean, sd = summary["mean"], summary["sd"]
    if sd is None:
        return format_number(mean)
    size = max(abs(mean), sd)
    if size >= 1e6 or 0 < size < (1e-5 if sd else 1e-3):  # with exponents
        return f"{format_number(mean)} ± {format_number(sd, 2)}"
    decimals = min((_decimals(value, digits) for value, digits in ((mean, 3), (sd, 2)) if value), default=0)
    spread = f"{sd:,.{decimals}f}"
    seen = float(spread.replace(",", "")) or sd < 10 ** -(decimals + 1)  # else 12.9 ± 0.03 would read as sure
    mean = round(mean, decimals) + 0.0  # no minus before a zero
    return f"{mean:,.{decimals}f} ± {spread if seen else format_number(sd, 1)}"


def over_seeds(values: Iterable[float], unit: str = "") -> str:
    """The mean of numbers, one for each seed, with ± their standard deviation, for a sentence.

    Args:
        values: Of each seed; of a single one there is no spread.
        unit: What follows; shares become percent with ``"%"``.

    Returns:
        The words, with as many decimals as the spread deserves.

    >>> over_seeds([18.4, 18.6], "dB"), over_seeds([0.98, 1.0, 0.99], "%"), over_seeds([0.5], "%")
    ('18.5 ± 0.1 dB', '99.0 ± 1.0%', '50%')
    """
    scale = 100 if unit == "%" else 1
    text = format_summary(summarise([scale * float(value) for value in values], "over_seeds"))
    return text + (unit if unit == "%" else f" {unit}" if unit else "")


def format_interval(mean: float, low: float, high: float, beside: Iterable[float] = ()) -> str:
    """A mean with the ends of its interval, all with the decimals that give half of its width two significant digits.

    Args:
        mean: What the interval is of.
        low, high: Its ends.
        beside: Thresholds; there are more decimals where rounding would move an end to another side of one of them.

    >>> format_interval(-2.361, -2.53, -2.2), format_interval(2.0, 0.04, 3.96, beside=[0])
    ('-2.36 [-2.53, -2.20]', '2.00 [0.04, 3.96]')
    """
    decimals = min(6, _decimals((high - low) / 2, 2)) if high > low else 2
    pairs = [(end, threshold) for threshold in beside for end in (low, high)]
    while decimals < 6 and any(_side(round(end, decimals), of) != _side(end, of) for end, of in pairs):
        decimals += 1
    mean, low, high = (round(value, decimals) + 0.0 for value in (mean, low, high))  # no minus before a zero
    return f"{mean:,.{decimals}f} [{low:,.{decimals}f}, {high:,.{decimals}f}]"


def _side(value: float, threshold: float) -> int:
    return (value > threshold) - (value < threshold)


def _decimals(value: float, digits: int) -> int:
    return max(0, digits - 1 - math.floor(math.log10(abs(value))))


def format_number(value: float, digits: int = 3) -> str:
    """A number to so many significant digits, in the thousands as a whole number.

    >>> format_number(0.12345), format_number(4321.5)
    ('0.123', '4,322')
    """
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.{digits}g}"
