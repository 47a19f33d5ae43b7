"""DeepDream (Mordvintsev et al., 2015): what a layer likes to see, and images of a class with an image prior alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from invkit.core.config import is_number, plain
from invkit.core.files import digest
from invkit.core.results import InversionResult
from invkit.core.spec import check_images
from invkit.core.target import Target
from invkit.engine.image_loop import Callback, LoopConfig, in_pixels, optimise_images, prepare, start_images
from invkit.engine.multiscale import Size, Stage
from invkit.objectives import losses, priors
from invkit.objectives.objective import Batch, Objective, Term


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepDreamConfig(LoopConfig):
    """How strongly to dream. Weights of the image prior are per-image norms, see :mod:`invkit.objectives.priors`.

    Pixels are counted in [0, 1], with a step found on such; :meth:`paper` counts them normalised, as the papers do.

    >>> config = DeepDreamConfig.for_profile("paper", octaves=3)
    >>> config.steps, config.octaves, config.octave_scale
    (200, 3, 1.4)
    """

    steps: int = 40
    """Steps in each octave."""
    lr: float = 0.004
    """Adam's step size, in units of the pixel range [0, 1], or of normalised pixels where ``normalised``."""
    tv: float = 1e-3
    """Total variation (§2.1)."""
    l2: float = 0.0
    """Euclidean norm (§2.1): draws to black, or where ``normalised`` to the training set's mean colour."""
    normalised: bool = False
    """Whether lr, tv and l2 are in units of normalised pixels, as the papers' are, rather than of [0, 1]."""
    octaves: int = 4
    """Scales to dream at, the largest being the image's own size."""
    octave_scale: float = 1.4
    """Ratio of one octave's size to the one before."""

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {
        "ci": {"steps": 5, "octaves": 2},
        "book": {},
        "paper": {"steps": 200, "lr": 0.02, "normalised": True},  # no paper here gives its numbers
    }

    @classmethod
    def paper(cls, **overrides: Any) -> Self:
        """More steps, and the papers' units: those of normalised pixels.

        >>> DeepDreamConfig.paper(octaves=1).normalised
        True
        """
        return cls.for_profile("paper", **overrides)

    def __post_init__(self) -> None:
        LoopConfig.__post_init__(self)
        self.require_weight("tv", "l2")
        self.require_whole("octaves")
        scale = self.octave_scale
        self.require("octave_scale", is_number(scale) and 1 < scale < math.inf, "be finite and more than 1")


def deep_dream(
    target: Target,
    images: Tensor,
    layer: str,
    config: DeepDreamConfig | None = None,
    *,
    generator: torch.Generator | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
) -> InversionResult:
    """Change images so that a layer answers more strongly, from small octaves to the full size.

    Maximises the root mean square of the layer's activations, its l2 norm (§2.1) made comparable between octaves, less
    the image prior. The detail dreamt in one octave is carried to the next.

    Args:
        target: The network whose layer dreams.
        images: Where to begin, ``(N, C, H, W)`` in [0, 1] of any size that the network takes.
        layer: A name of ``target.module.named_modules()``; ``""`` stands for the logits.
        config: Octaves, prior and how to optimise.
        generator: Source of the jitter; a fixed one if None.
        callbacks: Called after each step; one that returns True ends the run.
        checkpoint: A file to resume from, to the same bits.

    Returns:
        Images of the shape given, without labels; ``history`` is that of all octaves, ``stages`` their images.

    Raises:
        ValueError: For an unknown layer, images that do not fit, or an octave that the network does not take (naming
            its size).

    >>> from invkit.testing import tiny_target
    >>> result = deep_dream(tiny_target(), torch.rand(1, 3, 12, 12), "conv2", DeepDreamConfig(steps=5, octaves=2))
    >>> result.images.shape, [tuple(stage.shape[2:]) for stage in result.stages], len(result.history["total"])
    (torch.Size([1, 3, 12, 12]), [(9, 9), (12, 12)], 10)
    """
    config, generator = prepare(target, config, DeepDreamConfig, generator)
    images = _check_dream_images(target, images)
    height, width = images.shape[-2:]
    scales = [config.octave_scale**octave for octave in reversed(range(config.octaves))]
    sizes = [(round(height / scale), round(width / scale)) for scale in scales]
    target.check_sizes(sizes)
    with target.tap(layer) as read:
        objective = Objective(
            network=lambda x: read(x)[layer],
            terms={"activation": (-1.0, _activation)},
            priors=priors.image_prior(config.tv, config.l2, target.spec.normalise if config.normalised else None),
            references=torch.zeros(len(images), device=target.device),
            depends_on=f"{target.fingerprint()} {layer} {digest(images)}" if checkpoint else "",
        )
        result = optimise_images(
            objective,
            images.to(target.device),
            in_pixels(config, target, config.normalised),
            generator=generator,
            stages=[Stage(size=s, steps=config.steps, start=partial(_with_detail, images, s)) for s in sizes],
            callbacks=callbacks,
            checkpoint=checkpoint,
        )
    # After an interruption in a small octave, what was dreamt so far still belongs on the image as it was given.
    dreamt = result.stages[-1]
    whole = dreamt if dreamt.shape == images.shape else _with_detail(images, sizes[-1], dreamt).cpu()
    return replace(result, images=whole, labels=None, config=plain(config))


