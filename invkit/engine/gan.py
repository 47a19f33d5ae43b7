"""Training a spectrally normalised GAN (Miyato et al. 2018) on the one fit loop."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from invkit.core.device import pick_device
from invkit.core.results import FitResult
from invkit.core.rng import isolated_rng, seeded, spawn
from invkit.data.datasets import DataSet
from invkit.engine.cache import cache_path, load_or_fit
from invkit.engine.fit import Callback, FitConfig, epochs, fit
from invkit.engine.learner import Learner
from invkit.networks.gan import Discriminator, GANGenerator
from invkit.objectives.losses import hinge_discriminator, hinge_generator
from invkit.transforms.jitter import apply_jitter, draw_jitter

# Found on digits of 16 pixels, judged by a network that took no part: small networks learn by ten times the rate.
_DIGITS: dict[str, Any] = {
    "steps": 1300, "batch_size": 32, "latent": 16, "width": 16, "discriminator_steps": 2,
    "lr_generator": 2e-3, "lr_discriminator": 2e-3, "ema": 0.99,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class GANConfig(FitConfig):
    """How to train a GAN. The defaults are Miyato et al.'s for residual networks (section 4, appendix B.4), but for the
    averaged weights.

    >>> GANConfig(discriminator_steps=2).betas
    (0.0, 0.9)
    """

    steps: int = 50_000
    """Of the generator."""
    schedule: Literal["cosine", "restarts", "constant"] = "constant"
    log_every: int = 100
    batch_size: int = 64
    """Images per step of the discriminator."""
    latent: int = 128
    """Entries of the latent code, from a standard normal distribution."""
    width: int = 64
    """Channels at full resolution, in both networks."""
    discriminator_steps: int = 5
    """For each step of the generator."""
    lr_generator: float = 2e-4
    """Of the generator's Adam."""
    lr_discriminator: float = 2e-4
    """Of the discriminator's Adam."""
    betas: tuple[float, float] = (0.0, 0.9)
    """Of both Adams."""
    ema: float = 0.999
    """Decay of the average of the generator's weights, which is what training returns; 0 keeps the last weights."""
    shift: int = 0
    """Largest random shift in pixels, of real and generated images alike, before the discriminator sees them: it
    cannot learn small sets by heart, and the generator does not learn to shift (Zhao et al. 2020).
    """

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {
        "ci": {"steps": 40, "batch_size": 16, "latent": 8, "width": 4, "discriminator_steps": 1, "ema": 0.9},
        "book": _DIGITS,
        "paper": {},
    }

    def __post_init__(self) -> None:
        FitConfig.__post_init__(self)
        self.require_whole("batch_size", least=2)
        self.require_whole("latent", "width", "discriminator_steps")
        self.require_whole("shift", least=0)
        self.require_positive("lr_generator", "lr_discriminator")
        self.require_betas()
        self.require("ema", 0 <= self.ema < 1, "lie in [0, 1)")


