"""The space of features: planes with decision regions, t-SNE maps, clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from invkit.core.target import Target


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
