"""Many workers, one folder: no batch twice, none lost, the same images whoever made them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from invkit.engine.sharing import Shares, worker
from invkit.engine.synthesis import synthesise

# A worker tells which batches it made; what it does beside is put in front of each inversion.
WORKER = """
    import json, os, sys, time
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    from invkit.engine.sharing import worker
    from invkit.engine.synthesis import synthesise
    from invkit.methods.deepinversion import DeepInversionConfig, deep_inversion
    from invkit.testing import tiny_target

    folder, target, config = Path(sys.argv[1]), tiny_target(), DeepInversionConfig(steps=3, low_resolutions=())
    (index, count), made = worker(), []
    (folder.parent / f"up_{{index}}").touch()
    while len(list(folder.parent.glob("up_*"))) < count:  # so that none has finished before the other begins
        time.sleep(0.05)

    def invert(labels, generator):
        {before}
        made.append(1)
        time.sleep({pause})
        return deep_inversion(target, labels, config, generator=generator)

    synthesise(target, {images}, folder, invert, batch_size=2, config=config, lease={lease}, longest={longest})
    (folder.parent / f"made_{{index}}_{{os.getpid()}}").write_text(str(len(made)))
"""


def script(path: Path, before: str = "pass", images=16, pause=0.0, lease=60.0, longest=None) -> Path:
    text = WORKER.format(before=before, images=images, pause=pause, lease=lease, longest=longest)
    path.write_text(textwrap.dedent(text))
    return path


def start(path: Path, folder: Path, **environment: str) -> subprocess.Popen[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen(
        [sys.executable, str(path), str(folder)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def fingerprints(folder: Path) -> dict[str, str]:
    """Content of every image, and of the manifest but for its seconds."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("seconds")
    found = {"manifest": hashlib.sha256(json.dumps(manifest).encode()).hexdigest()}
    for path in sorted((folder / "images").rglob("*.png")):
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def made(folder: Path) -> list[int]:
    """How many batches each worker made."""
    return [int(path.read_text()) for path in sorted(folder.parent.glob("made_*"))]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, str]:
    """What one process makes."""
    room = tmp_path_factory.mktemp("alone")
    process = start(script(room / "worker.py"), room / "set")
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert made(room / "set") == [8]
    return fingerprints(room / "set")


def test_two_ranks_of_torchrun_make_the_set_of_one_process(alone, tmp_path):
    path = script(tmp_path / "worker.py", pause=0.3)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "localhost:0", str(path), str(tmp_path / "set")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=400, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert fingerprints(tmp_path / "set") == alone
    assert sum(made(tmp_path / "set")) == 8  # none twice
    assert len(made(tmp_path / "set")) == 2
    assert not (tmp_path / "set/claims").exists()


def test_a_killed_worker_costs_one_batch(alone, tmp_path):
    folder = tmp_path / "set"
    # It kills itself at its second batch, so the other must make that one too.
    kill = 'if os.environ.get("DIES") and made: os.kill(os.getpid(), 9)'
    path = script(tmp_path / "worker.py", before=kill, pause=0.3)
    dying, other = (
        start(path, folder, DIES="1", RANK="0", WORLD_SIZE="2"),
        start(path, folder, RANK="1", WORLD_SIZE="2"),
    )
    said, _ = other.communicate(timeout=400)
    dying.communicate(timeout=400)
    assert dying.returncode == -signal.SIGKILL
    assert other.returncode == 0, said
    assert made(folder) == [7]  # all but the one that the other had finished
    assert fingerprints(folder) == alone


def test_a_hung_worker_is_ended_and_its_batch_made_by_another(alone, tmp_path):
    folder = tmp_path / "set"
    hang = 'if os.environ.get("HANGS"): time.sleep(600)'
    path = script(tmp_path / "worker.py", before=hang, lease=4.0, longest=45.0)
    begun = time.monotonic()
    hung, other = (
        start(path, folder, HANGS="1", RANK="0", WORLD_SIZE="2"),
        start(path, folder, RANK="1", WORLD_SIZE="2"),
    )
    said, _ = other.communicate(timeout=400)
    words, _ = hung.communicate(timeout=400)
    assert time.monotonic() - begun < 240
    assert (hung.returncode, other.returncode) == (75, 0), said
    assert "was not done within 45 s: this worker hangs and is ended" in words
    assert fingerprints(folder) == alone


