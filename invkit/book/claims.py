"""The papers' claims and the chapters' answers: what was reported, what we measured, and whether it holds.

A chapter collects its answers in :class:`Claims`, shows them with :meth:`Claims.table` and writes them with
:meth:`Claims.save`; the scoreboard page gathers the files. The list of claims is ``claims.yml`` beside this file.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from invkit.book.numbers import Summary, format_summary, summaries
from invkit.core.config import config_hash
from invkit.core.files import write_json

HOLDS, FAILS, OUT = "holds", "does not hold", "out of reach"
MARKS = {HOLDS: "✓", FAILS: "✗", OUT: "○"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A statement of a paper that the book tests: one row of the scoreboard."""

    id: str
    chapter: str
    paper: str
    claim: str
    reported: str
    measure: str


def load_claims() -> dict[str, Claim]:
    """The claims that the book tests.

    Returns:
        Claims by id, in the order of the list.

    Raises:
        ValueError: If two claims share an id.

    >>> load_claims()["di.verifier"].chapter
    '01'
    """
    rows = yaml.safe_load((resources.files("invkit.book") / "claims.yml").read_text("utf8"))
    claims = {row["id"]: Claim(**row) for row in rows}
    if len(claims) != len(rows):
        raise ValueError("claims.yml: two claims share an id")
    return claims


@dataclass(frozen=True)
class Row:
    """One answered claim; ``measured`` maps the name of a quantity (empty for a single one) to its summary."""

    id: str
    verdict: str
    measured: dict[str, Summary]
    unit: str = ""
    note: str = ""
    reason: str = ""
    recorded: str = ""


