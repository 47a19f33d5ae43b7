"""Sphinx extension: the scoreboard, one table of all claims with what the chapters found.

``{scoreboard}`` without an argument gives the summary line, with ``matrix`` all claims against the data sets as marks
that can be filtered, with a paper's key its table, and with ``changes`` what changed against the first ledger. Answers
are read from ``<claims_dir>/<profile>/<chapter>.json``, which chapters write as they run. Warnings (errors under
``-W``): a published chapter has no such file, it is damaged, its answers are not those the page shows, claims of the
chapter have no answer in it, or a rule has changed since; and what :func:`invkit.book.recorded.check_records` says of
the recorded runs.
"""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from docutils import nodes
from dress import root_from
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from invkit.book.ledger import claims as book_claims
from invkit.book.ledger.claims import Claim, Row
from invkit.book.ledger.rules import load_rules
from invkit.book.ledger.verdicts import (
    CONTRADICTED,
    HOLDS,
    IN_PART,
    NOT_SEEN,
    NOT_TESTED,
    OPPOSED,
    VERDICTS,
    classes,
    mark,
)
from invkit.book.recorded import check_records

log = logging.getLogger(__name__)
PENDING = "in preparation"
DATA = {
    "digits": ("digits",),
    "MNIST": ("mnist", "fashion", "svhn"),
    "CIFAR-10": ("cifar",),
    "ImageNet": ("imagenet", "photo"),
}
"""Columns of the matrix, with how the names of their data sets begin; what fits none needs no data."""
NO_DATA = "any data"
AGREE = {("holds", HOLDS), ("does not hold", CONTRADICTED), ("out of reach", NOT_TESTED)}
"""Verdicts of the first ledger with those of today that say the same."""


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
        rows = {row["id"]: book_claims.read_row(row) for row in data["claims"]}
        digest = data["digest"]
    except (ValueError, KeyError, TypeError) as error:
        warn(f"{path.name} is damaged ({error}); run the chapter again")
        return {}
    if unknown := sorted({row.verdict for row in rows.values()} - set(VERDICTS)):
        warn(f"{path.name} is stale: there is no verdict {', '.join(unknown)} any more; run the chapter again")
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
    rules = load_rules()
    if moved := [id for id, row in rows.items() if row.rule and id in rules and row.rule != rules[id].digest()]:
        warn(f"{path.name} is stale: the rules of {', '.join(moved)} have changed; run the chapter again")
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
    """``{scoreboard}``: the summary; ``{scoreboard} paper-key``: its table; ``{scoreboard} changes``: what changed."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        claims = book_claims.load_claims()
        if not self.arguments:  # said once per page, not once per table
            published = gather(self.env, claims, self.warn)
            records = Path(self.env.srcdir, self.env.config.recorded_dir)
            for problem in check_records(records):
                self.warn(problem)
            for record in records.glob("*.json"):
                self.env.note_dependency(str(record))
            return [summary(claims, published)]
        if self.arguments[0] == "changes":
            return folded("The claims whose verdict has changed", changes(claims, gather(self.env, claims)))
        if self.arguments[0] == "matrix":
            return [matrix(claims, gather(self.env, claims), self.address)]
        mine = [claim for claim in claims.values() if claim.paper == self.arguments[0]]
        if not mine:
            raise self.error(f"no claim of paper {self.arguments[0]!r}")
        published = gather(self.env, claims)
        return folded(f"{len(mine)} claims: {told(mine, published)}", table(mine, published))

    def warn(self, message: str) -> None:
        log.warning(message, location=self.get_location())

    def address(self, page: str) -> str:
        """Where a page lies, seen from this one."""
        return self.env.app.builder.get_relative_uri(self.env.docname, page)


def verdict(claim: Claim, published: dict[str, Chapter]) -> str:
    """The verdict on a claim, or that its chapter is in preparation."""
    chapter = published.get(claim.chapter)
    return chapter.rows[claim.id].verdict if chapter and claim.id in chapter.rows else PENDING


def summary(claims: dict[str, Claim], published: dict[str, Chapter]) -> nodes.paragraph:
    """How many claims have each verdict, or wait for their chapter."""
    text = told(claims.values(), published)
    return nodes.paragraph("", f"Of {len(claims)} claims, {text}.", classes=["inv-summary"])


def told(claims: Iterable[Claim], published: dict[str, Chapter]) -> str:
    """How many of some claims have each verdict that any of them has."""
    counts = Counter(verdict(claim, published) for claim in claims)
    return ", ".join(f"{counts[kind]} {words(kind, counts[kind])}" for kind in (*VERDICTS, PENDING) if counts[kind])


def folded(summary: str, table: nodes.Node) -> list[nodes.Node]:
    """A table in a fold, since all of them together are as long as the rest of the page many times over."""
    start = f'<details class="inv-board"><summary>{html.escape(summary)}</summary>'
    return [nodes.raw("", start, format="html"), table, nodes.raw("", "</details>", format="html")]


def words(kind: str, n: int) -> str:
    """The verb that fits ``n`` claims."""
    one, many = {
        HOLDS: ("holds", "hold"),
        IN_PART: ("holds in part", "hold in part"),
        CONTRADICTED: ("is contradicted", "are contradicted"),
        OPPOSED: ("is opposed at this scale", "are opposed at this scale"),
        NOT_SEEN: ("is not seen at this scale", "are not seen at this scale"),
        NOT_TESTED: ("is not tested", "are not tested"),
        PENDING: ("waits for a chapter in preparation", "wait for a chapter in preparation"),
    }[kind]
    return one if n == 1 else many


def matrix(claims: dict[str, Claim], published: dict[str, Chapter], address) -> nodes.raw:
    """All claims against the data sets: a mark for each test, a filter of verdicts that needs no script."""
    columns = [*DATA, NO_DATA]
    counts = Counter(verdict(claim, published) for claim in claims.values())
    kinds = [kind for kind in (*VERDICTS, PENDING) if counts[kind]]
    boxes = "".join(
        f'<label class="{classes(kind)}"><input type="checkbox" class="{slug(kind)}" checked> '
        f"{mark_of(kind)} {kind} ({counts[kind]})</label>"
        for kind in kinds
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Claim", "Overall", *columns))
    body, paper = "", ""
    for claim in sorted(claims.values(), key=lambda claim: claim.chapter):
        chapter = published.get(claim.chapter)
        if claim.chapter != paper:
            paper = claim.chapter
            body += (
                f'<tr class="inv-band"><th colspan="{2 + len(columns)}" scope="colgroup">Chapter {int(paper)}</th></tr>'
            )
        body += matrix_row(claim, chapter, columns, address)
    table = (
        "<table><caption>Marks lead to the chapter, names to the numbers below. Several marks in a cell are tests of "
        'several networks or sizes of data<span class="inv-pointer">: pointing at one tells which</span>.</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
    legend = "<legend>Show claims that are</legend>"
    return nodes.raw("", f'<div class="inv-matrix"><fieldset>{legend}{boxes}</fieldset>{table}</div>', format="html")


def matrix_row(claim: Claim, chapter: Chapter | None, columns: Sequence[str], address) -> str:
    """A claim's row: its name, its verdict, and by data set a mark for each test."""
    row = chapter.rows.get(claim.id) if chapter else None
    overall = row.verdict if row else PENDING
    marks: dict[str, list[str]] = {column: [] for column in columns}
    for test in row.tests if row and chapter else []:
        words = html.escape(f"{test.tested_on}: {test.verdict}. {test.finding}")
        marks[column_of(test.data)].append(
            f'<a class="{classes(test.verdict)}" href="{address(chapter.docname)}#{book_claims.anchor(claim.id)}" '
            f'title="{words}"><span aria-hidden="true">{mark_of(test.verdict)}</span>'
            f'<span class="inv-spoken">{html.escape(test.tested_on)}: {test.verdict}</span></a>'
        )
    name = f'<a href="#{board(claim)}"><code>{claim.id}</code></a> {html.escape(claim.claim)}'
    cells = "".join(f"<td>{' '.join(marks[column])}</td>" for column in columns)
    total = f'<td class="{classes(overall)}">{mark_of(overall)}&nbsp;{overall}</td>'
    return f'<tr class="inv-row {slug(overall)}"><th scope="row">{name}</th>{total}{cells}</tr>'


