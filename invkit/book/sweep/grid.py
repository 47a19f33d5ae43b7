"""A grid of runs on a cluster: one job for each cell, and the numbers of all of them in one table.

``python -m invkit.run 01_deepinversion --sweep seed=0:5 -p target a,b --cluster slurm`` runs the notebook ten times.
Finished cells are kept: the same command goes on where it was, whatever was killed meanwhile. A run is a notebook or a
recorded script, as in ``book/recorded/one_setting.py:small``. All that a cell leaves lies in its folder, and the table
is made from these folders alone.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from invkit.book.parameters import BadParameters, Parameter, refuse
from invkit.book.recording import RecordedRun
from invkit.book.sweep.jobs import LocalCluster, Resources, SlurmCluster, State, connect, why_gone
from invkit.book.sweep.table import Outcome, numbers_of, write_tables
from invkit.core.files import read_json, write_json
from invkit.core.python_files import load_file

POLL = 0.25
"""Seconds between looks at the folders of cells."""
ASK = 2.0
"""Seconds between questions to the scheduler in the first minute; ten times as many from then on."""
GRACE = 10.0
"""Seconds that the note of a job's end may be on its way through a shared file system."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """A notebook or a script, with the parameters that it has and what its run depends on."""

    name: str
    file: Path
    known: Mapping[str, Parameter]
    part: str = ""
    code: str = ""

    @property
    def is_notebook(self) -> bool:
        """Whether it is a notebook."""
        return self.file.suffix == ".ipynb"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of the grid."""

    work: Work
    swept: Mapping[str, Any]
    parameters: Mapping[str, Any]
    folder: Path

    def outcome(self) -> Outcome:
        """How it ended, read from its folder."""
        path = self.folder / "end.json"
        if not path.is_file():
            return Outcome(self.work.name, self.swept, "missing", "it has not ended")
        end = read_json(path, "note of a job's end", advice="; delete it to run the cell again")
        reason = f"{end['kind']}: {end['reason']}" if end["kind"] else ""
        return Outcome(
            self.work.name, self.swept, end["state"], reason, end["seconds"], end["starts"], end["code"],
            numbers_of(self.folder),
        )  # fmt: skip


def read_values(text: str, parameter: Parameter) -> list[Any]:
    """The values of one axis: ``0:5`` counts from 0 to 4, ``0:10:5`` in fives, else they stand between commas.

    Values of a list are lists: ``[0, 1], [2]``.

    >>> seed = Parameter("seed", 0, (int,), "")
    >>> read_values("0:3", seed), read_values("7,9", seed)
    ([0, 1, 2], [7, 9])
    """
    ends = text.split(":")
    if len(ends) in (2, 3) and all(end.strip().lstrip("-").isdigit() for end in ends):
        numbers = [int(end) for end in ends]
        if len(numbers) == 3 and numbers[2] == 0:
            raise BadParameters(f"{parameter.name}={text}: the step of a range is not 0")
        return list(range(*numbers))
    if list in parameter.types:
        value = parameter.parse(f"{text},")
        return value if isinstance(value, list) else [value]
    return [parameter.parse(word.strip()) for word in text.split(",")]


def read_axes(options: argparse.Namespace, known: Mapping[str, Parameter]) -> dict[str, list[Any]]:
    """All parameters that were given with the values they take, one or several.

    Raises:
        BadParameters: For an axis without a value, one that is given twice, or a value that is there twice.
    """
    texts: list[tuple[str, str]] = []
    for item in options.sweep:
        name, _, text = item.partition("=")
        if not name or not text:
            raise BadParameters(f"--sweep wants NAME=VALUES, as in seed=0:5, not {item!r}")
        texts.append((name, text))
    axes: dict[str, list[Any]] = {}
    for name, text in [*texts, *options.p]:
        if name in axes:
            raise BadParameters(f"{name} is given twice")
        values = read_values(text, known.get(name, Parameter(name, None, (str,), "")))
        if not values or len({json.dumps(value) for value in values}) != len(values):
            raise BadParameters(f"{name}={text}: an axis needs values, each of them once")
        axes[name] = values
    return axes


def notebook(file: Path, known: Mapping[str, Parameter], code: str) -> Work:
    """A notebook as something to sweep."""
    return Work(name=file.stem, file=file, known=known, code=code)


def script(name: str) -> Work:
    """A run of a script of recorded runs, named ``path/to/script.py`` or, where it has several, ``...py:part``.

    Raises:
        BadParameters: For a file that is not there, and a part that it has not.
    """
    path, _, part = name.partition(":")
    file = Path(path).resolve()
    if not file.is_file():
        raise BadParameters(f"no script {path!r}")
    module = load_file(file)
    runs = {value.name: value for value in vars(module).values() if isinstance(value, RecordedRun)}
    if (part and part not in runs) or (not part and len(runs) != 1):
        raise BadParameters(
            f"{path} has the runs {', '.join(runs) or 'none'}; name one, as in {path}:{next(iter(runs), 'run')}"
        )
    run = runs[part] if part else next(iter(runs.values()))
    known = {option: Parameter(option, value, (type(value),), "") for option, value in run.defaults.items()}
    code = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    return Work(
        name=f"{file.stem}:{run.name}", file=file, known=known, part=run.name if len(runs) > 1 else "", code=code
    )


def make_cells(works: Sequence[Work], options: argparse.Namespace, folder: Path) -> list[Cell]:
    """The cells of the grid, in order; each is checked before any work.

    Raises:
        BadParameters: For a parameter that a run does not have, or a value that cannot be.
    """
    cells = []
    for work in works:
        axes = read_axes(options, work.known)
        for values in itertools.product(*axes.values()):
            parameters = dict(zip(axes, values, strict=True))
            if work.is_notebook:
                parameters = {"profile": options.profile} | parameters
            refuse(work.file.name, dict(work.known), parameters)
            swept = {name: parameters[name] for name in axes if len(axes[name]) > 1}
            cells.append(
                Cell(work=work, swept=swept, parameters=parameters, folder=folder / "cells" / _name(work, parameters))
            )
    return cells


def _name(work: Work, parameters: Mapping[str, Any]) -> str:
    """A folder's name for a cell: readable, and its own."""
    text = json.dumps([work.name, parameters], sort_keys=True)
    words = [work.name, *(f"{name}={value}" for name, value in parameters.items() if name != "profile")]
    readable = "".join(c if c.isalnum() or c in "=.-" else "_" for c in " ".join(words))
    return f"{readable[:80]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def claim_folder(folder: Path, about: dict[str, Any], extend: bool) -> None:
    """Note what the folder holds, or make sure that it is the same grid.

    Raises:
        BadParameters: Where it holds another sweep or, without ``extend``, the same with other values.
    """
    path = folder / "sweep.json"
    if path.exists():
        before = read_json(path, "record of a sweep", advice="; choose another folder by --out")
        if {k: v for k, v in before.items() if k != "grid"} != {k: v for k, v in about.items() if k != "grid"}:
            raise BadParameters(f"{folder} holds another sweep, of {_words(before)}; choose another folder by --out")
        lost = [
            name for name, values in before["grid"].items() if any(v not in about["grid"].get(name, []) for v in values)
        ]
        same_axes = before["grid"].keys() == about["grid"].keys()
        if before["grid"] != about["grid"] and not (extend and same_axes and not lost):
            raise BadParameters(
                f"{folder} holds the grid {_grid(before['grid'])}, not {_grid(about['grid'])}: its finished cells are "
                "kept; add values to it by --extend, or choose another folder by --out"
            )
    write_json(path, about)


