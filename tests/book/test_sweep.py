"""Sweeps on this machine: what the grid may be, what is kept, how each failure is told, and what the table says."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from invkit.book import runner
from invkit.book.parameters import BadParameters, Parameter
from invkit.book.sweep import grid
from invkit.book.sweep import table as tables
from invkit.book.sweep.jobs import CellJob, LocalCluster, Resources, State, why_gone

# A run as light as can be: no kernel, no torch.
RUN = """
    import argparse, json, os, sys, time
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--folder")
    options = parser.parse_args()
    print("begin", flush=True)
    {body}
    os.makedirs(options.folder, exist_ok=True)
    with open(options.folder + "/run.json", "w") as file:
        json.dump({{"measured": {{"ours": {{"score": [options.seed + options.lr]}}}}}}, file)
"""
KNOWN = {"seed": Parameter("seed", 0, (int,), ""), "lr": Parameter("lr", 0.1, (float,), "")}


@pytest.fixture
def book(tmp_path, monkeypatch) -> Path:
    """A book with one light script in it, which ``write`` changes."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "_config.yml").touch()
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grid, "GRACE", 1.0)
    monkeypatch.setattr(grid, "ASK", 0.5)
    monkeypatch.setattr(grid, "script", lambda name: work(tmp_path))
    return tmp_path


def write(folder: Path, body: str = "pass") -> None:
    (folder / "run.py").write_text(textwrap.dedent(RUN.format(body=body)))


def work(folder: Path) -> grid.Work:
    return grid.Work(
        name="run",
        file=folder / "run.py",
        known=KNOWN,
        code=hashlib.sha256((folder / "run.py").read_bytes()).hexdigest()[:16],
    )


def call(*words: str) -> int:
    return runner.main(["run.py", *words])


