"""Sphinx extension: the scoreboard, one table of all claims with what the chapters measured.

``{scoreboard}`` without an argument gives the summary line, with a paper's key its table. Answers are read
from ``<claims_dir>/<profile>/<chapter>.json``, which chapters write as they run. Warnings (errors under
``-W``): a published chapter has no such file, it is damaged, its answers are not those the page shows, or
claims of the chapter have no answer in it.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from invkit.book import claims as book_claims
from invkit.book.claims import Claim, Row

log = logging.getLogger(__name__)
PENDING = "in preparation"
HEADS = ("Claim", "Reported", "Measured here", "Verdict")


@dataclass(frozen=True)
class Chapter:
    """A published chapter: its page, and its answers by claim."""

    docname: str
    rows: dict[str, Row]


def chapters(env) -> dict[str, str]:
    """Page of each published chapter by its number."""
    notebooks = sorted(d for d in env.found_docs if env.doc2path(d).endswith(".ipynb"))
    return {book_claims.number_of(docname): docname for docname in notebooks}


def load(path: Path, run: Path, claims: dict[str, Claim], warn) -> dict[str, Row]:
    """The answers in a chapter's file; ``warn`` is told what is wrong with them."""
    if not path.is_file():
        warn(f"{path.name} is missing: the chapter was not run with this profile, or does not save its claims")
        return {}
    try:
        data = json.loads(path.read_text("utf8"))
        rows = {row["id"]: Row(**row) for row in data["claims"]}
        digest = data["digest"]
    except (ValueError, KeyError, TypeError) as error:
        warn(f"{path.name} is damaged ({error}); run the chapter again")
        return {}
    if digest != book_claims.digest(list(rows.values())):
        warn(f"{path.name} was changed by hand; run the chapter again")
    elif run.is_file() and f'data-claims=\\"{digest}\\"' not in run.read_text("utf8"):
        warn(f"{path.name} is stale: its answers are not those in the table on the chapter's page")
    number = book_claims.number_of(path.name)
    if owed := [c.id for c in claims.values() if c.chapter == number and c.id not in rows]:
        warn(f"{path.name} is stale: it holds no answer to {', '.join(owed)}")
    if others := [id for id in rows if id not in claims or claims[id].chapter != number]:
        warn(f"{path.name} is stale: {', '.join(others)} are no claims of this chapter")
    return rows


def gather(env, claims: dict[str, Claim], warn=lambda message: None) -> dict[str, Chapter]:
    """Published chapters by number; every file read is noted, so that a new one rebuilds the page."""
    config, published = env.config, {}
    for number, docname in chapters(env).items():
        if number not in {claim.chapter for claim in claims.values()}:
            continue
        name = Path(docname).name
        path = Path(env.srcdir, config.claims_dir, config.executed_profile, f"{name}.json")
        run = Path(env.srcdir, config.executed_dir, config.executed_profile, f"{name}.ipynb")
        env.note_dependency(str(path))
        env.note_dependency(str(run))
        published[number] = Chapter(docname, load(path, run, claims, warn))
    return published


