"""Every method under one roof: so many steps of each, or as many as fit into one time, for comparisons."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from invkit.analysis.compare import Method
from invkit.core.device import saved_bytes
from invkit.core.rng import seeded
from invkit.core.target import Target
from invkit.methods.dci import DCIConfig, divide_and_conquer
from invkit.methods.deepdream import DeepDreamConfig, class_inversion
from invkit.methods.deepinversion import DeepInversionConfig, deep_inversion
from invkit.methods.deepsim import DeePSiMConfig, deepsim
from invkit.methods.feature_inversion import FeatureInversionConfig, feature_inversion
from invkit.methods.network_inversion import NetworkInversionConfig, network_inversion
from invkit.methods.plugin import PlugInConfig, plug_in_inversion
from invkit.methods.reconstruction import ReconstructionConfig, reconstruct
from invkit.networks.own import load_function, located
from invkit.objectives.batch_norm import BatchNormPenalty
from invkit.partition.chain import partition_network
from invkit.report.case import SMALL
from invkit.report.section import pace

MOST_FOR_GENERATORS = 100
"""Classes up to which a generator is trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A method whose amount of work is a number of steps.

    >>> noise = Contestant(run=lambda labels, steps, generator: torch.rand(len(labels), 1, 4, 4), needs="nothing")
    >>> noise.within(1.0)(torch.arange(3), torch.Generator()).shape
    torch.Size([3, 1, 4, 4])
    """

    run: Callable[[Any, int, torch.Generator], Tensor]
    """``run(references, steps, generator)`` gives images ``(N, C, H, W)`` in [0, 1]."""
    needs: str
    """What it needs besides the weights, in a few words."""
    least: int = 1
    """Steps below which it would mean nothing."""
    most: int = 10_000
    """Steps beyond which it would gain nothing."""
    trial: int = 3
    """Steps from which the time of one is taken."""

    def steps_within(self, seconds: float, references: Any, *, clock: Callable[[], float] = time.process_time) -> int:
        """How many steps fit into some seconds for these references.

        Args:
            seconds: Of the clock.
            references: What is to be inverted.
            clock: Processor time by default, which other work on the machine does not stretch.

        Returns:
            Steps within ``least`` and ``most``.
        """
        return pace(
            lambda steps: self.run(references, steps, seeded(0)), seconds,
            least=self.least, most=self.most, trial=self.trial, clock=clock,
        )  # fmt: skip

    def within(self, seconds: float, *, clock: Callable[[], float] = time.process_time) -> Method:
        """The method with as many steps as fit, for :func:`~invkit.analysis.compare.compare`; counted once.

        Args:
            seconds: Of the clock.
            clock: See :meth:`steps_within`.

        Returns:
            ``method(references, generator)``.
        """
        steps: list[int] = []

        def method(references: Any, generator: torch.Generator) -> Tensor:
            if not steps:
                steps.append(self.steps_within(seconds, references, clock=clock))
            return self.run(references, steps[0], generator)

        return method

    def memory(self, references: Any) -> float:
        """MiB that autograd keeps for the gradients of one step.

        Args:
            references: What is to be inverted.

        Returns:
            The amount, at least 0; nan for a method that differentiates by functional transforms, which autograd
            cannot be watched at.
        """
        try:
            return saved_bytes(lambda: self.run(references, self.trial, seeded(0))) / self.trial / 2**20
        except RuntimeError as error:
            if "saved tensor hooks" in str(error):
                return math.nan
            raise


def label_contestants(target: Target) -> dict[str, Contestant]:
    """The methods from labels to images that a network allows.

    Args:
        target: The network.

    Returns:
        By name; those that need batch-norm statistics or small images only where there are such.

    >>> from invkit.testing import tiny_target
    >>> list(label_contestants(tiny_target(batch_norm=False)))
    ['Plug-In Inversion', 'DeepDream', 'Network Inversion', 'Reconstruction']
    """
    contestants: dict[str, Contestant] = {}
    if _has_statistics(target):
        contestants["DeepInversion"] = Contestant(
            run=lambda y, steps, g: draw_by_statistics(target, y, steps, g), needs="statistics", least=30, most=400
        )
        contestants["DeepInversion, report's setting"] = Contestant(
            run=lambda y, steps, g: _reported(target, y, steps, g), needs="statistics, tuning", least=30, most=2000
        )
    contestants["Plug-In Inversion"] = Contestant(
        run=lambda y, steps, g: draw_by_colours(target, y, steps, g), needs="nothing", least=3, most=400, trial=1
    )
    contestants["DeepDream"] = Contestant(
        run=lambda y, steps, g: _dream(target, y, steps, g), needs="nothing", least=30, most=4000
    )
    if max(target.spec.size) <= SMALL and 2 <= target.spec.n_classes <= MOST_FOR_GENERATORS:
        contestants["Network Inversion"] = Contestant(
            run=lambda y, steps, g: draw_by_generator(target, y, steps, g), needs="training", least=30, most=4000
        )
        contestants["Reconstruction"] = Contestant(
            run=lambda y, steps, g: _reconstructed(target, y, steps, g), needs="training", least=20, most=4000
        )
    return contestants


def feature_contestants(target: Target, layer: str, images: Tensor) -> dict[str, Contestant]:
    """The methods from a layer's features to images.

    Args:
        target: The network.
        layer: The name of a module whose output is inverted.
        images: What inverses learn from, ``(M, C, H, W)`` in [0, 1], none of those that are sought.

    Returns:
        By name; references are features ``(N, ...)``, as :func:`~invkit.methods.feature_inversion.layer_features`
        gives them.

    >>> from invkit.testing import tiny_target
    >>> list(feature_contestants(tiny_target(), "bn2", torch.rand(8, 3, 8, 8)))
    ['divide and conquer', 'Dosovitskiy & Brox', 'pixels, statistics', 'pixels, total variation']
    """
    contestants = {
        "divide and conquer": Contestant(
            run=lambda f, steps, g: _divide_and_conquer(target, layer, images, f, steps, g),
            needs="images, training", least=10, most=3000,
        ),
        "Dosovitskiy & Brox": Contestant(
            run=lambda f, steps, g: _deepsim(target, layer, images, f, steps, g),
            needs="images, training", least=10, most=20_000,
        ),
    }  # fmt: skip
    if _has_statistics(target):
        contestants["pixels, statistics"] = Contestant(
            run=lambda f, steps, g: _pixels(target, layer, f, steps, g, 0.1), needs="statistics", least=20, most=4000
        )
    contestants["pixels, total variation"] = Contestant(
        run=lambda f, steps, g: _pixels(target, layer, f, steps, g, 0.0), needs="nothing", least=20, most=4000
    )
    return contestants


def draw_by_statistics(target: Target, labels: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """DeepInversion with its defaults, half as many steps at half the size before."""
    # Writing and signs are not mirrored; photographs, which have colours, are.
    flip = 0.5 if target.spec.channels == 3 else 0.0
    config = DeepInversionConfig(steps=steps, low_resolutions=((0.5, max(1, steps // 2)),), flip=flip)
    return deep_inversion(target, labels, config, generator=generator).images


def draw_by_colours(target: Target, labels: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """Plug-In Inversion with a little total variation and two shifts of colour; ``steps`` in each stage."""
    side = min(target.spec.size)
    light = 0.2 if target.spec.channels == 1 else 1.0  # what is written in light on dark suffers from more
    config = PlugInConfig(
        steps=steps, lr=0.03, ensemble=2, tv=0.02, jitter=max(1, side // 8), alpha=light, beta=light,
        stages=min(7, max(1, side // 4)), wrap=None if side > SMALL else False,
    )  # fmt: skip
    return plug_in_inversion(target, labels, config, generator=generator).images


def draw_by_generator(target: Target, labels: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """Network Inversion: a generator of all classes, of which those asked for are drawn."""
    config = NetworkInversionConfig.for_profile("book", steps=steps, warmup=0)
    inverse, _ = network_inversion(target, config, generator=generator)
    return inverse(labels, generator)


def _reported(target: Target, labels: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    config = DeepInversionConfig.paper(steps=steps, jitter=max(1, round(30 / 224 * min(target.spec.size))))
    return deep_inversion(target, labels, config, generator=generator).images


def _dream(target: Target, labels: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    config = DeepDreamConfig(steps=steps, lr=0.02, tv=2e-3)
    return class_inversion(target, labels, config, generator=generator).images


def _reconstructed(target: Target, labels: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    config = ReconstructionConfig.for_profile("book", steps=steps, warmup=0)
    inverse, _ = reconstruct(target, config, generator=generator)
    return inverse(labels, generator)


def _divide_and_conquer(
    target: Target, layer: str, images: Tensor, features: Tensor, steps: int, generator: torch.Generator
) -> Tensor:
    chain = partition_network(target)
    names = [name for name in chain.names if not name.endswith(":input")]
    if layer not in names:
        raise ValueError(f"layer must be one where the network can be cut, {', '.join(names)}, not {layer!r}")
    depth = chain.names.index(layer) + 1
    config = DCIConfig(
        steps=max(2, steps), fine_tune_steps=max(2, steps // 2), lr=3e-3, fine_tune_lr=5e-4, restarts=0, batch_size=16,
        stages=depth,
    )  # fmt: skip
    inverse, _ = divide_and_conquer(chain, images, config, generator=generator)
    with torch.no_grad():
        return inverse(features, depth=depth)


def _deepsim(
    target: Target, layer: str, images: Tensor, features: Tensor, steps: int, generator: torch.Generator
) -> Tensor:
    config = DeePSiMConfig.for_profile("book", steps=steps, warmup=0)
    inverse, _ = deepsim(target, images, layer, config, generator=generator)
    with torch.no_grad():
        return inverse(features).clamp(0, 1)


def _pixels(
    target: Target, layer: str, features: Tensor, steps: int, generator: torch.Generator, batch_norm: float
) -> Tensor:
    config = FeatureInversionConfig(
        steps=steps, lr=0.05, betas=(0.5, 0.9), schedule="cosine", patience=None, match=1.0, tv=0.3, l2=0.0,
        batch_norm=batch_norm,
    )  # fmt: skip
    return feature_inversion(target, features, layer, config, generator=generator).images


def _has_statistics(target: Target) -> bool:
    try:
        BatchNormPenalty(target.module)
    except ValueError:
        return False
    return True


def load_method(name: str) -> Callable[[Target, Any, torch.Generator], Tensor]:
    """A reader's own method, ``my_file:my_method``, a function ``(target, references, generator)``.

    Args:
        name: Where it is, meant from the folder that the reader started from.

    Returns:
        The function.

    Raises:
        ValueError: Where there is no such function.

    >>> load_method("torch:relu").__name__
    'relu'
    """
    function = load_function(located(name))
    if not callable(function):
        raise ValueError(f"{name} is a {type(function).__name__}, not a function (target, references, generator)")
    return function


def named(methods: Mapping[str, Contestant], seconds: float) -> dict[str, Method]:
    """All of them with one time each.

    >>> list(named({"noise": Contestant(run=lambda y, steps, g: torch.rand(len(y), 1, 2, 2), needs="nothing")}, 1.0))
    ['noise']
    """
    return {name: contestant.within(seconds) for name, contestant in methods.items()}