def column_of(data: str) -> str:
    """The column of the matrix that a data set belongs to.

    >>> column_of("digits, shown upside down"), column_of("CIFAR-10, 600 test images"), column_of("any")
    ('digits', 'CIFAR-10', 'any data')
    """
    return next((column for column, starts in DATA.items() if data.strip().lower().startswith(starts)), NO_DATA)


def mark_of(kind: str) -> str:
    """The sign of a verdict, or of none yet."""
    return mark(kind).split()[0] if kind != PENDING else "…"


def slug(kind: str) -> str:
    """The class of a verdict's box and rows in the matrix."""
    return "of-" + kind.replace(" ", "-")


def table(claims: list[Claim], published: dict[str, Chapter]) -> nodes.table:
    """The claims of one paper as a table, a line for each test."""
    body = [row for claim in claims for row in rows(claim, published.get(claim.chapter))]
    return made(dict(book_claims.HEADS.values()), body)


def made(heads: dict[str, int], body: list[nodes.row]) -> nodes.table:
    """A table of claims, from the heads of its columns with their widths in percent."""
    group = nodes.tgroup("", *[nodes.colspec(colwidth=width) for width in heads.values()], cols=len(heads))
    group += nodes.thead("", nodes.row("", *[cell(nodes.Text(head)) for head in heads]))
    group += nodes.tbody("", *body)
    return nodes.table("", group, classes=["inv-claims", "colwidths-given"])


