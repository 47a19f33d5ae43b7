"""Training classifiers on the one fit loop, and keeping what was trained.

The loop itself, for every method that learns, is :func:`invkit.fitting.fit`; it is offered here as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from filelock import FileLock
from safetensors.torch import save_file
from torch import Tensor, nn

from invkit.data import Augmentation, DataSet, Split, batches
from invkit.fitting import Callback, FitConfig, FitStep, Learner, fit, lr_factor
from invkit.images import ImageSpec
from invkit.metrics import accuracy
from invkit.networks.classifiers import build
from invkit.results import FitResult
from invkit.runtime import atomic_path, config_hash, pick_device, plain, seeded, spawn, write_json
from invkit.target import Target, load_weights

__all__ = [
    "Callback", "ClassifierConfig", "ClassifierLearner", "FitConfig", "FitStep", "Learner", "fit", "load_or_train",
    "lr_factor", "train_classifier",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierConfig(FitConfig):
    """How to train a classifier. The defaults suit small networks on small images."""

    warmup: int = 30
    batch_size: int = 64
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 3e-3
    """Largest learning rate of the schedule."""
    weight_decay: float = 0.02
    """Decoupled for AdamW, L2 for SGD; on weights of two or more dimensions only."""
    momentum: float = 0.9
    """For SGD, in Nesterov's form."""
    label_smoothing: float = 0.05
    shift: int = 1
    """Largest random shift in pixels; zeros enter."""
    flip: bool = False
    """Random horizontal flips; not for digits."""
    clip_norm: float | None = 5.0
    """Largest gradient norm; None does not clip."""

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {
        "ci": {"steps": 60, "warmup": 10},
        "book": {},
        "paper": {
            "steps": 64_000, "warmup": 400, "batch_size": 128, "optimizer": "sgd", "lr": 0.1, "weight_decay": 1e-4,
            "label_smoothing": 0.0, "shift": 4, "checkpoint_every": 4000,
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        FitConfig.__post_init__(self)
        checks = {
            "batch_size must be at least 1": self.batch_size >= 1,
            "optimizer must be adamw or sgd": self.optimizer in ("adamw", "sgd"),
            "lr must be positive": self.lr > 0,
            "weight_decay must not be negative": self.weight_decay >= 0,
            "momentum must lie in [0, 1)": 0 <= self.momentum < 1,
            "label_smoothing must lie in [0, 1)": 0 <= self.label_smoothing < 1,
            "shift must not be negative": self.shift >= 0,
            "clip_norm must be positive, or None": self.clip_norm is None or self.clip_norm > 0,
        }
        for sentence, good in checks.items():
            if not good:
                raise ValueError(f"{sentence}, not {getattr(self, sentence.split()[0])!r}")

    @classmethod
    def for_network(cls, network: str, profile: str = "book", **overrides: Any) -> Self:
        """The profile's config with what ``network`` needs otherwise; overrides win."""
        return cls.for_profile(profile, **(_NEEDS.get(network, {}) if profile == "book" else {}) | overrides)


_NEEDS: dict[str, dict[str, Any]] = {
    "plain_cnn": {"lr": 1e-3, "warmup": 60},
    "vit_tiny": {"steps": 1200, "warmup": 100, "lr": 2e-3, "weight_decay": 0.05},
    "mixer_tiny": {"steps": 1200, "warmup": 100, "lr": 2e-3, "weight_decay": 0.05},
}


class ClassifierLearner:
    """Cross-entropy on augmented images: ``L = CE(network(normalise(augment(x))), y)`` with label smoothing."""

    def __init__(self, module: nn.Module, spec: ImageSpec, config: ClassifierConfig, *, generator: torch.Generator, device: torch.device):
        self.module = module.to(device).train().requires_grad_(True)
        self.spec, self.config, self.device = spec, config, device
        self.generator = spawn(generator)
        self.optimizers = (_optimizer(self.module, config),)

    def step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """One step on images ``(N, C, H, W)`` in [0, 1] and labels ``(N,)``; returns the loss and the batch's accuracy."""
        images, labels = (part.to(self.device, non_blocking=True) for part in batch)
        logits = self.module(self.spec.normalise(self.augment(images)))
        loss = F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        (optimizer,) = self.optimizers
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip_norm)
        optimizer.step()
        return {"cross_entropy": loss.detach(), "accuracy": (logits.argmax(1) == labels).float().mean()}

    def augment(self, images: Tensor) -> Tensor:
        """Randomly shifted and flipped images, as configured."""
        if not (self.config.shift or self.config.flip):
            return images
        drawn = Augmentation.draw(len(images), shift=self.config.shift, flip=self.config.flip, generator=self.generator)
        return drawn.apply(images)

    def state_dict(self) -> dict[str, Any]:
        """Network, optimiser and the generator of the augmentation."""
        return {
            "module": self.module.state_dict(), "optimizer": self.optimizers[0].state_dict(),
            "generator": self.generator.get_state(),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.module.load_state_dict(state["module"])
        self.optimizers[0].load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])


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
) -> FitResult:
    """Train ``module``, which takes normalised images, on ``data.train`` in place; metrics are those on ``data.test``.

    The module ends in eval mode on the CPU. Same seed, same weights, bit for bit on the CPU. Raises and stops as :func:`fit`.
    """
    config = config or ClassifierConfig()
    generator = seeded(seed)
    learner = ClassifierLearner(module, data.spec, config, generator=generator, device=pick_device(device))

    def sampler(order: torch.Generator) -> Iterable[tuple[Tensor, Tensor]]:
        # A last batch of one image would stop batch norm, so a rest is left for a later pass.
        return batches(data.train.pixels, data.train.labels, config.batch_size, order, drop_last=True)

    def evaluate() -> dict[str, float]:
        return _evaluate(module, data.spec, data.test)

    try:
        return fit(
            learner, sampler, config, generator=generator, callbacks=callbacks, checkpoint=checkpoint, evaluate=evaluate,
            desc=f"train {type(module).__name__}",
        )  # fmt: skip
    finally:
        module.eval().to("cpu")


