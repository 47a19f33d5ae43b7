"""Files that are whole or not there: JSON, tensors, and the checkpoints of runs.

Every file of the package is written through :func:`atomic_path` and every file of tensors is read through one function,
so that a full disk, a folder in the place of a file and a damaged file are the same clear sentence everywhere.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from invkit.core.config import plain

T = TypeVar("T")

# A temporary file names the machine and the process that writes it, so that a later process can tell a file that is
# being written from one that was left by a process killed meanwhile.
MACHINE = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]
_TEMPORARY = re.compile(r"\..*\.unfinished-(?P<machine>[0-9a-f]{6})-(?P<process>\d+)-[0-9a-f]{8}(\.[^.]*)?")
_being_written: set[str] = set()
_swept: set[Path] = set()


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it on success, remove it on failure.

    Nobody ever sees a half-written file under ``path``. What a killed process left unfinished in the same folder is
    removed on the way.

    Raises:
        OSError: Naming the file and the reason, where the disk is full, the folder is not writable or ``path`` is a
            folder; what stood under ``path`` before is kept.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with atomic_path(folder / "note.txt") as temporary:
    ...     _ = temporary.write_text("whole")
    >>> [p.name for p in folder.iterdir()]
    ['note.txt']
    """
    path = Path(path)
    temporary = _new_file_beside(path)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            error.errno, f"cannot write {path}: {error.strerror or error}; what was finished before is kept"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
        _being_written.discard(temporary.name)


def _new_file_beside(path: Path) -> Path:
    """An empty file with a hidden name of this process's own, in the folder of ``path``."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, f"cannot write {path}: it is a folder; give the path of a file")
    name = f".{path.stem[:100]}.unfinished-{MACHINE}-{os.getpid()}-{secrets.token_hex(4)}{path.suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent not in _swept:  # once for each folder: looking through a large one takes a while
            _swept.add(path.parent)
            remove_unfinished(path.parent)
        _being_written.add(name)
        path.with_name(name).touch(exist_ok=False)
    except OSError as error:
        _being_written.discard(name)
        raise OSError(
            error.errno, f"cannot write into {path.parent}: {error.strerror}; free space or choose another folder"
        ) from error
    return path.with_name(name)


def remove_unfinished(folder: str | Path, *, below: bool = False) -> list[Path]:
    """Remove what processes that are dead by now left half-written in ``folder``; returns the files removed.

    With ``below``, in all folders under it as well. Files of running processes and of other machines stay.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with atomic_path(folder / "x.txt"):
    ...     remove_unfinished(folder)
    []
    """
    entries = Path(folder).rglob(".*") if below else Path(folder).glob(".*")
    removed = [path for path in entries if _is_left_over(path.name)]
    for path in removed:
        path.unlink(missing_ok=True)
    return removed


def _is_left_over(name: str) -> bool:
    temporary = _TEMPORARY.fullmatch(name)
    if temporary is None or temporary["machine"] != MACHINE or name in _being_written:
        return False
    process = int(temporary["process"])
    return process == os.getpid() or not is_running(process)  # a container's processes have the same number each time


def is_running(process: int) -> bool:
    """Whether a process of this machine runs, by its number.

    >>> is_running(os.getpid())
    True
    """
    if os.name != "posix":  # elsewhere, asking would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def write_json(path: str | Path, data: Any) -> None:
    """Write ``data`` as JSON, atomically; dataclasses, tuples, paths and tensors are unwrapped.

    Raises ``OSError`` as :func:`atomic_path`.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "x.json"
    >>> write_json(path, {"size": (8, 8)})
    >>> read_json(path)
    {'size': [8, 8]}
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1, ensure_ascii=False, default=plain) + "\n", encoding="utf-8")


def read_json(path: str | Path, what: str = "record", *, advice: str = "") -> dict[str, Any]:
    """Read a JSON object; ``what`` it should be, and an ``advice`` for a damaged file, stand in the messages.

    Raises:
        FileNotFoundError: Where there is no such file; other ``OSError`` where it cannot be read.
        ValueError: Where the file is damaged or holds no JSON object.

    >>> read_json("nowhere.json")
    Traceback (most recent call last):
    FileNotFoundError: there is no record at nowhere.json
    """
    data = _read(Path(path), what, lambda file: json.loads(file.read_text(encoding="utf-8")), advice=advice)
    if not isinstance(data, dict):
        raise ValueError(f"{path} is not a readable {what} (it holds a {type(data).__name__}, no object){advice}")
    return data


