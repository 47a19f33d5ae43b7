"""The loop that optimises images: Adam on pixels in [0, 1], for every method's objective."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from invkit.core.config import Config, config_hash, is_number, plain
from invkit.core.device import progress
from invkit.core.files import digest, read_checkpoint, save_state
from invkit.core.results import InversionResult, Step, Stopped
from invkit.core.rng import default_generator
from invkit.core.target import Target
from invkit.core.trial import in_trial
from invkit.engine.image_adam import ImageAdam, scales_of
from invkit.engine.multiscale import Stage
from invkit.objectives.objective import Gradient, Objective
from invkit.transforms.jitter import draw_jitter
from invkit.transforms.resize import initial_images

Callback = Callable[[Step], bool | None]
C = TypeVar("C", bound="LoopConfig")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig(Config):
    """How images are optimised; every method's config adds its own weights to these fields."""

    steps: int = 2000
    """Steps at full resolution."""
    lr: float = 0.05
    """Adam's step size, in units of the pixel range [0, 1] (Yin et al.: 0.05 on normalised images)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates."""
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    """Of the step size: half a cosine down to zero, cut where nothing is gained, or as it is."""
    plateau_factor: float = 0.5
    """What the plateau schedule multiplies lr by."""
    plateau_patience: float = 0.05
    """Share of the steps without improvement after which the plateau schedule cuts lr (§4.1.2)."""
    patience: float | None = None
    """Share of the steps without improvement after which to stop early (§4.1.2: 0.15); None never stops."""
    jitter: float = 0
    """Largest offset (§3.1.2): a share of the image's size below 1, else a whole number of pixels."""
    together: bool = False
    """Whether all images of a batch are shifted and flipped alike."""
    wrap: bool | None = True
    """Whether jitter wraps around (§4.1.2) or shifts in black, as random cropping with padding does in training, whose
    black borders are then in the statistics too. None goes by the custom of training: black up to 64 pixels."""
    flip: float = 0.0
    """Probability of a horizontal flip of each image (§3.1.2)."""
    clip: bool = True
    """Clamp to [0, 1] after each step (§3.1.2)."""
    scales: int | None = 1
    """Scales at which :class:`~invkit.engine.image_adam.ImageAdam` moves the images: 1 is pixels alone, None all."""
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
        finite = is_number(self.jitter) and math.isfinite(self.jitter)
        share_or_pixels = finite and (0 <= self.jitter < 1 or self.jitter == int(self.jitter) >= 1)
        self.require("jitter", share_or_pixels, "be a share in [0, 1) or a whole number of pixels >= 1")
        self.require_positive("lr", "plateau_patience")
        self.require("plateau_factor", is_number(self.plateau_factor) and 0 < self.plateau_factor < 1, "lie in (0, 1)")
        if self.scales is not None:
            self.require_whole("scales")
        self.require_betas()
        self.require_choice("schedule", "cosine", "plateau", "constant")
        self.require("flip", is_number(self.flip) and 0 <= self.flip <= 1, "be a probability")
        if self.patience is not None:
            self.require_positive("patience")
        if self.micro_batch is not None:
            self.require_whole("micro_batch")

    def wraps(self, size: tuple[int, int]) -> bool:
        """Whether jitter of images that are ``size`` in the end wraps around.

        >>> LoopConfig(wrap=None).wraps((32, 32)), LoopConfig(wrap=None).wraps((224, 224))
        (False, True)
        """
        return min(size) > 64 if self.wrap is None else self.wrap

    def offset(self, size: tuple[int, int]) -> int:
        """The largest offset in pixels of images of ``size``.

        >>> LoopConfig(jitter=0.125).offset((32, 32)), LoopConfig(jitter=3).offset((32, 32))
        (4, 3)
        """
        return round(self.jitter * min(size)) if self.jitter < 1 else int(self.jitter)


def in_pixels(config: C, target: Target, normalised: bool) -> C:
    """What the loop takes: it moves pixels in [0, 1], so a step in units of normalised pixels is scaled to those.

    >>> from invkit.testing import tiny_target
    >>> in_pixels(LoopConfig(lr=0.4), tiny_target(), normalised=False).lr
    0.4
    """
    return replace(config, lr=config.lr * fmean(target.spec.std)) if normalised else config


