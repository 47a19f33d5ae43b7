"""The look of the book's plots, and two of them: loss curves and heat maps.

Every function returns a :class:`~invkit.show.picture.Canvas`: a matplotlib figure with an alt text, which can be
replaced by setting ``.alt`` or by :func:`~invkit.show.picture.described`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from invkit.core.results import InversionResult
from invkit.show.picture import CSS_DPI, Canvas

PALETTE = "colorblind"
APART = (0, 1, 2, 4, 7, 9, 3, 5, 6, 8)  # its colours, those last that look like one before
COLOUR_MAP = "cividis"  # perceptually uniform, and the same to readers with red-green blindness
# Lines and points are told apart without colour, up to six of them.
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (8, 2)), (0, (4, 1.5, 1, 1.5, 1, 1.5)))
MARKERS = "osD^vP"
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
    """Give pyplot and seaborn the look of the book's figures; the functions here have it anyway.

    >>> with mpl.rc_context():
    ...     style()
    ...     mpl.rcParams["axes.titlesize"]
    11.0
    """
    sns.set_theme(context="notebook", style="whitegrid", palette=PALETTE, rc=RC)


def plot(width: float = 6.4, height: float = 3.6) -> tuple[Canvas, Axes]:
    """An empty figure in the style of the book.

    Args:
        width: Inches, of 96 CSS pixels each.
        height: The same.

    Returns:
        The figure, whose alt text is yours to set, and its axes.

    >>> figure, axes = plot(3, 2)
    >>> lines = axes.plot([0, 1], [1, 0])
    >>> figure.alt = "A falling line."
    """
    figure = Canvas(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    figure.chart = True
    axes = figure.add_subplot()
    sns.despine(ax=axes)
    return figure, axes


@contextmanager
def styled() -> Iterator[list[Any]]:
    """The book's look while the block runs; yields the palette."""
    look: dict[Any, Any] = {**sns.axes_style("whitegrid"), **sns.plotting_context("notebook"), **RC}
    with mpl.rc_context(look):
        colours = sns.color_palette(PALETTE)
        yield [colours[i] for i in APART]


TERMS = {
    "tv": "total variation", "l2": "l2 norm", "kl": "divergence", "cross_entropy": "cross-entropy",
    "cross_entropy_perturbed": "cross-entropy, perturbed", "kl_perturbed": "divergence, perturbed",
    "batch_norm": "batch-norm statistics", "variation": "squared variation", "gradient": "gradient's norm",
}  # fmt: skip
"""Words for the terms of losses that have names of fields."""


