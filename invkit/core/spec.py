"""What goes into a network: images of a shape, scale and classes, or latent codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec:
    """Shape, normalisation and classes of a network's images; the one owner of mean and standard deviation.

    Outside a network, images are float tensors ``(N, channels, H, W)`` in [0, 1]; ``normalise`` turns them into
    what the network was trained on, ``(x - mean) / std`` per channel.

    >>> spec = ImageSpec(channels=1, size=(8, 8), mean=(0.5,), std=(0.25,), classes=("a", "b"))
    >>> float(spec.normalise(torch.ones(1, 1, 8, 8)).max())
    2.0
    """

    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("size", "mean", "std", "classes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.channels < 1 or len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(
                f"an image needs channels >= 1 and a size (H, W) >= 1, not {self.channels} and {self.size}"
            )
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"mean and std need one value per channel ({self.channels}), not {self.mean} and {self.std}"
            )
        if not all(s > 0 for s in self.std):
            raise ValueError(f"std must be positive, not {self.std}")
        if len(self.classes) < 1:
            raise ValueError("an ImageSpec needs at least one class name")

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(channels, H, W)``."""
        return (self.channels, *self.size)

    def normalise(self, images: Tensor) -> Tensor:
        """``(x - mean) / std`` per channel, for ``(N, C, H, W)`` in [0, 1]."""
        mean, std = (
            torch.tensor(v, dtype=images.dtype, device=images.device).view(-1, 1, 1) for v in (self.mean, self.std)
        )
        return (images - mean) / std

    def check(self, images: Tensor, what: str = "images") -> Tensor:
        """``images`` if they are float ``(N, C, H, W)`` of this spec's channels and size; else ``ValueError``."""
        if images.ndim != 4 or not images.is_floating_point():
            raise ValueError(f"{what} must be a float tensor (N, C, H, W), not {images.dtype} {tuple(images.shape)}")
        if images.shape[1] != self.channels:
            raise ValueError(f"{what} have {images.shape[1]} channels; the network takes {self.channels}")
        if tuple(images.shape[2:]) != self.size:
            raise ValueError(f"{what} are {tuple(images.shape[2:])} pixels; the network takes {self.size}")
        return images

    def check_range(self, images: Tensor) -> Tensor:
        """``images`` if they lie in [0, 1]; else ``ValueError``."""
        low, high = float(images.min()), float(images.max())
        if not (low >= -1e-3 and high <= 1 + 1e-3):
            raise ValueError(f"images must lie in [0, 1], not {low:.3g}..{high:.3g}; the target normalises them itself")
        return images

    def probe(self, generator: torch.Generator) -> Tensor:
        """Two images that deep layers tell apart: fine noise and coarse noise."""
        fine = torch.rand(1, *self.shape, generator=generator)
        coarse = F.interpolate(torch.rand(1, self.channels, 3, 3, generator=generator), self.size, mode="bilinear")
        return torch.cat((fine, coarse))

    def check_labels(self, labels: Tensor | Sequence[int]) -> Tensor:
        """Labels as an int64 tensor ``(N,)`` in ``range(n_classes)``; else ``ValueError``."""
        given = torch.as_tensor(labels)
        if given.ndim != 1 or given.numel() == 0 or given.is_floating_point():
            raise ValueError(f"labels must be a non-empty list of class indices, not {labels!r}")
        bad = sorted({int(v) for v in given if not 0 <= v < self.n_classes})
        if bad:
            raise ValueError(f"labels {bad} are outside the network's classes 0..{self.n_classes - 1}")
        return given.long()

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary, as it lies beside a weights file."""
        return {
            "input": list(self.shape),
            "mean": list(self.mean),
            "std": list(self.std),
            "classes": list(self.classes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ImageSpec:
        """Read what :meth:`to_json` wrote; raise ``ValueError`` naming the missing key."""
        missing = [k for k in ("input", "mean", "std", "classes") if k not in data]
        if missing:
            raise ValueError(f"an image specification needs the keys input, mean, std, classes; missing: {missing}")
        channels, *size = data["input"]
        return cls(channels=channels, size=tuple(size), mean=data["mean"], std=data["std"], classes=data["classes"])


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
