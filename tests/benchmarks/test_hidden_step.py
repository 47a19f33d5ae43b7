"""What a step of edge-popup costs, in units of a plain training step of the same network; run by ``make bench``.

The unit is a complete step of :class:`invkit.engine.classifier.ClassifierLearner` with SGD: augmentation, forward and
backward pass, update. A step of edge-popup ranks the scores of each layer once and updates scores instead of weights;
asked are at most 1.25 units. Both are measured in turn, as in ``test_step.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from alternating import CIFAR, DIGITS, alternate, report

from invkit.core.rng import seeded
from invkit.core.spec import ImageSpec
from invkit.engine.classifier import ClassifierConfig, ClassifierLearner
from invkit.methods.hidden import EdgePopup, HiddenConfig
from invkit.networks.classifiers import build

CASES = {  # network, images, their number, width
    "small CNN, 16x16": ("bn_cnn", DIGITS, 64, 32),
    "small CNN, 16x16, narrow": ("bn_cnn", DIGITS, 64, 16),
    "ResNet-20, 32x32": ("resnet20", CIFAR, 64, 16),
    "ViT, 32x32": ("vit_tiny", CIFAR, 64, 64),
}


def step_of(learner: ClassifierLearner, spec: ImageSpec, n: int) -> Callable[[], object]:
    """One complete step on ``n`` random images."""
    images = torch.rand(n, *spec.shape, generator=seeded(1))
    labels = torch.arange(n) % spec.n_classes
    return lambda: learner.step((images, labels))


@pytest.mark.parametrize("name", CASES)
def test_hidden_step(benchmark, name):
    network, spec, n, width = CASES[name]
    module = build(network, spec, width=width, seed=0)
    plain = ClassifierLearner(
        build(network, spec, width=width, seed=0), spec, ClassifierConfig(optimizer="sgd"),
        generator=seeded(0), device=torch.device("cpu"),
    )  # fmt: skip
    parts = {"unit": step_of(plain, spec, n)}
    for k in (30, 70):
        learner = EdgePopup(module, spec, HiddenConfig(k=k), generator=seeded(0))
        parts[f"edge-popup, k {k}%"] = step_of(learner, spec, n)
    report(benchmark, f"{name}, {n} images", alternate(parts))
    benchmark.pedantic(parts["unit"], rounds=2, warmup_rounds=0)
