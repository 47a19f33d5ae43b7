"""The one loop for what learns: how long, by which learning rate, and how a run stops, is kept and goes on."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from invkit.core.config import Config, config_hash, plain
from invkit.core.device import progress
from invkit.core.files import read_checkpoint, save_state
from invkit.core.results import DivergedError, FitResult, Stopped
from invkit.core.rng import isolated_rng
from invkit.core.trial import in_trial
from invkit.data.batching import batches
from invkit.engine.learner import Learner


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig(Config):
    """How long and by which schedule to train; learners' configs add their own fields."""

    steps: int = 400
    """Optimiser steps."""
    schedule: Literal["cosine", "restarts", "constant"] = "cosine"
    """Of the learning rate: half a cosine to zero, the same again in each period, or none."""
    warmup: int = 0
    """Steps over which the learning rate grows linearly from nothing."""
    period: int = 100
    """Steps between warm restarts (Loshchilov & Hutter 2017), for ``schedule="restarts"``."""
    log_every: int = 50
    """Steps between looks at the terms on the host: the check for non-finite values, and the state kept as
    good.
    """
    evaluate_every: int | None = None
    """Steps between evaluations; None evaluates at the end only."""
    checkpoint_every: int = 500
    """Steps between checkpoints, where a path is given."""

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {
        "ci": {"steps": 40},
        "book": {},
        "paper": {"steps": 20_000},
    }

    def __post_init__(self) -> None:
        self.require_whole("steps", "period", "log_every", "checkpoint_every")
        if self.evaluate_every is not None:
            self.require_whole("evaluate_every")
        self.require_choice("schedule", "cosine", "restarts", "constant")
        self.require("warmup", 0 <= self.warmup < self.steps, f"lie in 0..steps - 1 (steps is {self.steps})")


def lr_factor(config: FitConfig, step: int) -> float:
    """The factor of the base learning rate at ``step`` (from 0): a function of the step alone, so resuming
    needs no state.

    >>> config = FitConfig(steps=100, warmup=10)
    >>> lr_factor(config, 4), lr_factor(config, 10), lr_factor(config, 55)
    (0.5, 1.0, 0.5)
    """
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    past, span = step - config.warmup, config.steps - config.warmup
    if config.schedule == "restarts":
        past, span = past % config.period, config.period
    return 0.5 + 0.5 * math.cos(math.pi * past / span)


Batches = Iterable[Any] | Callable[[torch.Generator], Iterable[Any]]
"""A list or loader that is passed over again and again, or a function that starts one pass with a generator."""


def require_trained(result: FitResult, thing: str, advice: str) -> None:
    """Raise :class:`~invkit.core.results.DivergedError` where a run diverged; ``thing`` and ``advice`` stand in it.

    >>> result = FitResult(
    ...     history={}, metrics={}, steps=0, seconds=0.1, device="cpu", config={}, stopped="diverged",
    ...     reason="the term 'error' became nan at step 3; the state after 0 steps was kept",
    ... )
    >>> require_trained(result, "the inverse", "try a smaller lr")
    Traceback (most recent call last):
    invkit.core.results.DivergedError: the inverse did not train: the term 'error' became nan at step 3; the state after
    0 steps was kept; try a smaller lr
    """
    if result.diverged:
        raise DivergedError(f"{thing} did not train: {result.reason}; {advice}")


def epochs(
    images: Tensor, labels: Tensor | None, size: int, *, drop_last: bool = True
) -> Callable[[torch.Generator], Iterator[tuple[Tensor, Tensor]]]:
    """Shuffled passes for :func:`fit`: a function of a generator that starts one pass in batches of ``size``.

    Args:
        images: ``(N, ...)``, uint8 or float; batches are float.
        labels: ``(N, ...)``, what belongs to each of them; None gives zeros to what needs none.
        size: Of a batch.
        drop_last: Leave a rest for a later pass: a last batch of one image would stop batch norm.

    >>> one_pass = epochs(torch.rand(7, 1, 4, 4), None, size=3)
    >>> [len(images) for images, labels in one_pass(torch.Generator())]
    [3, 3]
    """
    if labels is None:
        labels = torch.zeros(len(images), dtype=torch.long)
    return partial(batches, images, labels, size, drop_last=drop_last)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitStep:
    """What a callback sees after a step; ``losses`` reads the terms to the host when called."""

    index: int
    values: Mapping[str, float | Tensor]

    def losses(self) -> dict[str, float]:
        """The step's terms.

        >>> FitStep(index=0, values={"error": torch.tensor(0.5)}).losses()
        {'error': 0.5}
        """
        return {name: float(value) for name, value in self.values.items()}