def _grid(grid: Mapping[str, Sequence[Any]]) -> str:
    return " x ".join(f"{name}={','.join(map(str, values))}" for name, values in grid.items()) or "of one cell"


def _words(about: Mapping[str, Any]) -> str:
    runs = " and ".join(about.get("runs", ["an unknown run"]))
    return f"{runs} over {_grid(about.get('grid', {}))} in profile {about.get('profile')}"


def order_of(cell: Cell, root: Path, resources: Resources, timeout: int) -> dict[str, Any]:
    """What a job is told: a command with its input, folders of its own, its time and its memory."""
    work, folder = cell.work, cell.folder
    environment = {
        "INVKIT_WORK": str(folder / "work"), "INVKIT_CLAIMS": str(folder / "claims"),
        "INVKIT_CHECKPOINTS": str(folder / "checkpoints"), "INVKIT_NUMBERS": str(folder / "numbers.jsonl"),
        "INVKIT_START": os.environ.get("INVKIT_START", str(Path.cwd())),
        "INVKIT_QUIET": "1", "OMP_NUM_THREADS": str(resources.cpus), "MPLBACKEND": "agg",
        "PYTHONPATH": _python_path(root),
    }  # fmt: skip
    told = ""
    if work.is_notebook:
        from invkit.book.runner import __file__ as runner

        environment |= {
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
        command = [sys.executable, "-P", str(Path(runner).with_name("worker.py"))]
        told = json.dumps({
            "notebook": str(work.file), "target": str(folder / work.file.name), "failed": str(folder / "failed.ipynb"),
            "claims": str(folder / "claims" / f"{work.file.stem}.json"), "parameters": cell.parameters,
            "key": work.code, "timeout": timeout,
        })  # fmt: skip
    else:
        command = [sys.executable, str(work.file), *filter(None, [work.part])]
        for name, value in cell.parameters.items():
            command += ["--" + name.replace("_", "-"), str(value)]
        command += ["--folder", str(folder / "record")]
    return {
        "command": command, "input": told, "answers": work.is_notebook, "environment": environment, "cwd": str(root),
        "seconds": resources.minutes * 60, "code": work.code,
        "bytes": int(resources.memory * 2**30) if resources.memory and not resources.gpus else 0,
    }  # fmt: skip


def _python_path(root: Path) -> str:
    return os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))


