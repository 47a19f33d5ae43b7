"""Plots of quantities with their spread: curves and bars over seeds, histograms over images.

All return a :class:`~invkit.show.picture.Canvas` with an alt text that tells the means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from invkit.show.figures import DASHES, MARKERS, legend, line, plot, styled
from invkit.show.picture import Canvas

FEW = 8  # numbers along an axis that do not touch


def curve_with_spread(
    x: Sequence[float],
    ys: Mapping[str, Any],
    *,
    xlabel: str,
    ylabel: str,
    log_x: bool = False,
    log_y: bool = False,
    title: str | None = None,
    over: str = "seeds",
) -> Canvas:
    """Each curve's mean and, as a band, its standard deviation over seeds.

    Args:
        x: Places along the horizontal axis.
        ys: Curves by name: arrays ``(seeds, len(x))``, or ``(len(x),)`` for a single seed.
        xlabel: Name of the horizontal axis.
        ylabel: Name of the vertical axis.
        log_x: Whether the horizontal axis is logarithmic.
        log_y: Whether the vertical axis is.
        title: Heading of the figure.
        over: What the rows of a curve are, in the plural.

    Returns:
        A figure whose alt text tells where each mean begins and ends.

    Raises:
        ValueError: If there is no curve, or one of another length or with values that are not finite.

    >>> curve_with_spread([1, 2], {"ours": [[0.0, 0.5], [0.5, 1.0]]}, xlabel="steps", ylabel="accuracy").alt
    'accuracy against steps from 1 to 2: ours from 0.25 to 0.75 (means over 2 seeds).'
    """
    curves = {name: _seeds(values, len(x), f"curve_with_spread: curve {name!r}") for name, values in ys.items()}
    if not curves:
        raise ValueError("curve_with_spread was given no curves")
    with styled() as palette:
        figure, axes = plot()
        for i, (name, values) in enumerate(curves.items()):
            mean, spread = values.mean(0), _sd(values)
            colour = palette[i % len(palette)]
            look = {"linestyle": DASHES[i % len(DASHES)], "marker": MARKERS[i % len(MARKERS)], "markersize": 4}
            axes.plot(x, mean, color=colour, label=name, **look)
            axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
        axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
        if log_x:
            axes.set_xscale("log")
            axes.set_xticks(list(x), [f"{v:,g}" for v in x])
            axes.minorticks_off()
        elif _are_counts(x):  # no tick between two depths
            axes.set_xticks(list(x), [f"{v:,g}" for v in x])
        if log_y:
            axes.set_yscale("log")
        legend(axes, len(curves))
    ends = "; ".join(f"{name} from {v.mean(0)[0]:.3g} to {v.mean(0)[-1]:.3g}" for name, v in curves.items())
    figure.alt = f"{ylabel} against {xlabel} from {x[0]:,g} to {x[-1]:,g}: {ends} (means over {_count(curves, over)})."
    return figure


def _are_counts(x: Sequence[float]) -> bool:
    """Whether these are few whole numbers, far enough from each other for a tick each."""
    whole = all(float(v).is_integer() for v in x)
    return whole and 1 < len(x) <= FEW and float(np.ptp(x)) <= FEW * float(np.abs(np.diff(x)).min())


def bar_with_spread(values: Mapping[str, Any], *, ylabel: str, title: str | None = None) -> Canvas:
    """One horizontal bar per name: mean and standard deviation over seeds, and each seed as a dot.

    Args:
        values: By name a number, or one for each seed.
        ylabel: What they measure.
        title: Heading of the figure.

    Returns:
        A figure whose alt text tells means and standard deviations.

    Raises:
        ValueError: If there is nothing to draw or a value is not finite.

    >>> bar_with_spread({"ours": [0.8, 1.0], "theirs": [0.5, 0.5]}, ylabel="accuracy").alt
    'Bars of accuracy: ours 0.9 ± 0.14; theirs 0.5 ± 0 (mean ± standard deviation over 2 seeds).'
    """
    bars = {name: line(np.atleast_1d(np.asarray(v, float)), f"bar_with_spread: {name!r}") for name, v in values.items()}
    if not bars:
        raise ValueError("bar_with_spread was given no values")
    with styled() as palette:
        figure, axes = plot(height=0.9 + 0.42 * len(bars))
        means, rows = [v.mean() for v in bars.values()], range(len(bars))
        axes.barh(
            rows,
            means,
            xerr=[_sd(v) or np.nan for v in bars.values()],
            color=palette[0],
            alpha=0.75,
            height=0.62,
            capsize=3,
        )
        for row, seeds in enumerate(bars.values()):
            if len(seeds) > 1:
                axes.plot(seeds, [row + 0.2] * len(seeds), "o", color="black", markersize=3, zorder=3)
        axes.set_yticks(rows, list(bars))
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set(xlabel=ylabel, title=title)
    parts = "; ".join(f"{name} {v.mean():.3g} ± {_sd(v):.2g}" for name, v in bars.items())
    figure.alt = f"Bars of {ylabel}: {parts} (mean ± standard deviation over {_count(bars)})."
    return figure


def histogram(
    values: Mapping[str, Any],
    *,
    xlabel: str,
    bins: int = 20,
    limits: tuple[float, float] | None = None,
    marks: Mapping[str, float] | None = None,
    title: str | None = None,
) -> Canvas:
    """How each set of values is spread: the share of its values in each of some equal bins.

    Args:
        values: Sets of values ``(n,)`` by name.
        xlabel: What they measure.
        bins: How many bins.
        limits: Ends of the axis, by default those of all values.
        marks: Values at which a vertical line stands, by name.
        title: Heading of the figure.

    Returns:
        A figure whose alt text tells median and range of each set.

    Raises:
        ValueError: If there is nothing to draw, and for values that are not finite or outside the limits.

    >>> histogram({"inside": [0.8, 0.9, 1.0]}, xlabel="confidence").alt
    'Histogram of confidence: median (and range) of inside 0.9 (0.8 to 1).'
    """
    sets = {name: line(v, f"histogram: {name!r}") for name, v in values.items()}
    if not sets:
        raise ValueError("histogram was given no values")
    together = np.concatenate(list(sets.values()))
    low, high = limits or (float(together.min()), float(together.max()))
    if together.min() < low or together.max() > high:
        raise ValueError(f"histogram: values run from {together.min():g} to {together.max():g}, outside the limits")
    edges = np.histogram_bin_edges(together, bins, (low, high))
    with styled() as palette:
        figure, axes = plot()
        for i, (name, numbers) in enumerate(sets.items()):
            share = np.histogram(numbers, edges)[0] / len(numbers)
            look: dict[str, Any] = {"color": palette[i % len(palette)], "linestyle": DASHES[i % len(DASHES)]}
            axes.stairs(share, edges, linewidth=1.8, label=name, **look)
            axes.stairs(share, edges, fill=True, alpha=0.12, color=look["color"])
        for i, (name, value) in enumerate((marks or {}).items()):
            axes.axvline(value, color="black", linestyle=DASHES[i % len(DASHES)], linewidth=1, label=name)
        axes.set(xlabel=xlabel, ylabel="share", title=title, xlim=(low, high) if low < high else None)
        legend(axes, len(sets) + len(marks or {}))
    parts = "; ".join(f"{name} {np.median(v):.3g} ({v.min():.3g} to {v.max():.3g})" for name, v in sets.items())
    figure.alt = f"Histogram of {xlabel}: median (and range) of {parts}."
    if marks:
        figure.alt += f" Lines at {', '.join(f'{value:.3g} ({name})' for name, value in marks.items())}."
    return figure


def _seeds(values: Any, length: int, what: str) -> NDArray[np.float64]:
    array = np.atleast_2d(np.asarray(torch.as_tensor(values).cpu(), dtype=float))
    if array.ndim != 2 or array.shape[1] != length:
        raise ValueError(f"{what} should have shape (seeds, {length}), not {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{what} holds values that are not finite")
    return array


def _sd(values: NDArray[np.float64]) -> Any:
    """Standard deviation over the first axis, the seeds; zero for one seed."""
    return values.std(0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1:])


def _count(arrays: Mapping[str, NDArray[np.float64]], over: str = "seeds") -> str:
    sizes = sorted({len(v) for v in arrays.values()})
    return (
        f"{sizes[0]} {over[: -1 if sizes[0] == 1 else None]}"
        if len(sizes) == 1
        else f"{sizes[0]} to {sizes[-1]} {over}"
    )
