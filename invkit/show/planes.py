"""Features drawn as points in a plane, coloured by class, over the decision regions of a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from torch import Tensor

from invkit.analysis.feature_space import Regions
from invkit.show.figures import PALETTE, plot, styled
from invkit.show.picture import Canvas

PANEL = 3.3  # inches across
TIGHT = 0.08  # of a panel: a class that takes no more would lie below its number
APART = 0.07  # of a panel, between the numbers of two classes


def feature_planes(
    panels: Mapping[str, tuple[Tensor, Tensor]], *, regions: Regions | None = None, shared: bool = True,
    axis_names: tuple[str, str] = ("", ""),
) -> Canvas:  # fmt: skip
    """Panels side by side, a dot per image in the colour of its class.

    The number of each class stands at the median of its places, above them where it would hide them, or beside it, at
    the end of a line, where it would hide another number, since ten colours are too many to tell apart. Axes carry no
    numbers: directions in a plane of features have no unit.

    Args:
        panels: By name, places ``(N, 2)`` and labels ``(N,)``.
        regions: Decision regions under every panel in the same colours, the paler the less sure.
        shared: Whether all panels have the same axes.
        axis_names: What the two directions are, from left to right and upwards.

    Returns:
        A figure whose alt text counts the points and classes of each panel.

    Raises:
        ValueError: For no panel, places that are not finite or of another shape, and labels of another number.

    >>> import torch
    >>> feature_planes({"layer 1": (torch.rand(6, 2), torch.tensor([0, 1, 2, 0, 1, 2]))}).alt
    'Features as points in a plane, coloured by class: layer 1, 6 points of 3 classes.'
    """
    checked = {name: _panel(name, *panel) for name, panel in panels.items()}
    if not checked:
        raise ValueError("feature_planes was given no panels")
    largest = max(int(labels.max()) for _, labels in checked.values())
    count = 1 + max(largest, int(regions.labels.max()) if regions else 0)
    with styled():
        colours = np.array(sns.color_palette(PALETTE if count <= 10 else "husl", count))
        figure, first = plot(PANEL * len(checked), PANEL + 0.3)
        figure.chart, figure.panels = False, True  # the legend of colours is in other figures too
        first.remove()
        axes = figure.subplots(1, len(checked), squeeze=False, sharex=shared, sharey=shared)[0]
        for place, (name, (points, labels)) in zip(axes, checked.items(), strict=True):
            if regions is not None:
                _fill(place, regions, colours)
            _dots(place, points, labels, colours)
            place.set_title(name)
            beside = "" if shared and place is not axes[0] else axis_names[1]
            place.set(xticks=[], yticks=[], xlabel=axis_names[0], ylabel=beside)
            place.grid(visible=False)
    parts = [f"{name}, {len(points)} points of {len(np.unique(k))} classes" for name, (points, k) in checked.items()]
    under = f", over decision regions of {len(regions.labels.unique())} classes" if regions is not None else ""
    figure.alt = f"Features as points in a plane, coloured by class{under}: {'; '.join(parts)}."
    return figure


def _panel(name: str, places: Tensor, labels: Tensor) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    points, classes = (np.asarray(v.detach().cpu()) for v in (places, labels))
    if points.ndim != 2 or points.shape[1] != 2 or not len(points) or classes.shape != points.shape[:1]:
        raise ValueError(
            f"feature_planes: {name!r} needs places (N, 2) and labels (N,), not {points.shape} and {classes.shape}"
        )
    if not np.isfinite(points).all():
        raise ValueError(f"feature_planes: {name!r} holds places that are not finite")
    return points.astype(float), classes.astype(int)


def _fill(axes: Axes, regions: Regions, colours: NDArray[np.float64]) -> None:
    strength = 0.15 + 0.4 * regions.confidence.numpy()[..., None]
    shade = 1 - strength * (1 - colours[regions.labels.numpy()])
    edges = [float(v) for v in (regions.xs[0], regions.xs[-1], regions.ys[0], regions.ys[-1])]
    axes.imshow(shade, extent=(edges[0], edges[1], edges[2], edges[3]), origin="lower", aspect="auto")


def _dots(axes: Axes, points: NDArray[np.float64], labels: NDArray[np.int64], colours: NDArray[np.float64]) -> None:
    axes.scatter(points[:, 0], points[:, 1], s=9, color=colours[labels], edgecolors="white", linewidths=0.3)
    axes.margins(y=0.1)  # room for a numeral above the uppermost class
    outline = [withStroke(linewidth=2.5, foreground="white")]
    extent = np.ptp(points, axis=0)
    extent[extent == 0] = 1
    classes = np.unique(labels)
    middles = np.array([np.median(points[labels == label], axis=0) for label in classes])
    for label, middle, place in zip(classes, middles, pushed_apart(middles / extent, APART) * extent, strict=True):
        own = points[labels == label]
        low, high = np.quantile(own, 0.1, axis=0), np.quantile(own, 0.9, axis=0)
        look: dict[str, Any] = {"weight": "bold", "size": 11, "path_effects": outline, "ha": "center"}
        if (np.abs(place - middle) > 0.2 * APART * extent).any():
            axes.plot(*zip(middle, place, strict=True), color="0.2", linewidth=0.6)
            axes.text(place[0], place[1], str(label), va="center", **look)
        elif len(points) > len(own) > 1 and (high - low < TIGHT * extent).all():
            above: dict[str, Any] = {"xytext": (0, 4), "textcoords": "offset points", "va": "bottom"}
            axes.annotate(str(label), (middle[0], high[1]), **above, **look)
        else:
            axes.text(middle[0], middle[1], str(label), va="center", **look)


def pushed_apart(places: NDArray[np.float64], gap: float, rounds: int = 100) -> NDArray[np.float64]:
    """Places ``(K, 2)`` that are nearer to each other than a gap, moved away from each other until none is.

    >>> pushed_apart(np.array([[0.0, 0.0], [0.02, 0.0], [1.0, 1.0]]), 0.06).round(3).tolist()
    [[-0.02, 0.0], [0.04, 0.0], [1.0, 1.0]]
    """
    places = places.copy()
    for _ in range(rounds):
        crowded = False
        for i in range(len(places)):
            for j in range(i):
                away = places[i] - places[j]
                distance = float(np.linalg.norm(away))
                if distance < gap - 1e-9:
                    crowded = True
                    towards = away / distance if distance > 0 else np.array([0.0, 1.0])
                    places[i] += towards * (gap - distance) / 2
                    places[j] -= towards * (gap - distance) / 2
        if not crowded:
            break
    return places
