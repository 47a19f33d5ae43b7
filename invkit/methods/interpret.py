"""What a classifier's features tell of inverted images: planes, clusters, decision regions, sparse codes (§5.1 of
Suhail et al.).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from invkit.batching import batches
from invkit.fitting import fit
from invkit.results import FitResult
from invkit.runtime import default_generator
from invkit.schedule import FitConfig
from invkit.target import Target


@dataclass(frozen=True, slots=True, eq=False)
class FeaturePlane:
    """The plane of the first two principal components of features.

    ``origin`` is ``(D,)``, ``axes`` ``(2, D)`` orthonormal, ``explained`` the share of the variance along each.
    """

    origin: Tensor
    axes: Tensor
    explained: tuple[float, float]

    @classmethod
    def fit(cls, features: Tensor) -> FeaturePlane:
        """From features ``(N, D)``, three or more, by scikit-learn's PCA."""
        from sklearn.decomposition import PCA  # imported where needed: it takes half a second

        if features.ndim != 2 or len(features) < 3 or features.shape[1] < 2:
            raise ValueError(f"a plane needs 3 or more features (N, D) of D >= 2, not {tuple(features.shape)}")
        found = PCA(2, svd_solver="full").fit(features.detach().double().cpu().numpy())
        origin, axes = (torch.from_numpy(v).float() for v in (found.mean_, found.components_))
        first, second = found.explained_variance_ratio_.tolist()
        return cls(origin, axes, (first, second))

    def project(self, features: Tensor) -> Tensor:
        """Places ``(N, 2)`` of features ``(N, D)`` in the plane."""
        return (features.detach().cpu() - self.origin) @ self.axes.T

    def lift(self, places: Tensor) -> Tensor:
        """Features ``(N, D)`` of places ``(N, 2)``: the points of the plane itself."""
        return self.origin + places @ self.axes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Regions:
    """Class and confidence ``(R, R)`` on a grid over a plane; rows go with ``ys`` ``(R,)``, columns with ``xs``."""

    xs: Tensor
    ys: Tensor
    labels: Tensor
    confidence: Tensor


@torch.no_grad()
def decision_regions(
    target: Target, plane: FeaturePlane, places: Tensor, *, resolution: int = 200, margin: float = 0.1
) -> Regions:
    """What the last layer makes of the plane around ``places`` ``(N, 2)``: a grid, taken back to feature space (§5.1).

    It is a cut through the true regions, which lie in all D dimensions: a feature off the plane may belong to another
    class than the region it is projected onto. Raises ``ValueError`` for a network whose last layer is not linear.
    """
    head = target.head
    if not isinstance(head, nn.Linear):
        raise ValueError(f"decision regions need a network that ends in nn.Linear, not {type(head).__name__}")
    if resolution < 2:
        raise ValueError(f"a grid needs a resolution of at least 2, not {resolution}")
    low, high = places.amin(0), places.amax(0)
    room = margin * (high - low)
    xs, ys = (torch.linspace(float(a), float(b), resolution) for a, b in zip(low - room, high + room, strict=True))
    grid = torch.cartesian_prod(ys, xs).flip(1)
    confidence, labels = head(plane.lift(grid).to(head.weight)).softmax(1).cpu().max(1)
    shape = (resolution, resolution)
    return Regions(xs=xs, ys=ys, labels=labels.view(shape), confidence=confidence.view(shape))


def tsne(features: Tensor, *, perplexity: float = 30.0, seed: int = 0) -> Tensor:
    """Places ``(N, 2)`` of features ``(N, D)`` by scikit-learn's t-SNE (§5.1); distances between clusters mean little.

    Raises ``ValueError`` unless there are more features than the perplexity.
    """
    from sklearn.manifold import TSNE

    if len(features) <= perplexity:
        raise ValueError(f"t-SNE needs more features than the perplexity ({perplexity}), not {len(features)}")
    found = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(_numpy(features))
    return torch.from_numpy(found).float()


