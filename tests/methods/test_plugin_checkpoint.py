"""Plug-In Inversion goes on from a checkpoint to the same bits, or refuses one that is not its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

from invkit.core.files import load_state
from invkit.core.rng import seeded
from invkit.methods.plugin import PlugInConfig, plug_in_inversion

LABELS = [0, 1, 3]
CONFIG = {"steps": 6, "stages": 3, "ensemble": 2, "jitter": 1, "log_every": 2, "checkpoint_every": 2, "redraw": 3}


def run(target, labels=LABELS, *, seed=0, stop=None, init=None, checkpoint=None, seen=None, **change):
    def crash(step):
        if seen is not None:
            seen.append((step.index, step.stage))
        if step.index == stop:
            raise ZeroDivisionError

    config = PlugInConfig(**CONFIG | change)
    options = {"generator": seeded(seed), "init": init, "callbacks": [crash], "checkpoint": checkpoint}
    return plug_in_inversion(target, labels, config, **options)


def same(a, b):
    assert torch.equal(a.images, b.images)
    assert a.history == b.history
    assert (a.best_step, a.config, a.seed, a.stopped) == (b.best_step, b.config, b.seed, b.stopped)
    assert len(a.stages) == len(b.stages)
    assert all(torch.equal(x, y) for x, y in zip(a.stages, b.stages, strict=True))


# Steps 0 .. 5 are those of the first stage; 5 and 6 stand on both sides of the boundary.
@pytest.mark.parametrize(
    ("stop", "goes_on"),
    [(1, (0, 0)), (3, (2, 0)), (5, (4, 0)), (6, (6, 1)), (7, (6, 1)), (9, (8, 1)), (12, (12, 2)), (17, (16, 2))],
)
def test_resuming_gives_the_same_bits(make_target, tmp_path, stop, goes_on):
    target, path, seen = make_target(batch_norm=False), tmp_path / "run.pt", []
    with pytest.raises(ZeroDivisionError):
        run(target, stop=stop, checkpoint=path)
    same(run(target, checkpoint=path, seen=seen), run(target))
    assert seen[0] == goes_on
    assert not list(tmp_path.iterdir()), "a finished run leaves none"


def test_many_interruptions_give_the_same_bits(make_target, tmp_path):
    target, path = make_target(batch_norm=False), tmp_path / "run.pt"
    plateau = {"schedule": "plateau", "plateau_patience": 0.3, "micro_batch": 4, "tv": 0.01}
    for stop in (3, 4, 8, 13, 15):
        with pytest.raises(ZeroDivisionError):
            run(target, stop=stop, checkpoint=path, **plateau)
    same(run(target, checkpoint=path, **plateau), run(target, **plateau))


def test_stages_that_end_early_are_resumed(make_target, tmp_path):
    target, path = make_target(batch_norm=False), tmp_path / "run.pt"
    early = {"patience": 0.3, "lr": 1e-12, "schedule": "constant", "alpha": 0.0, "beta": 0.0, "jitter": 0}
    whole = run(target, **early)
    steps = len(whole.history["total"])
    assert whole.stopped == "patience"
    assert steps < 18
    with pytest.raises(ZeroDivisionError):
        run(target, stop=steps - 1, checkpoint=path, **early)
    same(run(target, checkpoint=path, **early), whole)


def test_a_run_that_a_callback_ended_goes_on(make_target, tmp_path):
    target, path = make_target(batch_norm=False), tmp_path / "run.pt"
    options = {"generator": seeded(0), "checkpoint": path}
    config = PlugInConfig(**CONFIG)
    stopped = plug_in_inversion(target, LABELS, config, **options, callbacks=[lambda s: s.index == 8])
    assert stopped.stopped == "callback"
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"], "one file for all stages"
    same(run(target, checkpoint=path), run(target))


KILLED = """
    import os, signal, sys
    import torch
    torch.set_num_threads(1)
    sys.path[:0] = {folders!r}
    from invkit.testing import tiny_target
    from test_plugin_checkpoint import CONFIG, LABELS
    from invkit import PlugInConfig, plug_in_inversion

    def kill(step):
        if step.index == 9:
            os.kill(os.getpid(), signal.SIGKILL)

    target = tiny_target(batch_norm=False)
    plug_in_inversion(target, LABELS, PlugInConfig(**CONFIG), checkpoint=sys.argv[1], callbacks=[kill])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
def test_resuming_after_kill_9(make_target, request, tmp_path):
    path, here = tmp_path / "run.pt", request.path.parent
    code = textwrap.dedent(KILLED.format(folders=[str(here.parent), str(here)]))
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=120, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]
    assert (load_state(path)["stage"], load_state(path)["done"]) == (1, 8)
    target = make_target(batch_norm=False)
    same(run(target, checkpoint=path), run(target))


CHANGES = ["config", "shifts", "micro_batch", "labels", "seed", "init", "network"]


@pytest.mark.parametrize("stop", [4, 10], ids=["first stage", "second stage"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_of_another_run_is_refused(make_target, tmp_path, change, stop):
    target, path = make_target(batch_norm=False), tmp_path / "run.pt"
    with pytest.raises(ZeroDivisionError):
        run(target, stop=stop, checkpoint=path)
    kept = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    other = {
        "config": {"lr": 0.5}, "shifts": {"alpha": 0.5}, "micro_batch": {"micro_batch": 2},
        "labels": {"labels": [3, 2, 1]}, "seed": {"seed": 1},
        "init": {"init": torch.rand(3, 3, 8, 8, generator=seeded(1))},
        "network": {"target": make_target(batch_norm=False, seed=1)},
    }[change]  # fmt: skip
    with pytest.raises(ValueError, match=r"run\.pt belongs to a run with another"):
        run(**{"target": target, "checkpoint": path} | other)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == kept


@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_a_broken_checkpoint_is_named(make_target, tmp_path, content):
    (tmp_path / "run.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.pt is not a readable checkpoint"):
        run(make_target(batch_norm=False), checkpoint=tmp_path / "run.pt")
