"""Sentences that a run can refute: each is said together with the condition that makes it true.

A cell that ends with :func:`check` shows its sentences, with the run's own numbers in them; where a condition fails,
the sentence is marked as not so in this run. Nothing stops, so that a reader's run with another seed or other images
goes on; but the pages of the book are not built from a run that refutes one of them (``book/_ext/executed.py``).
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

MIME = "application/vnd.invkit.statements+json"
"""Under which a cell's output holds the statements, for whoever builds the pages."""


@dataclass(frozen=True)
class Statement:
    """A sentence, and whether the run bears it out."""

    sentence: str
    holds: bool

    @property
    def text(self) -> str:
        """The sentence with its mark.

        >>> Statement("The loss falls.", False).text
        '✗ Not so in this run: “The loss falls.”'
        """
        return f"✓ {self.sentence}" if self.holds else f"✗ Not so in this run: “{self.sentence}”"


@dataclass(frozen=True)
class Statements:
    """What :func:`check` returns: sentences for the end of a notebook's cell."""

    statements: tuple[Statement, ...]

    def refuted(self) -> list[str]:
        """The sentences that are not so in this run."""
        return [statement.sentence for statement in self.statements if not statement.holds]

    def _repr_html_(self) -> str:
        lines = [
            f'<p class="inv-statement{"" if s.holds else " inv-refuted"}">{html.escape(s.text, quote=False)}</p>'
            for s in self.statements
        ]
        return f'<div class="inv-statements">{"".join(lines)}</div>'

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        text = "\n\n".join(statement.text for statement in self.statements)
        rows = [asdict(statement) for statement in self.statements]
        return {"text/plain": text, "text/markdown": text, "text/html": self._repr_html_(), MIME: rows}


def check(statements: Mapping[str, Any], **numbers: Any) -> Statements:
    """State what a run shows, and whether it does.

    Args:
        statements: By sentence the condition, true or false, that makes it so. A sentence may hold fields of
            ``numbers``, as in ``"Jitter costs {loss:.1f} dB."``.
        **numbers: What stands in these fields.

    Returns:
        The sentences, for the end of a cell.

    Raises:
        ValueError: If there is no sentence, one is empty, a condition is neither true nor false, or a field has no
            number.

    >>> shown = check({"The student reads {share:.0%} of the digits.": 0.91 > 0.8}, share=0.91)
    >>> shown.statements[0].text
    '✓ The student reads 91% of the digits.'
    """
    if not statements:
        raise ValueError("check was given no statement; give a sentence with the condition that makes it true")
    found = [Statement(_worded(sentence, numbers), _truth(sentence, holds)) for sentence, holds in statements.items()]
    return Statements(tuple(found))


def _worded(sentence: str, numbers: Mapping[str, Any]) -> str:
    if not sentence.strip():
        raise ValueError("check: a sentence is empty")
    try:
        return sentence.format(**numbers)
    except (KeyError, IndexError) as error:
        given = ", ".join(numbers) or "none"
        raise ValueError(
            f"check: {sentence!r} has a field {error} for which no number was given; given: {given}"
        ) from None


def _truth(sentence: str, holds: Any) -> bool:
    if isinstance(holds, torch.Tensor):
        holds = holds.detach().cpu().numpy()
    if isinstance(holds, bool | np.bool_ | np.ndarray) and np.size(holds) == 1 and np.asarray(holds).dtype == bool:
        return bool(holds)
    raise ValueError(f"check: the condition of {sentence!r} is neither true nor false but {holds!r}")
