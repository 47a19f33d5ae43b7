"""DeepInversion (Yin et al., 2020): images of given classes whose batch-norm statistics are those of the training set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from invkit import losses, priors
from invkit.bn_hooks import BatchNormPenalty
from invkit.objective import Batch, Objective, Term
from invkit.augment import initial_images
from invkit.optimize import Callback, LoopConfig, optimise_images
from invkit.results import InversionResult
from invkit.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepInversionConfig(LoopConfig):
    """Weights of ``L = CE + tv R_TV + l2 R_l2 + feature R_feature (+ competition (1 - JS))``, eq. 1 and §3.1.1."""

    cross_entropy: float = 1.0
    temperature: float = 1.0
    """Divides the logits in the cross-entropy (§4.1.2)."""
    tv: float = 8e-3
    """Total variation (§5.1, best found; Yin et al. published 1e-4)."""
    l2: float = 1e-5
    """Euclidean norm (§5.1, best found; Yin et al. published 1e-2)."""
    feature: float = 1e-2
    """Batch-norm statistics (§5.1)."""
    first_layer_scale: float = 1.0
    """Factor on the first batch norm, whose statistics are nearest to the pixels."""
    competition: float = 0.0
    """Adaptive DeepInversion: weight of ``1 - JS(teacher, student)`` (§2.2); needs ``student=``."""

    def __post_init__(self) -> None:
        super(DeepInversionConfig, self).__post_init__()
        for name in ("cross_entropy", "tv", "l2", "feature", "competition"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"DeepInversionConfig: the weight {name} must be >= 0, not {getattr(self, name)}")
        if not (self.temperature > 0 and self.first_layer_scale > 0):
            raise ValueError("DeepInversionConfig: temperature and first_layer_scale must be > 0")


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
    """Optimise one image per label so that the target sees its class and its own training statistics."""
    config = config or DeepInversionConfig()
    generator = generator or torch.Generator().manual_seed(0)
    target.check_frozen()
    labels = target.spec.check_labels(labels).to(target.device)
    images = initial_images(len(labels), target.spec.shape, generator) if init is None else target.spec.check(init, "init")
    terms: dict[str, tuple[float, Term]] = {
        "cross_entropy": (config.cross_entropy, lambda b: losses.cross_entropy(b.outputs, b.labels, config.temperature)),
        "tv": (config.tv, lambda b: priors.total_variation(b.images)),
        "l2": (config.l2, lambda b: priors.l2(b.images)),
    }
    objective = Objective(
        network=target, terms={k: v for k, v in terms.items() if v[0]}, labels=labels,
        penalty=BatchNormPenalty(target, first_layer_scale=config.first_layer_scale) if config.feature else None,
        penalty_weight=config.feature,
    )
    return optimise_images(objective, images.to(target.device), config, generator=generator, callbacks=callbacks, checkpoint=checkpoint)
