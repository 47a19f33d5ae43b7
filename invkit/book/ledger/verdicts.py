"""Graded verdicts: what the numbers answer to a claim.

A :class:`Test` holds the effects that were measured on one data set, one number for each seed; the 95% interval of
their mean is compared with the claim's :class:`~invkit.book.ledger.rules.Rule`. Digits, and real data with less than a
tenth of the paper's training, contradict nothing: a claim that they speak against is opposed. :func:`overall` puts the
verdicts of several data sets together.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from invkit.book.ledger.rules import Part, Rule
from invkit.book.numbers import Summary, finite, format_interval, format_number, is_summary

HOLDS, IN_PART, CONTRADICTED = "holds", "in part", "contradicted"
OPPOSED, NOT_SEEN, NOT_TESTED = "opposed at this scale", "not seen at this scale", "not tested"
VERDICTS = (HOLDS, IN_PART, CONTRADICTED, OPPOSED, NOT_SEEN, NOT_TESTED)
MARKS = {HOLDS: "✓", IN_PART: "◐", CONTRADICTED: "✗", OPPOSED: "⊘", NOT_SEEN: "○", NOT_TESTED: "–"}

DIGITS, REAL = "digits", "real"
REAL_DATA = ("mnist", "fashion-mnist", "cifar", "svhn", "imagenet", "photographs", "any")
"""How the names of real data sets begin; ``any`` is for what depends on no data, as bytes held."""
SEEDS = 3
"""With fewer numbers there is no interval worth the name, and no verdict."""
SCALE = 0.1
"""With a smaller share of the paper's training, in steps or in images, a test on real data contradicts nothing."""


