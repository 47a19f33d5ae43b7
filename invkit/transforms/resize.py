"""Noise to start from, patches amid noise, and images of another size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def initial_images(n: int, shape: Sequence[int], generator: torch.Generator, std: float = 0.1) -> Tensor:
    """Gaussian noise around mid-grey, ``(n, C, H, W)`` clamped to [0, 1]."""
    return (0.5 + std * torch.randn(n, *shape, generator=generator)).clamp_(0, 1)


def uniform_images(n: int, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Uniform noise ``(n, C, H, W)`` in [0, 1]."""
    return torch.rand(n, *shape, generator=generator)


def pad_with_noise(patch: Tensor, size: Sequence[int], generator: torch.Generator) -> Tensor:
    """Centering (Ghiasi et al., 2021, §3.1): ``patch`` ``(N, C, h, w)`` amid uniform noise of ``size`` ``(H, W)``."""
    (height, width), (h, w) = size, patch.shape[-2:]
    if h > height or w > width:
        raise ValueError(f"a patch of {(h, w)} pixels does not fit into {(height, width)}")
    whole = uniform_images(len(patch), (patch.shape[1], height, width), generator).to(patch)
    top, left = (height - h) // 2, (width - w) // 2
    whole[..., top : top + h, left : left + w] = patch
    return whole


def resize_images(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, and smoothed first where images become smaller; images of ``size`` ``(H, W)`` are returned as such."""
    if tuple(images.shape[-2:]) == size:
        return images
    shrinks = size[0] < images.shape[-2]
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=shrinks)