def cluster_counts(
    places: Tensor, labels: Tensor, *, most: int = 5, least_silhouette: float = 0.5, seed: int = 0
) -> dict[int, int]:
    """For each class the number of clusters, 1 to ``most``, of its ``places`` ``(N, D)``: that of the best silhouette.

    k-means divides; a class whose best silhouette is below ``least_silhouette`` counts as one cluster, since the
    silhouette is not defined for one (Kaufman & Rousseeuw 1990 call structure below 0.5 weak).
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    counts = {}
    for label in labels.unique().tolist():
        own, scores = _numpy(places[labels == label]), {1: least_silhouette}
        for k in range(2, min(most, len(own) - 1) + 1):
            groups = KMeans(k, n_init=4, random_state=seed).fit_predict(own)
            scores[k] = float(silhouette_score(own, groups)) if len(set(groups.tolist())) > 1 else -1.0
        counts[int(label)] = max(scores, key=lambda k: scores[k])
    return counts


def _numpy(features: Tensor) -> Any:
    return features.detach().float().cpu().numpy()


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseAutoencoderConfig(FitConfig):
    """A k-sparse autoencoder (Makhzani & Frey 2014, which §5.1 cites) and its training; sizes are not given."""

    steps: int = 1000
    batch_size: int = 128
    lr: float = 3e-3
    codes: int = 256
    """Codes, of which each feature may use ``active``."""
    active: int = 8
    """k of the k-sparse autoencoder."""

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {"ci": {"steps": 40}, "book": {}, "paper": {"steps": 20_000}}

    def __post_init__(self) -> None:
        FitConfig.__post_init__(self)
        if not 1 <= self.active <= self.codes:
            raise ValueError(f"SparseAutoencoderConfig: active must lie in 1..codes ({self.codes}), not {self.active}")
        if self.batch_size < 1 or self.lr <= 0:
            raise ValueError(f"SparseAutoencoderConfig: batch_size >= 1 and lr > 0, not {self.batch_size}, {self.lr}")


class SparseAutoencoder(nn.Module):
    """``z = top_k(W (f - b) + c)``, ``f' = z W' + b`` on features of mean variance one (Makhzani & Frey 2014)."""

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
        """Codes ``(N, codes)`` >= 0 of features ``(N, D)``, at most ``active`` of them above 0."""
        raw = self.encoder((features - self.mean) / self.scale).relu()
        top = raw.topk(self.active, dim=1)
        return torch.zeros_like(raw).scatter(1, top.indices, top.values)

    def forward(self, features: Tensor) -> Tensor:
        """Features ``(N, D)`` put together from their codes."""
        return self.decoder(self.codes(features)) * self.scale + self.mean

    @torch.no_grad()
    def anomaly(self, features: Tensor) -> Tensor:
        """``||f - f'||^2 / D`` ``(N,)`` in units of the variance learnt from: high for what the codes cannot say."""
        return ((self(features) - features) / self.scale).square().mean(1)

    @torch.no_grad()
    def usage(self, features: Tensor) -> Tensor:
        """How often each code is active, ``(codes,)`` in [0, 1]."""
        return (self.codes(features) > 0).float().mean(0)


class SparseCoding:
    """The autoencoder's training: mean squared error of the scaled features."""

    def __init__(self, network: SparseAutoencoder, config: SparseAutoencoderConfig) -> None:
        self.network = network.train()
        self.optimizers = (torch.optim.Adam(network.parameters(), lr=config.lr),)

    def step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """One step on features ``(N, D)``."""
        features, _ = batch
        loss = ((self.network(features) - features) / self.network.scale).square().mean()
        self.optimizers[0].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizers[0].step()
        return {"error": loss.detach()}

    def state_dict(self) -> dict[str, Any]:
        """Network and optimiser."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizers[0].state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.network.load_state_dict(state["network"])
        self.optimizers[0].load_state_dict(state["optimizer"])


def sparse_autoencoder(
    features: Tensor, config: SparseAutoencoderConfig | None = None, *, generator: torch.Generator | None = None
) -> tuple[SparseAutoencoder, FitResult]:
    """Train a sparse autoencoder on features ``(N, D)`` on the CPU (§5.1). Raises ``ValueError`` for fewer than two."""
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"an autoencoder needs 2 or more features (N, D), not {tuple(features.shape)}")
    config, generator = config or SparseAutoencoderConfig(), generator or default_generator()
    given = features.detach().float().cpu()
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        network = SparseAutoencoder(given, config)
    feed = partial(_passes, given, config.batch_size)
    result = fit(SparseCoding(network, config), feed, config, generator=generator, desc="sparse autoencoder")
    return network.eval().requires_grad_(False), result


def _passes(features: Tensor, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    return batches(features, torch.zeros(len(features)), size, generator)


def code_overlap(one: Tensor, two: Tensor) -> float:
    """``sum min(a, b) / sum max(a, b)`` in [0, 1] of two usages ``(codes,)``: 1 where they are the same."""
    largest = float(torch.maximum(one, two).sum())
    return float(torch.minimum(one, two).sum()) / largest if largest else 1.0
