"""The parameters of a notebook: read from its ``parameters`` cell, and checked before any work.

:mod:`invkit.book.runner` checks the command line before a kernel starts; the notebooks call :func:`check_parameters`
themselves, so that plain papermill is held to the same.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

TYPES: dict[str, type] = {"bool": bool, "int": int, "float": float, "str": str, "list": list}
TYPES["None"] = type(None)
ITEMS = {int: "whole numbers, as in [980, 200]", float: "numbers, as in [0.5, 2]", str: "words, as in ['cat', 'dog']"}
WORDS = {"true": True, "false": False, "none": None, "null": None}


class BadParameters(ValueError):
    """A notebook was given a parameter that it does not have, or a value that cannot be."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One line of a notebook's ``parameters`` cell: ``steps: int = 500  # how many steps``."""

    name: str
    default: Any
    types: tuple[type, ...]
    help: str
    items: type | None = None  # of a list[int]

    @property
    def choices(self) -> list[str]:
        """Values that the help allows: what follows ``one of:`` there."""
        words = re.search(r"one of:\s*([^;()]+)", self.help)
        return [word.strip() for word in words[1].split(",")] if words else []

    def parse(self, text: str) -> Any:
        """Read a value from the command line; text that is no literal stays text."""
        if self.types == (str,):
            return text
        if text.lower() in WORDS:
            return WORDS[text.lower()]
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError):
            return text
        return list(value) if isinstance(value, tuple) and list in self.types else value

    def check(self, value: Any) -> str:
        """What is wrong with a value, in a few words; empty where nothing is."""
        missing = value is None and type(None) in self.types
        if self.items and not missing and not (isinstance(value, list) and all(is_a(v, (self.items,)) for v in value)):
            return f"{self.name} should be a list of {ITEMS[self.items]}, not {value!r}{self.hint(value)}"
        if self.types and not is_a(value, self.types):
            kinds = " or ".join(kind.__name__ for kind in self.types)
            return f"{self.name} should be {kinds} (its default is {self.default!r}), not {value!r}"
        if self.choices and value is not None and str(value) not in self.choices:
            return f"{self.name} should be one of {', '.join(self.choices)}, not {value!r}"
        return ""

    def hint(self, value: Any) -> str:
        """What to do about a good list that came as text, as ``papermill -p`` passes it."""
        if not isinstance(value, str) or self.parse(value) == value or self.check(self.parse(value)):
            return ""
        return f"; with papermill write -y '{self.name}: {self.parse(value)}' in the place of -p"


def is_a(value: Any, types: tuple[type, ...]) -> bool:
    """Whether a value is of one of the types: a whole number is a float too, a truth value is no number."""
    if isinstance(value, bool):
        return bool in types
    return isinstance(value, (*types, int) if float in types else types)


def assignments(source: str) -> Iterator[tuple[str, str, ast.expr, int]]:
    """Name, annotation, value and line of every plain assignment of a cell."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, ast.unparse(node.annotation), node.value, node.end_lineno or 0
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, "", node.value, node.end_lineno or 0


def literal(node: ast.expr) -> Any:
    """The value of a literal expression; None for anything that would have to be run."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def read_parameters(source: str) -> dict[str, Parameter]:
    """Names, defaults, types and help of a ``parameters`` cell.

    Args:
        source: Text of the cell, with lines ``name: type = literal  # help``.

    >>> read_parameters("steps: int = 500  # how many")["steps"].help
    'how many'
    """
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    parameters = {}
    for name, annotation, node, line in assignments(source):
        default = literal(node)
        words = [word.strip().split("[")[0] for word in annotation.split("|")] if annotation else []
        if not words and default is not None:
            words = [type(default).__name__]
        types = tuple(TYPES[word] for word in words if word in TYPES)
        item = re.search(r"list\[(\w+)\]", annotation)
        items = TYPES.get(item[1]) if item else None
        parameters[name] = Parameter(name, default, types, comments.get(line, ""), items if items in ITEMS else None)
    return parameters


def refuse(where: str, known: dict[str, Parameter], values: dict[str, Any]) -> None:
    """Raise :class:`BadParameters`, naming the notebook's parameters, where a value is unknown or ill-typed."""
    wrong = [f"{name} is not a parameter" for name in sorted(set(values) - set(known))]
    wrong += [known[n].check(v) for n, v in values.items() if n in known and known[n].check(v)]
    if wrong:
        names = "\n".join(f"  {p.name} = {p.default!r}  {p.help}".rstrip() for p in known.values())
        raise BadParameters(f"{where}: {'; '.join(wrong)}\nIts parameters are:\n{names}")


def check_parameters() -> None:
    """Called by a notebook in the cell after ``parameters``: refuse what plain papermill lets through.

    papermill injects any name and any value it is given, in a cell that begins with ``# Parameters``. The
    kernel's own history holds that cell and the one before it, so the two can be compared. In Jupyter, where
    nothing is injected, the values of the ``parameters`` cell itself are checked; outside of a notebook, nothing is:

    >>> check_parameters()

    Raises:
        BadParameters: For an unknown name or a value that does not fit, with the list of all parameters.
    """
    from IPython import get_ipython

    shell = get_ipython()
    cells = [] if shell is None else [str(cell) for cell in shell.user_ns["In"]]
    own = [i for i, cell in enumerate(cells) if re.search(r"^profile\b[^=]*=", cell, re.M) and not injected(cell)]
    if not own:
        return
    known = read_parameters(cells[own[-1]])
    after = [cell for cell in cells[own[-1] + 1 :] if injected(cell)]
    values = {name: p.default for name, p in known.items()}
    if after:
        values |= {name: literal(node) for name, _, node, _ in assignments(after[0])}
    refuse("this notebook", known, values)


def injected(cell: str) -> bool:
    """Whether papermill wrote this cell."""
    return cell.lstrip().startswith("# Parameters")
