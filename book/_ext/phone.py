"""Sheets of images laid out anew for a phone: fewer tiles in a line, and a row's name and number above its tiles.

On a sheet as wide as a page a phone shows tiles of 16 pixels, or a third of them and no number. Sheets that are much
wider than a page stand in two bands on a desk, too.
"""

from __future__ import annotations

import base64
import io
import json
import re
import textwrap
from html import unescape
from itertools import pairwise

import numpy as np
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont
from sheets import Batch, Layout, laid_out, laid_out_grid, parse_grid, parse_rows

from invkit.show.grids import GAP, LINE, MARGIN
from invkit.show.picture import CSS_DPI, PHONE, SHARPNESS, css_size, data_uri, img_tag, in_picture, webp

WIDTH = round(PHONE * CSS_DPI)  # CSS pixels
LETTERS = 46  # that fit a line
FEWEST = 2  # tiles in a line
DESK = 704  # CSS pixels of a page's text on a desk
SMALLEST = 0.7  # of its size at which a sheet's words can be read
SHEET = re.compile(r'<img src="data:image/\w+;base64,([^"]+)" alt="([^"]*\d rows? of up to \d+[^"]*)"[^>]*>')
RECORDS = re.compile(r'<script type="application/json">(.*?)</script>', re.S)  # of the frames of a slider


def add_phone_form(html: str) -> str:
    """Give each sheet of images its form for a phone, and so each frame of a slider."""

    def add(found: re.Match[str]) -> str:
        encoded, alt = found.groups()
        narrow, wide = phone_form(encoded, unescape(alt)), for_desk(base64.b64decode(encoded), unescape(alt))
        image = img_tag(wide, unescape(alt)) if wide else found[0]
        return in_picture(image, narrow) if narrow else image

    def add_to_frames(found: re.Match[str]) -> str:
        frames = json.loads(found[1])
        for frame in frames:
            if "src" in frame and (narrow := phone_form(frame["src"].partition(",")[2], frame["alt"])):
                width, height = css_size(narrow)
                frame["narrow"] = {"src": data_uri(narrow), "width": width, "height": height}
        return found[0].replace(found[1], json.dumps(frames).replace("<", r"\u003c"))

    return RECORDS.sub(add_to_frames, SHEET.sub(add, html))


def phone_form(encoded: str, alt: str) -> bytes | None:
    """The form for a phone of a picture as it stands in a page, in WebP; None where it has none."""
    narrow = for_phone(base64.b64decode(encoded), alt)
    return webp(narrow) if narrow else None


def for_phone(picture: bytes, alt: str) -> bytes | None:
    """The same sheet of images at the width of a phone.

    Args:
        picture: The encoded sheet.
        alt: Its alt text, which tells the rows, or how many images there are.

    Returns:
        The picture, in PNG; None for what is no sheet of images, or is narrow enough.
    """
    sheet = Image.open(io.BytesIO(picture)).convert("RGB")
    if sheet.width <= WIDTH * SHARPNESS:
        return None
    narrow = rows_for_phone(sheet, alt) or grid_for_phone(sheet, alt)
    if narrow is None:
        return None
    buffer = io.BytesIO()
    trimmed(narrow).save(buffer, "png", compress_level=1)  # which becomes WebP on a page
    return buffer.getvalue()


