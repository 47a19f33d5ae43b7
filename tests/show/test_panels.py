"""Long tables as dots."""

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from invkit.show import dot_panels, image_rows


def frame(rows: int = 12, columns: int = 2) -> pd.DataFrame:
    values = np.arange(rows * columns, dtype=float).reshape(rows, columns)
    return pd.DataFrame(values, [f"row {i}" for i in range(rows)], [f"score {i}" for i in range(columns)])


def test_each_row_has_a_dot_in_each_panel_and_a_name_at_the_left():
    figure = dot_panels(frame(), frame() / 10, title="Many")
    panels = [axes for axes in figure.axes if axes.has_data()]
    assert len(panels) == 2
    assert [label.get_text() for label in panels[0].get_yticklabels()][:2] == ["row 0", "row 1"]
    assert list(panels[1].lines[0].get_xdata()) == list(frame()["score 1"])
    assert panels[0].get_ylim()[0] > panels[0].get_ylim()[1]  # the first row on top, as in the table
    assert figure.alt.startswith("Dots for 12 rows: score 0 from 0 (row 0) to 22 (row 11); score 1")


def test_cells_without_a_number_have_no_dot_and_empty_columns_no_panel():
    holes = frame()
    holes.iloc[3, 0] = np.nan
    holes["words"] = np.nan
    figure = dot_panels(holes)
    assert len([axes for axes in figure.axes if axes.has_data()]) == 2
    assert "words" not in figure.alt


def test_on_a_narrow_page_panels_stand_below_each_other():
    wide, narrow = dot_panels(frame(columns=4)), dot_panels(frame(columns=4), width=355)
    assert narrow.get_figwidth() * 96 == pytest.approx(355)
    assert narrow.get_figheight() > 1.5 * wide.get_figheight()
    assert len([axes for axes in narrow.axes if axes.has_data()]) == 4
    assert all(len(line) <= 12 for axes in narrow.axes for line in axes.get_title().split("\n"))


def test_on_a_narrow_page_a_long_name_has_two_lines():
    long = pd.DataFrame({"psnr": [20.0, 22.0]}, index=["1 convolution, 1.33, synthetic", "photographs"])
    names = [label.get_text() for label in dot_panels(long, width=355).axes[0].get_yticklabels()]
    assert names == ["1 convolution, 1.33,\nsynthetic", "photographs"]


def test_more_columns_than_fit_go_into_another_band():
    wide = dot_panels(frame(columns=9))
    assert len([axes for axes in wide.axes if axes.has_data()]) == 9
    assert wide.get_figwidth() == dot_panels(frame()).get_figwidth()
    assert wide.get_figheight() > 1.5 * dot_panels(frame()).get_figheight()


@pytest.mark.parametrize(
    ("means", "spreads", "message"),
    [
        (frame(0), None, "no row with a finite number"),
        (frame() * np.nan, None, "no row with a finite number"),
        (frame(), frame(3), "spreads should have the rows and columns of means"),
    ],
)
def test_bad_tables_are_refused(means, spreads, message):
    with pytest.raises(ValueError, match=message):
        dot_panels(means, spreads)


@pytest.mark.parametrize(("size", "width"), [(16, 48), (32, 48)])
def test_ten_small_images_beside_their_names_are_48_pixels_wide(size, width):
    sheet = image_rows({"a": torch.zeros(10, 1, size, size)}, columns=10, numbers={"a": 1.0}, numbers_name="score")
    left, right, *_ = sheet.axes[0].images[0].get_extent()
    assert right - left == width
    assert sheet.get_figwidth() * 96 <= 710


def test_names_of_three_lines_and_a_long_heading_stay_apart_and_on_the_sheet():
    rows = {f"with ColorShift, weight {w}": torch.zeros(4, 1, 16, 16) for w in (0, 1, 2)}
    sheet = image_rows(rows, scale=2, numbers=dict.fromkeys(rows, 1.0), numbers_name="ResNet-44")
    renderer = FigureCanvasAgg(sheet).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in sheet.axes[0].texts if text.get_text()]
    assert len(boxes) == 2 * len(rows) + 1
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
    assert all(sheet.bbox.containsx(x) for box in boxes for x in (box.x0, box.x1))


def test_a_column_over_decades_has_a_logarithmic_scale_and_others_do_not():
    mixed = pd.DataFrame({"all": [0.1, 0.2, 0.3, 12.0], "alike": [1.0, 2.0, 3.0, 4.0], "signed": [-1.0, 0.1, 0.1, 9.0]})
    assert [axes.get_xscale() for axes in dot_panels(mixed).axes] == ["log", "linear", "linear"]


def test_panels_that_do_not_fit_beside_each_other_stand_in_bands_of_equal_length():
    figure = dot_panels(frame(columns=6))
    (rows, columns) = figure.axes[0].get_subplotspec().get_gridspec().get_geometry()
    assert (rows, columns) == (2, 3)
    assert all(axes.has_data() for axes in figure.axes)
