"""Figures that carry their own alternative text, in Jupyter and in the built book.

A figure drawn here is a matplotlib :class:`~matplotlib.figure.Figure` that never enters pyplot's list: the
inline backend does not show it twice, and no cell has to close it. When a cell ends with it, it is shown as
``text/html`` (an ``<img>`` with alt text, which may quote numbers of the run) with ``image/png`` beside it.
"""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

CSS_DPI = 96  # a browser's pixels per inch
SHARPNESS = 2  # image pixels per CSS pixel: crisp on dense screens, still whole for pixelated images


class Canvas(Figure):
    """A matplotlib figure with an ``alt`` text, shown with it wherever Jupyter or the book displays it.

    >>> canvas = Canvas(figsize=(1, 1))
    >>> canvas.alt = "Nothing."
    """

    alt: str = "Figure"
    chart: bool = False
    """Whether it is of lines, bars and words alone, which a dark page may turn light on dark, unlike images."""

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

    def _repr_html_(self) -> str:
        text = f"<figcaption>{html.escape(self.caption)}</figcaption>" if self.caption else ""
        # A div where there is no caption: the book wraps numbered figures in a <figure> of its own.
        tag = "figure" if self.caption else "div"
        kind = "inv-figure inv-chart" if self.chart else "inv-figure"
        return f'<{tag} class="{kind}">{img_tag(webp(self.png), self.alt)}{text}</{tag}>'

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
    picture = Described(render_png(figure), " ".join(alt.split()), caption, chart=getattr(figure, "chart", False))
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


def img_tag(data: bytes, alt: str) -> str:
    """An ``<img>`` of the encoded image: on a white card, never wider than its page."""
    width, height = css_size(data)
    return (
        f'<img src="{data_uri(data)}" alt="{html.escape(alt)}" width="{width}" height="{height}" '
        'style="background:#fff;max-width:100%;height:auto">'
    )
