"""DeepInversion (Yin et al., 2020): images of given classes with the batch-norm statistics of the training set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from invkit.core.results import InversionResult
from invkit.core.rng import default_generator
from invkit.core.target import Target
from invkit.engine.image_loop import Callback, LoopConfig, optimise_images
from invkit.objectives import losses, priors
from invkit.objectives.batch_norm import BatchNormPenalty
from invkit.objectives.objective import Objective, Term
from invkit.transforms.resize import initial_images

# Found on digits of 16 pixels, judged by another network: jitter as their training shifted them, much of the class.
_DIGITS: dict[str, Any] = {
    "steps": 200, "lr": 0.2, "schedule": "cosine", "patience": None, "betas": (0.5, 0.9),
    "jitter": 1, "wrap": False, "flip": 0.0,
    "cross_entropy": 10.0, "tv": 0.5, "l2": 0.0, "batch_norm": 1.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepInversionConfig(LoopConfig):
    """Weights of ``L = CE + tv R_TV + l2 R_l2 + feature R_feature (+ competition (1 - JS))`` (eq. 1, §3.1.1, §2.2).

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
    competition: float = 0.0
    """Adaptive DeepInversion: weight of ``1 - JS(teacher, student)`` (§2.2); needs ``student=``."""

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {"ci": _DIGITS | {"steps": 20}, "book": _DIGITS, "paper": {}}

    def __post_init__(self) -> None:
        LoopConfig.__post_init__(self)
        self.require_weight("cross_entropy", "class_logit", "tv", "l2", "batch_norm", "competition")
        self.require_positive("temperature", "first_layer_scale")


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

    Algorithm 1 (``deepInvert``) with the loss of eq. 1. ``init`` ``(N, C, H, W)`` in [0, 1] replaces the grey noise.
    With ``config.competition`` and a ``student``, images are also drawn to where teacher and student disagree (adaptive
    DeepInversion). ``checkpoint`` names a file to resume from.

    Under ``torchrun`` each rank optimises its own labels, and the statistics are those of all ranks' images together.

    Raises ``ValueError`` for labels or images that do not fit, a network without batch-norm statistics, one in train
    mode, or a competition without a student.
    """
    config, generator = config or DeepInversionConfig(), generator or default_generator()
    target.check_frozen()
    if (config.competition > 0) != (student is not None):
        raise ValueError("adaptive DeepInversion needs both competition > 0 in the config and a student")
    if student is not None and student.spec.n_classes != target.spec.n_classes:
        raise ValueError(
            f"the student has {student.spec.n_classes} classes, the target {target.spec.n_classes} classes"
        )
    target.check_sizes([(size, size) for size, _ in config.low_resolutions])
    labels = target.spec.check_labels(labels)
    images = (
        initial_images(len(labels), target.spec.shape, generator) if init is None else target.spec.check(init, "init")
    )
    objective = Objective(
        network=target,
        terms=_terms(config, student),
        references=labels.to(target.device),
        penalty=BatchNormPenalty(target.module, first_layer_scale=config.first_layer_scale)
        if config.batch_norm
        else None,
        penalty_weight=config.batch_norm,
        depends_on=student.fingerprint() if student is not None and checkpoint else "",
    )
    return optimise_images(
        objective, images.to(target.device), config, generator=generator, callbacks=callbacks, checkpoint=checkpoint
    )


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
