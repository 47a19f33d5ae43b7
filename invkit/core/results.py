"""Records of what a run did: frozen, saved whole, loaded without executing anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from invkit.core.config import plain
from invkit.core.files import read_safetensors, save_tensors, write_json

History = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a callback sees after a step: its index, the stage (resolution) and the live images, not to be changed.

    ``losses`` reads the step's terms to the host when called, so a callback that does not ask costs no synchronisation.
    """

    index: int
    stage: int
    images: Tensor
    values: Mapping[str, Tensor]

    def losses(self) -> dict[str, float]:
        """The step's weighted loss terms and their ``total``."""
        return {k: float(v) for k, v in self.values.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class InversionResult:
    """Images of an inversion, ``(N, C, H, W)`` in [0, 1] on the CPU, and how they came about.

    ``history`` holds the weighted terms of the loss at each step, summing to ``total``; ``images`` are those of
    ``best_step``; ``stopped`` is ``steps``, ``patience``, ``callback``, ``interrupted`` or a sentence that names a
    non-finite term.
    """

    images: Tensor
    labels: Tensor | None
    history: History
    best_step: int
    config: dict[str, Any]
    seed: int | None
    seconds: float
    device: str
    stopped: str
    stages: tuple[Tensor, ...] = field(default=())

    def save(self, folder: str | Path) -> Path:
        """Write ``tensors.safetensors`` and ``result.json`` into ``folder``, each atomically."""
        folder = Path(folder)
        tensors = {"images": self.images.contiguous()}
        if self.labels is not None:
            tensors["labels"] = self.labels
        tensors |= {f"stage.{i}": s.contiguous() for i, s in enumerate(self.stages)}
        save_tensors(folder / "tensors.safetensors", tensors)
        record = {k: getattr(self, k) for k in ("best_step", "config", "seed", "seconds", "device", "stopped")}
        write_json(folder / "result.json", plain(record | {"history": dict(self.history)}))
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> InversionResult:
        """Read what :meth:`save` wrote. Raises ``FileNotFoundError`` or ``ValueError`` naming the file."""
        folder = Path(folder)
        tensors = read_safetensors(folder / "tensors.safetensors")
        stages = tuple(tensors[f"stage.{i}"] for i in range(sum(k.startswith("stage.") for k in tensors)))
        try:
            record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
            history = {k: tuple(v) for k, v in record.pop("history").items()}
            return cls(images=tensors["images"], labels=tensors.get("labels"), history=history, stages=stages, **record)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder / 'result.json'} is not the record of an inversion: {error!r}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """How a training run went: terms per step, final metrics, time, device and why it stopped."""

    history: History
    metrics: dict[str, float]
    steps: int
    seconds: float
    device: str
    stopped: str
    config: dict[str, Any]
    seed: int | None = None

    @property
    def diverged(self) -> bool:
        """Whether it stopped for what ``stopped`` says, and not as planned."""
        return self.stopped not in ("steps", "callback", "interrupted")
