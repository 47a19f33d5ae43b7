"""Is an image from the training distribution? Scores, higher for yes, and how well they tell two sets apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from invkit.core.target import Target
from invkit.data.datasets import Split
from invkit.metrics.quality import in_batches


def max_softmax(logits: Tensor, classes: int | None = None) -> Tensor:
    """The largest probability ``(N,)`` that the softmax of logits ``(N, K)`` gives (Hendrycks & Gimpel 2017).

    Args:
        logits: ``(N, K)``.
        classes: Only the first so many classes count (None: all); where that leaves out a garbage class, it still takes
            its share of the probability.

    Returns:
        Scores ``(N,)`` in [0, 1], higher for images of the distribution.

    >>> round(float(max_softmax(torch.tensor([[0.0, 0.0, 0.0, 9.0]]), classes=3)), 4)
    0.0001
    """
    return _checked_logits(logits).softmax(1)[:, :classes].amax(1)


def energy(logits: Tensor, classes: int | None = None, temperature: float = 1.0) -> Tensor:
    """Minus the free energy, ``T log sum_k exp(logit_k / T)`` ``(N,)`` of logits ``(N, K)`` (Liu et al. 2020, eq. 4).

    Args:
        logits: ``(N, K)``.
        classes: The sum goes over the first so many classes (None: all).
        temperature: T > 0.

    Returns:
        Scores ``(N,)`` in units of the logits, higher for images of the distribution.

    >>> energy(torch.zeros(1, 4)).exp()
    tensor([4.])
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    return temperature * torch.logsumexp(_checked_logits(logits)[:, :classes] / temperature, dim=1)


def not_garbage(logits: Tensor, garbage: int = -1) -> Tensor:
    """``1 - p(garbage)`` ``(N,)``: what a classifier with a garbage class says itself (Suhail et al., §5.2).

    Computed as the sum over the other classes, so that differences of a sure network do not round away.

    Args:
        logits: ``(N, K)``.
        garbage: The index of the garbage class.

    Returns:
        Scores ``(N,)`` in [0, 1], higher for images of the distribution.

    >>> not_garbage(torch.tensor([[0.5, 0.25, 0.25]]).log())
    tensor([0.7500])
    """
    others = torch.ones(_checked_logits(logits).shape[1], dtype=torch.bool, device=logits.device)
    others[garbage] = False
    return logits.softmax(1)[:, others].sum(1)


def _checked_logits(logits: Tensor) -> Tensor:
    if logits.ndim != 2 or len(logits) == 0:
        raise ValueError(f"logits (N, K) are needed, not {tuple(logits.shape)}")
    return logits


@dataclass(frozen=True, slots=True, eq=False)
class Mahalanobis:
    """Minus the squared Mahalanobis distance to the nearest class mean (Lee et al. 2018, eq. 2), with one covariance.

    ``means`` ``(K, D)`` and ``precision`` ``(D, D)`` are those of penultimate features of training images.

    >>> score = Mahalanobis.fit(torch.tensor([[0.0], [2.0], [10.0], [12.0]]), torch.tensor([0, 0, 1, 1]))
    >>> score(torch.tensor([[1.0], [11.0], [4.0]])).tolist()
    [-0.0, -0.0, -9.0]
    """

    means: Tensor
    precision: Tensor

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor) -> Mahalanobis:
        """From features ``(N, D)`` and labels ``(N,)``; the covariance is shrunk (Ledoit & Wolf), so that fewer images
        than dimensions do no harm.

        Raises:
            ValueError: For fewer than two features, or another number of labels.

        >>> Mahalanobis.fit(torch.eye(4), torch.tensor([0, 0, 1, 1])).means.shape
        torch.Size([2, 4])
        """
        from sklearn.covariance import LedoitWolf  # imported where needed: it takes half a second

        if len(features) != len(labels) or len(features) < 2:
            raise ValueError(f"a label for each of 2 or more features is needed, not {len(features)} and {len(labels)}")
        wide = features.detach().double().cpu()
        means = torch.stack([wide[labels == label].mean(0) for label in labels.unique()])
        centred = wide - means[torch.unique(labels, return_inverse=True)[1]]
        fitted = LedoitWolf(assume_centered=True).fit(centred.numpy())
        return cls(means, torch.from_numpy(fitted.precision_))

    def __call__(self, features: Tensor) -> Tensor:
        """Scores ``(N,)`` of features ``(N, D)``, at most 0."""
        gaps = features.detach().double().cpu()[:, None] - self.means
        return -torch.einsum("nkd,de,nke->nk", gaps, self.precision, gaps).amin(1)


