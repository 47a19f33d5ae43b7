"""The tiles of a recorded run's picture, cut out again: pages show them larger, or one at a time.

A sheet is laid out by `invkit.show.grids`, so its tiles are where that puts them; sheets from before rows of images
were as wide as the page have other margins, and are told by where their tiles are framed.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from invkit.show.grids import GAP, LINE, MARGIN, NAMES, NUMBERS
from invkit.show.picture import SHARPNESS

SIDES = ((NAMES, NUMBERS), (132, 72))  # beside the rows, today and before
ROWS = re.compile(r"^(?:.*?: )?\d+ rows of up to (\d+) images: (.*)\.$", re.S)
GRID = re.compile(
    r"^(?:(.*?): )?([\d,]+) images in \d+ rows? of up to (\d+)(?:, taken evenly from ([\d,]+))?[;.]", re.S
)
Tiles = list[list[Image.Image]]


def parse_rows(alt: str) -> tuple[int, list[str]]:
    """Columns of a sheet of rows, and the rows with the numbers at their ends, as its alt text tells them.

    >>> parse_rows("2 rows of up to 6 images: test images; 1 conv1: PSNR 28.2 dB.")
    (6, ['test images', '1 conv1: PSNR 28.2 dB'])
    """
    found = ROWS.match(alt)
    if not found:
        raise ValueError(f"the alt text {alt[:60]!r} is not that of a sheet of rows")
    return int(found[1]), found[2].split("; ")


@dataclass(frozen=True)
class Batch:
    """What the alt text of a sheet of one batch tells."""

    title: str
    count: int
    """Images that are shown."""
    columns: int
    of: int
    """Images from which these are taken."""


def parse_grid(alt: str) -> Batch:
    """What the alt text of a sheet of one batch tells of it.

    >>> parse_grid("Digits: 12 images in 2 rows of up to 10, taken evenly from 50; class 1.")
    Batch(title='Digits', count=12, columns=10, of=50)
    """
    found = GRID.match(alt)
    if not found:
        raise ValueError(f"the alt text {alt[:60]!r} is not that of a sheet of one batch")
    count, columns, of = (int(number.replace(",", "")) for number in (found[2], found[3], found[4] or found[2]))
    return Batch(found[1] or "", count, columns, of)


@dataclass(frozen=True)
class Layout:
    """Where the tiles of a sheet of rows are, in CSS pixels."""

    left: float
    top: float
    tile: float
    pitch: float
    counts: tuple[int, ...]
    """Tiles of each row."""

    def place(self, row: int, column: int) -> tuple[float, float]:
        """The upper left corner of a tile."""
        return self.left + column * (self.tile + GAP), self.top + row * self.pitch


def laid_out(sheet: Image.Image, rows: int, columns: int) -> Layout:
    """The layout of a sheet of rows without a title, whether or not something stands above its columns.

    Raises:
        ValueError: If the sheet is laid out otherwise.
    """
    light = np.asarray(sheet.convert("RGB")).min(2)
    for (names, numbers), above, lines in product(SIDES, (LINE, 0), range(2, 6)):
        for right in (numbers, 0):
            left = MARGIN + names
            tile = (sheet.width / SHARPNESS - left - right) / columns - GAP
            if tile <= GAP:
                continue
            layout = Layout(left, MARGIN + above, tile, max(tile, lines * LINE) + GAP, ())
            if abs(sheet.height / SHARPNESS - layout.top - rows * layout.pitch - MARGIN + GAP) > GAP:
                continue
            seen = [[framed(light, *layout.place(k, i), tile) for i in range(columns)] for k in range(rows)]
            counts = tuple(row.index(False) if False in row else columns for row in seen)
            if min(counts) and max(counts) == columns and counts == tuple(map(sum, seen)):
                return replace(layout, counts=counts)
    raise ValueError(f"a sheet of {sheet.size} pixels is not one of {rows} rows of {columns} square images")


def laid_out_grid(sheet: Image.Image, count: int, columns: int, *, noted: bool = False) -> Layout:
    """The layout of a sheet of one batch of square images, with or without a title and lines of text below each.

    Args:
        sheet: The sheet.
        count: Of the images on it.
        columns: Images in a row.
        noted: Whether a line at its foot says of how many these are.

    Raises:
        ValueError: If the sheet is laid out otherwise.
    """
    light = np.asarray(sheet.convert("RGB")).min(2)
    rows = -(-count // columns)
    counts = (columns,) * (rows - 1) + (count - columns * (rows - 1),)
    for top, lines in product((MARGIN, MARGIN + LINE + GAP), range(3)):
        pitch = (sheet.height / SHARPNESS - top - LINE * noted - MARGIN + GAP) / rows
        layout = Layout(MARGIN, top, pitch - GAP - LINE * lines, pitch, counts)
        if layout.tile > GAP and all(
            framed(light, *layout.place(k, i), layout.tile) for k, full in enumerate(counts) for i in range(full)
        ):
            return layout
    raise ValueError(f"a sheet of {sheet.size} pixels is not one of {count} square images in {columns} columns")


def framed(light: np.ndarray, x: float, y: float, size: float) -> bool:
    """Whether the square's hairline is where it should be: no white at its edge, nothing but white a little outside."""
    left, top, right, bottom = (round(SHARPNESS * value) for value in (x, y, x + size, y + size))
    if bottom > light.shape[0] or right + 4 > light.shape[1]:
        return False
    inside, outside = light[top + 4 : bottom - 4, right - 1 : right + 1], light[top + 4 : bottom - 4, right + 3]
    below = light[bottom + 3, left + 4 : right - 4] if bottom + 3 < len(light) else light[-1, :1]
    return bool(inside.min(1).mean() < 235 and outside.mean() > 240 and below.mean() > 240)


def cut_rows(picture: bytes, rows: int, columns: int) -> Tiles:
    """The tiles of a sheet of rows without a title, row by row, all of them full.

    Raises:
        ValueError: If the sheet is laid out otherwise.
    """
    sheet = Image.open(io.BytesIO(picture)).convert("RGB")
    layout = laid_out(sheet, rows, columns)
    if min(layout.counts) < columns:
        raise ValueError(f"a sheet of {sheet.size} pixels is not one of {rows} rows of {columns} square images")
    return [[crop(sheet, *layout.place(k, i), layout.tile) for i in range(columns)] for k in range(rows)]


def cut_grid(picture: bytes, columns: int, count: int) -> list[Image.Image]:
    """The tiles of a sheet of one batch without a title.

    Raises:
        ValueError: If the sheet is laid out otherwise.
    """
    sheet = Image.open(io.BytesIO(picture)).convert("RGB")
    layout = laid_out_grid(sheet, count, columns)
    return [crop(sheet, *layout.place(*divmod(i, columns)), layout.tile) for i in range(count)]


def crop(sheet: Image.Image, x: float, y: float, size: float) -> Image.Image:
    """A square of the sheet, in CSS pixels, without the hairline around it."""
    box = [round(SHARPNESS * value) for value in (x, y, x + size, y + size)]
    return sheet.crop((box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1))


def save_webp(image: Image.Image, path: Path, quality: int = 85) -> Path:
    """Write a tile as WebP."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "webp", quality=quality, method=4)
    return path
