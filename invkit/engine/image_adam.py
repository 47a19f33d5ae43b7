"""Adam on images, at one scale or at many at once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def scales_of(size: tuple[int, int]) -> int:
    """How many scales images of ``size`` ``(H, W)`` have: their own, then halves down to four pixels or more.

    >>> scales_of((32, 32)), scales_of((224, 224)), scales_of((5, 5))
    (4, 6, 1)
    """
    return max(min(size) // 4, 1).bit_length()


def _bilinear(small: int, large: int, like: Tensor) -> Tensor:
    """The matrix ``(large, small)`` that enlarges a line of pixels as bilinear interpolation does."""
    unit = torch.eye(small, dtype=like.dtype, device=like.device)[None]
    return F.interpolate(unit, size=large, mode="linear", align_corners=False)[0].T.contiguous()


class ImageAdam:
    """Moves ``images`` in place by Adam, on pixels and, with ``scales`` > 1, on means over blocks of 2, 4, 8 pixels.

    Adam gives every pixel steps of one length, so that noise grows as fast as form does. With coarse variables beside
    the pixels, each with its own running moments and enlarged smoothly, what is common to a neighbourhood moves
    together: large forms come first and fine grain has to earn its place. The minima stay where they are.
    """

    def __init__(self, images: Tensor, lr: float, betas: tuple[float, float], scales: int = 1) -> None:
        self.images = images
        height, width = images.shape[-2:]
        coarse = [(max(height >> k, 1), max(width >> k, 1)) for k in range(1, scales)]
        self.moves = [images.new_zeros(*images.shape[:2], *size) for size in coarse]
        self._enlarge = [(_bilinear(h, height, images), _bilinear(w, width, images)) for h, w in coarse]
        self.adam = torch.optim.Adam([images, *self.moves], lr=lr, betas=betas)

    @property
    def lr(self) -> float:
        """The step size of all scales."""
        return float(self.adam.param_groups[0]["lr"])

    @lr.setter
    def lr(self, value: float) -> None:
        self.adam.param_groups[0]["lr"] = value

    @torch.no_grad()
    def step(self, gradient: Tensor) -> None:
        """One step against ``gradient``, that of the loss by the pixels."""
        self.images.grad = gradient
        finer, whole = gradient, True
        for move in self.moves:
            height, width = move.shape[-2:]
            # Means of means, while blocks are whole: the gradient itself is read once, not for each scale.
            whole = whole and tuple(finer.shape[-2:]) == (2 * height, 2 * width)
            finer = F.avg_pool2d(finer, 2) if whole else F.interpolate(gradient, size=(height, width), mode="area")
            move.grad = finer
            move.zero_()
        self.adam.step()
        for move, (rows, columns) in zip(self.moves, self._enlarge, strict=True):
            # Bilinear interpolation as two products of matrices, several times faster on a CPU.
            self.images += rows @ move @ columns.T
        for tensor in (self.images, *self.moves):
            tensor.grad = None  # not to be held through the next forward pass

    def state_dict(self) -> dict[str, Any]:
        """Adam's moments at every scale."""
        return self.adam.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.adam.load_state_dict(state)
