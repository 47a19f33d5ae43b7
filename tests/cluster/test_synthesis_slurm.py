"""A set of images as a SLURM array: four tasks make what one process makes, and requeue loses one batch."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

SCRIPT = """
    import os, sys, time
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    from invkit.engine.synthesis import synthesise
    from invkit.methods.deepinversion import DeepInversionConfig, deep_inversion
    from invkit.testing import tiny_target

    folder, target, config = Path(sys.argv[1]), tiny_target(), DeepInversionConfig(steps=3, low_resolutions=())
    task, made = os.environ.get("SLURM_ARRAY_TASK_ID", "alone"), []

    def invert(labels, generator):
        with open(folder.parent / f"began_{task}", "a") as file:
            file.write(".")
        time.sleep(float(sys.argv[2]))
        return deep_inversion(target, labels, config, generator=generator)

    synthesise(target, 24, folder, invert, batch_size=2, config=config)
"""


def fingerprints(folder: Path) -> dict[str, str]:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("seconds")
    found = {"manifest": hashlib.sha256(json.dumps(manifest).encode()).hexdigest()}
    for path in sorted((folder / "images").rglob("*.png")):
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def queue() -> str:
    return subprocess.run(["squeue", "-h", "-r"], capture_output=True, text=True, timeout=60).stdout


def test_four_tasks_make_the_set_of_one_process_and_a_requeued_one_loses_one_batch(slurm, tmp_path):
    path = tmp_path / "make.py"
    path.write_text(textwrap.dedent(SCRIPT))
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    (tmp_path / "alone").mkdir()
    call = [sys.executable, str(path)]
    subprocess.run([*call, str(tmp_path / "alone/set"), "0"], check=True, timeout=240, env=env)
    folder = tmp_path / "set"
    wrap = f"{sys.executable} {path} {folder} 1"
    submit = ["sbatch", "--parsable", "--requeue", "--array=0-3", f"--output={tmp_path}/%a.log", f"--wrap={wrap}"]
    job = subprocess.run(submit, check=True, capture_output=True, text=True, timeout=60, env=env).stdout.strip()
    end = time.monotonic() + 240
    requeued = False
    while queue() and time.monotonic() < end:
        if not requeued and (tmp_path / "began_2").exists():
            subprocess.run(["scontrol", "requeue", f"{job}_2"], check=True, timeout=60)
            requeued = True
        time.sleep(0.2)
    logs = "".join(log.read_text() for log in tmp_path.glob("*.log"))
    assert requeued, logs
    assert (folder / "manifest.json").exists(), logs
    assert fingerprints(folder) == fingerprints(tmp_path / "alone/set")
    begun = sum(len(file.read_text()) for file in tmp_path.glob("began_*"))
    assert 12 <= begun <= 13  # twelve batches, and the one that was lost
    assert not (folder / "claims").exists()