class GANLearner(Learner[tuple[Tensor, Tensor]]):
    """Two networks against each other: ``min_D E max(0, 1 - D(x)) + E max(0, 1 + D(G(z)))``, ``min_G -E D(G(z))``.

    The hinge losses of Miyato et al. (2018, eq. 16 and 17), with z standard normal.
    """

    STATE: ClassVar[tuple[str, ...]] = ("generator", "discriminator", "average", "optimizers", "draws", "updates")

    def __init__(
        self, generator: GANGenerator, discriminator: Discriminator, config: GANConfig,
        *, draws: torch.Generator, device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.config, self.device, self.draws, self.updates = config, torch.device(device), spawn(draws), 0
        self.generator, self.discriminator = (
            net.to(self.device).to(memory_format=torch.channels_last).train() for net in (generator, discriminator)
        )
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        # What is averaged, named once: loading a state copies into these tensors, so they stay the ones.
        states = (net.state_dict().values() for net in (self.average, self.generator))
        self.averaged = list(zip(*states, strict=True))
        self.optimizers = (
            torch.optim.Adam(self.generator.parameters(), lr=config.lr_generator, betas=config.betas),
            torch.optim.Adam(self.discriminator.parameters(), lr=config.lr_discriminator, betas=config.betas),
        )

    def step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """``discriminator_steps`` steps of the one, each on its share of the batch's images ``(N, C, H, W)`` in
        [0, 1], and one of the other; the labels play no part. Returns both losses, the discriminator's last one.
        """
        return self.alternate(batch[0], None)

    def alternate(self, images: Tensor, condition: Tensor | None) -> dict[str, Tensor]:
        """The steps of :meth:`step`, with each image's vector ``(N, D)`` for conditional networks."""
        images = images.to(self.device, non_blocking=True)
        parts = images.chunk(self.config.discriminator_steps)
        vectors: Sequence[Tensor | None] = [None] * len(parts)
        if condition is not None:
            vectors = condition.to(self.device, non_blocking=True).split([len(part) for part in parts])
        losses = [self.discriminate(part, vector) for part, vector in zip(parts, vectors, strict=True)]
        terms = {"discriminator": losses[-1], "generator": self.generate(len(parts[0]), vectors[0])}
        self.updates += 1
        self._average()
        return terms

    def discriminate(self, real: Tensor, condition: Tensor | None = None) -> Tensor:
        """One step of the discriminator on these images and as many generated ones; returns its loss."""
        with torch.no_grad():
            fake = self.generator(self.latents(len(real)), condition)
        both = torch.cat((self.augment(real), self.augment(fake)))
        twice = None if condition is None else torch.cat((condition, condition))
        loss = hinge_discriminator(*self.discriminator(both, twice).split(len(real))).mean()
        return self.minimise(loss, self.optimizers[1])

    def generate(self, count: int, condition: Tensor | None = None) -> Tensor:
        """One step of the generator on ``count`` latent codes; returns its loss."""
        self.discriminator.requires_grad_(False)
        fake = self.generator(self.latents(count), condition)
        scores = self.discriminator(self.augment(fake), condition)
        self.discriminator.requires_grad_(True)
        return self.minimise(hinge_generator(scores).mean(), self.optimizers[0])

    def latents(self, count: int) -> Tensor:
        """Standard normal codes ``(count, latent)``."""
        return torch.randn(count, self.config.latent, generator=self.draws).to(self.device)

    def augment(self, images: Tensor) -> Tensor:
        """Randomly shifted images, with a gradient to ``images``."""
        if self.config.shift == 0:
            return images
        return apply_jitter(images, draw_jitter(len(images), self.config.shift, 0.0, self.draws), wrap=False)

    @torch.no_grad()
    def _average(self) -> None:
        # A short memory at first, so that the random start is soon forgotten.
        decay = min(self.config.ema, (1 + self.updates) / (10 + self.updates))
        for average, latest in self.averaged:
            if average.is_floating_point():
                average.lerp_(latest, 1 - decay)
            else:
                average.copy_(latest)


class GAN(NamedTuple):
    """Two networks that were trained against each other."""

    generator: GANGenerator
    discriminator: Discriminator


def train_gan(
    data: DataSet,
    config: GANConfig | None = None,
    *,
    seed: int = 0,
    device: str = "auto",
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
) -> tuple[GAN, FitResult]:
    """Train a generator and a discriminator on images; return both frozen, in eval mode on the CPU, and how it went.

    The generator is the average over training where ``config.ema`` is not 0. Same seed, same weights, bit for bit on
    the CPU. Stops and raises as :func:`invkit.engine.fit.fit`.

    Args:
        data: ``data.train`` holds the images; the labels play no part.
        config: How to train; by default as published.
        seed: Of weights, order and latent codes.
        device: Where to train; ``auto`` takes a GPU where there is one.
        callbacks: Called after each step of the generator; one that returns True stops the run.
        checkpoint: A file to resume from.

    Returns:
        Both networks, and how the training went.

    Raises:
        ValueError: For images that do not come from doubling a grid of 4 to 7 pixels.

    >>> from invkit.data.datasets import load_data
    >>> gan, result = train_gan(load_data("digits", size=8, limit=40), GANConfig.for_profile("ci", steps=2))
    >>> gan.generator(torch.zeros(1, 8)).shape, result.stopped
    (torch.Size([1, 1, 8, 8]), 'steps')
    """
    config = config or GANConfig()
    networks = _build(data, config, seed)
    result = _train(networks, data, config, seed, device, callbacks, checkpoint)
    return _frozen(networks), result


def load_or_train_gan(
    data: DataSet,
    config: GANConfig | None = None,
    *,
    seed: int = 0,
    folder: str | Path | None = None,
    device: str = "auto",
    callbacks: Sequence[Callback] = (),
) -> GAN:
    """Both networks of :func:`train_gan`, trained once and kept as :func:`invkit.engine.classifier.load_or_train` keeps
    classifiers, with what that raises. The arguments are those of the two.

    >>> import tempfile
    >>> from invkit.data.datasets import load_data
    >>> data, config = load_data("digits", size=8, limit=40), GANConfig.for_profile("ci", steps=2)
    >>> load_or_train_gan(data, config, folder=tempfile.mkdtemp()).generator.latent
    8
    """
    config = config or GANConfig()
    networks = _build(data, config, seed)
    path = cache_path("sngan", data, {"config": config, "seed": seed}, folder)

    def train(unfinished: Path) -> FitResult:
        return _train(networks, data, config, seed, device, callbacks, unfinished)

    record = data.spec.to_json() | {"network": "sngan", "data": data.name}
    rates = f"{config.lr_generator} and {config.lr_discriminator}"
    load_or_fit(networks, path, train, record, f"try smaller learning rates than {rates}")
    return _frozen(networks)


def _build(data: DataSet, config: GANConfig, seed: int) -> nn.ModuleDict:
    with isolated_rng(seed):
        generator = GANGenerator.build(data.spec, latent=config.latent, width=config.width)
        return nn.ModuleDict({"generator": generator, "discriminator": Discriminator(data.spec, width=config.width)})


def _train(
    networks: nn.ModuleDict, data: DataSet, config: GANConfig, seed: int, device: str,
    callbacks: Sequence[Callback], checkpoint: str | Path | None,
) -> FitResult:  # fmt: skip
    """Train both in place; the generator's last weights give way to their average."""
    draws, size = seeded(seed), config.batch_size * config.discriminator_steps
    generator, discriminator = cast(GANGenerator, networks["generator"]), cast(Discriminator, networks["discriminator"])
    learner = GANLearner(generator, discriminator, config, draws=draws, device=pick_device(device))
    try:
        return fit(
            learner, epochs(data.train.pixels, data.train.labels, size), config, generator=draws,
            callbacks=callbacks, checkpoint=checkpoint, desc="train GAN",
        )  # fmt: skip
    finally:
        generator.load_state_dict(learner.average.state_dict())
        networks.to("cpu").to(memory_format=torch.contiguous_format)


def _frozen(networks: nn.ModuleDict) -> GAN:
    networks.eval().requires_grad_(False)
    return GAN(cast(GANGenerator, networks["generator"]), cast(Discriminator, networks["discriminator"]))
