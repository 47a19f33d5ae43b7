"""Up-convolutional generators: from the features of any layer to images (Dosovitskiy & Brox 2016)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invkit.core.spec import ImageSpec


class UpConvGenerator(nn.Module):
    """Features ``(N, *shape)`` to images ``(N, C, H, W)``, in eval mode in [0, 1].

    Features with a grid, ``shape = (C, h, w)``, pass two 3x3 convolutions; others, say of a fully connected layer,
    two fully connected layers that end in a grid of 4 to 7 pixels. Then 4x4 up-convolutions of stride 2, each followed
    by a 3x3 convolution, double the grid until it holds the image; leaky ReLUs of slope 0.3 follow all of them but
    the last convolution. The features are standardised first, by their statistics in training, whatever their scale.

    Args:
        shape: Of one image's features.
        spec: Of the images.
        width: Channels at full resolution; each resolution below has twice as many, up to 8 times.

    Raises:
        ValueError: For a shape without entries.

    >>> from invkit.testing import tiny_target
    >>> inverse = UpConvGenerator((8, 4, 4), tiny_target().spec, width=4)
    >>> inverse(torch.rand(2, 8, 4, 4)).shape
    torch.Size([2, 3, 8, 8])
    """

    def __init__(self, shape: Sequence[int], spec: ImageSpec, *, width: int = 32):
        super().__init__()
        if len(shape) < 1 or min(shape) < 1 or width < 1:
            raise ValueError(f"a generator needs features (N, ...) of one or more entries and a width, not {shape}")
        self.size = spec.size
        grid = (shape[1], shape[2]) if len(shape) == 3 else _grid(spec.size)
        doublings = max(0, *(math.ceil(math.log2(s / g)) for s, g in zip(spec.size, grid, strict=True)))
        channels = [width * min(2**i, 8) for i in reversed(range(doublings + 1))]
        self.norm: nn.Module = nn.BatchNorm2d(shape[0], affine=False)
        self.start: nn.Module = nn.Sequential(*_conv(shape[0], channels[0]), *_conv(channels[0], channels[0]))
        if len(shape) != 3:
            inner, entries = 2 * channels[0], math.prod(shape)
            self.norm = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(entries, affine=False))
            first, last = nn.Linear(entries, inner), nn.Linear(inner, channels[0] * math.prod(grid))
            self.start = nn.Sequential(first, nn.LeakyReLU(0.3), last, nn.LeakyReLU(0.3),
                                       nn.Unflatten(1, (channels[0], *grid)))  # fmt: skip
        self.up = nn.Sequential(*(layer for pair in pairwise(channels) for layer in _double(*pair)))
        self.last = nn.Conv2d(channels[-1], spec.channels, 3, padding=1)

    def forward(self, features: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images ``(N, C, H, W)`` of features ``(N, *shape)``, in eval mode clamped to [0, 1].

        ``generator`` is without use here: all inverses are called alike, and this one draws nothing.
        """
        x = self.up(self.start(self.norm(features)))
        if tuple(x.shape[2:]) != self.size:  # a grid that does not double to the image's size
            x = F.interpolate(x, self.size, mode="bilinear", align_corners=False)
        images = self.last(x)
        # A sigmoid would saturate under a large loss and never come back; in training the losses hold the range.
        return images if self.training else images.clamp(0, 1)


def _conv(inner: int, outer: int) -> list[nn.Module]:
    return [nn.Conv2d(inner, outer, 3, padding=1), nn.LeakyReLU(0.3)]


def _double(inner: int, outer: int) -> list[nn.Module]:
    return [nn.ConvTranspose2d(inner, outer, 4, stride=2, padding=1), nn.LeakyReLU(0.3), *_conv(outer, outer)]


def _grid(size: tuple[int, int]) -> tuple[int, int]:
    """Where a vector's image begins: about 4 to 7 pixels wide."""
    doublings = max(0, math.floor(math.log2(min(size) / 4)))
    return math.ceil(size[0] / 2**doublings), math.ceil(size[1] / 2**doublings)
