"""Copies of images under the random transforms of torchvision, as an ensemble takes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

Shift = Callable[[Tensor], Tensor]
"""``(N, C, H, W)`` to ``(N * e, C, H, W)``, the copies of one image next to each other."""

Views = Callable[[int, int, torch.Generator], Shift]
"""Draws the shifts of ``N`` images, ``e`` copies each, from a generator."""


@dataclass(frozen=True)
class RandomViews:
    """Copies changed by ``transform``, any differentiable transform of ``torchvision.transforms.v2``.

    Each copy is transformed on its own. What is drawn can be applied again and again, with the same result: the global
    random numbers, which torchvision draws from, are seeded for the call and put back.

    >>> still = RandomViews(torch.nn.Identity())(1, 2, torch.Generator())
    >>> still(torch.ones(1, 3, 8, 8)).shape
    torch.Size([2, 3, 8, 8])
    """

    transform: Callable[[Tensor], Tensor]

    def __call__(self, n: int, copies: int, generator: torch.Generator) -> Shift:
        """Draw for ``n`` images, ``copies`` times each."""
        return partial(self._apply, n, copies, int(torch.randint(2**62, (), generator=generator)))

    def _apply(self, n: int, copies: int, seed: int, images: Tensor) -> Tensor:
        if len(images) != n:
            raise ValueError(f"the views were drawn for {n} images, not {len(images)}")
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(seed)
            made = [self.transform(image) for image in images for _ in range(copies)]
        if (shape := tuple(made[0].shape)) != tuple(images.shape[1:]):
            raise ValueError(f"a view must keep the shape {tuple(images.shape[1:])}, not make it {shape}")
        return torch.stack(made)