def prepare(
    target: Target, config: C | None, default: type[C], generator: torch.Generator | None
) -> tuple[C, torch.Generator]:
    """What every inversion of ``target`` begins with: the config and the generator, or their defaults.

    Raises:
        TypeError: For another method's config.
        ValueError: For a network in train mode.

    >>> from invkit.testing import tiny_target
    >>> prepare(tiny_target(), None, LoopConfig, None)[0].steps
    2000
    """
    if not isinstance(target, Target):
        raise TypeError(
            f"target must be a Target, not a {type(target).__name__}; wrap the network: Target(module, spec)"
        )
    target.check_frozen()
    if config is not None and not isinstance(config, default):
        raise TypeError(f"config must be a {default.__name__}, not {type(config).__name__}")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator such as seeded(0), not a {type(generator).__name__}")
    return config or default(), generator or default_generator()


Noise = Callable[[int, Sequence[int], torch.Generator], Tensor]


def start_images(
    target: Target, count: int, init: Tensor | None, generator: torch.Generator, noise: Noise = initial_images
) -> Tensor:
    """``init`` ``(count, C, H, W)`` if it fits, else ``noise``; on the target's device.

    >>> from invkit.testing import tiny_target
    >>> start_images(tiny_target(), 2, None, torch.Generator()).shape
    torch.Size([2, 3, 8, 8])
    """
    if init is None:
        return noise(count, target.spec.shape, generator).to(target.device, target.dtype)
    images = target.check(init, "init")
    if len(images) != count:
        raise ValueError(f"init must hold one image for each of the {count} labels or features, not {len(images)}")
    return images.to(target.device)


class Ending(NamedTuple):
    """Why a run ended, in one word and in a sentence."""

    word: Stopped
    reason: str


def optimise_images(
    objective: Objective,
    images: Tensor,
    config: LoopConfig,
    *,
    generator: torch.Generator,
    stages: Sequence[Stage] = (),
    pick: Literal["best", "last"] = "best",
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
) -> InversionResult:
    """Minimise ``objective`` over the pixels of ``images`` ``(N, C, H, W)`` and return the best images met.

    A callback that returns True ends the run, so does Ctrl-C; a term that is not finite ends it too, with the step and
    the term named in ``reason``. The best images are those of the lowest loss met, so those after the very last step,
    never evaluated, do not count; with ``clip=False`` they may leave [0, 1]. Under ``torchrun`` give each rank a
    checkpoint of its own.

    Args:
        objective: What is minimised, with one row of references for each image.
        images: Where to begin, on the network's device.
        config: How to optimise.
        generator: Source of the jitter.
        stages: Resolutions to go through, with their own numbers of steps; without any it is ``config.steps`` at the
            size of ``images``. A stage that ends by ``patience`` hands on to the next.
        pick: ``last`` hands on and returns the images after the last step of a stage, for losses that do not compare
            from step to step, unless a term was not finite.
        callbacks: Called after each step.
        checkpoint: A file that is written every ``config.checkpoint_every`` steps and at the beginning of each stage
            but the first, and resumed from, to the same bits, where it exists.

    Returns:
        One record of all stages.

    Raises:
        ValueError: When the checkpoint belongs to another run.

    >>> from invkit.testing import tiny_target
    >>> objective = Objective(
    ...     network=tiny_target(), terms={"logit": (-1.0, lambda batch: batch.outputs[:, 0])}, references=torch.zeros(1)
    ... )
    >>> grey = torch.full((1, 3, 8, 8), 0.5)
    >>> result = optimise_images(objective, grey, LoopConfig(steps=3), generator=torch.Generator())
    >>> result.history["total"][-1] < result.history["total"][0]
    True
    """
    run = _Run(objective, images, config, generator, stages, pick, Path(checkpoint) if checkpoint else None)
    started = time.perf_counter()
    with ExitStack() as stack:
        if objective.penalty:
            stack.enter_context(objective.penalty.attached())
        ending = run.go(callbacks)
    return run.result(ending, time.perf_counter() - started)


