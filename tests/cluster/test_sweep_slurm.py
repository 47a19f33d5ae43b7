"""Sweeps under a real SLURM: every way to fail has its sentence, and nothing finished is lost."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARAMETERS = 'profile: str = "book"  # how much work, one of: ci, book, paper\nseed: int = 0  # random seed'
MEASURE = """\
import json, os
with open(os.environ["INVKIT_NUMBERS"], "a") as file:
    file.write(json.dumps({"name": "square", "value": seed**2}) + "\\n")
"""


def cell(index: int, source: str, tags: list[str] | None = None) -> dict[str, object]:
    metadata = {"tags": tags} if tags else {}
    return {
        "cell_type": "code", "id": f"c{index}", "metadata": metadata, "outputs": [], "execution_count": None,
        "source": source,
    }  # fmt: skip


@pytest.fixture(autouse=True)
def _empty_queue(slurm):
    """No test leaves a job to the next."""
    yield
    user = str(os.getuid())
    subprocess.run(["scancel", "--user", user], timeout=60)
    wait_for(lambda: not queue(), "the queue is empty")


@pytest.fixture
def book(tmp_path: Path):
    """Makes a book of one notebook, ``01_a``, with these cells."""

    def make(*cells: str) -> Path:
        (tmp_path / "notebooks").mkdir()
        (tmp_path / "_config.yml").touch()
        code = [cell(0, PARAMETERS, ["parameters"]), *(cell(i, text) for i, text in enumerate(cells, start=1))]
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        data = {"cells": code, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
        (tmp_path / "notebooks/01_a.ipynb").write_text(json.dumps(data))
        return tmp_path

    return make


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "invkit.run", "01_a", "--profile", "ci", "--cluster", "slurm", *words]
    return subprocess.Popen(
        command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ.copy()
    )


def finish(process: subprocess.Popen[str]) -> str:
    try:
        return process.communicate(timeout=600)[0]
    finally:
        process.kill()


def cells(folder: Path) -> dict[str, dict[str, str]]:
    """The rows of ``cells.csv`` by seed; of a single one, which has no axis, by nothing."""
    with open(folder / "build/sweeps/01_a/cells.csv", newline="") as file:
        return {row.get("seed", ""): row for row in csv.DictReader(file)}


def wait_for(condition, what: str, seconds: float = 240):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.2)
    pytest.fail(f"{what} within {seconds} s")


def queue() -> dict[str, str]:
    done = subprocess.run(["squeue", "-h", "-r", "-o", "%i|%T"], capture_output=True, text=True, timeout=60)
    return dict(line.split("|") for line in done.stdout.splitlines())


def test_each_end_has_its_reason_and_the_rest_is_finished(slurm, book):
    ways = "if seed == 1: 1 / 0\nif seed == 2: import time; time.sleep(600)\nif seed == 3: block = bytearray(3 << 30)"
    folder = book(ways, MEASURE)
    process = start(folder, "--sweep", "seed=0:4", "--time", "1", "--memory", "0.9")
    said = finish(process)
    assert process.returncode == 1, said
    found = cells(folder)
    assert found["0"]["state"] == "finished", said
    assert found["0"]["square"] == "0.0" or found["0"]["square"] == "0"
    assert found["1"]["reason"].startswith("exception: cell In"), said
    assert "ZeroDivisionError" in found["1"]["reason"]
    assert found["2"]["reason"] == "time: it was ended after 1 minutes"
    assert found["3"]["reason"].startswith("memory: "), said
    assert "3 of 4 cells failed" in said
    page = (folder / "build/sweeps/01_a/index.html").read_text()
    assert "ZeroDivisionError" in page
    assert "1 of 4 cells finished" in page


def test_requeue_goes_on_from_the_checkpoint_and_a_killed_controller_loses_nothing(slurm, book):
    work = """\
import os, pathlib, time
place = pathlib.Path(os.environ["INVKIT_CHECKPOINTS"])
place.mkdir(exist_ok=True)
begun = len(list(place.iterdir()))
for step in range(begun, 2000):
    if (place.parents[1] / "go").exists(): break
    time.sleep(0.2)
    (place / str(step)).touch()
