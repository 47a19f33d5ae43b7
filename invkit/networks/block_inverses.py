"""Networks that undo the blocks of a target, each mirroring its counterpart (Dong et al., §3.1 and §4.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invkit.partition.chain import Block

_LARGEST = 4_000_000
"""Weights of one fully connected layer from a vector to a feature map; beyond, the map has fewer channels first."""


def inverse_of(block: Block) -> nn.Module:
    """A network that is to undo a block, with fresh weights.

    Feature maps to feature maps: :class:`ConvInverse`, or :class:`ResidualInverse` for residual blocks; vectors:
    :class:`LinearInverse`; a feature map to a code, at the start of a generator: :class:`CodeInverse`.

    Args:
        block: What is undone.

    Returns:
        A network from the block's output ``(N, *block.outputs)`` to its input ``(N, *block.inputs)``.

    Raises:
        ValueError: For other shapes.

    >>> block = Block(name="conv", inputs=(3, 8, 8), outputs=(6, 4, 4))
    >>> inverse_of(block)(torch.rand(2, 6, 4, 4)).shape
    torch.Size([2, 3, 8, 8])
    """
    dims = len(block.outputs), len(block.inputs)
    if dims == (3, 3):
        return ResidualInverse(block) if block.residual else ConvInverse(block)
    if dims in ((1, 1), (1, 3)):
        return LinearInverse(block)
    if dims == (3, 1):
        return CodeInverse(block)
    raise ValueError(
        f"there is no inverse for the block that ends at {block.name!r}, from {block.inputs} to {block.outputs}: "
        "only feature maps (C, H, W) and vectors (D,) are undone"
    )


class BlockInverse(nn.Module):
    """What all inverses share: scales of the two sides, so that the layers in between work on numbers of size 1.

    ``inverse(y) = mean_u + std_u net(y / rms_y)``, per channel, with statistics that :meth:`measure` reads off a batch,
    and a ReLU at the end where the block's input comes out of one. Few outputs stay zero behind it (no channel, or one
    of 16); training without it, or with gradients through where it is closed, wakes these and costs up to 4 dB.
    They are constants, not batch norms: an inverse must not depend on the other images of the batch.
    """

    scale_in: Tensor
    scale_out: Tensor
    shift_out: Tensor

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block
        for name, fill, shape in (
            ("scale_in", 1.0, block.outputs),
            ("scale_out", 1.0, block.inputs),
            ("shift_out", 0.0, block.inputs),
        ):
            self.register_buffer(name, torch.full((shape[0], *(1 for _ in shape[1:])), fill))

    @torch.no_grad()
    def measure(self, outputs: Tensor, inputs: Tensor) -> None:
        """Set the scales by a batch of the block's outputs ``(N, *block.outputs)`` and inputs."""
        y, u = (t.double().transpose(0, 1).flatten(1) for t in (outputs, inputs))
        rms, std = y.square().mean(1).sqrt(), u.std(1, correction=0)
        # Nothing is learnt about a channel that is always zero, and what the next inverse gives for it is not: cut off.
        scale = rms.clamp_min(0.1 * float(rms.mean())).masked_fill(rms <= 1e-3 * rms.mean(), torch.inf)
        self.scale_in.copy_(scale.view_as(self.scale_in))
        self.scale_out.copy_(std.clamp_min(max(0.1 * float(std.mean()), 1e-6)).view_as(self.scale_out))
        self.shift_out.copy_(u.mean(1).view_as(self.shift_out))

    def forward(self, y: Tensor) -> Tensor:
        """``(N, *block.outputs)`` to ``(N, *block.inputs)``."""
        u = self.unscaled(y)
        return u if self.block.signed_inputs else F.relu(u)

    def unscaled(self, y: Tensor) -> Tensor:
        """The inverse before the last rectification."""
        return self.shift_out + self.scale_out * self.net(y / self.scale_in)

    def net(self, y: Tensor) -> Tensor:
        """The learnt part, between scaled tensors."""
        raise NotImplementedError


