"""Run the book's notebooks by papermill: checked parameters, in parallel, published whole or not at all.

``python -m invkit.run --profile ci`` runs every notebook; ``-p NAME VALUE`` sets a parameter of all that are
named, ``--set NOTEBOOK.NAME=VALUE`` of one; ``--sweep NAME=VALUES`` and ``--cluster`` run a grid, see
:mod:`invkit.book.sweep`. A run appears in ``build/executed/<profile>/`` only when its last
cell has finished, a failed one is kept in ``build/failed/``. What has not changed is not run again. Where a recorded
run is missing that a notebook names, the rest of it is run, with a warning, see :mod:`invkit.book.missing`.
``--trial`` goes through every cell with loops cut short, before hours are spent on one: ``build/trial/<profile>/``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from invkit.book.missing import records_missing, rewritten
from invkit.book.parameters import BadParameters, Parameter, read_parameters, refuse
from invkit.core.trial import TRIAL

PROFILES = ("ci", "book", "paper")
RUNNER = (
    "run.py",
    "book/runner.py",
    "book/worker.py",
    "book/missing/__init__.py",
    "book/missing/names.py",
    "book/sweep/__init__.py",
    "book/sweep/grid.py",
    "book/sweep/jobs.py",
    "book/sweep/table.py",
)  # fmt: skip; a change here changes no result

TRIAL_STEPS = 5
QUEUED = 1000  # jobs that a sweep lets run at once where a scheduler divides the machines


@dataclass(frozen=True, slots=True)
class Job:
    """One notebook with all that its run depends on."""

    notebook: Path
    target: Path
    failed: Path
    claims: Path  # what the notebook answers for the scoreboard, where it answers anything
    parameters: dict[str, Any]
    key: str
    missing: dict[str, str] = field(default_factory=dict)  # recorded runs that it names, and what is wrong with each
    sources: dict[int, str] = field(default_factory=dict)  # by cell, the code to run in place of what needs them

    def is_done(self) -> bool:
        """Whether a whole run of exactly this stands already."""
        try:
            run = json.loads(self.target.read_text("utf8"))
        except (OSError, ValueError):
            return False
        about = run["metadata"].get("book", {})
        # A run with other values may have overwritten the answers since.
        return about.get("key") == self.key and about.get("claims") == digest_of(self.claims)


def digest_of(file: Path) -> str:
    """Fingerprint of a file; empty where there is none."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else ""


def find_root(start: Path | None = None) -> Path:
    """The book's folder: the nearest one upward that has `_config.yml` and `notebooks`."""
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents, Path(__file__).resolve().parents[2]):
        if (folder / "_config.yml").is_file() and (folder / "notebooks").is_dir():
            return folder
    raise BadParameters(f"no book (a folder with _config.yml and notebooks/) at or above {start}")


