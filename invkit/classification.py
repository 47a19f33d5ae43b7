"""Learning to classify: the config of a classifier's training, and its one step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invkit.attacks import evaluating, pgd
from invkit.augment import apply_jitter, draw_jitter
from invkit.images import ImageSpec
from invkit.runtime import spawn
from invkit.schedule import FitConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierConfig(FitConfig):
    """How to train a classifier. The defaults suit small networks on small images."""

    steps: int = 250
    warmup: int = 30
    checkpoint_every: int = 100
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
    radius: float = 0.0
    """Of the L∞ ball in which each image is attacked before it is learnt (Madry et al. 2018, eq. 2.1), in units of
    [0, 1]; 0 trains on the images themselves.
    """
    attack_steps: int = 5
    """Gradient steps of the attack, of 2.5 · radius / attack_steps each; without meaning where the radius is 0."""

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {
        "ci": {"steps": 60, "warmup": 10},
        "book": {},
        "paper": {
            "steps": 64_000, "warmup": 400, "batch_size": 128, "optimizer": "sgd", "lr": 0.1,
            "weight_decay": 1e-4, "label_smoothing": 0.0, "shift": 4, "checkpoint_every": 4000,
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
            "radius must lie in [0, 1)": 0 <= self.radius < 1,
            "attack_steps must be at least 1": self.attack_steps >= 1,
        }
        for sentence, good in checks.items():
            if not good:
                raise ValueError(f"{sentence}, not {getattr(self, sentence.split()[0])!r}")

    @classmethod
    def for_network(cls, network: str, profile: str = "book", **overrides: Any) -> Self:
        """The profile's config with what ``network`` needs otherwise; overrides win."""
        return cls.for_profile(profile, **_NEEDS.get(profile, {}).get(network, {}) | overrides)


_PATCHES_BOOK: dict[str, Any] = {"steps": 700, "warmup": 70, "lr": 2e-3, "weight_decay": 0.05}
_PATCHES_PAPER: dict[str, Any] = {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.05}
# Networks without batch norm take smaller steps; those on patches need more of them, and Adam.
_NEEDS: dict[str, dict[str, dict[str, Any]]] = {
    "book": {"plain_cnn": {"lr": 1e-3}, "vit_tiny": _PATCHES_BOOK, "mixer_tiny": _PATCHES_BOOK},
    "paper": {"plain_cnn": {"lr": 0.01}, "vit_tiny": _PATCHES_PAPER, "mixer_tiny": _PATCHES_PAPER},
}


class ClassifierLearner:
    """Cross-entropy on augmented images, ``CE(network(normalise(augment(x))), y)``, with label smoothing.

    With a radius, ``min_θ E max_(|δ|∞ ≤ radius) CE(network(normalise(augment(x) + δ)), y)`` (Madry et al. 2018,
    eq. 2.1): the inner maximum is approached by :func:`invkit.attacks.pgd`.
    """

    def __init__(
        self,
        module: nn.Module,
        spec: ImageSpec,
        config: ClassifierConfig,
        *,
        generator: torch.Generator,
        device: torch.device,
    ):
        # Channels last is the faster layout for small convolutions, on CPUs and GPUs alike.
        self.module = module.to(device).to(memory_format=torch.channels_last).train().requires_grad_(True)
        self.spec, self.config, self.device = spec, config, device
        self.generator = spawn(generator)
        self.optimizers: tuple[torch.optim.Optimizer] = (_optimizer(self.module, config),)

    def step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """One step on images ``(N, C, H, W)`` in [0, 1] and labels ``(N,)``; returns the loss and the batch's
        accuracy, on the attacked images where there is a radius.
        """
        images, labels = (part.to(self.device, non_blocking=True) for part in batch)
        images = self.attack(self.augment(images), labels)
        logits = self.module(self.spec.normalise(images))
        terms = self.losses(images, labels, logits)
        (optimizer,) = self.optimizers
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip_norm)
        optimizer.step()
        accuracy = (logits.argmax(1) == labels).float().mean()
        return {name: term.detach() for name, term in terms.items()} | {"accuracy": accuracy}

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
        """The images that raise the loss most within the configured radius, as far as PGD finds them.

        They are sought in eval mode: what is attacked is the network that will be used, without dropout's noise in
        the gradient, and the stored statistics of batch norm see each batch once, as it is learnt, not at every
        attack step. Pang et al. (2021, *Bag of Tricks for Adversarial Training*) find the same robustness and a
        higher clean accuracy than with train mode.
        """
        if self.config.radius == 0:
            return images
        with evaluating(self.module):
            return pgd(
                lambda x: self.module(self.spec.normalise(x)), images, labels, radius=self.config.radius,
                steps=self.config.attack_steps, generator=self.generator,
            )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Network, optimiser and the generator of augmentation and attack."""
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
