"""What a notebook shows: figures with alt texts, sliders that need no kernel, claims and recorded runs."""

from invkit.show.figures import bar_with_spread, curve_with_spread, heat_map, loss_curves, style
from invkit.show.grids import image_grid, image_rows
from invkit.show.picture import Canvas, Described, described

__all__ = [
    "Canvas",
    "Described",
    "bar_with_spread",
    "curve_with_spread",
    "described",
    "heat_map",
    "image_grid",
    "image_rows",
    "loss_curves",
    "style",
]