def _activation(batch: Batch) -> Tensor:
    """Root mean square ``(N,)`` of a layer's answer to each image."""
    return batch.outputs.flatten(1).square().mean(1).sqrt()


def _with_detail(images: Tensor, size: Size, dreamt: Tensor) -> Tensor:
    """``images`` at ``size``, with the detail by which ``dreamt``, of another size, differs from them at its own."""
    detail = dreamt - _resize(images, dreamt.shape[-2:]).to(dreamt)
    base = _resize(images, size).to(dreamt)
    return (base + _resize(detail, size)).clamp(0, 1)


def _check_dream_images(target: Target, images: Tensor) -> Tensor:
    """``images`` of any size, on the CPU."""
    images = check_images(images, dtype=target.dtype).cpu()
    return replace(target.spec, size=(images.shape[-2], images.shape[-1])).check(images, dtype=target.dtype)


def class_inversion(
    target: Target,
    labels: Sequence[int] | Tensor,
    config: DeepDreamConfig | None = None,
    *,
    generator: torch.Generator | None = None,
    init: Tensor | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
) -> InversionResult:
    """Images of the given classes from noise: ``min CE(target(x), y) + R_prior(x)`` (§2.1), without any statistics.

    Args:
        target: The network to invert.
        labels: Class of each image, ``(N,)``.
        config: Weights of the prior and how to optimise; its octaves play no part.
        generator: Source of the noise and the jitter; a fixed one if None.
        init: Images ``(N, C, H, W)`` in [0, 1] in the place of grey noise.
        callbacks: Called after each step; one that returns True ends the run.
        checkpoint: A file to resume from, to the same bits.

    Returns:
        Images ``(N, C, H, W)`` in [0, 1], those of the lowest loss.

    Raises:
        ValueError: For labels or images that do not fit.

    >>> from invkit.testing import quadrants_target
    >>> target = quadrants_target()
    >>> result = class_inversion(target, [0, 1, 2, 3], DeepDreamConfig(steps=30, lr=0.05, tv=0.0))
    >>> target(result.images).argmax(1).tolist()
    [0, 1, 2, 3]
    """
    config, generator = prepare(target, config, DeepDreamConfig, generator)
    labels = target.spec.check_labels(labels)
    images = start_images(target, len(labels), init, generator)
    cross_entropy: Term = lambda b: losses.cross_entropy(b.outputs, b.references)  # noqa: E731
    objective = Objective(
        network=target,
        terms={"cross_entropy": (1.0, cross_entropy)},
        priors=priors.image_prior(config.tv, config.l2, target.spec.normalise if config.normalised else None),
        references=labels.to(target.device),
    )
    loop = in_pixels(config, target, config.normalised)
    result = optimise_images(objective, images, loop, generator=generator, callbacks=callbacks, checkpoint=checkpoint)
    return replace(result, config=plain(config))


def _resize(images: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(images, size=tuple(size), mode="bilinear", antialias=True, align_corners=False)
