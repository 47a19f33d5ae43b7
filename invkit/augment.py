"""Random transforms of images: parameters are drawn apart from applying them, so that they can be replayed and undone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Draw = tuple[tuple[int, int], Tensor]
"""Offsets (down, right) in pixels shared by a batch, and one flip decision per image."""


def initial_images(n: int, shape: Sequence[int], generator: torch.Generator, std: float = 0.1) -> Tensor:
    """Gaussian noise around mid-grey, ``(n, C, H, W)`` clamped to [0, 1]."""
    return (0.5 + std * torch.randn(n, *shape, generator=generator)).clamp_(0, 1)


def draw_jitter(n: int, jitter: int, flip: float, generator: torch.Generator) -> Draw:
    """Offsets uniform in -jitter..jitter, shared by the batch of ``n``, and flips of single images with probability ``flip``."""
    down, right = torch.randint(-jitter, jitter + 1, (2,), generator=generator).tolist()
    return (down, right), torch.rand(n, generator=generator) < flip


def apply_jitter(images: Tensor, offsets: tuple[int, int], flips: Tensor) -> Tensor:
    """Flip the chosen images and roll all, with wrap-around."""
    return _roll(_flip(images, flips), offsets)


def undo_jitter(images: Tensor, offsets: tuple[int, int], flips: Tensor) -> Tensor:
    """Inverse, and for a gradient the adjoint, of :func:`apply_jitter`."""
    return _flip(_roll(images, (-offsets[0], -offsets[1])), flips)


def _roll(images: Tensor, offsets: tuple[int, int]) -> Tensor:
    return images.roll(offsets, (-2, -1)) if any(offsets) else images


def _flip(images: Tensor, flips: Tensor) -> Tensor:
    if not bool(flips.any()):  # a tensor on the CPU: no synchronisation
        return images
    return torch.where(flips.to(images.device).view(-1, 1, 1, 1), images.flip(-1), images)