def auroc(inside: Tensor, outside: Tensor) -> float:
    """Chance that an image of the distribution scores higher than one outside, ties counted half.

    Args:
        inside: Scores ``(N,)`` of images of the distribution, higher for those that belong.
        outside: Scores ``(M,)`` of images outside.

    Returns:
        The area under the ROC curve, in [0, 1]; 1 where all inside score higher, 0.5 for a guess.

    Raises:
        ValueError: For other shapes, no scores or scores that are not finite.

    >>> auroc(torch.tensor([0.9, 0.8]), torch.tensor([0.1, 0.85]))
    0.75
    """
    from sklearn.metrics import roc_auc_score  # imported where needed: it takes half a second

    return float(roc_auc_score(*_joined(inside, outside)))


def fpr_at_tpr(inside: Tensor, outside: Tensor, tpr: float = 0.95) -> float:
    """Share of the images outside that still pass at the highest threshold that keeps ``tpr`` of those inside.

    Args:
        inside: Scores ``(N,)`` of images of the distribution, higher for those that belong.
        outside: Scores ``(M,)`` of images outside.
        tpr: In (0, 1].

    Returns:
        The share, in [0, 1]; 0 where no image outside passes.

    Raises:
        ValueError: As :func:`auroc`, and for another ``tpr``.

    >>> fpr_at_tpr(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 2.5]), tpr=0.6)
    0.5
    """
    from sklearn.metrics import roc_curve

    if not 0 < tpr <= 1:
        raise ValueError(f"tpr must lie in (0, 1], not {tpr}")
    false, true, _ = roc_curve(*_joined(inside, outside), drop_intermediate=False)
    return float(false[true >= tpr][0])


def _joined(inside: Tensor, outside: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Whether each image is of the distribution, and its score."""
    if inside.ndim != 1 or outside.ndim != 1 or not (len(inside) and len(outside)):
        raise ValueError(
            f"scores (N,) and (M,) of one image or more, not {tuple(inside.shape)}, {tuple(outside.shape)}"
        )
    scores = torch.cat([inside.cpu(), outside.cpu()]).double()
    if not scores.isfinite().all():
        raise ValueError("scores hold values that are not finite")
    return np.repeat([1, 0], [len(inside), len(outside)]), scores.numpy()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceGap:
    """Whether one threshold parts the two sets (Suhail et al., §5.2): it does where ``margin`` is positive.

    >>> gap = ConfidenceGap(lowest_inside=0.9, highest_outside=0.6, violating=0.0, rejected=0.5)
    >>> round(gap.margin, 3)
    0.3
    """

    lowest_inside: float
    """Confidence of the least confident image of the distribution that was put into one of its classes (or a quantile
    of their confidence, if that was asked for)."""
    highest_outside: float
    """Confidence of the most confident image outside that was put into such a class (or a quantile); 0 where there is
    none."""
    violating: float
    """Share of all images outside that are at least as confident as ``lowest_inside``."""
    rejected: float
    """Share of the images outside that were put into the garbage class."""

    @property
    def margin(self) -> float:
        """``lowest_inside - highest_outside``."""
        return self.lowest_inside - self.highest_outside


def confidence_gap(
    inside: Tensor, outside: Tensor, garbage: int | None = None, *, quantile: float = 0.0
) -> ConfidenceGap:
    """Whether one confidence parts images inside from images outside, the claim of Suhail et al., §5.2.

    Args:
        inside: Logits ``(N, K)`` of images of the distribution; confidence is the largest softmax probability.
        outside: Logits ``(M, K)`` of images outside.
        garbage: Index of the class of what is outside, if the network has one.
        quantile: Share of each set, in [0, 0.5), that may lie beyond the threshold: the extremes of hundreds of images
            are those of single ones.

    Returns:
        The two confidences between which the threshold would lie, and the shares of images outside that violate it and
        that the garbage class rejects.

    Raises:
        ValueError: Where no image of the distribution was put into one of its classes, or for an impossible quantile.

    >>> gap = confidence_gap(torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.4, 0.6]]).log())
    >>> round(gap.margin, 3)
    0.3
    """
    if not 0 <= quantile < 0.5:
        raise ValueError(f"quantile must lie in [0, 0.5), not {quantile}")
    confidence_inside, accepted_inside = _confidence(inside, garbage)
    confidence_outside, accepted_outside = _confidence(outside, garbage)
    if not bool(accepted_inside.any()):
        raise ValueError("no image of the distribution was put into one of its classes")
    lowest = float(confidence_inside[accepted_inside].quantile(quantile))
    wrongly_accepted = confidence_outside[accepted_outside]
    return ConfidenceGap(
        lowest_inside=lowest,
        highest_outside=float(wrongly_accepted.quantile(1 - quantile)) if len(wrongly_accepted) else 0.0,
        violating=float((accepted_outside & (confidence_outside >= lowest)).double().mean()),
        rejected=float((~accepted_outside).double().mean()),
    )


def _confidence(logits: Tensor, garbage: int | None) -> tuple[Tensor, Tensor]:
    """Confidence ``(N,)`` and whether the class is one of the distribution's."""
    confidence, classes = _checked_logits(logits).double().softmax(1).max(1)
    if garbage is None:
        return confidence, torch.ones_like(classes, dtype=torch.bool)
    return confidence, classes != garbage % logits.shape[1]


