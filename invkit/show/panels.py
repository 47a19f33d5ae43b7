"""A table of many rows as a plot: a line for each row, a panel for each column."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine

from invkit.show.figures import styled
from invkit.show.picture import CSS_DPI, Canvas

WIDTH = 700  # CSS pixels: the width of a page's text
NAMES = 200  # of these for the names of the rows
NARROWEST = 100  # a panel; more columns than fit go into a second band


def dot_panels(
    means: pd.DataFrame, spreads: pd.DataFrame | None = None, *, title: str | None = None, width: int = WIDTH
) -> Canvas:
    """Numbers of many rows as dots, where a table would have to be read line by line.

    Args:
        means: A row for each name, in its index, and a column for each score; empty cells stay empty.
        spreads: Of the same form, drawn as bars to both sides.
        title: Heading of the figure.
        width: CSS pixels; fewer panels stand side by side where it is small, and names of rows are shorter.

    Returns:
        A figure whose alt text tells each column's range and where its ends are. A column of positive numbers whose
        largest is over ten times its median is drawn on a logarithmic scale.

    Raises:
        ValueError: If there is no row, no column with a finite number, or ``spreads`` has another form.

    >>> frame = pd.DataFrame({"psnr": [20.0, 22.0]}, index=["ours", "theirs"])
    >>> dot_panels(frame).alt
    'Dots for 2 rows: psnr from 20 (ours) to 22 (theirs).'
    """
    if spreads is not None and (list(spreads.index), list(spreads.columns)) != (list(means.index), list(means.columns)):
        raise ValueError("dot_panels: spreads should have the rows and columns of means")
    numbers = means.astype(float)
    shown = [column for column in numbers.columns if np.isfinite(numbers[column]).any()]
    if not len(numbers) or not shown:
        raise ValueError("dot_panels was given no row with a finite number")
    for_names = min(NAMES, 2 * width // 5)
    across = min(len(shown), max(1, (width - for_names) // NARROWEST))
    bands = -(-len(shown) // across)
    across = -(-len(shown) // bands)  # as many in each
    room = min(16, (width - for_names) // across // 8)  # letters of a heading, of 8 pixels each
    lines = 1 if width >= WIDTH else 2  # of a row's name
    names = [
        "\n".join(textwrap.wrap(str(name), for_names // 5, max_lines=lines, placeholder=" …")) for name in numbers.index
    ]
    row_height = 24 if any("\n" in name for name in names) else 18
    height = bands * (row_height * len(numbers) + 56) + 16
    with styled():
        layout = ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.06)
        figure = Canvas(figsize=(width / CSS_DPI, height / CSS_DPI), layout=layout)
        figure.chart = True
        grid = figure.subplots(bands, across, sharey=True, squeeze=False)
        places = np.arange(len(numbers))
        for axes, column in zip(grid.flat, shown, strict=False):
            bars = None if spreads is None else spreads[column].astype(float).to_numpy()
            axes.errorbar(numbers[column], places, xerr=bars, fmt="o", markersize=4, linewidth=1.2)
            axes.set_title("\n".join(textwrap.wrap(str(column), room)), size=9)
            _dress(axes, numbers[column])
        for axes in grid.flat[len(shown) :]:
            axes.set_axis_off()
        grid[0, 0].set_yticks(places, names)
        grid[0, 0].set_ylim(len(numbers) - 0.5, -0.5)
        if title:
            figure.suptitle(title, size=11, weight="bold", x=0.01, ha="left")
    figure.alt = f"Dots for {len(numbers)} rows: {'; '.join(_ends(numbers[column]) for column in shown)}."
    return figure


def _dress(axes: Axes, column: pd.Series) -> None:
    """Scale, ticks and grid of a panel."""
    if _spans_decades(column):
        axes.set_xscale("log")
    else:
        axes.locator_params(axis="x", nbins=3)
    axes.tick_params(labelsize=8)
    axes.margins(x=0.12)
    axes.grid(axis="y", linewidth=0.3)


def _spans_decades(column: pd.Series) -> bool:
    """Whether most dots would lie on top of each other on a linear scale."""
    shown = column[np.isfinite(column)]
    return bool((shown > 0).all() and shown.max() > 10 * shown.median())


def _ends(column: pd.Series) -> str:
    low, high = column.idxmin(), column.idxmax()
    return f"{column.name} from {column[low]:.3g} ({low}) to {column[high]:.3g} ({high})"