class Sweep:
    """A grid of cells on a cluster: what is missing is submitted, what runs already is waited for.

    Args:
        cells: All cells.
        folder: Of the sweep.
        root: Where commands run.
        cluster: Takes the jobs.
        resources: What each may use.
        timeout: Seconds that one cell of a notebook may take.
    """

    def __init__(
        self, cells: Sequence[Cell], folder: Path, root: Path, cluster: LocalCluster | SlurmCluster,
        resources: Resources, timeout: int,
    ) -> None:  # fmt: skip
        self.cells, self.folder, self.root, self.cluster = cells, folder, root, cluster
        self.resources, self.timeout = resources, timeout
        self.jobs: dict[str, Cell] = {}
        self.missed: dict[str, float] = {}
        self.told: set[str] = set()

    def go(self, force: bool = False) -> list[Outcome]:
        """Run what is missing, a line for each cell that ends; how all of them ended."""
        todo = []
        running = self._running()
        for cell in self.cells:
            outcome = cell.outcome()
            if not force and outcome.state == "finished":
                print(f"  {'kept':10}  {outcome.name}", flush=True)
            elif not force and cell.folder in running:
                self.jobs[running[cell.folder]] = cell
                print(f"  {'running':10}  {outcome.name}", flush=True)
            else:
                todo.append(cell)
        for cell in todo:
            self._prepare(cell, force)
        self._run(todo)
        return [cell.outcome() for cell in self.cells]

    def _running(self) -> dict[Path, str]:
        """Folders of cells whose job, of an earlier call, has not ended, with its number."""
        files = [c.folder / "job.txt" for c in self.cells if not (c.folder / "end.json").exists()]
        jobs = {file.parent: file.read_text("utf8") for file in files if file.is_file()}
        alive: set[str] = set()
        for look in range(2 if jobs else 0):  # a job that is queued again in this moment may be missing in one
            time.sleep(ASK * look)
            states = self.cluster.states(list(jobs.values()))
            alive |= {job for job in jobs.values() if states.get(job, State("running")).word != "gone"}
        return {folder: job for folder, job in jobs.items() if job in alive}

    def _prepare(self, cell: Cell, force: bool) -> None:
        """An empty note of its end; what its last start has kept stays, unless it is made anew."""
        if force:
            shutil.rmtree(cell.folder, ignore_errors=True)
        for name in ("end.json", "job.txt", "numbers.jsonl", "output.txt", "start.json"):
            (cell.folder / name).unlink(missing_ok=True)
        order = order_of(cell, self.root, self.resources, self.timeout)
        write_json(cell.folder / "order.json", order | {"token": secrets.token_hex(8)})

    def _run(self, todo: list[Cell]) -> None:
        local = isinstance(self.cluster, LocalCluster)
        room = self.cluster.at_once if local else len(todo)
        start, asked = time.monotonic(), -1e9
        while todo or self.jobs:
            free = max(0, room - len(self.jobs)) if local else len(todo)
            if todo and free:
                now, todo = todo[:free], todo[free:]
                for job, cell in zip(self.cluster.submit([cell.folder for cell in now]), now, strict=True):
                    (cell.folder / "job.txt").write_text(job, "utf8")
                    self.jobs[job] = cell
            self._collect()
            waited = time.monotonic() - start
            if time.monotonic() - asked > (ASK if waited < 60 else 10 * ASK):
                self._ask()
                asked = time.monotonic()
            if self.jobs:
                time.sleep(POLL)

    def _collect(self) -> None:
        """Say of each cell that has ended how it did."""
        for job, cell in list(self.jobs.items()):
            if (cell.folder / "end.json").is_file():
                del self.jobs[job]
                outcome = cell.outcome()
                word = "ran" if outcome.state == "finished" else "FAILED"
                print(f"  {word:10}  {outcome.name}  {outcome.seconds:.1f} s", flush=True)
                if outcome.reason:
                    print(f"    {outcome.reason}", file=sys.stderr, flush=True)

    def _ask(self) -> None:
        """Write the end of those that the scheduler has ended, and say what the waiting ones wait for."""
        for job, state in self.cluster.states(list(self.jobs)).items():
            cell = self.jobs.get(job)
            if cell is None or (cell.folder / "end.json").is_file():
                continue
            if state.word == "stuck":
                self.cluster.cancel(job)
                self._end(cell, "resources", f"it asks for more than the partition has: SLURM says {state.detail}")
            elif state.word != "gone":
                self.missed.pop(job, None)
            elif time.monotonic() - self.missed.setdefault(job, time.monotonic()) > GRACE:
                self._end(cell, *why_gone(job, state, self.folder / "jobs" / f"{job}_0_log.err"))
            if state.word == "waiting" and state.detail not in (
                "",
                "None",
                "Priority",
                "Resources",
                "JobArrayTaskLimit",
                *self.told,
            ):
                self.told.add(state.detail)
                print(f"  {'waiting':10}  {cell.outcome().name}: SLURM says {state.detail}", flush=True)

    def _end(self, cell: Cell, kind: str, reason: str) -> None:
        """Note the end of a job that could not do so itself."""
        end = {"state": "failed", "kind": kind, "reason": reason, "seconds": 0.0, "starts": 1, "code": cell.work.code}
        write_json(cell.folder / "end.json", end)