def loss_curves(
    history: InversionResult | Mapping[str, Sequence[float]], log: bool = True, *, title: str | None = None
) -> Canvas:
    """The losses of a run by term over its steps.

    Args:
        history: A result, or a mapping from a term's name to one value per step.
        log: Whether the axis is logarithmic, linear near zero where there are zeros or negative values.
        title: Heading of the figure.

    Returns:
        A figure whose alt text tells each term's first and last value.

    Raises:
        ValueError: If the history is empty or not finite.

    >>> loss_curves({"total": [4.0, 2.0, 1.0]}).alt
    'Loss by term over 3 steps: total from 4 to 1.'
    """
    terms = history.history if isinstance(history, InversionResult) else history
    curves = {
        TERMS.get(name, name.replace("_", " ")): line(values, f"loss_curves: term {name!r}")
        for name, values in terms.items()
        if len(values)
    }
    if not curves:
        raise ValueError("loss_curves was given a history without a single value")
    with styled() as palette:
        figure, axes = plot()
        for i, (name, values) in enumerate(curves.items()):
            axes.plot(values, color=palette[i % len(palette)], linestyle=DASHES[i % len(DASHES)], label=name)
        if log:
            _log_scale(axes, np.concatenate(list(curves.values())))
        axes.set(xlabel="step", ylabel="loss term, weighted", title=title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(axes, len(curves))
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
    limits: tuple[float | None, float | None] = (None, None),
    title: str | None = None,
) -> Canvas:
    """A column of a table over the grid of two others; cells that were not measured stay grey.

    Args:
        table: A data frame, or one mapping for each cell.
        x: Column along the horizontal axis.
        y: Column along the vertical axis.
        value: Column that is shown.
        best: Which cell is framed: that of the largest value, of the smallest, or none.
        decimals: Digits after the point.
        limits: Ends of the colour scale, so that several maps can share one; None for those of the values.
        title: Heading of the figure.

    Returns:
        A figure whose alt text tells the best cell.

    Raises:
        ValueError: On a missing column, on two values for one cell or if no value is finite.

    >>> cells = [{"lr": 0.1, "tv": 0, "score": 0.5}, {"lr": 0.2, "tv": 0, "score": 0.9}]
    >>> heat_map(cells, x="lr", y="tv", value="score").alt
    'Heat map of score over 2 values of lr and 1 of tv. Maximum 0.90 at lr 0.2, tv 0.'
    """
    frame = pd.DataFrame(table)
    if missing := {x, y, value} - set(frame.columns):
        raise ValueError(f"heat_map: no column {sorted(missing)} in the table; it has {list(frame.columns)}")
    grid = frame.pivot(index=y, columns=x, values=value).astype(float).sort_index(ascending=False)
    if not np.isfinite(grid.to_numpy()).any():
        raise ValueError(f"heat_map: column {value!r} holds no finite number")
    with styled():
        figure, axes = plot(max(3.2, 1.6 + 0.72 * grid.shape[1]), max(2.2, 1.0 + 0.45 * grid.shape[0]))
        figure.chart = False  # lightness carries the values
        options = {"annot": True, "fmt": f".{decimals}f", "linewidths": 0.5, "annot_kws": {"size": 9}}
        options |= {"vmin": limits[0], "vmax": limits[1]}
        sns.heatmap(grid, cmap=COLOUR_MAP, ax=axes, cbar_kws={"label": value}, **options)
        axes.set(facecolor="#cccccc", title=title, xlabel=x, ylabel=y)
        axes.set_xticks(axes.get_xticks(), [_short(v) for v in grid.columns], rotation=0)
        axes.set_yticks(axes.get_yticks(), [_short(v) for v in grid.index], rotation=0)
        axes.tick_params(length=0)
        cell = _frame_best(axes, grid, best) if best else None
    figure.alt = f"Heat map of {value} over {grid.shape[1]} values of {x} and {grid.shape[0]} of {y}."
    if cell:
        place = f"{x} {_short(grid.columns[cell[1]])}, {y} {_short(grid.index[cell[0]])}"
        figure.alt += f" {str(best).capitalize()}imum {grid.iloc[cell]:.{decimals}f} at {place}."
    return figure


def _short(value: Any) -> str:
    return f"{value:,g}" if isinstance(value, int | float) else str(value)


def line(values: Any, what: str) -> NDArray[np.float64]:
    """A sequence of numbers as an array ``(n,)``.

    Raises:
        ValueError: Beginning with ``what``, if there is none or one is not finite.

    >>> line([1, 2], "heights")
    array([1., 2.])
    """
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=float)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{what} should be a sequence of numbers, not an array of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{what} is not finite at index {int(np.argmin(np.isfinite(array)))}")
    return array


def _log_scale(axes: Axes, values: NDArray[np.float64]) -> None:
    positive = np.abs(values[values != 0])
    if (values > 0).all():
        axes.set_yscale("log")
    elif positive.size:  # zeros and negative values have no logarithm: linear below the smallest tenth
        threshold = max(float(np.quantile(positive, 0.1)), float(positive.max()) * 1e-6)
        axes.set_yscale("symlog", linthresh=threshold)


def legend(axes: Axes, n: int) -> None:
    """A legend of ``n`` entries below the axes, where it hides nothing: three in a row, or two where names are long."""
    _, names = axes.get_legend_handles_labels()
    columns = min(n, 3 if max(map(len, names)) <= 14 else 2)
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, -0.21), "borderaxespad": 0}
    axes.legend(ncols=columns, frameon=False, handlelength=3.5, **place)


def _frame_best(axes: Axes, grid: pd.DataFrame, best: str) -> tuple[int, int]:
    flat = (np.nanargmax if best == "max" else np.nanargmin)(grid.to_numpy())
    row, column = divmod(int(flat), grid.shape[1])
    axes.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor="#d55e00", linewidth=3))
    return row, column
