"""Sheets of images laid out anew for a phone: fewer tiles in a line, and a row's name and number above its tiles.

On a sheet as wide as a page a phone shows tiles of 16 pixels, or a third of them and no number. Sheets that are much
wider than a page stand in two bands on a desk, too. All forms are without ground; see `ground`.
"""

from __future__ import annotations

import base64
import io
import json
import re
import textwrap
from dataclasses import dataclass, field
from html import unescape
from itertools import pairwise

import numpy as np
from ground import CLEAR, Box, cleared, encoded
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont
from sheets import ROWS, Batch, Layout, laid_out, laid_out_grid, parse_grid, parse_rows

from invkit.show.grids import GAP, LINE, MARGIN
from invkit.show.picture import CSS_DPI, PHONE, SHARPNESS, css_size, data_uri, in_picture

WIDTH = round(PHONE * CSS_DPI)  # CSS pixels
LETTERS = 46  # that fit a line
FEWEST = 2  # tiles in a line
DESK = 704  # CSS pixels of a page's text on a desk
SMALLEST = 0.7  # of its size at which a sheet's words can be read
SHEET = re.compile(r'<img src="data:image/\w+;base64,([^"]+)" alt="([^"]*\d rows? of up to \d+[^"]*)"([^>]*)>')
RECORDS = re.compile(r'<script type="application/json">(.*?)</script>', re.S)  # of the frames of a slider


@dataclass
class Sheet:
    """A sheet of images and where on it the tiles are."""

    image: Image.Image
    tiles: list[Box] = field(default_factory=list)

    def paste(self, image: Image.Image, x: float, y: float, *, tile: bool = False) -> None:
        """Set an image into the sheet, at a place in CSS pixels."""
        left, top = round(SHARPNESS * x), round(SHARPNESS * y)
        self.image.paste(image, (left, top))
        if tile:
            self.tiles.append((left, top, left + image.width, top + image.height))

    def clear(self) -> Image.Image:
        """The sheet without its ground."""
        return cleared(self.image, self.tiles)


@dataclass
class Forms:
    """The forms of one sheet, as WebP without ground.

    Attributes:
        wide: What a desk shows.
        narrow: What a phone shows; None where that is the same.
    """

    wide: bytes
    narrow: bytes | None


def add_forms(html: str) -> str:
    """Give each sheet of images its forms for a desk and for a phone, and so each frame of a slider."""

    def add(found: re.Match[str]) -> str:
        source, alt, rest = found.groups()
        forms = forms_of(base64.b64decode(source), unescape(alt))
        if forms is None:
            return found[0]
        width, height = css_size(forms.wide)
        rest = re.sub(r'width="\d+" height="\d+"', f'width="{width}" height="{height}"', rest)
        rest = rest.replace("background:#fff;", "")
        image = f'<img src="{data_uri(forms.wide)}" alt="{alt}" class="{CLEAR}"{rest}>'
        return in_picture(image, forms.narrow) if forms.narrow else image

    def add_to_frames(found: re.Match[str]) -> str:
        frames = json.loads(found[1])
        for frame in frames:
            if "src" in frame and (forms := forms_of(base64.b64decode(frame["src"].partition(",")[2]), frame["alt"])):
                frame["src"] = data_uri(forms.wide)
                if forms.narrow:
                    width, height = css_size(forms.narrow)
                    frame["narrow"] = {"src": data_uri(forms.narrow), "width": width, "height": height}
        return found[0].replace(found[1], json.dumps(frames).replace("<", r"\u003c"))

    return RECORDS.sub(add_to_frames, SHEET.sub(add, html))


@dataclass
class Known:
    """What is known of a sheet: where its tiles are, how many columns they make, and what is said beside them."""

    layout: Layout
    columns: int
    said: list[str] | Batch
    """The names of the rows, or what is told of a single batch."""


