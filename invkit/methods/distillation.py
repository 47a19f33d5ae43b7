"""Distillation without data: a student that has seen nothing but the teacher and images synthesised from it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invkit.core.device import autocast
from invkit.core.results import FitResult
from invkit.core.rng import seeded
from invkit.core.target import Target
from invkit.engine.classifier import ClassifierConfig, ClassifierLearner
from invkit.engine.fit import Callback, epochs, fit
from invkit.objectives import losses
from invkit.transforms.views import Views


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationConfig(ClassifierConfig):
    """How the student is trained; the schedule is :class:`~invkit.engine.classifier.ClassifierConfig`'s.

    >>> DistillationConfig(hard=0.1).temperature
    4.0
    """

    temperature: float = 4.0
    """Softens both distributions (Hinton et al., 2015)."""
    hard: float = 0.0
    """Weight of the cross-entropy with the labels the images were made for, beside the KL divergence."""
    mix: float = 0.0
    """Largest share of another image of the batch that is mixed into each, in [0, 1]: teacher and student answer the
    same mixtures (Beyer et al. 2022, section 3). 0 mixes nothing.
    """
    label_smoothing: float = 0.0
    """Share of each label that is spread evenly over all classes, in the cross-entropy that ``hard`` weighs."""

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = dict(ClassifierConfig.PROFILES)

    def __post_init__(self) -> None:
        ClassifierConfig.__post_init__(self)
        self.require_positive("temperature")
        self.require_weight("hard")
        self.require("mix", 0 <= self.mix <= 1, "lie in [0, 1]")
        self.require("hard", not (self.hard and self.mix), "be 0 with ``mix``: mixtures have no label")


class Distillation(ClassifierLearner):
    """``L = T^2 KL(teacher(x) || student(x); T) + hard CE(student(x), y)`` on images of any origin.

    >>> from invkit.testing import tiny_target
    >>> config = DistillationConfig(steps=1, warmup=0, hard=0.5)
    >>> learner = Distillation(tiny_target(), tiny_target(seed=1).module, config, generator=torch.Generator())
    >>> list(learner.step((torch.rand(4, 3, 8, 8), torch.arange(4))))
    ['distillation', 'cross_entropy', 'accuracy']
    """

    config: DistillationConfig

    def __init__(
        self, teacher: Target, student: nn.Module, config: DistillationConfig, *,
        generator: torch.Generator, views: Views | None = None,
    ) -> None:  # fmt: skip
        super().__init__(student, teacher.spec, config, generator=generator, device=teacher.device)
        teacher.check_frozen()
        self.teacher, self.views = teacher, views
        # Without addresses: a function among the views has another in each process.
        self.depends_on = teacher.fingerprint() + re.sub(" at 0x[0-9a-f]+", "", repr(views))

    def augment(self, images: Tensor) -> Tensor:
        """Shifted and flipped images, as configured, then seen by ``views``, then mixed."""
        images = super().augment(images)
        if self.views is not None:
            images = self.views(len(images), 1, self.generator)(images)
        if not self.config.mix:
            return images
        share = self.config.mix * torch.rand(len(images), 1, 1, 1, generator=self.generator).to(images.device)
        others = torch.randperm(len(images), generator=self.generator).to(images.device)
        return torch.lerp(images, images[others], share)

    def losses(self, images: Tensor, labels: Tensor, logits: Tensor) -> dict[str, Tensor]:
        """The terms for augmented ``images`` ``(N, C, H, W)``: the teacher answers the same views as the student."""
        with torch.no_grad(), autocast(self.device, self.config.bf16):
            teacher_logits = self.teacher(images).float()
        terms = {"distillation": losses.distillation(logits, teacher_logits, self.config.temperature).mean()}
        if self.config.hard:
            smooth = self.config.label_smoothing
            terms["cross_entropy"] = self.config.hard * F.cross_entropy(logits, labels, label_smoothing=smooth)
        return terms


def distil(
    teacher: Target,
    student: nn.Module,
    images: Tensor,
    labels: Tensor,
    config: DistillationConfig | None = None,
    *,
    views: Views | None = None,
    generator: torch.Generator | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
) -> tuple[Target, FitResult]:
    """Train a student in place, from where it stands, on images alone; return it frozen, and how it went.

    Botach & Cohen, §5.3, with the teacher's soft answers instead of labels. Where the result says that the training
    diverged, the student is that of the last good step.

    Args:
        teacher: The frozen classifier.
        student: Takes normalised images and has the teacher's classes.
        images: ``(N, C, H, W)``, uint8 or float in [0, 1].
        labels: ``(N,)``, which the images were made for; without use where ``config.hard`` is 0.
        config: How to train.
        views: How each image is changed beyond ``config``'s shifts and flips, drawn anew in every step and answered by
            both networks: :class:`~invkit.transforms.RandomViews` of any transform of torchvision. Synthetic images
            give their class away by colours that no photograph has; under changed colours a student has to learn
            shapes.
        generator: Source of order and augmentation.
        callbacks: Called after each step; one that returns True stops the run.
        checkpoint: A file to resume from, with the same teacher and views.

    Returns:
        The student, whose module is ``student``, and how the training went.

    Raises:
        ValueError: For images that are not the teacher's, or labels that are not its classes.

    >>> from invkit.networks.classifiers import build
    >>> from invkit.testing import tiny_target
    >>> teacher, images, labels = tiny_target(), torch.rand(8, 3, 8, 8), torch.arange(8) % 4
    >>> module = build("bn_cnn", teacher.spec, width=2, seed=0)
    >>> student, result = distil(teacher, module, images, labels, DistillationConfig(steps=2, warmup=0))
    >>> student(images).shape, result.stopped
    (torch.Size([8, 4]), 'steps')
    """
    config, generator = config or DistillationConfig(), generator or seeded(0)
    images = teacher.spec.check(images, keep_bytes=True)
    learner = Distillation(teacher, student, config, generator=generator, views=views)
    batches = epochs(images, teacher.spec.check_labels(labels), config.batch_size)
    result = fit(
        learner, batches, config, generator=generator, callbacks=callbacks, checkpoint=checkpoint, desc="distilling"
    )
    return Target(student, teacher.spec, type(student).__name__), result
