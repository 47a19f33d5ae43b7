"""The loop that optimises images: Adam on pixels in [0, 1], for every method's objective."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from invkit.core.config import Config, config_hash, is_number, plain
from invkit.core.device import progress
from invkit.core.files import digest, read_checkpoint, save_state
from invkit.core.results import InversionResult, Step
from invkit.objectives.objective import Gradient, Objective
from invkit.transforms.jitter import apply_jitter, draw_jitter, undo_jitter

Callback = Callable[[Step], bool | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig(Config):
    """How images are optimised; every method's config adds its own weights to these fields."""

    steps: int = 2000
    """Steps at full resolution."""
    lr: float = 0.05
    """Adam's step size, in units of the pixel range [0, 1] (Yin et al.: 0.05 on normalised images)."""
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    plateau_patience: float = 0.05
    """Share of the steps without improvement after which the plateau schedule halves lr (§4.1.2)."""
    patience: float | None = None
    """Share of the steps without improvement after which to stop early (§4.1.2: 0.15); None never stops."""
    jitter: int = 0
    """Largest offset in pixels (§3.1.2)."""
    wrap: bool = True
    """Whether jitter wraps around (§4.1.2) or shifts in black, as random cropping with padding does in training."""
    flip: float = 0.0
    """Probability of a horizontal flip of each image (§3.1.2)."""
    clip: bool = True
    """Clamp to [0, 1] after each step (§3.1.2)."""
    low_resolutions: tuple[tuple[int, int], ...] = ()
    """(size, steps) of square stages before full resolution, nearest-neighbour up-sampled (§3.1.3)."""
    micro_batch: int | None = None
    """Images per forward pass; the gradient stays that of the whole batch."""
    bf16: bool = False
    """Run the network under bfloat16 autocast; pixels, statistics and Adam stay in float32."""
    compile: bool = False
    """torch.compile the forward pass and losses; pays off in long runs."""
    log_every: int = 50
    """Steps between looks at the loss on the host: non-finite check, patience, plateau, checkpoint."""
    checkpoint_every: int = 500
    """Steps between checkpoints, where a path is given."""

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {"ci": {"steps": 20}, "book": {"steps": 300}, "paper": {}}

    def __post_init__(self) -> None:
        self.require_whole("steps", "log_every", "checkpoint_every")
        self.require_whole("jitter", least=0)
        self.require_positive("lr", "plateau_patience")
        self.require_betas()
        self.require_choice("schedule", "cosine", "plateau", "constant")
        self.require("flip", is_number(self.flip) and 0 <= self.flip <= 1, "be a probability")
        if self.patience is not None:
            self.require_positive("patience")
        if self.micro_batch is not None:
            self.require_whole("micro_batch")
        pairs = all(
            isinstance(r, tuple | list) and len(r) == 2 and all(isinstance(v, int) and v >= 1 for v in r)
            for r in self.low_resolutions
        )
        self.require("low_resolutions", pairs, "be pairs (size, steps) of whole numbers of at least 1")


def optimise_images(
    objective: Objective,
    images: Tensor,
    config: LoopConfig,
    *,
    generator: torch.Generator,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
) -> InversionResult:
    """Minimise ``objective`` over the pixels of ``images`` ``(N, C, H, W)`` and return the best images met.

    Goes through ``config.low_resolutions``, then full resolution. ``checkpoint`` names a file that is written every
    ``config.checkpoint_every`` steps and resumed from, to the same bits, where it exists. A callback that returns True
    ends the run, so does Ctrl-C; a non-finite term ends it with the step and the term named in ``stopped``.

    The images returned are those of the lowest loss met, so those after the very last step, never evaluated, do not
    count; with ``clip=False`` they may leave [0, 1]. Under ``torchrun`` give each rank a checkpoint of its own.

    Raises ``ValueError`` when the checkpoint belongs to another run.
    """
    run = _Run(objective, images, config, generator, checkpoint)
    started = time.perf_counter()
    with ExitStack() as stack:
        if objective.penalty:
            stack.enter_context(objective.penalty.attached())
        stopped = run.go(callbacks)
    return run.result(stopped, time.perf_counter() - started)