class Scoreboard(SphinxDirective):
    """``{scoreboard}``: the summary line; ``{scoreboard} paper-key``: that paper's table."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        claims = book_claims.load_claims()
        if not self.arguments:  # said once per page, not once per table
            published = gather(self.env, claims, lambda message: log.warning(message, location=self.get_location()))
            return [summary(claims, published)]
        mine = [claim for claim in claims.values() if claim.paper == self.arguments[0]]
        if not mine:
            raise self.error(f"no claim of paper {self.arguments[0]!r}")
        return [table(mine, gather(self.env, claims))]


def verdict(claim: Claim, published: dict[str, Chapter]) -> str:
    """The verdict on a claim, or that its chapter is in preparation."""
    chapter = published.get(claim.chapter)
    return chapter.rows[claim.id].verdict if chapter and claim.id in chapter.rows else PENDING


def summary(claims: dict[str, Claim], published: dict[str, Chapter]) -> nodes.paragraph:
    """How many claims hold, fail, are out of reach or wait for their chapter."""
    counts = Counter(verdict(claim, published) for claim in claims.values())
    kinds = (book_claims.HOLDS, book_claims.FAILS, book_claims.OUT, PENDING)
    present = [kind for kind in kinds if counts[kind] or kind != PENDING]
    text = ", ".join(f"{counts[kind]} {words(kind, counts[kind])}" for kind in present)
    return nodes.paragraph("", f"Of {len(claims)} claims, {text}.", classes=["inv-summary"])


def words(kind: str, n: int) -> str:
    """The verb that fits ``n`` claims."""
    plural = {"holds": "hold", "does not hold": "do not hold", "out of reach": "are out of reach"}
    singular = {"out of reach": "is out of reach"}
    if kind == PENDING:
        return f"{'waits' if n == 1 else 'wait'} for a chapter in preparation"
    return singular.get(kind, kind) if n == 1 else plural[kind]


def table(claims: list[Claim], published: dict[str, Chapter]) -> nodes.table:
    """The claims of one paper as a table."""
    group = nodes.tgroup("", *[nodes.colspec(colwidth=w) for w in (40, 22, 24, 14)], cols=len(HEADS))
    group += nodes.thead("", nodes.row("", *[cell(nodes.Text(head)) for head in HEADS]))
    group += nodes.tbody("", *[line(claim, published.get(claim.chapter)) for claim in claims])
    return nodes.table("", group, classes=["inv-claims"])


def line(claim: Claim, chapter: Chapter | None) -> nodes.row:
    """A claim's row; its id leads to the row on the chapter's page."""
    row = chapter.rows.get(claim.id) if chapter else None
    id: nodes.Node = nodes.literal(text=claim.id)
    if chapter and row:
        id = nodes.reference("", "", id, internal=True, claim_page=chapter.docname, claim_id=claim.id)
    mark = nodes.inline(text=book_claims.mark(row.verdict) if row else f"Chapter {claim.chapter} {PENDING}")
    mark["classes"] = book_claims.classes(row.verdict if row else PENDING).split()
    return nodes.row(
        "",
        cell(id, nodes.Text(" " + claim.claim)),
        cell(nodes.Text(claim.reported)),
        cell(nodes.Text(book_claims.answer(row) if row else "–")),
        cell(mark),
    )


def cell(*content: nodes.Node) -> nodes.entry:
    """A table cell."""
    return nodes.entry("", nodes.paragraph("", "", *content))


def link(app, doctree, docname: str) -> None:
    """Point the ids at their chapters, once it is known where pages are written."""
    for node in doctree.findall(nodes.reference):
        if page := node.attributes.pop("claim_page", None):
            target = book_claims.anchor(node.attributes.pop("claim_id"))
            node["refuri"] = f"{app.builder.get_relative_uri(docname, page)}#{target}"


def outdated(app, env, added, changed, removed) -> list[str]:
    """The scoreboard is read again when a chapter comes or goes; its files are noted as dependencies."""
    pages = getattr(env, "scoreboard_pages", set())
    came = any(env.doc2path(d).endswith(".ipynb") for d in added | removed)
    return sorted(pages & env.found_docs) if came else []


def remember(app, doctree) -> None:
    """Remember the pages that carry a scoreboard."""
    pages = app.env.__dict__.setdefault("scoreboard_pages", set())
    if any("inv-claims" in node["classes"] for node in doctree.findall(nodes.table)):
        pages.add(app.env.docname)


def setup(app) -> dict:
    """Register the directive; the folders and the profile are those of the executed notebooks."""
    app.add_config_value("claims_dir", "build/claims", "env", str)
    app.add_directive("scoreboard", Scoreboard)
    app.connect("doctree-read", remember)
    app.connect("doctree-resolved", link)
    app.connect("env-get-outdated", outdated)
    return {"version": "0.1", "env_version": 1, "parallel_read_safe": False, "parallel_write_safe": True}
