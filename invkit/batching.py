"""From stored bytes to batches of float images, and the light augmentation that training uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


def to_float(pixels: Tensor) -> Tensor:
    """uint8 pixels as float in [0, 1]; floats pass through."""
    return pixels if pixels.is_floating_point() else pixels.float().div_(255)


def batches(
    images: Tensor,
    labels: Tensor,
    size: int,
    generator: torch.Generator | None = None,
    *,
    shuffle: bool = True,
    drop_last: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass over images (uint8 or float) and labels in batches of float images in [0, 1].

    With ``shuffle`` the order is one permutation drawn from ``generator`` (which must be given) at the first
    batch.
    """
    if size < 1 or len(images) != len(labels) or len(images) == 0:
        raise ValueError(
            f"batches need a size >= 1 and a label per image, not {size}, {len(images)} and {len(labels)}"
        )
    if shuffle and generator is None:
        raise ValueError("a shuffled pass needs a generator; pass one, or shuffle=False")
    order = torch.randperm(len(images), generator=generator) if shuffle else torch.arange(len(images))
    stop = len(order) - len(order) % size if drop_last and len(order) >= size else len(order)
    for start in range(0, stop, size):
        rows = order[start : min(start + size, stop)].to(images.device)
        yield to_float(images[rows]), labels[rows.to(labels.device)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Augmentation:
    """Drawn parameters of a light augmentation: ``shifts`` int64 ``(N, 2)`` in pixels (down, right),
    ``flips`` bool ``(N,)``.

    Drawing is apart from applying, so the same transform can be replayed on other images.
    """

    shifts: Tensor
    flips: Tensor

    @classmethod
    def draw(cls, count: int, *, shift: int, flip: bool, generator: torch.Generator) -> Augmentation:
        """Draw ``count`` uniform shifts in ``-shift..shift`` and, with ``flip``, fair horizontal flips."""
        shifts = torch.randint(-shift, shift + 1, (count, 2), generator=generator)
        flips = torch.rand(count, generator=generator) < (0.5 if flip else 0.0)
        return cls(shifts=shifts, flips=flips)

    def apply(self, images: Tensor) -> Tensor:
        """Shift (what enters is zero) and flip ``(N, C, H, W)``; differentiable."""
        if len(images) != len(self.shifts):
            raise ValueError(f"parameters were drawn for {len(self.shifts)} images, not {len(images)}")
        count, channels, height, width = images.shape
        shifts, flips = self.shifts.to(images.device), self.flips.to(images.device)
        rows = torch.arange(height, device=images.device) - shifts[:, :1]
        columns = torch.arange(width, device=images.device).expand(count, width)
        columns = torch.where(flips[:, None], width - 1 - columns, columns) - shifts[:, 1:]
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[
            :, None, :
        ]
        index = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
        flat = index.view(count, 1, -1).expand(-1, channels, -1)
        return images.flatten(2).gather(2, flat).view_as(images) * inside[:, None]
