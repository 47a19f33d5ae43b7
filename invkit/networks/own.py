"""A reader's own code: networks and methods from files of Python, with paths meant from where the reader started."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from invkit.core.python_files import load_file


def start_folder() -> Path:
    """The folder that the reader started from, which relative paths are meant from; notebooks run in their own."""
    return Path(os.environ.get("INVKIT_START", Path.cwd()))


def located(network: str, start: Path | None = None) -> str:
    """``my_file:make_net`` with the path of the file, where there is such a file; bare names with their library.

    >>> located("no_such_file:make_net"), located("resnet18")
    ('no_such_file:make_net', 'torchvision/resnet18')
    """
    start = start or start_folder()
    where, colon, function = network.rpartition(":")
    if colon:
        file = beside(where if where.endswith(".py") else f"{where}.py", start)
        return f"{file}:{function}" if file.is_file() else network
    if "/" not in network and network:
        from torchvision import models

        return f"torchvision/{network}" if network in models.list_models(module=models) else f"timm/{network}"
    return network


def beside(path: str, start: Path) -> Path:
    """A path as it is meant from a folder.

    >>> beside("x.pt", Path("mine")).as_posix()
    'mine/x.pt'
    """
    return Path(path) if Path(path).is_absolute() else start / path


def build_own(name: str) -> nn.Module:
    """Call the function that builds a network, ``package.module:function`` or ``path/to/file.py:function``.

    Args:
        name: Where the function is, see :func:`load_function`.

    Returns:
        What the function gives.

    Raises:
        ValueError: Where there is no such function, it needs arguments or fails, or gives no module.

    >>> type(build_own("torch.nn:Identity")).__name__
    'Identity'
    """
    function = load_function(name)
    try:
        built = function()
    except Exception as error:  # the user's own code may raise anything
        raise ValueError(f"cannot build {name!r} ({type(error).__name__}): {error}") from error
    if not isinstance(built, nn.Module):
        raise ValueError(f"{name} built a {type(built).__name__}, not a torch.nn.Module")
    return built


def load_function(name: str) -> Callable[..., Any]:
    """What stands under a name in a module or in a file of Python.

    Args:
        name: ``package.module:function`` for a module on Python's path, or ``path/to/file.py:function``.

    Returns:
        It.

    Raises:
        ValueError: Where there is no such module or file, it fails, or has no such name.

    >>> load_function("torch.nn:Identity").__name__
    'Identity'
    """
    where, _, function = name.rpartition(":")
    try:
        module = load_file(where) if where.endswith(".py") else importlib.import_module(where)
        loaded: Callable[..., Any] = getattr(module, function)
    except Exception as error:  # the user's own code may raise anything
        advice = "" if where.endswith(".py") else f"; the folder of {where} must be on PYTHONPATH, or give {where}.py"
        raise ValueError(f"cannot load {name!r} ({type(error).__name__}): {error}{advice}") from error
    return loaded
