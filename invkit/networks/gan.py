"""Generators and discriminators of spectrally normalised GANs, with residual blocks (Miyato et al. 2018, appendix B.4).

The generator is a chain of named blocks, ``linear``, ``block1`` ..., ``output``, so that it can be taken apart and
inverted block by block. Its norms come from a factory: :class:`ConditionalBatchNorm2d` in their place, and a
discriminator with ``condition``, make the conditional GAN of Teterwak et al. (2021, section 3)."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from typing import Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from invkit.core.spec import ImageSpec

Norm = Callable[[int], nn.Module]
"""Makes a norm for a number of channels; conditional ones are called with the condition as a second argument."""

M = TypeVar("M", nn.Conv2d, nn.Linear)


class ConditionalBatchNorm2d(nn.Module):
    """Batch norm whose scale and shift depend on a vector: ``(x - mean) / std * gamma(c) + beta(c)``.

    ``x`` is ``(N, C, H, W)``, the condition ``c`` ``(N, D)``; gamma and beta are MLPs of two layers, with ``hidden``
    units between them. The second layers start at zero, and gamma's answer counts from one, so that training begins at
    plain batch norm. (Teterwak et al. 2021, eq. 3; de Vries et al. 2017.)
    """

    def __init__(self, channels: int, condition: int, hidden: int = 64):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gamma, self.beta = _mlp(condition, hidden, channels), _mlp(condition, hidden, channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Normalise, then scale and shift each image's channels."""
        gamma, beta = (mlp(condition)[:, :, None, None] for mlp in (self.gamma, self.beta))
        return torch.addcmul(beta, self.norm(x), 1 + gamma)


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    last = nn.Linear(hidden, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), last)


class GeneratorBlock(nn.Module):
    """norm, ReLU, twice as large, 3x3 convolution, norm, ReLU, 3x3 convolution; beside them a 1x1 convolution."""

    def __init__(self, inner: int, outer: int, norm: Norm = nn.BatchNorm2d):
        super().__init__()
        self.norm1, self.norm2 = norm(inner), norm(outer)
        self.conv1, self.conv2 = _conv(inner, outer), _conv(outer, outer)
        self.shortcut = _initialise(nn.Conv2d(inner, outer, 1))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """``(N, inner, H, W)`` to ``(N, outer, 2H, 2W)``."""
        extra = () if condition is None else (condition,)
        out = self.conv1(F.interpolate(F.relu(self.norm1(x, *extra)), scale_factor=2))
        out = self.conv2(F.relu(self.norm2(out, *extra)))
        return out + F.interpolate(self.shortcut(x), scale_factor=2)  # 1x1 first: a quarter of the work, the same sum


class OutputBlock(nn.Module):
    """norm, ReLU, 3x3 convolution, sigmoid: features to images in [0, 1]."""

    def __init__(self, inner: int, channels: int, norm: Norm = nn.BatchNorm2d):
        super().__init__()
        self.norm = norm(inner)
        self.conv = _initialise(nn.Conv2d(inner, channels, 3, padding=1))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """``(N, inner, H, W)`` to ``(N, channels, H, W)``."""
        extra = () if condition is None else (condition,)
        return torch.sigmoid(self.conv(F.relu(self.norm(x, *extra))))


class GANGenerator(nn.Sequential):
    """Latent codes ``(N, latent)`` to images ``(N, C, H, W)`` in [0, 1]: ``linear``, ``block1`` ..., ``output``."""

    @classmethod
    def build(cls, spec: ImageSpec, *, latent: int = 128, width: int = 64, norm: Norm = nn.BatchNorm2d) -> Self:
        """A generator with fresh weights for images of ``spec``.

        Each block doubles the size; the last has ``width`` channels, each one before it twice as many, up to 16 times
        (a width of 64 gives the published network for 128 pixels). The first grid is 4 to 7 pixels wide. A sigmoid
        keeps images in [0, 1], where the paper has a tanh and [-1, 1].

        Args:
            spec: Of the images.
            latent: Entries of a code.
            width: Channels at full resolution.
            norm: Makes the norm for a number of channels.

        Raises:
            ValueError: For images that do not come from doubling such a grid.

        >>> from invkit.testing import tiny_target
        >>> generator = GANGenerator.build(tiny_target().spec, latent=5, width=2)
        >>> generator(torch.zeros(2, 5)).shape, generator.latent
        (torch.Size([2, 3, 8, 8]), 5)
        """
        grid, blocks = _grid(spec.size)
        channels = [width * min(2**i, 16) for i in reversed(range(blocks + 1))]
        first = _initialise(nn.Linear(latent, channels[0] * math.prod(grid)))
        parts: dict[str, nn.Module] = {"linear": nn.Sequential(first, nn.Unflatten(1, (channels[0], *grid)))}
        for i, (inner, outer) in enumerate(pairwise(channels), start=1):
            parts[f"block{i}"] = GeneratorBlock(inner, outer, norm)
        parts["output"] = OutputBlock(channels[-1], spec.channels, norm)
        return cls(OrderedDict(parts))

    @property
    def latent(self) -> int:
        """The number of entries of a latent code."""
        return next(layer.in_features for layer in self.modules() if isinstance(layer, nn.Linear))

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """``(N, latent)``, and for conditional norms ``(N, D)``, to images."""
        x = z
        for block in self:
            takes_it = condition is not None and isinstance(block, GeneratorBlock | OutputBlock)
            x = block(x, condition) if takes_it else block(x)
        return x