def save_state(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values as a torch file, atomically; read it back with :func:`load_state`.

    Raises ``OSError`` as :func:`atomic_path`.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "run.pt"
    >>> save_state(path, {"step": 3, "images": torch.ones(2)})
    >>> load_state(path)
    {'step': 3, 'images': tensor([1., 1.])}
    """

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:  # a file of Python's, which knows why it cannot be written
            torch.save(dict(state), file)

    _write_tensors(Path(path), write)


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as safetensors, atomically; read them back with :func:`read_safetensors`.

    Tensors that share memory are written each in full. Raises ``OSError`` as :func:`atomic_path`.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "x.safetensors"
    >>> save_tensors(path, {"images": torch.ones(2)})
    >>> read_safetensors(path)
    {'images': tensor([1., 1.])}
    """
    separate: dict[str, Tensor] = {}
    storages: set[tuple[torch.device, int]] = set()
    for name, tensor in tensors.items():
        contiguous = tensor.contiguous()
        storage = (contiguous.device, contiguous.untyped_storage().data_ptr())
        separate[name] = contiguous.clone() if storage in storages else contiguous  # safetensors refuses shared memory
        storages.add(storage)
    _write_tensors(Path(path), lambda temporary: save_file(separate, temporary))


def _write_tensors(path: Path, write: Callable[[Path], None]) -> None:
    """Write by torch or safetensors, whose own errors do not say that the disk is full."""
    with atomic_path(path) as temporary:
        try:
            write(temporary)
        except (RuntimeError, SafetensorError) as error:
            reason = _disk_error(error)
            if reason is None:
                raise
            raise reason from error


def _disk_error(error: Exception) -> OSError | None:
    """The operating system's reason behind an error of torch or safetensors, if there is one."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause
        cause = cause.__cause__ or cause.__context__
    number = re.search(r"os error (\d+)", str(error))  # safetensors gives the operating system's number in words
    if number:
        return OSError(int(number[1]), os.strerror(int(number[1])))
    if "unexpected pos" in str(error) or "No space left" in str(error):  # torch's words for a write cut short
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return None


def _read(path: Path, what: str, read: Callable[[Path], T], complaint: str = "", advice: str = "") -> T:
    """``read(path)``, with every failure as one sentence that names the file, the reason and the way out."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, f"{path} is a folder, not a {what}; give the path of a file")
        return read(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {what} at {path}") from None
    except IsADirectoryError:
        raise
    except OSError as error:
        raise OSError(error.errno, f"cannot read the {what} {path}: {error.strerror or error}") from error
    except Exception as error:  # torch, safetensors and json raise pickle, zip, end-of-file and decoding errors here
        complaint = complaint or f"is not a readable {what}"
        raise ValueError(f"{path} {complaint} ({type(error).__name__}){advice}") from None


def load_state(path: str | Path, what: str = "checkpoint") -> dict[str, Any]:
    """Read a torch file of tensors and plain values, on the CPU; code inside a pickle is refused, never executed.

    ``what`` it should be stands in the messages.

    Raises:
        FileNotFoundError: Where there is no such file; other ``OSError`` where it cannot be read or is a folder.
        ValueError: Where the file is damaged, holds code or no dictionary.

    >>> load_state("nowhere.pt")
    Traceback (most recent call last):
    FileNotFoundError: there is no checkpoint at nowhere.pt
    """

    def read(file: Path) -> Any:
        return torch.load(file, map_location="cpu", weights_only=True)

    state = _read(Path(path), what, read, advice="; delete it to start anew")
    if not isinstance(state, dict):
        raise ValueError(f"{path} is not a readable {what} (it holds a {type(state).__name__}); give another file")
    return state


def read_safetensors(path: str | Path, what: str = "weights file") -> dict[str, Tensor]:
    """Tensors of a safetensors file, on the CPU; ``what`` it should be stands in the messages.

    Raises:
        FileNotFoundError: Where there is no such file; other ``OSError`` where it cannot be read or is a folder.
        ValueError: Where the file is no safetensors file.

    >>> read_safetensors("nowhere.safetensors")
    Traceback (most recent call last):
    FileNotFoundError: there is no weights file at nowhere.safetensors
    """
    return _read(Path(path), what, load_file, "is not a safetensors file")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """A state dict from safetensors or from a torch file that holds tensors only.

    A file that ends in ``.safetensors`` is read as such, every other as a torch file; one that holds the weights under
    ``state_dict``, ``model_state_dict`` or ``model`` is unwrapped. A pickle with code in it is refused, never executed.

    Raises:
        FileNotFoundError: Where there is no such file; other ``OSError`` where it cannot be read or is a folder.
        ValueError: Where the file is damaged, holds code or no state dict.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "net.pt"
    >>> torch.save({"state_dict": {"bias": torch.zeros(1)}, "epoch": 3}, path)
    >>> read_weights(path)
    {'bias': tensor([0.])}
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)

    def read(file: Path) -> Any:
        return torch.load(file, map_location="cpu", weights_only=True)

    complaint = "was not loaded: it is not a file of plain tensors"
    advice = ". A pickle can run code; save the weights with safetensors or as a plain state_dict"
    state = _read(path, "weights file", read, complaint, advice)
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} holds no state dict of names and tensors")
    return state


class Stateful(Protocol):
    """What changes from step to step and must be the same again after a resume."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def digest(*tensors: Tensor) -> str:
    """Sixteen hexadecimal digits that change with any byte of the tensors.

    >>> digest(torch.zeros(2)) == digest(torch.zeros(2)), digest(torch.zeros(2)) == digest(torch.ones(2))
    (True, False)
    """
    fingerprint = hashlib.sha256()
    for tensor in tensors:
        # As bytes, since NumPy has no bfloat16; flat, since a single number cannot be viewed as several bytes.
        fingerprint.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return fingerprint.hexdigest()[:16]


def read_checkpoint(path: str | Path, key: str | None = None, *, fields: Iterable[str] = ("key",)) -> dict[str, Any]:
    """The state that a run left, which must have all the ``fields`` and, where one is given, this ``key``.

    Raises:
        OSError: Where there is no such file, it is a folder or cannot be read.
        ValueError: Where the file is damaged, is no such checkpoint or another run's.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "run.pt"
    >>> save_state(path, {"key": "a", "step": 3})
    >>> read_checkpoint(path, "a")["step"]
    3
    """
    state = load_state(path)
    missing = sorted(set(fields) - set(state))
    if missing:
        raise ValueError(
            f"{path} is not the checkpoint of such a run: it lacks {', '.join(missing)}; give another file"
        )
    if key is not None and state["key"] != key:
        raise ValueError(
            f"{path} belongs to a run with another config, network, labels, images or seed; "
            "give another checkpoint or remove it"
        )
    return state
