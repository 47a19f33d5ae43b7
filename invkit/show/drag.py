"""Small images on the way from one thing to another, which readers choose and drag in the page, without a kernel.

All pictures lie in one sheet, a row for each pair of things and a column for each stop, and every pane is a window on
it. The sheet is fetched when a control is first moved; where it cannot be, the words below the panes say so. No ids and
no library are involved, so a page opened from disk works as well; without JavaScript the start and its words stay, with
a line that says so.
"""

from __future__ import annotations

import html
import io
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from invkit.show.grids import check_images
from invkit.show.picture import data_uri
from invkit.show.widgets import HEAVY

SIZE = 128  # CSS pixels of a pane, or what is nearest to it by a whole factor

# A pair has one row, and the way back is that row from its end; from a thing to itself it stays at the start.
SCRIPT = """(function () {
  var figure = document.currentScript.closest("figure"), sheet = figure.querySelector("img[hidden]");
  var panes = figure.querySelectorAll("span img"), words = figure.querySelectorAll("output");
  var chosen = figure.querySelectorAll("select"), slider = figure.querySelector("input");
  var data = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
  var last = data.stops - 1, across = data.names.length * data.stops, gone = "";
  function show() {
    var from = +chosen[0].value, to = +chosen[1].value, step = from === to ? 0 : +slider.value;
    var row = data.ways[from][to][0], back = data.ways[from][to][1], at = back ? last - step : step;
    var share = Math.round(100 * step / last) + "%";
    var way = share + " of the way from " + data.labels[from] + " to " + data.labels[to];
    var columns = [across + back], texts = [data.labels[from]], alts = [data.ends + ": " + data.labels[from]];
    data.names.forEach(function (name, i) {
      columns.push(i * data.stops + at);
      texts.push(data.captions[i][row][at]);
      alts.push(name + ", " + way + ": " + data.captions[i][row][at]);
    });
    columns.push(across + (from === to ? back : 1 - back));
    texts.push(data.labels[to], share);
    alts.push(data.ends + ": " + data.labels[to]);
    panes.forEach(function (pane, i) {
      if (pane.src !== sheet.src) pane.src = sheet.src;
      pane.style.width = (across + 2) * data.width + "px";
      pane.style.height = data.rows * data.height + "px";
      pane.style.transform = "translate(-" + columns[i] * data.width + "px, -" + row * data.height + "px)";
      pane.alt = gone + alts[i];
    });
    words.forEach(function (word, i) { word.textContent = (i < panes.length ? gone : "") + texts[i]; });
    slider.setAttribute("aria-valuetext", share);
  }
  panes.forEach(function (pane) {
    pane.addEventListener("error", function () {
      if (pane.src !== sheet.src) return;
      gone = "this picture is missing: ";
      show();
    });
  });
  slider.addEventListener("input", show);
  chosen.forEach(function (control) { control.addEventListener("change", show); });
  figure.querySelector("fieldset").hidden = false;
})();"""
Pixels = npt.NDArray[np.uint8]
Way = Callable[[int, int], Mapping[str, tuple[Tensor, Sequence[str]]]]


class Drag:
    """What :func:`drag` returns: the ends, the panes between them and their controls, for the end of a cell."""

    def __init__(
        self,
        sheet: Pixels,
        tile: tuple[int, int],
        labels: list[str],
        captions: dict[str, list[list[str]]],
        ends: str,
    ) -> None:
        self.sheet, self.tile, self.labels, self.captions, self.ends = sheet, tile, labels, captions, ends
        self.pairs = list(combinations(range(len(labels)), 2))
        self.stops = len(next(iter(captions.values()))[0])

    def _repr_html_(self) -> str:
        start, across = self.stops // 2, self.stops * len(self.captions)
        share = f"{round(100 * start / (self.stops - 1))}%"
        first, second = self.labels[:2]
        panes = [self._pane(self.ends, across, first, f"{self.ends}: {first}")]
        for i, (name, rows) in enumerate(self.captions.items()):
            alt = f"{name}, {share} of the way from {first} to {second}: {rows[0][start]}"
            panes.append(self._pane(name, i * self.stops + start, rows[0][start], alt))
        panes.append(self._pane(self.ends, across + 1, second, f"{self.ends}: {second}"))
        # autocomplete: on reload a browser would restore the controls but not the images.
        slider = (
            f'<input type="range" min="0" max="{self.stops - 1}" step="1" value="{start}" '
            f'aria-valuetext="{share}" autocomplete="off">'
        )
        controls = (
            f"<label>from {self._choice(0)}</label><label>to {self._choice(1)}</label><label>how far {slider}</label>"
        )
        data = json.dumps(self._data(), ensure_ascii=False, separators=(",", ":")).replace("<", r"\u003c")
        return (
            f'<figure class="inv-drag"><div>{"".join(panes)}</div><figcaption><fieldset hidden>{controls}</fieldset>'
            f'<output aria-live="off">{share}</output><noscript>{self._scriptless(share)}</noscript></figcaption>'
            f'<img hidden src="{data_uri(_encoded(self.sheet, "webp"))}" alt="all stops, shown by the panes">'
            f'<script type="application/json">{data}</script><script>{SCRIPT}</script></figure>'
        )

    def _scriptless(self, share: str) -> str:
        """What readers miss whose browser runs no scripts."""
        way = f"one stop of {self.stops} on one way of {len(self.pairs)}"
        first, second = map(html.escape, self.labels[:2])
        return f"Without scripts this shows only {way}: {share} from {first} to {second}."

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        plain = f"{', '.join(self.captions)}: from any of {', '.join(self.labels)} to any other"
        return {"text/plain": plain, "text/html": self._repr_html_()}

    def _pane(self, name: str, column: int, caption: str, alt: str) -> str:
        height, width = self.tile
        pixels = self.sheet[:height, column * width : (column + 1) * width]
        size = f"width:{width * self._factor}px;height:{height * self._factor}px"
        image = f'<img src="{data_uri(_encoded(pixels, "png"))}" alt="{html.escape(alt)}" style="{size}">'
        words = f'<strong>{html.escape(name)}</strong><output aria-live="off">{html.escape(caption)}</output>'
        return f'<div><span style="{size}">{image}</span>{words}</div>'

    def _choice(self, chosen: int) -> str:
        options = "".join(
            f'<option value="{k}"{" selected" * (k == chosen)}>{html.escape(label)}</option>'
            for k, label in enumerate(self.labels)
        )
        return f'<select autocomplete="off">{options}</select>'

    def _data(self) -> dict[str, Any]:
        row_of = {pair: row for row, pair in enumerate(self.pairs)}
        things = range(len(self.labels))
        ways = [[self._way(row_of, k, m) for m in things] for k in things]
        height, width = (side * self._factor for side in self.tile)
        return {
            "names": list(self.captions), "captions": list(self.captions.values()), "labels": self.labels,
            "ends": self.ends, "ways": ways, "stops": self.stops, "rows": len(self.pairs),
            "width": width, "height": height,
        }  # fmt: skip

    @staticmethod
    def _way(row_of: dict[tuple[int, int], int], first: int, second: int) -> tuple[int, int]:
        """The row of a way, and whether it runs backwards there."""
        if first == second:
            second = 0 if first else 1
        return row_of[min(first, second), max(first, second)], int(first > second)

    @property
    def _factor(self) -> int:
        return max(round(SIZE / max(self.tile)), 1)


