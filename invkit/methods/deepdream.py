"""DeepDream (Mordvintsev et al., 2015): what a layer likes to see, and images of a class with an image prior alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from invkit.core.config import is_number
from invkit.core.results import InversionResult
from invkit.core.rng import default_generator
from invkit.core.target import Target
from invkit.engine.image_loop import Callback, LoopConfig, optimise_images
from invkit.objectives import losses, priors
from invkit.objectives.objective import Objective, Term
from invkit.transforms.resize import initial_images


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepDreamConfig(LoopConfig):
    """How strongly to dream. Weights of the image prior are per-image norms, see :mod:`invkit.objectives.priors`."""

    steps: int = 40
    """Steps in each octave."""
    lr: float = 0.004
    tv: float = 1e-3
    """Total variation (§2.1)."""
    l2: float = 0.0
    """Euclidean norm (§2.1)."""
    octaves: int = 4
    """Scales to dream at, the largest being the image's own size."""
    octave_scale: float = 1.4
    """Ratio of one octave's size to the one before."""

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {
        "ci": {"steps": 5, "octaves": 2},
        "book": {},
        "paper": {"steps": 200},
    }

    def __post_init__(self) -> None:
        LoopConfig.__post_init__(self)
        self.require_weight("tv", "l2")
        self.require_whole("octaves")
        scale = self.octave_scale
        self.require("octave_scale", is_number(scale) and 1 < scale < math.inf, "be finite and more than 1")
        self.require("low_resolutions", not self.low_resolutions, "be empty, since octaves go from low to high")


def deep_dream(
    target: Target,
    images: Tensor,
    layer: str,
    config: DeepDreamConfig | None = None,
    *,
    generator: torch.Generator | None = None,
    callbacks: Sequence[Callback] = (),
) -> InversionResult:
    """Change ``images`` ``(N, C, H, W)`` so that ``layer`` answers more strongly, from small octaves to the full size.

    Maximises the root mean square of the layer's activations, its l2 norm (§2.1) made comparable between octaves, less
    the image prior. Any size goes that the network takes; the detail dreamt in one octave is carried to the next.
    The history is that of the last octave.

    Raises ``ValueError`` for an unknown layer, or an octave that the network does not take (naming its size).
    """
    config, generator = config or DeepDreamConfig(), generator or default_generator()
    target.check_frozen()
    replace(target.spec, size=(images.shape[-2], images.shape[-1])).check(images)
    sizes = [
        tuple(round(s / config.octave_scale**k) for s in images.shape[-2:]) for k in reversed(range(config.octaves))
    ]
    target.check_sizes(sizes)
    detail = torch.zeros_like(images)
    with target.tap(layer) as read:
        objective = Objective(
            network=lambda x: read(x)[layer],
            terms={"activation": (-1.0, lambda b: b.outputs.flatten(1).square().mean(1).sqrt())}
            | priors.weighted(config.tv, config.l2),
            references=torch.zeros(len(images), device=target.device),
        )
        for size in sizes:
            base = _resize(images, size).to(target.device)
            start = (base + _resize(detail, size).to(base)).clamp(0, 1)
            result = optimise_images(objective, start, config, generator=generator, callbacks=callbacks)
            detail = result.images - base.cpu()
            if result.stopped not in ("steps", "patience"):  # an octave that has given what it can is no end
                break
    # After an interruption in a small octave, what was dreamt so far still belongs on the image as it was given.
    dreamt = (images.cpu() + _resize(detail, images.shape[-2:])).clamp(0, 1)
    return replace(result, images=dreamt if result.images.shape != images.shape else result.images, labels=None)


def class_inversion(
    target: Target,
    labels: Sequence[int] | Tensor,
    config: DeepDreamConfig | None = None,
    *,
    generator: torch.Generator | None = None,
    init: Tensor | None = None,
    callbacks: Sequence[Callback] = (),
) -> InversionResult:
    """Images of the given classes from noise: ``min CE(target(x), y) + R_prior(x)`` (§2.1), without any statistics.

    ``init`` ``(N, C, H, W)`` replaces the noise; octaves play no part.

    Raises ``ValueError`` for labels or images that do not fit.
    """
    config, generator = config or DeepDreamConfig(), generator or default_generator()
    target.check_frozen()
    labels = target.spec.check_labels(labels)
    images = (
        initial_images(len(labels), target.spec.shape, generator) if init is None else target.spec.check(init, "init")
    )
    cross_entropy: Term = lambda b: losses.cross_entropy(b.outputs, b.references)  # noqa: E731
    objective = Objective(
        network=target,
        terms={"cross_entropy": (1.0, cross_entropy)} | priors.weighted(config.tv, config.l2),
        references=labels.to(target.device),
    )
    return optimise_images(objective, images.to(target.device), config, generator=generator, callbacks=callbacks)


def _resize(images: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(images, size=tuple(size), mode="bilinear", antialias=True, align_corners=False)
