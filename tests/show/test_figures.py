"""Figures: what they draw, what they say about it, and what they refuse."""

import base64
import io
import itertools
import re

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from invkit.analysis.feature_space import Regions
from invkit.show import dot_panels, picture
from invkit.show.figures import heat_map, loss_curves
from invkit.show.grids import image_grid, image_rows
from invkit.show.picture import css_size, described, render_png
from invkit.show.planes import feature_planes
from invkit.show.spread import bar_with_spread, curve_with_spread, histogram


def pixels(figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(render_png(figure))).convert("RGB")).astype(float) / 255


@pytest.mark.parametrize("channels", [1, 3])
def test_every_pixel_of_an_image_is_a_flat_square_of_its_colour(channels):
    image = torch.rand(1, channels, 4, 5, generator=torch.Generator().manual_seed(0))
    drawn = pixels(image_grid(image, scale=10))
    centres = drawn[8 * 2 + 10 : 8 * 2 + 80 : 20, 8 * 2 + 10 : 8 * 2 + 100 : 20]  # margin 8, two pixels per CSS pixel
    expected = image[0].permute(1, 2, 0).expand(4, 5, 3).numpy()
    np.testing.assert_allclose(centres, expected, atol=1 / 255)


def test_same_figure_gives_the_same_bytes():
    images = torch.linspace(0, 1, 4 * 16).reshape(4, 1, 4, 4)
    assert render_png(image_grid(images, [0, 1, 2, 3])) == render_png(image_grid(images, [0, 1, 2, 3]))


def test_a_thousand_images_are_thinned_out_and_it_says_so():
    figure = image_grid(torch.zeros(1000, 1, 8, 8), torch.arange(1000), columns=20)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "100 of 1,000 images, evenly spaced" in texts
    assert {"0", "999"} <= set(texts)
    assert len(figure.axes[0].images) == 100
    assert "taken evenly from 1,000" in figure.alt


def test_few_images_are_all_there_with_labels_and_captions():
    figure = image_grid(torch.zeros(3, 3, 8, 8), ["cat", "dog", "owl"], captions=["0.1", "0.2", "0.3"])
    assert {"cat", "dog", "owl", "0.1", "0.2", "0.3"} <= {text.get_text() for text in figure.axes[0].texts}
    assert figure.alt == "3 images in 1 row of up to 3; classes cat, dog, owl."


def test_large_images_are_shrunk_to_the_page():
    width = pixels(image_grid(torch.zeros(6, 3, 224, 224), columns=6)).shape[1]
    assert width <= 2 * 700


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.full((2, 1, 4, 4), float("nan")), "2 of 2 images hold pixels that are not finite"),
        (torch.full((2, 1, 4, 4), float("inf")), "not finite"),
        (torch.full((2, 1, 4, 4), 3.0), r"in \[0, 1\], but run from 3 to 3"),
        (torch.zeros(2, 2, 4, 4), "1 or 3 channels"),
        (torch.zeros(0, 1, 4, 4), "1 or 3 channels"),
        (torch.zeros(4, 4), "1 or 3 channels"),
    ],
)
def test_bad_images_are_refused(images, message):
    with pytest.raises(ValueError, match=message) as caught:
        image_grid(images)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="row 'a'"):
        image_rows({"a": images})


def test_labels_of_another_length_are_refused():
    with pytest.raises(ValueError, match="2 labels for 3 images"):
        image_grid(torch.zeros(3, 1, 4, 4), [0, 1])


def test_rows_carry_their_names_and_numbers():
    rows = {"cross-entropy": torch.zeros(4, 1, 8, 8), "+ prior": torch.ones(4, 1, 8, 8)}
    figure = image_rows(rows, [0, 1, 2, 3], numbers={"+ prior": 0.5}, numbers_name="verifier", columns=3)
    assert len(figure.axes[0].images) == 6
    assert figure.alt == "2 rows of up to 3 images: cross-entropy; + prior: verifier 0.5."
    with pytest.raises(ValueError, match="a 8×8, b 4×4"):
        image_rows({"a": torch.zeros(1, 1, 8, 8), "b": torch.zeros(1, 1, 4, 4)})


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("1 layer1.0:input, synthetic", ["1 layer1.0:", "input,", "synthetic"]),
        ("reconstruction, 1000", ["reconstruction,", "1000"]),
        ("top at 24.5", ["top at 24.5"]),
    ],
)
def test_a_long_name_of_a_row_breaks_between_its_parts(name, lines):
    figure = image_rows({name: torch.zeros(1, 1, 8, 8)})
    assert "\n".join(lines) in [text.get_text() for text in figure.axes[0].texts]


def test_a_negative_label_has_a_minus_and_a_name_its_hyphens():
    texts = [text.get_text() for text in image_grid(torch.zeros(2, 1, 8, 8), [-3, "held-out"]).axes[0].texts]
    assert {"−3", "held-out"} <= set(texts)


