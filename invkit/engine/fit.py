"""How long to train, and by which learning rate."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar

import torch
from torch import Tensor

from invkit.core.config import config_hash, plain
from invkit.core.device import progress
from invkit.core.files import load_state, save_state
from invkit.core.results import FitResult


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
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
        for name in ("steps", "period", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.evaluate_every is not None and self.evaluate_every < 1:
            raise ValueError(f"evaluate_every must be at least 1, or None, not {self.evaluate_every}")
        if self.schedule not in ("cosine", "restarts", "constant"):
            raise ValueError(f"schedule must be cosine, restarts or constant, not {self.schedule!r}")
        if not 0 <= self.warmup < self.steps:
            raise ValueError(f"warmup must lie in 0..steps - 1 (steps is {self.steps}), not {self.warmup}")

    @classmethod
    def for_profile(cls, profile: str, **overrides: Any) -> Self:
        """The config of the profile ``ci`` (seconds), ``book`` (minutes) or ``paper`` (a GPU), with fields
        overridden.
        """
        if profile not in cls.PROFILES:
            raise ValueError(f"profile must be one of {', '.join(cls.PROFILES)}, not {profile!r}")
        return cls(**cls.PROFILES[profile] | overrides)


def lr_factor(config: FitConfig, step: int) -> float:
    """The share of the base learning rate at ``step`` (from 0): a function of the step alone, so resuming
    needs no state.

    >>> c = FitConfig(steps=100, warmup=10)
    >>> lr_factor(c, 4), lr_factor(c, 10), lr_factor(c, 55)
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


B = TypeVar("B", contravariant=True)
Batches = Iterable[Any] | Callable[[torch.Generator], Iterable[Any]]


class Learner(Protocol[B]):
    """What :func:`fit` drives: one optimisation step on a batch, and a state that can be saved.

    ``step`` returns the step's terms, unreduced to the host where possible. A learner may have
    ``optimizers``, whose learning rates then follow the schedule, and ``device``; and ``problem(terms)``, asked about
    each step once its terms are read: None for a good state, ``""`` for one not to go back to, or what to stop for.
    ``state_dict`` must hold all that the next step depends on (networks, optimisers, generators of its own) as tensors
    and plain values.
    """

    def step(self, batch: B, /) -> Mapping[str, float | Tensor]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FitStep:
    """What a callback sees after a step; ``losses`` reads the terms to the host when called."""

    index: int
    values: Mapping[str, float | Tensor]

    def losses(self) -> dict[str, float]:
        """The step's terms."""
        return {k: float(v) for k, v in self.values.items()}


