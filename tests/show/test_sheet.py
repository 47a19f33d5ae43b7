"""Sheets of images folded for narrow pages: nothing is lost, nothing is cut, and charts stay whole."""

import io

import numpy as np
import pytest
from PIL import Image

from invkit.book import load_recorded, record
from invkit.show.figures import loss_curves
from invkit.show.picture import Canvas, Described, render_png
from invkit.show.sheet import COLUMN, PHONE_COLUMN, fold_sheet, tile_columns

TILE, GUTTER, LEFT, RIGHT, HEIGHT = 60, 8, 90, 70, 100


def sheet(columns: int, kind: str = "png") -> bytes:
    """A sheet whose tiles are of one grey each, with a word left of them and a number to the right."""
    width = LEFT + columns * TILE + (columns - 1) * GUTTER + RIGHT
    grey = np.full((HEIGHT, width), 255, np.uint8)
    grey[40:44, 20:60] = 0  # the row's name
    grey[40:44, width - 50 : width - 20] = 1  # its number
    for k in range(columns):
        left = LEFT + k * (TILE + GUTTER)
        grey[20:80, left : left + TILE] = 8 * (k + 1)
        grey[4:8, left + 4 : left + TILE + 3] = 0  # a title that reaches into the gutter
    buffer = io.BytesIO()
    Image.fromarray(grey).convert("RGB").save(buffer, kind, lossless=True)
    return buffer.getvalue()


def grey_of(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("L"))


def test_columns_of_images_are_found_beside_words():
    found = tile_columns(grey_of(sheet(10)))
    assert found == [(LEFT + k * (TILE + GUTTER), LEFT + k * (TILE + GUTTER) + TILE) for k in range(10)]


@pytest.mark.parametrize(("columns", "each"), [(10, 5), (6, 6), (9, 5), (16, 6)])
def test_each_tile_appears_once_in_its_order_with_the_words_of_its_row(columns, each):
    whole = sheet(columns)
    folded = fold_sheet(whole, room=500)
    bands = -(-columns // each)
    if bands == 1:
        assert folded is None
        return
    grey = grey_of(folded)
    assert grey.shape[0] == HEIGHT * bands
    seen = []
    for band in np.split(grey, bands):
        assert (band[40:44, 20:60] == 0).all()
        middle = band[50]  # below the words
        runs = np.flatnonzero(np.diff(middle.astype(int)) != 0)
        shades = [int(middle[run + 1]) for run in runs if middle[run + 1] != 255]
        assert len(shades) <= each
        assert 1 in band[41]
        seen += shades
    assert seen == [8 * (k + 1) for k in range(columns)]
    titles = sum((band[5] == 0).sum() for band in np.split(grey, bands))
    assert titles == (grey_of(whole)[5] == 0).sum()


def test_what_fits_and_what_is_no_sheet_stays_whole():
    assert fold_sheet(sheet(10), room=2000) is None
    assert fold_sheet(sheet(3), room=100) is None
    assert fold_sheet(render_png(loss_curves({"total": list(range(9))})), room=300) is None


def test_webp_stays_webp():
    assert Image.open(io.BytesIO(fold_sheet(sheet(16, "webp")))).format == "WEBP"
    assert Image.open(io.BytesIO(fold_sheet(sheet(16)))).format == "PNG"


def test_a_phone_gets_the_folded_sheet_unless_the_picture_is_a_chart():
    assert "<source" in Described(sheet(16), "Sixteen.")._repr_html_()
    assert "<source" not in Described(sheet(16), "Sixteen.", chart=True)._repr_html_()
    assert "<source" not in Described(sheet(4), "Four.")._repr_html_()


@pytest.mark.parametrize(("columns", "bands"), [(16, 1), (30, 2)])
def test_a_recorded_sheet_far_wider_than_the_text_is_folded_on_a_desk_too(tmp_path, columns, bands):
    picture = Image.open(io.BytesIO(sheet(columns)))
    figure = Canvas(figsize=(picture.width / 192, picture.height / 192))
    figure.figimage(np.asarray(picture))
    record(
        "run", title="t", config={}, measured={"ours": {"psnr": [20]}}, command="make run", seeds=[0], seconds=1,
        device="cpu", folder=tmp_path, figure=figure, alt="Tiles.",
    )  # fmt: skip
    html = load_recorded("run", tmp_path)._repr_html_()
    assert html.count("<source") == 1
    height = int(html.split("<img")[1].split('height="')[1].split('"')[0])
    assert height == HEIGHT * bands / 2
    assert PHONE_COLUMN < COLUMN