class Signs(nn.Module):
    """``[max(0, y), max(0, -y)]`` along the channels: a layer behind it can undo a leaky ReLU exactly."""

    def forward(self, y: Tensor) -> Tensor:
        """``(N, C, ...)`` to ``(N, 2C, ...)``."""
        return torch.cat((F.relu(y), F.relu(-y)), 1)


def _opened(block: Block) -> tuple[nn.Module, int]:
    # A rectified output has no negative half.
    return (Signs(), 2 * block.outputs[0]) if block.signed else (nn.Identity(), block.outputs[0])


class ConvInverse(BlockInverse):
    """Undoes a convolution with its batch norm, activation and pooling: one layer, and one with hidden layers.

    ``net(y) = grow(A y' + B(y'))``, ``y'`` = :class:`Signs` of y. Strides and pools are undone at once by sub-pixel
    convolutions: a stride of s gives s^2 values per channel, which ``grow`` lays out as s x s pixels. Enlarging, as in
    a generator, is undone by the reverse (:func:`shrink`), in front of all layers.
    """

    def __init__(self, block: Block) -> None:
        super().__init__(block)
        self.grow = Grow(block.outputs, block.inputs)
        self.open, channels = _opened(block)
        self.shrink, channels = shrink(block, channels)
        outer = block.inputs[0] * self.grow.factor**2
        hidden = max(16, min(block.outputs[0], 2 * block.inputs[0]))
        inner: list[nn.Module] = []
        for k in range(block.depth):
            inner += [_conv(channels if k == 0 else hidden, hidden), nn.LeakyReLU(0.1)]
        self.direct, self.detour = _conv(channels, outer), nn.Sequential(*inner, _conv(hidden, outer))
        self.grow.level(self.direct, self.detour[-1])

    def net(self, y: Tensor) -> Tensor:
        """``(N, *block.outputs)`` to ``(N, *block.inputs)``."""
        y = self.shrink(self.open(y))
        return self.grow(self.direct(y) + self.detour(y))


class ResidualInverse(BlockInverse):
    """Undoes residual blocks ``y = relu(x + f(x))`` as a unit: ``y + g(y)``, once for each, then a change of shape.

    The last layer of each ``g`` starts at zero, so that ``y`` itself is the first guess where the shapes are equal.
    """

    def __init__(self, block: Block) -> None:
        super().__init__(block)
        channels = block.outputs[0]
        self.branches = nn.ModuleList(_branch(channels, block.width or channels) for _ in range(block.depth))
        self.exit: nn.Module | None = None
        if block.inputs != block.outputs:
            grow = Grow(block.outputs, block.inputs)
            outer = block.inputs[0] * grow.factor**2
            self.shrink, channels = shrink(block, channels)
            last = _conv(channels, outer, 3 if block.width is None else 1)
            grow.level(last)
            self.exit = nn.Sequential(last, grow)

    def measure(self, outputs: Tensor, inputs: Tensor) -> None:
        """Set the scales; where the block opened a channel, all of it must be undone, so its own size counts."""
        super().measure(outputs, inputs)
        if self.exit is None:
            rms = outputs.square().mean((0, 2, 3)).sqrt().view_as(self.scale_out)
            self.scale_out.copy_(torch.maximum(self.scale_out, rms))

    def unscaled(self, y: Tensor) -> Tensor:
        """The inverse before the last rectification."""
        if self.exit is not None:
            return super().unscaled(y)
        scaled = y / self.scale_in
        return y + self.scale_out * (self._along(scaled) - scaled)

    def net(self, y: Tensor) -> Tensor:
        """The residual branches, then the change of shape."""
        assert self.exit is not None
        return self.exit(self.shrink(self._along(y)))

    def _along(self, y: Tensor) -> Tensor:
        for branch in self.branches:
            y = y + branch(y)
        return y


def _branch(channels: int, width: int) -> nn.Module:
    outer = 3 if width == channels else 1
    last = _conv(width, channels, outer)
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    inner: list[nn.Module] = [] if outer == 3 else [_conv(width, width), nn.LeakyReLU(0.1)]
    return nn.Sequential(_conv(channels, width, outer), nn.LeakyReLU(0.1), *inner, last)