def parameters_of(notebook: Path) -> dict[str, Parameter]:
    """Parameters of a notebook file, from its cell with the tag ``parameters``."""
    for cell in json.loads(notebook.read_text("utf8"))["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            return read_parameters("".join(cell["source"]))
    return {}


def key_of(root: Path, notebook: Path, parameters: dict[str, Any]) -> str:
    """Fingerprint of a run: code cells, parameters, package sources, and the recorded runs that the code names."""
    cells = json.loads(notebook.read_text("utf8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    digest = hashlib.sha256(json.dumps([code, parameters], sort_keys=True).encode())
    named = set(re.findall(r"""["']([\w-]+)["']""", "\n".join(code)))
    files = {file for file in root.glob("invkit/**/*") if file.is_file()}
    files -= {root / "invkit" / name for name in RUNNER}
    files |= {file for file in root.glob("book/recorded/*.*") if file.stem in named and file.suffix != ".py"}
    for file in sorted(file for file in files if file.suffix != ".pyc" and file.name[0] != "."):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def find_notebooks(root: Path, names: list[str]) -> list[Path]:
    """Notebook files by path or by name; all numbered ones where none is named."""
    if not names:
        return sorted((root / "notebooks").glob("[0-9]*.ipynb"))
    files = []
    for name in names:
        near = root / "notebooks" / f"{Path(name).stem}.ipynb"
        file = Path(name).resolve() if Path(name).is_file() else near
        if not file.is_file():
            present = ", ".join(p.stem for p in find_notebooks(root, [])) or "none"
            raise BadParameters(f"no notebook {name!r}; there are: {present}")
        files.append(file)
    return files


def read_sets(items: list[str], stems: set[str]) -> dict[tuple[str, str], str]:
    """Values of ``--set`` by notebook and name; refuses those of a notebook that is not to be run."""
    values = {}
    for item in items:
        where, _, text = item.partition("=")
        stem, _, name = where.rpartition(".")
        if not stem or not text:
            raise BadParameters(f"--set wants NOTEBOOK.NAME=VALUE, not {item!r}")
        if stem not in stems:
            raise BadParameters(f"--set {item}: {stem} is not to be run, but {', '.join(sorted(stems))}")
        values[stem, name] = text
    return values


def plan(root: Path, options: argparse.Namespace) -> list[Job]:
    """Every job, checked; raises `BadParameters` before any kernel starts."""
    notebooks = find_notebooks(root, options.notebooks)
    sets = read_sets(options.set, {notebook.stem for notebook in notebooks})
    jobs = []
    for notebook in notebooks:
        known = parameters_of(notebook)
        texts = dict(options.p) | {name: text for (stem, name), text in sets.items() if stem == notebook.stem}
        values = {name: known[name].parse(text) if name in known else text for name, text in texts.items()}
        parameters = {"profile": options.profile} | values
        refuse(notebook.name, known, parameters)
        jobs.append(make_job(root, notebook, parameters, options.out))
    return jobs


def make_job(root: Path, notebook: Path, parameters: dict[str, Any], out: Path | None) -> Job:
    """The job, and where its result belongs.

    A run with other values than the profile's must never pass for the published one.
    """
    profile = parameters["profile"]
    missing, sources = without_records(root, notebook)
    folder = out or root / "build/executed" / (profile if len(parameters) == 1 else f"{profile}-custom")
    return Job(
        notebook=notebook,
        target=folder.resolve() / notebook.name,
        failed=root / "build/failed" / notebook.name,
        claims=root / "build/claims" / profile / f"{notebook.stem}.json",
        parameters=parameters,
        key=key_of(root, notebook, parameters),
        missing=missing,
        sources=sources,
    )


def without_records(root: Path, notebook: Path) -> tuple[dict[str, str], dict[int, str]]:
    """The recorded runs that a notebook names and that are missing, and by cell the code that does without them."""
    cells = json.loads(notebook.read_text("utf8"))["cells"]
    numbers = [i for i, cell in enumerate(cells) if cell["cell_type"] == "code"]
    code = ["".join(cells[i]["source"]) for i in numbers]
    missing = records_missing(code, root / "book/recorded")
    return missing, {numbers[k]: text for k, text in rewritten(code, missing).items()}


def start_worker(
    job: Job, root: Path, timeout: int, threads: int, more: Mapping[str, str]
) -> tuple[Job, float, str]:  # fmt: skip
    """Run one job in a process of its own; a worker that was killed gives an error too, not silence."""
    order = {name: str(v) if isinstance(v, Path) else v for name, v in asdict(job).items()} | {"timeout": timeout}
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
    inline = "module://matplotlib_inline.backend_inline"
    inherited = {name: value for name, value in os.environ.items() if name != TRIAL}  # a run is a whole one
    env = inherited | {"PYTHONPATH": path, "MPLBACKEND": inline, "PYDEVD_DISABLE_FILE_VALIDATION": "1", **more}
    env.setdefault("OMP_NUM_THREADS", str(threads))
    env["INVKIT_QUIET"] = "1"  # a bar has no place in a page
    env.setdefault("INVKIT_START", str(Path.cwd()))  # a reader's relative paths are meant from here
    worker = str(Path(__file__).with_name("worker.py"))
    start = time.time()
    # -P keeps the package's own folder off the import path, where its file names could hide other modules.
    call = [sys.executable, "-P", worker]
    done = subprocess.run(call, env=env, capture_output=True, text=True, input=json.dumps(order))
    seconds, lines = time.time() - start, done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return job, seconds, f"{job.notebook.name}: its worker ended early\n{done.stderr[-2000:]}"
    return job, seconds, json.loads(lines[-1])


def run(
    todo: Sequence[Job], root: Path, parallel: int, timeout: int, more: Mapping[str, str] = {}
) -> int:  # fmt: skip
    """Run jobs with some ``more`` environment variables, print a line for each; the number that failed."""
    threads = max(1, cores() // max(1, min(parallel, len(todo))))
    failures = 0
    with ThreadPoolExecutor(max(1, parallel)) as pool:
        for future in as_completed([pool.submit(start_worker, job, root, timeout, threads, more) for job in todo]):
            job, seconds, error = future.result()
            print(f"  {'FAILED' if error else 'ran':10}  {job.notebook.stem}  {seconds:.1f} s", flush=True)
            if error:
                failures += 1
                print("\n".join("    " + line for line in error.splitlines()), file=sys.stderr, flush=True)
    return failures


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser("python -m invkit.run", description="Run the book's notebooks by papermill.")
    parser.add_argument("notebooks", nargs="*", help="paths or names (default: all of the book's)")
    parser.add_argument("--profile", choices=PROFILES, default="book", help="how much work (default: book)")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    parser.add_argument("--set", action="append", default=[], metavar="NOTEBOOK.NAME=VALUE")
    parser.add_argument("-j", "--jobs", type=int, help="how many at once (default: one a core)")
    parser.add_argument("--timeout", type=int, default=3600, help="seconds that one cell may take")
    parser.add_argument("--out", type=Path, help="folder for the runs (default: build/executed/<profile>)")
    parser.add_argument("--force", action="store_true", help="run also what has not changed")
    parser.add_argument("--trial", action="store_true", help="a few steps of training and inversion: do all cells run?")
    grid = parser.add_argument_group(
        "a grid of runs on a cluster", "-p may then give several values, as in -p lr 0.1,0.2"
    )
    grid.add_argument("--sweep", action="append", default=[], metavar="NAME=VALUES", help="an axis, as in seed=0:5")
    grid.add_argument("--cluster", choices=("local", "slurm"), help="where jobs run (default: local)")
    grid.add_argument("--extend", action="store_true", help="add values to the sweep in this folder")
    grid.add_argument("--time", type=float, default=60, metavar="MINUTES", help="of each job (default: 60)")
    grid.add_argument("--memory", type=float, metavar="GIB", help="of each job")
    grid.add_argument("--cpus", type=int, default=1, help="of each job (default: 1)")
    grid.add_argument("--gpus", type=int, default=0, help="of each job (default: 0)")
    grid.add_argument("--partition", help="SLURM's")
    grid.add_argument("--slurm", action="append", default=[], metavar="NAME=VALUE", help="another option of sbatch")
    return parser


def main_sweep(options: argparse.Namespace, command: Sequence[str]) -> int:
    """A grid of runs on a cluster; exit status as of :func:`main`."""
    from invkit.book.sweep import grid
    from invkit.book.sweep.jobs import NoCluster

    options.cluster = options.cluster or "local"
    if options.jobs is None:
        options.jobs = cores() if options.cluster == "local" else QUEUED
    try:
        root = find_root()
        if options.trial:
            raise BadParameters("--trial has no place in a sweep")
        if options.set:
            raise BadParameters("--set has no place in a sweep; give values by -p or --sweep")
        works = [grid.script(name) for name in options.notebooks if ".py" in name]
        names = [name for name in options.notebooks if ".py" not in name]
        for file in find_notebooks(root, names) if names or not works else []:
            works.append(grid.notebook(file, parameters_of(file), key_of(root, file, {})))
        return grid.sweep(works, root, options, command)
    except (BadParameters, NoCluster, ValueError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2


def trial(jobs: Sequence[Job], root: Path, options: argparse.Namespace) -> int:
    """Every cell with a few steps of training and inversion; nothing of it may be found by a run."""
    folder = (options.out or root / "build/trial" / options.profile).resolve()
    jobs = [
        replace(
            job, key="trial", target=folder / job.notebook.name, failed=folder / "failed" / job.notebook.name,
            claims=folder / f"{job.notebook.stem}.json",
        )
        for job in jobs
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as networks:
        own = {TRIAL: str(TRIAL_STEPS), "INVKIT_CLAIMS": str(folder), "INVKIT_CACHE": networks}
        failures = run(jobs, root, cores() if options.jobs is None else options.jobs, options.timeout, own)
    if failures:
        print(f"{failures} of {len(jobs)} trials failed", file=sys.stderr)
    return int(failures > 0)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 all there, 1 a notebook failed, 2 refused before any work."""
    options = arguments().parse_args(argv)
    options.profile = dict(options.p).get("profile", options.profile)
    options.p = [pair for pair in options.p if pair[0] != "profile"]
    if options.sweep or options.cluster:
        return main_sweep(options, sys.argv[1:] if argv is None else argv)
    try:
        root = find_root()
        jobs = plan(root, options)
    except BadParameters as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    for job in jobs:
        for name, problem in job.missing.items():
            print(f"warning: {job.notebook.stem} lacks the recorded run {name} ({problem})", file=sys.stderr)
    if options.trial:
        return trial(jobs, root, options)
    todo = [job for job in jobs if options.force or not job.is_done()]
    for job in jobs:
        if job not in todo:
            print(f"  {'up to date':10}  {job.notebook.stem}")
    failures = run(todo, root, cores() if options.jobs is None else options.jobs, options.timeout)
    if failures:
        print(f"{failures} of {len(todo)} notebooks failed", file=sys.stderr)
    return int(failures > 0)
