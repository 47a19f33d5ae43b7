"""Noise to start from, patches amid noise, and images of another size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from invkit.core.spec import check_images, check_rank


def loud_images(n: int, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Standard normal noise ``(n, C, H, W)`` clamped to [0, 1], half of it black: the report's start (§4.1.2).

    >>> float(loud_images(1, (1, 8, 8), torch.Generator()).min())
    0.0
    """
    return torch.randn(n, *shape, generator=generator).clamp_(0, 1)


def initial_images(n: int, shape: Sequence[int], generator: torch.Generator, std: float = 0.1) -> Tensor:
    """Gaussian noise around mid-grey, ``(n, C, H, W)`` clamped to [0, 1].

    Args:
        n: Images.
        shape: ``(C, H, W)``.
        generator: Source of the noise, a CPU generator.
        std: Standard deviation in units of the pixel range, at least 0.

    Returns:
        float32 ``(n, C, H, W)`` in [0, 1] on the CPU.

    >>> initial_images(2, (3, 8, 8), torch.Generator()).shape
    torch.Size([2, 3, 8, 8])
    """
    return (0.5 + std * torch.randn(n, *shape, generator=generator)).clamp_(0, 1)


def uniform_images(n: int, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Uniform noise ``(n, C, H, W)`` in [0, 1].

    Args:
        n: Images.
        shape: ``(C, H, W)``.
        generator: Source of the noise, a CPU generator.

    Returns:
        float32 ``(n, C, H, W)`` in [0, 1) on the CPU.

    >>> uniform_images(2, (3, 8, 8), torch.Generator()).shape
    torch.Size([2, 3, 8, 8])
    """
    return torch.rand(n, *shape, generator=generator)


def pad_with_noise(patch: Tensor, size: Sequence[int], generator: torch.Generator) -> Tensor:
    """Centering (Ghiasi et al., 2021, §3.1): ``patch`` ``(N, C, h, w)`` amid uniform noise of ``size`` ``(H, W)``.

    Args:
        patch: Float ``(N, C, h, w)`` in [0, 1].
        size: ``(H, W)``, at least that of the patch.
        generator: Source of the noise, a CPU generator.

    Returns:
        Images ``(N, C, H, W)`` in [0, 1] with the patch in their middle, of its type and on its device. Where an odd
        number of rows or columns is added, one more lies by turns in front and behind: nothing drifts.

    Raises:
        ValueError: For a patch that is larger.

    >>> pad_with_noise(torch.zeros(1, 1, 2, 2), (4, 4), torch.Generator())[..., 1:3, 1:3].sum()
    tensor(0.)
    """
    patch = check_images(patch, "patch")
    (height, width), (h, w) = size, patch.shape[-2:]
    if h > height or w > width:
        raise ValueError(f"a patch of {(h, w)} pixels does not fit into {(height, width)}")
    whole = uniform_images(len(patch), (patch.shape[1], height, width), generator).to(patch)
    top, left = middle(h, height), middle(w, width)
    whole[..., top : top + h, left : left + w] = patch
    return whole


def middle(inner: int, outer: int) -> int:
    """Where the middle ``inner`` of ``outer`` pixels begin, so that the middle of a middle is the middle of the whole.

    >>> middle(4, 8), middle(4, 5), middle(5, 6)
    (2, 1, 0)
    """
    return (outer + 1) // 2 - (inner + 1) // 2


def resize_images(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, and smoothed first where images become smaller; images of ``size`` ``(H, W)`` are returned as such.

    Args:
        images: Float ``(N, C, h, w)``.
        size: ``(H, W)``.

    Returns:
        Images ``(N, C, H, W)``, with a graph to ``images``.

    >>> resize_images(torch.rand(2, 3, 8, 8), (4, 6)).shape
    torch.Size([2, 3, 4, 6])
    """
    check_rank(images)
    if tuple(images.shape[-2:]) == size:
        return images
    shrinks = size[0] < images.shape[-2]
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=shrinks)
