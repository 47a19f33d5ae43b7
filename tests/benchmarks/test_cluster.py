"""What running on a cluster adds: to each job of a sweep, and to each step of ranks that share their statistics.

Ratios and seconds are printed, nothing is asserted about time. One rank and two alternate in one run.
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import subprocess
import sys
import textwrap
import time

RANKS = """
    import statistics, sys, time
    import torch
    import torch.distributed as dist
    torch.set_num_threads(1)
    sys.path.insert(0, {benchmarks!r})
    from alternating import resnet20
    import invkit as ik
    from invkit.engine.sharing import joined_ranks
    from invkit.objectives import losses
    from invkit.objectives.objective import Gradient, Objective

    target = resnet20()
    images = torch.rand({images}, 3, 32, 32, generator=ik.seeded(0))
    penalty = ik.BatchNormPenalty(target)
    objective = Objective(
        network=target, terms={{"ce": (1.0, lambda b: losses.cross_entropy(b.outputs, b.references))}},
        references=torch.arange(len(images)) % 10, penalty=penalty, penalty_weight=1.0,
    )
    with joined_ranks() as (rank, size), penalty.attached():
        alone, joined = Gradient(objective), Gradient(objective)
        alone.ranks = 1
        times = {{"alone": [], "joined": []}}
        for k in range({rounds}):
            for name, step in (("alone", alone), ("joined", joined)):
                dist.barrier()  # both ranks work in either
                start = time.perf_counter()
                step(images)
                times[name].append(time.perf_counter() - start)
        if rank == 0:
            medians = [statistics.median(times[name][3:]) for name in ("alone", "joined")]
            print("MEDIANS", *medians, flush=True)
"""


def test_exact_statistics_over_two_ranks(benchmark, tmp_path):
    found = {}
    for images in (32, 128):
        path = tmp_path / "ranks.py"
        here = os.path.dirname(os.path.abspath(__file__))
        path.write_text(textwrap.dedent(RANKS.format(benchmarks=here, images=images, rounds=23)))
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
        command += ["--rdzv-endpoint", "localhost:0", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr[-2000:]
        line = next(line for line in done.stdout.splitlines() if line.startswith("MEDIANS"))
        alone, joined = map(float, line.split()[1:])
        found[images] = joined / alone
        print(
            f"\n{images} images a rank: {1e3 * alone:.1f} ms alone, {1e3 * joined:.1f} ms joined: {joined / alone:.2f}"
        )
        benchmark.extra_info[f"{images} images"] = round(joined / alone, 3)
    benchmark.pedantic(lambda: None, rounds=1)


def test_a_job_of_a_sweep_beyond_the_run_itself(benchmark, tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "_config.yml").touch()
    first = 'profile: str = "book"  # how much work, one of: ci, book, paper\nseed: int = 0  # random seed'
    cells = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {"tags": ["parameters"] if i == 0 else []}, "outputs": [],
         "execution_count": None, "source": source}
        for i, source in enumerate([first, "print(seed)"])
    ]  # fmt: skip
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    data = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "notebooks/01_a.ipynb").write_text(json.dumps(data))
    command = [sys.executable, "-m", "invkit.run", "01_a", "--profile", "ci", "-j", "1"]
    alone, swept = [], []
    for k in range(2):  # in turn, so that both meet the same other work
        done = subprocess.run([*command, "--force"], cwd=tmp_path, capture_output=True, text=True, check=True)
        alone.append(float(done.stdout.split()[-2]))  # of the notebook, without the command's own start
        grid = ["--sweep", "seed=0:2", "--out", str(tmp_path / f"sweep{k}")]
        start = time.perf_counter()
        subprocess.run([*command, *grid], cwd=tmp_path, check=True, capture_output=True)
        both = time.perf_counter() - start
        start = time.perf_counter()
        subprocess.run([*command, *grid], cwd=tmp_path, check=True, capture_output=True)  # all are kept
        swept.append((both - (time.perf_counter() - start)) / 2)
    with open(tmp_path / "sweep0/cells.csv", newline="") as file:
        inside = statistics.median(float(row["seconds"]) for row in csv.DictReader(file))
    one, job = statistics.median(alone), statistics.median(swept)
    beyond = job - one
    print(f"\nA notebook alone {one:.2f} s, as a job of a sweep {job:.2f} s: {beyond:.2f} s more")
    benchmark.extra_info |= {"beyond, s": round(beyond, 2), "inside, s": inside}
    benchmark.pedantic(lambda: None, rounds=1)
