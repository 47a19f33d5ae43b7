"""Devices, precision, progress bars and the memory that a backward pass holds."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from tqdm.auto import tqdm

T = TypeVar("T")


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