def compare_scores(
    target: Target, train: Split, inside: Tensor, outside: Tensor, *, garbage: bool = False
) -> dict[str, dict[str, float]]:
    """How well every score here tells images inside from images outside: ``{score: {"auroc", "fpr95"}}``.

    Args:
        target: The network that is asked, frozen.
        train: Training images, from whose features the Mahalanobis score has its means and covariance.
        inside: Images of the distribution ``(N, C, H, W)`` in [0, 1].
        outside: Images outside ``(M, C, H, W)`` in [0, 1].
        garbage: The last class is a garbage class: confidence and energy are those of the others, and ``not garbage``
            is one more score.

    Returns:
        By the score's name, ``auroc`` of :func:`auroc` and ``fpr95`` of :func:`fpr_at_tpr` at 0.95, both in [0, 1].

    Raises:
        ValueError: For images that are not of the target's channels and size, and a network in train mode.

    >>> from invkit.testing import quadrants_target
    >>> bright = torch.zeros(8, 1, 12, 12)
    >>> bright[:4, :, :6, :6] = bright[4:, :, 6:, 6:] = 1
    >>> train = Split(pixels=(255 * bright).byte(), labels=torch.tensor([0, 3]).repeat_interleave(4))
    >>> compare_scores(quadrants_target(), train, bright, torch.zeros(3, 1, 12, 12))["max softmax"]
    {'auroc': 1.0, 'fpr95': 0.0}
    """
    target.check_frozen()
    inside = target.spec.check(inside, "images of the distribution", dtype=None, keep_bytes=True)
    outside = target.spec.check(outside, "images outside the distribution", dtype=None, keep_bytes=True)
    classes = target.spec.n_classes - 1 if garbage else None
    training_features = in_batches(target.features, train.pixels, device=target.device)
    mahalanobis = Mahalanobis.fit(training_features, train.labels)
    logits = in_batches(target, inside), in_batches(target, outside)
    features = [in_batches(target.features, images, device=target.device) for images in (inside, outside)]
    scores: dict[str, tuple[Tensor, Tensor]] = {
        "max softmax": (max_softmax(logits[0], classes), max_softmax(logits[1], classes)),
        "energy": (energy(logits[0], classes), energy(logits[1], classes)),
        "Mahalanobis": (mahalanobis(features[0]), mahalanobis(features[1])),
    }
    if garbage:
        scores["not garbage"] = (not_garbage(logits[0]), not_garbage(logits[1]))
    return {name: {"auroc": auroc(*pair), "fpr95": fpr_at_tpr(*pair)} for name, pair in scores.items()}
