"""Records of what a run did: frozen, saved whole, loaded without executing anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from invkit.core.config import plain
from invkit.core.files import read_safetensors, save_tensors, write_json

History = Mapping[str, tuple[float, ...]]

Stopped = Literal["steps", "patience", "callback", "interrupted", "diverged"]
"""Why a run ended: all its steps were taken, it gained nothing more, a callback or Ctrl-C ended it, or it diverged."""


class DivergedError(RuntimeError):
    """A run diverged where no result can be given back; the message says what, at which step, and what to do."""


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
        """The step's weighted loss terms and their ``total``.

        >>> import torch
        >>> Step(index=0, stage=0, images=torch.zeros(1, 1, 2, 2), values={"total": torch.tensor(0.5)}).losses()
        {'total': 0.5}
        """
        return {k: float(v) for k, v in self.values.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class InversionResult:
    """Images of an inversion, ``(N, C, H, W)`` in [0, 1] on the CPU, and how they came about.

    ``history`` holds the weighted terms of the loss at each step of all stages, summing to ``total``; ``images`` are
    those of ``best_step``. ``stopped`` says in one word why the run ended and ``reason`` in a sentence, which names the
    term and the step where one was not finite. ``stages`` holds the images after each stage of an inversion that goes
    through several resolutions, the last among them.

    >>> from invkit import DeepDreamConfig, class_inversion
    >>> from invkit.testing import tiny_target
    >>> result = class_inversion(tiny_target(), [0, 3], DeepDreamConfig(steps=5))
    >>> result.stopped, result.images.shape, sorted(result.history)
    ('steps', torch.Size([2, 3, 8, 8]), ['cross_entropy', 'total', 'tv'])
    """

    images: Tensor
    labels: Tensor | None
    history: History
    best_step: int
    config: dict[str, Any]
    seed: int | None
    seconds: float
    device: str
    stopped: Stopped
    reason: str = ""
    stages: tuple[Tensor, ...] = field(default=())

    @property
    def diverged(self) -> bool:
        """Whether it ended at a term that was not finite, and not as planned or asked for."""
        return self.stopped == "diverged"

    def save(self, folder: str | Path) -> Path:
        """Write ``tensors.safetensors`` and ``result.json`` into ``folder``, each atomically; returns the folder.

        >>> import tempfile, torch
        >>> result = InversionResult(
        ...     images=torch.zeros(1, 1, 2, 2), labels=None, history={"total": (0.5,)}, best_step=0, config={}, seed=0,
        ...     seconds=0.1, device="cpu", stopped="steps",
        ... )
        >>> InversionResult.load(result.save(tempfile.mkdtemp())).history
        {'total': (0.5,)}
        """
        folder = Path(folder)
        tensors = {"images": self.images.contiguous()}
        if self.labels is not None:
            tensors["labels"] = self.labels
        tensors |= {f"stage.{i}": s.contiguous() for i, s in enumerate(self.stages)}
        save_tensors(folder / "tensors.safetensors", tensors)
        record = {
            k: getattr(self, k) for k in ("best_step", "config", "seed", "seconds", "device", "stopped", "reason")
        }
        write_json(folder / "result.json", plain(record | {"history": dict(self.history)}))
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> InversionResult:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: Naming the file that is missing.
            ValueError: Naming the file that holds no such result.
        """
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
    """How a training run went: terms per step, final metrics, time, device and why it stopped.

    ``stopped`` says it in one word and ``reason`` in a sentence, which names the term and the step of a divergence.

    >>> FitResult(history={}, metrics={}, steps=4, seconds=0.1, device="cpu", stopped="steps", config={}).diverged
    False
    """

    history: History
    metrics: dict[str, float]
    steps: int
    seconds: float
    device: str
    stopped: Stopped
    config: dict[str, Any]
    seed: int | None = None
    reason: str = ""

    @property
    def diverged(self) -> bool:
        """Whether it ended for what ``reason`` says, and not as planned or asked for."""
        return self.stopped == "diverged"
