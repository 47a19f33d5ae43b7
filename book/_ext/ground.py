"""Sphinx extension: sheets of images without their white ground, so that on a dark page their words are light.

What is written around tiles becomes ink that is nowhere quite opaque: by that, a filter which stands in the page tells
it from the tiles. These keep every pixel of a sheet that was stored so; one of photographs stays about as large as it
was, at 40 dB. On white a sheet looks as it did.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image

CLEAR = "inv-clear"  # class of an image without ground; its rules are in figures.css
INK = 222  # opacity of full ink, of 255; #222222 on white is black of 221
QUALITY = 84  # of sheets that were stored with some loss
SPECKS = 12  # opacity of what a lossy encoding leaves on the ground
LIGHT = 8  # how much light an ink gains for each opacity that it lacks: full ink turns white
FILTER = (
    '<svg width="0" height="0" aria-hidden="true" style="position:absolute"><filter id="inv-light-ink" '
    'color-interpolation-filters="sRGB"><feColorMatrix values="'
    f"1 0 0 {-LIGHT} {LIGHT}  0 1 0 {-LIGHT} {LIGHT}  0 0 1 {-LIGHT} {LIGHT}  0 0 0 1 0"
    '"/></filter></svg>'
)
Box = tuple[int, int, int, int]  # left, top, right, bottom


def cleared(sheet: Image.Image, tiles: Sequence[Box]) -> Image.Image:
    """A sheet, in RGB, with ink in the place of what is not in a tile."""
    pixels = np.asarray(sheet).astype(np.float32)
    opacity = 255 - pixels.min(2)
    opacity = np.where(opacity < SPECKS, 0, np.minimum(opacity, INK))
    for left, top, right, bottom in tiles:
        opacity[max(top, 0) : bottom, max(left, 0) : right] = 255
    with np.errstate(divide="ignore", invalid="ignore"):
        colour = (pixels - (255 - opacity[..., None])) * 255 / opacity[..., None]
    colour = np.where(opacity[..., None] > 0, colour.clip(0, 255), 0)
    return Image.fromarray(np.dstack([colour, opacity]).round().astype(np.uint8), "RGBA")


def on_white(picture: bytes) -> Image.Image | None:
    """What stands in for a picture without ground where there is no page behind it; None for one that has a ground."""
    image = Image.open(io.BytesIO(picture))
    if image.mode != "RGBA" or image.getextrema()[3][0] == 255:
        return None
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def encoded(sheet: Image.Image, like: bytes) -> bytes:
    """The sheet as WebP, without loss unless the picture that it was made of was stored with some."""
    buffer = io.BytesIO()
    if is_lossy(like):
        sheet.save(buffer, "webp", quality=QUALITY, method=4)
    else:
        sheet.save(buffer, "webp", lossless=True, quality=60, method=4)
    return buffer.getvalue()


def is_lossy(picture: bytes) -> bool:
    """Whether an encoded picture is WebP with some loss."""
    return picture[8:12] == b"WEBP" and b"VP8 " in picture[12:64]


def add_filter(app, pagename, templatename, context, doctree) -> None:
    """Give each page with such sheets the filter for its dark form."""
    if re.search(rf'class="[^"]*\b{CLEAR}\b', context.get("body", "")):
        context["body"] += FILTER


def setup(app) -> dict:
    """Register with Sphinx."""
    app.connect("html-page-context", add_filter)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
