"""Figures that carry their own alternative text, in Jupyter and in the built book.

A figure drawn here is a matplotlib :class:`~matplotlib.figure.Figure` that never enters pyplot's list: the
inline backend does not show it twice, and no cell has to close it. When a cell ends with it, it is shown as
``text/html`` (an ``<img>`` with alt text, which may quote numbers of the run) with ``image/png`` beside it.
"""

from __future__ import annotations

import base64
import html
import io
import pickle
import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator
from PIL import Image

CSS_DPI = 96  # a browser's pixels per inch
SHARPNESS = 2  # image pixels per CSS pixel: crisp on dense screens, still whole for pixelated images
PHONE = 3.7  # inches: the width of a page's text on a phone
PHONE_RULE = "(max-width: 40rem)"  # as in the book's style sheets


class Canvas(Figure):
    """A matplotlib figure with an ``alt`` text, shown with it wherever Jupyter or the book displays it.

    >>> canvas = Canvas(figsize=(1, 1))
    >>> canvas.alt = "Nothing."
    """

    alt: str = "Figure"
    chart: bool = False
    """Whether it is of lines, bars and words alone, which a dark page may turn light on dark, unlike images."""
    panels: bool = False
    """Whether it is of panels side by side, which a phone shows one below the other."""

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return described(self, self.alt)._repr_mimebundle_()


@dataclass(frozen=True)
class Described:
    """A picture with its alt text and an optional caption; what :func:`described` returns.

    >>> Described(render_png(Canvas(figsize=(1, 1))), "Nothing.").caption is None
    True
    """

    png: bytes
    alt: str
    caption: str | None = None
    chart: bool = False
    narrow: bytes | None = None
    """The same chart at the width of a phone, shown there in its place."""

    def _repr_html_(self) -> str:
        text = f"<figcaption>{html.escape(self.caption)}</figcaption>" if self.caption else ""
        # A div where there is no caption: the book wraps numbered figures in a <figure> of its own.
        tag = "figure" if self.caption else "div"
        kind = "inv-figure inv-chart" if self.chart else "inv-figure"
        image = img_tag(webp(self.png), self.alt, self.narrow and webp(self.narrow))
        return f'<{tag} class="{kind}">{image}{text}</{tag}>'

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        png = base64.b64encode(self.png).decode()
        return {"text/plain": self.alt, "text/html": self._repr_html_(), "image/png": png}


def described(figure: Figure, alt: str, caption: str | None = None) -> Described:
    """Any matplotlib figure with an alt text and a caption; pyplot's are closed, so as not to be shown twice.

    Args:
        figure: The figure.
        alt: A sentence on what it shows.
        caption: A caption, where the page gives it none.

    Returns:
        The picture, for the end of a cell.

    Raises:
        ValueError: If the alt text is empty.

    >>> described(plt.figure(figsize=(1, 1)), "Nothing.", caption="An empty figure.").alt
    'Nothing.'
    """
    if not alt.strip():
        raise ValueError("alt is empty: say in a sentence what the figure shows")
    chart = getattr(figure, "chart", False)
    narrow = render_narrow(figure) if chart else None
    if getattr(figure, "panels", False):
        narrow = render_stacked(figure)
    picture = Described(render_png(figure), " ".join(alt.split()), caption, chart=chart, narrow=narrow)
    plt.close(figure)
    return picture


def render_png(figure: Figure) -> bytes:
    """The figure as PNG on white, at twice the CSS resolution; the same figure gives the same bytes.

    >>> css_size(render_png(Canvas(figsize=(1, 2))))
    (96, 192)
    """
    buffer = io.BytesIO()
    # bbox_inches is switched off: a cropped canvas would change the pixel grid of pixelated images.
    with plt.rc_context({"savefig.bbox": None}):
        options: dict[str, Any] = {
            "dpi": CSS_DPI * SHARPNESS,
            "facecolor": "white",
            "metadata": {"Software": None},
        }
        figure.savefig(buffer, format="png", **options)
    return buffer.getvalue()