def _evaluate(module: nn.Module, spec: ImageSpec, split: Split) -> dict[str, float]:
    if len(split) == 0:
        return {}
    module.eval()
    try:
        found = accuracy(lambda images: module(spec.normalise(images)), split.pixels, split.labels, device=_device(module))
    finally:
        module.train()
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
    """A trained classifier ``network`` (a name of :func:`invkit.networks.classifiers.build`) as a :class:`Target` on the CPU.

    It is trained once: weights and a JSON (specification, config, test accuracy, history) are kept in ``folder`` (else
    ``$INVKIT_CACHE``, else ``~/.cache/invkit/networks``) under a name that changes with the network, the data, the config and
    the seed. Two processes that ask for the same network train it once; a file is whole or not there. An interrupted run
    raises ``KeyboardInterrupt`` and goes on from its checkpoint next time; a diverged one raises ``ArithmeticError``.
    """
    config = config or ClassifierConfig.for_network(network)
    path = weights_path(network, data, config, width=width, seed=seed, folder=folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        module = build(network, data.spec, width=width, seed=seed)
        if not _load(module, path):
            _train_and_save(network, module, data, config, seed, path, device, callbacks)
    return Target(module, data.spec, f"invkit/{network}")


def weights_path(
    network: str, data: DataSet, config: ClassifierConfig, *, width: int | None = None, seed: int = 0, folder: str | Path | None = None
) -> Path:
    """Where :func:`load_or_train` keeps these weights; the JSON beside them tells how they came about."""
    default = Path(os.environ.get("INVKIT_CACHE") or Path.home() / ".cache" / "invkit" / "networks")
    digest = hashlib.sha256(data.train.pixels.contiguous().numpy().tobytes() + data.train.labels.numpy().tobytes()).hexdigest()
    key = {"network": network, "width": width, "spec": data.spec, "train": digest, "config": config, "seed": seed, "version": 1}
    return Path(folder or default).expanduser() / f"{network}-{config_hash(key)}.safetensors"


def _load(module: nn.Module, path: Path) -> bool:
    if not (path.is_file() and path.with_suffix(".json").is_file()):
        return False
    try:
        json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        load_weights(module, path)
    except ValueError as error:
        warnings.warn(f"the kept network is trained anew: {error}", stacklevel=3)
        return False
    return True


def _train_and_save(
    network: str, module: nn.Module, data: DataSet, config: ClassifierConfig, seed: int, path: Path, device: str,
    callbacks: Sequence[Callback],
) -> None:  # fmt: skip
    unfinished = path.with_suffix(".checkpoint")
    result = train_classifier(module, data, config, seed=seed, device=device, callbacks=callbacks, checkpoint=unfinished)
    if result.stopped == "interrupted":
        raise KeyboardInterrupt
    if result.stopped.startswith("non-finite"):
        raise ArithmeticError(f"{network} did not train on {data.name}: {result.stopped}; try a smaller lr than {config.lr}")
    if result.stopped == "steps":  # a run that a callback cut short is used, not kept
        record = data.spec.to_json() | {"network": network, "data": data.name, "result": plain(result)}
        write_json(path.with_suffix(".json"), record)
        with atomic_path(path) as temporary:
            save_file({k: v.contiguous() for k, v in module.state_dict().items()}, temporary)
        unfinished.unlink(missing_ok=True)