@dataclass
class Claims:
    """The answers of one chapter (``"01_deepinversion"``) at one profile.

    Raises:
        ValueError: If the list holds no claim of that chapter.

    >>> claims = Claims("01_deepinversion", profile="ci")
    >>> claims.add("di.verifier", measured=[0.9, 0.8], holds=True)
    >>> claims.rows["di.verifier"].verdict, len(claims.missing()) < len(claims.owned)
    ('holds', True)
    """

    chapter: str
    profile: str
    rows: dict[str, Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.owned = {c.id: c for c in load_claims().values() if c.chapter == number_of(self.chapter)}
        if not self.owned:
            raise ValueError(f"no claim in claims.yml belongs to chapter {self.chapter!r}")

    def add(
        self,
        id: str,
        *,
        holds: bool | None,
        measured: Any = None,
        unit: str = "",
        note: str = "",
        reason: str = "",
        recorded: str = "",
    ) -> None:
        """Answer claim ``id``; answering it again replaces the first answer.

        Args:
            id: One of this chapter's claims.
            holds: The verdict; None where the claim is out of reach at this profile, which needs a ``reason``.
            measured: A number, one number for each seed, or a mapping from names to these.
            unit: Unit of the numbers.
            note: What a reader must know of them.
            reason: Why the claim is out of reach.
            recorded: Name of the recorded run that the numbers come from.

        Raises:
            ValueError: For an id that is unknown or another chapter's, numbers that are missing or not finite, and a
                missing reason.
        """
        self._check(id)
        if holds is not None and not isinstance(holds, bool | np.bool_):
            raise ValueError(f"{id}: holds should be True, False or None, not {holds!r}")
        if holds is None and not reason.strip():
            raise ValueError(f"{id}: a claim that is out of reach needs a reason")
        if holds is not None and measured is None:
            raise ValueError(f"{id}: a verdict needs measured numbers; without them the claim is out of reach")
        verdict = OUT if holds is None else HOLDS if holds else FAILS
        numbers = {} if measured is None else summaries(measured, id)
        self.rows[id] = Row(id, verdict, numbers, unit, note, reason, recorded)

    def missing(self) -> list[str]:
        """Ids of this chapter's claims that have no answer yet."""
        return [id for id in self.owned if id not in self.rows]

    def table(self) -> ClaimsTable:
        """The answers so far as a table for a notebook's cell."""
        rows = [self.rows[id] for id in self.owned if id in self.rows]
        return ClaimsTable(rows, self.owned, digest(rows))

    def save(self, folder: str | Path | None = None) -> Path:
        """Write ``<folder>/<chapter>.json``, whole or not at all; by default into ``build/claims/<profile>``.

        Raises:
            ValueError: Naming this chapter's claims that have no answer.
        """
        if missing := self.missing():
            raise ValueError(f"chapter {self.chapter} owes an answer to {', '.join(missing)}")
        table = self.table()
        path = Path(folder or find_root() / "build/claims" / self.profile, f"{self.chapter}.json")
        head = {"chapter": self.chapter, "profile": self.profile, "digest": table.digest}
        write_json(path, {**head, "claims": table.rows})
        return path

    def _check(self, id: str) -> None:
        if id in self.owned:
            return
        claim = load_claims().get(id)
        if claim is None:
            raise ValueError(f"unknown claim {id!r}; chapter {self.chapter} answers {', '.join(self.owned)}")
        raise ValueError(f"claim {id!r} belongs to chapter {claim.chapter}, not to {self.chapter}")


@dataclass(frozen=True)
class ClaimsTable:
    """Answered claims as HTML and Markdown; ``digest`` ties the shown table to the saved file."""

    rows: Sequence[Row]
    claims: Mapping[str, Claim]
    digest: str

    def _repr_html_(self) -> str:
        heads = ("Claim", "Reported", "Measured here", "Verdict")
        left = 'style="text-align:left"'  # where no style sheet of ours is loaded
        top = "".join(f'<th scope="col" {left}>{h}</th>' for h in heads)
        body = "".join(map(self._html_row, self.rows))
        table = f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody>"
        return f'<table class="inv-claims" data-claims="{self.digest}">{table}</table>'

    def _html_row(self, row: Row) -> str:
        claim = self.claims[row.id]
        cells = [
            f"<code>{row.id}</code> {html.escape(claim.claim)}",
            html.escape(claim.reported),
            html.escape(answer(row)),
            f'<span class="{classes(row.verdict)}">{mark(row.verdict)}</span>',
        ]
        body = "".join(f'<td style="text-align:left"><p>{cell}</p></td>' for cell in cells)
        return f'<tr id="{anchor(row.id)}">{body}</tr>'

    def _repr_markdown_(self) -> str:
        lines = ["| claim | reported | measured here | verdict |", "|---|---|---|---|"]
        for row in self.rows:
            claim = self.claims[row.id]
            cells = (f"`{row.id}` {claim.claim}", claim.reported, answer(row), mark(row.verdict))
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        return "\n".join(lines)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        text = self._repr_markdown_()
        return {"text/plain": text, "text/markdown": text, "text/html": self._repr_html_()}


def answer(row: Row) -> str:
    """What was measured, in words for a table cell.

    >>> answer(Row("di.verifier", HOLDS, summaries({"a": [0.9, 1.0], "b": 0.4}, ""), unit="dB"))
    'a 0.95 ± 0.071 dB; b 0.4 dB (2 seeds)'
    """
    unit = f" {row.unit}" if row.unit else ""
    parts = [f"{name} {format_summary(summary)}{unit}".strip() for name, summary in row.measured.items()]
    seeds = {summary["n"] for summary in row.measured.values()} - {1}
    text = "; ".join(parts) + (f" ({max(seeds)} seeds)" if seeds else "")
    source = f"recorded run {row.recorded}" if row.recorded else ""
    return ". ".join(part.rstrip(".") for part in (text, row.reason, row.note, source) if part) or "–"


def digest(rows: Sequence[Any]) -> str:
    """Twelve hexadecimal digits that change with any answer."""
    return config_hash(list(rows))


def mark(verdict: str) -> str:
    """The verdict with its sign, which is read without colour too.

    >>> mark(HOLDS)
    '✓ holds'
    """
    return f"{MARKS[verdict]} {verdict}"


def classes(verdict: str) -> str:
    """The CSS classes of a verdict."""
    return f"inv-verdict inv-{verdict.replace(' ', '-')}"


def anchor(id: str) -> str:
    """The HTML id of a claim's row on its chapter's page.

    >>> anchor("di.verifier")
    'claim-di-verifier'
    """
    return "claim-" + id.replace(".", "-")


def number_of(chapter: str) -> str:
    """The chapter's number.

    >>> number_of("01_deepinversion")
    '01'
    """
    return Path(chapter).stem.split("_")[0]


def find_root(start: str | Path | None = None) -> Path:
    """The book's root: the nearest folder with ``book/_toc.yml`` at or above ``start`` (working directory).

    Outside of the book it is ``start`` itself, so that a notebook run elsewhere writes beside itself.
    """
    here = Path(start or Path.cwd()).resolve()
    return next((folder for folder in (here, *here.parents) if (folder / "book/_toc.yml").is_file()), here)