def drag(way: Way, labels: Sequence[Any], ends: Tensor, *, name: str) -> Drag:
    """Panes of what lies between two things; readers choose the two, and drag from one to the other.

    Args:
        way: Of two indices of ``labels``, the first lower: the panes by name, each as images ``(S, C, H, W)`` in [0, 1]
            from the first thing to the second, and a few words on each of the ``S`` images.
        labels: Names of at least two things.
        ends: An image of each of them, ``(K, C, H, W)``, shown beside the panes.
        name: What these are, as in ``"held-out"``.

    Returns:
        The panes, which work in Jupyter and in a page, without a kernel.

    Raises:
        ValueError: For fewer than two labels, for another number of ends, of stops or of captions, for images of
            different sizes, and for images that :func:`~invkit.show.grids.image_grid` refuses.

    >>> import torch
    >>> black_white = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    >>> grey = torch.linspace(0, 1, 3).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    >>> shown = drag(lambda a, b: {"mixed": (grey, ["dark", "grey", "light"])}, ["black", "white"], black_white,
    ...              name="colour")
    >>> shown.sheet.shape, shown.stops
    ((4, 20, 3), 3)
    """
    names = [str(label) for label in labels]
    if len(names) < 2:
        raise ValueError(f"drag: labels should name at least two things, not {names}")
    at_ends = _levels(ends, "ends")
    if len(at_ends) != len(names):
        raise ValueError(f"drag: ends should hold one image for each of {len(names)} labels, not {len(at_ends)}")
    rows: list[Pixels] = []
    captions: dict[str, list[list[str]]] = {}
    for first, second in combinations(range(len(names)), 2):
        parts = []
        for pane, (images, words) in way(first, second).items():
            parts.append(_levels(images, f"way, pane {pane!r}"))
            captions.setdefault(pane, []).append([str(word) for word in words])
            if len(parts[-1]) != len(words):
                raise ValueError(f"drag: pane {pane!r} has {len(parts[-1])} images and {len(words)} captions")
        parts.append(at_ends[[first, second]])
        if len({part.shape[1:] for part in parts}) > 1 or len({len(part) for part in parts[:-1]}) != 1:
            raise ValueError(f"drag: panes and ends differ in size or stops: {[part.shape[:3] for part in parts]}")
        rows.append(np.concatenate([np.concatenate(list(part), axis=1) for part in parts], axis=1))
    if len({row.shape for row in rows}) > 1:
        raise ValueError("drag: ways differ in the number of their stops")
    if len(next(iter(captions.values()))[0]) < 2:
        raise ValueError("drag: a way has one stop; it needs at least two, the things themselves")
    sheet: Pixels = np.concatenate(rows)
    weight = len(_encoded(sheet, "webp")) * 4 // 3  # as base64
    if weight > HEAVY:
        warnings.warn(f"the sheet of {name!r} weighs {weight / 1e6:.1f} MB: take fewer things or stops", stacklevel=2)
    return Drag(sheet, at_ends.shape[1:3], names, captions, name)


def _levels(images: Tensor, what: str) -> Pixels:
    """Images as bytes ``(N, H, W, 3)``."""
    pixels = check_images(images, f"drag: {what}")
    levels: Pixels = (np.broadcast_to(pixels, (*pixels.shape[:3], 3)) * 255).round().astype(np.uint8)
    return levels


def _encoded(pixels: Pixels, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"lossless": True, "quality": 60} if kind == "webp" else {}))
    return buffer.getvalue()
