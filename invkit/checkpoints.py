"""Checkpoints of runs: what they must agree on, and reading one back."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from invkit.runtime import load_state


class Memory(Protocol):
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
