"""Work shared by several processes: units taken one by one through a folder, and ranks that wait for each other.

Units that do not depend on each other need no process group. Each worker takes the next that nobody has, by a small
file of its own that it keeps fresh; what a lost worker had is taken over by another. Ranks whose sums run over all of
them (the exact statistics of one batch on several machines) are joined by :func:`joined_ranks`.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from invkit.core.files import MACHINE, is_running

LEASE = 60.0
"""Seconds without a sign of life after which a worker of another machine is taken for lost."""
_NAME = re.compile(r"(?P<unit>\d+)\.(?P<turn>\d+)")


def worker() -> tuple[int, int]:
    """Which worker this process is, of how many.

    It is the rank under ``torchrun``, else the task of a SLURM array, with the tasks of a step inside; else 0 of 1.

    >>> worker()
    (0, 1)
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    index, count = _number("SLURM_ARRAY_TASK_ID"), _number("SLURM_ARRAY_TASK_COUNT", 1)
    step = (_number("SLURM_ARRAY_TASK_MAX") - _number("SLURM_ARRAY_TASK_MIN")) // max(count - 1, 1) or 1
    index = (index - _number("SLURM_ARRAY_TASK_MIN")) // step
    inside = _number("SLURM_NTASKS", 1) if "SLURM_PROCID" in os.environ else 1
    return index * inside + _number("SLURM_PROCID"), count * inside


def _number(name: str, default: int = 0) -> int:
    return int(os.environ.get(name) or default)


class Shares:
    """Units of work, numbered from 0, of which each is taken by one worker at a time.

    A unit that is taken is a file ``<unit>.<turn>`` in ``folder``, which its worker touches while it lives. A worker
    that takes over from a lost one makes the file of the next turn, which only one can make.

    Args:
        folder: Seen by all workers.
        lease: Seconds without a sign of life after which a worker is taken for lost; one of this machine whose process
            has ended is at once.
        longest: Seconds that a unit may take. A worker that takes longer hangs: its process is ended, by
            ``os._exit``, and another takes over. None waits for ever.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with Shares(folder).take(0) as lease:
    ...     lease is not None, Shares(folder).take(0) is None
    (True, True)
    """

    def __init__(self, folder: str | Path, *, lease: float = LEASE, longest: float | None = None) -> None:
        if lease <= 0 or (longest is not None and longest <= 0):
            raise ValueError(f"lease and longest must be positive, not {lease} and {longest}")
        self.folder, self.lease, self.longest = Path(folder), lease, longest
        self.seen: dict[str, tuple[int, float]] = {}  # when a file was last seen to change, by this process's own clock

    @property
    def pause(self) -> float:
        """Seconds between two looks at what others have."""
        return min(1.0, self.lease / 10)

    def take(self, unit: int) -> Lease | None:
        """The unit, where nobody has it or a lost worker had it; else None.

        Raises:
            OSError: Where the folder cannot be written.
        """
        turns = self._turns(unit)
        if turns and not self._is_lost(turns[-1]):
            return None
        turn = int(_NAME.fullmatch(turns[-1].name)["turn"]) + 1 if turns else 0  # type: ignore[index]
        path = self.folder / f"{unit:05d}.{turn:03d}"
        try:
            if not self.folder.is_dir():
                self.folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):  # another worker was faster
                file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
                with os.fdopen(file, "w") as stream:
                    stream.write(_signature())
                return Lease(self, unit, path)
        except OSError as error:
            raise OSError(
                error.errno, f"cannot write into {self.folder}: {error.strerror}; free space or choose another folder"
            ) from error
        return None

    def clear(self) -> None:
        """Remove what is left when all units are done."""
        for path in self.folder.glob("*") if self.folder.is_dir() else ():
            if _NAME.fullmatch(path.name):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _turns(self, unit: int) -> list[Path]:
        return sorted(path for path in self.folder.glob(f"{unit:05d}.*") if _NAME.fullmatch(path.name))

    def _is_lost(self, path: Path) -> bool:
        """Whether the worker behind a file has ended, or has given no sign of life for the length of a lease."""
        try:
            signature, changed = path.read_text("utf8"), path.stat().st_mtime_ns
        except OSError:  # it is done in this moment
            return False
        machine, _, process = signature.rpartition("-")[0].partition("-")
        if machine == MACHINE and process == str(os.getpid()):
            return signature != _signature()  # an earlier process had this number
        if machine == MACHINE and process.isdigit() and not is_running(int(process)):
            return True
        before, since = self.seen.get(path.name, (0, 0.0))
        if before != changed:
            self.seen[path.name] = (changed, time.monotonic())
            return False
        return time.monotonic() - since > self.lease


_SELF = secrets.token_hex(4)


def _signature() -> str:
    """Machine and process, and a word that tells a process from an earlier one of its number."""
    return f"{MACHINE}-{os.getpid()}-{_SELF}"


class Lease:
    """A unit that this worker has, until it leaves the context."""

    def __init__(self, shares: Shares, unit: int, path: Path) -> None:
        self.shares, self.unit, self.path = shares, unit, path
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._keep_fresh, daemon=True)

    def __enter__(self) -> Lease:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        for path in self.shares._turns(self.unit):
            if path <= self.path:
                path.unlink(missing_ok=True)

    def _keep_fresh(self) -> None:
        begun = time.monotonic()
        while not self.over.wait(min(self.shares.lease / 4, self.shares.longest or self.shares.lease)):
            longest = self.shares.longest
            if longest is not None and time.monotonic() - begun > longest:
                message = f"unit {self.unit} was not done within {longest:.0f} s: this worker hangs and is ended"
                print(message, file=sys.stderr, flush=True)
                os._exit(75)
            with contextlib.suppress(OSError):  # a disk that fails here fails the work itself soon enough
                os.utime(self.path)


@contextlib.contextmanager
def joined_ranks(seconds: float = 120.0) -> Iterator[tuple[int, int]]:
    """Join the ranks that ``torchrun`` started, so that statistics run over the images of all of them.

    Inside, an inversion on each rank is one inversion of the joined batch. A rank that hangs or is gone ends the others
    within ``seconds``.

    Args:
        seconds: The longest that one rank waits for another.

    Returns:
        This rank and the number of ranks.

    Raises:
        RuntimeError: Outside of ``torchrun``.
        TimeoutError: Where another rank did not answer in time.

    >>> with joined_ranks():
    ...     pass
    Traceback (most recent call last):
    RuntimeError: joined_ranks needs the ranks of torchrun; start the script by: torchrun --nproc-per-node 2 script.py
    """
    if "RANK" not in os.environ or not dist.is_available():
        raise RuntimeError(
            "joined_ranks needs the ranks of torchrun; start the script by: torchrun --nproc-per-node 2 script.py"
        )
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=seconds))
    rank, size = dist.get_rank(), dist.get_world_size()
    try:
        yield rank, size
    except RuntimeError as error:
        if not re.search(r"[Tt]imed out|[Tt]imeout|Connection (closed|reset)|Broken pipe|gloo", str(error)):
            raise
        raise TimeoutError(
            f"rank {rank} of {size} got no answer from another rank within {seconds:.0f} s: it hangs or is gone"
        ) from error
    finally:
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()
