"""What a latent code is: the input of a generator, as an :class:`invkit.images.ImageSpec` is that of a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LatentSpec:
    """Codes ``(N, size)``, standard normal and not normalised.

    >>> LatentSpec(16).shape
    (16,)
    """

    size: int
    """Entries of a code."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"a latent code needs at least one entry, not {self.size}")

    @property
    def shape(self) -> tuple[int]:
        """``(size,)``."""
        return (self.size,)

    def normalise(self, codes: Tensor) -> Tensor:
        """The codes themselves."""
        return codes

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """``(count, size)`` standard normal codes, on the CPU."""
        return torch.randn(count, self.size, generator=generator)

    def probe(self, generator: torch.Generator) -> Tensor:
        """Two codes that deep layers tell apart."""
        return self.sample(2, generator)

    def check(self, codes: Tensor, what: str = "codes") -> Tensor:
        """``codes`` if they are float ``(N, size)``; else ``ValueError``."""
        if codes.ndim != 2 or not codes.is_floating_point():
            raise ValueError(f"{what} must be a float tensor (N, {self.size}), not {codes.dtype} {tuple(codes.shape)}")
        if codes.shape[1] != self.size:
            raise ValueError(f"{what} have {codes.shape[1]} entries; the generator takes {self.size}")
        return codes

    def check_range(self, codes: Tensor) -> Tensor:
        """``codes`` if they are finite; else ``ValueError``."""
        if not codes.isfinite().all():
            raise ValueError("codes hold values that are not finite")
        return codes

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return {"latent": self.size}
