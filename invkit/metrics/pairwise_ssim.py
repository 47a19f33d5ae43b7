"""The SSIM of every image with every other: windows once for each image, and a product of matrices for the pairs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 11
"""Pixels across a window; images are at least as wide and high."""
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2
_CHUNK = 64
"""Images at a time: one row of windows of 64 colour photographs of 224 pixels is 21 MB."""


def pairwise_ssim(images: Tensor, others: Tensor) -> Tensor:
    """SSIM of each image with each of the others, as for one pair by torchmetrics, in a fraction of the time.

    With means, variances and the covariance of the two in a Gaussian window of 11 x 11 pixels around each pixel (Wang
    et al. 2004, eq. 13 and 17), of images that are mirrored at their edges, averaged over pixels and channels. The
    covariances of all pairs at one pixel are one product of matrices.

    Args:
        images: ``(N, C, H, W)`` in [0, 1], at least 11 pixels wide and high.
        others: ``(M, C, H, W)`` in [0, 1].

    Returns:
        float64 ``(N, M)`` in [-1, 1].

    Raises:
        ValueError: For images below 11 pixels, or of two shapes.

    >>> image = torch.eye(12).view(1, 1, 12, 12)
    >>> pairwise_ssim(image, torch.cat([image, 1 - image])) > 0.9
    tensor([[ True, False]])
    """
    if images.shape[1:] != others.shape[1:]:
        shapes = f"{tuple(images.shape[1:])} and {tuple(others.shape[1:])}"
        raise ValueError(f"images of one shape are compared, not {shapes}")
    if min(images.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM's window is {WINDOW} pixels wide; the images are {tuple(images.shape[-2:])}")
    images, others = (F.pad(part.float(), [WINDOW // 2] * 4, mode="reflect") for part in (images, others))
    rows = [torch.cat([_of_chunk(a, b) for b in others.split(_CHUNK)], 1) for a in images.split(_CHUNK)]
    return torch.cat(rows)


def _of_chunk(images: Tensor, others: Tensor) -> Tensor:
    """The mean over all windows of mirrored images, row of windows by row of windows."""
    _, channels, height, width = images.shape
    total = torch.zeros(len(images), len(others), dtype=torch.float64, device=images.device)
    for top in range(height - WINDOW + 1):
        a, mean_a, var_a = _windows(images[:, :, top : top + WINDOW])
        b, mean_b, var_b = _windows(others[:, :, top : top + WINDOW])
        mean_a, var_a, mean_b, var_b = mean_a[:, :, None], var_a[:, :, None], mean_b[:, None], var_b[:, None]
        alike = (2 * mean_a * mean_b + _C1) * (2 * (a @ b.mT) + _C2)
        total += (alike / ((mean_a**2 + mean_b**2 + _C1) * (var_a + var_b + _C2))).sum(0, dtype=torch.float64)
    return total / (channels * (height - WINDOW + 1) * (width - WINDOW + 1))


def _windows(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of rows ``(N, C, 11, W)``: each window less its mean, ``(places, N, 121)`` and scaled so that the product of two
    is their covariance; means and variances ``(places, N)``.
    """
    windows = rows.unfold(3, WINDOW, 1).permute(1, 3, 0, 2, 4).flatten(3).flatten(0, 1)
    weights = _weights(windows)
    mean = windows @ weights
    scaled = (windows - mean[:, :, None]) * weights.sqrt()
    return scaled, mean, scaled.square().sum(2)


def _weights(like: Tensor) -> Tensor:
    """The Gaussian window ``(121,)``, which sums to 1."""
    offset = torch.arange(WINDOW, dtype=like.dtype, device=like.device) - WINDOW // 2
    gaussian = torch.exp(-((offset / _SIGMA) ** 2) / 2)
    gaussian = gaussian / gaussian.sum()
    return torch.outer(gaussian, gaussian).flatten()
