"""DeePSiM (Dosovitskiy & Brox 2016): a generator that inverts features, trained by three losses, one adversarial.

The baseline of Dong et al. (2021, §4.3): trained on synthesised images, as divide-and-conquer inversion is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from invkit.core.results import FitResult
from invkit.core.rng import default_generator, isolated_rng
from invkit.core.target import Target
from invkit.engine.fit import Callback, FitConfig, epochs, fit
from invkit.engine.learner import Learner, detached, total
from invkit.networks.gan import Discriminator
from invkit.networks.upconv import UpConvGenerator

_DIGITS: dict[str, Any] = {
    "steps": 400, "schedule": "cosine", "batch_size": 32, "lr": 2e-3, "width": 16,
    "image": 1.0, "features": 0.1, "adversarial": 1.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class DeePSiMConfig(FitConfig):
    """Weights of ``L = features L_feat + adversarial L_adv + image L_img`` and the training.

    The defaults are those of Dosovitskiy & Brox for AlexNet; Dong et al. name none. The weights count for sums of
    squares over an image or its features, so they depend on the layer: search, or start from ``for_profile("book")``.

    >>> DeePSiMConfig.for_profile("book", features=0.3).features
    0.3
    """

    steps: int = 500_000
    """Optimiser steps (Dosovitskiy & Brox)."""
    schedule: Literal["cosine", "restarts", "constant"] = "constant"
    batch_size: int = 64
    """Images per step."""
    lr: float = 2e-4
    """Of both Adams."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of both Adams."""
    image: float = 2e-6 * 255**2
    """Squared distance of images; published for pixels up to 255."""
    features: float = 0.01
    """Squared distance of features."""
    adversarial: float = 100.0
    """Of the generator's part in the adversarial loss; 0 does without a discriminator."""
    pause_ratio: float = 0.1
    """The discriminator pauses while its loss is less than this share of the generator's adversarial loss."""
    width: int = 32
    """Channels at full resolution, in both networks."""

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {
        "ci": _DIGITS | {"steps": 30, "width": 8},
        "book": _DIGITS,
        "paper": {},
    }

    def __post_init__(self) -> None:
        FitConfig.__post_init__(self)
        self.require_whole("batch_size", least=2)
        self.require_whole("width")
        self.require_positive("lr")
        self.require_betas()
        self.require_weight("image", "features", "adversarial", "pause_ratio")
        if not (self.image or self.features or self.adversarial):
            raise ValueError(
                "DeePSiMConfig: every weight is zero, of image, features and adversarial; nothing to learn"
            )


