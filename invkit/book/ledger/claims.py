"""The papers' claims and the chapters' answers: what was reported, what was found, and how far it holds.

A chapter collects its answers in :class:`Claims`, shows them with :meth:`Claims.table` and writes them with
:meth:`Claims.save`; the scoreboard page gathers the files. The list of claims is ``claims.yml`` beside this file, the
rule that each is judged by in ``rules.yml``, see :mod:`invkit.book.ledger.verdicts`.
"""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from invkit.book.ledger.rules import Rule, load_rules
from invkit.book.ledger.verdicts import (
    MARKS,
    NOT_SEEN,
    NOT_TESTED,
    OPPOSED,
    Test,
    classes,
    mark,
    overall,
    read_test,
    run_test,
)
from invkit.book.numbers import Summary, format_summary, summaries
from invkit.book.recorded import load_recorded
from invkit.book.root import find_root
from invkit.core.config import config_hash
from invkit.core.files import write_json


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
    rows = yaml.safe_load((resources.files("invkit.book.ledger") / "claims.yml").read_text("utf8"))
    claims = {row["id"]: Claim(**row) for row in rows}
    if len(claims) != len(rows):
        raise ValueError("claims.yml: two claims share an id")
    return claims


@dataclass(frozen=True)
class Row:
    """The answer to one claim.

    Attributes:
        id: The claim.
        verdict: Over all tests.
        tests: One for each data set and network.
        rule: Digest of the rule that they were judged by.
        reason: Why it was not tested.
    """

    id: str
    verdict: str
    tests: list[Test] = field(default_factory=list)
    rule: str = ""
    reason: str = ""


def read_row(data: Mapping[str, Any]) -> Row:
    """An answer as it is stored in a chapter's JSON file.

    Raises:
        TypeError: For fields that are unknown or missing.
    """
    return Row(**{**data, "tests": [read_test(test) for test in data.get("tests", [])]})