def test_loss_curves_choose_an_axis_that_shows_every_value():
    assert loss_curves({"a": [3.0, 2.0], "b": [1.0, 0.1]}).axes[0].get_yscale() == "log"
    assert loss_curves({"a": [3.0, -2.0], "b": [1.0, 0.0]}).axes[0].get_yscale() == "symlog"
    assert "a from 3 to 2" in loss_curves({"a": [3.0, 2.0]}).alt
    curves = loss_curves({"cross_entropy": [3.0, 2.0], "my_term": [1.0, 0.5]})
    assert [text.get_text() for text in curves.axes[0].get_legend().get_texts()] == ["cross-entropy", "my term"]
    with pytest.raises(ValueError, match="'a' is not finite at index 1"):
        loss_curves({"a": [1.0, float("nan")]})
    with pytest.raises(ValueError, match="without a single value"):
        loss_curves({"a": []})


def test_heat_map_frames_the_best_cell_and_leaves_gaps():
    table = [{"x": 1, "y": 1, "v": 0.2}, {"x": 10, "y": 1, "v": 0.9}, {"x": 1, "y": 2, "v": 0.1}]
    figure = heat_map(table, "x", "y", "v")
    (frame,) = figure.axes[0].patches
    assert frame.get_xy() == (1, 1)  # rows run downwards from the largest y
    assert "Maximum 0.90 at x 10, y 1" in figure.alt
    assert "Minimum 0.10 at x 1, y 2" in heat_map(table, "x", "y", "v", best="min").alt
    with pytest.raises(ValueError, match="no column \\['z'\\]"):
        heat_map(table, "x", "z", "v")


def test_spread_is_the_standard_deviation_over_seeds():
    figure = curve_with_spread([1, 2], {"a": [[0.0, 1.0], [2.0, 1.0]]}, xlabel="n", ylabel="accuracy")
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    at_one = band[band[:, 0] == 1][:, 1]
    np.testing.assert_allclose([at_one.min(), at_one.max()], [1 - 2**0.5, 1 + 2**0.5])
    with pytest.raises(ValueError, match=r"shape \(seeds, 2\)"):
        curve_with_spread([1, 2], {"a": [1.0, 2.0, 3.0]}, xlabel="n", ylabel="y")
    assert "a 1 ± 1.4 (mean" not in bar_with_spread({"a": 1.0}, ylabel="y").alt
    assert "a 1 ± 1.4 (mean" in bar_with_spread({"a": [0.0, 2.0]}, ylabel="y").alt


def test_maps_can_share_a_colour_scale():
    table = [{"x": 1, "y": 1, "v": 0.2}, {"x": 2, "y": 1, "v": 0.4}]
    (mesh, *_) = heat_map(table, "x", "y", "v", limits=(0, 1)).axes[0].collections
    assert mesh.get_clim() == (0, 1)
    (mesh, *_) = heat_map(table, "x", "y", "v").axes[0].collections
    assert mesh.get_clim() == (0.2, 0.4)


def test_a_histogram_shows_shares_and_says_the_medians():
    figure = histogram({"a": [0.1, 0.2, 0.9, 1.0], "b": torch.tensor([0.0])}, xlabel="p", bins=2, marks={"low": 0.3})
    outlines = [p for p in figure.axes[0].patches if not p.get_fill()]
    assert [p.get_data().values.tolist() for p in outlines] == [[0.5, 0.5], [1.0, 0.0]]
    assert outlines[0].get_data().edges.tolist() == [0, 0.5, 1]
    assert "a 0.55 (0.1 to 1); b 0 (0 to 0)" in figure.alt
    assert "Lines at 0.3 (low)" in figure.alt
    assert "Lines" not in histogram({"a": [2.0, 2.0]}, xlabel="p").alt
    for bad, message in (({}, "no values"), ({"a": [float("nan")]}, "'a' is not finite"), ({"a": [1.5]}, "outside")):
        with pytest.raises(ValueError, match=message):
            histogram(bad, xlabel="p", limits=(0, 1))


def test_a_figure_is_shown_with_its_alt_text_and_only_once():
    figure = image_grid(torch.zeros(1, 1, 4, 4))
    figure.alt = 'A "black" square <b>'
    bundle = figure._repr_mimebundle_()
    assert 'alt="A &quot;black&quot; square &lt;b&gt;"' in bundle["text/html"]
    assert "image/webp" in bundle["text/html"]
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert plt.get_fignums() == []


def test_described_closes_a_pyplot_figure_and_wants_words():
    figure, _ = plt.subplots()
    shown = described(figure, "Empty axes", caption="Nothing < here")
    assert plt.get_fignums() == []
    assert "<figcaption>Nothing &lt; here</figcaption>" in shown._repr_html_()
    with pytest.raises(ValueError, match="alt is empty"):
        described(figure, " ")


