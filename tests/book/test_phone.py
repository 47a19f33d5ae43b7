"""Sheets of rows as a phone shows them: the same tiles and words, in more lines."""

from __future__ import annotations

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
    assert narrow.width == phone.WIDTH * SHARPNESS
    side, step = 48, 48 + GAP  # five in a line, no words above the columns
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


def test_rows_may_have_fewer_images_than_others(phone):
    _, narrow = drawn(phone, {"real": bright(10), "three": bright(3)}, numbers={"three": 0.5}, numbers_name="share")
    _, full = drawn(phone, {"real": bright(10), "ten": bright(10)}, numbers={"ten": 0.5}, numbers_name="share")
    assert narrow.height < full.height


def test_what_fits_or_is_no_sheet_of_rows_stays_as_it_is(phone):
    small = show.image_rows({"real": bright(3)}, columns=3, scale=1)
    grid = show.image_grid(bright(10), columns=10)
    for sheet in (small, grid):
        assert phone.for_phone(render_png(sheet), sheet.alt) is None
    assert phone.for_phone(render_png(grid), "2 rows of up to 10 images: real; inverted.") is None
