"""What a step of divide-and-conquer inversion costs beside the parts that it cannot do without; run by ``make bench``.

The parts at stage k: the inverse from depth k to the images, forward and backward to the weights that learn; and the
target on the reconstructions, forward and backward to them. They and the step alternate in one run, so that whatever
else the machine does meets all. Nothing is asserted about time.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from alternating import CIFAR, DIGITS, THREADS, alternate

from invkit.core.rng import seeded
from invkit.core.target import Target
from invkit.methods.dci import DCI, DCIConfig
from invkit.networks.classifiers import build
from invkit.networks.inverse import ChainInverse
from invkit.partition.chain import Chain, partition_network
from invkit.partition.feature_store import FeatureStore


def chain_of(name: str) -> Chain:
    spec = DIGITS if name == "bn_cnn" else CIFAR
    return partition_network(Target(build(name, spec, seed=0), spec, name))


def learner_of(chain: Chain, depth: int, phase: str, batch: int) -> tuple[DCI, FeatureStore]:
    images = torch.rand(4 * batch, *chain.target.spec.shape, generator=seeded(0))
    store = FeatureStore(chain, images, batch_size=batch)
    learner = DCI(
        chain, ChainInverse.untrained(chain, depth, seeded(0)), depth, DCIConfig(batch_size=batch), phase=phase
    )
    learner.prepare(store.batch(torch.arange(batch)))
    return learner, store


def step_of(chain: Chain, depth: int, phase: str, batch: int) -> Callable[[], object]:
    """A whole step: rows of the cache, losses, backward, Adam."""
    learner, store = learner_of(chain, depth, phase, batch)
    rows = torch.randperm(len(store), generator=seeded(1))[:batch]
    return lambda: learner.step(store.batch(rows))


def inverse_of(chain: Chain, depth: int, phase: str, batch: int) -> Callable[[], object]:
    """Features to images and back, to the weights that learn."""
    learner, store = learner_of(chain, depth, phase, batch)
    features = store.batch(torch.arange(batch))[depth]
    parameters = list(learner.learning.parameters())
    return lambda: torch.autograd.grad(learner.inverse.walk(features, depth)[-1].sum(), parameters)


def target_of(chain: Chain, batch: int) -> Callable[[], object]:
    """Images to all features and back."""
    images = torch.rand(batch, *chain.target.spec.shape, generator=seeded(0))
    leaf = images.contiguous(memory_format=torch.channels_last).requires_grad_()
    network = chain.target
    return lambda: torch.autograd.grad(network(leaf).sum(), leaf)


@pytest.mark.parametrize("phase", ["train", "fine_tune"])
@pytest.mark.parametrize(("name", "batch", "depths"), [("bn_cnn", 16, (2, 5, 8)), ("resnet20", 32, (2, 5, 10))])
def test_step(benchmark, name, batch, depths, phase):
    chain = chain_of(name)
    print(f"\n{name}, batch {batch}, {phase} ({THREADS} threads)")
    for depth in depths:
        parts = {
            "step": step_of(chain, depth, phase, batch), "inverse": inverse_of(chain, depth, phase, batch),
            "target": target_of(chain, batch),
        }  # fmt: skip
        seconds = alternate(parts, rounds=11, warm_up=2)
        ratio = seconds["step"] / (seconds["inverse"] + seconds["target"])
        shown = "  ".join(f"{part} {1e3 * value:7.1f} ms" for part, value in seconds.items())
        print(f"  depth {depth:2d}: {shown}   step / parts {ratio:.2f}")
        benchmark.extra_info[f"depth {depth}"] = round(ratio, 3)
    benchmark.pedantic(parts["step"], rounds=3, warmup_rounds=0)