def test_a_full_disk_on_one_worker_leaves_the_rest_to_the_others(alone, tmp_path):
    folder = tmp_path / "set"
    full = """if os.environ.get("FULL"):
            import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
            import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"""
    path = script(tmp_path / "worker.py", before=full, pause=0.3)
    stopped, other = (
        start(path, folder, FULL="1", RANK="0", WORLD_SIZE="2"),
        start(path, folder, RANK="1", WORLD_SIZE="2"),
    )
    words, _ = stopped.communicate(timeout=400)
    said, _ = other.communicate(timeout=400)
    assert stopped.returncode == 1
    assert "what was finished before is kept" in words, words
    assert other.returncode == 0, said
    assert fingerprints(folder) == alone


# ---- leases


def test_a_unit_is_taken_once_and_free_again(tmp_path):
    shares = Shares(tmp_path)
    with shares.take(3) as lease:
        assert lease is not None
        assert Shares(tmp_path).take(3) is None
        assert Shares(tmp_path).take(4) is not None
    with shares.take(3) as again:
        assert again is not None


def lost(folder: Path, unit: int, signature: str) -> None:
    (folder / f"{unit:05d}.000").write_text(signature)


def test_a_worker_of_another_machine_is_lost_when_it_gives_no_sign_of_life(tmp_path):
    lost(tmp_path, 0, "ffffff-123-abcdef01")
    shares = Shares(tmp_path, lease=0.4)
    assert shares.take(0) is None
    time.sleep(0.2)
    (tmp_path / "00000.000").touch()  # it lives
    time.sleep(0.3)
    assert shares.take(0) is None
    time.sleep(0.5)
    taken = shares.take(0)
    assert taken is not None
    assert taken.path.name == "00000.001"
    with taken:
        pass
    assert not list(tmp_path.iterdir())


def test_an_earlier_process_of_this_number_is_lost(tmp_path):
    with Shares(tmp_path).take(0) as lease:
        signature = lease.path.read_text()
    lost(tmp_path, 0, signature[:-1] + ("0" if signature[-1] != "0" else "1"))
    assert Shares(tmp_path).take(0) is not None


def test_a_folder_that_takes_no_file_is_named(tmp_path):
    (tmp_path / "claims").write_text("")
    with pytest.raises(OSError, match=r"cannot write into .*claims") as caught:
        Shares(tmp_path / "claims").take(0)
    assert caught.value.errno in (errno.EEXIST, errno.ENOTDIR)


@pytest.mark.parametrize(
    ("variables", "answer"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8", "SLURM_PROCID": "1"}, (3, 8)),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_MAX": "8",
          "SLURM_ARRAY_TASK_COUNT": "4"}, (2, 4)),
        ({"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "6",
          "SLURM_ARRAY_TASK_COUNT": "4"}, (2, 4)),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "4"}, (2, 4)),
        ({"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_MAX": "1", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_PROCID": "1",
          "SLURM_NTASKS": "2"}, (3, 4)),
    ],
)  # fmt: skip
def test_which_worker_this_is(monkeypatch, variables, answer):
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert worker() == answer


@pytest.mark.parametrize("change", [{"lease": 0}, {"longest": -1.0}])
def test_times_that_cannot_be_are_refused(target, tmp_path, change):
    with pytest.raises(ValueError, match="lease and longest must be positive"):
        synthesise(target, 4, tmp_path / "new", lambda y, g: None, **change)
    assert not (tmp_path / "new").exists()


# ---- ranks that wait for each other

HANGS = """
    import sys, time
    import torch.distributed as dist
    import torch
    from invkit.engine.sharing import joined_ranks
    from invkit.engine.synthesis import synthesise
    from invkit.testing import tiny_target

    try:
        with joined_ranks(seconds=5) as (rank, size):
            try:
                synthesise(tiny_target(), 2, sys.argv[1], None)
            except RuntimeError as error:
                print(f"refused: {error}", flush=True)
            dist.all_reduce(torch.ones(1))
            if rank == 1:
                time.sleep(600)
            begun = time.monotonic()
            dist.all_reduce(torch.ones(1))
    except TimeoutError as error:
        print(f"{time.monotonic() - begun:.0f} s: {error}", flush=True)
        sys.exit(3)
"""


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="torch was built without gloo")
def test_a_hung_rank_ends_the_others_in_time(tmp_path):
    path = tmp_path / "ranks.py"
    path.write_text(textwrap.dedent(HANGS))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "localhost:0", str(path), str(tmp_path / "set")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=400, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode != 0
    assert "rank 0 of 2 got no answer from another rank within 5 s: it hangs or is gone" in done.stdout, done.stderr
    assert int(done.stdout.split(" s: rank")[0].split("\n")[-1]) <= 10
    assert "refused: synthesise shares its batches out by itself" in done.stdout
    assert not (tmp_path / "set").exists()
