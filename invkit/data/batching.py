"""From stored bytes to batches of float images."""

from __future__ import annotations

from collections.abc import Iterator

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
        raise ValueError(f"batches need a size >= 1 and a label per image, not {size}, {len(images)} and {len(labels)}")
    if shuffle and generator is None:
        raise ValueError("a shuffled pass needs a generator; pass one, or shuffle=False")
    order = torch.randperm(len(images), generator=generator) if shuffle else torch.arange(len(images))
    stop = len(order) - len(order) % size if drop_last and len(order) >= size else len(order)
    for start in range(0, stop, size):
        rows = order[start : min(start + size, stop)].to(images.device)
        yield to_float(images[rows]), labels[rows.to(labels.device)]
