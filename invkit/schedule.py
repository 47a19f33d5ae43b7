"""How long to train, and by which learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self


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