def render_narrow(figure: Figure) -> bytes | None:
    """A chart of one panel as PNG at the width of a phone, its words as large as they were.

    Args:
        figure: The chart; it stays as it is.

    Returns:
        The picture; None for a figure that is narrow already, and for one of several panels.

    >>> wide, narrow = Canvas(figsize=(6, 3)), Canvas(figsize=(3, 3))
    >>> axes = wide.add_subplot(), narrow.add_subplot()
    >>> css_size(render_narrow(wide))[0], render_narrow(narrow)
    (355, None)
    """
    if figure.get_figwidth() <= PHONE or len(figure.axes) != 1:
        return None
    figure = pickle.loads(pickle.dumps(figure))
    (axes,) = figure.axes
    height = figure.get_figheight()
    if old := axes.get_legend():
        texts = old.get_texts()
        look: dict[str, Any] = {"frameon": False, "handlelength": 3.5, "fontsize": texts[0].get_fontsize()}
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, -0.24), "borderaxespad": 0}
        lines = [line for line in old.legend_handles if line is not None]
        axes.legend(lines, [text.get_text() for text in texts], **look, **place)
        height += 0.2 * len(texts)
    rows_named = isinstance(axes.yaxis.get_major_locator(), FixedLocator)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_text(textwrap.fill(label.get_text(), 24 if rows_named else 34))
    if title := axes.get_title(loc="left"):
        axes.set_title(textwrap.fill(title, 34), loc="left")
    if rows_named:
        names = [textwrap.fill(label.get_text(), 18) for label in axes.get_yticklabels()]
        axes.set_yticks(axes.get_yticks(), names)
        height += 0.12 * sum(name.count("\n") for name in names)
    if axes.get_xscale() == "linear" and not isinstance(axes.xaxis.get_major_locator(), FixedLocator):
        places = np.concatenate([np.asarray(line.get_xdata(orig=False), float) for line in axes.lines] or [np.zeros(0)])
        whole = bool((places == places.round()).all())
        axes.xaxis.set_major_locator(MaxNLocator(3 if rows_named else 4, integer=whole and not rows_named))
    figure.set_size_inches(PHONE, height)
    figure.draw_without_rendering()
    taken = float("inf")
    for label in reversed(axes.get_xticklabels()):  # the last is kept, and whatever then does not touch
        box = label.get_window_extent()
        if box.x1 > taken:
            label.set_visible(False)
        else:
            taken = box.x0 - 4
    return render_png(figure)


def render_stacked(figure: Figure) -> bytes | None:
    """A row of panels as PNG, one below the other at the width of a phone; None for one that is narrow already.

    >>> figure = Canvas(figsize=(6, 3))
    >>> panels = figure.subplots(1, 2)
    >>> css_size(render_stacked(figure))
    (355, 576)
    """
    if figure.get_figwidth() <= PHONE:
        return None
    figure = pickle.loads(pickle.dumps(figure))
    places = figure.add_gridspec(len(figure.axes), 1)
    for row, axes in enumerate(figure.axes):
        axes.set_subplotspec(places[row, 0])
        axes.set_ylabel(axes.get_ylabel() or figure.axes[0].get_ylabel())  # which panels side by side may share
    figure.set_size_inches(PHONE, figure.get_figheight() * len(figure.axes))
    return render_png(figure)


def css_size(data: bytes) -> tuple[int, int]:
    """Width and height in CSS pixels of an encoded image drawn by :func:`render_png`."""
    width, height = Image.open(io.BytesIO(data)).size
    return round(width / SHARPNESS), round(height / SHARPNESS)


def data_uri(data: bytes) -> str:
    """The encoded image as a ``data:`` address; the type (PNG, WebP, JPEG) is read from the bytes."""
    kind = (Image.open(io.BytesIO(data)).format or "").lower()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def webp(picture: bytes, *, lossless: bool = True) -> bytes:
    """The same pixels as WebP, a third of the bytes, so that a page stays light; what is WebP already stays as it is.

    Args:
        picture: An encoded image.
        lossless: Keep every pixel; otherwise a tenth of the bytes, for photographs and fine grain.

    Returns:
        The image as WebP.
    """
    image = Image.open(io.BytesIO(picture))
    if image.format == "WEBP":
        return picture
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "webp", lossless=lossless, quality=60 if lossless else 75, method=4)
    return buffer.getvalue()


def png(picture: bytes) -> bytes:
    """The same pixels as PNG, for viewers that take nothing else."""
    image = Image.open(io.BytesIO(picture))
    if image.format == "PNG":
        return picture
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


def img_tag(data: bytes, alt: str, narrow: bytes | None = None) -> str:
    """An ``<img>`` of the encoded image: on a white card, never wider than its page.

    Args:
        data: The encoded image.
        alt: What it shows, in a sentence.
        narrow: What a phone shows in its place.
    """
    width, height = css_size(data)
    image = (
        f'<img src="{data_uri(data)}" alt="{html.escape(alt)}" width="{width}" height="{height}" '
        'style="background:#fff;max-width:100%;height:auto">'
    )
    return in_picture(image, narrow) if narrow else image


def in_picture(image: str, narrow: bytes) -> str:
    """An ``<img>`` tag with the encoded image that a phone shows in its place."""
    size = 'width="{}" height="{}"'.format(*css_size(narrow))
    return f'<picture><source media="{PHONE_RULE}" srcset="{data_uri(narrow)}" {size}>{image}</picture>'
