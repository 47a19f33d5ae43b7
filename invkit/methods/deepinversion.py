"""DeepInversion (Yin et al., 2020): images of given classes with the batch-norm statistics of the training set."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from invkit.core.config import is_number, plain
from invkit.core.results import InversionResult
from invkit.core.target import Target
from invkit.engine.image_loop import Callback, LoopConfig, in_pixels, optimise_images, prepare, start_images
from invkit.engine.multiscale import Stage, low_resolution_stages
from invkit.objectives import losses, priors
from invkit.objectives.batch_norm import BatchNormPenalty, Form
from invkit.objectives.objective import Objective, Prior, Term
from invkit.transforms.resize import initial_images, loud_images

# The report's form with weights found on digits of 16 pixels, judged by another network: what the chapters run.
_DIGITS: dict[str, Any] = {
    "steps": 200, "lr": 0.2, "betas": (0.5, 0.9), "low_resolutions": (), "scales": 1,
    "jitter": 1, "wrap": False, "flip": 0.0, "form": "norm", "per_image": 0.0,
    "cross_entropy": 10.0, "temperature": 1.0, "roughness": 0.0, "tv": 0.5, "l2": 0.0, "batch_norm": 1.0,
}  # fmt: skip
# The report's own setting for ImageNet networks at 224 pixels (§4.1.2, §5.1), in its own units. The factor of the
# plateau and the betas are not given: those that its library has unasked.
_PAPER: dict[str, Any] = {
    "steps": 20_000, "lr": 0.2, "betas": (0.9, 0.999), "schedule": "plateau", "plateau_factor": 0.1, "patience": 0.15,
    "low_resolutions": (), "scales": 1, "jitter": 30, "together": True, "wrap": True, "flip": 0.5,
    "normalised": True, "loud": True, "form": "norm", "per_image": 0.0,
    "cross_entropy": 1.0, "temperature": 1.0, "roughness": 0.0, "tv": 8e-3, "l2": 1e-5, "batch_norm": 1e-2,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepInversionConfig(LoopConfig):
    """Weights of ``L = CE + roughness R_rough + tv R_TV + l2 R_l2 + batch_norm R_feature (+ competition (1 - JS))``.

    (Eq. 1, §3.1.1, §2.2.) The defaults are one setting for every network: R_feature and R_rough have no units, jitter
    and the first stage are shares of the image's size. The report's setting, whose weights each network wants anew
    (§5.1), is :meth:`paper`; the profiles ``ci`` and ``book`` are its form with weights found on digits.
    """

    steps: int = 400
    """Steps at full resolution."""
    lr: float = 0.02
    """Adam's step size, in units of the pixel range [0, 1], or of normalised pixels where ``normalised``."""
    betas: tuple[float, float] = (0.5, 0.9)
    """Adam's decay rates."""
    jitter: float = 0.125
    """Largest offset (§3.1.2): a share of the image's size below 1, else a whole number of pixels."""
    wrap: bool | None = None
    """Whether jitter wraps around (§4.1.2); None goes by the custom of training, in black up to 64 pixels."""
    flip: float = 0.5
    """Probability of a horizontal flip of each image (§3.1.2)."""
    scales: int | None = None
    """Scales at which :class:`~invkit.engine.image_adam.ImageAdam` moves the images; None takes all, 1 pixels alone."""
    low_resolutions: tuple[tuple[float, int], ...] = ((0.5, 200),)
    """(side, steps) of stages before full resolution, up-sampled by nearest neighbours (§3.1.3): a share of the full
    size below 1, else the pixels of a square."""
    cross_entropy: float = 5.0
    """Classification loss (eq. 1)."""
    temperature: float = 2.0
    """Divides the logits in the cross-entropy (§4.1.2); above 1 it still asks for more when the network is sure."""
    class_logit: float = 0.0
    """Weight of minus the class's logit, to be raised in the place of cross-entropy (§5.4); it has no lower bound."""
    batch_norm: float = 10.0
    """Batch-norm statistics."""
    form: Form = "relative"
    """Of the penalty: ``relative``, without units, or the report's ``norm``, see
    :class:`~invkit.objectives.batch_norm.BatchNormPenalty`."""
    per_image: float = 1.0
    """Weight, beside the batch's statistics, of what the relative penalty asks of each image on its own."""
    first_layer_scale: float = 1.0
    """Factor on the first batch norm, whose statistics are nearest to the pixels."""
    roughness: float = 2.0
    """Mean absolute difference of neighbouring pixels, see :func:`~invkit.objectives.priors.roughness`."""
    tv: float = 0.0
    """Total variation as the report has it (§3.1.1)."""
    l2: float = 0.0
    """Euclidean norm (§3.1.1)."""
    normalised: bool = False
    """Whether lr, tv and l2 are in units of normalised pixels, as the report's are, rather than of [0, 1]."""
    loud: bool = False
    """Start from standard normal noise clamped to [0, 1], as the report does, rather than from grey noise."""
    competition: float = 0.0
    """Adaptive DeepInversion: weight of ``1 - JS(teacher, student)`` (§2.2); needs ``student=``."""

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {
        "ci": _DIGITS | {"steps": 20}, "book": _DIGITS, "paper": _PAPER,
    }  # fmt: skip

    @classmethod
    def paper(cls, **overrides: Any) -> Self:
        """The report's setting in the report's units: norms, normalised pixels, one roll of up to 30 of 224 pixels.

        >>> DeepInversionConfig.paper(steps=100).form
        'norm'
        """
        return cls.for_profile("paper", **overrides)

    def __post_init__(self) -> None:
        LoopConfig.__post_init__(self)
        self.require_weight("cross_entropy", "class_logit", "batch_norm", "per_image", "competition")
        self.require_weight("roughness", "tv", "l2")
        self.require_positive("temperature", "first_layer_scale")
        self.require_choice("form", "relative", "norm")
        pairs = isinstance(self.low_resolutions, tuple | list) and all(
            isinstance(pair, tuple | list) and _is_stage(*pair) for pair in self.low_resolutions
        )
        self.require("low_resolutions", pairs, "be pairs: a share of the size or whole pixels, and steps of at least 1")


