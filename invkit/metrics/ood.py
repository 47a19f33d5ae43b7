"""Is an image from the training distribution? Scores, higher for yes, and how well they tell two sets apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from invkit.core.target import Target
from invkit.data.batching import to_float
from invkit.data.datasets import Split
from invkit.metrics.quality import in_batches


def max_softmax(logits: Tensor, classes: int | None = None) -> Tensor:
    """Largest probability ``(N,)`` among the first ``classes`` (None: all) of the softmax of logits ``(N, K)``.

    Hendrycks & Gimpel (2017). With ``classes`` short of K, a garbage class takes its share of the probability.

    >>> round(float(max_softmax(torch.tensor([[0.0, 0.0, 0.0, 9.0]]), classes=3)), 4)
    0.0001
    """
    return logits.softmax(1)[:, :classes].amax(1)


def energy(logits: Tensor, classes: int | None = None, temperature: float = 1.0) -> Tensor:
    """Minus the free energy, ``T log sum_k exp(logit_k / T)`` ``(N,)`` over the first ``classes`` (Liu et al. 2020)."""
    return temperature * torch.logsumexp(logits[:, :classes] / temperature, dim=1)


def not_garbage(logits: Tensor, garbage: int = -1) -> Tensor:
    """``1 - p(garbage)`` ``(N,)``: what a classifier with a garbage class says itself (Suhail et al., §5.2).

    Computed as the sum over the other classes, so that differences of a sure network do not round away.
    """
    others = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
    others[garbage] = False
    return logits.softmax(1)[:, others].sum(1)


@dataclass(frozen=True, slots=True, eq=False)
class Mahalanobis:
    """Minus the squared Mahalanobis distance to the nearest class mean (Lee et al. 2018, eq. 2), with one covariance.

    ``means`` ``(K, D)`` and ``precision`` ``(D, D)`` are those of penultimate features of training images.
    """

    means: Tensor
    precision: Tensor

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor) -> Mahalanobis:
        """From features ``(N, D)`` and labels ``(N,)``; the covariance is shrunk (Ledoit & Wolf), so that fewer images
        than dimensions do no harm.
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

    >>> auroc(torch.tensor([0.9, 0.8]), torch.tensor([0.1, 0.85]))
    0.75
    """
    from torchmetrics.functional.classification import binary_auroc

    return float(binary_auroc(*_joined(inside, outside)))


def fpr_at_tpr(inside: Tensor, outside: Tensor, tpr: float = 0.95) -> float:
    """Share of the images outside that still pass at the highest threshold that keeps ``tpr`` of those inside."""
    from torchmetrics.functional.classification import binary_roc

    false, true, _ = binary_roc(*_joined(inside, outside))
    return float(false[true >= tpr][0])


def _joined(inside: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    if inside.ndim != 1 or outside.ndim != 1 or not (len(inside) and len(outside)):
        raise ValueError(
            f"scores (N,) and (M,) of one image or more, not {tuple(inside.shape)}, {tuple(outside.shape)}"
        )
    scores = torch.cat([inside, outside]).double()
    # Ranks instead of values: torchmetrics squashes what is outside [0, 1] by a sigmoid, which makes ties.
    _, ranks = scores.unique(return_inverse=True)
    truth = torch.cat([torch.ones(len(inside)), torch.zeros(len(outside))]).long()
    return ranks.double() / max(int(ranks.max()), 1), truth.to(ranks.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceGap:
    """Whether one threshold parts the two sets (Suhail et al., §5.2): it does where ``margin`` is positive."""

    lowest_inside: float
    """Confidence of the least confident image of the distribution that was put into one of its classes."""
    highest_outside: float
    """Confidence of the most confident image outside that was put into such a class; 0 where there is none."""
    violating: float
    """Share of all images outside that are at least as confident as ``lowest_inside``."""
    rejected: float
    """Share of the images outside that were put into the garbage class."""

    @property
    def margin(self) -> float:
        """``lowest_inside - highest_outside``."""
        return self.lowest_inside - self.highest_outside


def confidence_gap(inside: Tensor, outside: Tensor, garbage: int | None = None) -> ConfidenceGap:
    """The claim of §5.2 for logits ``(N, K)`` of both sets; ``garbage`` is the class of what is outside, if any.

    Confidence is the largest softmax probability. Raises ``ValueError`` where no image of the distribution is left.
    """
    (sure, kept), (other, missed) = (_confidence(logits, garbage) for logits in (inside, outside))
    if not bool(kept.any()):
        raise ValueError("no image of the distribution was put into one of its classes")
    lowest = float(sure[kept].min())
    wrong = other[missed]
    return ConfidenceGap(
        lowest_inside=lowest,
        highest_outside=float(wrong.max()) if len(wrong) else 0.0,
        violating=float((missed & (other >= lowest)).double().mean()),
        rejected=float((~missed).double().mean()),
    )


def _confidence(logits: Tensor, garbage: int | None) -> tuple[Tensor, Tensor]:
    """Confidence ``(N,)`` and whether the class is one of the distribution's."""
    confidence, chosen = logits.double().softmax(1).max(1)
    return confidence, torch.ones_like(
        chosen, dtype=torch.bool
    ) if garbage is None else chosen != garbage % logits.shape[1]


def compare_scores(
    target: Target, train: Split, inside: Tensor, outside: Tensor, *, garbage: bool = False
) -> dict[str, dict[str, float]]:
    """``{score: {"auroc", "fpr95"}}`` of every score here for images ``(N, C, H, W)`` inside and outside.

    ``train`` gives the Mahalanobis score its means. With ``garbage``, the last class is a garbage class:
    confidence and energy are those of the others, and ``not garbage`` is one more score. Raises ``ValueError`` for
    images that are not of the target's channels and size.
    """
    for images, what in ((inside, "images of the distribution"), (outside, "images outside the distribution")):
        target.spec.check(to_float(images[:1]), what)
    classes = target.spec.n_classes - 1 if garbage else None
    nearest = Mahalanobis.fit(in_batches(target.features, train.pixels, device=target.device), train.labels)
    scores: dict[str, tuple[Tensor, Tensor]] = {}
    logits = [in_batches(target, images) for images in (inside, outside)]
    features = [in_batches(target.features, images, device=target.device) for images in (inside, outside)]
    scores["max softmax"] = (max_softmax(logits[0], classes), max_softmax(logits[1], classes))
    scores["energy"] = (energy(logits[0], classes), energy(logits[1], classes))
    scores["Mahalanobis"] = (nearest(features[0]), nearest(features[1]))
    if garbage:
        scores["not garbage"] = (not_garbage(logits[0]), not_garbage(logits[1]))
    return {name: {"auroc": auroc(*pair), "fpr95": fpr_at_tpr(*pair)} for name, pair in scores.items()}
