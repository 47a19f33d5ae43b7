"""A garbage class for what is not of the training distribution, filled by network inversion (Suhail et al., §5.2)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invkit.core.device import pick_device
from invkit.core.results import FitResult
from invkit.core.rng import seeded, spawn
from invkit.core.spec import ImageSpec
from invkit.core.target import Target
from invkit.core.trial import in_trial
from invkit.data.datasets import DataSet
from invkit.data.images import quantise
from invkit.data.outliers import gaussian_noise
from invkit.engine.classifier import ClassifierConfig, ClassifierLearner
from invkit.engine.fit import Callback, epochs, fit
from invkit.methods.network_inversion import (
    NetworkInversion,
    NetworkInversionConfig,
    make_generators,
    train_generators,
)
from invkit.metrics.quality import in_batches
from invkit.networks.sampling import TrainedGenerator

GARBAGE = "garbage"


@dataclass(frozen=True, slots=True, kw_only=True)
class GarbageConfig(ClassifierConfig):
    """How the classifier with N + 1 classes is trained, and how its garbage class grows after each epoch (§5.2).

    >>> GarbageConfig(source="noise").per_class
    100
    """

    noise: int = 1000
    """Images of Gaussian noise in the garbage class at the start; number not given in the paper."""
    per_class: int = 100
    """Images added after an epoch, for each of the N classes; not given in the paper."""
    source: Literal["inversion", "noise"] = "inversion"
    """What is added; ``noise`` is the control with as many images, without which the inversion proves nothing."""
    inversion_steps: int = 500
    """Generator steps after an epoch; the generator goes on from the epoch before. Not given in the paper."""

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {
        "ci": {"steps": 40, "warmup": 5, "noise": 60, "per_class": 4, "inversion_steps": 10},
        "book": {"steps": 240, "noise": 120, "per_class": 10, "inversion_steps": 30},
        # The paper gives no number of epochs: 50 of the 60,000 images of MNIST, for the bank grows with each.
        "paper": ClassifierConfig.PROFILES["paper"] | {"steps": 23_450},
    }

    def __post_init__(self) -> None:
        ClassifierConfig.__post_init__(self)
        self.require_whole("noise", "inversion_steps")
        self.require_whole("per_class", least=0)
        self.require_choice("source", "inversion", "noise")


def with_garbage(spec: ImageSpec) -> ImageSpec:
    """The specification of images with one more class, ``garbage``: what the network to be trained must answer for.

    Args:
        spec: Of the images and their classes.

    Returns:
        The same with the class added at the end.

    >>> from invkit.testing import quadrants_target
    >>> with_garbage(quadrants_target().spec).classes
    ('nw', 'ne', 'sw', 'se', 'garbage')
    """
    return replace(spec, classes=(*spec.classes, GARBAGE))


class GarbageLearner(ClassifierLearner):
    """Weighted cross-entropy on training images and the garbage class, which grows after each epoch (§5.2).

    The garbage ``bank`` is drawn from by the learner itself, in proportion to its size, so that an epoch is one pass
    over the training images and all that the next step depends on is in :meth:`state_dict`.
    """

    config: GarbageConfig
    STATE: ClassVar[tuple[str, ...]] = (*ClassifierLearner.STATE, "bank", "steps_done", "inverter")

    def __init__(
        self, module: nn.Module, spec: ImageSpec, labels: Tensor, config: GarbageConfig,
        inversion: NetworkInversionConfig, *, generator: torch.Generator, device: torch.device,
    ) -> None:  # fmt: skip
        super().__init__(module, spec, config, generator=generator, device=device)
        self.counts = torch.bincount(labels, minlength=spec.n_classes)
        self.epoch_steps = in_trial(max(len(labels) // config.batch_size, 1))
        self.inversion, self.steps_done = inversion, 0
        self.bank = gaussian_noise(config.noise, spec, self.generator)
        frozen = self._frozen()
        inside = range(spec.n_classes - 1)
        networks = [] if config.source == "noise" else make_generators(frozen, inversion, self.generator, inside)
        self.inverter = NetworkInversion(frozen, networks, inversion) if networks else None

    def step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """One step on a batch of training images and its share of garbage; the garbage grows at the end of an epoch."""
        images, labels = batch
        count = max(round(len(labels) * len(self.bank) / int(self.counts[:-1].sum())), 1)
        garbage = self.bank[torch.randint(len(self.bank), (count,), generator=self.generator)]
        mixed = (
            torch.cat([images.cpu(), garbage]),
            torch.cat([labels.cpu(), torch.full((count,), len(self.counts) - 1)]),
        )
        terms = super().step(mixed)
        self.steps_done += 1
        if self.steps_done % self.epoch_steps == 0 and self.steps_done < self.config.steps:
            self.bank = torch.cat([self.bank, quantise(self.more())])
        return terms

    def losses(self, images: Tensor, labels: Tensor, logits: Tensor) -> dict[str, Tensor]:
        """Cross-entropy in which each class weighs alike, by the counts of this epoch: ``w_k = n / (K n_k)``."""
        smooth = self.config.label_smoothing
        weights = self.class_weights().to(logits)
        return {"cross_entropy": F.cross_entropy(logits, labels, weight=weights, label_smoothing=smooth)}

    def class_weights(self) -> Tensor:
        """The weight of each class ``(N + 1,)``, from the counts as they now are."""
        counts = self.counts.clone()
        counts[-1] = len(self.bank)
        return counts.sum() / (len(counts) * counts.clamp(min=1))

    def more(self) -> Tensor:
        """Images to add to the garbage: inverted from the classifier as it now is, or noise in the control."""
        inside = self.spec.n_classes - 1
        if self.inverter is None:
            return gaussian_noise(inside * self.config.per_class, self.spec, self.generator)
        self.inverter.target = self._frozen()
        for group in self.inverter.optimizers[0].param_groups:
            group["lr"] = self.inversion.lr  # the schedule of the epoch before has taken it down
        trained, result = train_generators(self.inverter, spawn(self.generator))
        if result.stopped == "interrupted":  # the inner loop has caught what was meant for both
            raise KeyboardInterrupt
        labels = torch.arange(inside).repeat_interleave(self.config.per_class)
        images, _ = trained.sample(labels, generator=self.generator)
        self.inverter.networks.to(self.device).train().requires_grad_(True)
        return images

    def _frozen(self) -> Target:
        return Target(copy.deepcopy(self.module), self.spec, "the classifier of this epoch")


@dataclass(frozen=True, slots=True, kw_only=True)
class GarbageResult:
    """A classifier with a garbage class, and what it was taught by.

    >>> from invkit.testing import tiny_target
    >>> GarbageResult(target=tiny_target(), inverter=None, garbage=torch.rand(5, 3, 8, 8)).target.name
    'tiny'
    """

    target: Target
    """The classifier, with one class more than the data."""
    inverter: TrainedGenerator | None
    """Its last generator; None in the control."""
    garbage: Tensor
    """``(G, C, H, W)``: first the noise of the start, then what was added, in that order."""


def train_with_garbage(
    module: nn.Module,
    data: DataSet,
    config: GarbageConfig | None = None,
    inversion: NetworkInversionConfig | None = None,
    *,
    generator: torch.Generator | None = None,
    device: str = "auto",
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
) -> tuple[GarbageResult, FitResult]:
    """Train a classifier in place with one more class for garbage (§5.2); return it frozen, and how it went.

    The result's metrics are the test accuracy ``test_top1`` among N + 1 classes and ``kept``, the fraction of test
    images not put into garbage. Stops and raises as :func:`invkit.engine.fit.fit`.

    Args:
        module: Takes normalised images and gives a logit for each class and one for garbage: build it for
            ``with_garbage(data.spec)``.
        data: What to train on.
        config: How to train, and how the garbage grows.
        inversion: The generator; its steps are ``config.inversion_steps``.
        generator: Source of all randomness.
        device: Where to train.
        callbacks: Called after each step; one that returns True stops the run.
        checkpoint: A file to resume from.

    Returns:
        The classifier with its last generator and its garbage, and how the training went.

    Raises:
        ValueError: For a network without the extra class.

    >>> from invkit.data.datasets import load_data
    >>> from invkit.networks.classifiers import build
    >>> data = load_data("digits", size=8, limit=40)
    >>> module = build("bn_cnn", with_garbage(data.spec), width=2, seed=0)
    >>> trained, result = train_with_garbage(module, data, GarbageConfig(steps=2, warmup=0, noise=5, source="noise"))
    >>> trained.target(data.test.images[:3]).shape, result.stopped
    (torch.Size([3, 11]), 'steps')
    """
    config, generator = config or GarbageConfig(), generator or seeded(0)
    inversion = replace(inversion or NetworkInversionConfig(), steps=config.inversion_steps, warmup=0)
    spec = with_garbage(data.spec)
    learner = GarbageLearner(
        Target(module, spec).module, spec, data.train.labels, config, inversion,
        generator=generator, device=pick_device(device),
    )  # fmt: skip

    def evaluate() -> dict[str, float]:
        classes = in_batches(learner._frozen(), data.test.pixels).argmax(1)
        right, kept = classes == data.test.labels, classes != spec.n_classes - 1
        return {"test_top1": float(right.double().mean()), "kept": float(kept.double().mean())}

    result = fit(
        learner, epochs(data.train.pixels, data.train.labels, config.batch_size), config, generator=generator,
        callbacks=callbacks, checkpoint=checkpoint, evaluate=evaluate if len(data.test) else None,
        desc="training with a garbage class",
    )  # fmt: skip
    inverter = None if learner.inverter is None else learner.inverter.trained()
    target = Target(
        module.cpu().to(memory_format=torch.contiguous_format), spec, f"{type(module).__name__} with garbage"
    )
    return GarbageResult(target=target, inverter=inverter, garbage=learner.bank), result