def forms_of(picture: bytes, alt: str) -> Forms | None:
    """The forms of an encoded sheet, whose alt text tells the rows, or how many images there are; None for no sheet."""
    sheet = Image.open(io.BytesIO(picture)).convert("RGB")
    known = known_of(sheet, alt)
    if known is None:
        return None
    narrow = for_phone(sheet, known)
    wide = encoded(for_desk(sheet, known).clear(), picture)
    return Forms(wide, encoded(trimmed(narrow.clear()), picture) if narrow else None)


def known_of(sheet: Image.Image, alt: str) -> Known | None:
    """What can be known of a sheet; None for a picture that is no sheet of square images."""
    try:
        if ROWS.match(alt):
            columns, names = parse_rows(alt)
            return Known(laid_out(sheet, len(names), columns), columns, names)
        batch = parse_grid(alt)
        layout = laid_out_grid(sheet, batch.count, batch.columns, noted=batch.of > batch.count)
        return Known(layout, batch.columns, batch)
    except ValueError:
        return None


def for_phone(sheet: Image.Image, known: Known) -> Sheet | None:
    """The same images at the width of a phone; None for a sheet that is narrow enough."""
    if sheet.width <= WIDTH * SHARPNESS:
        return None
    draw = regridded if isinstance(known.said, Batch) else relaid
    return draw(sheet, known.layout, known.said, most_in_line(known.layout, known.columns))


def for_desk(sheet: Image.Image, known: Known) -> Sheet:
    """The sheet as a desk shows it: one of rows that is much wider than a page in two bands."""
    layout = known.layout
    places = [layout.place(k, i) for k, count in enumerate(layout.counts) for i in range(count)]
    whole = Sheet(sheet, [framed_box(x, y, layout.tile) for x, y in places])
    wide = sheet.width * SMALLEST > DESK * SHARPNESS and known.columns > 1
    return in_two_bands(whole, layout, known.columns) if wide and isinstance(known.said, list) else whole


