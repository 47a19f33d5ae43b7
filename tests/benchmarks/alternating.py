"""Time in units of a bare pass of the same network, unit and step in turn, and the networks measured."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import pytest
import torch

from invkit.core.rng import seeded
from invkit.core.spec import ImageSpec
from invkit.core.target import Target
from invkit.networks.batch_norm import calibrate
from invkit.networks.classifiers import build
from invkit.networks.loading import load_target

COMPILE = bool(os.environ.get("INVKIT_BENCH_COMPILE"))
THREADS = int(os.environ.get("INVKIT_BENCH_THREADS", "2"))
CIFAR = ImageSpec(
    channels=3, size=(32, 32), mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26), classes=tuple("abcdefghij")
)
DIGITS = ImageSpec(channels=1, size=(16, 16), mean=(0.3,), std=(0.35,), classes=tuple("0123456789"))
needs_compile = pytest.mark.skipif(not COMPILE, reason="set INVKIT_BENCH_COMPILE=1 to measure compiled steps")


def resnet20() -> Target:
    return Target(build("resnet20", CIFAR, seed=0), CIFAR)


def digits() -> Target:
    return Target(build("bn_cnn", DIGITS, seed=0), DIGITS)


def resnet50() -> Target:
    return load_target("torchvision/resnet50", weights=None)


def efficientnet_lite0() -> Target:
    return load_target("timm/tf_efficientnet_lite0", weights=None)


def vit_tiny() -> Target:
    return load_target("timm/vit_tiny_patch16_224", weights=None)


def unit_of(target: Target, batch: int) -> Callable[[], object]:
    """Forward and backward to the input, and nothing else."""
    leaf = torch.rand(batch, *target.spec.shape, generator=seeded(1)).requires_grad_()
    network = target.module

    def unit() -> object:
        return torch.autograd.grad(network(leaf).sum(), leaf)

    return unit


def alternate(parts: dict[str, Callable[[], object]], rounds: int = 21, warm_up: int = 4) -> dict[str, float]:
    """Median seconds of each part, all of them run in turn, round after round."""
    times: dict[str, list[float]] = {name: [] for name in parts}
    for k in range(warm_up + rounds):
        for name, part in parts.items():
            start = time.perf_counter()
            part()
            if k >= warm_up:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def report(benchmark, title: str, seconds: dict[str, float], unit: str = "unit") -> None:
    """Print ratios to the unit and keep them with the benchmark's record."""
    print(f"\n{title}: {1e3 * seconds[unit]:.1f} ms a unit ({THREADS} threads)")
    for name, value in seconds.items():
        print(f"  {name:24s} {1e3 * value:9.1f} ms   {value / seconds[unit]:.2f}")
        benchmark.extra_info[name] = round(value / seconds[unit], 3)


def separate(make: Callable[[], Target]) -> tuple[Target, Target]:
    """Two networks of the same weights: the unit's must not carry the step's hooks.

    Both have the statistics of some images, as trained networks have: else the numbers in deep layers become so small
    that a processor takes many times as long for each.
    """
    images = torch.rand(8, *make().spec.shape, generator=seeded(2))
    return calibrate(make(), images), calibrate(make(), images)
