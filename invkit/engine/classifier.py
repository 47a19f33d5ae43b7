"""Training classifiers, plain or under attack, and keeping what was trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invkit.attacks import evaluating, pgd, robust_accuracy
from invkit.core.config import plain
from invkit.core.device import autocast, pick_device
from invkit.core.results import FitResult
from invkit.core.rng import seeded, spawn
from invkit.core.spec import ImageSpec
from invkit.core.target import Target
from invkit.data.datasets import DataSet, Split
from invkit.engine.cache import cache_path, load_or_fit
from invkit.engine.fit import Callback, FitConfig, epochs, fit
from invkit.engine.learner import Learner, detached, total
from invkit.metrics.quality import accuracy
from invkit.networks.classifiers import build
from invkit.transforms.jitter import apply_jitter, draw_jitter


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierConfig(FitConfig):
    """How to train a classifier. The defaults suit small networks on small images."""

    steps: int = 250
    warmup: int = 30
    checkpoint_every: int = 100
    batch_size: int = 64
    """Images per step."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with momentum."""
    lr: float = 3e-3
    """Largest learning rate of the schedule."""
    weight_decay: float = 0.02
    """Decoupled for AdamW, L2 for SGD; on weights of two or more dimensions only."""
    momentum: float = 0.9
    """For SGD, in Nesterov's form."""
    label_smoothing: float = 0.05
    """Share of each label that is spread evenly over all classes, in [0, 1)."""
    shift: int = 1
    """Largest random shift in pixels; zeros enter."""
    flip: bool = False
    """Random horizontal flips; not for digits."""
    clip_norm: float | None = 5.0
    """Largest gradient norm; None does not clip."""
    eps: float = 0.0
    """Of the L∞ ball in which each image is attacked before it is learnt (Madry et al. 2018, eq. 2.1), in units of
    [0, 1]; 0 trains on the images themselves.
    """
    attack_steps: int = 5
    """Gradient steps of the attack, of 2.5 · eps / attack_steps each; without meaning where ``eps`` is 0."""
    bf16: bool = False
    """Run the network under bfloat16 autocast; weights, losses and the optimizer stay in float32."""

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {
        "ci": {"steps": 60, "warmup": 10},
        "book": {},
        # The five papers do not say how their classifiers learnt: He et al. 2016 for CIFAR-10, with half a cosine in
        # place of steps down. Images of 32 pixels want their shift=4, small digits lose their class by it.
        "paper": {
            "steps": 64_000, "warmup": 400, "batch_size": 128, "optimizer": "sgd", "lr": 0.1,
            "weight_decay": 1e-4, "label_smoothing": 0.0, "checkpoint_every": 4000,
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        FitConfig.__post_init__(self)
        self.require_whole("batch_size", "attack_steps")
        self.require_whole("shift", least=0)
        self.require_choice("optimizer", "adamw", "sgd")
        self.require_positive("lr")
        self.require_weight("weight_decay")
        for field in ("momentum", "label_smoothing", "eps"):
            self.require(field, 0 <= getattr(self, field) < 1, "lie in [0, 1)")
        self.require("clip_norm", self.clip_norm is None or self.clip_norm > 0, "be positive, or None")

    @classmethod
    def for_network(cls, network: str, profile: str = "book", **overrides: Any) -> Self:
        """The profile's config with what ``network`` needs otherwise; overrides win.

        >>> ClassifierConfig.for_network("plain_cnn").lr < ClassifierConfig.for_network("bn_cnn").lr
        True
        """
        return cls.for_profile(profile, **_NEEDS.get(profile, {}).get(network, {}) | overrides)


_PATCHES_BOOK: dict[str, Any] = {"steps": 700, "warmup": 70, "lr": 2e-3, "weight_decay": 0.05}
_PATCHES_PAPER: dict[str, Any] = {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.05}
# Networks without batch norm take smaller steps; those on patches need more of them, and Adam.
_NEEDS: dict[str, dict[str, dict[str, Any]]] = {
    "book": {"plain_cnn": {"lr": 1e-3}, "vit_tiny": _PATCHES_BOOK, "mixer_tiny": _PATCHES_BOOK | {"steps": 400}},
    "paper": {"plain_cnn": {"lr": 0.01}, "vit_tiny": _PATCHES_PAPER, "mixer_tiny": _PATCHES_PAPER},
}


class ClassifierLearner(Learner[tuple[Tensor, Tensor]]):
    """Cross-entropy on augmented images, ``CE(network(normalise(augment(x))), y)``, with label smoothing.

    With ``eps``, ``min_θ E max_(|δ|∞ ≤ eps) CE(network(normalise(augment(x) + δ)), y)`` (Madry et al. 2018,
    eq. 2.1): the inner maximum is approached by :func:`invkit.attacks.pgd`.

    >>> from invkit.testing import tiny_target
    >>> target, config = tiny_target(), ClassifierConfig(steps=1, warmup=0)
    >>> learner = ClassifierLearner(
    ...     target.module, target.spec, config, generator=torch.Generator(), device=target.device
    ... )
    >>> sorted(learner.step((torch.rand(4, 3, 8, 8), torch.arange(4))))
    ['accuracy', 'cross_entropy']
    """

    STATE: ClassVar[tuple[str, ...]] = ("module", "optimizers", "generator")

    def __init__(
        self, module: nn.Module, spec: ImageSpec, config: ClassifierConfig,
        *, generator: torch.Generator, device: torch.device,
    ) -> None:  # fmt: skip
        # Channels last is the faster layout for small convolutions, on CPUs and GPUs alike.
        self.module = module.to(device).to(memory_format=torch.channels_last).train().requires_grad_(True)
        self.spec, self.config, self.device = spec, config, device
        self.generator = spawn(generator)
        self.optimizers = (_optimizer(self.module, config),)

    def step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """One step on images ``(N, C, H, W)`` in [0, 1] and labels ``(N,)``; returns the loss and the batch's
        accuracy, on the attacked images where there is an ``eps``.
        """
        images, labels = (part.to(self.device, non_blocking=True) for part in batch)
        images = self.attack(self.augment(images), labels)
        with autocast(self.device, self.config.bf16):
            logits = self.module(self.spec.normalise(images)).float()
        terms = self.losses(images, labels, logits)
        self.minimise(total(terms), clip_norm=self.config.clip_norm, parameters=self.module.parameters())
        return detached(terms) | {"accuracy": (logits.argmax(1) == labels).float().mean()}

    def losses(self, images: Tensor, labels: Tensor, logits: Tensor) -> dict[str, Tensor]:
        """The terms whose sum is minimised, for augmented images and the network's logits ``(N, K)``."""
        return {"cross_entropy": F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)}

    def augment(self, images: Tensor) -> Tensor:
        """Randomly shifted and flipped images, as configured."""
        if not (self.config.shift or self.config.flip):
            return images
        flip = 0.5 if self.config.flip else 0.0
        drawn = draw_jitter(len(images), self.config.shift, flip, self.generator)
        return apply_jitter(images, drawn, wrap=False)

    def attack(self, images: Tensor, labels: Tensor) -> Tensor:
        """The images that raise the loss most within the configured ``eps``, as far as PGD finds them.

        They are sought in eval mode: what is attacked is the network that will be used, without dropout's noise in
        the gradient, and the stored statistics of batch norm see each batch once, as it is learnt, not at every
        attack step. Pang et al. (2021, *Bag of Tricks for Adversarial Training*) find the same robustness and a
        higher clean accuracy than with train mode.
        """
        if self.config.eps == 0:
            return images
        with evaluating(self.module):
            return pgd(
                lambda x: self.module(self.spec.normalise(x)), images, labels, eps=self.config.eps,
                steps=self.config.attack_steps, generator=self.generator,
            )  # fmt: skip


def _optimizer(module: nn.Module, config: ClassifierConfig) -> torch.optim.Optimizer:
    # Scales, shifts and biases are not decayed: shrinking them does not make the function simpler.
    parameters = list(module.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
    return torch.optim.AdamW(groups, lr=config.lr)


def train_classifier(
    module: nn.Module,
    data: DataSet,
    config: ClassifierConfig | None = None,
    *,
    seed: int = 0,
    device: str = "auto",
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
) -> tuple[Target, FitResult]:
    """Train a classifier in place on labelled images; return it frozen, in eval mode on the CPU, and how it went.

    The result's metrics are those on ``data.test``: ``test_top1``, ``test_top5`` and, trained with ``eps``,
    ``test_robust``, the accuracy under PGD of 20 steps within it. Same seed, same weights, bit for bit on the CPU.
    Stops and raises as :func:`invkit.engine.fit.fit`.

    Args:
        module: Takes normalised images ``(N, C, H, W)`` and gives logits ``(N, K)``.
        data: ``data.train`` is learnt, ``data.test`` scores the end.
        config: How to train.
        seed: Of order, augmentation, attack and dropout; the weights are the module's own.
        device: Where to train; ``auto`` takes a GPU where there is one.
        callbacks: Called after each step; one that returns True stops the run.
        checkpoint: A file to resume from.

    Returns:
        The classifier as a target, whose module is ``module``, and how the training went.

    >>> from invkit.data.datasets import load_data
    >>> data = load_data("digits", size=8, limit=40)
    >>> target, result = train_classifier(
    ...     build("bn_cnn", data.spec, width=2, seed=0), data, ClassifierConfig(steps=2, warmup=0), device="cpu"
    ... )
    >>> target(data.test.images[:3]).shape, sorted(result.metrics)
    (torch.Size([3, 10]), ['test_top1', 'test_top5'])
    """
    config = config or ClassifierConfig()
    generator = seeded(seed)
    learner = ClassifierLearner(module, data.spec, config, generator=generator, device=pick_device(device))

    def evaluate() -> dict[str, float]:
        return _evaluate(module, data.spec, data.test, config.eps)

    try:
        result = fit(
            learner, epochs(data.train.pixels, data.train.labels, config.batch_size), config, generator=generator,
            callbacks=callbacks, checkpoint=checkpoint, evaluate=evaluate, desc=f"train {type(module).__name__}",
        )  # fmt: skip
    finally:
        module.eval().to("cpu").to(memory_format=torch.contiguous_format)
    return Target(module, data.spec), result


def _evaluate(module: nn.Module, spec: ImageSpec, split: Split, eps: float) -> dict[str, float]:
    if len(split) == 0:
        return {}

    def network(images: Tensor) -> Tensor:
        return module(spec.normalise(images))

    place = _device(module)
    with evaluating(module):
        scores = accuracy(network, split.pixels, split.labels, device=place)
        if eps > 0:
            scores["robust"] = robust_accuracy(network, split.pixels.to(place), split.labels, eps=eps)
    return {f"test_{name}": value for name, value in scores.items()}


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
    """A trained classifier as a :class:`Target` on the CPU, trained once and then found again.

    Weights and a JSON (specification, config, test accuracy, history) are kept under a name that changes with the
    network, the data, the config and the seed. Two processes that ask for the same network train it once; a file is
    whole or not there.

    Args:
        network: A name of :func:`invkit.networks.classifiers.build`.
        data: What to train on.
        config: How to train; by default :meth:`ClassifierConfig.for_network`.
        width: Channels after the first layer; None takes the network's own.
        seed: Of weights, order and augmentation.
        folder: Where networks are kept; else ``$INVKIT_CACHE``, else ``~/.cache/invkit/networks``.
        device: Where to train.
        callbacks: As for :func:`train_classifier`; a run that one of them stops is used and not kept.

    Returns:
        The classifier, frozen, called ``invkit/NETWORK``.

    Raises:
        KeyboardInterrupt: Where the training was interrupted; it goes on from its checkpoint next time.
        DivergedError: Where it diverged.
        OSError: Where the folder cannot be written.

    >>> import tempfile
    >>> from invkit.data.datasets import load_data
    >>> data, config = load_data("digits", size=8, limit=40), ClassifierConfig(steps=2, warmup=0)
    >>> load_or_train("bn_cnn", data, config, width=2, folder=tempfile.mkdtemp()).name
    'invkit/bn_cnn'
    """
    config = config or ClassifierConfig.for_network(network)
    path = weights_path(network, data, config, width=width, seed=seed, folder=folder)
    module = build(network, data.spec, width=width, seed=seed)

    def train(unfinished: Path) -> FitResult:
        options: dict[str, Any] = {"seed": seed, "device": device, "callbacks": callbacks, "checkpoint": unfinished}
        return train_classifier(module, data, config, **options)[1]

    return load_or_fit_target(module, path, train, data, network, f"invkit/{network}", config.lr)


def load_or_fit_target(
    module: nn.Module, path: Path, train: Callable[[Path], FitResult], data: DataSet, network: str, name: str, lr: float
) -> Target:
    """:func:`invkit.engine.cache.load_or_fit` for a classifier of ``data``: ``module`` as a target called ``name``.

    ``network`` is what messages call it, ``lr`` the learning rate that they advise to lower.
    """
    record = data.spec.to_json() | {"network": network, "data": data.name}
    load_or_fit(module, path, train, record, f"try a smaller lr than {lr}")
    return Target(module, data.spec, name)


def weights_path(
    network: str,
    data: DataSet,
    config: ClassifierConfig,
    *,
    width: int | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
) -> Path:
    """Where :func:`load_or_train` keeps these weights; the JSON beside them tells how they came about.

    >>> from invkit.data.datasets import load_data
    >>> weights_path("bn_cnn", load_data("digits", limit=40), ClassifierConfig(), folder="kept").suffix
    '.safetensors'
    """
    settings = plain(config)
    if config.eps == 0:  # then the attack has no part in it: names from before there was one stay good
        settings = {name: value for name, value in settings.items() if name not in ("eps", "attack_steps")}
    return cache_path(network, data, {"width": width, "config": settings, "seed": seed}, folder)
