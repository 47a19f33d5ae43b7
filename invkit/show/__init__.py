"""What a notebook shows: figures with alt texts, sliders that need no kernel, claims and recorded runs."""

from invkit.show.claims import Claims, load_claims
from invkit.show.figures import heat_map, loss_curves, plot, style
from invkit.show.grids import image_grid, image_rows
from invkit.show.picture import Canvas, Described, described
from invkit.show.planes import feature_planes
from invkit.show.recorded import load_recorded, record, show_recorded
from invkit.show.seeds import SeedRows
from invkit.show.spread import bar_with_spread, curve_with_spread, histogram
from invkit.show.tables import table
from invkit.show.widgets import Frames, explore

__all__ = [
    "Canvas",
    "Claims",
    "Described",
    "Frames",
    "SeedRows",
    "bar_with_spread",
    "curve_with_spread",
    "described",
    "explore",
    "feature_planes",
    "heat_map",
    "histogram",
    "image_grid",
    "image_rows",
    "load_claims",
    "load_recorded",
    "loss_curves",
    "plot",
    "record",
    "show_recorded",
    "style",
    "table",
]
