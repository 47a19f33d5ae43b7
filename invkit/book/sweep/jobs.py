"""Jobs on a cluster, by submitit: one for each cell of a sweep, on this machine or under SLURM.

A job runs one command, watches over its time and memory, and leaves ``end.json`` in the cell's folder. What ends
without it was ended by the scheduler, which then says why.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from invkit.core.files import read_json

ARRAY = 1000
"""Jobs of one array; SLURM's own default limit is 1,001."""


class NoCluster(RuntimeError):
    """There is no cluster to submit to, or it refused the jobs."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What each job may use.

    Attributes:
        minutes: Wall time, after which the job ends by itself.
        memory: In GiB; None for what the cluster gives.
        cpus: Processor cores.
        gpus: Graphics cards.
        partition: Of SLURM; None for its default.
        options: Others of ``sbatch``, as in ``{"account": "lab"}``.
    """

    minutes: float = 60.0
    memory: float | None = None
    cpus: int = 1
    gpus: int = 0
    partition: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


class CellJob:
    """What runs on the cluster: one command, held to its time and memory, and a note of how it ended.

    It is pickled whole, by value: a job that imported this package would import torch beside the run itself.
    """

    def __init__(self, folder: str, token: str) -> None:
        self.folder, self.token, self.told = folder, token, False

    def checkpoint(self) -> Any:
        """Called by submitit before a preempted job is queued again: the same, for the run keeps its own place."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(type(self)(self.folder, self.token))

    def __call__(self) -> None:
        """Run the order that lies in the folder; raises where it failed, so that the cluster sees it too."""
        with open(os.path.join(self.folder, "order.json"), encoding="utf8") as file:
            order = json.load(file)
        if order["token"] != self.token:  # a later call of the sweep has submitted the cell anew
            return
        self.listen()
        starts, start, late = self.note_start(), time.time(), False
        with open(os.path.join(self.folder, "output.txt"), "a", encoding="utf8") as output:
            process = subprocess.Popen(
                order["command"], env={**os.environ, **order["environment"]}, cwd=order["cwd"], text=True,
                stdin=subprocess.PIPE, stdout=output, stderr=None if order["answers"] else subprocess.STDOUT,
                start_new_session=True, preexec_fn=self.limit(order),
            )  # fmt: skip
            try:
                process.communicate(order["input"], timeout=order["seconds"])
            except subprocess.TimeoutExpired:
                late = True
            finally:
                self.end(process)
        kind, reason = self.judge(process.returncode, late, order)
        if kind and not late:
            time.sleep(1)  # a scheduler that ends the job tells all its processes, in any order
            if self.told:  # it says itself why, and may queue the job again
                raise RuntimeError("the scheduler ended the job")
        self.write("end.json", {
            "state": "failed" if kind else "finished", "kind": kind, "reason": reason,
            "seconds": round(time.time() - start, 2), "starts": starts, "code": order["code"],
        })  # fmt: skip
        if kind:
            raise RuntimeError(f"{kind}: {reason}")

    def listen(self) -> None:
        """Notice that the scheduler tells the job to end."""
        before = signal.getsignal(signal.SIGTERM)

        def note(number: int, frame: Any) -> None:
            self.told = True
            if callable(before):
                before(number, frame)

        signal.signal(signal.SIGTERM, note)

    def note_start(self) -> int:
        """Count the starts; more than one follows a preemption."""
        try:
            with open(os.path.join(self.folder, "start.json"), encoding="utf8") as file:
                starts = json.load(file)["starts"] + 1
        except (OSError, ValueError):
            starts = 1
        job = os.environ.get("SLURM_JOB_ID") or os.environ.get("SUBMITIT_LOCAL_JOB_ID") or ""
        if "SLURM_ARRAY_JOB_ID" in os.environ:
            job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
        if job:  # so that no controller killed on its way loses a job that runs
            with open(os.path.join(self.folder, "job.txt"), "w", encoding="utf8") as file:
                file.write(job)
        self.write("start.json", {"starts": starts, "host": os.uname().nodename, "time": time.time()})
        return int(starts)

    def write(self, name: str, data: dict[str, Any]) -> None:
        """Write a file whole or not at all."""
        path = os.path.join(self.folder, name)
        with open(path + f".{os.getpid()}", "w", encoding="utf8") as file:
            json.dump(data, file)
        os.replace(file.name, path)

    def limit(self, order: dict[str, Any]) -> Any:
        """What holds the command to its memory, where no graphics card reserves more address space than it uses."""
        size = order["bytes"]
        if not size:
            return None

        def set_limit() -> None:
            import resource

            resource.setrlimit(resource.RLIMIT_DATA, (size, size))

        return set_limit

    def end(self, process: Any) -> None:
        """Leave nothing running: the command's session is ended with it."""
        for wait, sign in ((5, signal.SIGTERM), (5, signal.SIGKILL)):
            if process.poll() is None:
                try:
                    os.killpg(process.pid, sign)
                    process.wait(wait)
                except (OSError, subprocess.TimeoutExpired):
                    continue

    def judge(self, status: int, late: bool, order: dict[str, Any]) -> tuple[str, str]:
        """Kind and reason of a failure, from how the command ended and what it said last; else two empty words."""
        with open(os.path.join(self.folder, "output.txt"), encoding="utf8", errors="replace") as file:
            text = file.read()[-20_000:].strip()
        if late:
            return "time", f"it was ended after {order['seconds'] / 60:.4g} minutes"
        if status < 0:
            return "memory", f"it was killed by signal {-status}, most likely for its memory"
        if order["answers"]:  # the notebooks' worker, whose last line is its error
            try:
                text = json.loads(text.splitlines()[-1])
            except (ValueError, IndexError):
                return "exception", f"its worker ended early, with status {status}; see output.txt"
            status = int(bool(text))
        return self.read(text, status) if status else ("", "")

    def read(self, text: str, status: int) -> tuple[str, str]:
        """Kind and reason, from a traceback."""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
        sentence = (named[-1] if named else lines[-1] if lines else f"it ended with status {status}")[:400]
        where = re.search(r"cell In \[\d+\]", text)
        memory = "MemoryError|OutOfMemory|out of memory|can't allocate memory|Cannot allocate memory|DeadKernel"
        kind = "memory" if re.search(memory, text) else "exception"
        return kind, f"{where[0]}: {sentence}" if where else sentence