Callback = Callable[[FitStep], bool | None]
Ending = tuple[Stopped, str]
"""Why a run ended, in one word and in a sentence."""


def fit(
    learner: Learner[Any],
    batches: Batches,
    config: FitConfig,
    *,
    generator: torch.Generator,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
    evaluate: Callable[[], Mapping[str, float]] | None = None,
    desc: str = "fit",
) -> FitResult:
    """Train ``learner`` in place for ``config.steps`` steps over ``batches``, passed over again and again.

    Args:
        learner: What takes the steps.
        batches: A list, a loader, or a function of a generator that starts one pass (its draws must come from there).
        config: Steps, schedule, and how often to look, evaluate and save.
        generator: All randomness comes from it: the global one, which dropout uses, is seeded by it for the run and
            put back after.
        callbacks: Called after each step; one that returns True stops the run.
        checkpoint: A file that is written every ``checkpoint_every`` steps and at the end. Where it is there, the run
            goes on from it, to the same bits as a run that was never stopped.
        evaluate: Gives the metrics, every ``evaluate_every`` steps and at the end.
        desc: What stands before the progress bar.

    Returns:
        How it went. ``stopped`` is ``steps``, ``callback``, ``interrupted`` (Ctrl-C; what there is, is returned) or
        ``diverged``, where a term was not finite or the learner saw a problem. ``reason`` then names it and its step,
        the learner is back at its last good state, the checkpoint is one from before, and a warning says so.

    Raises:
        ValueError: Where the checkpoint belongs to another config or other networks, or there are no batches.
        OSError: Where the checkpoint cannot be written.

    >>> from invkit.engine.classifier import ClassifierConfig, ClassifierLearner
    >>> from invkit.testing import tiny_target
    >>> target, config, generator = tiny_target(), ClassifierConfig(steps=3, warmup=0), torch.Generator()
    >>> learner = ClassifierLearner(target.module, target.spec, config, generator=generator, device=target.device)
    >>> fit(learner, [(torch.rand(4, 3, 8, 8), torch.arange(4))], config, generator=generator).stopped
    'steps'
    """
    start = time.perf_counter()
    seed = generator.initial_seed()
    device = torch.device(learner.device)
    with isolated_rng(generator, device):
        run = _Run(learner, batches, config, generator, evaluate, None if checkpoint is None else Path(checkpoint))
        try:
            stopped, reason = run.steps(callbacks, desc)
        except KeyboardInterrupt:
            stopped, reason = run.divergence() or ("interrupted", f"interrupted after {run.step} steps")
    if stopped == "diverged":
        warnings.warn(f"{desc} diverged: {reason}", stacklevel=2)
    return FitResult(
        history={term: tuple(values) for term, values in run.history.items()}, metrics=run.metrics, steps=run.step,
        seconds=time.perf_counter() - start, device=str(device), stopped=stopped, reason=reason,
        config=plain(config), seed=seed,
    )  # fmt: skip