class DiscriminatorBlock(nn.Module):
    """ReLU, 3x3 convolution, ReLU, 3x3 convolution, half the size; beside them a 1x1 convolution.

    The block on images has no ReLU at its start, which would cut them off, and ``half=False`` keeps the size.
    """

    def __init__(self, inner: int, outer: int, *, half: bool = True, images: bool = False):
        super().__init__()
        self.conv1, self.conv2 = spectral_norm(_conv(inner, outer)), spectral_norm(_conv(outer, outer))
        short = half or inner != outer
        self.shortcut = spectral_norm(_initialise(nn.Conv2d(inner, outer, 1))) if short else nn.Identity()
        self.shrinks, self.images = half, images

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inner, H, W)`` to ``(N, outer, H/2, W/2)``, or of the same size."""
        out = self.conv2(F.relu(self.conv1(x if self.images else F.relu(x))))
        if not self.shrinks:
            return out + self.shortcut(x)
        return F.avg_pool2d(out, 2) + self.shortcut(F.avg_pool2d(x, 2))


class Discriminator(nn.Module):
    """Images ``(N, C, H, W)`` in [0, 1] to one score each, ``(N,)``; every layer's spectral norm is 1.

    ``D(x) = v . h(x) + b``, with ``h`` the sum over the last grid; with ``condition`` the size of a vector ``c``, the
    projection discriminator ``D(x, c) = v . h(x) + b + (V c) . h(x)`` (Miyato & Koyama 2018, eq. 4, its embedding of
    classes a linear map of ``c``).

    >>> from invkit.testing import tiny_target
    >>> Discriminator(tiny_target().spec, width=2)(torch.rand(3, 3, 8, 8)).shape
    torch.Size([3])
    """

    def __init__(self, spec: ImageSpec, width: int = 64, condition: int | None = None):
        super().__init__()
        _, blocks = _grid(spec.size)
        channels = [width * min(2**i, 16) for i in range(blocks)]
        pairs = pairwise((spec.channels, *channels))
        parts = [DiscriminatorBlock(inner, outer, images=i == 0) for i, (inner, outer) in enumerate(pairs)]
        self.blocks = nn.Sequential(*parts, DiscriminatorBlock(channels[-1], channels[-1], half=False))
        self.head = spectral_norm(_initialise(nn.Linear(channels[-1], 1)))
        self.project = None if condition is None else spectral_norm(nn.Linear(condition, channels[-1], bias=False))

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        """Scores: the higher, the more real."""
        features = F.relu(self.blocks(2 * images - 1)).sum((2, 3))
        scores = self.head(features).squeeze(1)
        if self.project is None:
            return scores
        if condition is None:
            raise ValueError("a projection discriminator needs the condition of each image")
        return scores + (self.project(condition) * features).sum(1)


def _grid(size: tuple[int, int]) -> tuple[tuple[int, int], int]:
    """The first grid of a generator and how often it is doubled."""
    (height, width), blocks = size, 0
    while min(height, width) >= 8 and height % 2 == width % 2 == 0:
        height, width, blocks = height // 2, width // 2, blocks + 1
    if blocks == 0 or min(height, width) > 7:
        raise ValueError(
            f"images of {size[0]}x{size[1]} pixels do not come from doubling a grid of 4 to 7; "
            "take 8, 16, 32, 64 or 128"
        )
    return (height, width), blocks


def _conv(inner: int, outer: int) -> nn.Conv2d:
    return _initialise(nn.Conv2d(inner, outer, 3, padding=1), math.sqrt(2))  # the gain of a layer before a ReLU


def _initialise(layer: M, gain: float = 1.0) -> M:
    """Uniform after Glorot, no bias, as published; spectral norm comes after, since it starts from the weights."""
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
