"""Files that are whole or not there: JSON, weights and the checkpoints of runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from invkit.core.config import plain


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


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, on the CPU; ``FileNotFoundError`` or ``ValueError`` naming the file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights file at {path}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """A state dict from safetensors or from a torch file that holds tensors only.

    A pickle with code in it is refused with ``ValueError``; it is never executed.
    """
    path = Path(path)
    if path.suffix == ".safetensors" or not path.is_file():
        return read_safetensors(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle, zip and runtime errors here
        raise ValueError(
            f"{path} was not loaded: it is not a file of plain tensors ({type(error).__name__}). "
            "A pickle can run code; save the weights with safetensors or as a plain state_dict"
        ) from None
    state = state.get("state_dict", state) if isinstance(state, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} holds no state dict of names and tensors")
    return state


class Stateful(Protocol):
    """What changes from step to step and must be the same again after a resume."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def digest(*tensors: Tensor) -> str:
    """Fingerprint of the tensors' bytes."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def read_checkpoint(path: Path, key: str) -> dict[str, Any]:
    """The state that a run with this ``key`` left; ``ValueError`` where it is another's or no checkpoint at all."""
    try:
        state = load_state(path)
    except OSError:
        raise
    except Exception as error:  # torch raises pickle, zip, end-of-file and runtime errors here
        raise ValueError(
            f"{path} is not a readable checkpoint ({type(error).__name__}); remove it to start anew"
        ) from None
    if not isinstance(state, dict) or "key" not in state:
        raise ValueError(f"{path} is not the checkpoint of an inversion; give another file")
    if state["key"] != key:
        raise ValueError(
            f"{path} belongs to a run with another config, network, labels, images or seed; "
            "give another checkpoint or remove it"
        )
    return state