def test_feature_planes_draw_each_point_over_the_regions():
    places = torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 2.0]])
    labels = torch.tensor([0, 1, 1])
    grid = torch.linspace(0, 3, 4)
    halves = (torch.arange(4) > 1).long().expand(4, 4)  # class 1 on the right
    regions = Regions(xs=grid, ys=grid, labels=halves, confidence=torch.ones(4, 4))
    figure = feature_planes({"made": (places, labels), "real": (places[:2], labels[:2])}, regions=regions)
    left, right = figure.axes
    assert (left.get_title(loc="left"), right.get_title(loc="left")) == ("made", "real")
    np.testing.assert_allclose(left.collections[0].get_offsets(), places)
    numbers = {text.get_text(): text.get_position() for text in left.texts}
    assert numbers == {"0": (0.0, 0.0), "1": (2.0, 2.0)}
    shade = left.images[0].get_array()
    assert (shade[:, 0] == shade[0, 0]).all()
    assert (shade[0, 0] != shade[0, 3]).any()
    assert "over decision regions of 2 classes: made, 3 points of 2 classes; real, 2 points" in figure.alt
    assert "regions" not in feature_planes({"made": (places, labels)}).alt
    named = feature_planes({"made": (places, labels), "real": (places, labels)}, axis_names=("first", "second"))
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in named.axes] == [("first", "second"), ("first", "")]


def test_a_number_stands_above_a_class_that_it_would_hide():
    near = torch.tensor([[0.0, 0.0], [0.1, 0.1], [0.2, 0.0]])
    far = torch.tensor([[5.0, 9.0], [9.0, 5.0], [9.0, 9.0]])
    (axes,) = feature_planes({"made": (torch.cat([near, far]), torch.tensor([0, 0, 0, 1, 1, 1]))}).axes
    axes.figure.draw_without_rendering()
    below = {
        text.get_text(): axes.transData.inverted().transform(text.get_window_extent().p0)[1] for text in axes.texts
    }
    assert below["0"] > 0.1
    assert below["1"] < 9.0


def test_a_phone_shows_planes_one_below_the_other():
    panel = torch.rand(6, 2, generator=torch.Generator().manual_seed(0)), torch.arange(6)
    one, two = feature_planes({"made": panel}), feature_planes({"made": panel, "real": panel})
    before = render_png(two)
    source = re.compile(r'<picture><source [^>]*base64,([^"]*)"')
    html = [figure._repr_mimebundle_()["text/html"] for figure in (one, two)]
    assert not source.search(html[0]), "a single one fits as it is"
    assert css_size(base64.b64decode(source.search(html[1])[1])) == (355, pytest.approx(2 * css_size(before)[1], abs=1))
    assert render_png(two) == before


def test_the_numeral_of_the_uppermost_class_is_within_the_frame():
    tight, wide = torch.linspace(0, 0.02, 6)[:, None] + torch.tensor([0.5, 2.0]), torch.linspace(0, 1, 6)[:, None]
    figure = feature_planes({"made": (torch.cat([tight, wide.expand(-1, 2)]), torch.tensor([0] * 6 + [1] * 6))})
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (axes,) = figure.axes
    frame = axes.get_window_extent(canvas.get_renderer())
    for text in axes.texts:
        assert text.get_window_extent(canvas.get_renderer()).y1 <= frame.y1


def test_feature_planes_refuse_what_is_no_plane():
    places, labels = torch.zeros(3, 2), torch.zeros(3)
    with pytest.raises(ValueError, match="no panels"):
        feature_planes({})
    with pytest.raises(ValueError, match=r"'a' needs places \(N, 2\).*\(3, 3\)"):
        feature_planes({"a": (torch.zeros(3, 3), labels)})
    with pytest.raises(ValueError, match="'a' needs places"):
        feature_planes({"a": (places, labels[:2])})
    with pytest.raises(ValueError, match="'a' holds places that are not finite"):
        feature_planes({"a": (places / 0, labels)})


def test_charts_say_that_they_are_charts_and_images_do_not():
    curves = curve_with_spread([1, 2], {"ours": [[0.0, 1.0]]}, xlabel="steps", ylabel="accuracy")
    assert 'class="inv-figure inv-chart"' in curves._repr_mimebundle_()["text/html"]
    shares = heat_map([{"x": 1, "y": 1, "share": 0.5}, {"x": 2, "y": 1, "share": 0.1}], "x", "y", "share")
    for images in (image_grid(torch.zeros(1, 1, 8, 8)), shares):
        assert 'class="inv-figure"' in images._repr_mimebundle_()["text/html"]