"""
    tell = MEASURE.replace('"square", "value": seed**2', '"begun at", "value": begun')
    folder = book(work, tell)
    first = start(folder, "--sweep", "seed=0:3")
    room = folder / "build/sweeps/01_a/cells"

    def at_work():
        begun = sorted(room.glob("*/checkpoints/1"))
        return begun if len(begun) == 3 else None

    paths = wait_for(at_work, "three cells begin")
    first.send_signal(signal.SIGKILL)  # the controller
    finish(first)
    jobs = [(path.parents[1] / "job.txt").read_text() for path in paths]
    subprocess.run(["scontrol", "requeue", jobs[0]], check=True, timeout=60)
    second = start(folder, "--sweep", "seed=0:3")
    lines = [second.stdout.readline() for _ in range(3)]
    for seed in range(3):
        assert f"  running     01_a seed={seed}\n" in lines
    again = paths[0].parents[1] / "start.json"
    wait_for(lambda: json.loads(again.read_text())["starts"] == 2, "the requeued cell begins again")
    subprocess.run(["scancel", jobs[1]], check=True, timeout=60)
    wait_for(lambda: jobs[1] not in queue(), "the cancelled job ends")
    (room / "go").touch()
    said = "".join(lines) + finish(second)
    assert second.returncode == 1, said
    found = cells(folder)
    assert found["0"]["state"] == "finished", said
    assert int(found["0"]["starts"]) == 2
    assert float(found["0"]["begun at"]) >= 2
    assert found["1"]["reason"] == "cancelled: somebody cancelled it", said
    assert found["2"]["state"] == "finished", said
    assert (found["2"]["starts"], float(found["2"]["begun at"])) == ("1", 0.0)  # the job of the killed controller
    assert not queue()


def test_preemption_by_signal_queues_the_cell_again(slurm, book):
    work = """\
import os, pathlib, time
place = pathlib.Path(os.environ["INVKIT_CHECKPOINTS"])
again = place.exists()
place.mkdir(exist_ok=True)
if not again: time.sleep(600)
"""
    folder = book(work, MEASURE)
    process = start(folder, "--sweep", "seed=5:6")
    room = folder / "build/sweeps/01_a/cells"
    place = wait_for(lambda: next(room.glob("*/checkpoints"), None), "the cell begins")
    job = (place.parent / "job.txt").read_text()
    subprocess.run(["scancel", job, "--signal", "USR2"], check=True, timeout=60)  # submitit's word for it
    said = finish(process)
    assert process.returncode == 0, said
    assert cells(folder)[""]["starts"] == "2"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--partition", "nowhere"], "error: SLURM has no partition 'nowhere'; there is work"),
        (["--slurm", "account"], "error: --slurm wants NAME=VALUE, as in account=lab, not 'account'"),
        (["--slurm", "nodelist=nowhere"], "error: SLURM refused the jobs: Batch job submission failed: "),
    ],
)
def test_what_slurm_cannot_give_is_one_sentence(slurm, book, words, says):
    folder = book(MEASURE)
    process = start(folder, "--sweep", "seed=0:2", *words)
    said = finish(process)
    assert process.returncode == 2, said
    assert said.startswith(says)
    assert said.count("\n") == 1
    assert not queue()


def test_the_table_is_the_same_here_and_on_the_cluster(slurm, book):
    folder = book(MEASURE)
    tables = []
    for cluster in ("slurm", "local"):
        out = folder / cluster
        process = start(folder, "--sweep", "seed=1:4", "--out", str(out), "--cluster", cluster)
        said = finish(process)
        assert process.returncode == 0, said
        tables.append((out / "table.csv").read_text())
    assert tables[0] == tables[1]
    assert "square,4.66" in tables[0]


def test_what_the_partition_never_has_ends_the_cell(slurm, book):
    folder = book(MEASURE)
    process = start(folder, "--sweep", "seed=0:1", "--cpus", "64")
    said = finish(process)
    assert process.returncode == 1, said
    assert cells(folder)[""]["reason"].startswith("resources: it asks for more than the partition has: SLURM says ")
    assert not queue()


def test_a_controller_that_does_not_answer_is_one_sentence(slurm, book, monkeypatch, tmp_path):
    conf = (slurm / "slurm.conf").read_text()
    lines = [line for line in conf.splitlines() if not line.startswith("SlurmctldPort")]
    (tmp_path / "slurm.conf").write_text("\n".join([*lines, "SlurmctldPort=1", "MessageTimeout=2", ""]))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    process = start(book(MEASURE), "--sweep", "seed=0:2")
    said = finish(process)
    assert process.returncode == 2, said
    assert said.startswith("error: SLURM does not answer (")
    assert said.count("\n") == 1
