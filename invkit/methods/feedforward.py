"""Feedforward inversion of logits (Teterwak et al. 2021): a GAN conditioned on what a classifier answers to an image.

The generator draws an image from a logit vector and noise in one pass; the discriminator sees the logits too, and so
asks for an image that they could be of. One adversarial loss is all there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from invkit.core.results import FitResult
from invkit.core.rng import default_generator, isolated_rng
from invkit.core.spec import ImageSpec
from invkit.core.target import Target
from invkit.engine.fit import Callback, epochs, fit
from invkit.engine.gan import GANConfig, GANLearner
from invkit.metrics.quality import in_batches
from invkit.networks.gan import ConditionalBatchNorm2d, Discriminator, GANGenerator

# Found on digits of 16 pixels, judged by a network that took no part. Images are not shifted for the discriminator: the
# generator would then be free to shift them too, and lose what the logits tell of the place.
_DIGITS: dict[str, Any] = {
    "steps": 800, "schedule": "cosine", "batch_size": 32, "latent": 16, "width": 16, "hidden": 64,
    "discriminator_steps": 1, "lr_generator": 2e-3, "lr_discriminator": 2e-3, "ema": 0.99, "shift": 0,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedforwardConfig(GANConfig):
    """How to train an inverse of logits. Teterwak et al. build on BigGAN (Brock et al. 2019): its defaults, in the
    one-GPU form, but for the noise.

    >>> FeedforwardConfig.for_profile("book").latent
    16
    """

    steps: int = 100_000
    """Of the generator. The paper names no number."""
    batch_size: int = 256
    """Images per step of the discriminator. The paper names no number."""
    latent: int = 120
    """Entries of the noise, from a standard normal distribution (Teterwak et al., section 3)."""
    width: int = 96
    """Channels at full resolution, in both networks (Brock et al.)."""
    hidden: int = 256
    """Units of the MLPs that turn logits into scales and shifts of the batch norms; the paper names no number."""
    projection: bool = True
    """Whether the discriminator sees the logits; without ``W_2`` (eq. 2) nothing asks for images that fit them."""
    discriminator_steps: int = 2
    """For each step of the generator (Brock et al.)."""
    lr_generator: float = 5e-5
    """Of the generator's Adam (Brock et al.)."""
    betas: tuple[float, float] = (0.0, 0.999)
    """Of both Adams (Brock et al.)."""
    ema: float = 0.9999
    """Decay of the average of the generator's weights (Brock et al.); 0 keeps the last weights."""
    zero_loss_steps: int = 200
    """Stop after so many steps with a discriminator loss of 0: it has won, and no gradient comes from it."""

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {
        "ci": _DIGITS | {"steps": 20, "batch_size": 16, "width": 4, "hidden": 8, "ema": 0.9},
        "book": _DIGITS,
        "paper": {},
    }

    def __post_init__(self) -> None:
        GANConfig.__post_init__(self)
        self.require_whole("hidden", "zero_loss_steps")


