"""The plots of the book: loss curves, heat maps, and curves and bars with their spread over seeds.

Every function returns a :class:`~invkit.show.picture.Canvas`: a matplotlib figure with an alt text, which can
be replaced by setting ``.alt`` or by :func:`~invkit.show.picture.described`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from invkit.results import InversionResult
from invkit.show.picture import CSS_DPI, Canvas

PALETTE = "colorblind"
COLOUR_MAP = "cividis"  # perceptually uniform, and the same to readers with red-green blindness
DASHES = ("-", "--", ":", "-.")
RC: dict[str, Any] = {
    "svg.hashsalt": "invkit",  # ids in SVG files are the same from run to run
    "figure.dpi": CSS_DPI,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
}


def style() -> None:
    """Give pyplot and seaborn the look of the book's figures; the functions here have it anyway."""
    sns.set_theme(context="notebook", style="whitegrid", palette=PALETTE, rc=RC)


def plot(width: float = 6.4, height: float = 3.6) -> tuple[Canvas, Axes]:
    """An empty figure of that size in inches (96 CSS pixels each) and its axes, in the style of the book."""
    figure = Canvas(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    axes = figure.add_subplot()
    sns.despine(ax=axes)
    return figure, axes


@contextmanager
def _styled() -> Iterator[list[Any]]:
    look: dict[Any, Any] = {**sns.axes_style("whitegrid"), **sns.plotting_context("notebook"), **RC}
    with mpl.rc_context(look):
        yield sns.color_palette(PALETTE)


def loss_curves(
    history: InversionResult | Mapping[str, Sequence[float]], log: bool = True, *, title: str | None = None
) -> Canvas:
    """The losses of a run by term over its steps, on a logarithmic axis (linear near zero if need be).

    ``history`` is a result, or a mapping from a term's name to one value per step. Raises ``ValueError`` if
    it is empty or not finite.
    """
    terms = history.history if isinstance(history, InversionResult) else history
    curves = {
        name: _line(values, f"loss_curves: term {name!r}") for name, values in terms.items() if len(values)
    }
    if not curves:
        raise ValueError("loss_curves was given a history without a single value")
    with _styled() as palette:
        figure, axes = plot()
        for i, (name, values) in enumerate(curves.items()):
            axes.plot(values, color=palette[i % len(palette)], linestyle=DASHES[i % len(DASHES)], label=name)
        if log:
            _log_scale(axes, np.concatenate(list(curves.values())))
        axes.set(xlabel="step", ylabel="loss term, weighted", title=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(axes, len(curves))
    ends = "; ".join(f"{name} from {v[0]:.3g} to {v[-1]:.3g}" for name, v in curves.items())
    figure.alt = f"Loss by term over {max(map(len, curves.values())):,} steps: {ends}."
    return figure


def heat_map(
    table: pd.DataFrame | Sequence[Mapping[str, Any]],
    x: str,
    y: str,
    value: str,
    *,
    best: Literal["max", "min"] | None = "max",
    decimals: int = 2,
    title: str | None = None,
) -> Canvas:
    """``value`` over the grid of ``x`` and ``y``, one row of ``table`` per cell; the best cell is framed.

    Cells that were not measured stay grey. Raises ``ValueError`` on a missing column, on two values for one
    cell or if no value is finite.
    """
    frame = pd.DataFrame(table)
    if missing := {x, y, value} - set(frame.columns):
        raise ValueError(f"heat_map: no column {sorted(missing)} in the table; it has {list(frame.columns)}")
    grid = frame.pivot(index=y, columns=x, values=value).astype(float).sort_index(ascending=False)
    if not np.isfinite(grid.to_numpy()).any():
        raise ValueError(f"heat_map: column {value!r} holds no finite number")
    with _styled():
        figure, axes = plot(max(3.2, 1.6 + 0.72 * grid.shape[1]), max(2.2, 1.0 + 0.45 * grid.shape[0]))
        options = {"annot": True, "fmt": f".{decimals}f", "linewidths": 0.5, "annot_kws": {"size": 9}}
        sns.heatmap(grid, cmap=COLOUR_MAP, ax=axes, cbar_kws={"label": value}, **options)
        axes.set(facecolor="#cccccc", title=title, xlabel=x, ylabel=y)
        axes.set_xticks(axes.get_xticks(), [_short(v) for v in grid.columns], rotation=0)
        axes.set_yticks(axes.get_yticks(), [_short(v) for v in grid.index], rotation=0)
        axes.tick_params(length=0)
        where = _frame_best(axes, grid, best) if best else None
    figure.alt = f"Heat map of {value} over {grid.shape[1]} values of {x} and {grid.shape[0]} of {y}."
    if where:
        place = f"{x} {_short(grid.columns[where[1]])}, {y} {_short(grid.index[where[0]])}"
        figure.alt += f" {str(best).capitalize()}imum {grid.iloc[where]:.{decimals}f} at {place}."
    return figure


def curve_with_spread(
    x: Sequence[float],
    ys: Mapping[str, Any],
    *,
    xlabel: str,
    ylabel: str,
    log_x: bool = False,
    log_y: bool = False,
    title: str | None = None,
) -> Canvas:
    """Each curve's mean and, as a band, its standard deviation over seeds.

    ``ys`` holds arrays (seeds, len(x)), or (len(x),) for a single seed. Raises ``ValueError`` on a curve of
    another length or with non-finite values.
    """
    curves = {
        name: _seeds(values, len(x), f"curve_with_spread: curve {name!r}") for name, values in ys.items()
    }
    with _styled() as palette:
        figure, axes = plot()
        for i, (name, values) in enumerate(curves.items()):
            mean, spread = values.mean(0), _sd(values)
            colour = palette[i % len(palette)]
            axes.plot(
                x, mean, color=colour, linestyle=DASHES[i % len(DASHES)], marker="o", markersize=4, label=name
            )
            axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
        axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
        if log_x:
            axes.set_xscale("log")
            axes.set_xticks(list(x), [f"{v:,g}" for v in x])
            axes.minorticks_off()
        if log_y:
            axes.set_yscale("log")
        _legend(axes, len(curves))
    ends = "; ".join(f"{name} from {v.mean(0)[0]:.3g} to {v.mean(0)[-1]:.3g}" for name, v in curves.items())
    figure.alt = (
        f"{ylabel} against {xlabel} from {x[0]:,g} to {x[-1]:,g}: {ends} (means over {_count(curves)})."
    )
    return figure


def bar_with_spread(values: Mapping[str, Any], *, ylabel: str, title: str | None = None) -> Canvas:
    """One horizontal bar per name: mean and standard deviation over seeds, and each seed as a dot.

    ``values`` maps a name to a number or to one per seed; ``ylabel`` says what they measure. Raises
    ``ValueError`` if there is nothing to draw or a value is not finite.
    """
    bars = {
        name: _line(np.atleast_1d(np.asarray(v, float)), f"bar_with_spread: {name!r}")
        for name, v in values.items()
    }
    if not bars:
        raise ValueError("bar_with_spread was given no values")
    with _styled() as palette:
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
    told = "; ".join(f"{name} {v.mean():.3g} ± {_sd(v):.2g}" for name, v in bars.items())
    figure.alt = f"Bars of {ylabel}: {told} (mean ± standard deviation over {_count(bars)})."
    return figure


def _short(value: Any) -> str:
    return f"{value:,g}" if isinstance(value, int | float) else str(value)


def _line(values: Any, what: str) -> NDArray[np.float64]:
    line = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=float)
    if line.ndim != 1 or not line.size:
        raise ValueError(f"{what} should be a sequence of numbers, not an array of shape {line.shape}")
    if not np.isfinite(line).all():
        raise ValueError(f"{what} is not finite at index {int(np.argmin(np.isfinite(line)))}")
    return line


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


def _count(arrays: Mapping[str, NDArray[np.float64]]) -> str:
    sizes = sorted({len(v) for v in arrays.values()})
    return f"{sizes[0]} seed{'s' * (sizes[0] > 1)}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} seeds"


def _log_scale(axes: Axes, values: NDArray[np.float64]) -> None:
    positive = np.abs(values[values != 0])
    if (values > 0).all():
        axes.set_yscale("log")
    elif positive.size:  # zeros and negative values have no logarithm: linear below the smallest tenth
        axes.set_yscale(
            "symlog", linthresh=max(float(np.quantile(positive, 0.1)), float(positive.max()) * 1e-6)
        )


def _legend(axes: Axes, n: int) -> None:
    if n > 1 or any(not str(h.get_label()).startswith("_") for h in axes.lines[:1]):
        axes.legend(
            loc="upper left", bbox_to_anchor=(0, -0.18), ncols=min(n, 3), frameon=False, borderaxespad=0
        )


def _frame_best(axes: Axes, grid: pd.DataFrame, best: str) -> tuple[int, int]:
    flat = (np.nanargmax if best == "max" else np.nanargmin)(grid.to_numpy())
    row, column = divmod(int(flat), grid.shape[1])
    axes.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor="#d55e00", linewidth=3))
    return row, column
