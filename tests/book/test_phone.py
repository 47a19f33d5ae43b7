"""Sheets of images as a phone shows them: the same tiles and words, in more lines."""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from invkit import show
from invkit.show.grids import GAP, LINE, MARGIN
from invkit.show.picture import SHARPNESS, render_png

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture
def phone(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "book/_ext"))
    import phone

    yield phone
    for name in ("phone", "sheets"):
        sys.modules.pop(name, None)


def bright(count: int, size: int = 32) -> torch.Tensor:
    """Images of one colour each, no two alike."""
    levels = torch.linspace(0.1, 0.8, count).view(-1, 1, 1, 1)
    return torch.cat([levels, 0.9 - levels, torch.full_like(levels, 0.5)], 1).expand(-1, -1, size, size)


def drawn(phone, rows, labels=None, **options) -> tuple[Image.Image, Image.Image]:
    """The sheet as on a page, and as on a phone."""
    sheet = show.image_rows(rows, labels, columns=10, **options)
    wide = render_png(sheet)
    return Image.open(io.BytesIO(wide)), Image.open(io.BytesIO(phone.for_phone(wide, sheet.alt)))


def colour(sheet: Image.Image, x: float, y: float) -> list[int]:
    return list(sheet.convert("RGB").getpixel((round(SHARPNESS * x), round(SHARPNESS * y))))


