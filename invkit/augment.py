"""Random transforms of images: drawn apart from being applied, so that they can be replayed and undone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Jitter:
    """For each of ``N`` images: offsets ``down`` and ``right`` in pixels, and whether it is flipped, each ``(N,)``."""

    down: Tensor
    right: Tensor
    flip: Tensor

    def on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """The three as columns ``(N, 1)`` on ``device``, without waiting for it."""
        down, right, flip = (t[:, None].to(device, non_blocking=True) for t in (self.down, self.right, self.flip))
        return down, right, flip


def draw_jitter(n: int, jitter: int, flip: float, generator: torch.Generator) -> Jitter:
    """Offsets uniform in -jitter..jitter and flips with probability ``flip``, for each image on its own."""
    down, right = torch.randint(-jitter, jitter + 1, (2, n), generator=generator)
    return Jitter(down, right, torch.rand(n, generator=generator) < flip)


def apply_jitter(images: Tensor, draw: Jitter, wrap: bool = True) -> Tensor:
    """Flip, then shift ``images`` ``(N, C, H, W)``; what leaves on one side comes back on the other, or is black.

    Black borders are what random cropping with padding, the usual training augmentation of small images, shows.
    """
    if len(images) != len(draw.flip):
        raise ValueError(f"the jitter was drawn for {len(draw.flip)} images, not {len(images)}")
    down, right, flip = draw.on(images.device)
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) - down
    columns = torch.arange(width, device=images.device) - right
    return _gather(images, rows, torch.where(flip, width - 1 - columns, columns), wrap)


def undo_jitter(images: Tensor, draw: Jitter, wrap: bool = True) -> Tensor:
    """Inverse (where nothing was lost), and for a gradient the adjoint, of :func:`apply_jitter`."""
    down, right, flip = draw.on(images.device)
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) + down
    columns = torch.arange(width, device=images.device)
    return _gather(images, rows, torch.where(flip, width - 1 - columns, columns) + right, wrap)


def _gather(images: Tensor, rows: Tensor, columns: Tensor, wrap: bool) -> Tensor:
    """``out[n, :, i, j] = images[n, :, rows[n, i], columns[n, j]]``, modulo the size or zero outside."""
    height, width = images.shape[-2:]
    which = torch.arange(len(images), device=images.device)[:, None, None]
    moved = images[which, :, rows.remainder(height)[:, :, None], columns.remainder(width)[:, None, :]]
    if not wrap:
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        moved = moved * inside[..., None].to(images.dtype)
    return moved.permute(0, 3, 1, 2)  # a channels-last view


def initial_images(n: int, shape: Sequence[int], generator: torch.Generator, std: float = 0.1) -> Tensor:
    """Gaussian noise around mid-grey, ``(n, C, H, W)`` clamped to [0, 1]."""
    return (0.5 + std * torch.randn(n, *shape, generator=generator)).clamp_(0, 1)


@dataclass(frozen=True, slots=True)
class ColorShift:
    """ColorShift of ``N`` images, ``e`` times each: ``x -> scale * x - offset``, both ``(N, e, C)``.

    An adjustment of the colours by a random mean and variance in each channel (Ghiasi et al., 2021, §3.2). What is
    drawn can be applied again and again, so that an optimisation may look at the same shifts for some steps.

    >>> still = ColorShift.draw(1, 1, 3, 0.0, 0.0, torch.Generator())
    >>> float(still(torch.ones(1, 3, 2, 2)).min())
    1.0
    """

    scale: Tensor
    offset: Tensor

    @classmethod
    def draw(
        cls,
        n: int,
        copies: int,
        channels: int,
        alpha: float | Sequence[float],
        beta: float | Sequence[float],
        generator: torch.Generator,
    ) -> ColorShift:
        """``offset ~ U(-alpha, alpha)`` and ``scale ~ exp(U(-beta, beta))`` for each image, copy and channel.

        Raises ``ValueError`` where ``alpha`` or ``beta`` is neither one number nor one for each channel.
        """
        widths = torch.stack([_per_channel(v, name, channels) for v, name in ((alpha, "alpha"), (beta, "beta"))])
        uniform = 2 * torch.rand(2, n, copies, channels, generator=generator) - 1
        offset, log_scale = uniform * widths[:, None, None]
        return cls(log_scale.exp(), offset)

    def __call__(self, images: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N * e, C, H, W)``, the copies of one image next to each other."""
        if images.shape[:2] != (self.scale.shape[0], self.scale.shape[2]):
            n, _, channels = self.scale.shape
            raise ValueError(f"the shift was drawn for {n} images of {channels} channels, not {tuple(images.shape)}")
        scale, offset = (t[..., None, None].to(images.device, non_blocking=True) for t in (self.scale, self.offset))
        return (images[:, None] * scale - offset).flatten(0, 1)


def _per_channel(values: float | Sequence[float], name: str, channels: int) -> Tensor:
    given = torch.as_tensor(values, dtype=torch.float32)
    if given.ndim > 1 or (given.ndim == 1 and len(given) != channels):
        raise ValueError(f"{name} needs one number, or one for each of the {channels} channels, not {values}")
    return given.expand(channels)


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
