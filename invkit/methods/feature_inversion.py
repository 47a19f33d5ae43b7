"""Inversion of features by optimising pixels: the baselines DeepDream and DeepInversion of Dong et al. (2021, §4.3).

Both look for an image whose features are those given. DeepDream's way leans on an image prior alone, DeepInversion's
also on the statistics in the network's batch norms.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from invkit.core.config import plain
from invkit.core.results import InversionResult
from invkit.core.target import Target
from invkit.engine.image_loop import Callback, LoopConfig, in_pixels, optimise_images, prepare, start_images
from invkit.objectives import priors
from invkit.objectives.batch_norm import BatchNormPenalty
from invkit.objectives.objective import Gradient, Objective

# Found on digits of 16 pixels, by distance to the image sought. The published weights leave the features, of a norm of
# about 30 here, hardly a say beside the prior, and images far from those sought; with these they are nearly recovered.
_DIGITS: dict[str, Any] = {"steps": 300, "lr": 0.1, "match": 1.0, "tv": 0.1, "l2": 0.0, "batch_norm": 0.1}


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureInversionConfig(LoopConfig):
    """Weights of ``L = match ||F(x) - f||_2 + tv R_TV + l2 R_l2 + batch_norm R_feature``.

    The weights are DeepInversion's; ``batch_norm=0`` makes it DeepDream's. What Dong et al. do not give (appendix A.1:
    "other scaling terms the same") is Yin et al.'s (2020) for ImageNet at 224 pixels, in units of normalised pixels:
    :meth:`paper` counts in those. Images are not jittered, which the features given were not either; a ``jitter`` finds
    images that fit them on average over their shifts.

    >>> FeatureInversionConfig().batch_norm, FeatureInversionConfig.for_profile("book", batch_norm=0).match
    (0.01, 1.0)
    """

    steps: int = 20_000
    """Appendix A.1: setting 2 of Yin et al., all steps at full resolution."""
    lr: float = 0.2
    """Adam's step size, as Botach & Cohen have it for DeepInversion (§5.1); the paper gives none."""
    match: float | None = 1e-3
    """Distance to the features given (appendix A.1, "to similar magnitudes as other loss terms"). None measures it at
    the first images, so that the term is the mean of the others: features of another norm want another weight."""
    tv: float = 1e-4
    """Total variation (Yin et al.)."""
    l2: float = 1e-2
    """Euclidean norm (Yin et al.)."""
    batch_norm: float = 1e-2
    """Batch-norm statistics (Yin et al.); 0 leaves them out, as DeepDream does."""
    normalised: bool = False
    """Whether lr, tv and l2 are in units of normalised pixels, as the papers' are, rather than of [0, 1], where R_l2
    draws to black."""

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {
        "ci": _DIGITS | {"steps": 20}, "book": _DIGITS, "paper": {"normalised": True},
    }  # fmt: skip

    @classmethod
    def paper(cls, **overrides: Any) -> Self:
        """The published weights in the units that they were published in, those of normalised pixels.

        >>> FeatureInversionConfig.paper(batch_norm=0.0).normalised
        True
        """
        return cls.for_profile("paper", **overrides)

    def __post_init__(self) -> None:
        LoopConfig.__post_init__(self)
        self.require_weight("tv", "l2", "batch_norm")
        if self.match is not None:
            self.require_weight("match")
        elif not (self.tv or self.l2 or self.batch_norm):
            self.require("match", False, "be a weight where there is no other term to measure it by")


