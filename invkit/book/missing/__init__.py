"""A chapter whose recorded runs are not all there: what can be run without them is run, and the page says what is not.

The runner knows before any kernel starts which records a notebook names, and rewrites its cells for that one run:
statements that name a missing record are left out, and so are those that would read what these define, until something
else defines it. In their place stands what is missing. Claims that are then owed an answer count as not tested.
"""

from __future__ import annotations

import ast
import html
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from invkit.book.missing.names import Reads, called, root_of, tree_of
from invkit.book.record_file import path_of
from invkit.book.recorded import MissingRecord, read_picture

LOADERS = ("load_recorded", "show_recorded")


def records_missing(sources: Sequence[str], folder: Path) -> dict[str, str]:
    """The records that cells name and that are not in a folder, with what is wrong with each.

    >>> records_missing(['run = book.load_recorded("no-such-run")'], Path("."))
    {'no-such-run': 'there is no no-such-run.json among the recorded runs'}
    """
    names = set[str]().union(*(names_of(tree_of(source)) for source in sources))
    problems = {name: problem_of(name, folder) for name in sorted(names)}
    return {name: problem for name, problem in problems.items() if problem}


def problem_of(name: str, folder: Path) -> str:
    """What is wrong with a record, in words; nothing for one that can be loaded."""
    path = path_of(name, folder)
    if not path.is_file():
        return f"there is no {path.name} among the recorded runs"
    try:
        read_picture(path)
    except (json.JSONDecodeError, KeyError):
        return f"{path.name} is damaged"
    except ValueError:
        return "its picture is missing or another one"
    return ""


def names_of(tree: ast.Module) -> set[str]:
    """The records that a cell loads or shows, by name or by a variable that runs over names.

    >>> cell = "both = ('a', 'b')\\nfor name in both: book.load_recorded(name)\\nbook.show_recorded('c', hide=['d'])"
    >>> sorted(names_of(tree_of(cell)))
    ['a', 'b', 'c']
    """
    nodes = list(ast.walk(tree))
    values: dict[str, set[str]] = {}  # of variables, as far as they are words in quotes
    for node in nodes:
        if isinstance(node, ast.Assign):
            values |= {ast.unparse(target): words_in(node.value) for target in node.targets}
    for node in nodes:
        if isinstance(node, ast.For | ast.comprehension):
            values[ast.unparse(node.target)] = words_in(node.iter) | values.get(ast.unparse(node.iter), set())
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Call) and called(node) in LOADERS and node.args:
            found |= words_in(node.args[0]) or values.get(ast.unparse(node.args[0]), set())
    return found


def words_in(node: ast.expr) -> set[str]:
    """A word in quotes, or those of a list of them."""
    parts = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    return {part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)}


class Plan:
    """Cells rewritten one after the other: what is lost so far, and for want of which records."""

    def __init__(self, missing: dict[str, str]) -> None:
        self.missing = missing
        self.lost: dict[str, set[str]] = {}  # by name, the records behind it
        self.later: dict[str, set[str]] = {}  # by function, the names that it reads
        self.lasting, self.claims, self.shown = set[str](), set[str](), set[str]()

    def cell(self, source: str) -> str:
        """A cell without what cannot be run; as it is where all of it can."""
        tree = tree_of(source)
        kept: list[str] = []
        told: set[str] = set()
        at = None
        for statement in tree.body:
            records = self.take(statement)
            if records:
                told |= records
                at = len(kept) if at is None else at
            else:
                kept += [*self.answers(statement), ast.unparse(statement)]
        if at is None and len(kept) == len(tree.body):
            return source
        if at is not None:
            kept[at:at] = self.notices(tree, told)
        return "\n".join(kept)

    def take(self, statement: ast.stmt) -> set[str]:
        """The missing records for want of which a statement is left out; none where it can be run."""
        names = Reads()
        names.visit(statement)
        records = self.named(statement).union(*(self.behind(name) for name in names.reads))
        if records:
            self.lost |= dict.fromkeys((names.bound | names.changes) - self.lasting - self.claims, records)
            return records
        for name in names.bound:
            self.lost.pop(name, None)
            self.later.pop(name, None)
        self.later |= names.later
        if isinstance(statement, ast.Import | ast.ImportFrom):
            self.lasting |= names.bound
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call):
            self.claims |= names.bound if called(statement.value) == "Claims" else set()
        return set()

    def named(self, node: ast.AST) -> set[str]:
        """The missing records whose name stands in quotes."""
        quoted = {str(part.value) for part in ast.walk(node) if isinstance(part, ast.Constant)}
        return quoted & self.missing.keys()

    def behind(self, name: str, seen: frozenset[str] = frozenset()) -> set[str]:
        """The missing records without which a name has no value, or a function cannot be called."""
        if name in seen:
            return set()
        further = (self.behind(read, seen | {name}) for read in self.later.get(name, ()))
        return self.lost.get(name, set()).union(*further)

    def answers(self, statement: ast.stmt) -> Iterator[str]:
        """What answers the claims whose tests were left out, before they are saved."""
        saved = {
            root
            for call in ast.walk(statement)
            if isinstance(call, ast.Call) and called(call) == "save"
            for root in root_of(call) & self.claims
        }
        lacking = " and ".join(sorted(self.missing))
        for name in saved:
            reason = f"What it is tested on needs {lacking}, a recorded run that is missing."
            yield f"for _id in {name}.missing():\n    {name}.untested(_id, {reason!r})"

    def notices(self, tree: ast.Module, records: set[str]) -> Iterator[str]:
        """What stands in the place of the statements that are left out: a box for each record once, else a note."""
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and called(node) == "show_recorded"]
        shows = set[str]().union(*map(self.named, calls))
        boxes = sorted(records & (shows | (self.named(tree) - self.shown)))
        self.shown |= set(boxes)
        for name in boxes:
            box = MissingRecord(name, self.missing[name])
            yield displayed(f"The recorded run {name} is missing: {self.missing[name]}.", box._repr_html_())
        if not boxes:
            text = f"Left out, as a recorded run is missing: {', '.join(sorted(records))}."
            yield displayed(text, f'<p class="inv-left-out"><em>{html.escape(text)}</em></p>')


def displayed(text: str, page: str) -> str:
    """The line of code that shows a text, and what stands for it on a page."""
    return f"display({ {'text/plain': text, 'text/html': page}!r}, raw=True)"


def rewritten(sources: Sequence[str], missing: dict[str, str]) -> dict[int, str]:
    """The cells that cannot be run as they are where records are missing, rewritten.

    Args:
        sources: All code cells, in order.
        missing: The records, with what is wrong with each.

    Returns:
        By the number of the cell its code for this run.

    >>> cells = ["n = 2", "run = book.load_recorded('gone')", "print(run, n)\\nprint(n)", "run = 3", "print(run)"]
    >>> new = rewritten(cells, {"gone": "there is none"})
    >>> list(new), new[2].splitlines()[1]
    ([1, 2], 'print(n)')
    """
    if not missing:
        return {}
    plan = Plan(missing)
    new = [plan.cell(source) for source in sources]
    return {number: text for number, (text, source) in enumerate(zip(new, sources, strict=True)) if text != source}
