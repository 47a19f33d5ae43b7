"""What a DeepInversion step costs, in units of a bare pass of the same network; run by ``make bench``.

The unit is a forward pass and a backward pass to the input of the frozen network, eager and contiguous, at
the same batch. Unit and step alternate in one run, so that whatever else the machine does meets both. Compiled
variants take minutes to build and are measured with ``INVKIT_BENCH_COMPILE=1``. Ratios are printed, and with
``--benchmark-json FILE`` kept; nothing is asserted about time.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest
import torch
from alternating import (
    THREADS,
    alternate,
    efficientnet_lite0,
    needs_compile,
    report,
    resnet20,
    resnet50,
    separate,
    unit_of,
)
from torch.profiler import ProfilerActivity, profile

from invkit.core.rng import seeded
from invkit.core.target import Target
from invkit.engine.image_loop import _Run
from invkit.methods.deepinversion import DeepInversionConfig, objective_of
from invkit.transforms.resize import initial_images

VARIANTS = {
    "eager": {},
    "report's norms": {"form": "norm", "scales": 1, "roughness": 0.0, "tv": 1e-2, "batch_norm": 1e-2},
    "bf16": {"bf16": True},
    "compile": {"compile": True},
    "compile and bf16": {"compile": True, "bf16": True},
}


def step_of(target: Target, batch: int, **options) -> Callable[[], object]:
    """One complete step of DeepInversion: jitter, flip, network, priors, penalty, Adam, clip."""
    config = DeepInversionConfig(steps=100_000, low_resolutions=(), log_every=100_000, **options)
    objective = objective_of(target, torch.arange(batch) % target.spec.n_classes, config)
    generator = seeded(0)
    images = initial_images(batch, target.spec.shape, generator)
    stack = contextlib.ExitStack()
    stack.enter_context(objective.penalty.attached())
    run = _Run(objective, images, config, generator, (), "best", None)
    run.hooks = stack  # the penalty's hooks live as long as the step
    return lambda: run.advance(())


NAMES = [pytest.param(n, marks=needs_compile) if "compile" in n else n for n in VARIANTS]


@pytest.mark.parametrize("name", NAMES)
def test_resnet20_step(benchmark, name):
    bare, hooked = separate(resnet20)
    parts = {"unit": unit_of(bare, 64), name: step_of(hooked, 64, **VARIANTS[name])}
    report(benchmark, "ResNet-20, 32x32, batch 64", alternate(parts))
    benchmark.pedantic(parts[name], rounds=3, warmup_rounds=0)


def test_resnet20_micro_batches(benchmark):
    whole, chunked = separate(resnet20)
    parts = {"unchunked": step_of(whole, 256), "micro-batches of 64": step_of(chunked, 256, micro_batch=64)}
    report(benchmark, "ResNet-20, batch 256", alternate(parts, rounds=15, warm_up=1), "unchunked")
    benchmark.pedantic(parts["micro-batches of 64"], rounds=2, warmup_rounds=0)


@pytest.mark.parametrize("network", [resnet50, efficientnet_lite0])
def test_imagenet_step(benchmark, network):
    bare, hooked = separate(network)
    parts = {"unit": unit_of(bare, 4), "eager": step_of(hooked, 4)}
    report(benchmark, f"{network.__name__}, 224x224, batch 4", alternate(parts, rounds=15, warm_up=2))
    benchmark.pedantic(parts["eager"], rounds=2, warmup_rounds=0)


MEMORY = """
    import re, sys
    from pathlib import Path
    sys.path.insert(0, {here!r})
    import torch
    torch.set_num_threads({threads})
    from alternating import resnet20, separate
    from test_step import step_of
    step_of(separate(resnet20)[0], 2)()  # what the libraries take for themselves
    # getrusage would hand down the peak of the process that started this one
    peak = lambda: int(re.search("VmHWM: *([0-9]+)", Path("/proc/self/status").read_text().expandtabs())[1])
    before = peak()
    batch, micro = int(sys.argv[1]), int(sys.argv[2])
    step = step_of(separate(resnet20)[0], batch, micro_batch=micro or None)
    for _ in range(3):
        step()
    print(peak() - before, peak())
"""


def peak(batch: int, micro: int) -> tuple[float, float]:
    """Peak MiB of a process of its own that takes steps: beyond an almost empty one, and in all."""
    here = os.path.dirname(os.path.abspath(__file__))
    code = textwrap.dedent(MEMORY.format(here=here, threads=THREADS))
    # Memory that was freed goes back at once, so that the peak is that of live tensors.
    env = os.environ | {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", code, str(batch), str(micro)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    beyond, whole = done.stdout.split()[-2:]
    return int(beyond) / 1024, int(whole) / 1024


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc")
def test_memory_of_micro_batches(benchmark):
    sizes = {"batch 64": (64, 0), "batch 1,024 in 64s": (1024, 64), "batch 256": (256, 0)}
    found = {name: peak(*size) for name, size in sizes.items()}
    unit = found["batch 64"]
    print("\nPeak memory of ResNet-20 steps, beyond an empty process and of the whole process")
    for name, (beyond, whole) in found.items():
        ratios = round(beyond / unit[0], 3), round(whole / unit[1], 3)
        print(f"  {name:24s} {beyond:6.0f} MiB {ratios[0]:6.2f}   {whole:6.0f} MiB {ratios[1]:6.2f}")
        benchmark.extra_info[name] = ratios
    benchmark.pedantic(lambda: None, rounds=1)


def test_where_the_time_goes(benchmark):
    step = step_of(separate(resnet20)[0], 64)
    for _ in range(3):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(5):
            step()
    events = [e for e in seen.key_averages() if e.self_cpu_time_total]
    total = sum(e.self_cpu_time_total for e in events)
    print("\nWhere the time of a ResNet-20 step goes (self time)")
    top = sorted(events, key=lambda e: -e.self_cpu_time_total)[:12]
    for event in top:
        print(f"  {event.key:44.44s} {100 * event.self_cpu_time_total / total:5.1f} %   {event.count // 5} calls")
    benchmark.extra_info["top"] = json.dumps({e.key: e.self_cpu_time_total / total for e in top})
    benchmark.pedantic(step, rounds=2)
