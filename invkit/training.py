"""Training classifiers on the one fit loop, and keeping what was trained.

The loop itself, for every method that learns, is :func:`invkit.fitting.fit`; it is offered here as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from invkit.attacks import evaluating, robust_accuracy
from invkit.classification import ClassifierConfig, ClassifierLearner
from invkit.data import DataSet, Split, batches
from invkit.fitting import Callback, FitConfig, FitStep, Learner, fit, lr_factor
from invkit.images import ImageSpec
from invkit.kept import kept_path, load_or_fit
from invkit.metrics import accuracy
from invkit.networks.classifiers import build
from invkit.results import FitResult
from invkit.runtime import pick_device, plain, seeded
from invkit.target import Target

__all__ = [
    "Callback",
    "ClassifierConfig",
    "ClassifierLearner",
    "FitConfig",
    "FitStep",
    "Learner",
    "fit",
    "load_or_train",
    "lr_factor",
    "train_classifier",
    "weights_path",
]


def train_classifier(
    module: nn.Module,
    data: DataSet,
    config: ClassifierConfig | None = None,
    *,
    seed: int = 0,
    device: str = "auto",
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
) -> FitResult:
    """Train ``module``, which takes normalised images, on ``data.train`` in place; metrics are those on
    ``data.test``: ``test_top1``, ``test_top5`` and, trained with a radius, ``test_robust``, the accuracy under
    PGD of 20 steps within that radius.

    The module ends in eval mode on the CPU. Same seed, same weights, bit for bit on the CPU. Raises and stops
    as :func:`fit`.
    """
    config = config or ClassifierConfig()
    generator = seeded(seed)
    learner = ClassifierLearner(module, data.spec, config, generator=generator, device=pick_device(device))

    def sampler(order: torch.Generator) -> Iterable[tuple[Tensor, Tensor]]:
        # A last batch of one image would stop batch norm, so a rest is left for a later pass.
        return batches(data.train.pixels, data.train.labels, config.batch_size, order, drop_last=True)

    def evaluate() -> dict[str, float]:
        return _evaluate(module, data.spec, data.test, config.radius)

    try:
        return fit(
            learner, sampler, config, generator=generator, callbacks=callbacks, checkpoint=checkpoint,
            evaluate=evaluate, desc=f"train {type(module).__name__}",
        )  # fmt: skip
    finally:
        module.eval().to("cpu").to(memory_format=torch.contiguous_format)


def _evaluate(module: nn.Module, spec: ImageSpec, split: Split, radius: float) -> dict[str, float]:
    if len(split) == 0:
        return {}

    def network(images: Tensor) -> Tensor:
        return module(spec.normalise(images))

    place = _device(module)
    with evaluating(module):
        found = accuracy(network, split.pixels, split.labels, device=place)
        if radius > 0:
            found["robust"] = robust_accuracy(network, split.pixels.to(place), split.labels, radius=radius)
    return {f"test_{name}": value for name, value in found.items()}


def _device(module: nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def load_or_train(
    network: str,
    data: DataSet,
    config: ClassifierConfig | None = None,
    *,
    width: int | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    device: str = "auto",
    callbacks: Sequence[Callback] = (),
) -> Target:
    """A trained classifier ``network`` (a name of :func:`invkit.networks.classifiers.build`) as a
    :class:`Target` on the CPU.

    It is trained once: weights and a JSON (specification, config, test accuracy, history) are kept in
    ``folder`` (else ``$INVKIT_CACHE``, else ``~/.cache/invkit/networks``) under a name that changes with the
    network, the data, the config and the seed. Two processes that ask for the same network train it once; a
    file is whole or not there. An interrupted run raises ``KeyboardInterrupt`` and goes on from its
    checkpoint next time; a diverged one raises ``ArithmeticError``.
    """
    config = config or ClassifierConfig.for_network(network)
    path = weights_path(network, data, config, width=width, seed=seed, folder=folder)
    module = build(network, data.spec, width=width, seed=seed)
    record = data.spec.to_json() | {"network": network, "data": data.name}

    def train(unfinished: Path) -> FitResult:
        return train_classifier(
            module, data, config, seed=seed, device=device, callbacks=callbacks, checkpoint=unfinished
        )

    load_or_fit(module, path, train, record, f"try a smaller lr than {config.lr}")
    return Target(module, data.spec, f"invkit/{network}")


def weights_path(
    network: str,
    data: DataSet,
    config: ClassifierConfig,
    *,
    width: int | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
) -> Path:
    """Where :func:`load_or_train` keeps these weights; the JSON beside them tells how they came about."""
    settings = plain(config)
    if config.radius == 0:  # then the attack has no part in it: names from before there was one stay good
        settings = {name: value for name, value in settings.items() if name not in ("radius", "attack_steps")}
    return kept_path(network, data, {"width": width, "config": settings, "seed": seed}, folder)