class LogitInverse(nn.Module):
    """``x = G(z, noise)``: logits ``(N, K)`` to images ``(N, C, H, W)`` in [0, 1], in one pass.

    The logits are standardised by the statistics of the training images' first, ``mean`` and ``std`` ``(K,)``: a map
    with an inverse, which loses nothing and lets logits of any scale in.

    >>> from invkit.testing import tiny_target
    >>> config = FeedforwardConfig(latent=4, width=2, hidden=4)
    >>> inverse = LogitInverse(tiny_target().spec, torch.zeros(4), torch.ones(4), config).eval()
    >>> inverse(torch.randn(2, 4)).shape, inverse(torch.randn(2, 4), torch.Generator()).shape
    (torch.Size([2, 3, 8, 8]), torch.Size([2, 3, 8, 8]))
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ImageSpec, mean: Tensor, std: Tensor, config: FeedforwardConfig) -> None:
        super().__init__()
        norm = partial(ConditionalBatchNorm2d, condition=len(mean), hidden=config.hidden)
        self.generator = GANGenerator.build(spec, latent=config.latent, width=config.width, norm=norm)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std.clamp(min=1e-6))

    def standardise(self, logits: Tensor) -> Tensor:
        """What the networks are given. Raises ``ValueError`` for logits of another width."""
        if logits.ndim != 2 or logits.shape[1] != len(self.mean):
            raise ValueError(
                f"this inverse was made for logits (N, {len(self.mean)}), not {tuple(logits.shape)}; "
                "logits of another classifier need an inverse of their own"
            )
        return (logits - self.mean) / self.std

    def forward(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One image for each logit vector: ``(N, K)`` to ``(N, C, H, W)``.

        ``generator`` is the source of the noise; None takes noise of zero, the most usual one.
        """
        shape = (len(logits), self.generator.latent)
        if generator is None:
            return self.with_noise(logits, logits.new_zeros(shape))
        return self.with_noise(logits, torch.randn(shape, generator=generator).to(logits))

    def with_noise(self, logits: Tensor, noise: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` of logits ``(N, K)`` and a noise of one's choice ``(N, latent)``."""
        return self.generator(noise, self.standardise(logits))

    @torch.no_grad()
    def draws(self, logits: Tensor, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """``count`` images of each logit vector, ``(count, N, C, H, W)``: the same logits, other noise.

        What differs between them is what the classifier does not tell, as far as the inverse knows (section 3).

        >>> from invkit.testing import tiny_target
        >>> config = FeedforwardConfig(latent=4, width=2, hidden=4)
        >>> inverse = LogitInverse(tiny_target().spec, torch.zeros(4), torch.ones(4), config).eval()
        >>> inverse.draws(torch.randn(2, 4), 3).shape
        torch.Size([3, 2, 3, 8, 8])
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count}")
        generator = generator or default_generator()
        noise = torch.randn(count, len(logits), self.generator.latent, generator=generator).to(logits.device)
        return torch.stack([self.with_noise(logits, n) for n in noise])


class FeedforwardInversion(GANLearner):
    """``min_D E max(0, 1 - D(x; z)) + max(0, 1 + D(G(z, e); z))``, ``min_G -E D(G(z, e); z)`` with ``z`` the logits.

    ``D(x; z) = (w_1 + W_2 z)^T phi(x)`` (Teterwak et al., eq. 2; the losses follow it). The networks' draws, blocks and
    average are those of every GAN here. Raises ``ValueError`` for logits that are not of two classes or more.

    >>> from invkit.testing import tiny_target
    >>> target, images = tiny_target(), torch.rand(4, 3, 8, 8)
    >>> config = FeedforwardConfig(latent=4, width=2, hidden=4)
    >>> learner = FeedforwardInversion(target.spec, target(images), config, draws=torch.Generator())
    >>> list(learner.step((images, target(images))))
    ['discriminator', 'generator']
    """

    config: FeedforwardConfig
    STATE: ClassVar[tuple[str, ...]] = (*GANLearner.STATE, "steps_at_zero")

    def __init__(
        self, spec: ImageSpec, logits: Tensor, config: FeedforwardConfig,
        *, draws: torch.Generator, device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        if logits.ndim != 2 or min(logits.shape) < 2:
            raise ValueError(f"need logits (N, K) of two classes or more, of two images or more: {tuple(logits.shape)}")
        with isolated_rng(draws):
            inverse = LogitInverse(spec, logits.mean(0), logits.std(0), config)
            condition = logits.shape[1] if config.projection else None
            discriminator = Discriminator(spec, width=config.width, condition=condition)
        super().__init__(inverse.generator, discriminator, config, draws=draws, device=device)
        self.inverse = inverse.to(self.device)
        self.steps_at_zero = 0
        """For how many steps in a row the discriminator's loss has been 0."""

    def step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Steps of both networks on images ``(N, C, H, W)`` in [0, 1] and their logits ``(N, K)``; returns losses."""
        images, logits = (part.to(self.device, non_blocking=True) for part in batch)
        return self.alternate(images, self.inverse.standardise(logits))

    def problem(self, terms: Mapping[str, float]) -> str | None:
        """Says so when the discriminator's loss has been 0 for ``config.zero_loss_steps`` steps."""
        self.steps_at_zero = self.steps_at_zero + 1 if terms["discriminator"] == 0 else 0
        if self.steps_at_zero >= self.config.zero_loss_steps:
            return f"discriminator loss at 0 for {self.steps_at_zero} steps"
        return "" if self.steps_at_zero else None


def feedforward_inversion(
    target: Target,
    images: Tensor,
    config: FeedforwardConfig | None = None,
    *,
    generator: torch.Generator | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
) -> tuple[LogitInverse, FitResult]:
    """Train an inverse of the target's logits on images; return it frozen, in eval mode on the target's device, and
    how it went.

    The logits of the images are computed once. The inverse holds the average of the generator's weights over
    training, the last good one where the result says that the training diverged. Same seed, same bits on the CPU.

    Args:
        target: The frozen classifier.
        images: ``(N, C, H, W)``, uint8 or float in [0, 1].
        config: How to train.
        generator: Source of all randomness.
        callbacks: Called after each step; one that returns True stops the run.
        checkpoint: A file to resume from.

    Returns:
        The inverse, and how the training went.

    Raises:
        ValueError: For images that are not the target's, fewer than two of them or than two classes.

    >>> from invkit.testing import tiny_target
    >>> target, images = tiny_target(), torch.rand(8, 3, 8, 8)
    >>> config = FeedforwardConfig(steps=2, batch_size=4, latent=4, width=2, hidden=4, discriminator_steps=1)
    >>> inverse, result = feedforward_inversion(target, images, config)
    >>> inverse(target(images)).shape, result.stopped
    (torch.Size([8, 3, 8, 8]), 'steps')
    """
    config, generator = config or FeedforwardConfig(), generator or default_generator()
    target.check_frozen()
    images = target.spec.check(images, dtype=target.dtype, keep_bytes=True)
    with torch.no_grad():
        logits = in_batches(target, images)
    learner = FeedforwardInversion(target.spec, logits, config, draws=generator, device=target.device)
    result = fit(
        learner, epochs(images, logits, config.batch_size * config.discriminator_steps), config, generator=generator,
        callbacks=callbacks, checkpoint=checkpoint, desc="inverse",
    )  # fmt: skip
    learner.inverse.generator.load_state_dict(learner.average.state_dict())
    return learner.inverse.eval().requires_grad_(False), result
