"""Inversion at several resolutions: the stages that the image loop goes through, whatever the method calls them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """``steps`` of an inversion at one ``size`` ``(H, W)``; a sequence of them is one run with one checkpoint.

    ``start`` makes the first images of the stage from those that the stage before it ended with, or from those that the
    run was given. It may draw from the run's generator: what it drew is in the checkpoint.
    """

    size: Size
    steps: int
    start: Callable[[Tensor], Tensor]


def low_resolution_stages(low: Sequence[tuple[float, int]], size: Size, steps: int) -> list[Stage]:
    """Stages of ``low`` pairs (side, steps), then ``size`` ``(H, W)`` for ``steps``, each up-sampled from the last.

    A side below 1 is a share of the full size, else the pixels of a square.

    Images are up-sampled by their nearest neighbours (Botach & Cohen, §3.1.3), and made smaller by averaging.

    >>> [stage.size for stage in low_resolution_stages([(7, 100), (14, 100)], (28, 28), 200)]
    [(7, 7), (14, 14), (28, 28)]
    >>> [stage.size for stage in low_resolution_stages([(0.5, 100)], (28, 20), 200)]
    [(14, 10), (28, 20)]
    """
    plan = [*((_size_of(side, size), count) for side, count in low), (size, steps)]
    return [Stage(size=s, steps=count, start=partial(_to_size, size=s)) for s, count in plan]


def _size_of(side: float, full: Size) -> Size:
    if side >= 1:
        return int(side), int(side)
    return max(round(side * full[0]), 1), max(round(side * full[1]), 1)


def _to_size(images: Tensor, size: Size) -> Tensor:
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="area" if images.shape[-1] > size[1] else "nearest")