class _Run:
    """Where a run stands; with the learner and the random states, what a checkpoint holds."""

    def __init__(
        self, learner: Learner[Any], batches: Batches, config: FitConfig, generator: torch.Generator,
        evaluate: Callable[[], Mapping[str, float]] | None, path: Path | None,
    ) -> None:  # fmt: skip
        self.learner, self.batches, self.config, self.generator = learner, batches, config, generator
        self.evaluate, self.path = evaluate, path
        self.device = torch.device(learner.device)
        self.step = self.position = 0
        self.history: dict[str, list[float]] = {}
        self.metrics: dict[str, float] = {}
        self.pending: list[Mapping[str, float | Tensor]] = []
        self.rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in learner.optimizers]
        self.epoch_state = _random_state(generator, self.device)
        self.stream = self._stream()
        if path is not None and path.exists():
            self._resume(path)
        self.good = (self.step, copy.deepcopy(learner.state_dict()))

    def steps(self, callbacks: Sequence[Callback], desc: str) -> Ending:
        """Step until the end; return why it ended."""
        config, last = self.config, in_trial(self.config.steps)
        for index in progress(range(self.step, last), total=last, desc=desc, initial=self.step):
            batch = next(self.stream)
            self._set_rates(lr_factor(config, index))
            values = self.learner.step(batch)
            self.pending.append(values)
            self.step = index + 1
            answers = [callback(FitStep(index=index, values=values)) for callback in callbacks]  # every one is asked
            stop = any(answer is True for answer in answers)
            end = stop or self.step == last
            save = self.path is not None and (end or self.step % config.checkpoint_every == 0)
            if end or save or self.step % config.log_every == 0:
                divergence = self.divergence()
                if divergence:
                    return divergence
            if self.evaluate and (end or (config.evaluate_every and self.step % config.evaluate_every == 0)):
                self._evaluate()
            if save and (end or self.good[0] == self.step):  # no file of a state in doubt
                self._save()
            if stop:
                return "callback", f"a callback ended the run after step {index}"
        return "steps", f"all {self.step} steps were taken"

    def divergence(self) -> Ending | None:
        """Read the pending terms; a non-finite one takes the learner back and is named, else None."""
        first, problem = self.step - len(self.pending), None
        for index, values in enumerate(self.pending, start=first):
            terms = {term: float(value) for term, value in values.items()}
            problem = self._problem(terms)
            if problem:
                self.step, state = self.good
                self.learner.load_state_dict(state)
                self.pending = []
                return "diverged", f"{problem} at step {index}; the state after {self.step} steps was kept"
            for term, value in terms.items():
                self.history.setdefault(term, []).append(value)
        self.pending = []
        if problem is None:
            self.good = (self.step, copy.deepcopy(self.learner.state_dict()))
        return None

    def _problem(self, terms: Mapping[str, float]) -> str | None:
        """What a step's terms say: the learner's word, once they are finite."""
        for term, value in terms.items():
            if not math.isfinite(value):
                return f"the term {term!r} became {value}"
        return self.learner.problem(terms)

    def _set_rates(self, factor: float) -> None:
        for optimizer, rates in zip(self.learner.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor

    def _evaluate(self) -> None:
        assert self.evaluate is not None
        self.metrics = {name: float(value) for name, value in self.evaluate().items()}
        for name, value in self.metrics.items():
            self.history.setdefault(name, []).append(value)

    def _stream(self) -> Iterator[Any]:
        """Pass after pass; keeps the random state at the start of each, from which its order follows."""
        while True:
            self.epoch_state, self.position = _random_state(self.generator, self.device), 0
            for batch in self.batches(self.generator) if callable(self.batches) else self.batches:
                self.position += 1
                yield batch
            if self.position == 0:
                raise ValueError("there are no batches to train on")

    def _save(self) -> None:
        assert self.path is not None
        state = {
            "config": self._key(), "step": self.step, "position": self.position,
            "history": self.history, "metrics": self.metrics, "epoch": self.epoch_state,
            "random": _random_state(self.generator, self.device), "rates": self.rates,
            "learner": self.learner.state_dict(),
        }  # fmt: skip
        save_state(self.path, state)

    def _key(self) -> str:
        return config_hash(self.config) + self.learner.depends_on

    def _resume(self, path: Path) -> None:
        state = read_checkpoint(path, fields=_CHECKPOINT)
        if state["config"] != self._key():
            raise ValueError(
                f"{path} is the checkpoint of a run with another config or other networks; delete it or name another"
            )
        try:
            self.learner.load_state_dict(state["learner"])
        except (ValueError, KeyError, RuntimeError) as error:  # torch's own, where shapes differ
            raise ValueError(
                f"{path} is the checkpoint of another learner; delete it or name another file ({error})"
            ) from error
        self.step, self.rates = state["step"], state["rates"]
        self.history, self.metrics = state["history"], state["metrics"]
        _set_random_state(self.generator, self.device, state["epoch"])
        for _ in range(state["position"]):  # replay the pass up to where it stood; its batches are dropped
            next(self.stream)
        _set_random_state(self.generator, self.device, state["random"])


_CHECKPOINT = {"config", "step", "position", "history", "metrics", "epoch", "random", "rates", "learner"}


def _random_state(generator: torch.Generator, device: torch.device) -> list[Tensor]:
    cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [generator.get_state(), torch.get_rng_state(), *cuda]


def _set_random_state(generator: torch.Generator, device: torch.device, state: Sequence[Tensor]) -> None:
    generator.set_state(state[0])
    torch.set_rng_state(state[1])
    if device.type == "cuda" and len(state) > 2:  # a run begun on a CPU goes on, but not to the same bits
        torch.cuda.set_rng_state(state[2], device)
