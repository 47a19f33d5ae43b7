"""What a step of feedforward inversion costs beyond what it cannot do without; run by ``make bench``.

The unit is what one step of each network needs: for the discriminator a pass of the generator without gradients and a
forward and backward pass on real and generated images; for the generator a forward and backward pass through both,
with weight gradients for the generator only. A step adds the draws, the losses, two Adams and the average, and should
cost at most 1.15 units. The logits are computed before, once. Measured as the step of DeepInversion is, in
``test_step.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from alternating import alternate, report

from invkit.core.rng import seeded
from invkit.core.spec import ImageSpec
from invkit.methods.feedforward import FeedforwardConfig, FeedforwardInversion

CASES = {"1 x 16 x 16": (1, 16, 16, 32), "3 x 32 x 32": (3, 32, 16, 32), "3 x 32 x 32, wide": (3, 32, 32, 32)}


def learner_of(channels: int, size: int, width: int, batch: int) -> tuple[FeedforwardInversion, torch.Tensor]:
    """A learner with fresh networks, and logits of ten classes."""
    spec = ImageSpec(
        channels=channels, size=(size, size), mean=(0.5,) * channels, std=(0.5,) * channels, classes=tuple("abcdefghij")
    )
    config = FeedforwardConfig(
        width=width, batch_size=batch, latent=16, hidden=64, discriminator_steps=1, shift=1,
        lr_generator=1e-4, lr_discriminator=1e-4,
    )  # fmt: skip
    logits = torch.randn(batch, 10, generator=seeded(0))
    return FeedforwardInversion(spec, logits, config, draws=seeded(1)), logits


def unit_of(learner: FeedforwardInversion, images: torch.Tensor, logits: torch.Tensor) -> Callable[[], object]:
    """The passes of both networks, there and back, and nothing else."""
    generator, discriminator = learner.generator, learner.discriminator
    noise = torch.randn(len(images), generator.latent, generator=seeded(2))
    theirs, ours = list(discriminator.parameters()), list(generator.parameters())

    def unit() -> None:
        with torch.no_grad():
            fake = generator(noise, logits)
        scores = discriminator(torch.cat((images, fake)), torch.cat((logits, logits)))
        torch.autograd.grad(scores.sum(), theirs)
        discriminator.requires_grad_(False)
        torch.autograd.grad(discriminator(generator(noise, logits), logits).sum(), ours)
        discriminator.requires_grad_(True)

    return unit


@pytest.mark.parametrize("name", CASES)
def test_feedforward_step(benchmark, name):
    channels, size, _, batch = CASES[name]
    images = torch.rand(batch, channels, size, size, generator=seeded(3))
    bare, logits = learner_of(*CASES[name])
    whole, _ = learner_of(*CASES[name])
    parts = {"unit": unit_of(bare, images, logits), "step": lambda: whole.step((images, logits))}
    report(benchmark, f"{name}, width {CASES[name][2]}, {batch} images", alternate(parts))
    benchmark.pedantic(parts["step"], rounds=2, warmup_rounds=0)
