"""What the cells of a sweep measured: means over seeds with their 95% intervals, as CSV files and as a page."""

from __future__ import annotations

import csv
import html
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from invkit.book.ledger.verdicts import SEEDS, interval
from invkit.book.numbers import finite, summarise
from invkit.core.files import atomic_path
from invkit.show.tables import table_body

SEED = "seed"
"""The parameter over which numbers are averaged; all others name a row."""


def measure(name: str, value: Any) -> float:
    """Hand a number to the sweep that a notebook runs in; outside of a sweep nothing is written.

    Args:
        name: What it is, as in ``"test accuracy"``.
        value: One finite number.

    Returns:
        The number.

    Raises:
        ValueError: If it is not one finite number.

    >>> measure("test accuracy", 0.93)
    0.93
    """
    numbers = finite(value, name)
    if len(numbers) != 1:
        raise ValueError(f"{name}: measure takes one number, not {len(numbers)}")
    path = os.environ.get("INVKIT_NUMBERS")
    if path:
        with open(path, "a", encoding="utf8") as file:
            file.write(json.dumps({"name": name, "value": numbers[0]}) + "\n")
    return numbers[0]


def checkpoint(name: str) -> Path | None:
    """A file for the ``checkpoint`` of a method, which a cell of a sweep finds again when it is queued again.

    Args:
        name: Tells it from others of the same notebook.

    Returns:
        Its path; outside of a sweep None, with which a method keeps no checkpoint.

    Raises:
        ValueError: For a name that is no name of a file.

    >>> checkpoint("digits") is None
    True
    """
    if not name or name != Path(name).name:
        raise ValueError(f"name must be that of a file, without a folder, not {name!r}")
    folder = os.environ.get("INVKIT_CHECKPOINTS")
    return Path(folder) / f"{name}.pt" if folder else None


def numbers_of(folder: Path) -> dict[str, float]:
    """All numbers that a run left in ``folder``: of :func:`measure`, of its claims, of its recorded runs.

    Where a run has several seeds of its own, it is their mean.

    >>> numbers_of(Path("nowhere"))
    {}
    """
    found: dict[str, float] = {}
    path = folder / "numbers.jsonl"
    for line in path.read_text("utf8").splitlines() if path.is_file() else ():
        row = json.loads(line)
        found[row["name"]] = row["value"]
    for path in sorted(folder.glob("claims/*.json")):
        for row in json.loads(path.read_text("utf8"))["claims"]:
            for test in row["tests"]:
                found |= _of_test(row["id"], test)
    for path in sorted(folder.glob("record/*.json")):
        for name, columns in json.loads(path.read_text("utf8"))["measured"].items():
            found |= {f"{name}: {column}": summarise(value)["mean"] for column, value in columns.items()}
    return found


def _of_test(claim: str, test: Mapping[str, Any]) -> dict[str, float]:
    """The effects and other numbers of one test of a claim."""
    where = f"({test['data']}, {test['network']})"
    found = {f"{claim} {part} {where}".replace("  ", " "): effect["mean"] for part, effect in test["effects"].items()}
    return found | {f"{claim}, {name} {where}": summary["mean"] for name, summary in test["measured"].items()}


