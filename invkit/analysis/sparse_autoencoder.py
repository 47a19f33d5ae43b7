"""A sparse autoencoder of features, and how unusual features are to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from invkit.core.results import FitResult
from invkit.core.rng import default_generator, isolated_rng
from invkit.engine.fit import Callback, FitConfig, epochs, fit
from invkit.engine.learner import Learner


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseAutoencoderConfig(FitConfig):
    """A k-sparse autoencoder (Makhzani & Frey 2014, which §5.1 cites) and its training; sizes are not given.

    >>> SparseAutoencoderConfig.for_profile("ci", codes=64).active
    8
    """

    steps: int = 1000
    batch_size: int = 128
    """Features in a step."""
    lr: float = 3e-3
    """Of Adam."""
    codes: int = 256
    """Codes, of which each feature may use ``active``."""
    active: int = 8
    """k of the k-sparse autoencoder."""

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {"ci": {"steps": 40}, "book": {}, "paper": {"steps": 20_000}}

    def __post_init__(self) -> None:
        FitConfig.__post_init__(self)
        self.require_whole("batch_size", "codes", "active")
        self.require_positive("lr")
        self.require("active", self.active <= self.codes, f"lie in 1..codes ({self.codes})")


class SparseAutoencoder(nn.Module):
    """``z = top_k(W (f - b) + c)``, ``f' = z W' + b`` on features of mean variance one (Makhzani & Frey 2014).

    Args:
        features: What it will be trained on, ``(N, D)``, for their mean and scale.
        config: For the number of codes.

    >>> network = SparseAutoencoder(torch.eye(6), SparseAutoencoderConfig(codes=12, active=3))
    >>> network(torch.eye(6)).shape
    torch.Size([6, 6])
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: Tensor, config: SparseAutoencoderConfig) -> None:
        super().__init__()
        self.active = config.active
        self.register_buffer("mean", features.mean(0))
        self.register_buffer("scale", features.std(0).square().mean().sqrt().clamp(min=1e-12))
        self.encoder = nn.Linear(features.shape[1], config.codes)
        self.decoder = nn.Linear(config.codes, features.shape[1])
        # Each code reads what it writes, so that few are dead from the start.
        self.decoder.weight.data = self.encoder.weight.data.T.clone()

    def codes(self, features: Tensor) -> Tensor:
        """Codes of features, at most ``active`` of them above 0.

        Args:
            features: ``(N, D)``.

        Returns:
            ``(N, codes)``, none below 0.

        >>> network = SparseAutoencoder(torch.eye(6), SparseAutoencoderConfig(codes=12, active=3))
        >>> bool(((network.codes(torch.eye(6)) > 0).sum(1) <= 3).all())
        True
        """
        raw = self.encoder((features - self.mean) / self.scale).relu()
        top = raw.topk(self.active, dim=1)
        return torch.zeros_like(raw).scatter(1, top.indices, top.values)

    def forward(self, features: Tensor) -> Tensor:
        """Features ``(N, D)`` put together from their codes."""
        return self.decoder(self.codes(features)) * self.scale + self.mean

    @torch.no_grad()
    def anomaly(self, features: Tensor) -> Tensor:
        """``||f - f'||^2 / D`` in units of the variance learnt from: high for what the codes cannot say.

        Args:
            features: ``(N, D)``.

        Returns:
            ``(N,)``.

        >>> network = SparseAutoencoder(torch.eye(6), SparseAutoencoderConfig(codes=12, active=3))
        >>> bool(network.anomaly(100 * torch.eye(6)).min() > network.anomaly(torch.eye(6)).max())
        True
        """
        return ((self(features) - features) / self.scale).square().mean(1)

    @torch.no_grad()
    def usage(self, features: Tensor) -> Tensor:
        """How often each code is active.

        Args:
            features: ``(N, D)``.

        Returns:
            ``(codes,)`` in [0, 1].

        >>> network = SparseAutoencoder(torch.eye(6), SparseAutoencoderConfig(codes=12, active=3))
        >>> network.usage(torch.eye(6)).shape
        torch.Size([12])
        """
        return (self.codes(features) > 0).float().mean(0)


class SparseCoding(Learner[tuple[Tensor, Tensor]]):
    """The autoencoder's training: mean squared error of the scaled features."""

    STATE: ClassVar[tuple[str, ...]] = ("network", "optimizers")

    def __init__(self, network: SparseAutoencoder, config: SparseAutoencoderConfig) -> None:
        self.network = network.train()
        self.optimizers = (torch.optim.Adam(network.parameters(), lr=config.lr),)

    def step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """One step on features ``(N, D)``."""
        features, _ = batch
        loss = ((self.network(features) - features) / self.network.scale).square().mean()
        return {"error": self.minimise(loss)}


def sparse_autoencoder(
    features: Tensor,
    config: SparseAutoencoderConfig | None = None,
    *,
    generator: torch.Generator | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
) -> tuple[SparseAutoencoder, FitResult]:
    """Train a sparse autoencoder on features, on the CPU (§5.1).

    Args:
        features: ``(N, D)``, two or more.
        config: Sizes and training; the defaults where absent.
        generator: Of all random numbers.
        callbacks: Called after each step; one that returns True ends the training.
        checkpoint: A file to resume from.

    Returns:
        The autoencoder, frozen and in eval mode, and how the training went.

    Raises:
        ValueError: For fewer than two features.

    >>> network, result = sparse_autoencoder(torch.eye(6), SparseAutoencoderConfig(steps=5, codes=12, active=3))
    >>> result.stopped, list(result.history)
    ('steps', ['error'])
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"an autoencoder needs 2 or more features (N, D), not {tuple(features.shape)}")
    config, generator = config or SparseAutoencoderConfig(), generator or default_generator()
    features = features.detach().float().cpu()
    with isolated_rng(generator):
        network = SparseAutoencoder(features, config)
    batches = epochs(features, None, config.batch_size, drop_last=False)
    result = fit(
        SparseCoding(network, config), batches, config, generator=generator, callbacks=callbacks,
        checkpoint=checkpoint, desc="sparse autoencoder",
    )  # fmt: skip
    return network.eval().requires_grad_(False), result


def code_overlap(one: Tensor, two: Tensor) -> float:
    """``sum min(a, b) / sum max(a, b)`` of two usages: 1 where they are the same.

    Args:
        one: ``(codes,)``, as :meth:`SparseAutoencoder.usage` gives it.
        two: The same of other features.

    Returns:
        The overlap in [0, 1].

    >>> code_overlap(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.5, 0.0, 0.5]))
    0.3333...
    """
    largest = float(torch.maximum(one, two).sum())
    return float(torch.minimum(one, two).sum()) / largest if largest else 1.0