class DeePSiM(Learner[tuple[Tensor, Tensor]]):
    """``L_img = ||x - x'||^2``, ``L_feat = ||C(x) - C(x')||^2``, ``L_adv = -log D(x')`` with ``x' = G(F(x))``.

    ``F`` is the target up to ``layer``; the comparator ``C`` is the target up to a layer of its own. Against the
    generator, the discriminator minimises ``-log D(x) - log(1 - D(x'))`` (Dosovitskiy & Brox, section 2). It is the
    residual one of :mod:`invkit.networks.gan`, spectrally normalised, which the authors' is not.

    >>> from invkit.testing import tiny_target
    >>> learner = DeePSiM(tiny_target(), "conv2", DeePSiMConfig(width=2), generator=torch.Generator())
    >>> list(learner.step((torch.rand(4, 3, 8, 8), torch.arange(4))))
    ['image', 'features', 'adversarial', 'discriminator']
    """

    STATE: ClassVar[tuple[str, ...]] = ("inverse", "discriminator", "optimizers")

    def __init__(
        self, target: Target, layer: str, config: DeePSiMConfig,
        *, generator: torch.Generator, comparator: str | None = None,
    ) -> None:  # fmt: skip
        target.check_frozen()
        self.target, self.layer, self.comparator = target, layer, comparator or layer
        self.config, self.device = config, target.device
        shape = self.features(target.mean.new_zeros(1, *target.spec.shape))[0].shape[1:]
        with isolated_rng(generator):
            self.inverse = UpConvGenerator(shape, target.spec, width=config.width).to(self.device)
            adversary = Discriminator(target.spec, width=config.width) if config.adversarial else None
        self.discriminator = None if adversary is None else adversary.to(self.device)
        networks = [net for net in (self.inverse, self.discriminator) if net is not None]
        self.optimizers = [torch.optim.Adam(net.parameters(), lr=config.lr, betas=config.betas) for net in networks]

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the layer and the comparator answer to ``images``, with a gradient to them."""
        with self.target.tap(self.layer, self.comparator) as read:
            features = read(images)
        return features[self.layer], features[self.comparator]

    def step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """One step of the generator, and of the discriminator unless it pauses, on images ``(N, C, H, W)`` in [0, 1].

        The labels play no part. Returns the generator's weighted terms and the discriminator's loss.
        """
        images = batch[0].to(self.device, non_blocking=True)
        with torch.no_grad():
            inverted, compared = self.features(images)
        reconstructions = self.inverse(inverted)
        terms = self.losses(images, compared, reconstructions)
        self.minimise(total(terms), self.optimizers[0])
        values = detached(terms)
        if self.discriminator is not None:
            values["discriminator"] = self.discriminate(images, reconstructions.detach(), values["adversarial"])
        return values

    def losses(self, images: Tensor, features: Tensor, reconstructions: Tensor) -> dict[str, Tensor]:
        """The weighted terms whose sum the generator minimises; a weight of zero leaves its term out.

        ``features`` are those of the ``images`` at the comparator.
        """
        config, terms = self.config, {}
        if config.image:
            terms["image"] = config.image * (images - reconstructions).square().flatten(1).sum(1).mean()
        if config.features:
            gaps = features - self._compared(reconstructions)
            terms["features"] = config.features * gaps.square().flatten(1).sum(1).mean()
        if self.discriminator is not None:
            self.discriminator.requires_grad_(False)
            terms["adversarial"] = config.adversarial * F.softplus(-self.discriminator(reconstructions)).mean()
            self.discriminator.requires_grad_(True)
        return terms

    def _compared(self, images: Tensor) -> Tensor:
        with self.target.tap(self.comparator) as read:  # the pass ends there
            return read(images)[self.comparator]

    def discriminate(self, real: Tensor, fake: Tensor, adversarial: Tensor) -> Tensor:
        """One step of the discriminator, unless it is already too good for the generator; returns its loss."""
        assert self.discriminator is not None
        on_real, on_fake = self.discriminator(torch.cat((real, fake))).chunk(2)
        loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        if self.config.pause_ratio == 0 or loss >= self.config.pause_ratio * adversarial / self.config.adversarial:
            self.minimise(loss, self.optimizers[1])
        return loss.detach()


def deepsim(
    target: Target,
    images: Tensor,
    layer: str,
    config: DeePSiMConfig | None = None,
    *,
    generator: torch.Generator | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
    comparator: str | None = None,
) -> tuple[UpConvGenerator, FitResult]:
    """Train a generator from a layer's features back to images; return it frozen, in eval mode, and how it went.

    It maps features ``(N, ...)`` to images in one pass. Where the result says that the training diverged, it is the
    generator of the last good step.

    Args:
        target: The frozen classifier.
        images: ``(N, C, H, W)``, uint8 or float in [0, 1], say synthesised ones.
        layer: The name of the module whose output is inverted.
        config: Weights of the loss, and how to train.
        generator: Source of all randomness.
        callbacks: Called after each step; one that returns True stops the run.
        checkpoint: A file to resume from.
        comparator: The layer whose features the images are compared in: by default the inverted one, while logits want
            an earlier one.

    Returns:
        The generator from features ``(N, ...)`` to images, and how the training went.

    Raises:
        ValueError: For an unknown layer, images that are not the target's, or fewer than two of them.

    >>> from invkit.testing import tiny_target
    >>> config = DeePSiMConfig(steps=2, batch_size=4, width=2)
    >>> inverse, result = deepsim(tiny_target(), torch.rand(8, 3, 8, 8), "conv2", config)
    >>> inverse(torch.rand(5, 8, 4, 4)).shape, result.stopped
    (torch.Size([5, 3, 8, 8]), 'steps')
    """
    config, generator = config or DeePSiMConfig(), generator or default_generator()
    images = target.spec.check(images, keep_bytes=True)
    if len(images) < 2:
        raise ValueError(f"two images or more are needed to learn an inverse from, not {len(images)}")
    learner = DeePSiM(target, layer, config, generator=generator, comparator=comparator)
    result = fit(
        learner, epochs(images, None, config.batch_size), config, generator=generator,
        callbacks=callbacks, checkpoint=checkpoint, desc="DeePSiM",
    )  # fmt: skip
    return learner.inverse.eval().requires_grad_(False), result
