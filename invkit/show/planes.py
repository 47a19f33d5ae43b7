"""Features drawn as points in a plane, coloured by class, over the decision regions of a classifier."""

from __future__ import annotations

from collections.abc import Mapping

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


def feature_planes(
    panels: Mapping[str, tuple[Tensor, Tensor]], *, regions: Regions | None = None, shared: bool = True
) -> Canvas:
    """Panels side by side, each with places ``(N, 2)`` and labels ``(N,)``: a dot per image in the colour of its class.

    The number of each class stands at the median of its places, since ten colours are too many to tell apart.
    ``regions`` lie under every panel in the same colours, the paler the less sure. Axes carry no numbers: directions in
    a plane of features have no unit; ``shared`` gives all panels the same. Raises ``ValueError`` for no panel, places
    that are not finite or of another shape, and labels of another number.
    """
    found = {name: _panel(name, *panel) for name, panel in panels.items()}
    if not found:
        raise ValueError("feature_planes was given no panels")
    seen = np.unique(np.concatenate([labels for _, labels in found.values()]))
    count = 1 + max(int(seen.max()), int(regions.labels.max()) if regions else 0)
    with styled():
        colours = np.array(sns.color_palette(PALETTE if count <= 10 else "husl", count))
        figure, first = plot(PANEL * len(found), PANEL + 0.3)
        first.remove()
        axes = figure.subplots(1, len(found), squeeze=False, sharex=shared, sharey=shared)[0]
        for place, (name, (points, labels)) in zip(axes, found.items(), strict=True):
            if regions is not None:
                _fill(place, regions, colours)
            _dots(place, points, labels, colours)
            place.set_title(name)
            place.set(xticks=[], yticks=[])
            place.grid(visible=False)
    told = "; ".join(
        f"{name}, {len(points)} points of {len(np.unique(k))} classes" for name, (points, k) in found.items()
    )
    under = f", over decision regions of {len(regions.labels.unique())} classes" if regions is not None else ""
    figure.alt = f"Features as points in a plane, coloured by class{under}: {told}."
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
    outline = [withStroke(linewidth=2.5, foreground="white")]
    for label in np.unique(labels):
        x, y = np.median(points[labels == label], axis=0)
        axes.text(x, y, str(label), ha="center", va="center", weight="bold", size=11, path_effects=outline)
