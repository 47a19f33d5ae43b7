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

    >>> plane = FeaturePlane.fit(torch.tensor([[1.0, 0, 5], [3, 0, 5], [2, 1, 5], [2, -1, 5]]))
    >>> plane.project(torch.tensor([[2.0, 0, 9]])).abs()  # the mean, far off the plane
    tensor([[0., 0.]])
    """

    origin: Tensor
    """The mean of the features, ``(D,)``."""
    axes: Tensor
    """Orthonormal, ``(2, D)``."""
    explained: tuple[float, float]
    """Share of the variance along each axis, in [0, 1]."""

    @classmethod
    def fit(cls, features: Tensor) -> FeaturePlane:
        """The plane of some features, by scikit-learn's PCA.

        Args:
            features: ``(N, D)``, three or more of two or more entries.

        Returns:
            The plane.

        Raises:
            ValueError: For fewer features, or entries.

        >>> FeaturePlane.fit(torch.tensor([[0.0, 0, 0], [2, 0, 0], [4, 0, 0]])).explained
        (1.0, 0.0)
        """
        from sklearn.decomposition import PCA  # imported where needed: it takes half a second

        if features.ndim != 2 or len(features) < 3 or features.shape[1] < 2:
            raise ValueError(f"a plane needs 3 or more features (N, D) of D >= 2, not {tuple(features.shape)}")
        components = PCA(2, svd_solver="full").fit(features.detach().double().cpu().numpy())
        origin, axes = (torch.from_numpy(v).float() for v in (components.mean_, components.components_))
        first, second = components.explained_variance_ratio_.tolist()
        return cls(origin, axes, (first, second))

    def project(self, features: Tensor) -> Tensor:
        """Where features lie in the plane.

        Args:
            features: ``(N, D)``.

        Returns:
            Their places ``(N, 2)``.

        >>> plane = FeaturePlane(torch.zeros(3), torch.eye(3)[:2], (0.5, 0.5))
        >>> plane.project(torch.tensor([[1.0, 2, 3]]))
        tensor([[1., 2.]])
        """
        return (features.detach().cpu() - self.origin) @ self.axes.T

    def lift(self, places: Tensor) -> Tensor:
        """The points of the plane itself.

        Args:
            places: ``(N, 2)``.

        Returns:
            Features ``(N, D)``.

        >>> FeaturePlane(torch.ones(3), torch.eye(3)[:2], (0.5, 0.5)).lift(torch.tensor([[1.0, 2]]))
        tensor([[2., 3., 1.]])
        """
        return self.origin + places @ self.axes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Regions:
    """What a network answers on a grid over a plane, see :func:`decision_regions`.

    >>> from invkit.testing import tiny_target
    >>> features = tiny_target().features(torch.rand(8, 3, 8, 8))
    >>> plane = FeaturePlane.fit(features)
    >>> decision_regions(tiny_target(), plane, plane.project(features), resolution=5).labels.shape
    torch.Size([5, 5])
    """

    xs: Tensor
    """Along the first axis of the plane, ``(R,)``; columns go with them."""
    ys: Tensor
    """Along the second axis, ``(R,)``; rows go with them."""
    labels: Tensor
    """The class, ``(R, R)``."""
    confidence: Tensor
    """Its softmax probability, ``(R, R)``."""


@torch.no_grad()
def decision_regions(
    target: Target, plane: FeaturePlane, places: Tensor, *, resolution: int = 200, margin: float = 0.1
) -> Regions:
    """What the last layer makes of the plane around ``places`` ``(N, 2)``: a grid, taken back to feature space (§5.1).

    It is a cut through the true regions, which lie in all D dimensions: a feature off the plane may belong to another
    class than the region it is projected onto.

    Args:
        target: A network that ends in a linear layer.
        plane: In the space of its penultimate features.
        places: What the grid is to cover, ``(N, 2)``.
        resolution: Points of the grid along each axis.
        margin: Room around the places, as a share of their extent.

    Returns:
        Classes and confidences on the grid.

    Raises:
        ValueError: For a network whose last layer is not linear, or a resolution below 2.

    >>> from invkit.testing import tiny_target
    >>> target, plane = tiny_target(), FeaturePlane(torch.zeros(8), torch.eye(8)[:2], (0.5, 0.5))
    >>> decision_regions(target, plane, torch.tensor([[0.0, 0], [1, 1]]), resolution=3, margin=0.0).xs
    tensor([0.0000, 0.5000, 1.0000])
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
    """A map of features by scikit-learn's t-SNE (§5.1); distances between its clusters mean little.

    Args:
        features: ``(N, D)``.
        perplexity: About how many neighbours each feature has; less than N.
        seed: Of the map.

    Returns:
        Places ``(N, 2)``.

    Raises:
        ValueError: Unless there are more features than the perplexity.

    >>> tsne(torch.eye(6), perplexity=2).shape
    torch.Size([6, 2])
    """
    from sklearn.manifold import TSNE

    if len(features) <= perplexity:
        raise ValueError(f"t-SNE needs more features than the perplexity ({perplexity}), not {len(features)}")
    places = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(_numpy(features))
    return torch.from_numpy(places).float()


def cluster_counts(
    places: Tensor, labels: Tensor, *, most: int = 5, least_silhouette: float = 0.5, seed: int = 0
) -> dict[int, int]:
    """How many clusters the members of each class fall into: as many as give k-means the best silhouette.

    The silhouette is not defined for one cluster, so a class whose best silhouette is small counts as one (Kaufman &
    Rousseeuw 1990 call structure below 0.5 weak).

    Args:
        places: ``(N, D)``.
        labels: The class of each, ``(N,)``.
        most: The largest number of clusters that is tried.
        least_silhouette: Below it a class is one cluster.
        seed: Of k-means.

    Returns:
        The number of clusters by class.

    >>> places = torch.tensor([[0.0, 0], [0, 1], [9, 9], [9, 8], [0, 5], [0, 6], [1, 5], [1, 6]])
    >>> cluster_counts(places, torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]))
    {0: 2, 1: 1}
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