def rows(claim: Claim, chapter: Chapter | None) -> list[nodes.row]:
    """A claim's lines; its id leads to the row on the chapter's page."""
    row = chapter.rows.get(claim.id) if chapter else None
    overall = verdict_mark(row.verdict) if row else verdict_mark(PENDING, f"Chapter {claim.chapter} {PENDING}")
    first = paragraphs(
        [
            [name(claim, chapter if row else None), nodes.Text(" " + claim.claim)],
            [nodes.Text(f"{book_claims.OVERALL} "), overall],
            *text(book_claims.about(claim)),
        ]
    )
    if row is None:
        cells = {key: [] for key in book_claims.HEADS} | {"claim": first}
        return [nodes.row("", *[entry(kind, content) for kind, content in cells.items()], ids=[board(claim)])]
    found = book_claims.lines(row)
    made_rows = []
    for i, line in enumerate(found):
        cells = {
            "claim": first,  # beside all its lines
            "tested": paragraphs([tested_on(sentence) for sentence in line.tested_on]),
            "finding": paragraphs(text(line.finding)),
            "effect": paragraphs([*text(line.effect), [verdict_mark(line.verdict)]]),
        }
        entries = [
            entry(kind, content, len(found) if kind == "claim" else 1)
            for kind, content in cells.items()
            if i == 0 or kind != "claim"
        ]
        made_rows.append(nodes.row("", *entries, ids=[board(claim)] if i == 0 else []))
    return made_rows


def board(claim: Claim) -> str:
    """The HTML id of a claim's row on the scoreboard."""
    return "board-" + book_claims.anchor(claim.id)


def changes(claims: dict[str, Claim], published: dict[str, Chapter]) -> nodes.Node:
    """The claims whose verdict is not that of the first ledger, and why."""
    rules, body = load_rules(), []
    for claim in claims.values():
        now, before = verdict(claim, published), rules[claim.id].before
        if now == PENDING or (before, now) in AGREE:
            continue
        link = name(claim, published[claim.chapter])
        cells = {
            "claim": paragraphs([[link, nodes.Text(" " + claim.claim)]]),
            "before": paragraphs(text([before])),
            "overall": paragraphs([[verdict_mark(now)]]),
            "why": paragraphs(text([rules[claim.id].why])),
        }
        body.append(nodes.row("", *[entry(kind, content) for kind, content in cells.items()]))
    if not body:
        return nodes.paragraph("", "Nothing has changed.")
    return made({"Claim": 30, "First ledger": 14, "Now": 18, "What changed in the test": 38}, body)


def name(claim: Claim, chapter: Chapter | None) -> nodes.Node:
    """A claim's id, which leads to its row on the chapter's page where it is published."""
    id: nodes.Node = nodes.literal(text=claim.id)
    if chapter is None:
        return id
    return nodes.reference("", "", id, internal=True, claim_page=chapter.docname, claim_id=claim.id)


def verdict_mark(kind: str, words: str = "") -> nodes.inline:
    """A verdict with its sign."""
    node = nodes.inline(text=words or mark(kind))
    node["classes"] = classes(kind).split()
    return node


def text(sentences: list[str]) -> list[list[nodes.Node]]:
    """Plain sentences, each a paragraph of its own."""
    return [[nodes.Text(sentence)] for sentence in sentences]


def tested_on(sentence: str) -> list[nodes.Node]:
    """What a claim was tested on, with the file of the recorded run behind its name."""
    before, said, rest = sentence.partition("recorded run ")
    name, space, after = rest.partition(" ")
    if not said:
        return [nodes.Text(sentence)]
    run = nodes.reference("", "", *broken_names(name), recorded_run=name)
    return [nodes.Text(before + said), run, nodes.Text(space + after)]


def broken_names(sentence: str) -> list[nodes.Node]:
    """A sentence in which names of recorded runs may break after an underscore."""
    parts = sentence.split("_")
    made = [[nodes.Text(f"{part}_"), nodes.raw("", "<wbr>", format="html")] for part in parts[:-1]]
    return [*chain.from_iterable(made), nodes.Text(parts[-1])]


def paragraphs(contents: list[list[nodes.Node]]) -> list[nodes.Node]:
    """Paragraphs of these contents."""
    return [nodes.paragraph("", "", *content) for content in contents]


def entry(kind: str, content: list[nodes.Node], lines: int = 1) -> nodes.entry:
    """A table cell of a column, over so many lines."""
    node = nodes.entry("", *content, classes=[f"inv-{kind}"])
    if lines > 1:
        node["morerows"] = lines - 1
    return node


def cell(*content: nodes.Node) -> nodes.entry:
    """A table cell."""
    return nodes.entry("", nodes.paragraph("", "", *content))


def link(app, doctree, docname: str) -> None:
    """Point the ids at their chapters and the runs at their files, once it is known where pages are written."""
    for node in list(doctree.findall(nodes.reference)):
        if run := node.attributes.pop("recorded_run", None):
            if Path(app.srcdir, app.config.recorded_dir, f"{run}.json").is_file():
                node["refuri"] = f"{root_from(docname)}/_static/recorded/{run}.json"
            else:
                node.replace_self(node.children)
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
    app.add_config_value("recorded_dir", "book/recorded", "env", str)
    app.add_directive("scoreboard", Scoreboard)
    app.connect("doctree-read", remember)
    app.connect("doctree-resolved", link)
    app.connect("env-get-outdated", outdated)
    return {"version": "0.2", "env_version": 2, "parallel_read_safe": False, "parallel_write_safe": True}