@dataclass(frozen=True)
class State:
    """What the scheduler says of a job: ``waiting``, ``stuck``, ``running`` or ``gone``, with the word behind it."""

    word: str
    detail: str = ""


class LocalCluster:
    """Jobs as processes of this machine, a few at once; they outlive the sweep that started them."""

    def __init__(self, folder: Path, resources: Resources, at_once: int) -> None:
        self.folder, self.resources, self.at_once = folder, resources, at_once

    def submit(self, cells: Sequence[Path]) -> list[str]:
        """Start a job for each cell's folder; their numbers."""
        import submitit

        executor = submitit.LocalExecutor(folder=self.folder, max_num_timeout=0)
        executor.update_parameters(timeout_min=backstop(self.resources), signal_delay_s=30)
        return [str(job.job_id) for job in _submit(executor, cells, one_array=False)]

    def states(self, jobs: Sequence[str]) -> dict[str, State]:
        """What became of the jobs."""
        return {job: State("running" if self._is_running(job) else "gone") for job in jobs}

    def cancel(self, job: str) -> None:
        """End a job."""
        with contextlib.suppress(OSError):
            os.kill(int(job), signal.SIGTERM)

    def _is_running(self, job: str) -> bool:
        with contextlib.suppress(OSError):
            os.waitpid(int(job), os.WNOHANG)  # a child of this process that has ended
        try:
            line = Path(f"/proc/{job}/cmdline").read_bytes() if Path("/proc/self").exists() else b"submitit"
            os.kill(int(job), 0)
        except (OSError, ValueError):
            return False
        return b"submitit" in line  # the number may be another process's by now


