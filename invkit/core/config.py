"""Configs in plain values, and a hash of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch


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
