"""Networks that are trained once: where they are kept, and how they are found again."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock
from torch import nn

from invkit.core.config import config_hash, plain
from invkit.core.files import save_tensors, write_json
from invkit.core.results import FitResult
from invkit.core.trial import is_trial
from invkit.data.datasets import DataSet
from invkit.engine.fit import require_trained
from invkit.networks.loading import load_weights
from invkit.networks.own import located


def cache_path(network: str, data: DataSet, settings: Mapping[str, Any], folder: str | Path | None = None) -> Path:
    """Where weights are kept: ``folder``, else ``$INVKIT_CACHE``, else ``~/.cache/invkit/networks``, under a name that
    changes with the network, the training images and labels, and any of the ``settings``.

    >>> from invkit.data.datasets import load_data
    >>> digits = load_data("digits", limit=40)
    >>> cache_path("resnet20", digits, {"seed": 0}) == cache_path("resnet20", digits, {"seed": 1})
    False
    """
    default = Path(os.environ.get("INVKIT_CACHE") or Path.home() / ".cache" / "invkit" / "networks")
    digest = hashlib.sha256(
        data.train.pixels.contiguous().numpy().tobytes() + data.train.labels.numpy().tobytes()
    ).hexdigest()
    key = {"network": network, "spec": data.spec, "train": digest, "version": 1, **settings}
    if ":" in network:  # a reader's own: another text of the file is another network
        source = Path(located(network).rpartition(":")[0])
        key["source"] = hashlib.sha256(source.read_bytes()).hexdigest() if source.is_file() else ""
    short = re.sub(r"[^\w-]+", "_", network.rpartition("/")[2])
    return Path(folder or default).expanduser() / f"{short}-{config_hash(key)}.safetensors"


def load_or_fit(
    module: nn.Module, path: Path, train: Callable[[Path], FitResult], record: Mapping[str, Any], advice: str
) -> None:
    """Give ``module`` the weights kept under ``path``; where there are none, ``train(checkpoint)`` it and keep them.

    Beside the weights lies a JSON of ``record`` (its ``network`` and ``data`` are what a message names) and the
    training's result. Two processes that ask for the same weights train them once; a file is whole or not there.

    Args:
        module: What is given its weights, in place.
        path: Of the weights, from :func:`cache_path`.
        train: Trains the module, going on from the checkpoint that it is given.
        record: What the JSON says of the network and its data.
        advice: What to do where the training diverges.

    Raises:
        KeyboardInterrupt: Where the training was interrupted; it goes on from its checkpoint next time.
        DivergedError: Where it diverged.
        OSError: Where the folder cannot be written.
    """
    if not _load(module, path):
        with _lock(path):
            if not _load(module, path):  # another process may have trained it in the meantime
                _train_and_save(module, path, train, record, advice)


def _lock(path: Path) -> BaseFileLock:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".lock").touch()
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot keep a trained network in {path.parent}: {error.strerror}; "
            "name another folder by folder= or INVKIT_CACHE",
        ) from error
    return FileLock(path.with_suffix(".lock"))


def _load(module: nn.Module, path: Path) -> bool:
    if not (path.is_file() and path.with_suffix(".json").is_file()):
        return False
    try:
        json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        load_weights(module, path)
    except ValueError as error:
        warnings.warn(f"the kept network is trained anew: {error}", stacklevel=4)
        return False
    return True


def _train_and_save(
    module: nn.Module, path: Path, train: Callable[[Path], FitResult], record: Mapping[str, Any], advice: str
) -> None:
    unfinished = path.with_suffix(".checkpoint")
    result = train(unfinished)
    if result.stopped == "interrupted":
        raise KeyboardInterrupt
    require_trained(result, f"{record['network']} on {record['data']}", advice)
    if result.stopped == "steps" and not is_trial():  # a run that was cut short is used, not kept
        write_json(path.with_suffix(".json"), {**record, "result": plain(result)})
        save_tensors(path, module.state_dict())
        unfinished.unlink(missing_ok=True)
