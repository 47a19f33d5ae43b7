"""Sheets of images folded to the width of a narrow page: half of the columns above the other half."""

from __future__ import annotations

import io
from itertools import pairwise
from math import ceil

import numpy as np
from PIL import Image

COLUMN, PHONE_COLUMN = 1408, 688  # image pixels, two to a CSS pixel: the text's width on a desk and on a phone
SMALLEST = 0.75  # words and images are not to be shown smaller than at this share of their size
WHITE = 250  # of 255: what is lighter is ground
LETTERS = 0.09  # share of a gutter's pixels that titles may cover
MOST_BANDS = 3


def fold_sheet(picture: bytes, room: int = PHONE_COLUMN) -> bytes | None:
    """A sheet whose columns stand in bands, one below the other, so that a narrow page need not shrink it.

    Names of the rows and numbers beside them stand in each band.

    Args:
        picture: The encoded sheet: images in columns of equal width on white, with words above and beside them.
        room: Image pixels that it has.

    Returns:
        The sheet, as WebP if it was WebP, otherwise as PNG; None where it fits as it is, and for pictures in which no
        four columns of equal width are found, charts for one.

    >>> from invkit.show import image_rows
    >>> from invkit.show.picture import css_size, render_png
    >>> sheet = render_png(image_rows({"noise": np.zeros((10, 1, 8, 8))}, list("0123456789"), columns=10))
    >>> css_size(sheet)[0] > 344, css_size(fold_sheet(sheet))[0] < 430, fold_sheet(sheet, room=1600)
    (True, True, None)
    """
    opened = Image.open(io.BytesIO(picture))
    kind, image = opened.format, opened.convert("RGB")
    if room / image.width >= SMALLEST:
        return None
    tiles = tile_columns(np.asarray(image.convert("L")))
    if not tiles:
        return None
    edges = [tiles[0][0] - 4, *[(a[1] + b[0]) // 2 for a, b in pairwise(tiles)], tiles[-1][1] + 4]
    edges[0], edges[-1] = max(edges[0], 0), min(edges[-1], image.width)
    beside = edges[0] + image.width - edges[-1]
    pitch = (edges[-1] - edges[0]) / len(tiles)
    each = len(tiles)
    for bands in range(2, MOST_BANDS + 1):
        each = ceil(len(tiles) / bands)
        if room / (beside + each * pitch) >= SMALLEST:
            break
    folded = in_bands(image, edges, each)
    buffer = io.BytesIO()
    folded.save(buffer, "webp", quality=75, method=4) if kind == "WEBP" else folded.save(buffer, "png")
    return buffer.getvalue()


def in_bands(image: Image.Image, edges: list[int], each: int) -> Image.Image:
    """Columns between edges, ``each`` of them in a band, with what lies left and right of all columns."""
    left, right = image.crop((0, 0, edges[0], image.height)), image.crop((edges[-1], 0, image.width, image.height))
    starts = range(0, len(edges) - 1, each)
    widths = [edges[min(start + each, len(edges) - 1)] - edges[start] for start in starts]
    folded = Image.new("RGB", (left.width + max(widths) + right.width, image.height * len(widths)), "white")
    for band, (start, width) in enumerate(zip(starts, widths)):
        top = band * image.height
        folded.paste(left, (0, top))
        folded.paste(image.crop((edges[start], 0, edges[start] + width, image.height)), (left.width, top))
        folded.paste(right, (left.width + width, top))
    return folded


def tile_columns(grey: np.ndarray) -> list[tuple[int, int]]:
    """First and last pixel of the columns of images in a sheet, the longest row of equal ones; empty below four.

    Args:
        grey: ``(H, W)`` from 0 to 255.
    """
    inked = np.concatenate([[False], (grey < WHITE).mean(0) > LETTERS, [False]])
    changes = np.flatnonzero(inked[1:] != inked[:-1])
    runs = list(zip(changes[::2].tolist(), changes[1::2].tolist()))
    best: list[tuple[int, int]] = []
    row: list[tuple[int, int]] = []
    for run in runs:
        alike = bool(row) and abs((run[1] - run[0]) - (row[0][1] - row[0][0])) <= 2
        if alike and len(row) > 1:
            alike = abs((run[0] - row[-1][0]) - (row[1][0] - row[0][0])) <= 2
        row = [*row, run] if alike else [run]
        if len(row) > len(best) and run[1] - run[0] >= 30:
            best = row
    return best if len(best) >= 4 else []