def _is_stage(side: Any = None, steps: Any = None, *rest: Any) -> bool:
    share_or_pixels = is_number(side) and 0 < side < math.inf and (side < 1 or side == int(side))
    whole = isinstance(steps, int) and not isinstance(steps, bool)
    return share_or_pixels and whole and steps >= 1 and not rest


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
        config: Weights of the loss and how to optimise; the defaults are meant for every network.
        generator: Source of the noise and the jitter; a fixed one if None.
        init: Images ``(N, C, H, W)`` in [0, 1] in the place of noise.
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
    if student is not None:
        _check_student(target, student)
    labels = target.spec.check_labels(labels)
    noise = loud_images if config.loud else initial_images
    images = start_images(target, len(labels), init, generator, noise)
    depends_on = student.fingerprint() if student is not None and checkpoint else ""
    objective = replace(objective_of(target, labels, config, student), depends_on=depends_on)
    result = optimise_images(
        objective,
        images,
        in_pixels(config, target, config.normalised),
        generator=generator,
        stages=_stages(target, config, student),
        callbacks=callbacks,
        checkpoint=checkpoint,
    )
    return replace(result, config=plain(config))


def _check_student(target: Target, student: Target) -> None:
    """Raise ``ValueError`` where a student cannot compete with the target."""
    student.check_frozen()
    for name in ("n_classes", "channels"):
        ours, theirs = getattr(target.spec, name), getattr(student.spec, name)
        if ours != theirs:
            raise ValueError(f"the student's spec has {name} {theirs}, the target's {ours}: they must agree")
    if student.device != target.device:
        raise ValueError(f"the student is on {student.device}, the target on {target.device}: move one of them")
    shared = set(target.module.modules()) & set(student.module.modules())
    if shared:
        raise ValueError("the student shares layers with the target, whose statistics would count twice; copy it")


def objective_of(
    target: Target, labels: Tensor, config: DeepInversionConfig, student: Target | None = None
) -> Objective:
    """What :func:`deep_inversion` minimises: the terms, priors and penalty that ``config`` gives a weight.

    >>> from invkit.testing import tiny_target
    >>> objective_of(tiny_target(), torch.tensor([0, 1]), DeepInversionConfig()).names
    ('cross_entropy', 'roughness', 'batch_norm')
    """
    return Objective(
        network=target,
        terms=_terms(config, student),
        references=labels.to(target.device),
        priors=_priors(config, target),
        penalty=_penalty(config, target) if config.batch_norm else None,
        penalty_weight=config.batch_norm,
    )


def _stages(target: Target, config: DeepInversionConfig, student: Target | None) -> list[Stage]:
    """The low resolutions and the full one; none where there is only that.

    A stage at a share of the size is left out, with a warning, where a network takes no such images; a size in pixels
    was asked for and is refused.
    """
    full, low = target.spec.size, []
    for side, steps in config.low_resolutions:
        size = low_resolution_stages([(side, steps)], full, 1)[0].size
        if size[0] > full[0] or size[1] > full[1]:
            raise ValueError(f"low_resolutions must not be larger than the images of {full} pixels, but one is {size}")
        refused = [network.name for network in (target, student) if network is not None and not network.accepts(size)]
        if not refused:
            low.append((side, steps))
        elif side >= 1:
            raise ValueError(
                f"low_resolutions must suit the network, but {refused[0]} takes no images of {size} pixels"
            )
        else:
            warnings.warn(
                f"{refused[0]} takes no images of {size} pixels: the stage at {side:g} times the size is left out",
                stacklevel=3,
            )
    return low_resolution_stages(low, full, config.steps) if low else []


def _terms(config: DeepInversionConfig, student: Target | None) -> dict[str, tuple[float, Term]]:
    """The per-image terms of the loss; a weight of zero leaves its term out."""
    terms: dict[str, tuple[float, Term]] = {
        "cross_entropy": (
            config.cross_entropy,
            lambda b: losses.cross_entropy(b.outputs, b.references, config.temperature),
        ),
        "class_logit": (config.class_logit, lambda b: losses.class_logit(b.outputs, b.references)),
    }
    if student is not None:
        terms["competition"] = (config.competition, lambda b: 1 - losses.jensen_shannon(b.outputs, student(b.images)))
    return {name: term for name, term in terms.items() if term[0]}


def _priors(config: DeepInversionConfig, target: Target) -> dict[str, tuple[float, Prior]]:
    """The terms of the images themselves, in the config's units; a weight of zero leaves its term out."""
    rough: dict[str, tuple[float, Prior]] = {}
    if config.roughness:
        rough["roughness"] = (config.roughness, priors.roughness)
    return rough | priors.image_prior(config.tv, config.l2, target.spec.normalise if config.normalised else None)


def _penalty(config: DeepInversionConfig, target: Target) -> BatchNormPenalty:
    per_image = config.per_image if config.form == "relative" else 0.0
    scale = config.first_layer_scale
    penalty = BatchNormPenalty(target.module, form=config.form, per_image=per_image, first_layer_scale=scale)
    penalty.check_trained()
    return penalty