def for_desk(picture: bytes, alt: str) -> bytes | None:
    """A sheet of rows that is much wider than a page, in two bands: the second half of its columns below the first.

    Args:
        picture: The encoded sheet.
        alt: Its alt text, which tells the rows.

    Returns:
        The picture, in WebP, with a little loss if it was WebP; None for what is no sheet of rows, or is narrow enough.
    """
    sheet = Image.open(io.BytesIO(picture)).convert("RGB")
    if sheet.width * SMALLEST <= DESK * SHARPNESS:
        return None
    try:
        columns, names = parse_rows(alt)
        layout = laid_out(sheet, len(names), columns)
    except ValueError:
        return None
    if columns < 2:
        return None
    half = -(-columns // 2)
    edges = [round(SHARPNESS * (layout.left - GAP / 2 + k * (layout.tile + GAP))) for k in (0, half, columns)]
    width = edges[1] + sheet.width - edges[2]
    folded = Image.new("RGB", (width, 2 * sheet.height), "white")
    for top, (left, right) in ((0, (edges[0], edges[1])), (sheet.height, (edges[1], edges[2]))):
        folded.paste(sheet.crop((0, 0, edges[0], sheet.height)), (0, top))
        folded.paste(sheet.crop((left, 0, right, sheet.height)), (edges[0], top))
        folded.paste(sheet.crop((edges[2], 0, sheet.width, sheet.height)), (edges[0] + right - left, top))
    buffer = io.BytesIO()
    folded.save(buffer, "png", compress_level=1)
    return webp(buffer.getvalue(), lossless=Image.open(io.BytesIO(picture)).format != "WEBP")


def rows_for_phone(sheet: Image.Image, alt: str) -> Image.Image | None:
    """A sheet of rows, each below its name; None for another sheet."""
    try:
        columns, names = parse_rows(alt)
        layout = laid_out(sheet, len(names), columns)
    except ValueError:
        return None
    return relaid(sheet, layout, names, most_in_line(layout, columns))


def grid_for_phone(sheet: Image.Image, alt: str) -> Image.Image | None:
    """A sheet of one batch, its title above; None for another sheet."""
    try:
        batch = parse_grid(alt)
        layout = laid_out_grid(sheet, batch.count, batch.columns, noted=batch.of > batch.count)
    except ValueError:
        return None
    return regridded(sheet, layout, batch, most_in_line(layout, batch.columns))


def most_in_line(layout: Layout, columns: int) -> int:
    """How many tiles stand in a line of a phone, as many in each; of large ones at least two, made smaller."""
    most = max(int((WIDTH - MARGIN) / (layout.tile + GAP)), min(columns, FEWEST))
    return -(-columns // -(-columns // most))


def best_scale(layout: Layout, most: int) -> float:
    """By how much tiles are enlarged of which so many stand in a line, or made smaller where they would not fit."""
    room = ((WIDTH - MARGIN) / most - GAP) / layout.tile
    return max((scale for scale in (1.0, 1.5, 2.0) if scale <= room), default=room)


def regridded(sheet: Image.Image, layout: Layout, batch: Batch, most: int) -> Image.Image:
    """The tiles with what is written below each, at most so many in a line, as large as then fits."""
    scale = best_scale(layout, most)
    tile, lines = scale * layout.tile, round((layout.pitch - layout.tile - GAP) / LINE)
    above = textwrap.wrap(batch.title, LETTERS) if layout.top > MARGIN else []
    below = [f"{batch.count:,} of {batch.of:,} images, evenly spaced"] if batch.of > batch.count else []
    top, step = MARGIN + (LINE * len(above) + GAP if above else 0), tile + GAP + lines * LINE
    bottom = top + step * -(-batch.count // most)
    height = bottom + LINE * len(below) + MARGIN - GAP
    narrow = Image.new("RGB", (WIDTH * SHARPNESS, round(height * SHARPNESS)), "white")
    write(narrow, above, MARGIN)
    write(narrow, below, bottom)
    places = [(MARGIN + i % most * (tile + GAP), top + i // most * step) for i in range(batch.count)]
    for row, count in enumerate(layout.counts):
        there = places[row * batch.columns :][:count]
        below_tiles = layout.place(row, 0)[1] + layout.tile + 2
        for line in range(lines):
            words = words_along(sheet, layout, below_tiles + line * LINE, count)
            for (x, y), (word, middle) in zip(there, words, strict=True):
                paste(narrow, word, x + tile / 2 - middle, y + tile + 2 + line * LINE)
        for column, (x, y) in enumerate(there):
            paste(narrow, framed_tile(sheet, layout, row, column, scale), x - 0.5, y - 0.5)
    return narrow


def trimmed(sheet: Image.Image) -> Image.Image:
    """The sheet without the white at its right, but for a margin as wide as at its left."""
    marked = np.flatnonzero((np.asarray(sheet) < 255).any((0, 2)))
    if not len(marked):
        return sheet
    return sheet.crop((0, 0, min(sheet.width, int(marked.max()) + 1 + round(MARGIN * SHARPNESS)), sheet.height))


def write(sheet: Image.Image, lines: list[str], y: float) -> None:
    """Write lines of text one below the other, the first at a height in CSS pixels."""
    font = ImageFont.truetype(findfont("DejaVu Sans"), 12 * SHARPNESS)
    draw = ImageDraw.Draw(sheet)
    for i, line in enumerate(lines):
        draw.text((MARGIN * SHARPNESS, round((y + i * LINE) * SHARPNESS)), line, "#222222", font)


def relaid(sheet: Image.Image, layout: Layout, names: list[str], most: int) -> Image.Image:
    """The tiles below the names of their rows, at most so many in a line, as large as then fits."""
    scale = best_scale(layout, most)
    tile, heads = scale * layout.tile, []
    if layout.top > MARGIN:
        heads = words_along(sheet, layout, MARGIN, max(layout.counts))
    above = LINE if heads else 0  # what stands above the columns stands above each line
    step, lines = tile + GAP + above, [-(-count // most) for count in layout.counts]
    blocks = [textwrap.wrap(name, LETTERS) for name in names]
    height = MARGIN + sum(LINE * len(words) + GAP for words in blocks) + step * sum(lines)
    narrow = Image.new("RGB", (WIDTH * SHARPNESS, round(height * SHARPNESS)), "white")
    y = float(MARGIN)
    for row, words in enumerate(blocks):
        write(narrow, words, y)
        y += LINE * len(words)
        for i in range(layout.counts[row]):
            x, top = MARGIN + i % most * (tile + GAP), y + i // most * step
            if heads:
                head, middle = heads[i]
                paste(narrow, head, x + tile / 2 - middle, top)
            paste(narrow, framed_tile(sheet, layout, row, i, scale), x - 0.5, top + above - 0.5)
        y += lines[row] * step + GAP
    return narrow


def framed_tile(sheet: Image.Image, layout: Layout, row: int, column: int, scale: float) -> Image.Image:
    """A tile with the hairline around it, its pixels repeated where it is enlarged."""
    x, y = layout.place(row, column)
    size = round(SHARPNESS * (scale * layout.tile + 1))
    image = part(sheet, x - 0.5, y - 0.5, layout.tile + 1, layout.tile + 1)
    return image.resize((size, size), Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)


def words_along(sheet: Image.Image, layout: Layout, top: float, count: int) -> list[tuple[Image.Image, float]]:
    """A line of text along the columns, parted: what stands at each, and where in it the column's middle is.

    Words may be wider than their column: they are parted where the gap between two middles is widest.
    """
    light = np.asarray(sheet).min(2)[round(SHARPNESS * top) : round(SHARPNESS * (top + LINE)) - 1]
    pitch = layout.tile + GAP
    middles = [layout.left + layout.tile / 2 + i * pitch for i in range(-1, count + 1)]
    borders = [widest_gap(light, *pair) for pair in pairwise(middles)]
    return [
        (part(sheet, start, top, end - start, LINE), middle - start)
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