Callback = Callable[[FitStep], bool | None]


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
    """Train ``learner`` for ``config.steps`` steps over ``batches``, passed over again and again.

    ``batches`` is a list, a loader, or a function of a generator that starts one pass (its draws must come
    from there). All randomness comes from ``generator``: the global one, which dropout uses, is seeded by it
    for the run and put back after. A callback that returns True stops the run. With ``checkpoint`` the run
    goes on from that file if it is there, to the same bits as a run that was never stopped, and writes it
    every ``checkpoint_every`` steps and at the end.

    ``stopped`` of the result is ``steps``, ``callback``, ``interrupted`` (Ctrl-C; what there is, is
    returned), or names the non-finite term, or the learner's problem, and its step, with the learner put back to its
    last good state; then ``diverged`` is true, and the checkpoint is one from before.
    Raises ``ValueError`` where the checkpoint belongs to another config or there are no batches, ``OSError``
    where the checkpoint cannot be written.
    """
    start = time.perf_counter()
    seed = generator.initial_seed()
    device = torch.device(getattr(learner, "device", "cpu"))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        run = _Run(learner, batches, config, generator, evaluate, None if checkpoint is None else Path(checkpoint))
        try:
            stopped = run.steps(callbacks, desc)
        except KeyboardInterrupt:
            stopped = run.look() or "interrupted"
    return FitResult(
        history={k: tuple(v) for k, v in run.history.items()}, metrics=run.metrics, steps=run.step,
        seconds=time.perf_counter() - start, device=str(device), stopped=stopped,
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
        self.device = torch.device(getattr(learner, "device", "cpu"))
        self.step = self.position = 0
        self.history: dict[str, list[float]] = {}
        self.metrics: dict[str, float] = {}
        self.pending: list[Mapping[str, float | Tensor]] = []
        self.optimizers: Sequence[torch.optim.Optimizer] = getattr(learner, "optimizers", ())
        self.rates = [[group["lr"] for group in o.param_groups] for o in self.optimizers]
        self.epoch_state = _random_state(generator, self.device)
        self.stream = self._stream()
        if path is not None and path.exists():
            self._resume(path)
        self.good = (self.step, copy.deepcopy(learner.state_dict()))

    def steps(self, callbacks: Sequence[Callback], desc: str) -> str:
        """Step until the end; return why it ended."""
        config = self.config
        for index in progress(range(self.step, config.steps), total=config.steps, desc=desc, initial=self.step):
            batch = next(self.stream)
            self._set_rates(lr_factor(config, index))
            values = self.learner.step(batch)
            self.pending.append(values)
            self.step = index + 1
            answers = [callback(FitStep(index=index, values=values)) for callback in callbacks]  # every one is asked
            stop = any(answer is True for answer in answers)
            end = stop or self.step == config.steps
            save = self.path is not None and (end or self.step % config.checkpoint_every == 0)
            if (end or save or self.step % config.log_every == 0) and (problem := self.look()):
                return problem
            if self.evaluate and (end or (config.evaluate_every and self.step % config.evaluate_every == 0)):
                self._evaluate()
            if save and (end or self.good[0] == self.step):  # no file of a state in doubt
                self._save()
            if stop:
                return "callback"
        return "steps"

    def look(self) -> str:
        """Read the pending terms; a non-finite one takes the learner back and is named, else ''."""
        first, problem = self.step - len(self.pending), None
        for index, values in enumerate(self.pending, start=first):
            read = {term: float(value) for term, value in values.items()}
            if problem := self._problem(read):
                self.step, state = self.good
                self.learner.load_state_dict(state)
                self.pending = []
                return f"{problem} at step {index}; the state after {self.step} steps was kept"
            for term, value in read.items():
                self.history.setdefault(term, []).append(value)
        self.pending = []
        if problem is None:
            self.good = (self.step, copy.deepcopy(self.learner.state_dict()))
        return ""

    def _problem(self, terms: Mapping[str, float]) -> str | None:
        """What a step's terms say: the learner's word, once they are finite."""
        bad = [term for term, value in terms.items() if not math.isfinite(value)]
        if bad:
            return f"non-finite {', '.join(bad)}"
        asked = getattr(self.learner, "problem", None)
        return None if asked is None else asked(terms)

    def _set_rates(self, factor: float) -> None:
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor

    def _evaluate(self) -> None:
        assert self.evaluate is not None
        self.metrics = {k: float(v) for k, v in self.evaluate().items()}
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
            "config": config_hash(self.config), "step": self.step, "position": self.position,
            "history": self.history, "metrics": self.metrics, "epoch": self.epoch_state,
            "random": _random_state(self.generator, self.device), "rates": self.rates,
            "learner": self.learner.state_dict(),
        }  # fmt: skip
        save_state(self.path, state)

    def _resume(self, path: Path) -> None:
        state = _read_checkpoint(path)
        if state["config"] != config_hash(self.config):
            raise ValueError(f"{path} is the checkpoint of a run with another config; delete it or name another file")
        self.learner.load_state_dict(state["learner"])
        self.step, self.history, self.metrics, self.rates = (
            state["step"],
            state["history"],
            state["metrics"],
            state["rates"],
        )
        _set_random_state(self.generator, self.device, state["epoch"])
        for _ in range(state["position"]):  # replay the pass up to where it stood; its batches are dropped
            next(self.stream)
        _set_random_state(self.generator, self.device, state["random"])


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        state = load_state(path)
        missing = {
            "config",
            "step",
            "position",
            "history",
            "metrics",
            "epoch",
            "random",
            "rates",
            "learner",
        } - set(state)
    except Exception as error:  # torch raises pickle, zip and runtime errors here
        raise ValueError(
            f"{path} is not a readable checkpoint ({type(error).__name__}); delete it to start anew"
        ) from error
    if missing:
        raise ValueError(f"{path} is not a checkpoint of fit; it lacks {', '.join(sorted(missing))}")
    return state


def _random_state(generator: torch.Generator, device: torch.device) -> list[Tensor]:
    cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [generator.get_state(), torch.get_rng_state(), *cuda]


def _set_random_state(generator: torch.Generator, device: torch.device, state: Sequence[Tensor]) -> None:
    generator.set_state(state[0])
    torch.set_rng_state(state[1])
    if device.type == "cuda" and len(state) > 2:  # a run begun on a CPU goes on, but not to the same bits
        torch.cuda.set_rng_state(state[2], device)
