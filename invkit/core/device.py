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
    """The device of that name; ``auto`` takes a GPU where there is one.

    Raises:
        ValueError: For a name that torch does not know, and a GPU that is not there.

    >>> pick_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"there is no device {name!r}; use 'cpu', 'cuda', 'cuda:1' or 'auto'") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for, but torch sees no GPU; use 'cpu' or 'auto'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} was asked for, but torch sees {torch.cuda.device_count()} GPUs")
    return device


def autocast(device: torch.device, enabled: bool) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 autocast on ``device`` where ``enabled``, else nothing.

    >>> with autocast(torch.device("cpu"), True):
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.bfloat16
    """
    if not enabled:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def progress(iterable: Iterable[T], total: int | None = None, desc: str = "", initial: int = 0) -> tqdm[T]:
    """A progress bar over ``iterable`` in a terminal or in Jupyter; silent in a pipe and where ``INVKIT_QUIET`` is set.

    Args:
        iterable: What to go through.
        total: Its length, where it does not tell.
        desc: A word in front of the bar.
        initial: How much of ``total`` was done before.

    >>> list(progress("ab"))
    ['a', 'b']
    """
    quiet = bool(os.environ.get("INVKIT_QUIET")) or not (sys.stderr.isatty() or _in_a_kernel())
    return tqdm(iterable, total=total, desc=desc, initial=initial, disable=quiet, leave=False)


def _in_a_kernel() -> bool:
    # Imported is not running: papermill and ipywidgets bring the module along.
    module = sys.modules.get("ipykernel.kernelapp")
    return module is not None and bool(module.IPKernelApp.initialized())


def saved_bytes(function: Callable[[], Any]) -> int:
    """Bytes that autograd holds for the backward pass when ``function`` has returned, each storage counted once.

    >>> x = torch.ones(1000, requires_grad=True)
    >>> saved_bytes(lambda: x * x)
    4000
    """
    bytes_of: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        bytes_of[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()  # alive until the count is taken, so that no storage is counted under a reused address
    del result
    return sum(bytes_of.values())
