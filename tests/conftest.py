"""What many tests share: small frozen networks, and the folder of real data where there is one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import nn

from invkit.images import ImageSpec
from invkit.target import Target

# Times on a shared machine say nothing about the code.
settings.register_profile("invkit", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("invkit")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Small tensors are faster on one thread, and sums keep their order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data_folder() -> Path:
    """The folder of real data and weights; tests that need it skip where there is none."""
    name = os.environ.get("INVKIT_DATA")
    if not name:
        pytest.skip("INVKIT_DATA names no folder of real data and weights")
    return Path(name)


class TinyNet(nn.Module):
    """Two convolutions with batch norm, a pool and a linear head; everything an inversion needs."""

    def __init__(self, channels: int, classes: int, width: int, batch_norm: bool) -> None:
        super().__init__()
        norm = nn.BatchNorm2d if batch_norm else lambda _: nn.Identity()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.bn2 = norm(2 * width)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.bn1(self.conv1(x)))
        return self.head(torch.tanh(self.bn2(self.conv2(x))).mean((2, 3)))


def _make_target(
    *, channels: int = 3, size: tuple[int, int] = (8, 8), classes: int = 4, width: int = 4,
    batch_norm: bool = True, seed: int = 0, dtype: torch.dtype = torch.float32,
) -> Target:  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = TinyNet(channels, classes, width, batch_norm)
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.3, 2)
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias)
    spec = ImageSpec(
        channels=channels, size=size, mean=(0.4,) * channels, std=(0.3,) * channels,
        classes=tuple(f"class {i}" for i in range(classes)),
    )  # fmt: skip
    return Target(net, spec, "tiny").to(dtype)


@pytest.fixture(scope="session")
def make_target() -> Callable[..., Target]:
    """Builds a tiny frozen network with random weights and random running statistics."""
    return _make_target


class Quadrants(nn.Module):
    """Sees which quarter of an image is brightest: the smallest network that every label can be reached in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.head = nn.Linear(4, 4)
        with torch.no_grad():
            self.conv.weight.fill_(1 / 9)
            self.conv.bias.fill_(0.1)
            self.head.weight.copy_(8 * torch.eye(4))
            self.head.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(nn.functional.adaptive_avg_pool2d(self.conv(x), 2).flatten(1))


@pytest.fixture
def quadrants() -> Target:
    """A frozen network on one channel, 12x12 pixels, whose four classes are the quarters of the image."""
    spec = ImageSpec(channels=1, size=(12, 12), mean=(0.5,), std=(0.25,), classes=("nw", "ne", "sw", "se"))
    return Target(Quadrants(), spec, "quadrants")


@pytest.fixture
def target() -> Target:
    """A tiny frozen network: 3 channels, 8x8 pixels, 4 classes, two batch norms."""
    return _make_target()
