"""An inversion in stages: the results so far, a checkpoint of them, and one record of all."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from invkit.core.config import plain
from invkit.core.files import Stateful, read_checkpoint, save_state
from invkit.core.results import InversionResult
from invkit.transforms.resize import resize_images


class Stages:
    """Results of the stages that are over, from a ``checkpoint`` where a run with the same ``key`` has left one.

    ``current`` is the file for the stage under way, beside that of the finished ones.
    """

    def __init__(self, checkpoint: str | Path | None, key: str) -> None:
        self.checkpoint = Path(checkpoint) if checkpoint else None
        self.current = self.checkpoint.with_name(self.checkpoint.name + ".stage") if self.checkpoint else None
        self.key = key
        self.results: list[InversionResult] = []

    @property
    def steps(self) -> int:
        """Steps taken in all finished stages."""
        return sum(len(r.history["total"]) for r in self.results)

    def resume(self, generator: torch.Generator, memory: Stateful) -> None:
        """Take up the checkpoint, if there is one; ``ValueError`` if it is another run's."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return
        state = read_checkpoint(self.checkpoint, self.key)
        self.results = [InversionResult(**values) for values in state["results"]]
        generator.set_state(state["generator"])
        memory.load_state_dict(state["memory"])

    def add(self, result: InversionResult, generator: torch.Generator, memory: Stateful) -> bool:
        """Keep a stage's result; whether the next one may begin."""
        self.results.append(result)
        over = result.stopped in ("steps", "patience")
        if over and self.checkpoint:  # a stage cut short goes on from ``current``
            kept = [{f.name: getattr(r, f.name) for f in fields(r)} for r in self.results]
            state = {"results": kept, "generator": generator.get_state(), "memory": memory.state_dict()}
            save_state(self.checkpoint, state | {"key": self.key})
        return over

    def joined(self, size: tuple[int, int], config: Any) -> InversionResult:
        """One record of all stages, with images of ``size``; the checkpoint of a finished run is removed."""
        last, before = self.results[-1], self.steps - len(self.results[-1].history["total"])
        if self.checkpoint and last.stopped in ("steps", "patience"):
            self.checkpoint.unlink(missing_ok=True)
        return replace(
            last,
            images=resize_images(last.images, size),
            history={name: tuple(v for r in self.results for v in r.history[name]) for name in last.history},
            best_step=before + last.best_step,
            config=plain(config),
            seconds=sum(r.seconds for r in self.results),
            stages=tuple(r.images for r in self.results),
        )
