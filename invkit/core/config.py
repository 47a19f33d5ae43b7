"""The base of every config, configs in plain values, and a hash of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import numbers
from pathlib import Path
from typing import Any, ClassVar, Self

import torch


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Base of all configs: named profiles, and one form for what is said of a field that does not fit.

    A config is a frozen, slotted dataclass with keyword-only fields; its ``__post_init__`` calls :meth:`require` and
    the like for its own fields, after that of the config that it extends. (Slotted dataclasses are made twice, so call
    the parent's by name: ``FitConfig.__post_init__(self)``, not by ``super()``.)

    >>> @dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
    ... class SharpenConfig(Config):
    ...     steps: int = 100
    ...     PROFILES: ClassVar[dict[str, dict[str, Any]]] = {"ci": {"steps": 5}, "book": {}, "paper": {}}
    ...     def __post_init__(self) -> None:
    ...         self.require_whole("steps")
    >>> SharpenConfig.for_profile("ci")
    SharpenConfig(steps=5)
    >>> SharpenConfig(steps=0)
    Traceback (most recent call last):
    ValueError: SharpenConfig: steps must be a whole number of at least 1, not 0
    """

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {"ci": {}, "book": {}, "paper": {}}

    @classmethod
    def for_profile(cls, profile: str, **overrides: Any) -> Self:
        """The config of profile ``ci`` (seconds), ``book`` (minutes) or ``paper`` (a GPU), with fields overridden.

        Raises:
            ValueError: For an unknown profile, or a field that does not fit.

        >>> from invkit import DeepDreamConfig
        >>> DeepDreamConfig.for_profile("ci", lr=0.01).octaves
        2
        """
        if profile not in cls.PROFILES:
            raise ValueError(f"{cls.__name__}: profile must be one of {', '.join(cls.PROFILES)}, not {profile!r}")
        return cls(**cls.PROFILES[profile] | overrides)

    def require(self, field: str, condition: bool, words: str) -> None:
        """Raise ``ValueError`` unless ``condition`` holds: ``field`` must ``words``, for example "be positive"."""
        if not condition:
            raise ValueError(f"{type(self).__name__}: {field} must {words}, not {getattr(self, field)!r}")

    def require_whole(self, *fields: str, least: int = 1) -> None:
        """Raise ``ValueError`` for the first of ``fields`` that is no whole number, or below ``least``."""
        for field in fields:
            value = getattr(self, field)
            whole = isinstance(value, int) and not isinstance(value, bool)
            self.require(field, whole and value >= least, f"be a whole number of at least {least}")

    def require_positive(self, *fields: str) -> None:
        """Raise ``ValueError`` for the first of ``fields`` that is no positive, finite number."""
        for field in fields:
            value = getattr(self, field)
            self.require(field, is_number(value) and 0 < value < math.inf, "be positive and finite")

    def require_weight(self, *fields: str) -> None:
        """Raise ``ValueError`` for the first of ``fields`` that is no weight of a loss: finite and at least 0."""
        for field in fields:
            value = getattr(self, field)
            self.require(field, is_number(value) and 0 <= value < math.inf, "be at least 0 and finite")

    def require_choice(self, field: str, *choices: str) -> None:
        """Raise ``ValueError`` unless ``field`` is one of the words ``choices``."""
        self.require(field, getattr(self, field) in choices, f"be {', '.join(choices[:-1])} or {choices[-1]}")

    def require_betas(self, field: str = "betas") -> None:
        """Raise ``ValueError`` unless ``field`` holds Adam's two decay rates."""
        value = getattr(self, field)
        pair = isinstance(value, tuple | list) and len(value) == 2 and all(is_number(beta) for beta in value)
        self.require(field, pair and all(0 <= beta < 1 for beta in value), "be two numbers in [0, 1)")


def is_number(value: Any) -> bool:
    """Whether ``value`` is a plain number (and neither a truth value nor NaN).

    >>> is_number(2.5), is_number("2.5"), is_number(math.nan)
    (True, False, False)
    """
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and not math.isnan(value)


def plain(value: Any) -> Any:
    """``value`` in JSON's types: dataclasses, tuples, paths and tensors of one element are unwrapped.

    >>> plain({"size": (28, 28), "folder": Path("data")})
    {'size': [28, 28], 'folder': 'data'}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return str(value) if isinstance(value, Path) else value


def config_hash(value: Any) -> str:
    """Twelve hexadecimal digits that change when any field of ``value`` does.

    >>> config_hash({"lr": 0.1}) == config_hash({"lr": 0.1}), config_hash({"lr": 0.1}) == config_hash({"lr": 0.2})
    (True, False)
    """
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True, default=str).encode()).hexdigest()[:12]