def interval(values: Sequence[float], *, exact: bool = False) -> tuple[float, float] | None:
    """The two-sided 95% interval of the mean, by Student's *t* over seeds.

    Args:
        values: One number for each seed.
        exact: Whether there is no chance in them: the interval is then from the smallest to the largest.

    Returns:
        Lower and upper end; None for fewer than three numbers with chance in them.

    >>> interval([1.0, 2.0, 3.0])  # mean 2, standard error 1 / sqrt(3), and 4.3027 of these to either side
    (-0.484..., 4.484...)
    >>> interval([1.0, 2.0]), interval([1.0], exact=True)
    (None, (1.0, 1.0))
    """
    if exact:
        return min(values), max(values)
    n = len(values)
    if n < SEEDS:
        return None
    from scipy.stats import t  # imported where needed: it takes a second

    half = float(t.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    mean = statistics.fmean(values)
    return mean - half, mean + half


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """The numbers of one part, one for each seed, and what they say.

    >>> part = Part(quantity="gain", unit="dB", holds=1)
    >>> effect = Effect.of([1.9, 2.0, 2.1], part)
    >>> effect.verdict, effect.against(part)
    ('holds', '2.00 [1.75, 2.25] dB against 1 dB')
    """

    values: tuple[float, ...]
    mean: float
    low: float | None
    high: float | None
    verdict: str

    @classmethod
    def of(cls, values: Sequence[float], part: Part, *, exact: bool = False) -> Self:
        """Judge numbers by a part of a rule."""
        values = tuple(values)
        ends = interval(values, exact=exact)
        low, high = ends or (None, None)
        return cls(values=values, mean=statistics.fmean(values), low=low, high=high, verdict=judge(ends, part))

    def against(self, part: Part) -> str:
        """The mean with its interval against the threshold, and against that of absence where it counts, for a table.

        >>> part = Part(quantity="gain", holds=1, absent=-1)
        >>> Effect.of([-1.0, 0.0, 1.0], part).against(part)
        '0.0 [−2.5, 2.5] against 1, absent at −1'
        """
        unit = f" {part.unit}" if part.unit else ""
        effect = signed(self.mean)
        # Numbers that are the same but for rounding have no interval to show.
        if self.low is not None and self.high is not None and not math.isclose(self.low, self.high, abs_tol=1e-9):
            effect = format_interval(self.mean, self.low, self.high, (part.holds, part.absent)).replace("-", "−")
        name = f"{part.name}: " if part.name else ""
        counts = self.verdict not in (HOLDS, NOT_TESTED) and part.absent != part.holds
        absent = f", absent at {signed(part.absent)}{unit}" if counts else ""
        return f"{name}{effect}{unit} against {signed(part.holds)}{unit}{absent}"


def judge(ends: tuple[float, float] | None, part: Part) -> str:
    """The verdict on one quantity, from the ends of its interval.

    Args:
        ends: Lower and upper end; None where there are too few numbers.
        part: With the thresholds.

    Returns:
        *not tested* without an interval; *holds* where all of it is above ``holds``; *contradicted* where all of it is
        below ``absent``; *in part* where it lies between these; *not seen at this scale* for all others.

    >>> part = Part(quantity="gain", holds=1)
    >>> [judge(ends, part) for ends in ((1.1, 2), (-2, -1), (0.1, 0.9), (0.5, 1.5), (-0.5, 0.5), None)]
    ['holds', 'contradicted', 'in part', 'not seen at this scale', 'not seen at this scale', 'not tested']
    """
    if ends is None:
        return NOT_TESTED
    low, high = ends
    if low > part.holds:
        return HOLDS
    if high < part.absent:
        return CONTRADICTED
    return IN_PART if low > part.absent and high < part.holds else NOT_SEEN


def combine(verdicts: Iterable[str]) -> str:
    """The verdict of a test from those of its parts.

    >>> combine(["holds", "holds"]), combine(["holds", "contradicted"]), combine(["contradicted", "in part"])
    ('holds', 'in part', 'contradicted')
    """
    found = set(verdicts)
    if len(found) == 1:
        return found.pop()
    if HOLDS in found:
        return IN_PART
    return CONTRADICTED if CONTRADICTED in found else NOT_SEEN


def overall(tests: Iterable[tuple[str, str]]) -> str:
    """The verdict on a claim from those of its tests.

    Args:
        tests: Grade (``"digits"`` or ``"real"``) and verdict of each.

    Returns:
        That of the real data sets where one of them says *holds*, *in part* or *contradicted*: *holds* if all of those
        tested hold, *contradicted* if one contradicts and none holds, else *in part*; a test that opposes the claim,
        of either grade, keeps it from holding. If the digits alone say *holds* or *in part*: *in part*. Otherwise
        *opposed at this scale* if all that were tested oppose it, else *not seen at this scale*, and *not tested* if
        nothing was.

    >>> overall([("real", "holds"), ("digits", "not seen at this scale")]), overall([("digits", "holds")])
    ('holds', 'in part')
    >>> overall([("real", "holds"), ("digits", "opposed at this scale")])
    'in part'
    """
    tests = [
        (grade, OPPOSED if (grade, verdict) == (DIGITS, CONTRADICTED) else verdict)
        for grade, verdict in tests
        if verdict != NOT_TESTED
    ]
    found = {verdict for _, verdict in tests}
    real = {verdict for grade, verdict in tests if grade == REAL} - {OPPOSED}
    if real & {HOLDS, IN_PART, CONTRADICTED}:
        if real == {HOLDS} and OPPOSED in found:
            return IN_PART
        if len(real) == 1:
            return real.pop()
        return CONTRADICTED if CONTRADICTED in real and HOLDS not in real else IN_PART
    if found & {HOLDS, IN_PART}:
        return IN_PART
    if not found:
        return NOT_TESTED
    return OPPOSED if found == {OPPOSED} else NOT_SEEN


def can_refute(grade: str, scale: float) -> bool:
    """Whether a test may contradict a claim.

    Neither a toy nor less than a tenth of the paper's training can refute what was claimed of large networks.

    Args:
        grade: ``"digits"`` or ``"real"``.
        scale: Share of the paper's training.

    >>> can_refute("real", 1.0), can_refute("real", 0.05), can_refute("digits", 1.0)
    (True, False, False)
    """
    return grade == REAL and scale >= SCALE


def grade_of(data: str) -> str:
    """The grade of evidence on a data set, read from its name.

    Raises:
        ValueError: For a name that tells neither.

    >>> grade_of("digits"), grade_of("CIFAR-10, 600 test images")
    ('digits', 'real')
    """
    name = data.strip().lower()
    if name.startswith("digits"):
        return DIGITS
    if name.startswith(REAL_DATA):
        return REAL
    raise ValueError(f"data {data!r}: say whether its grade is {DIGITS!r} (the enlarged 8x8 scans) or {REAL!r}")


@dataclass(frozen=True, kw_only=True)
class Test:
    """What was measured for one claim on one data set.

    Attributes:
        data: The data set.
        network: The network that was inverted, or that the claim is about.
        grade: ``"digits"`` for the built-in 8x8 scans enlarged, or ``"real"``.
        effects: By the name of the rule's part, the numbers of each seed with their interval and verdict.
        verdict: On this data set.
        finding: One plain sentence.
        measured: Other numbers worth knowing.
        unit: Of those.
        note: What a reader must know of them.
        recorded: The recorded run that the numbers come from; empty for what the notebook itself measures.
        rule_first: Whether the rule is older than the run.
        seeds_of: What the seeds change, where it is not everything; or ``"one network"``, which they leave alone.
        scale: Share of the paper's training that the run had, in steps or in images, the smaller; in (0, 1].
    """

    __test__: ClassVar[bool] = False  # no test of pytest's

    data: str
    network: str
    grade: str
    effects: dict[str, Effect]
    verdict: str
    finding: str
    measured: dict[str, Summary] = field(default_factory=dict)
    unit: str = ""
    note: str = ""
    recorded: str = ""
    rule_first: bool = True
    seeds_of: str = ""
    scale: float = 1.0

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(next(iter(self.effects.values())).values)

    @property
    def tested_on(self) -> str:
        """Data, network, seeds and scale in words, with the recorded run if there is one."""
        scale = f", {format_number(100 * self.scale)}% of the paper's training" if self.scale < 1 else ""
        run = f", recorded run {self.recorded}" if self.recorded else ""
        age = "" if self.rule_first else " (rule younger than the run)"
        changed = f" of {self.seeds_of}" if self.seeds_of else ""
        return f"{self.data}, {self.network}, {self.n} seed{'s' if self.n > 1 else ''}{changed}{scale}{run}{age}"

    def against(self, rule: Rule) -> list[str]:
        """Each part's number against its threshold; a part that was not measured says so."""
        return [
            self.effects[part.name].against(part) if part.name in self.effects else f"{part.name}: {NOT_TESTED}"
            for part in rule.parts
        ]


def run_test(
    rule: Rule, effect: Any, *, data: str, network: str, grade: str | None = None, scale: float = 1.0, **about: Any
) -> Test:  # fmt: skip
    """Judge the effects of one data set by a rule.

    Args:
        rule: Of the claim.
        effect: A number, or one for each seed; for a rule with named parts a mapping from their names to these. A part
            that is left out counts as not tested.
        data: The data set.
        network: The network.
        grade: Of the evidence; by default read from the name of the data.
        scale: Share of the paper's training that the run had, in steps or in images, the smaller; below :data:`SCALE`
            nothing is contradicted.
        **about: Further fields of :class:`Test`.

    Raises:
        ValueError: For an unknown part, numbers that are missing or not finite, parts of unequal numbers of seeds, an
            unknown grade, a scale outside (0, 1], and words that are missing.

    >>> from invkit.book.ledger.rules import load_rules
    >>> test = run_test(load_rules()["di.verifier"], [0.9, 0.95, 0.92], data="digits", network="BN-CNN",
    ...                 finding="Another network recognises 92% of the images.")
    >>> test.verdict, test.n
    ('holds', 3)
    """
    words = {"data": data, "network": network, "finding": about.get("finding", "")}
    for name, text in words.items():
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{rule.id}: {name} is empty; say it in words")
    grade = grade or grade_of(data)
    if grade not in (DIGITS, REAL):
        raise ValueError(f"{rule.id}: grade must be {DIGITS!r} or {REAL!r}, not {grade!r}")
    if not 0 < scale <= 1:
        raise ValueError(f"{rule.id}: scale, the share of the paper's training, must lie in (0, 1], not {scale!r}")
    values = by_part(rule, effect)
    effects = {name: Effect.of(numbers, rule.part(name), exact=rule.exact) for name, numbers in values.items()}
    found = [effects[part.name].verdict if part.name in effects else NOT_TESTED for part in rule.parts]
    verdict = combine(found)
    if verdict == CONTRADICTED and not can_refute(grade, scale):
        verdict = OPPOSED
    return Test(data=data, network=network, grade=grade, scale=scale, effects=effects, verdict=verdict, **about)


def by_part(rule: Rule, effect: Any) -> dict[str, list[float]]:
    """The numbers of each part, in the rule's order, checked."""
    if is_summary(effect):
        raise ValueError(f"{rule.id}: effect must hold one number for each seed, not their mean")
    named = any(part.name for part in rule.parts)
    if named and not isinstance(effect, Mapping):
        names = ", ".join(repr(part.name) for part in rule.parts)
        raise ValueError(f"{rule.id}: effect must be a mapping from the parts {names} to numbers, not {effect!r}")
    given = dict(effect) if isinstance(effect, Mapping) else {"": effect}
    if not given:
        raise ValueError(f"{rule.id}: effect is empty")
    for name in given:
        rule.part(name)
    parts = [part.name for part in rule.parts if part.name in given]
    values = {name: finite(given[name], f"{rule.id} {name}".rstrip()) for name in parts}
    if len({len(numbers) for numbers in values.values()}) > 1:
        counts = ", ".join(f"{len(numbers)} of {name!r}" for name, numbers in values.items())
        raise ValueError(f"{rule.id}: parts have unequal numbers of seeds: {counts}")
    return values


def read_test(row: Mapping[str, Any]) -> Test:
    """A test as it is stored in a chapter's JSON file."""
    effects = {name: Effect(**e | {"values": tuple(e["values"])}) for name, e in row["effects"].items()}
    return Test(**{**row, "effects": effects})


def signed(value: float) -> str:
    """A number to three digits, with the sign that typesetters use.

    >>> signed(-0.5), signed(2)
    ('−0.5', '2')
    """
    return format_number(value).replace("-", "−", 1) if abs(value) >= 1e-4 or value == 0 else "0.000"


def mark(verdict: str) -> str:
    """The verdict with its sign, which is read without colour too.

    >>> mark(HOLDS), mark(IN_PART)
    ('✓ holds', '◐ in part')
    """
    return f"{MARKS[verdict]} {verdict}"


def classes(verdict: str) -> str:
    """The CSS classes of a verdict.

    >>> classes(NOT_TESTED)
    'inv-verdict inv-not-tested'
    """
    return f"inv-verdict inv-{verdict.replace(' ', '-')}"
