"""What a step of network inversion costs beyond what it cannot do without; run by ``make bench``.

The unit is a forward and backward pass of the generator in train mode with the frozen classifier behind it: weight
gradients for the one, the gradient to its input for the other. A step adds the draw of conditions, the four terms and
Adam, and should cost at most 1.15 units. Measured as the step of DeepInversion is, in ``test_step.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from alternating import alternate, digits, report, resnet20, separate

from invkit.core.rng import seeded
from invkit.core.target import Target
from invkit.methods.network_inversion import NetworkInversion, NetworkInversionConfig, make_generators
from invkit.methods.reconstruction import Reconstruction, ReconstructionConfig

CASES = {  # network, width of the generator, images
    "small CNN, 16x16": (digits, 16, 64),
    "small CNN, 16x16, wide": (digits, 32, 64),
    "ResNet-20, 32x32": (resnet20, 16, 32),
}


def unit_of(target: Target, config: NetworkInversionConfig) -> Callable[[], object]:
    """Generator and frozen classifier, there and back, and nothing else."""
    (network,) = make_generators(target, config, seeded(0))
    asked = network.conditioning.draw(config.batch_size, seeded(1))
    parameters = list(network.parameters())
    return lambda: torch.autograd.grad(target(network(asked)).sum(), parameters)


def step_of(learner: NetworkInversion) -> Callable[[], object]:
    """One complete step: conditions, images, classifier, terms, Adam."""
    conditioning, draws = learner.networks[0].conditioning, seeded(1)
    return lambda: learner.step(conditioning.draw(learner.config.batch_size, draws))


@pytest.mark.parametrize("name", CASES)
def test_generator_step(benchmark, name):
    make, width, n = CASES[name]
    bare, inverted = separate(make)
    config = NetworkInversionConfig(width=width, batch_size=n)
    learner = NetworkInversion(inverted, make_generators(inverted, config, seeded(0)), config)
    parts = {"unit": unit_of(bare, config), "step": step_of(learner)}
    report(benchmark, f"{name}, {n} images", alternate(parts))
    benchmark.pedantic(parts["step"], rounds=2, warmup_rounds=0)


def test_reconstruction_step(benchmark):
    bare, inverted = separate(digits)
    parts: dict[str, Callable[[], object]] = {}
    for name, weight in (("with L_Grad", 0.01), ("without L_Grad", 0.0)):
        config = ReconstructionConfig(width=16, gradient=weight)
        networks = make_generators(inverted, config, seeded(0), hot=True, bounded=False)
        parts["unit"] = unit_of(bare, config)
        parts[name] = step_of(Reconstruction(inverted, networks, config))
    report(benchmark, "small CNN, 16x16, 64 images, reconstruction", alternate(parts, rounds=9, warm_up=2))
    benchmark.pedantic(lambda: None, rounds=1)
