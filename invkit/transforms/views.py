"""Copies of images under the random transforms of torchvision, as an ensemble takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from invkit.core.rng import isolated_rng
from invkit.core.spec import check_rank

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
        check_rank(images)
        if len(images) != n:
            raise ValueError(f"the views were drawn for {n} images, not {len(images)}")
        # Not in bfloat16: a transform that computes coordinates would round them to a 256th of the image.
        with isolated_rng(seed, images.device), torch.autocast(images.device.type, enabled=False):
            views = [self.transform(image) for image in images for _ in range(copies)]
        if views[0].shape != images.shape[1:]:
            raise ValueError(
                f"a view must keep the shape {tuple(images.shape[1:])}, not make it {tuple(views[0].shape)}"
            )
        return torch.stack(views)


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

        Raises:
            ValueError: Where ``alpha`` or ``beta`` is neither one number nor one for each channel.
        """
        widths = torch.stack([_per_channel(v, name, channels) for v, name in ((alpha, "alpha"), (beta, "beta"))])
        uniform = 2 * torch.rand(2, n, copies, channels, generator=generator) - 1
        offset, log_scale = uniform * widths[:, None, None]
        return cls(log_scale.exp(), offset)

    def __call__(self, images: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N * e, C, H, W)``, the copies of one image next to each other."""
        check_rank(images)
        if images.shape[:2] != (self.scale.shape[0], self.scale.shape[2]):
            n, _, channels = self.scale.shape
            raise ValueError(f"the shift was drawn for {n} images of {channels} channels, not {tuple(images.shape)}")
        scale, offset = (t[..., None, None].to(images.device, non_blocking=True) for t in (self.scale, self.offset))
        return (images[:, None] * scale - offset).flatten(0, 1)


def _per_channel(values: float | Sequence[float], name: str, channels: int) -> Tensor:
    widths = torch.as_tensor(values, dtype=torch.float32)
    if widths.ndim > 1 or (widths.ndim == 1 and len(widths) != channels):
        raise ValueError(f"{name} needs one number, or one for each of the {channels} channels, not {values}")
    return widths.expand(channels)
