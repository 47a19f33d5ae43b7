"""What running on a cluster adds: to each job of a sweep, and to each step of ranks that share their statistics.

Ratios and seconds are printed, nothing is asserted about time. One rank and two alternate in one run.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import textwrap
import time

from invkit.book.sweep.jobs import LocalCluster, Resources

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


def test_what_a_sweep_adds_to_each_job(benchmark, tmp_path):
    cluster, seconds = LocalCluster(tmp_path / "jobs", Resources(), 1), []
    order = {
        "command": ["true"], "environment": {}, "cwd": str(tmp_path), "input": "", "answers": False, "seconds": 60,
        "bytes": 0, "code": "", "token": "t",
    }  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for k in range(5):
        cell = tmp_path / str(k)
        cell.mkdir()
        (cell / "order.json").write_text(json.dumps(order))
        start = time.perf_counter()
        (job,) = cluster.submit([cell])
        while not (cell / "end.json").exists():
            time.sleep(0.01)
        seconds.append(time.perf_counter() - start)
        os.waitpid(int(job), 0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / len(seconds)
    wall = statistics.median(seconds)
    print(f"\nA job that does nothing: {wall:.2f} s of wall time, {processor:.2f} s of processor time")
    benchmark.extra_info |= {"wall, s": round(wall, 2), "processor, s": round(processor, 2)}
    benchmark.pedantic(lambda: None, rounds=1)
