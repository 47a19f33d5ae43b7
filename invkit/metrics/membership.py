"""Was an image in a network's training set? Scores of its own answers, and how well they tell members from others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from invkit.core.rng import seeded
from invkit.metrics.ood import auroc
from invkit.metrics.quality import in_batches

Network = Callable[[Tensor], Tensor]
"""Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """How well scores tell members of a training set from images that were not in it.

    >>> Membership(auroc=0.7, low=0.6, high=0.8, p=0.001, caught=0.1, members=50, others=50).leaks
    True
    """

    auroc: float
    """Chance that a member scores above an image that is none, in [0, 1]; 0.5 for a guess."""
    low: float
    """Lower end of its interval."""
    high: float
    """Upper end of its interval."""
    p: float
    """Of the Mann-Whitney test that members do not score higher: how often chance alone does as much."""
    caught: float
    """Share of the members above all but a hundredth of the others (Carlini et al. 2022: true positives at a false
    positive rate of 1%); with fewer than a hundred others, above all of them."""
    members: int
    """How many members were scored."""
    others: int
    """How many others."""

    @property
    def leaks(self) -> bool:
        """Whether members can be told: chance would do as much in one of forty cases at most, as with a two-sided
        interval of 95%; the test is exact for few images, where the bootstrap is not."""
        return self.p <= 0.025


@torch.no_grad()
def membership_scores(
    network: Network, images: Tensor, labels: Tensor | None = None, *, digits: int | None = None, batch_size: int = 256
) -> Tensor:
    """``log p_y - log(1 - p_y)`` of each image, which is larger for what a network has learnt by heart.

    It is the score of Carlini et al. (2022, *Membership Inference Attacks From First Principles*, §4.1), near to a
    normal distribution where the probability itself piles up at 1.

    Args:
        network: Gives logits ``(N, K)``, K >= 2.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: Their classes ``(N,)``; without them the class that the network itself answers.
        digits: Decimal places to which the probabilities are rounded beforehand, as a service might do; None rounds
            nothing.
        batch_size: Images that go through the network at once.

    Returns:
        float64 ``(N,)``, within ±40.

    Raises:
        ValueError: For another number of labels than images, or a negative number of digits.

    >>> class Answer(torch.nn.Module):
    ...     def forward(self, images):
    ...         return torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    >>> membership_scores(Answer(), torch.rand(2, 1, 4, 4), torch.tensor([0, 0]))
    tensor([0., 3.], dtype=torch.float64)
    """
    logits = in_batches(network, images, batch_size).double()
    if labels is None:
        labels = logits.argmax(1)
    if len(labels) != len(logits):
        raise ValueError(f"labels must be one for each of {len(logits)} images, not {len(labels)}")
    if digits is not None and digits < 0:
        raise ValueError(f"digits must be at least 0, not {digits}")
    own = logits.gather(1, labels[:, None].cpu())[:, 0]
    if digits is None:
        # Not by way of the probability, which is 1 in floating point long before the margin ends.
        others = logits.scatter(1, labels[:, None].cpu(), -torch.inf).logsumexp(1)
        return (own - others).clamp(-40, 40)
    probability = logits.softmax(1).gather(1, labels[:, None].cpu())[:, 0]
    return probability.mul(10**digits).round().div(10**digits).logit(1e-17).clamp(-40, 40)


def measure_membership(
    members: Tensor, others: Tensor, *, level: float = 0.95, draws: int = 1000, generator: torch.Generator | None = None
) -> Membership:
    """How well scores tell members from others, with an interval by a bootstrap over both sets of images.

    The interval does not cover the choice of the training set; networks trained anew do.

    Args:
        members: Scores of training images, ``(N,)``, two or more.
        others: Scores of images of the same origin that were not trained on, ``(M,)``, two or more.
        level: Of the interval, in (0, 1).
        draws: Bootstrap samples.
        generator: Source of the samples; a fixed one if None.

    Returns:
        The area under the ROC curve with its interval, and the share of members caught.

    Raises:
        ValueError: For fewer than two scores of a kind, scores that are not finite, or another level.

    >>> measured = measure_membership(torch.arange(40.0) + 30, torch.arange(40.0))
    >>> measured.leaks, measured.caught
    (True, 0.75)
    """
    for name, scores in (("members", members), ("others", others)):
        if scores.ndim != 1 or len(scores) < 2 or not scores.isfinite().all():
            raise ValueError(f"{name} must be two or more finite scores (N,), not {tuple(scores.shape)}")
    if not 0 < level < 1 or draws < 1:
        raise ValueError(f"level must lie in (0, 1) and draws be >= 1, not {level} and {draws}")
    generator = generator or seeded(0)
    members, others = members.double().cpu(), others.double().cpu()
    # Each pair once: a sample of the bootstrap is a weighted mean of the same matrix.
    wins = (members[:, None] > others).double() + 0.5 * (members[:, None] == others).double()
    areas = torch.stack([_resampled(wins, generator) for _ in range(draws)])
    low, high = areas.quantile(areas.new_tensor([(1 - level) / 2, (1 + level) / 2])).tolist()
    threshold = others.sort(descending=True).values[len(others) // 100]
    return Membership(
        auroc=auroc(members, others), low=low, high=high, p=_chance(members, others),
        caught=float((members > threshold).double().mean()),
        members=len(members), others=len(others),
    )  # fmt: skip


def _chance(members: Tensor, others: Tensor) -> float:
    from scipy.stats import mannwhitneyu  # imported where needed: it takes a second

    return float(mannwhitneyu(members.numpy(), others.numpy(), alternative="greater").pvalue)


def _resampled(wins: Tensor, generator: torch.Generator) -> Tensor:
    rows, columns = (
        torch.bincount(torch.randint(n, (n,), generator=generator), minlength=n).double() / n for n in wins.shape
    )
    return rows @ wins @ columns
