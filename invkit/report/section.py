"""A section of a report: sentences, tables and pictures, kept in a folder as soon as it is done."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from invkit.core.files import atomic_path, read_json, read_safetensors, save_tensors, write_json
from invkit.show.picture import Canvas, img_tag, render_narrow, render_png, webp
from invkit.show.tables import signed, table_body

Rows = Mapping[str, Mapping[str, Any]]
"""A table: by row, columns by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A picture of a section as WebP, with what it shows in words."""

    picture: bytes
    alt: str
    caption: str
    chart: bool = False
    """Whether a dark page may turn it light on dark, unlike images."""
    narrow: bytes | None = None
    """A chart at the width of a phone, shown there in its place."""

    def to_html(self) -> str:
        """The picture with its caption."""
        opening = '<figure class="inv-chart">' if self.chart else "<figure>"
        image = img_tag(self.picture, self.alt, self.narrow)
        return f"{opening}{image}<figcaption>{written(self.caption)}</figcaption></figure>"


@dataclass(slots=True, kw_only=True)
class Section:
    """What one question to a network gave.

    >>> section = Section(name="identity", title="Who it is")
    >>> section.say("It has 3 layers.")
    >>> section.paragraphs
    ['It has 3 layers.']
    """

    name: str
    """A word, as in the file that it is kept in."""
    title: str
    summary: str = ""
    """One sentence with its number and how sure it is, for the top of the report."""
    paragraphs: list[str] = field(default_factory=list)
    tables: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """By heading."""
    figures: list[Figure] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)
    """What was measured, by name, for other sections and for programs."""
    images: dict[str, Tensor] = field(default_factory=dict)
    """What was made, uint8 ``(N, C, H, W)``, for other sections."""
    skipped: str = ""
    """Why it could not be answered; empty where it was."""
    seconds: float = 0.0

    def say(self, *sentences: str) -> None:
        """Add a paragraph."""
        self.paragraphs.append(" ".join(sentences))

    def table(self, heading: str, rows: Rows) -> None:
        """Add a table under a heading."""
        self.tables[heading] = {name: dict(row) for name, row in rows.items()}

    def picture(self, canvas: Canvas, caption: str, *, lossless: bool = True) -> None:
        """Add a figure drawn by :mod:`invkit.show`; with a little loss, large images take a tenth of the bytes."""
        picture = webp(render_png(canvas), lossless=lossless)
        narrow = render_narrow(canvas) if canvas.chart else None
        self.figures.append(
            Figure(picture=picture, alt=canvas.alt, caption=caption, chart=canvas.chart, narrow=narrow and webp(narrow))
        )

    def save(self, folder: Path) -> None:
        """Write it to ``folder``; the text last, so that what can be read is whole."""
        folder.mkdir(parents=True, exist_ok=True)
        for i, figure in enumerate(self.figures):
            with atomic_path(folder / f"{self.name}_{i}.webp") as temporary:
                temporary.write_bytes(figure.picture)
            if figure.narrow:
                with atomic_path(folder / f"{self.name}_{i}_narrow.webp") as temporary:
                    temporary.write_bytes(figure.narrow)
        if self.images:
            save_tensors(folder / f"{self.name}.safetensors", self.images)
        kept = {key: getattr(self, key) for key in self.__slots__ if key not in ("figures", "images")}
        figures = [
            {"alt": figure.alt, "caption": figure.caption, "chart": figure.chart, "narrow": bool(figure.narrow)}
            for figure in self.figures
        ]
        write_json(folder / f"{self.name}.json", kept | {"figures": figures, "images": sorted(self.images)})

    def to_html(self) -> str:
        """Its body as HTML, without the title; one that was left out says why."""
        parts = [f"<p>Left out: {written(self.skipped)}.</p>"] if self.skipped else []
        parts += [f"<p><strong>{written(self.summary)}</strong></p>"] if self.summary else []
        parts += [f"<p>{written(paragraph)}</p>" for paragraph in self.paragraphs]
        parts += [figure.to_html() for figure in self.figures]
        parts += [f"<h3>{written(heading)}</h3>{table_html(rows)}" for heading, rows in self.tables.items()]
        return "".join(parts)

    def _repr_html_(self) -> str:
        # A heading of a figure's kind would enter the page's table of contents.
        return self.to_html().replace("<h3>", "<p><em>").replace("</h3>", "</em></p>")

    @classmethod
    def load(cls, folder: Path, name: str) -> Section | None:
        """What :meth:`save` wrote; None where it is not there or not whole."""
        try:
            kept = read_json(folder / f"{name}.json", "section")
            figures = [
                Figure(
                    picture=(folder / f"{name}_{i}.webp").read_bytes(),
                    narrow=(folder / f"{name}_{i}_narrow.webp").read_bytes() if texts.pop("narrow", False) else None,
                    **texts,
                )
                for i, texts in enumerate(kept.pop("figures"))
            ]
            images = read_safetensors(folder / f"{name}.safetensors") if kept.pop("images") else {}
            return cls(**kept, figures=figures, images=images)
        except (OSError, ValueError, KeyError, TypeError):
            return None


def table_html(rows: Rows) -> str:
    """A table as HTML, with the names of rows in the first column.

    >>> "<td>3</td>" in table_html({"layers": {"": 3}})
    True
    """
    words = {row: {name: signed(str(value)) for name, value in columns.items()} for row, columns in rows.items()}
    return f'<div class="wide"><table class="dataframe">{table_body(words)}</table></div>'


def written(text: str) -> str:
    """Text as HTML, in which negative numbers have a minus, at which no line breaks.

    >>> written("-10 points, p 1.6e-12, pre-trained on A&B, ages 3-5")
    '−10 points, p 1.6e−12, pre-trained on A&amp;B, ages 3-5'
    """
    return html.escape(signed(text))


def pace(
    run: Callable[[int], Any], seconds: float, *, least: int, most: int, trial: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> int:  # fmt: skip
    """How many steps of something fit into some seconds, from the time of a few.

    Args:
        run: Runs so many steps. It is called twice: the first call pays for what is made once.
        seconds: The time that there is, the trials included.
        least: Fewer are never given: below them the result would mean nothing.
        most: More are never given.
        trial: Steps of the trial.
        clock: Which seconds.

    Returns:
        Steps within ``least`` and ``most``.

    >>> pace(lambda steps: None, 10.0, least=5, most=400)
    400
    """
    start = clock()
    run(trial)
    middle = clock()
    if middle - start > seconds / 2:  # no time for another
        return least
    run(trial)
    spent = max(clock() - middle, 1e-6)
    return max(least, min(most, int((seconds - (clock() - start)) * trial / spent)))


def listed(items: Sequence[str], most: int = 6) -> str:
    """Some names in a sentence.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    shown = list(items[:most]) + ([f"{len(items) - most} more"] if len(items) > most else [])
    return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))


__all__ = ["Figure", "Rows", "Section", "listed", "pace", "table_html"]
