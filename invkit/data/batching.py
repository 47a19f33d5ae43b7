"""From stored bytes to batches of float images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def to_float(pixels: Tensor) -> Tensor:
    """uint8 pixels as float in [0, 1]; floats pass through.

    Args:
        pixels: uint8 of any shape, 0 to 255; or floats.

    Returns:
        float32 of the same shape in [0, 1]; floats as they are, of their own type and range.

    >>> to_float(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([0., 1.])
    """
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
    """One pass over images and labels in batches of float images in [0, 1].

    Args:
        images: ``(N, C, H, W)``, uint8 or float.
        labels: ``(N,)``.
        size: Images of one batch.
        generator: Of the order, which is one permutation drawn at the first batch; needed where ``shuffle``.
        shuffle: Whether to change the order.
        drop_last: Leave out a last batch that is not full, unless it is the only one.

    Returns:
        An iterator over pairs of images ``(n, C, H, W)``, float in [0, 1], and labels ``(n,)``, on the devices of
        ``images`` and ``labels``; n is ``size``, or less in the last batch.

    Raises:
        ValueError: For no images, another number of labels, a size below 1, or a shuffled pass without a generator.

    >>> parts = batches(torch.zeros(5, 1, 2, 2), torch.arange(5), 2, shuffle=False)
    >>> [y.tolist() for _, y in parts]
    [[0, 1], [2, 3], [4]]
    """
    if not (isinstance(images, Tensor) and isinstance(labels, Tensor) and isinstance(size, int)):
        kinds = ", ".join(type(value).__name__ for value in (images, labels, size))
        raise ValueError(f"images and labels must be tensors and size a whole number, not {kinds}")
    if size < 1 or len(images) != len(labels) or len(images) == 0:
        raise ValueError(f"batches need a size >= 1 and a label per image, not {size}, {len(images)} and {len(labels)}")
    if shuffle and generator is None:
        raise ValueError("a shuffled pass needs a generator; pass one, or shuffle=False")
    order = torch.randperm(len(images), generator=generator) if shuffle else torch.arange(len(images))
    stop = len(order) - len(order) % size if drop_last and len(order) >= size else len(order)
    for start in range(0, stop, size):
        rows = order[start : min(start + size, stop)].to(images.device)
        yield to_float(images[rows]), labels[rows.to(labels.device)]