class _Run:
    """The state of one optimisation: what a checkpoint holds, and the steps that move it."""

    def __init__(
        self,
        objective: Objective,
        images: Tensor,
        config: LoopConfig,
        generator: torch.Generator,
        checkpoint: str | Path | None,
    ) -> None:
        if len(images) != len(objective.references):
            raise ValueError(f"{len(images)} images were given for {len(objective.references)} labels")
        self.objective, self.config, self.generator = objective, config, generator
        self.checkpoint = Path(checkpoint) if checkpoint else None
        full = (tuple(images.shape[-2:]), config.steps)
        self.plan = [*(((s, s), steps) for s, steps in config.low_resolutions), full]
        self.seed = generator.initial_seed()
        fingerprint = getattr(objective.network, "fingerprint", None)
        self.network = (
            fingerprint() if fingerprint and checkpoint else ""
        )  # hashed once; a checkpoint is this network's
        self.values = torch.full((sum(n for _, n in self.plan), len(objective.names)), math.nan, device=images.device)
        self.start = digest(images, generator.get_state()) if checkpoint else ""
        self.done = 0  # steps over all stages
        self.stages: list[Tensor] = []
        self.start_stage(0, images.detach())
        self.gradient = Gradient(objective, micro_batch=config.micro_batch, bf16=config.bf16, compile=config.compile)
        if self.checkpoint and self.checkpoint.exists():
            self.restore(read_checkpoint(self.checkpoint, self.key()))

    def start_stage(self, stage: int, images: Tensor) -> None:
        """Resize to the stage's resolution and make the optimiser anew."""
        size, self.steps = self.plan[stage]
        if tuple(images.shape[-2:]) != size:
            mode = "area" if images.shape[-1] > size[1] else "nearest"
            images = F.interpolate(images, size=size, mode=mode)
        self.stage, self.step = stage, 0
        # Convolutions and the backward pass of the moments are fastest on channels-last feature maps.
        self.images = images.clone(memory_format=torch.channels_last)
        self.best_images, self.best_step = self.images.clone(), torch.zeros((), dtype=torch.long, device=images.device)
        self.best_loss = torch.full((), math.inf, device=images.device)
        self.seen_best, self.since_best, self.since_cut = math.inf, 0, 0  # the host's copy of best_loss; steps since
        self.adam = torch.optim.Adam([self.images], lr=self.config.lr, betas=self.config.betas)

    def go(self, callbacks: Sequence[Callback]) -> str:
        """Run what is left of all stages; say why it ended."""
        bar = progress(range(len(self.values)), len(self.values), "inverting", self.done)
        try:
            while True:
                while self.step < self.steps:
                    stop = self.advance(callbacks)
                    bar.update()
                    if stop == "patience" and self.stage + 1 < len(self.plan):
                        break  # a low resolution has given what it can
                    if stop:
                        return stop
                if self.stage + 1 == len(self.plan):
                    return "steps"
                self.stages.append(self.best_images.contiguous().cpu())
                self.start_stage(self.stage + 1, self.best_images)
        except KeyboardInterrupt:
            return self.bad() or "interrupted"
        finally:
            bar.close()

    def advance(self, callbacks: Sequence[Callback]) -> str:
        """One step; a non-empty answer is the reason to stop."""
        draw = draw_jitter(len(self.images), self.config.jitter, self.config.flip, self.generator)
        values, gradient = self.gradient(apply_jitter(self.images, draw, self.config.wrap))
        self.keep_best(values.sum())
        self.values[self.done] = values
        if self.config.schedule == "cosine":
            self.adam.param_groups[0]["lr"] = self.config.lr * (1 + math.cos(math.pi * self.step / self.steps)) / 2
        self.images.grad = undo_jitter(gradient, draw, self.config.wrap)
        self.adam.step()
        self.images.grad = None  # not to be held through the next forward pass
        if self.config.clip:
            self.images.clamp_(0, 1)
        self.step, self.done = self.step + 1, self.done + 1
        named = dict(zip((*self.objective.names, "total"), (*values, values.sum()), strict=True)) if callbacks else {}
        record = Step(index=self.done - 1, stage=self.stage, images=self.images, values=named)
        answers = [callback(record) for callback in callbacks]  # every one is asked
        if any(answer is True for answer in answers):
            return self.bad() or "callback"
        return self.look() if self.done % self.config.log_every == 0 or self.step == self.steps else ""

    def keep_best(self, loss: Tensor) -> None:
        """A true copy of the best images so far, chosen on the device; NaN never compares as better."""
        better = loss < self.best_loss
        self.best_loss = torch.where(better, loss, self.best_loss)
        torch.where(better, self.images, self.best_images, out=self.best_images)
        self.best_step = torch.where(better, self.done, self.best_step)

    def look(self) -> str:
        """Bring the losses to the host: non-finite terms, patience, plateau, checkpoint."""
        if bad := self.bad():
            return bad
        best, stride = float(self.best_loss), self.config.log_every
        fell = best < self.seen_best
        self.seen_best = best
        self.since_best = 0 if fell else self.since_best + stride
        self.since_cut = 0 if fell else self.since_cut + stride
        if self.config.schedule == "plateau" and self.since_cut >= max(
            self.config.plateau_patience * self.steps, stride
        ):
            self.adam.param_groups[0]["lr"] /= 2
            self.since_cut = 0
        if self.config.patience is not None and self.since_best >= max(self.config.patience * self.steps, stride):
            return "patience"
        if self.checkpoint and self.done % self.config.checkpoint_every < stride and self.done < len(self.values):
            save_state(self.checkpoint, self.state())
        return ""

    def bad(self) -> str:
        """Names the first term that was not finite, and its step; empty where all were."""
        found = (~self.values[: self.done].isfinite()).nonzero()
        if not len(found):
            return ""
        step, term = found[0].tolist()
        return f"the term {self.objective.names[term]!r} became {float(self.values[step, term])} at step {step}"

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs to go on with the same bits."""
        names = ("images", "best_images", "best_loss", "best_step", "values", "stages", "stage", "step", "done")
        counters = ("seen_best", "since_best", "since_cut")
        kept = {n: getattr(self, n) for n in (*names, *counters)}
        kept["memory"] = self.objective.state.state_dict() if self.objective.state else {}
        return kept | {"adam": self.adam.state_dict(), "generator": self.generator.get_state(), "key": self.key()}

    def key(self) -> str:
        """What must agree between a checkpoint and the run that resumes it."""
        about = [self.network, self.objective.depends_on, self.plan, self.objective.references, self.start]
        return config_hash([self.config, self.objective.names, *about])

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        device = self.images.device
        self.start_stage(state["stage"], state["images"].to(device))
        self.adam.load_state_dict(state["adam"])
        for name in ("best_images", "best_loss", "best_step", "values"):
            setattr(self, name, state[name].to(device))
        for name in ("stages", "step", "done", "seen_best", "since_best", "since_cut"):
            setattr(self, name, state[name])
        self.generator.set_state(state["generator"])
        if self.objective.state:
            self.objective.state.load_state_dict(state["memory"])

    def result(self, stopped: str, seconds: float) -> InversionResult:
        """The record of the run; a checkpoint of a finished run is removed."""
        if stopped in ("steps", "patience") and self.checkpoint:
            self.checkpoint.unlink(missing_ok=True)
        values = self.values[: self.done].double().cpu()
        history = {name: tuple(values[:, i].tolist()) for i, name in enumerate(self.objective.names)}
        history["total"] = tuple(values.sum(1).tolist())
        device = torch.cuda.get_device_name(self.images.device) if self.images.is_cuda else "cpu"
        size, _ = self.plan[-1]  # a run that ended in a low resolution still gives images of the size asked for
        images = (
            self.best_images if tuple(self.best_images.shape[-2:]) == size else F.interpolate(self.best_images, size)
        )
        return InversionResult(
            images=images.contiguous().cpu(),
            labels=self.objective.references.cpu(),
            history=history,
            best_step=int(self.best_step),
            config=plain(self.config),
            seed=self.seed,
            seconds=seconds,
            device=device,
            stopped=stopped,
            stages=tuple(self.stages),
        )
