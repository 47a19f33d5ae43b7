"""Seeds, devices, precision, progress and files that are whole or not there."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed
from tqdm.auto import tqdm

T = TypeVar("T")


def seeded(seed: int) -> torch.Generator:
    """A CPU generator with this seed. Draws are made on the CPU and moved, so that a seed means the same everywhere."""
    return torch.Generator().manual_seed(seed)


def default_generator() -> torch.Generator:
    """Where no generator is given: seeded by the rank, so that the ranks of a distributed run draw different noise."""
    ranks = torch.distributed.is_available() and torch.distributed.is_initialized()
    return seeded(torch.distributed.get_rank() if ranks else 0)


def spawn(generator: torch.Generator) -> torch.Generator:
    """A new generator seeded by the next draw of ``generator``: independent streams from one seed."""
    return seeded(int(torch.randint(2**62, (), generator=generator)))


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; ``auto`` takes a GPU where there is one. Raises ``ValueError`` if it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for, but torch sees no GPU; use 'cpu' or 'auto'")
    return device


def autocast(device: torch.device, enabled: bool) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 autocast on ``device`` where ``enabled``, else nothing."""
    if not enabled:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def progress(iterable: Iterable[T], total: int | None = None, desc: str = "", initial: int = 0) -> tqdm[T]:
    """A progress bar in a terminal or in Jupyter; silent in a pipe and where ``INVKIT_QUIET`` is set."""
    quiet = bool(os.environ.get("INVKIT_QUIET")) or not (sys.stderr.isatty() or _in_a_kernel())
    return tqdm(iterable, total=total, desc=desc, initial=initial, disable=quiet, leave=False)


def _in_a_kernel() -> bool:
    # Imported is not running: papermill and ipywidgets bring the module along.
    module = sys.modules.get("ipykernel.kernelapp")
    return module is not None and bool(module.IPKernelApp.initialized())


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it on success, remove it on failure.

    Nobody ever sees a half-written file under ``path``. Raises ``OSError`` naming the folder when the disk is full or
    not writable; what stood under ``path`` before is kept.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise OSError(
            error.errno, f"cannot write into {path.parent}: {error.strerror}; free space or choose another folder"
        ) from error
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            error.errno, f"cannot write {path}: {error.strerror}; what was finished before is kept"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: str | Path, data: Any) -> None:
    """Write ``data`` as JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1, ensure_ascii=False, default=plain) + "\n", encoding="utf-8")


def save_state(path: str | Path, state: dict[str, Any]) -> None:
    """``torch.save``, atomically; read it back with :func:`load_state`."""
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def load_state(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of tensors and plain values; code inside a pickle is refused (``weights_only``)."""
    return torch.load(path, map_location="cpu", weights_only=True)


def saved_bytes(function: Callable[[], Any]) -> int:
    """Bytes that autograd holds for the backward pass when ``function`` has returned, each storage counted once."""
    held: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = function()  # alive until the count is taken, so that no storage is counted under a reused address
    del kept
    return sum(held.values())


def plain(value: Any) -> Any:
    """``value`` in JSON's types: dataclasses, tuples, paths and tensors of one element are unwrapped."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return str(value) if isinstance(value, Path) else value


def config_hash(value: Any) -> str:
    """Twelve hexadecimal digits that change when any field of ``value`` does."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True, default=str).encode()).hexdigest()[:12]