def table(folder: Path, name: str = "table.csv") -> list[dict[str, str]]:
    with open(folder / "build/sweeps/run" / name, newline="") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------- the grid


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("seed", "0:3", [0, 1, 2]), ("seed", "5:11:3", [5, 8]), ("seed", "4", [4]), ("seed", "1,7", [1, 7]),
        ("lr", "0.1, 1e-3", [0.1, 1e-3]), ("data", "digits,npz:a.npz", ["digits", "npz:a.npz"]),
        ("labels", "[0, 1],[2]", [[0, 1], [2]]), ("labels", "[3]", [[3]]), ("target", "none,a", [None, "a"]),
    ],
)  # fmt: skip
def test_values_of_an_axis(name, text, values):
    types = {"seed": (int,), "lr": (float,), "data": (str,), "labels": (list,), "target": (str, type(None))}
    assert grid.read_values(text, Parameter(name, None, types[name], "")) == values


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--sweep", "seed"], "--sweep wants NAME=VALUES, as in seed=0:5, not 'seed'"),
        (["--sweep", "seed="], "--sweep wants NAME=VALUES"),
        (["--sweep", "sead=0:2"], "sead is not a parameter"),
        (["--sweep", "seed=0:2", "-p", "seed", "1"], "seed is given twice"),
        (["--sweep", "seed=1,1"], "seed=1,1: an axis needs values, each of them once"),
        (["--sweep", "seed=3:3"], "seed=3:3: an axis needs values"),
        (["--sweep", "seed=0:4:0"], "the step of a range is not 0"),
        (["--sweep", "seed=a,b"], "seed should be int"),
        (["--sweep", "seed=0:2", "--set", "run.lr=1"], "--set has no place in a sweep"),
        (["--sweep", "seed=0:2", "--time", "0"], "--time, --memory and --cpus must be positive"),
        (["--sweep", "seed=0:2", "--slurm", "account"], "--slurm wants NAME=VALUE"),
        (["--sweep", "seed=0:2", "--jobs", "0"], "--jobs must be at least 1"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_before_any_work(book, capsys, words, says):
    assert call(*words) == 2
    assert says in capsys.readouterr().err
    assert not list(book.glob("build/sweeps/run/cells/*"))


def test_no_slurm_is_one_sentence(book, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(book))
    assert call("--sweep", "seed=0:2", "--cluster", "slurm") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: there is no SLURM here: sbatch and srun are not on the PATH; log in to the cluster")
    assert error.count("\n") == 1


def test_without_submitit_the_extra_is_named(book, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert call("--sweep", "seed=0:2") == 2
    assert capsys.readouterr().err == "error: a sweep needs submitit: pip install 'invkit[cluster]'\n"


# ---------------------------------------------------------------- running


def test_a_grid_is_run_kept_and_gathered(book, capsys):
    assert call("--sweep", "seed=0:3", "-p", "lr", "0.1,0.2", "-j", "3") == 0
    assert capsys.readouterr().out.count("  ran ") == 6
    rows = table(book)
    assert [(row["lr"], row["number"], row["n"], row["missing"]) for row in rows] == [
        ("0.1", "ours: score", "3", "0"), ("0.2", "ours: score", "3", "0"),
    ]  # fmt: skip
    first = rows[0]
    assert float(first["mean"]) == pytest.approx(1.1)
    assert float(first["low"]) == pytest.approx(1.1 - 4.3027 / 3**0.5, abs=1e-3)
    assert float(first["high"]) == pytest.approx(1.1 + 4.3027 / 3**0.5, abs=1e-3)
    page = (book / "build/sweeps/run/index.html").read_text()
    assert "6 of 6 cells finished" in page
    assert "python -m invkit.run run.py --sweep seed=0:3 -p lr 0.1,0.2 -j 3" in page

    gone = next(iter((book / "build/sweeps/run/cells").glob("*seed=1_lr=0.2*")))
    shutil.rmtree(gone)
    assert call("--sweep", "seed=0:3", "-p", "lr", "0.1,0.2") == 0
    out = capsys.readouterr().out
    assert out.count("  kept ") == 5
    assert "  ran         run seed=1 lr=0.2" in out


def test_a_failed_cell_is_named_and_tried_again(book, capsys):
    write(book, 'if options.seed == 1: raise ValueError("odd")')
    assert call("--sweep", "seed=0:2") == 1
    shown = capsys.readouterr()
    assert "FAILED      run seed=1" in shown.out
    assert "exception: ValueError: odd" in shown.err
    assert "1 of 2 cells failed; the same command tries them again" in shown.err
    assert table(book)[0]["missing"] == "1"
    assert [row["state"] for row in table(book, "cells.csv")] == ["finished", "failed"]
    write(book)
    assert call("--sweep", "seed=0:2") == 0
    shown = capsys.readouterr()
    assert "kept        run seed=0" in shown.out
    assert "the code has changed since some cells were run" in shown.err
    assert call("--sweep", "seed=0:2", "--force") == 0
    shown = capsys.readouterr()
    assert shown.out.count("  ran ") == 2
    assert "the code has changed" not in shown.err


@pytest.mark.parametrize(
    ("body", "words", "reason"),
    [
        ("time.sleep(60)", ["--time", "0.05"], "time: it was ended after 0.05 minutes"),
        ("block = bytearray(2 << 30)", ["--memory", "0.5"], "memory: MemoryError"),
        ("os.kill(os.getpid(), 9)", [], "memory: it was killed by signal 9, most likely for its memory"),
        ("sys.exit(7)", [], "exception: begin"),
        ("os.kill(os.getppid(), 9); time.sleep(1)", [], "lost: job "),
    ],
    ids=["time", "memory", "killed", "status", "job killed"],
)
def test_the_reason_of_each_end(book, capsys, body, words, reason):
    write(book, body)
    assert call("--sweep", "seed=0:1", *words) == 1
    assert table(book, "cells.csv")[0]["reason"].startswith(reason)


def test_another_sweep_in_the_folder_is_refused_and_values_are_added_by_extend(book, capsys):
    assert call("--sweep", "seed=0:2") == 0
    capsys.readouterr()
    assert call("--sweep", "seed=0:3") == 2
    error = capsys.readouterr().err
    assert "holds the grid seed=0,1, not seed=0,1,2: its finished cells are kept; add values to it by --extend" in error
    assert error.count("\n") == 1
    assert call("--sweep", "seed=0:2", "--profile", "ci") == 2
    assert "holds another sweep, of run over seed=0,1 in profile book; choose another folder by --out" in (
        capsys.readouterr().err
    )
    assert call("--sweep", "seed=0:3", "--extend") == 0
    out = capsys.readouterr().out
    assert out.count("  kept ") == 2
    assert out.count("  ran ") == 1
    assert call("--sweep", "seed=1:3", "--extend") == 2  # nothing is taken away


def test_a_second_sweep_at_the_same_time_is_refused(book, capsys):
    from filelock import FileLock

    (book / "build/sweeps/run").mkdir(parents=True)
    with FileLock(book / "build/sweeps/run/.lock"):
        assert call("--sweep", "seed=0:2") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: another sweep is running in ")
    assert error.count("\n") == 1


def test_a_job_of_a_killed_sweep_is_waited_for_and_not_doubled(book, capsys):
    body = "open('../../began', 'a').write('.'); time.sleep(12)".replace("../../", f"{book}/")
    write(book, body)
    code = (
        f"import sys; from pathlib import Path; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_sweep as t\nfrom invkit.book.sweep import grid\n"
        "grid.script = lambda name: t.work(Path('.').resolve())\nsys.exit(t.call('--sweep', 'seed=0:1'))"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=book) as first:
        end = time.monotonic() + 240
        while not (book / "began").exists() and time.monotonic() < end:
            time.sleep(0.1)
        first.kill()
    assert call("--sweep", "seed=0:1") == 0
    out = capsys.readouterr().out
    assert "running     run" in out or "kept        run" in out, out
    assert (book / "began").read_text() == "."


def test_an_order_that_was_given_anew_is_not_run_twice(book):
    cell = book / "cell"
    cell.mkdir()
    (cell / "order.json").write_text(json.dumps({"token": "new"}))
    CellJob(str(cell), "old")()
    assert [path.name for path in cell.iterdir()] == ["order.json"]


def test_a_damaged_note_is_named(book, capsys):
    assert call("--sweep", "seed=0:1") == 0
    note = next((book / "build/sweeps/run/cells").glob("*/end.json"))
    note.write_text("{")
    assert call("--sweep", "seed=0:1") == 2
    error = capsys.readouterr().err
    assert str(note) in error
    assert "delete it to run the cell again" in error


# ---------------------------------------------------------------- what the scheduler says


@pytest.mark.parametrize(
    ("word", "kind"),
    [("TIMEOUT", "time"), ("OUT_OF_MEMORY", "memory"), ("NODE_FAIL", "node"), ("CANCELLED", "cancelled"), ("", "lost")],
)
def test_the_schedulers_word(tmp_path, word, kind):
    (tmp_path / "log").write_text("first\nlast words\n")
    found, reason = why_gone("3_1", State("gone", word), tmp_path / "log")
    assert found == kind
    assert ("last words" in reason) == (kind == "lost")


def test_a_process_that_is_no_job_is_gone(tmp_path):
    cluster = LocalCluster(tmp_path, Resources(), 1)
    assert cluster.states([str(os.getppid())])[str(os.getppid())].word == "gone"
    assert cluster.states(["4194304"])["4194304"].word == "gone"


# ---------------------------------------------------------------- numbers


def test_measure_hands_a_number_over(tmp_path, monkeypatch):
    monkeypatch.setenv("INVKIT_NUMBERS", str(tmp_path / "numbers.jsonl"))
    assert tables.measure("accuracy", 0.5) == 0.5
    tables.measure("loss", 2)
    assert tables.numbers_of(tmp_path) == {"accuracy": 0.5, "loss": 2.0}
    for value in ([1.0, 2.0], float("nan"), "x"):
        with pytest.raises(ValueError, match="accuracy"):
            tables.measure("accuracy", value)


def test_claims_and_records_of_a_cell_are_numbers(tmp_path, monkeypatch):
    from invkit.book.ledger.claims import Claims

    monkeypatch.setenv("INVKIT_CLAIMS", str(tmp_path / "claims"))
    claims = Claims("01_deepinversion", profile="ci")
    claims.test("di.verifier", [0.9, 0.8, 0.7], data="digits", network="net", finding="It is.", measured={"rate": 0.25})
    for id in claims.missing():
        claims.untested(id, "not here")
    assert claims.save().parent == tmp_path / "claims"
    (tmp_path / "record").mkdir()
    (tmp_path / "record/r.json").write_text(json.dumps({"measured": {"ours": {"psnr": [20, 22]}}}))
    found = tables.numbers_of(tmp_path)
    assert found["ours: psnr"] == 21.0
    assert found["di.verifier, rate (digits, net)"] == 0.25
    assert found["di.verifier (digits, net)"] == pytest.approx(0.8)


def test_script_of_recorded_runs_is_read(tmp_path):
    path = tmp_path / "two.py"
    path.write_text(
        "from invkit.book.recording import recorded_run\n"
        "@recorded_run()\ndef one(run, *, seed: int = 3): ...\n@recorded_run()\ndef two(run): ...\n"
    )
    with pytest.raises(BadParameters, match="has the runs one, two; name one, as in"):
        grid.script(str(path))
    with pytest.raises(BadParameters, match="no script"):
        grid.script("nowhere.py")
    found = grid.script(f"{path}:one")
    assert (found.name, found.part, found.known["seed"].default) == ("two:one", "one", 3)


def test_the_page_is_safe_and_says_where_nothing_was_measured(tmp_path):
    outcomes = [tables.Outcome("a", {"seed": 0, "data": "<b>"}, "failed", "exception: <script>")]
    page = tables.write_tables(tmp_path, outcomes, {"title": "a < b", "command": "x"}).read_text()
    assert "<script>" not in page
    assert "a &lt; b" in page
    assert "No run measured a number" in page