def test_each_tile_is_there_in_its_order_below_the_name_of_its_row(phone):
    rows = {"real": bright(10), "inverted": bright(10).flip(0)}
    _, narrow = drawn(phone, rows, scale=1.5)
    side, step = 48, 48 + GAP  # five in a line, no words above the columns
    assert narrow.width / SHARPNESS == pytest.approx(MARGIN + 5 * step - GAP + MARGIN, abs=1), "margins are alike"
    for k, images in enumerate(rows.values()):
        top = MARGIN + LINE + k * (LINE + 2 * step + GAP)
        for i, image in enumerate(images):
            found = colour(narrow, MARGIN + i % 5 * step + side / 2, top + i // 5 * step + side / 2)
            assert found == pytest.approx((255 * image[:, 0, 0]).tolist(), abs=2)


def ink(picture: Image.Image, top: float, bottom: float, left: float = 0) -> int:
    light = np.asarray(picture.convert("L"))
    return int((light[round(SHARPNESS * top) : round(SHARPNESS * bottom), round(SHARPNESS * left) :] < 128).sum())


def test_words_above_the_columns_are_whole_though_wider_than_a_tile(phone):
    wide, narrow = drawn(phone, {"real": bright(10)}, CLASSES, scale=1)
    first = MARGIN + LINE  # below the row's name
    step = 1.5 * 32 + GAP + LINE
    above = [ink(narrow, first + line * step, first + line * step + LINE - 1) for line in (0, 1)]
    assert sum(above) == ink(wide, MARGIN, MARGIN + LINE - 1, left=100)
    assert min(above) > 0


@pytest.mark.parametrize("columns", [10, 9])
def test_a_sheet_much_wider_than_a_page_stands_in_two_bands_on_a_desk(phone, columns):
    rows = {"real": bright(columns), "inverted": bright(columns).flip(0)}
    sheet = show.image_rows(
        rows, CLASSES[:columns], columns=columns, scale=3.5, numbers_name="share", numbers={"real": 1}
    )
    wide = render_png(sheet)
    whole, folded = (
        Image.open(io.BytesIO(picture)).convert("RGB") for picture in (wide, phone.for_desk(wide, sheet.alt))
    )
    layout = phone.laid_out(whole, 2, columns)
    half, step = -(-columns // 2), layout.tile + GAP
    assert folded.height == 2 * whole.height
    assert (whole.width - folded.width) / SHARPNESS == pytest.approx((columns - half) * step, abs=1)
    for k, images in enumerate(rows.values()):
        for i, image in enumerate(images):
            x, y = layout.place(k, i % half)
            middle = y + i // half * whole.height / SHARPNESS + layout.tile / 2
            assert colour(folded, x + layout.tile / 2, middle) == pytest.approx((255 * image[:, 0, 0]).tolist(), abs=4)
    height = whole.height / SHARPNESS
    beside, numbers = ink(whole, 0, height) - ink(whole, 0, height, layout.left - GAP), layout.left + half * step
    for top in (0, height):
        assert ink(folded, top, top + height) - ink(folded, top, top + height, layout.left - GAP) == pytest.approx(
            beside, abs=9
        )
    assert ink(folded, 0, height, numbers) == pytest.approx(ink(whole, 0, height, layout.left + columns * step), abs=9)
    assert (
        phone.add_phone_form(
            f'<img src="data:image/png;base64,{base64.b64encode(wide).decode()}" alt="{sheet.alt}">'
        ).count("data:")
        == 2
    )


def test_a_sheet_as_wide_as_a_page_and_what_is_no_sheet_of_rows_stay_whole_on_a_desk(phone):
    sheet = show.image_rows({"real": bright(10)}, columns=10, scale=1.5)
    assert phone.for_desk(render_png(sheet), sheet.alt) is None
    large = show.image_rows({"real": bright(10)}, columns=10, scale=3.5)
    assert phone.for_desk(render_png(large), "Curves.") is None
    one = show.image_rows({"real": bright(1, 400)}, columns=1, scale=3)
    assert phone.for_desk(render_png(one), one.alt) is None


def test_rows_may_have_fewer_images_than_others(phone):
    _, narrow = drawn(phone, {"real": bright(10), "three": bright(3)}, numbers={"three": 0.5}, numbers_name="share")
    _, full = drawn(phone, {"real": bright(10), "ten": bright(10)}, numbers={"ten": 0.5}, numbers_name="share")
    assert narrow.height < full.height


def regridded(phone, sheet) -> tuple[Image.Image, Image.Image]:
    wide = render_png(sheet)
    return Image.open(io.BytesIO(wide)), Image.open(io.BytesIO(phone.for_phone(wide, sheet.alt)))


def test_a_batch_of_images_keeps_its_order_in_more_lines(phone):
    _, narrow = regridded(phone, show.image_grid(bright(12), columns=10, scale=1.5))
    step = 48 + GAP  # five in a line
    assert narrow.width / SHARPNESS == pytest.approx(MARGIN + 5 * step - GAP + MARGIN, abs=1), "margins are alike"
    found = [colour(narrow, MARGIN + i % 5 * step + 24, MARGIN + i // 5 * step + 24)[0] for i in range(12)]
    assert found == pytest.approx((255 * bright(12)[:, 0, 0, 0]).tolist(), abs=2)
    assert round(narrow.height / SHARPNESS) == MARGIN + 3 * step + MARGIN - GAP


@pytest.mark.parametrize("scale", [1, 1.5])
def test_what_is_written_below_each_image_of_a_batch_stays_with_it(phone, scale):
    sheet = show.image_grid(bright(10), CLASSES, columns=10, captions=[f"0.{i}" for i in range(10)], scale=scale)
    wide, narrow = regridded(phone, sheet)
    below = MARGIN + 32 * scale + 2
    step = 48 + GAP + 2 * LINE  # five in a line; small tiles are enlarged
    for k in (0, 1):
        parts = [MARGIN + line * step + 48 + 2 + k * LINE for line in (0, 1)]
        found = [ink(narrow, top, top + LINE - 1) for top in parts]
        assert sum(found) == ink(wide, below + k * LINE, below + (k + 1) * LINE - 1)
        assert min(found) > 0
    middles = [MARGIN + i * (48 + GAP) + 24 for i in range(5)]
    dark = np.asarray(narrow.convert("L"))[round(2 * (MARGIN + 48 + 3 + LINE)) :][: 2 * LINE - 4] < 128
    columns = np.flatnonzero(dark.any(0)) / SHARPNESS
    nearest = [min(middles, key=lambda middle: abs(middle - column)) for column in columns]
    for middle in middles:  # each number below the middle of its own image
        own = columns[np.array(nearest) == middle]
        assert (own.min() + own.max()) / 2 == pytest.approx(middle, abs=2)


def test_of_large_images_two_stand_in_a_line(phone):
    sheet = show.image_grid(bright(4, 112), [f"class {i}" for i in range(4)], columns=4, scale=1.9)
    _, narrow = regridded(phone, sheet)
    tile = (phone.WIDTH - MARGIN) / 2 - GAP
    step = tile + GAP + LINE
    found = [colour(narrow, MARGIN + i % 2 * (tile + GAP) + 80, MARGIN + i // 2 * step + 80)[0] for i in range(4)]
    assert found == pytest.approx((255 * bright(4)[:, 0, 0, 0]).tolist(), abs=2)
    assert narrow.height / SHARPNESS == pytest.approx(MARGIN + 2 * step + MARGIN - GAP, abs=1)


def test_title_and_note_of_a_batch_are_written_anew(phone):
    images = bright(40)
    plain = regridded(phone, show.image_grid(images[:20], scale=1.5))[1]
    titled = regridded(phone, show.image_grid(images[:20], scale=1.5, title="A title"))[1]
    thinned = regridded(phone, show.image_grid(images, scale=1.5, limit=20))[1]
    assert titled.height - plain.height == SHARPNESS * (LINE + GAP)
    assert thinned.height - plain.height == SHARPNESS * LINE
    assert ink(titled, MARGIN, MARGIN + LINE)
    assert ink(thinned, thinned.height / SHARPNESS - MARGIN - LINE, thinned.height / SHARPNESS)


def test_what_fits_or_is_no_sheet_of_images_stays_as_it_is(phone):
    small = show.image_rows({"real": bright(3)}, columns=3, scale=1)
    few = show.image_grid(bright(3))
    oblong = show.image_grid(bright(10)[..., :16], columns=10)
    for sheet in (small, few, oblong):
        assert phone.for_phone(render_png(sheet), sheet.alt) is None
    grid = render_png(show.image_grid(bright(10), columns=10))
    for alt in ("2 rows of up to 10 images: real; inverted.", "12 images in 2 rows of up to 6.", "Ten images."):
        assert phone.for_phone(grid, alt) is None
