"""The network in question with all that a report may use, and what its sections share."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from invkit.core.rng import seeded
from invkit.core.spec import ImageSpec
from invkit.core.target import Target
from invkit.data.datasets import DataSet, Split, channel_statistics
from invkit.data.images import quantise
from invkit.engine.classifier import ClassifierConfig, train_classifier
from invkit.metrics.quality import in_batches
from invkit.networks.classifiers import build
from invkit.report.images import Pair, Pictures
from invkit.report.section import Section, pace
from invkit.transforms.resize import resize_images

SMALL = 64
"""Networks for images up to this side are trained anew, and their features inverted by learnt inverses."""
STAND_IN = (32, 32)
"""The size at which small networks stand in for a large one."""
SHARE = 1 / 1800
"""Of the report's time that a training step may take for networks of the same shape: six hundred in a third of it."""


@dataclass(kw_only=True, eq=False)
class Case:
    """A network and what is known of it."""

    target: Target
    pair: Pair
    judge: Target | None = None
    """A network that took no part, for the same classes."""
    fresh: Callable[[int], nn.Module] | None = None
    """Builds the same network untrained."""
    classes: tuple[int, ...] = ()
    """Those that images are drawn for."""
    seed: int = 0
    budget: float = 600.0
    """Seconds that the whole report may take."""
    least: bool = False
    """Whether every step counts as too many: a trial that shows that all runs."""
    done: dict[str, Section] = field(default_factory=dict)
    """Sections so far, by name."""

    @property
    def spec(self) -> ImageSpec:
        """Of the network's images."""
        return self.target.spec

    @property
    def labelled(self) -> Pictures | None:
        """Training images with labels of at least two classes; None where there are fewer than twenty."""
        return _labelled(self.pair.train)

    @property
    def unseen(self) -> Pictures | None:
        """Held-out images with labels, likewise."""
        return _labelled(self.pair.heldout)

    @property
    def drawn(self) -> dict[str, Tensor]:
        """Images that were drawn from the weights, by method, in [0, 1]; empty before that section."""
        made = self.done["drawn"].images if "drawn" in self.done else {}
        return {name: images.float() / 255 for name, images in made.items()}

    @property
    def labels(self) -> Tensor:
        """Classes of the drawn images: those asked for, in turn, twenty images where they are small."""
        count = 2 * len(self.classes) if max(self.spec.size) <= SMALL else len(self.classes)
        return torch.tensor(self.classes).repeat(math.ceil(count / len(self.classes)))[:count]

    @cached_property
    def small_spec(self) -> ImageSpec:
        """Of the images that networks are trained anew on."""
        if max(self.spec.size) <= SMALL:
            return self.spec
        return replace(self.spec, size=STAND_IN)

    @cached_property
    def same_shape(self) -> bool:
        """Whether networks trained anew have the shape of the network in question, and do not stand in for it.

        They do where its images are small and a training step leaves time for the dozens of trainings of a report.
        """
        if self.fresh is None or max(self.spec.size) > SMALL:
            return False
        return self.least or _step_seconds(self.fresh(self.seed), self.spec) <= self.budget * SHARE

    def untrained(self, seed: int, extra_class: bool = False) -> nn.Module:
        """A network to be trained anew: of the same shape where it is small enough, else a small one."""
        if self.same_shape and self.fresh is not None and not extra_class:
            return self.fresh(seed)
        spec = self.small_spec
        if extra_class:
            spec = replace(spec, classes=(*spec.classes, "garbage"))
        return build("bn_cnn", spec, width=16, seed=seed)

    def small(self, pictures: Pictures) -> Split:
        """Images and labels as networks trained anew take them."""
        if pictures.labels is None:
            raise ValueError("the images have no labels")
        pixels = pictures.pixels
        if tuple(pixels.shape[-2:]) != self.small_spec.size:
            pixels = (quantise(resize_images(pictures.images, self.small_spec.size)) * 255).round().byte()
        return Split(pixels=pixels, labels=pictures.labels)

    def train(
        self, split: Split, seconds: float, seed: int, *,
        module: nn.Module | None = None, spec: ImageSpec | None = None, part: float = 1.0, **changes: Any,
    ) -> Target:  # fmt: skip
        """A network trained anew on some images.

        Args:
            split: The images.
            seconds: Within which it is done; thirty epochs are enough in any case.
            seed: Of weights and order.
            module: The network; by default one of :meth:`untrained`.
            spec: Of its images; by default :attr:`small_spec`, normalised by these images.
            part: Of the steps that fit.
            **changes: Of the config.

        Returns:
            The network, frozen.
        """
        mean, std = channel_statistics(split.pixels)
        spec = replace(spec or self.small_spec, mean=mean, std=std)
        data = DataSet(name="own", spec=spec, train=split, test=split[:0], heldout=split[:0])
        options: dict[str, Any] = {"batch_size": min(32, len(split)), "warmup": 0, "label_smoothing": 0.0} | changes
        module = module or self.untrained(seed)

        def run(steps: int, network: nn.Module) -> Target:
            config = ClassifierConfig(**options | {"steps": steps})
            return train_classifier(network, data, config, seed=seed, device="cpu")[0]

        if self.least:
            return run(2, module)
        epochs = max(60, 30 * len(split) // int(options["batch_size"]))
        trial = copy.deepcopy(module)
        steps = pace(lambda steps: run(steps, trial), seconds, least=20, most=epochs)
        return run(max(1, round(part * steps)), module)


def _step_seconds(module: nn.Module, spec: ImageSpec, batch: int = 64) -> float:
    """Wall time of a step of training on a batch; the first, which pays for what is made once, does not count."""
    module.eval()  # without dropout, which would draw from the global random numbers
    images = torch.rand(batch, *spec.shape, generator=seeded(0))
    for _ in range(2):
        start = time.perf_counter()
        module(images).sum().backward()
        spent = time.perf_counter() - start
    return spent


def _labelled(pictures: Pictures | None) -> Pictures | None:
    if pictures is None or pictures.labels is None or len(pictures) < 20 or len(pictures.labels.unique()) < 2:
        return None
    return pictures


def answers(network: Target, images: Tensor) -> Tensor:
    """Probabilities ``(N, K)`` of images in any size."""
    if tuple(images.shape[-2:]) != network.spec.size:
        images = resize_images(images, network.spec.size)
    if images.shape[1] != network.spec.channels:
        images = images.mean(1, keepdim=True).expand(-1, network.spec.channels, -1, -1)
    return in_batches(network, images, batch_for(images), device=network.device).softmax(1)


def batch_for(images: Tensor) -> int:
    """How many images go through a network at once: feature maps of many large ones would not fit the caches."""
    return 256 if max(images.shape[-2:]) <= SMALL else 32


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson's formula, which holds for few cases too.

    >>> [round(end, 2) for end in wilson(10, 10)]
    [0.72, 1.0]
    """
    if count == 0:
        return 0.0, 1.0
    z = 1.959964
    share, square = hits / count, z * z / count
    middle = (share + square / 2) / (1 + square)
    half = z * math.sqrt(share * (1 - share) / count + square / (4 * count)) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)


def share(hits: Tensor) -> str:
    """A share with its interval, in words.

    >>> share(torch.tensor([True, True, False, True]))
    '75% [30, 95]'
    """
    low, high = wilson(int(hits.sum()), len(hits))
    return f"{100 * float(hits.double().mean()):.0f}% [{100 * low:.0f}, {100 * high:.0f}]"