def in_two_bands(whole: Sheet, layout: Layout, columns: int) -> Sheet:
    """A sheet of rows with the second half of its columns below the first, names and numbers beside both."""
    sheet, half = whole.image, -(-columns // 2)
    edges = [round(SHARPNESS * (layout.left - GAP / 2 + k * (layout.tile + GAP))) for k in (0, half, columns)]
    width = edges[1] + sheet.width - edges[2]
    folded = Sheet(Image.new("RGB", (width, 2 * sheet.height), "white"))
    for top, (left, right) in ((0, (edges[0], edges[1])), (sheet.height, (edges[1], edges[2]))):
        folded.image.paste(sheet.crop((0, 0, edges[0], sheet.height)), (0, top))
        folded.image.paste(sheet.crop((left, 0, right, sheet.height)), (edges[0], top))
        folded.image.paste(sheet.crop((edges[2], 0, sheet.width, sheet.height)), (edges[0] + right - left, top))
        across = edges[0] - left
        folded.tiles += [
            (box[0] + across, box[1] + top, box[2] + across, box[3] + top)
            for box in whole.tiles
            if left <= box[0] < right
        ]
    return folded


def most_in_line(layout: Layout, columns: int) -> int:
    """How many tiles stand in a line of a phone, as many in each; of large ones at least two, made smaller."""
    most = max(int((WIDTH - MARGIN) / (layout.tile + GAP)), min(columns, FEWEST))
    return -(-columns // -(-columns // most))


def best_scale(layout: Layout, most: int) -> float:
    """By how much tiles are enlarged of which so many stand in a line, or made smaller where they would not fit."""
    room = ((WIDTH - MARGIN) / most - GAP) / layout.tile
    return max((scale for scale in (1.0, 1.5, 2.0) if scale <= room), default=room)


def regridded(sheet: Image.Image, layout: Layout, batch: Batch, most: int) -> Sheet:
    """The tiles with what is written below each, at most so many in a line, as large as then fits."""
    scale = best_scale(layout, most)
    tile, lines = scale * layout.tile, round((layout.pitch - layout.tile - GAP) / LINE)
    above = textwrap.wrap(batch.title, LETTERS) if layout.top > MARGIN else []
    below = [f"{batch.count:,} of {batch.of:,} images, evenly spaced"] if batch.of > batch.count else []
    top, step = MARGIN + (LINE * len(above) + GAP if above else 0), tile + GAP + lines * LINE
    bottom = top + step * -(-batch.count // most)
    height = bottom + LINE * len(below) + MARGIN - GAP
    narrow = Sheet(Image.new("RGB", (WIDTH * SHARPNESS, round(height * SHARPNESS)), "white"))
    write(narrow.image, above, MARGIN)
    write(narrow.image, below, bottom)
    places = [(MARGIN + i % most * (tile + GAP), top + i // most * step) for i in range(batch.count)]
    for row, count in enumerate(layout.counts):
        there = places[row * batch.columns :][:count]
        below_tiles = layout.place(row, 0)[1] + layout.tile + 2
        for line in range(lines):
            words = words_along(sheet, layout, below_tiles + line * LINE, count)
            for (x, y), (word, middle) in zip(there, words, strict=True):
                narrow.paste(word, x + tile / 2 - middle, y + tile + 2 + line * LINE)
        for column, (x, y) in enumerate(there):
            narrow.paste(framed_tile(sheet, layout, row, column, scale), x - 0.5, y - 0.5, tile=True)
    return narrow


def trimmed(sheet: Image.Image) -> Image.Image:
    """A sheet without ground and without the room at its right, but for a margin as wide as at its left."""
    marked = np.flatnonzero(np.asarray(sheet)[..., 3].any(0))
    if not len(marked):
        return sheet
    return sheet.crop((0, 0, min(sheet.width, int(marked.max()) + 1 + round(MARGIN * SHARPNESS)), sheet.height))


def write(sheet: Image.Image, lines: list[str], y: float) -> None:
    """Write lines of text one below the other, the first at a height in CSS pixels."""
    font = ImageFont.truetype(findfont("DejaVu Sans"), 12 * SHARPNESS)
    draw = ImageDraw.Draw(sheet)
    for i, line in enumerate(lines):
        draw.text((MARGIN * SHARPNESS, round((y + i * LINE) * SHARPNESS)), line, "#222222", font)


def relaid(sheet: Image.Image, layout: Layout, names: list[str], most: int) -> Sheet:
    """The tiles below the names of their rows, at most so many in a line, as large as then fits."""
    scale = best_scale(layout, most)
    tile, heads = scale * layout.tile, []
    if layout.top > MARGIN:
        heads = words_along(sheet, layout, MARGIN, max(layout.counts))
    above = LINE if heads else 0  # what stands above the columns stands above each line
    step, lines = tile + GAP + above, [-(-count // most) for count in layout.counts]
    blocks = [textwrap.wrap(name, LETTERS) for name in names]
    height = MARGIN + sum(LINE * len(words) + GAP for words in blocks) + step * sum(lines)
    narrow = Sheet(Image.new("RGB", (WIDTH * SHARPNESS, round(height * SHARPNESS)), "white"))
    y = float(MARGIN)
    for row, words in enumerate(blocks):
        write(narrow.image, words, y)
        y += LINE * len(words)
        for i in range(layout.counts[row]):
            x, top = MARGIN + i % most * (tile + GAP), y + i // most * step
            if heads:
                head, middle = heads[i]
                narrow.paste(head, x + tile / 2 - middle, top)
            narrow.paste(framed_tile(sheet, layout, row, i, scale), x - 0.5, top + above - 0.5, tile=True)
        y += lines[row] * step + GAP
    return narrow


def framed_tile(sheet: Image.Image, layout: Layout, row: int, column: int, scale: float) -> Image.Image:
    """A tile with the hairline around it, its pixels repeated where it is enlarged."""
    x, y = layout.place(row, column)
    size = round(SHARPNESS * (scale * layout.tile + 1))
    image = sheet.crop(framed_box(x, y, layout.tile))
    return image.resize((size, size), Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)


def framed_box(x: float, y: float, size: float) -> Box:
    """A tile at a place in CSS pixels with its hairline, in pixels of the sheet."""
    return tuple(round(SHARPNESS * value) for value in (x - 0.5, y - 0.5, x + size + 0.5, y + size + 0.5))


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