@dataclass(frozen=True)
class Outcome:
    """How one cell ended.

    Attributes:
        run: Name of the notebook or script.
        parameters: Those that are swept.
        state: ``finished``, ``failed`` or ``missing``.
        reason: Why it failed, in a sentence.
        seconds: Wall time of the run that ended.
        starts: How often it was started; more than once after a preemption.
        code: Fingerprint of the code that it ran.
        numbers: What it measured.
    """

    run: str
    parameters: Mapping[str, Any]
    state: str
    reason: str = ""
    seconds: float = 0.0
    starts: int = 0
    code: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its run and parameters in a line.

        >>> Outcome("01_a", {"seed": 0, "lr": 0.1}, "finished").name
        '01_a seed=0 lr=0.1'
        """
        return " ".join([self.run, *(f"{name}={value}" for name, value in self.parameters.items())])


@dataclass(frozen=True)
class Line:
    """One number over the seeds of one setting."""

    run: str
    setting: Mapping[str, Any]
    number: str
    values: tuple[float, ...]
    missing: int

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def ends(self) -> tuple[float, float] | None:
        """The 95% interval of the mean; None for fewer than three seeds."""
        return interval(self.values)


def summarise_cells(outcomes: Sequence[Outcome]) -> list[Line]:
    """Each number of each setting over its seeds; ``missing`` counts the cells that did not give it.

    >>> cells = [Outcome("a", {"seed": s, "lr": 1}, "finished", numbers={"acc": float(s)}) for s in range(3)]
    >>> [(line.setting, line.number, line.mean, line.missing) for line in summarise_cells(cells)]
    [({'lr': 1}, 'acc', 1.0, 0)]
    """
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        setting = {name: value for name, value in outcome.parameters.items() if name != SEED}
        groups.setdefault((outcome.run, json.dumps(setting)), []).append(outcome)
    lines = []
    for (run, setting_text), cells in groups.items():
        for name in dict.fromkeys(name for cell in cells for name in cell.numbers):
            values = tuple(cell.numbers[name] for cell in cells if name in cell.numbers)
            lines.append(Line(run, json.loads(setting_text), name, values, len(cells) - len(values)))
    return lines


def write_tables(folder: Path, outcomes: Sequence[Outcome], about: Mapping[str, Any]) -> Path:
    """Write ``table.csv``, ``cells.csv`` and ``index.html`` of a sweep into ``folder``; return the page's path.

    Args:
        folder: Of the sweep.
        outcomes: One for each cell.
        about: ``title`` and ``command`` of the sweep.

    Returns:
        Path of the page.
    """
    parameters = list(dict.fromkeys(name for outcome in outcomes for name in outcome.parameters))
    settings = [name for name in parameters if name != SEED]
    lines = summarise_cells(outcomes)
    rows = []
    for line in lines:
        places = [line.run, *(line.setting.get(name, "") for name in settings)]
        rows.append([*places, line.number, line.mean, *(line.ends or ("", "")), len(line.values), line.missing])
    _write_csv(folder / "table.csv", ["run", *settings, "number", "mean", "low", "high", "n", "missing"], rows)
    names = list(dict.fromkeys(name for outcome in outcomes for name in outcome.numbers))
    cells = [
        [o.run, *(o.parameters.get(name, "") for name in parameters), o.state, o.reason, o.seconds, o.starts, o.code]
        + [o.numbers.get(name, "") for name in names]
        for o in outcomes
    ]
    _write_csv(
        folder / "cells.csv", ["run", *parameters, "state", "reason", "seconds", "starts", "code", *names], cells
    )
    with atomic_path(folder / "index.html") as temporary:
        temporary.write_text(_page(outcomes, lines, settings, about), "utf8")
    return folder / "index.html"


def _write_csv(path: Path, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1f2328 }
table { border-collapse: collapse; margin: 1rem 0 } caption { text-align: left; color: #59636e; padding-bottom: .4rem }
th, td { text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid #d1d9e0; vertical-align: top }
td { font-variant-numeric: tabular-nums }
code { background: #f6f8fa; padding: .1rem .3rem; overflow-wrap: anywhere }
"""


def _page(outcomes: Sequence[Outcome], lines: Sequence[Line], settings: Sequence[str], about: Mapping[str, Any]) -> str:
    """The page: what was swept, the table, and the cells that failed."""
    title, command = html.escape(str(about["title"])), html.escape(str(about["command"]))
    done = sum(outcome.state == "finished" for outcome in outcomes)
    parts = [
        f"<h1>{title}</h1><p>{done} of {len(outcomes)} cells finished. Repeat it, or go on: <code>{command}</code></p>"
    ]
    if lines:
        parts.append(_table_of_numbers(lines, settings))
    else:
        parts.append("<p>No run measured a number; <code>invkit.book.measure(name, value)</code> hands one over.</p>")
    codes = {outcome.code for outcome in outcomes if outcome.code}
    if len(codes) > 1:
        parts.append(f"<p>The cells ran {len(codes)} states of the code: see <code>cells.csv</code>.</p>")
    wrong = [outcome for outcome in outcomes if outcome.state != "finished"]
    if wrong:
        rows = [(outcome.name, {"state": outcome.state, "reason": outcome.reason}) for outcome in wrong]
        parts.append(f"<table><caption>Cells without a result</caption>{table_body(rows, 'cell')}</table>")
    head = f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>{title}</title>"
    return (
        f"<!doctype html><html lang='en'><head>{head}<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )


def _table_of_numbers(lines: Sequence[Line], settings: Sequence[str]) -> str:
    runs = len({line.run for line in lines}) > 1
    rows = []
    for line in lines:
        seeds = f"{len(line.values)}" + (f" ({line.missing} missing)" if line.missing else "")
        setting = ({"run": line.run} if runs else {}) | {name: line.setting.get(name, "") for name in settings}
        numbers = {
            "mean": f"{line.mean:.4g}",
            "95% interval": f"{line.ends[0]:.4g} to {line.ends[1]:.4g}" if line.ends else f"below {SEEDS} seeds",
            "seeds": seeds,
        }
        rows.append((line.number, setting | numbers))
    caption = "Mean over seeds, with the interval of Student's t"
    return f"<table><caption>{caption}</caption>{table_body(rows, 'number')}</table>"
