"""DeepInversion (Yin et al., 2020): images of given classes with the batch-norm statistics of the training set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from invkit.core.results import InversionResult
from invkit.core.target import Target
from invkit.engine.image_loop import Callback, LoopConfig, optimise_images, prepare, start_images
from invkit.engine.multiscale import Stage, low_resolution_stages
from invkit.objectives import losses, priors
from invkit.objectives.batch_norm import BatchNormPenalty
from invkit.objectives.objective import Objective, Term

# Found on digits of 16 pixels, judged by another network: jitter as their training shifted them, much of the class.
_DIGITS: dict[str, Any] = {
    "steps": 200, "lr": 0.2, "schedule": "cosine", "patience": None, "betas": (0.5, 0.9),
    "jitter": 1, "wrap": False, "flip": 0.0,
    "cross_entropy": 10.0, "tv": 0.5, "l2": 0.0, "batch_norm": 1.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepInversionConfig(LoopConfig):
    """Weights of ``L = CE + tv R_TV + l2 R_l2 + batch_norm R_feature (+ competition (1 - JS))`` (eq. 1, §3.1.1, §2.2).

    The defaults are the report's for ImageNet networks at 224 pixels. Small networks want other weights: the published
    ones do not carry over (§5.1), so search, or start from ``for_profile("book")``.
    """

    steps: int = 20_000
    """§4.1.2."""
    lr: float = 0.2
    """§4.1.2; on pixels in [0, 1] rather than normalised ones."""
    schedule: Literal["cosine", "plateau", "constant"] = "plateau"
    """§4.1.2."""
    patience: float | None = 0.15
    """§4.1.2."""
    jitter: int = 30
    """§4.1.2, at 224 pixels."""
    flip: float = 0.5
    """§4.1.2."""
    cross_entropy: float = 1.0
    """Classification loss (eq. 1)."""
    class_logit: float = 0.0
    """Weight of minus the class's logit, to be raised in the place of cross-entropy (§5.4); it has no lower bound."""
    temperature: float = 1.0
    """Divides the logits in the cross-entropy (§4.1.2)."""
    tv: float = 8e-3
    """Total variation (§5.1, the best found; Yin et al. published 1e-4)."""
    l2: float = 1e-5
    """Euclidean norm (§5.1, the best found; Yin et al. published 1e-2)."""
    batch_norm: float = 1e-2
    """Batch-norm statistics (§5.1)."""
    first_layer_scale: float = 1.0
    """Factor on the first batch norm, whose statistics are nearest to the pixels."""
    low_resolutions: tuple[tuple[int, int], ...] = ()
    """(size, steps) of square stages before full resolution, nearest-neighbour up-sampled (§3.1.3)."""
    competition: float = 0.0
    """Adaptive DeepInversion: weight of ``1 - JS(teacher, student)`` (§2.2); needs ``student=``."""

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {"ci": _DIGITS | {"steps": 20}, "book": _DIGITS, "paper": {}}

    def __post_init__(self) -> None:
        LoopConfig.__post_init__(self)
        self.require_weight("cross_entropy", "class_logit", "tv", "l2", "batch_norm", "competition")
        self.require_positive("temperature", "first_layer_scale")
        pairs = all(
            isinstance(r, tuple | list) and len(r) == 2 and all(isinstance(v, int) and v >= 1 for v in r)
            for r in self.low_resolutions
        )
        self.require("low_resolutions", pairs, "be pairs (size, steps) of whole numbers of at least 1")


def deep_inversion(
    target: Target,
    labels: Sequence[int] | Tensor,
    config: DeepInversionConfig | None = None,
    *,
    generator: torch.Generator | None = None,
    init: Tensor | None = None,
    student: Target | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
) -> InversionResult:
    """Optimise one image per label so that the target sees its class, and in the batch its own training statistics.

    Algorithm 1 (``deepInvert``) with the loss of eq. 1. With ``config.competition`` and a ``student``, images are also
    drawn to where teacher and student disagree (adaptive DeepInversion, §2.2). Under ``torchrun`` each rank optimises
    its own labels, and the statistics are those of all ranks' images together.

    Args:
        target: The network to invert, with batch norms that keep statistics.
        labels: Class of each image, ``(N,)``.
        config: Weights of the loss and how to optimise; the defaults are the report's.
        generator: Source of the noise and the jitter; a fixed one if None.
        init: Images ``(N, C, H, W)`` in [0, 1] in the place of grey noise.
        student: The network to compete with.
        callbacks: Called after each step; one that returns True ends the run.
        checkpoint: A file to resume from, to the same bits.

    Returns:
        Images ``(N, C, H, W)`` in [0, 1], those of the lowest loss; ``stages`` holds those of each low resolution and
        of the full one, where ``config`` asks for any.

    Raises:
        ValueError: For labels or images that do not fit, a network without batch-norm statistics, one in train mode, or
            a competition without a student.

    >>> from invkit.testing import tiny_target
    >>> result = deep_inversion(tiny_target(), [0, 1, 2], DeepInversionConfig.for_profile("ci", steps=5))
    >>> result.images.shape, list(result.history)
    (torch.Size([3, 3, 8, 8]), ['cross_entropy', 'tv', 'batch_norm', 'total'])
    """
    config, generator = prepare(target, config, DeepInversionConfig, generator)
    if (config.competition > 0) != (student is not None):
        raise ValueError("adaptive DeepInversion needs both competition > 0 in the config and a student")
    if student is not None and student.spec.n_classes != target.spec.n_classes:
        raise ValueError(
            f"the student has {student.spec.n_classes} classes, the target {target.spec.n_classes} classes"
        )
    labels = target.spec.check_labels(labels)
    images = start_images(target, len(labels), init, generator)
    penalty = BatchNormPenalty(target.module, first_layer_scale=config.first_layer_scale) if config.batch_norm else None
    objective = Objective(
        network=target,
        terms=_terms(config, student),
        references=labels.to(target.device),
        penalty=penalty,
        penalty_weight=config.batch_norm,
        depends_on=student.fingerprint() if student is not None and checkpoint else "",
    )
    return optimise_images(
        objective,
        images,
        config,
        generator=generator,
        stages=_stages(target, config),
        callbacks=callbacks,
        checkpoint=checkpoint,
    )


def _stages(target: Target, config: DeepInversionConfig) -> list[Stage]:
    """The low resolutions and the full one; none where there is only that."""
    if not config.low_resolutions:
        return []
    target.check_sizes([(size, size) for size, _ in config.low_resolutions])
    return low_resolution_stages(config.low_resolutions, target.spec.size, config.steps)


def _terms(config: DeepInversionConfig, student: Target | None) -> dict[str, tuple[float, Term]]:
    """The per-image terms of the loss; a weight of zero leaves its term out."""
    terms: dict[str, tuple[float, Term]] = {
        "cross_entropy": (
            config.cross_entropy,
            lambda b: losses.cross_entropy(b.outputs, b.references, config.temperature),
        ),
        "class_logit": (config.class_logit, lambda b: losses.class_logit(b.outputs, b.references)),
    } | priors.weighted(config.tv, config.l2)
    if student is not None:
        student.check_frozen()
        terms["competition"] = (config.competition, lambda b: 1 - losses.jensen_shannon(b.outputs, student(b.images)))
    return {name: term for name, term in terms.items() if term[0]}