def _conv(inner: int, outer: int, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, kernel, padding=kernel // 2)


class LinearInverse(BlockInverse):
    """Undoes a linear layer, with the global pooling in front of it: from a vector to a vector or to a feature map."""

    def __init__(self, block: Block) -> None:
        super().__init__(block)
        self.open, width = _opened(block)
        channels, *grid = block.inputs
        area = math.prod(grid)
        # A full matrix onto a large map would be most of the network: it makes fewer channels, a convolution the rest.
        self.seed = max(1, min(channels, _LARGEST // (width * area))) if grid else channels
        hidden = max(32, 2 * block.outputs[0]) if self.seed == channels else width
        hidden = min(hidden, 512)
        self.direct = nn.Linear(width, self.seed * area)
        self.detour = nn.Sequential(nn.Linear(width, hidden), nn.LeakyReLU(0.1), nn.Linear(hidden, self.seed * area))
        self.last: nn.Module = nn.Identity() if self.seed == channels else _conv(self.seed, channels)

    def net(self, y: Tensor) -> Tensor:
        """``(N, D)`` to ``(N, *block.inputs)``."""
        y = self.open(y)
        maps = (self.direct(y) + self.detour(y)).view(len(y), self.seed, *self.block.inputs[1:])
        return self.last(maps)


class CodeInverse(BlockInverse):
    """Undoes the first layer of a generator: from a feature map, as one vector, to a code. One layer is enough for a
    linear one; the hidden layer beside it sees to what else the block holds.
    """

    def __init__(self, block: Block) -> None:
        super().__init__(block)
        self.open, channels = _opened(block)
        width, code = channels * math.prod(block.outputs[1:]), block.inputs[0]
        hidden = min(max(32, 4 * code), 512)
        self.direct = nn.Linear(width, code)
        self.detour = nn.Sequential(nn.Linear(width, hidden), nn.LeakyReLU(0.1), nn.Linear(hidden, code))

    def net(self, y: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, D)``."""
        y = self.open(y).flatten(1)
        return self.direct(y) + self.detour(y)


def shrink(block: Block, channels: int) -> tuple[nn.Module, int]:
    """``PixelUnshuffle`` that undoes a block's enlarging by a whole factor s: s x s pixels become s^2 channels.

    Args:
        block: Whose output sizes go in, and input sizes come out.
        channels: That go in.

    Returns:
        The module, an identity for a block that does not enlarge, and how many channels come out.

    >>> shrink(Block(name="up", inputs=(4, 4, 4), outputs=(2, 8, 8)), channels=2)
    (PixelUnshuffle(downscale_factor=2), 8)
    """
    (height, width), size = block.outputs[1:], block.inputs[1:]
    s = height // size[0]
    if s < 2 or (height, width) != (s * size[0], s * size[1]):
        return nn.Identity(), channels
    return nn.PixelUnshuffle(s), channels * s**2


class Grow(nn.Module):
    """Sub-pixel rearrangement ``(N, C s^2, h, w)`` to ``(N, C, H, W)``: s x s pixels from the channels, cut to size.

    ``s`` is the smallest whole factor that covers ``(H, W)``; maps that are larger are averaged back.
    """

    def __init__(self, small: Sequence[int], large: Sequence[int]) -> None:
        super().__init__()
        self.size = (large[1], large[2])
        self.factor = max(1, math.ceil(large[1] / small[1]), math.ceil(large[2] / small[2]))

    @torch.no_grad()
    def level(self, *layers: nn.Module) -> None:
        """Let the s x s pixels that each of ``layers`` makes of one begin equal (Aitken et al., 2017).

        With weights of their own from the start, each of the s^2 places would keep a brightness of its own, which shows
        as a grid in what comes out at the end of a short training.
        """
        for parameter in (p for layer in layers for p in layer.parameters()):
            places = parameter.view(-1, self.factor**2, *parameter.shape[1:])
            places.copy_(places[:, :1].expand_as(places).clone())

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps of the size before the block."""
        x = F.pixel_shuffle(x, self.factor) if self.factor > 1 else x
        x = x[..., : self.size[0], : self.size[1]]
        return x if x.shape[-2:] == self.size else F.adaptive_avg_pool2d(x, self.size)