def resources_of(options: argparse.Namespace) -> Resources:
    """What the command line allows each job.

    Raises:
        BadParameters: For a time, a memory or a number that cannot be.
    """
    minutes, memory, cpus, gpus = options.time, options.memory, options.cpus, options.gpus
    if minutes <= 0 or (memory is not None and memory <= 0) or cpus < 1 or gpus < 0:
        raise BadParameters("--time, --memory and --cpus must be positive, and --gpus at least 0")
    if options.jobs < 1:
        raise BadParameters(f"--jobs must be at least 1, not {options.jobs}")
    others = {}
    for item in options.slurm:
        name, _, value = item.partition("=")
        if not name or not value:
            raise BadParameters(f"--slurm wants NAME=VALUE, as in account=lab, not {item!r}")
        others[name.lstrip("-")] = value
    return Resources(minutes=minutes, memory=memory, cpus=cpus, gpus=gpus, partition=options.partition, options=others)


def sweep(works: Sequence[Work], root: Path, options: argparse.Namespace, command: Sequence[str]) -> int:
    """Run a sweep that was asked for on the command line.

    Args:
        works: What is run.
        root: The book's folder.
        options: Of :func:`invkit.book.runner.arguments`.
        command: Words that repeat it.

    Returns:
        Exit status: 0 all finished, 1 a cell failed.

    Raises:
        BadParameters: For what cannot be swept; before any work.
        NoCluster: Where there is no cluster, or it refuses; before any work.
    """
    resources = resources_of(options)
    default = root / "build/sweeps" / "-".join(work.name.replace(":", "-") for work in works)
    folder = (options.out or default).resolve()
    cells = make_cells(works, options, folder)
    grid = read_axes(options, works[0].known)
    names = [work.name for work in works]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            cluster = connect(options.cluster, folder / "jobs", resources, options.jobs)
            claim_folder(folder, {"runs": names, "profile": options.profile, "grid": grid}, options.extend)
            outcomes = Sweep(cells, folder, root, cluster, resources, options.timeout).go(options.force)
            title = f"{' and '.join(names)} over {_grid(grid)}"
            words = shlex.join(["python", "-m", "invkit.run", *command])
            page = write_tables(folder, outcomes, {"title": title, "command": words})
    except Timeout:
        raise BadParameters(
            f"another sweep is running in {folder}; wait for it, or choose another folder by --out"
        ) from None
    codes = {outcome.code for outcome in outcomes if outcome.code}
    if len(codes) > len(works):
        print("note: the code has changed since some cells were run; --force runs all of them again", file=sys.stderr)
    failed = sum(outcome.state != "finished" for outcome in outcomes)
    print(f"table: {page.with_name('table.csv')}\npage:  {page}", flush=True)
    if failed:
        print(f"{failed} of {len(cells)} cells failed; the same command tries them again", file=sys.stderr)
    return int(failed > 0)