@dataclass
class Claims:
    """The answers of one chapter (``"01_deepinversion"``) at one profile.

    Raises:
        ValueError: If the list holds no claim of that chapter.

    >>> claims = Claims("01_deepinversion", profile="ci")
    >>> claims.test("di.verifier", [0.9, 0.8, 0.85], data="digits", network="BN-CNN",
    ...             finding="Another network recognises 85% of what it does of real images.")
    >>> claims.rows["di.verifier"].verdict, len(claims.missing()) < len(claims.owned)
    ('in part', True)
    """

    chapter: str
    profile: str
    rows: dict[str, Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.owned = {c.id: c for c in load_claims().values() if c.chapter == number_of(self.chapter)}
        if not self.owned:
            raise ValueError(f"no claim in claims.yml belongs to chapter {self.chapter!r}")

    def test(
        self,
        id: str,
        effect: Any,
        *,
        data: str,
        network: str,
        finding: str,
        measured: Any = None,
        unit: str = "",
        recorded: str = "",
        note: str = "",
        grade: str | None = None,
        seeds_of: str = "",
        scale: float = 1.0,
    ) -> None:
        """Test claim ``id`` on a data set; each data set and network is a test of its own, a second time replaces it.

        Args:
            id: One of this chapter's claims.
            effect: What the claim's rule asks for, a number or one for each seed, larger where the claim is truer; for
                a rule with named parts a mapping from their names to these. A part left out counts as not tested.
            data: The data set, as in ``"digits"`` or ``"CIFAR-10"``.
            network: The network that was inverted.
            finding: One plain sentence that says what was found, with its numbers.
            measured: Other numbers worth knowing: a number, one for each seed, or a mapping from names to these.
            unit: Of those.
            recorded: Name of the recorded run that the effect comes from.
            note: What a reader must know.
            grade: ``"digits"`` (the built-in 8x8 scans enlarged) or ``"real"``; by default by the name of the data.
            seeds_of: What the seeds change, where it is not everything: ``"the students"``, all taught by one network.
                By default ``"one network"`` where the recorded run shows that they left its networks alone.
            scale: Share of the paper's training that this had, in steps or in images, the smaller. What speaks against
                a claim at less than :data:`~invkit.book.ledger.verdicts.SCALE` does not contradict it.

        Raises:
            ValueError: For an id that is unknown or another chapter's, an unknown part, numbers that are missing or not
                finite, parts of unequal numbers of seeds, as many numbers as the recorded run has no seeds, a scale
                outside (0, 1], and words that are missing.
            FileNotFoundError: If there is no such recorded run.
        """
        self._check(id)
        rule = load_rules()[id]
        about = {
            "finding": finding,
            "measured": {} if measured is None else summaries(measured, id),
            "unit": unit,
            "note": note,
            "recorded": recorded,
            "seeds_of": seeds_of,
        }
        test = run_test(rule, effect, data=data, network=network, grade=grade, scale=scale, **about)
        if recorded:
            test = check_recorded(test, rule)
        row = self.rows.get(id)
        others = [t for t in row.tests if (t.data, t.network) != (data, network)] if row else []
        tests = [*others, test]
        self.rows[id] = Row(id, overall((t.grade, t.verdict) for t in tests), tests, rule.digest())

    def untested(self, id: str, reason: str) -> None:
        """Say why claim ``id`` is not tested; whatever was said of it before is dropped.

        Raises:
            ValueError: For an id that is unknown or another chapter's, and a reason that is empty.

        >>> claims = Claims("01_deepinversion", profile="ci")
        >>> claims.untested("di.amp", "It needs a GPU.")
        >>> claims.rows["di.amp"].verdict
        'not tested'
        """
        self._check(id)
        if not isinstance(reason, str) or not reason.strip():
            raise ValueError(f"{id}: a claim that is not tested needs a reason")
        self.rows[id] = Row(id, NOT_TESTED, reason=reason)

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
        path = Path(folder or _claims_folder(self.profile), f"{self.chapter}.json")
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


def _claims_folder(profile: str) -> Path:
    """Where answers go: a cell of a sweep names a folder of its own."""
    named = os.environ.get("INVKIT_CLAIMS")
    return Path(named) if named else find_root() / "build/claims" / profile


def check_recorded(test: Test, rule: Rule) -> Test:
    """A test with what its recorded run says: as many numbers as seeds, whether the rule is older than the run, and
    where nothing else is said of the seeds, that they did not change the network.

    Raises:
        FileNotFoundError: If there is no such recorded run.
        ValueError: If the effect has another number of seeds than the run.
    """
    run = load_recorded(test.recorded)
    if test.n != len(run.seeds) and not rule.exact:
        seeds = ", ".join(map(str, run.seeds))
        raise ValueError(
            f"{rule.id}: effect has {test.n} numbers, but the recorded run {run.name} has {len(run.seeds)} seeds "
            f"({seeds}); give one for each"
        )
    seeds_of = test.seeds_of or ("one network" if test.n > 1 and run.same_networks else "")
    return replace(test, rule_first=run.rules.get(rule.id) == rule.digest(), seeds_of=seeds_of)


@dataclass(frozen=True, kw_only=True)
class Line:
    """What a table says of one test, or of a claim that was not tested; cells are lists of paragraphs."""

    tested_on: list[str]
    finding: list[str]
    effect: list[str]
    verdict: str


HEADS = {
    "claim": ("Claim, and the verdict overall", 30),
    "tested": ("Tested on", 17),
    "finding": ("Finding", 28),
    "effect": ("Effect against threshold, and the verdict there", 25),
}
"""Columns of the tables by the ends of their CSS classes: head, and width in percent."""


def lines(row: Row) -> list[Line]:
    """The lines of a claim's answer, one for each test and at least one."""
    rule = load_rules()[row.id]
    if not row.tests:
        return [Line(tested_on=[], finding=[row.reason], effect=[], verdict=row.verdict)]
    found = []
    for test in row.tests:
        numbers = numbers_in_words(test.measured, test.unit)
        finding = [test.finding, *filter(None, (test.note, numbers and f"Measured: {numbers}."))]
        found.append(Line(tested_on=[test.tested_on], finding=finding, effect=test.against(rule), verdict=test.verdict))
    return found


def about(claim: Claim) -> list[str]:
    """What stands below a claim: what the paper reports, and the effect that is measured."""
    parts = load_rules()[claim.id].parts
    effect = "; ".join(f"{part.name}: {part.quantity}" if part.name else part.quantity for part in parts)
    effect = effect.replace(" %", "%")  # rules are kept as they were when runs were judged by them
    return [f"Reported: {claim.reported}", f"Effect: {effect}"]


OVERALL = "Overall:"
"""What stands before a claim's verdict over all its tests."""

LEGEND = (
    "An effect is given as its mean over seeds with the 95% interval of that mean, which may reach outside 0 to "
    "1 for a share. A claim holds where the whole interval lies above the threshold, is contradicted where it lies "
    "below ‘absent at’, or below the threshold where none is given, and holds in part where it lies between the two, "
    "or where it has several parts and some of them hold. Overall, a claim that was tested on digits alone holds in "
    "part at most."
)
LEGEND_OF = {
    NOT_SEEN: f" {MARKS[NOT_SEEN]} says that the numbers do not decide, as the interval reaches a threshold; it does "
    "not say that there is no effect.",
    OPPOSED: f" {MARKS[OPPOSED]} says that the numbers speak against the claim and cannot contradict it, as they come "
    "from digits, or from real data with less than a tenth of the paper's training.",
}
YOUNGER = " A rule that is younger than the run was written or mended when the run's numbers were known."


def legend(rows: Sequence[Row]) -> str:
    """What readers take amiss, as far as it occurs in some rows: it stands beneath their table."""
    tests = [test for row in rows for test in row.tests]
    verdicts = {row.verdict for row in rows} | {test.verdict for test in tests}
    words = "".join(text for verdict, text in LEGEND_OF.items() if verdict in verdicts)
    return LEGEND + words + YOUNGER * any(not test.rule_first for test in tests)


@dataclass(frozen=True)
class ClaimsTable:
    """Answered claims as HTML and Markdown; ``digest`` ties the shown table to the saved file."""

    rows: Sequence[Row]
    claims: Mapping[str, Claim]
    digest: str

    def _repr_html_(self) -> str:
        left = 'style="text-align:left"'  # where no style sheet of ours is loaded
        top = "".join(f'<th scope="col" {left}>{head}</th>' for head, _ in HEADS.values())
        widths = "".join(f'<col style="width:{width}%">' for _, width in HEADS.values())
        body = "".join(map(self._html_row, self.rows))
        table = f"<colgroup>{widths}</colgroup><thead><tr>{top}</tr></thead><tbody>{body}</tbody>"
        return f'<table class="inv-claims" data-claims="{self.digest}">{table}</table><p>{legend(self.rows)}</p>'

    def _html_row(self, row: Row) -> str:
        claim = self.claims[row.id]
        found = lines(row)
        name, verdict = f"<code>{row.id}</code> {html.escape(claim.claim)}", f"{OVERALL} {_html_mark(row.verdict)}"
        first = [name, verdict, *map(html.escape, about(claim))]
        text = ""
        for i, line in enumerate(found):
            # The claim and its verdict stand beside all its tests.
            cells = [_cell("claim", first, len(found))] if i == 0 else []
            for kind, paragraphs in (("tested", line.tested_on), ("finding", line.finding)):
                cells.append(_cell(kind, [html.escape(paragraph) for paragraph in paragraphs]))
            cells.append(_cell("effect", [*map(html.escape, line.effect), _html_mark(line.verdict)]))
            text += f'<tr id="{anchor(row.id)}">' if i == 0 else "<tr>"
            text += "".join(cells) + "</tr>"
        return text

    def _repr_markdown_(self) -> str:
        top = [head for head, _ in HEADS.values()]
        text = ["| " + " | ".join(top) + " |", "|---" * len(top) + "|"]
        for row in self.rows:
            claim = self.claims[row.id]
            for i, line in enumerate(lines(row)):
                first = [f"`{row.id}` {claim.claim}", f"{OVERALL} {mark(row.verdict)}", *about(claim)] if i == 0 else []
                cells = map("<br>".join, (first, line.tested_on, line.finding, [*line.effect, mark(line.verdict)]))
                text.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        return "\n".join([*text, "", legend(self.rows)])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        text = self._repr_markdown_()
        return {"text/plain": text, "text/markdown": text, "text/html": self._repr_html_()}


def _cell(kind: str, paragraphs: Sequence[str], rows: int = 1) -> str:
    span = f' rowspan="{rows}"' if rows > 1 else ""
    body = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
    return f'<td class="inv-{kind}"{span} style="text-align:left">{body}</td>'


def _html_mark(verdict: str) -> str:
    return f'<span class="{classes(verdict)}">{mark(verdict)}</span>'


def numbers_in_words(measured: Mapping[str, Summary], unit: str = "") -> str:
    """Means with their standard deviations by name, and the number of seeds."""
    ending = f" {unit}" if unit else ""
    parts = [f"{name} {format_summary(summary)}{ending}".strip() for name, summary in measured.items()]
    seeds = {summary["n"] for summary in measured.values()} - {1}
    return "; ".join(parts) + (f" ({max(seeds)} seeds)" if seeds else "")


def digest(rows: Sequence[Any]) -> str:
    """Twelve hexadecimal digits that change with any answer."""
    return config_hash(list(rows))


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
