"""Sheets of rows laid out anew for a phone: a row's name and number above its tiles, which take several lines.

On a sheet as wide as a page a phone shows tiles of 16 pixels, or a third of them and no number.
"""

from __future__ import annotations

import io
import textwrap
from itertools import pairwise

import numpy as np
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont
from sheets import Layout, laid_out, parse_rows

from invkit.show.grids import GAP, LINE, MARGIN
from invkit.show.picture import CSS_DPI, PHONE, SHARPNESS

WIDTH = round(PHONE * CSS_DPI)  # CSS pixels
LETTERS = 46  # that fit a line


def for_phone(picture: bytes, alt: str) -> bytes | None:
    """The same sheet of rows at the width of a phone.

    Args:
        picture: The encoded sheet.
        alt: Its alt text, which tells the rows.

    Returns:
        The picture, in PNG; None for what is no sheet of rows, or is narrow enough.
    """
    sheet = Image.open(io.BytesIO(picture)).convert("RGB")
    try:
        columns, names = parse_rows(alt)
        layout = laid_out(sheet, len(names), columns)
    except ValueError:
        return None
    most = int((WIDTH - MARGIN) / (layout.tile + GAP))
    if sheet.width <= WIDTH * SHARPNESS or not most:
        return None
    buffer = io.BytesIO()
    image = relaid(sheet, layout, names, most=-(-columns // -(-columns // most)))
    image.save(buffer, "png", compress_level=1)  # which becomes WebP on a page
    return buffer.getvalue()


def relaid(sheet: Image.Image, layout: Layout, names: list[str], most: int) -> Image.Image:
    """The tiles below the names of their rows, at most so many in a line, as large as then fits."""
    scale = max(x for x in (1, 1.5, 2) if x == 1 or most * (x * layout.tile + GAP) <= WIDTH - MARGIN)
    tile, heads = scale * layout.tile, heads_of(sheet, layout)
    above = LINE if heads else 0  # what stands above the columns stands above each line
    step, lines = tile + GAP + above, [-(-count // most) for count in layout.counts]
    blocks = [textwrap.wrap(name, LETTERS) for name in names]
    height = MARGIN + sum(LINE * len(words) + GAP for words in blocks) + step * sum(lines)
    narrow = Image.new("RGB", (WIDTH * SHARPNESS, round(height * SHARPNESS)), "white")
    draw, font = ImageDraw.Draw(narrow), ImageFont.truetype(findfont("DejaVu Sans"), 12 * SHARPNESS)
    y = float(MARGIN)
    for row, words in enumerate(blocks):
        for line in words:
            draw.text((MARGIN * SHARPNESS, round(y * SHARPNESS)), line, "#222222", font)
            y += LINE
        for i in range(layout.counts[row]):
            x, top = MARGIN + i % most * (tile + GAP), y + i // most * step
            if heads:
                head, middle = heads[i]
                paste(narrow, head, x + tile / 2 - middle, top)
            paste(narrow, framed_tile(sheet, layout, row, i, scale), x - 0.5, top + above - 0.5)
        y += lines[row] * step + GAP
    return narrow


def framed_tile(sheet: Image.Image, layout: Layout, row: int, column: int, scale: float) -> Image.Image:
    """A tile with the hairline around it, its pixels repeated."""
    x, y = layout.place(row, column)
    size = round(SHARPNESS * (scale * layout.tile + 1))
    image = part(sheet, x - 0.5, y - 0.5, layout.tile + 1, layout.tile + 1)
    return image.resize((size, size), Image.Resampling.NEAREST)


def heads_of(sheet: Image.Image, layout: Layout) -> list[tuple[Image.Image, float]]:
    """What stands above each column, and where in it the column's middle is; none where nothing stands above any.

    Words may be wider than their column: they are parted where the gap between two middles is widest.
    """
    light = np.asarray(sheet).min(2)[round(SHARPNESS * MARGIN) : round(SHARPNESS * layout.top) - 1]
    columns, pitch = max(layout.counts), layout.tile + GAP
    middles = [layout.left + layout.tile / 2 + i * pitch for i in range(-1, columns + 1)]
    start, end = (round(SHARPNESS * (middle - pitch / 2)) for middle in (middles[1], middles[-1]))
    if not (light[:, start:end] < 128).any():
        return []
    borders = [widest_gap(light, *pair) for pair in pairwise(middles)]
    return [
        (part(sheet, start, MARGIN, end - start, LINE), middle - start)
        for (start, end), middle in zip(pairwise(borders), middles[1:-1], strict=True)
    ]


def widest_gap(light: np.ndarray, start: float, end: float) -> float:
    """The middle of the widest part without ink between two places, in CSS pixels."""
    first, last = max(round(SHARPNESS * start), 0), min(round(SHARPNESS * end), light.shape[1])
    white = first + np.flatnonzero((light[:, first:last] > 235).all(0))
    if not len(white):
        return (start + end) / 2
    runs = np.split(white, np.flatnonzero(np.diff(white) > 1) + 1)
    return float(max(runs, key=len).mean()) / SHARPNESS


def part(sheet: Image.Image, x: float, y: float, width: float, height: float) -> Image.Image:
    """A rectangle of a sheet, in CSS pixels."""
    left, top, right, bottom = (round(SHARPNESS * value) for value in (x, y, x + width, y + height))
    return sheet.crop((left, top, right, bottom))


def paste(sheet: Image.Image, image: Image.Image, x: float, y: float) -> None:
    """Set an image into a sheet, at a place in CSS pixels."""
    sheet.paste(image, (round(SHARPNESS * x), round(SHARPNESS * y)))