class _Run:
    """The state of one optimisation: what a checkpoint holds, and the steps that move it."""

    def __init__(
        self,
        objective: Objective,
        images: Tensor,
        config: LoopConfig,
        generator: torch.Generator,
        stages: Sequence[Stage],
        pick: Literal["best", "last"],
        checkpoint: Path | None,
    ) -> None:
        if len(images) != len(objective.references):
            raise ValueError(f"{len(images)} images were given for {len(objective.references)} labels")
        self.objective, self.config, self.generator = objective, config, generator
        self.staged, self.pick, self.checkpoint = bool(stages), pick, checkpoint
        size = (images.shape[-2], images.shape[-1])
        plan = stages or [Stage(size=size, steps=config.steps, start=lambda images: images)]
        self.plan = [replace(stage, steps=in_trial(stage.steps)) for stage in plan]
        self.seed = generator.initial_seed()
        # Hashed once: a checkpoint is this network's, and of these first images.
        fingerprint = getattr(objective.network, "fingerprint", None)
        self.network = fingerprint() if fingerprint and checkpoint else ""
        self.given = digest(images, generator.get_state()) if checkpoint else ""
        steps = sum(stage.steps for stage in self.plan)
        self.values = torch.full((steps, len(objective.names)), math.nan, device=images.device)
        self.done = 0  # steps over all stages
        self.finished: list[Tensor] = []  # the images of finished stages
        self.gradient = Gradient(objective, micro_batch=config.micro_batch, bf16=config.bf16, compile=config.compile)
        if self.checkpoint and self.checkpoint.exists():
            self.restore(read_checkpoint(self.checkpoint, self.key()), images.device)
        else:
            self.begin(0, self.plan[0].start(images.detach()))

    def begin(self, stage: int, images: Tensor) -> None:
        """Optimise ``images`` from now on, with a new optimiser."""
        self.stage, self.step, self.steps = stage, 0, self.plan[stage].steps
        # Convolutions and the backward pass of the moments are fastest on channels-last feature maps.
        self.images = images.clone(memory_format=torch.channels_last)
        self.best_images, self.best_step = self.images.clone(), torch.zeros((), dtype=torch.long, device=images.device)
        self.best_loss = torch.full((), math.inf, device=images.device)
        self.seen_best, self.since_best, self.since_cut = math.inf, 0, 0  # the host's copy of best_loss; steps since
        size = (images.shape[-2], images.shape[-1])
        self.jitter = self.config.offset(size)
        scales = scales_of(size) if self.config.scales is None else self.config.scales
        self.adam = ImageAdam(self.images, self.config.lr, self.config.betas, scales)

    def go(self, callbacks: Sequence[Callback]) -> Ending:
        """Run what is left of all stages; say why it ended."""
        bar = progress(range(len(self.values)), len(self.values), "inverting", self.done)
        try:
            while True:
                ending = self.finish_stage(callbacks, bar.update)
                last = self.stage + 1 == len(self.plan)
                if last or ending.word not in ("steps", "patience"):
                    return ending
                self.finished.append(self.picked())
                self.begin(self.stage + 1, self.plan[self.stage + 1].start(self.finished[-1].to(self.images.device)))
                self.save()
        except KeyboardInterrupt:
            return self.divergence() or Ending("interrupted", f"interrupted after {self.done} steps")
        finally:
            bar.close()

    def finish_stage(self, callbacks: Sequence[Callback], update: Callable[[], Any]) -> Ending:
        """Run what is left of this stage."""
        while self.step < self.steps:
            ending = self.advance(callbacks)
            update()
            if ending:
                return ending
        return Ending("steps", f"all {self.done} steps were taken")

    def advance(self, callbacks: Sequence[Callback]) -> Ending | None:
        """One step; the answer, if any, is why to stop."""
        draw = draw_jitter(len(self.images), self.jitter, self.config.flip, self.generator, self.config.together)
        values, gradient = self.gradient(self.images, draw, self.config.wraps(self.plan[-1].size))
        self.keep_best(values.sum())
        self.values[self.done] = values
        if self.config.schedule == "cosine":
            self.adam.lr = self.config.lr * (1 + math.cos(math.pi * self.step / self.steps)) / 2
        self.adam.step(gradient)
        if self.config.clip:
            self.images.clamp_(0, 1)
        self.step, self.done = self.step + 1, self.done + 1
        named = dict(zip((*self.objective.names, "total"), (*values, values.sum()), strict=True)) if callbacks else {}
        record = Step(index=self.done - 1, stage=self.stage, images=self.images, values=named)
        answers = [callback(record) for callback in callbacks]  # every one is asked
        if any(answer is True for answer in answers):
            return self.divergence() or Ending("callback", f"a callback ended the run after step {record.index}")
        return self.look() if self.done % self.config.log_every == 0 or self.step == self.steps else None

    def keep_best(self, loss: Tensor) -> None:
        """A true copy of the best images so far, chosen on the device; NaN never compares as better."""
        better = loss < self.best_loss
        self.best_loss = torch.where(better, loss, self.best_loss)
        torch.where(better, self.images, self.best_images, out=self.best_images)
        self.best_step = torch.where(better, self.done, self.best_step)

    def look(self) -> Ending | None:
        """Bring the losses to the host: non-finite terms, patience, plateau, checkpoint."""
        if diverged := self.divergence():
            return diverged
        best, stride = float(self.best_loss), self.config.log_every
        fell = best < self.seen_best
        self.seen_best = best
        self.since_best = 0 if fell else self.since_best + stride
        self.since_cut = 0 if fell else self.since_cut + stride
        if self.config.schedule == "plateau" and self.since_cut >= max(
            self.config.plateau_patience * self.steps, stride
        ):
            self.adam.lr *= self.config.plateau_factor
            self.since_cut = 0
        if self.config.patience is not None and self.since_best >= max(self.config.patience * self.steps, stride):
            return Ending("patience", f"the loss had not fallen for {self.since_best} steps after {self.done}")
        if self.done % self.config.checkpoint_every < stride and self.done < len(self.values):
            self.save()
        return None

    def divergence(self) -> Ending | None:
        """Names the first term that was not finite, and its step; None where all were."""
        bad = (~self.values[: self.done].isfinite()).nonzero()
        if not len(bad):
            return None
        step, term = bad[0].tolist()
        value = float(self.values[step, term])
        return Ending("diverged", f"the term {self.objective.names[term]!r} became {value} at step {step}")

    def save(self) -> None:
        """Write the checkpoint, where one is asked for: everything that a resumed run needs for the same bits."""
        if self.checkpoint is None:
            return
        names = ("images", "best_images", "best_loss", "best_step", "values", "finished", "stage", "step", "done")
        counters = ("seen_best", "since_best", "since_cut")
        state = {name: getattr(self, name) for name in (*names, *counters)}
        state["memory"] = self.objective.state.state_dict() if self.objective.state else {}
        state |= {"adam": self.adam.state_dict(), "generator": self.generator.get_state(), "key": self.key()}
        save_state(self.checkpoint, state)

    def key(self) -> str:
        """What must agree between a checkpoint and the run that resumes it."""
        plan = [(stage.size, stage.steps) for stage in self.plan]
        about = [self.network, self.objective.depends_on, plan, self.objective.references, self.given]
        return config_hash([self.config, self.objective.names, *about])

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from what :meth:`save` wrote."""
        self.begin(state["stage"], state["images"].to(device))
        self.adam.load_state_dict(state["adam"])
        for name in ("best_images", "best_loss", "best_step", "values"):
            setattr(self, name, state[name].to(device))
        for name in ("finished", "step", "done", "seen_best", "since_best", "since_cut"):
            setattr(self, name, state[name])
        self.generator.set_state(state["generator"])
        if self.objective.state:
            self.objective.state.load_state_dict(state["memory"])

    def picked(self, diverged: bool = False) -> Tensor:
        """The images of this stage, on the CPU."""
        return (self.images if self.pick == "last" and not diverged else self.best_images).contiguous().cpu()

    def result(self, ending: Ending, seconds: float) -> InversionResult:
        """The record of the run; a checkpoint of a finished run is removed."""
        if ending.word in ("steps", "patience") and self.checkpoint:
            self.checkpoint.unlink(missing_ok=True)
        values = self.values[: self.done].double().cpu()
        history = {name: tuple(values[:, i].tolist()) for i, name in enumerate(self.objective.names)}
        history["total"] = tuple(values.sum(1).tolist())
        diverged = ending.word == "diverged"
        images, size = self.picked(diverged), self.plan[-1].size
        return InversionResult(
            # A run that ended in a low resolution still gives images of the size asked for.
            images=images if tuple(images.shape[-2:]) == size else F.interpolate(images, size),
            labels=self.objective.references.cpu(),
            history=history,
            best_step=self.done if self.pick == "last" and not diverged else int(self.best_step),
            config=plain(self.config),
            seed=self.seed,
            seconds=seconds,
            device=torch.cuda.get_device_name(self.images.device) if self.images.is_cuda else "cpu",
            stopped=ending.word,
            reason=ending.reason,
            stages=(*self.finished, images) if self.staged else (),
        )