class SlurmCluster:
    """Jobs of a SLURM array, which the controller queues and, after a preemption, queues again."""

    def __init__(self, folder: Path, resources: Resources, at_once: int) -> None:
        self.folder, self.resources, self.at_once = folder, resources, at_once
        if not shutil.which("sbatch") or not shutil.which("srun"):
            raise NoCluster(
                "there is no SLURM here: sbatch and srun are not on the PATH; log in to the cluster, or run the sweep "
                "with --cluster local"
            )
        partitions = self._partitions()
        if resources.partition and resources.partition not in partitions:
            raise NoCluster(
                f"SLURM has no partition {resources.partition!r}; there is {', '.join(sorted(partitions)) or 'none'}"
            )

    def _partitions(self) -> set[str]:
        done = _ask("sinfo", "--noheader", "--format", "%R")
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no answer"])[-1]
            raise NoCluster(f"SLURM does not answer ({said}); is its controller running, and SLURM_CONF right?")
        return set(done.stdout.split())

    def submit(self, cells: Sequence[Path]) -> list[str]:
        """Queue a job for each cell's folder, in arrays; their numbers, as in ``12_0``."""
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        resources = self.resources
        executor = submitit.SlurmExecutor(folder=self.folder, max_num_timeout=0)
        options: dict[str, Any] = {
            "job_name": "invkit", "time": backstop(resources), "cpus_per_task": resources.cpus,
            "array_parallelism": self.at_once, "signal_delay_s": 60,
            "srun_args": [f"--cpus-per-task={resources.cpus}"],
            "additional_parameters": {"requeue": True, **resources.options},
        }  # fmt: skip
        if resources.partition:
            options["partition"] = resources.partition
        if resources.memory:
            options["mem"] = f"{math.ceil(resources.memory * 1024)}MB"
        if resources.gpus:
            options["gpus_per_node"] = resources.gpus
        executor.update_parameters(**options)
        jobs = []
        try:
            # What sbatch says is said once, in a sentence of our own.
            with contextlib.redirect_stderr(io.StringIO()):
                for first in range(0, len(cells), ARRAY):
                    jobs += _submit(executor, cells[first : first + ARRAY], one_array=True)
        except (FailedJobError, FailedSubmissionError, OSError, subprocess.CalledProcessError) as error:
            lines = [line for line in str(error).splitlines() if "sbatch: error" in line] or str(error).splitlines()
            raise NoCluster(f"SLURM refused the jobs: {lines[-1].removeprefix('sbatch: error: ')}") from None
        return [str(job.job_id) for job in jobs]

    def states(self, jobs: Sequence[str]) -> dict[str, State]:
        """What became of the jobs; nothing where the controller does not answer just now."""
        done = _ask("squeue", "--noheader", "--array", "--states=all", "--me", "--format", "%i|%T|%r")
        if done.returncode:
            return {}
        rows = dict(line.split("|", 1) for line in done.stdout.splitlines() if "|" in line)
        return {job: _state(*(rows.get(job, "|").split("|", 1))) for job in jobs}

    def cancel(self, job: str) -> None:
        """Take a job out of the queue."""
        _ask("scancel", job)


NEVER = ("BadConstraints", "PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit")
"""Why a job waits that asks for more than there is: it would wait for ever."""


def _state(word: str, why: str) -> State:
    if word == "PENDING" and why in NEVER:
        return State("stuck", why)
    if word in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"):
        return State("waiting", why)
    if word in ("RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "SIGNALING", "STAGE_OUT", "RESIZING"):
        return State("running")
    return State("gone", word)


ENDS = {
    "TIMEOUT": ("time", "SLURM ended it for its time"),
    "DEADLINE": ("time", "SLURM ended it for its deadline"),
    "OUT_OF_MEMORY": ("memory", "SLURM ended it for its memory"),
    "NODE_FAIL": ("node", "its node was lost"),
    "BOOT_FAIL": ("node", "its node did not start"),
    "PREEMPTED": ("preemption", "it was preempted and not queued again"),
    "CANCELLED": ("cancelled", "somebody cancelled it"),
}
"""What a scheduler's word for the end of a job means: kind and reason."""


def why_gone(job: str, state: State, log: Path) -> tuple[str, str]:
    """Kind and reason of a job that left no note of its end, from the scheduler's word or else from its log.

    >>> why_gone("12_0", State("gone", "OUT_OF_MEMORY"), Path("nowhere"))
    ('memory', 'SLURM ended it for its memory')
    """
    if state.detail in ENDS:
        return ENDS[state.detail]
    lines = log.read_text("utf8", "replace").strip().splitlines() if log.is_file() else []
    last = f"; its log ends with: {lines[-1][:300]}" if lines else ""
    return "lost", f"job {job} is gone without a note of its end, killed perhaps{last}"


def backstop(resources: Resources) -> int:
    """Minutes that the scheduler is asked for: a job ends by itself before, and says so.

    >>> backstop(Resources(minutes=30)), backstop(Resources(minutes=0.1))
    (33, 4)
    """
    return math.ceil(resources.minutes) + 3


def _submit(executor: Any, cells: Sequence[Path], *, one_array: bool) -> list[Any]:
    import cloudpickle

    jobs = [CellJob(str(cell), read_json(cell / "order.json")["token"]) for cell in cells]
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        if one_array:
            return list(executor.submit_array(jobs))
        return [executor.submit(job) for job in jobs]
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    """Ask SLURM; silence counts as a failure."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (subprocess.TimeoutExpired, OSError) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


def connect(cluster: str, folder: Path, resources: Resources, at_once: int) -> LocalCluster | SlurmCluster:
    """The cluster of that name.

    Args:
        cluster: ``local`` or ``slurm``.
        folder: For the logs and orders of jobs; all machines must see it.
        resources: What each job may use.
        at_once: How many may run at the same time.

    Raises:
        NoCluster: Where submitit is not installed, there is no SLURM, it does not answer or lacks the partition.
    """
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise NoCluster("a sweep needs submitit: pip install 'invkit[cluster]'") from None
    if cluster == "slurm":
        return SlurmCluster(folder, resources, at_once)
    return LocalCluster(folder, resources, at_once)