def feature_inversion(
    target: Target,
    features: Tensor,
    layer: str,
    config: FeatureInversionConfig | None = None,
    *,
    generator: torch.Generator | None = None,
    init: Tensor | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
) -> InversionResult:
    """Optimise one image for each row of ``features``, the output of ``layer`` that it is to give.

    ``min_x match ||F_layer(x) - f||_2`` with an image prior and, where ``config.batch_norm`` is not 0, the batch-norm
    penalty over *all* layers of the network (Dong et al., appendix A.1).

    Args:
        target: The network to invert.
        features: ``(N, ...)``, as :func:`layer_features` gives them.
        layer: A name of ``target.module.named_modules()``; ``""`` stands for the logits.
        config: Weights of the loss and how to optimise.
        generator: Source of the noise and the jitter; a fixed one if None.
        init: Images ``(N, C, H, W)`` in [0, 1] in the place of grey noise.
        callbacks: Called after each step; one that returns True ends the run.
        checkpoint: A file to resume from, to the same bits.

    Returns:
        Images ``(N, C, H, W)`` in [0, 1], those of the lowest loss, without labels.

    Raises:
        ValueError: For an unknown layer, features of another shape than the layer's or not finite, images that do not
            fit, and, where there is a penalty, a network without batch-norm statistics.

    >>> from invkit.testing import tiny_target
    >>> target = tiny_target()
    >>> features = layer_features(target, torch.rand(2, 3, 8, 8), "conv1")
    >>> feature_inversion(target, features, "conv1", FeatureInversionConfig.for_profile("ci", steps=5)).images.shape
    torch.Size([2, 3, 8, 8])
    """
    config, generator = prepare(target, config, FeatureInversionConfig, generator)
    features = _check_features(target, features, layer)
    images = start_images(target, len(features), init, generator)
    penalty = BatchNormPenalty(target.module) if config.batch_norm else None
    # The forward pass ends after the last tap: the penalty needs all of it.
    with target.tap(*((layer, "") if penalty else (layer,))) as read:
        objective = Objective(
            network=lambda x: read(x)[layer],
            terms=_terms(1.0 if config.match is None else config.match),
            priors=priors.image_prior(config.tv, config.l2, target.spec.normalise if config.normalised else None),
            references=features.to(target.device),
            penalty=penalty,
            penalty_weight=config.batch_norm,
            depends_on=f"{target.fingerprint()} {layer}" if checkpoint else "",
        )
        if config.match is None:
            weight = _balancing_weight(objective, images, config.micro_batch)
            config, objective = replace(config, match=weight), replace(objective, terms=_terms(weight))
        loop = in_pixels(config, target, config.normalised)
        result = optimise_images(
            objective, images, loop, generator=generator, callbacks=callbacks, checkpoint=checkpoint
        )
    return replace(result, labels=None, config=plain(config))


def _balancing_weight(objective: Objective, images: Tensor, micro_batch: int | None) -> float:
    """The weight by which the first term of ``objective`` becomes the mean of the others."""
    with objective.penalty.attached() if objective.penalty else nullcontext():
        values, _ = Gradient(objective, micro_batch=micro_batch)(images)
    first, others = float(values[0]), float(values[1:].mean())
    return others / first if first else 1.0


@torch.no_grad()
def layer_features(target: Target, images: Tensor, layer: str) -> Tensor:
    """What ``layer`` answers to ``images`` ``(N, C, H, W)``: its output ``(N, ...)``, on the target's device.

    Args:
        target: The network.
        images: ``(N, C, H, W)`` in [0, 1], of the target's size.
        layer: A name of ``target.module.named_modules()``; ``""`` stands for the logits.

    Returns:
        The layer's output ``(N, ...)``, without a graph, on the target's device.

    Raises:
        ValueError: For images that do not fit, an unknown layer, one whose output is not a row per image, or a network
            in train mode.

    >>> from invkit.testing import tiny_target
    >>> layer_features(tiny_target(), torch.rand(2, 3, 8, 8), "conv2").shape
    torch.Size([2, 8, 4, 4])
    """
    target.check_frozen()
    images = target.check(images)
    with target.tap(layer) as read:
        features = read(images.to(target.device))[layer]
    if not isinstance(features, Tensor) or features.ndim < 2 or len(features) != len(images):
        output = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"layer {layer!r} of {target.name} does not give one row of features per image, but {output}")
    return features


def _terms(weight: float) -> dict[str, Any]:
    """The distance to the features, for each image; a weight of zero leaves it out."""
    match = (weight, lambda batch: torch.linalg.vector_norm((batch.outputs - batch.references).flatten(1), dim=1))
    return {"match": match} if weight else {}


def _check_features(target: Target, features: Tensor, layer: str) -> Tensor:
    expected = tuple(layer_features(target, target.mean.new_full((1, *target.spec.shape), 0.5), layer).shape[1:])
    if not (isinstance(features, Tensor) and features.is_floating_point() and features.ndim > 1 and len(features)):
        raise ValueError(f"features must be a non-empty float tensor (N, {', '.join(map(str, expected))})")
    if tuple(features.shape[1:]) != expected:
        raise ValueError(
            f"the features of an image are {expected} at layer {layer!r} of {target.name}, not "
            f"{tuple(features.shape[1:])}"
        )
    if not features.isfinite().all():
        raise ValueError("the features given hold values that are not finite")
    return features.detach()
