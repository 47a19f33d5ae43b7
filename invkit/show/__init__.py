"""What a notebook shows: figures with alt texts, tables, and sliders that need no kernel."""

from invkit.show.drag import drag
from invkit.show.figures import heat_map, loss_curves, plot, style
from invkit.show.grids import image_grid, image_rows
from invkit.show.panels import dot_panels
from invkit.show.picture import Canvas, Described, described
from invkit.show.planes import feature_planes
from invkit.show.quiz import quiz
from invkit.show.spread import bar_with_spread, curve_with_spread, histogram
from invkit.show.tables import table
from invkit.show.widgets import Choices, Frames, explore

__all__ = [
    "Canvas",
    "Choices",
    "Described",
    "Frames",
    "bar_with_spread",
    "curve_with_spread",
    "described",
    "dot_panels",
    "drag",
    "explore",
    "feature_planes",
    "heat_map",
    "histogram",
    "image_grid",
    "image_rows",
    "loss_curves",
    "plot",
    "quiz",
    "style",
    "table",
]