@pytest.mark.parametrize(
    "chart",
    [
        bar_with_spread({f"a rather long name of a row {i}": [0.1, 0.2] for i in range(4)}, ylabel="share " * 12),
        curve_with_spread([1, 10, 1000, 2500, 4000], {"a": [range(5)]}, xlabel="images", ylabel="read", log_x=True),
        loss_curves({f"cross-entropy, perturbed {i}": [1.0, 0.5] for i in range(4)}, title="A long heading " * 3),
    ],
)
def test_a_phone_gets_a_chart_of_its_own_width_with_all_words_in_it(chart):
    before = (chart.get_figwidth(), [label.get_text() for label in chart.axes[0].get_yticklabels()])
    found = re.search(r'<source media="\(max-width: 40rem\)" srcset="data:image/webp;base64,([^"]+)"', html_of(chart))
    assert css_size(base64.b64decode(found[1]))[0] <= 360
    assert html_of(chart).count("<img") == 1
    assert (chart.get_figwidth(), [label.get_text() for label in chart.axes[0].get_yticklabels()]) == before
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("L"))
    edges = (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:])
    assert all(edge.min() == 255 for edge in edges), "nothing is cut off at a side"
    assert (pixels < 128).mean() > 0.01


def test_names_of_places_on_a_narrow_chart_do_not_touch(monkeypatch):
    drawn = []
    monkeypatch.setattr(picture, "render_png", lambda figure: drawn.append(figure) or b"")
    curves = curve_with_spread([1, 1000, 1100, 4000], {"a": [range(4)]}, xlabel="images", ylabel="read", log_x=True)
    picture.render_narrow(curves)
    labels = [label for label in drawn[0].axes[0].get_xticklabels() if label.get_visible()]
    boxes = [label.get_window_extent() for label in labels]
    assert [label.get_text() for label in labels][-1] == "4,000"
    assert len(labels) < 4
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_whole_numbers_stay_whole_on_a_narrow_chart(monkeypatch):
    drawn = []
    monkeypatch.setattr(picture, "render_png", lambda figure: drawn.append(figure) or b"")
    picture.render_narrow(curve_with_spread(range(1, 7), {"a": [range(6)]}, xlabel="depth", ylabel="PSNR"))
    assert all(float(tick).is_integer() for tick in drawn[0].axes[0].get_xticks())


def test_figures_of_several_panels_and_narrow_ones_have_no_other_for_a_phone():
    panels = dot_panels(pd.DataFrame({"psnr": [20.0, 22.0], "read": [0.1, 0.2]}, index=["ours", "theirs"]))
    assert "<source" not in html_of(panels)
    assert "<source" not in html_of(image_grid(torch.zeros(1, 1, 8, 8)))


def html_of(figure) -> str:
    return figure._repr_mimebundle_()["text/html"]


def test_long_names_of_a_legend_stand_in_two_columns():
    for name, columns in (("ours", 3), ("cross-entropy, perturbed", 2)):
        curves = {f"{name} {i}": [1.0, 0.5] for i in range(4)}
        (axes,) = loss_curves(curves).axes
        assert axes.get_legend()._ncols == columns


def test_six_curves_are_told_apart_without_colour():
    curves = {f"net {i}": [[0.0, 1.0]] for i in range(6)}
    (axes,) = curve_with_spread([1, 2], curves, xlabel="steps", ylabel="accuracy").axes
    assert len({line.get_marker() for line in axes.lines}) == 6
    assert len({str(line._unscaled_dash_pattern) for line in axes.lines}) == 6


@pytest.mark.parametrize(("places", "ticks"), [((2, 4, 6), [2, 4, 6]), ((0.0, 0.1, 0.3), None), ((1, 2, 100), None)])
def test_few_whole_numbers_have_a_tick_each(places, ticks):
    (axes,) = curve_with_spread(places, {"a": [range(len(places))]}, xlabel="depth", ylabel="PSNR").axes
    assert (list(axes.get_xticks()) == ticks) == (ticks is not None)


def test_the_longest_name_of_a_row_is_whole():
    sheet = image_rows({"no augmentation": torch.full((8, 1, 8, 8), 0.5), "ours": torch.full((8, 1, 8, 8), 0.5)})
    sheet.draw_without_rendering()
    (name,) = [text for text in sheet.axes[0].texts if text.get_text() == "no augmentation"]
    assert name.get_window_extent().x0 >= 0


def test_numbers_of_classes_in_one_place_do_not_cover_each_other():
    points = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.01, 0.0]]).repeat_interleave(3, 0)
    figure = feature_planes({"one": (points, torch.arange(4).repeat_interleave(3))})
    places = [text.get_position() for text in figure.axes[0].texts]
    assert len(places) == 4
    apart = [np.hypot(a[0] - b[0], a[1] - b[1]) for a, b in itertools.combinations(places, 2)]
    assert min(apart) > 0.069
    assert len(figure.axes[0].lines) == 3, "those that were moved lead to where they belong"
