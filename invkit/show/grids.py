"""Sheets of images: a grid of one batch, and rows that set several batches side by side.

A sheet is laid out in CSS pixels, so that one pixel of a small image covers a whole number of a dense screen's pixels
and edges stay crisp. Images are float tensors ``(N, C, H, W)`` in [0, 1] with one or three channels.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from invkit.core.spec import as_floats
from invkit.show.picture import CSS_DPI, SHARPNESS, Canvas
from invkit.show.tables import signed

PAGE = 696  # CSS pixels: the width of a page's text
LARGEST = 96  # CSS pixels: no tile is drawn larger unless asked for
GAP, MARGIN, LINE = 6, 8, 17  # CSS pixels between tiles, around the sheet, and per line of text
NAMES, NUMBERS = 100, 56  # CSS pixels beside the rows of a sheet, for their names and for a number at their ends
SHOWN = 100  # more images than this are subsampled: nobody can look at a thousand


def image_grid(
    images: Tensor,
    labels: Any = None,
    *,
    columns: int = 10,
    captions: Sequence[str] | None = None,
    title: str | None = None,
    pixelated: bool = True,
    scale: float | None = None,
    limit: int = SHOWN,
) -> Canvas:
    """A batch of images in rows, the class label and a caption below each.

    Args:
        images: ``(N, C, H, W)`` in [0, 1].
        labels: One label for each image.
        columns: Images in a row.
        captions: One more line for each image.
        title: Heading of the sheet.
        pixelated: Whether enlarged pixels stay square instead of being smoothed.
        scale: Screen pixels per image pixel; by default what fits the page.
        limit: How many images are shown at most; more are thinned out evenly, which the figure says.

    Returns:
        A sheet whose alt text tells how many images of which classes it shows.

    Raises:
        ValueError: For images that are not finite, out of range or of another shape, and for labels or captions of
            another length.

    >>> image_grid(torch.rand(3, 1, 8, 8), [0, 1, 2]).alt
    '3 images in 1 row of up to 3; classes 0, 1, 2.'
    """
    pixels = check_images(images, "image_grid")
    texts = [_texts(part, len(pixels), name) for part, name in ((labels, "labels"), (captions, "captions"))]
    lines = [part for part in texts if part is not None]
    indices = np.unique(np.linspace(0, len(pixels) - 1, min(limit, len(pixels))).round().astype(int))
    columns = min(columns, len(indices))
    rows = math.ceil(len(indices) / columns)
    width, height = _tile_size(pixels, columns, scale)
    note = f"{len(indices):,} of {len(pixels):,} images, evenly spaced" if len(indices) < len(pixels) else None
    pitch = height + GAP + LINE * len(lines)
    top = MARGIN + (LINE + GAP if title else 0)
    sheet, axes = _sheet(
        2 * MARGIN + columns * (width + GAP) - GAP, top + rows * pitch + (LINE if note else 0), title, note
    )
    for place, index in enumerate(indices):
        x, y = MARGIN + (place % columns) * (width + GAP), top + (place // columns) * pitch
        _tile(axes, pixels[index], x, y, width, height, pixelated)
        for i, part in enumerate(lines):
            _text(
                axes, x + width / 2, y + height + 2 + (i + 0.5) * LINE, part[index], "center", _size(part, width + GAP)
            )
    sheet.alt = _grid_alt(len(pixels), len(indices), rows, columns, texts[0], title)
    return sheet


def image_rows(
    rows: Mapping[str, Tensor],
    labels: Any = None,
    *,
    numbers: Mapping[str, float | str] | None = None,
    numbers_name: str = "",
    columns: int = 8,
    title: str | None = None,
    pixelated: bool = True,
    scale: float | None = None,
) -> Canvas:
    """Small multiples: each name with a row of its first images, the class labels above the columns.

    Args:
        rows: Images ``(N, C, H, W)`` in [0, 1] by name.
        labels: One label for each column.
        numbers: One number or text at the end of each row, a verifier's accuracy, say.
        numbers_name: Heading of these.
        columns: Images in a row.
        title: Heading of the sheet.
        pixelated: Whether enlarged pixels stay square instead of being smoothed.
        scale: Screen pixels per image pixel; by default what fits the page.

    Returns:
        A sheet whose alt text tells the rows and their numbers.

    Raises:
        ValueError: For no rows, for images as :func:`image_grid` does, and for rows of different image sizes.

    >>> images = torch.rand(2, 1, 8, 8)
    >>> image_rows({"real": images, "inverted": images}, numbers={"inverted": 0.9}, numbers_name="verifier").alt
    '2 rows of up to 2 images: real; inverted: verifier 0.9.'
    """
    if not rows:
        raise ValueError("image_rows was given no rows")
    pixels = {name: check_images(images, f"image_rows, row {name!r}") for name, images in rows.items()}
    if len({p.shape[1:3] for p in pixels.values()}) > 1:
        sizes = ", ".join(f"{name} {p.shape[1]}×{p.shape[2]}" for name, p in pixels.items())
        raise ValueError(f"image_rows: rows differ in image size: {sizes}")
    columns = min(columns, max(map(len, pixels.values())))
    heads = None if labels is None else _texts(labels[:columns], columns, "labels")
    endings = {name: _number(numbers[name]) if numbers and name in numbers else "" for name in pixels}
    left, right = NAMES, NUMBERS if numbers else 0
    width, height = _tile_size(next(iter(pixels.values())), columns, scale, PAGE - left - right)
    first = MARGIN + (LINE + GAP if title else 0)
    names = {name: _wrapped(name) for name in pixels}
    longest = max(len(line) for wrapped in names.values() for line in wrapped.split("\n"))
    lines = max(2, *(wrapped.count("\n") + 1 for wrapped in names.values()))
    top, pitch = first + (LINE if heads or numbers_name else 0), max(height, lines * LINE) + GAP
    across = columns * (width + GAP)
    sheet, axes = _sheet(MARGIN + left + across + right, top + len(pixels) * pitch, title)
    for i, head in enumerate(heads or []):
        _text(
            axes,
            MARGIN + left + i * (width + GAP) + width / 2,
            first + LINE / 2,
            head,
            "center",
            _size(heads or [], width + GAP),
        )
    above = MARGIN + left + across + right / 2, first + LINE / 2
    _text(axes, *above, numbers_name, "center", _size([numbers_name], NUMBERS))
    for row, (name, batch) in enumerate(pixels.items()):
        y = top + row * pitch
        _text(axes, MARGIN + left - GAP, y + height / 2, names[name], ha="right", size=9 if longest < 15 else 8)
        for i, image in enumerate(batch[:columns]):
            _tile(axes, image, MARGIN + left + i * (width + GAP), y, width, height, pixelated)
        _text(axes, MARGIN + left + across + right / 2, y + height / 2, endings[name], ha="center", size=10)
    parts = [f"{name}: {numbers_name} {ending}" if ending else name for name, ending in endings.items()]
    sheet.alt = f"{title + ': ' if title else ''}{len(pixels)} rows of up to {columns} images: {'; '.join(parts)}."
    return sheet


def check_images(images: Any, what: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Images ``(N, C, H, W)`` in [0, 1] as an array ``(N, H, W, C)``; one image ``(C, H, W)`` is a batch of one.

    Raises:
        ValueError: Beginning with ``what``, for another shape, another range or a pixel that is not finite.

    >>> check_images(torch.zeros(3, 8, 8), "sheet").shape
    (1, 8, 8, 3)
    """
    batch = as_floats(images, f"{what}: images", "float images (N, C, H, W) with 1 or 3 channels").float().cpu()
    batch = batch[None] if batch.ndim == 3 else batch
    if batch.ndim != 4 or batch.shape[1] not in (1, 3) or not batch.numel():
        raise ValueError(f"{what}: images should be (N, C, H, W) with 1 or 3 channels, not {tuple(batch.shape)}")
    broken = (~torch.isfinite(batch)).flatten(1).any(1).nonzero().flatten().tolist()
    if broken:
        count = f"{len(broken)} of {len(batch)} images"
        raise ValueError(f"{what}: {count} hold pixels that are not finite, the first is image {broken[0]}")
    low, high = float(batch.min()), float(batch.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise ValueError(f"{what}: pixels should lie in [0, 1], but run from {low:.3g} to {high:.3g}")
    return batch.clamp(0, 1).permute(0, 2, 3, 1).numpy()


def _texts(values: Any, n: int, name: str) -> list[str] | None:
    if values is None:
        return None
    values = values.tolist() if hasattr(values, "tolist") else list(values)
    if len(values) != n:
        raise ValueError(f"{len(values)} {name} for {n} images")
    return [str(v) if isinstance(v, str) else signed(str(v)) for v in values]


def _wrapped(name: str, letters: int = 15) -> str:
    """A row's name in lines of so many letters; a long word may break after a colon, slash, underscore or a dot
    before a letter."""
    marked = re.sub(r"\S{9,}", lambda word: re.sub(r"(?<=[:/_])(?=\w)|(?<=\.)(?=[^\W\d])", "\v", word[0]), name)
    return "\n".join(textwrap.wrap(marked, letters, replace_whitespace=False)).replace("\v", "")


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _tile_size(pixels: Any, columns: int, scale: float | None, space: float = PAGE) -> tuple[float, float]:
    """Width and height of a tile: a whole number of the sheet's pixels per image pixel where at least one fits."""
    _, height, width, _ = pixels.shape
    if scale is None:
        largest = min((space - columns * GAP) / columns, LARGEST) / max(height, width)
        scale = math.floor(largest * SHARPNESS) / SHARPNESS if largest >= 1 else largest
    return width * scale, height * scale


def _sheet(width: float, height: float, title: str | None = None, note: str | None = None) -> tuple[Canvas, Axes]:
    # Long titles widen the sheet; a bold letter of this size is about nine pixels wide.
    width = max(width, 2 * MARGIN + 9 * len(title or ""), 2 * MARGIN + 7 * len(note or ""))
    height += MARGIN - GAP
    canvas = Canvas(figsize=(width / CSS_DPI, height / CSS_DPI), facecolor="white")
    axes = canvas.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    _text(axes, MARGIN, MARGIN + LINE / 2, title or "", size=10.5, weight="bold")
    _text(axes, MARGIN, height - MARGIN - LINE / 4, note or "", style="italic")
    return canvas, axes


def _size(texts: list[str], width: float) -> float:
    """The size at which the longest of these fits ``width`` CSS pixels: a letter takes about 0.88 of them per point."""
    return min(8.5, max(5.5, width / (0.88 * max(1, *map(len, texts)))))


def _text(axes: Axes, x: float, y: float, text: str, ha: str = "left", size: float = 8.5, **options: Any) -> None:
    axes.text(x, y, text, ha=ha, va="center", size=size, color="#222222", parse_math=False, **options)


def _tile(axes: Axes, image: Any, x: float, y: float, width: float, height: float, pixelated: bool) -> None:
    enlarged = width >= image.shape[1]
    interpolation = "nearest" if pixelated and enlarged else "bicubic" if enlarged else "antialiased"
    shown = image.repeat(3, axis=2) if image.shape[2] == 1 else image
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(shown, extent=(x, x + width, y + height, y), interpolation=interpolation, aspect="auto")
    axes.set(xlim=limits[0], ylim=limits[1])
    # A hairline, so that white images end somewhere on a white sheet.
    axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor="#bbbbbb", linewidth=0.5))


def _grid_alt(total: int, shown: int, rows: int, columns: int, labels: list[str] | None, title: str | None) -> str:
    what = "One image" if shown == 1 else f"{shown:,} images in {rows} row{'s' * (rows > 1)} of up to {columns}"
    more = f", taken evenly from {total:,}" if shown < total else ""
    classes = sorted(set(labels or []))
    listed = ", ".join(classes[:12]) + " …" * (len(classes) > 12)
    of = f"; class{'es' * (len(classes) > 1)} {listed}" if classes else ""
    return f"{title + ': ' if title else ''}{what}{more}{of}."
