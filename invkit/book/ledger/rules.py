"""Rules: what each claim asks of the numbers, one entry of ``rules.yml`` for each.

A rule says which *effect* is measured, and which size of it the claim asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from invkit.core.config import config_hash


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One quantity that a claim asks for.

    Attributes:
        name: Empty where the rule has one quantity alone.
        quantity: What each seed's number is, in words; larger is truer to the claim.
        unit: Of the numbers; empty for a share or a ratio.
        holds: Threshold that the whole interval must lie above.
        absent: At or below this the effect is not there.
    """

    name: str = ""
    quantity: str
    unit: str = ""
    holds: float
    absent: float = 0.0

    def __post_init__(self) -> None:
        if not self.quantity.strip():
            raise ValueError(f"part {self.name!r} of a rule needs a quantity, in words")
        if not self.absent <= self.holds:
            raise ValueError(f"part {self.name!r}: absent ({self.absent}) must be at most holds ({self.holds})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a claim asks of the numbers.

    Attributes:
        id: The claim.
        parts: One quantity, or several with names.
        source: Where the thresholds come from.
        exact: Whether the quantity has no chance in it, so that one number is enough.
        before: The verdict of the book's first ledger.
        why: What changes against that, in a sentence.
        mended: The day, as in ``"2026-12-01"``, of a change by which runs that existed are judged as well.
        mended_digest: What :meth:`digest` gave after that change, so that a later one does not pass for it.

    Raises:
        ValueError: If only one of ``mended`` and ``mended_digest`` is given.
    """

    id: str
    parts: tuple[Part, ...]
    source: str
    before: str
    why: str
    exact: bool = False
    mended: str = ""
    mended_digest: str = ""

    def __post_init__(self) -> None:
        if bool(self.mended) != bool(self.mended_digest):
            raise ValueError(
                f"rule of {self.id}: mended and mended_digest are given together or not at all; "
                f"the digest is {self.digest()} now"
            )

    def digest(self) -> str:
        """Twelve hexadecimal digits that change with whatever may change a verdict: quantities and thresholds.

        >>> rule = load_rules()["di.verifier"]
        >>> import dataclasses
        >>> rule.digest() == dataclasses.replace(rule, why="Another sentence.").digest()
        True
        """
        return config_hash({"parts": list(self.parts), "exact": self.exact})

    def part(self, name: str) -> Part:
        """The part of that name.

        Raises:
            ValueError: Naming the parts that there are.
        """
        for part in self.parts:
            if part.name == name:
                return part
        names = ", ".join(repr(part.name) for part in self.parts if part.name)
        there = f"its parts are {names}" if names else "its rule has a single quantity, without a name"
        raise ValueError(f"{self.id}: unknown part {name!r}; {there}")


@cache
def load_rules() -> Mapping[str, Rule]:
    """The rules by which the book's claims are judged, by claim.

    Raises:
        ValueError: If two rules are of one claim.

    >>> load_rules()["di.verifier"].parts[0].holds
    0.5
    """
    rows = yaml.safe_load((resources.files("invkit.book.ledger") / "rules.yml").read_text("utf8"))
    rules = {row["id"]: read_rule(row) for row in rows}
    if len(rules) != len(rows):
        raise ValueError("rules.yml: two rules share an id")
    return rules


def read_rule(row: Mapping[str, Any]) -> Rule:
    """A rule from its entry in ``rules.yml``: the fields of its one part, or a list of ``parts`` with names.

    Raises:
        TypeError: For a field that is unknown or missing.

    >>> entry = {"id": "a", "quantity": "gain", "holds": 1, "source": "", "before": "holds", "why": ""}
    >>> read_rule(entry).parts
    (Part(name='', quantity='gain', unit='', holds=1.0, absent=0.0),)
    """
    row = dict(row)
    keys = ("quantity", "unit", "holds", "absent")
    single = {key: row.pop(key) for key in keys if key in row}
    parts = row.pop("parts", None) or [single]
    return Rule(**row, parts=tuple(Part(**part | _floats(part)) for part in parts))


def _floats(part: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(part[key]) for key in ("holds", "absent") if key in part}
