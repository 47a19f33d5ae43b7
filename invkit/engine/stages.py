"""Training in stages: what each one did, and a folder in which finished stages outlast an interruption."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from invkit.core.config import plain
from invkit.core.files import load_state, read_json, save_state, write_json
from invkit.core.results import FitResult, Stopped
from invkit.engine.fit import Batches, Callback, FitConfig, fit, require_trained
from invkit.engine.learner import Learner


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """How one stage went: the fit of each phase, loss weights that were measured, and the metrics at its end.

    ``stopped`` and ``reason`` are those of the last phase.
    """

    depth: int
    name: str
    fits: dict[str, FitResult]
    stopped: Stopped
    reason: str = ""
    loss_weights: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StagesResult:
    """How a training in stages went; ``stopped`` (``steps``, ``callback`` or ``interrupted``) and ``reason`` are the
    last stage's.
    """

    stages: tuple[StageResult, ...]
    seconds: float
    device: str
    stopped: Stopped
    config: dict[str, Any]
    seed: int | None = None
    reason: str = ""


class Restorable(Protocol):
    """A network whose first parts can be written into a folder and read back."""

    def save(self, folder: Path, depth: int, /) -> Any: ...
    def restore(self, folder: Path, depth: int, /) -> Any: ...


class StageFolder:
    """Finished stages of one run in a folder, or, without one, nowhere.

    Args:
        folder: Where they are kept; None keeps nothing.
        about: What the run is of, in plain values.

    Raises:
        ValueError: Where the folder holds a run that is about something else, naming what differs.
    """

    def __init__(self, folder: str | Path | None, about: dict[str, Any]) -> None:
        self.folder = None if folder is None else Path(folder)
        if self.folder is None:
            return
        path = self.folder / "run.json"
        if not path.exists():
            write_json(path, about)
            return
        record = read_json(path, "record of a run")
        differing = [k for k, v in about.items() if record.get(k) != json.loads(json.dumps(plain(v)))]
        if differing:
            first = differing[0]
            raise ValueError(
                f"{self.folder} holds stages of another run: {', '.join(differing)} differ "
                f"({first} there: {record.get(first)}, here: {about[first]}); choose another folder"
            )

    def run(
        self, depth: int, name: str, phases: Iterable[tuple[str, Learner[Any], FitConfig]], batches: Batches, *,
        generator: torch.Generator, callbacks: Sequence[Callback] = (),
    ) -> StageResult:  # fmt: skip
        """Fit the learner of each phase, made when its turn comes; each goes on from its checkpoint in the folder.

        Raises:
            DivergedError: Naming the stage and the phase that diverged.
        """
        fits: dict[str, FitResult] = {}
        loss_weights: dict[str, float] = {}
        for phase, learner, config in phases:
            fits[phase] = fit(
                learner, batches, config, generator=generator, callbacks=callbacks,
                checkpoint=self.unfinished(depth, phase), desc=f"{name} {phase}",
            )  # fmt: skip
            loss_weights = dict(getattr(learner, "loss_weights", {}))
            result = fits[phase]
            require_trained(result, f"stage {depth} ({name!r}, {phase})", "try a smaller lr")
            if result.stopped != "steps":
                break
        return StageResult(
            depth=depth, name=name, fits=fits, stopped=result.stopped, reason=result.reason, loss_weights=loss_weights
        )

    def unfinished(self, stage: int, phase: str) -> Path | None:
        """Where a phase of a stage keeps its own checkpoint."""
        return None if self.folder is None else self.folder / f"stage_{stage:02d}_{phase}.pt"

    def keep(self, done: Sequence[StageResult], network: Restorable, generator: torch.Generator) -> None:
        """Write ``network`` and the records of ``done``, whose last stage has just ended, and drop its checkpoints."""
        if self.folder is None:
            return
        depth = done[-1].depth
        network.save(self.folder / f"stage_{depth:02d}", depth)
        state = {"depth": depth, "generator": generator.get_state(), "stages": json.dumps(plain(done))}
        save_state(self.folder / f"stage_{depth:02d}.pt", state)  # last: a stage with a record is whole
        for phase in done[-1].fits:
            path = self.unfinished(depth, phase)
            if path is not None:
                path.unlink(missing_ok=True)

    def restore(self, network: Restorable, generator: torch.Generator) -> list[StageResult]:
        """Put ``network`` and ``generator`` to where the last finished stage left them; returns the finished ones."""
        records = sorted(self.folder.glob("stage_[0-9][0-9].pt")) if self.folder is not None else []
        if not records:
            return []
        try:
            state = load_state(records[-1], "stage")
            network.restore(records[-1].with_suffix(""), state["depth"])
            generator.set_state(state["generator"])
            return [_stage(stage) for stage in json.loads(state["stages"])]
        except Exception as error:  # torch raises pickle, zip and runtime errors here
            raise ValueError(
                f"{records[-1]} is not a readable stage ({type(error).__name__}); delete it to train it anew"
            ) from error


def _stage(record: dict[str, Any]) -> StageResult:
    fits = {name: FitResult(**fit | {"history": _tuples(fit["history"])}) for name, fit in record.pop("fits").items()}
    return StageResult(**record, fits=fits)


def _tuples(history: dict[str, list[float]]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(values) for name, values in history.items()}
