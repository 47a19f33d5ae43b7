"""A real SLURM for the tests: controller, node and munge on this machine, in a folder and on ports of their own."""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=10
CryptoType=crypto/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1
SlurmdParameters=config_overrides
KillWait=2
NodeName=node NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000
PartitionName=work Nodes=node Default=YES MaxTime=INFINITE State=UP
"""
DAEMONS = ("munged", "slurmctld", "slurmd")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on just now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def start(folder: Path) -> None:
    """Start the three daemons; each keeps the number of its process in ``folder``."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o400)
    conf = CONF.format(host=socket.gethostname(), ports=free_ports(2), folder=folder, user=getpass.getuser())
    (folder / "slurm.conf").write_text(conf)
    munge = [f"--{name}={folder}/munge.{end}" for name, end in (
        ("socket", "sock"), ("key-file", "key"), ("pid-file", "pid"), ("log-file", "log"), ("seed-file", "seed"),
    )]  # fmt: skip
    env = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    for command in (["munged", "--force", *munge], ["slurmctld", "-c"], ["slurmd", "-N", "node"]):
        # No pipes: a daemon would hold their ends open.
        with open(folder / "start.log", "a") as log:
            subprocess.run(command, env=env, check=True, timeout=60, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def is_ready(folder: Path) -> bool:
    """Whether the node waits for jobs."""
    env = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    done = subprocess.run(["sinfo", "-h", "-o", "%T"], env=env, capture_output=True, text=True, timeout=60)
    return done.stdout.strip() == "idle"


def stop(folder: Path) -> None:
    """End the daemons, by their own numbers."""
    for name in ("slurmd", "slurmctld", "munge"):
        file = folder / f"{name}.pid"
        if file.is_file():
            number = int(file.read_text())
            for sign in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.kill(number, sign)
                    time.sleep(1)
                except ProcessLookupError:
                    break


@pytest.fixture(scope="session")
def slurm() -> Iterator[Path]:
    """Folder of a running SLURM with one node of four cores, to which ``SLURM_CONF`` points."""
    os.environ["PATH"] += os.pathsep + "/usr/sbin"
    missing = [name for name in DAEMONS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no SLURM here: {', '.join(missing)} not found (Debian: slurmctld slurmd slurm-client munge)")
    folder = Path(tempfile.mkdtemp(prefix="slurm"))
    folder.chmod(0o755)
    try:
        try:
            start(folder)
            end = time.monotonic() + 60
            while not is_ready(folder):
                if time.monotonic() > end:
                    raise TimeoutError("the node did not come up within 60 s")
                time.sleep(0.3)
        except (OSError, subprocess.SubprocessError) as error:
            logs = "".join(path.read_text()[-500:] for path in folder.glob("*.log"))
            pytest.skip(f"SLURM does not start here: {error} {logs}")
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        yield folder
    finally:
        os.environ.pop("SLURM_CONF", None)
        stop(folder)
        shutil.rmtree(folder, ignore_errors=True)
