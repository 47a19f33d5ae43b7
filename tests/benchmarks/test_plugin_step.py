"""What a Plug-In Inversion step costs, in units of a bare pass over as many images; run by ``make bench``.

The unit is a forward pass and a backward pass to the input of ``N * e`` images: an ensemble of ``e`` shifts of
``N`` images should cost little more. Measured as the step of DeepInversion is, in ``test_step.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from alternating import alternate, digits, needs_compile, report, resnet20, resnet50, separate, unit_of, vit_tiny

from invkit.core.rng import seeded
from invkit.core.target import Target
from invkit.engine.image_loop import _Run
from invkit.methods.plugin import PlugInConfig, _ensemble, _Watch
from invkit.objectives.objective import Objective
from invkit.transforms.resize import uniform_images

Size = tuple[int, int]
CASES = {  # network, images, shifts of each, size of the patch where it is not the network's
    "small CNN, 16x16": (digits, 20, 8, None),
    "ResNet-20, 32x32": (resnet20, 8, 8, None),
    "ResNet-50, 224x224": (resnet50, 1, 4, None),
    "ViT-Ti, 224x224": (vit_tiny, 1, 8, None),
    "ViT-Ti, 112x112 resized": (vit_tiny, 1, 8, (112, 112)),
}


def step_of(target: Target, n: int, ensemble: int, size: Size | None = None, **options) -> Callable[[], object]:
    """One complete step: jitter, shifts, network, Adam, clip, and the shifts of the next step."""
    config = PlugInConfig(steps=100_000, jitter=4, log_every=100_000, ensemble=ensemble, **options)
    copies = _ensemble(target, n, config, seeded(0), resize=size is not None)
    labels = torch.arange(n) % target.spec.n_classes
    objective = Objective(network=copies, terms={"cross_entropy": (1.0, copies.cross_entropy)}, references=labels)
    images = uniform_images(n, (target.spec.channels, *(size or target.spec.size)), seeded(0))
    loop = PlugInConfig(steps=100_000, jitter=4, log_every=100_000, bf16=config.bf16, compile=config.compile)
    run, watch = _Run(objective, images, loop, seeded(0), (), "last", None), _Watch((), copies, 1)
    return lambda: run.advance([watch])


@pytest.mark.parametrize("name", CASES)
def test_plugin_step(benchmark, name):
    make, n, ensemble, size = CASES[name]
    bare, shifted = separate(make)
    parts = {"unit": unit_of(bare, n * ensemble), "eager": step_of(shifted, n, ensemble, size)}
    report(benchmark, f"{name}, {n} images x {ensemble} shifts", alternate(parts, rounds=15, warm_up=3))
    benchmark.pedantic(parts["eager"], rounds=2, warmup_rounds=0)


@pytest.mark.parametrize("options", [{"bf16": True}, pytest.param({"compile": True}, marks=needs_compile)], ids=str)
def test_variants_of_the_step(benchmark, options):
    bare, shifted = separate(resnet20)
    parts = {"unit": unit_of(bare, 64), next(iter(options)): step_of(shifted, 8, 8, **options)}
    report(benchmark, "ResNet-20, 32x32, 8 images x 8 shifts", alternate(parts))
    benchmark.pedantic(lambda: None, rounds=1)


def test_micro_batches_of_shifts(benchmark):
    whole, chunked = separate(resnet20)
    parts = {"unchunked": step_of(whole, 8, 32), "micro-batches of 64": step_of(chunked, 8, 32, micro_batch=64)}
    report(benchmark, "ResNet-20, 8 images x 32 shifts", alternate(parts, rounds=15, warm_up=2), "unchunked")
    benchmark.pedantic(lambda: None, rounds=1)
