"""DeePSiM (Dosovitskiy & Brox 2016): a generator that inverts features, trained by three losses, one adversarial.

The baseline of Dong et al. (2021, §4.3): trained on synthesised images, as divide-and-conquer inversion is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from invkit.core.results import FitResult
from invkit.core.rng import default_generator
from invkit.core.target import Target
from invkit.data.batching import batches
from invkit.engine.fit import Callback, FitConfig, fit
from invkit.networks.gan import Discriminator
from invkit.networks.upconv import UpConvGenerator

_DIGITS: dict[str, Any] = {
    "steps": 400, "schedule": "cosine", "batch_size": 32, "lr": 2e-3, "width": 16,
    "image": 1.0, "features": 0.1, "adversarial": 1.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class DeePSiMConfig(FitConfig):
    """Weights of ``L = feature L_feat + adversarial L_adv + image L_img`` and the training.

    The defaults are those of Dosovitskiy & Brox for AlexNet; Dong et al. name none. The weights count for sums of
    squares over an image or its features, so they depend on the layer: search, or start from ``for_profile("book")``.
    """

    steps: int = 500_000
    schedule: Literal["cosine", "restarts", "constant"] = "constant"
    batch_size: int = 64
    lr: float = 2e-4
    """Of both Adams."""
    betas: tuple[float, float] = (0.9, 0.999)
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
        checks = {
            "batch_size must be at least 2": self.batch_size >= 2,
            "lr must be positive": self.lr > 0,
            "betas must be two numbers in [0, 1)": len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas),
            "image must be a weight >= 0": 0 <= self.image < math.inf,
            "features must be a weight >= 0": 0 <= self.features < math.inf,
            "adversarial must be a weight >= 0": 0 <= self.adversarial < math.inf,
            "pause_ratio must not be negative": self.pause_ratio >= 0,
            "width must be at least 1": self.width >= 1,
        }
        for sentence, good in checks.items():
            if not good:
                raise ValueError(f"DeePSiMConfig: {sentence}, not {getattr(self, sentence.split()[0])!r}")
        if not (self.image or self.features or self.adversarial):
            raise ValueError(
                "DeePSiMConfig: every weight is zero, of image, features and adversarial; nothing to learn"
            )


class DeePSiM:
    """``L_img = ||x - x'||^2``, ``L_feat = ||C(x) - C(x')||^2``, ``L_adv = -log D(x')`` with ``x' = G(F(x))``.

    ``F`` is the target up to ``layer``; the comparator ``C`` is the target up to a layer of its own. Against the
    generator, the discriminator minimises ``-log D(x) - log(1 - D(x'))`` (Dosovitskiy & Brox, section 2). It is the
    residual one of :mod:`invkit.networks.gan`, spectrally normalised, which the authors' is not.
    """

    def __init__(
        self, target: Target, layer: str, config: DeePSiMConfig,
        *, generator: torch.Generator, comparator: str | None = None,
    ) -> None:  # fmt: skip
        target.check_frozen()
        self.target, self.layer, self.comparator = target, layer, comparator or layer
        self.config, self.device = config, target.device
        shape = self.features(target.mean.new_zeros(1, *target.spec.shape))[0].shape[1:]
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            self.inverse = UpConvGenerator(shape, target.spec, width=config.width).to(self.device)
            adversary = Discriminator(target.spec, width=config.width) if config.adversarial else None
        self.discriminator = None if adversary is None else adversary.to(self.device)
        networks = [net for net in (self.inverse, self.discriminator) if net is not None]
        self.optimizers = [torch.optim.Adam(net.parameters(), lr=config.lr, betas=config.betas) for net in networks]

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the layer and the comparator answer to ``images``, with a gradient to them."""
        with self.target.tap(self.layer, self.comparator) as read:
            found = read(images)
        return found[self.layer], found[self.comparator]

    def step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """One step of the generator, and of the discriminator unless it pauses, on images ``(N, C, H, W)`` in [0, 1].

        The labels play no part. Returns the generator's weighted terms and the discriminator's loss.
        """
        images = batch[0].to(self.device, non_blocking=True)
        with torch.no_grad():
            given, wanted = self.features(images)
        found = self.inverse(given)
        terms = self.losses(images, wanted, found)
        self._minimise(torch.stack(list(terms.values())).sum(), 0)
        values = {name: term.detach() for name, term in terms.items()}
        if self.discriminator is not None:
            values["discriminator"] = self.discriminate(images, found.detach(), values["adversarial"])
        return values

    def losses(self, images: Tensor, wanted: Tensor, found: Tensor) -> dict[str, Tensor]:
        """The weighted terms whose sum the generator minimises; a weight of zero leaves its term out."""
        config, terms = self.config, {}
        if config.image:
            terms["image"] = config.image * (images - found).square().flatten(1).sum(1).mean()
        if config.features:
            terms["features"] = config.features * (wanted - self._compared(found)).square().flatten(1).sum(1).mean()
        if self.discriminator is not None:
            self.discriminator.requires_grad_(False)
            terms["adversarial"] = config.adversarial * F.softplus(-self.discriminator(found)).mean()
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
            self._minimise(loss, 1)
        return loss.detach()

    def _minimise(self, loss: Tensor, which: int) -> None:
        self.optimizers[which].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizers[which].step()

    def state_dict(self) -> dict[str, Any]:
        """Both networks and their optimisers."""
        adversary = {} if self.discriminator is None else self.discriminator.state_dict()
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        return {"inverse": self.inverse.state_dict(), "discriminator": adversary, "optimizers": optimizers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.inverse.load_state_dict(state["inverse"])
        if self.discriminator is not None:
            self.discriminator.load_state_dict(state["discriminator"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)


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
    """Train a generator from the features of ``layer`` back to ``images`` ``(N, C, H, W)`` in [0, 1], say synthesised
    ones; return it frozen, in eval mode, and how it went.

    It maps features ``(N, ...)`` to images in one pass. ``checkpoint`` names a file to resume from, ``comparator`` the
    layer whose features the images are compared in: by default the inverted one, while logits want an earlier one.

    Raises ``ValueError`` for an unknown layer, images that are not the target's, or fewer than two of them, and
    ``ArithmeticError`` where the training became non-finite.
    """
    config, generator = config or DeePSiMConfig(), generator or default_generator()
    if len(target.spec.check(images)) < 2:
        raise ValueError("two images or more are needed to learn an inverse from")
    learner = DeePSiM(target, layer, config, generator=generator, comparator=comparator)
    feed = partial(_passes, images, min(config.batch_size, len(images)))
    result = fit(learner, feed, config, generator=generator, callbacks=callbacks, checkpoint=checkpoint, desc="DeePSiM")
    if result.diverged:
        raise ArithmeticError(f"the inverse of layer {layer!r} did not train: {result.stopped}; try a smaller lr")
    return learner.inverse.eval().requires_grad_(False), result


def _passes(images: Tensor, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    unused = torch.zeros(len(images), dtype=torch.long)
    # A last batch of one image would stop batch norm, so a rest is left for a later pass.
    return batches(images, unused, size, generator=generator, drop_last=True)
