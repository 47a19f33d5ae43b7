"""Tiny networks with known answers: for doctests, for this package's tests, and for yours."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from invkit.core.spec import ImageSpec
from invkit.core.target import Target


class TinyNet(nn.Module):
    """Two convolutions with batch norm, a pool and a linear head: everything that an inversion needs."""

    def __init__(self, channels: int, classes: int, width: int, batch_norm: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width) if batch_norm else nn.Identity()
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.bn2 = nn.BatchNorm2d(2 * width) if batch_norm else nn.Identity()
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of normalised images ``(N, channels, H, W)``."""
        x = torch.tanh(self.bn1(self.conv1(x)))
        return self.head(torch.tanh(self.bn2(self.conv2(x))).mean((2, 3)))


def tiny_target(
    *,
    channels: int = 3,
    size: tuple[int, int] = (8, 8),
    classes: int = 4,
    width: int = 4,
    batch_norm: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Target:
    """A frozen :class:`TinyNet` with random weights and random running statistics.

    >>> tiny_target()(torch.rand(2, 3, 8, 8)).shape
    torch.Size([2, 4])
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = TinyNet(channels, classes, width, batch_norm)
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_()  # type: ignore[union-attr]
                layer.running_var.uniform_(0.3, 2)  # type: ignore[union-attr]
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias)
    spec = ImageSpec(
        channels=channels,
        size=size,
        mean=(0.4,) * channels,
        std=(0.3,) * channels,
        classes=tuple(f"class {i}" for i in range(classes)),
    )
    return Target(net, spec, "tiny").to(dtype)


class Quadrants(nn.Module):
    """Sees which quarter of an image is brightest: the smallest network that every label can be reached in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.head = nn.Linear(4, 4)
        with torch.no_grad():
            self.conv.weight.fill_(1 / 9)
            self.conv.bias.fill_(0.1)  # type: ignore[union-attr]
            self.head.weight.copy_(8 * torch.eye(4))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, 4)`` of normalised images ``(N, 1, H, W)``."""
        return self.head(nn.functional.adaptive_avg_pool2d(self.conv(x), 2).flatten(1))


def quadrants_target() -> Target:
    """A frozen :class:`Quadrants` on one channel and 12x12 pixels, whose four classes are the quarters of the image.

    >>> image = torch.zeros(1, 1, 12, 12)
    >>> image[..., 6:, :6] = 1
    >>> target = quadrants_target()
    >>> target.spec.classes[target(image).argmax()]
    'sw'
    """
    spec = ImageSpec(channels=1, size=(12, 12), mean=(0.5,), std=(0.25,), classes=("nw", "ne", "sw", "se"))
    with torch.random.fork_rng(devices=[]):  # its weights are set by hand, but drawn before
        return Target(Quadrants(), spec, "quadrants")
