"""Do images resemble what a network was trained on more than what it never saw?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import torch
from torch import Tensor

from invkit.core.rng import seeded
from invkit.core.spec import check_images
from invkit.core.target import Target
from invkit.metrics.pairwise_ssim import pairwise_ssim
from invkit.metrics.quality import in_batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Leakage:
    """Similarity of each image to its nearest training and its nearest held-out image, and the mean gap between them.

    ``low`` and ``high`` bound the gap, as far as what was resampled goes; training data leak where ``low`` is above 0.

    >>> near, far = torch.tensor([0.9, 0.8]), torch.tensor([0.5, 0.6])
    >>> Leakage(to_train=near, to_heldout=far, gap=0.3, low=0.2, high=0.4).leaks
    True
    """

    to_train: Tensor
    """Similarity to the nearest training image, ``(N,)``."""
    to_heldout: Tensor
    """Similarity to the nearest held-out image, ``(N,)``."""
    gap: float
    """Mean difference of the two."""
    low: float
    high: float

    @property
    def leaks(self) -> bool:
        """Whether the images are nearer to the training set than the interval allows for chance."""
        return self.low > 0


def measure_leakage(
    images: Tensor,
    train: Tensor,
    heldout: Tensor,
    *,
    verifier: Target | None = None,
    groups: Sequence[int] | Tensor | None = None,
    count: int | None = None,
    level: float = 0.95,
    draws: int = 2000,
    repeats: int = 10,
    generator: torch.Generator | None = None,
) -> Leakage:
    """The gap ``mean_i (max_t s(x_i, t) - max_h s(x_i, h))`` between nearest training image t and held-out image h.

    Similarity s is the SSIM or, with a ``verifier``, the cosine of its penultimate features. More images come nearer by
    chance alone, so the nearest is sought among equal numbers: ``repeats`` random subsets of a larger set, averaged.
    The interval resamples ``groups`` of images, ``draws`` times. Images that one network or one generator gave for one
    class resemble each other, and counted one by one they would make the interval too narrow. It does not cover the
    choice of the training set, for which training anew is needed: see :func:`pooled_leakage`.

    Args:
        images: ``(N, C, H, W)`` in [0, 1], two or more.
        train: What the network was trained on, ``(T, C, H, W)`` in [0, 1].
        heldout: Images of the same origin that it never saw, ``(M, C, H, W)``.
        verifier: A network that was trained on neither ``train`` nor ``heldout``, or on both; else it is biased itself.
        groups: Which images belong together, ``(N,)`` whole numbers: their class, or where they come from several
            networks the network. None takes each image for itself, which is right for images that have nothing in
            common, such as photographs.
        count: How many images of each set to compare with, the smaller set's number if None; for training sets of
            several sizes take one number, since the nearest similarity grows with it.
        level: Of the interval, in (0, 1).
        draws: Bootstrap samples.
        repeats: Subsets of a set that holds more than ``count``.
        generator: For subsets and bootstrap; a fixed one if None.

    Returns:
        The similarities of each image, the mean gap between them, in [-2, 2], and its bootstrap interval.

    Raises:
        ValueError: For fewer than two images or groups, an empty set, or sets of other shapes.

    >>> train, heldout = torch.rand(4, 1, 12, 12), torch.rand(4, 1, 12, 12)
    >>> measure_leakage(train, train, heldout).leaks
    True
    """
    images, train, heldout = _check_sets(images, train, heldout)
    if not 0 < level < 1 or draws < 1 or repeats < 1:
        raise ValueError(f"level must lie in (0, 1), draws and repeats be >= 1, not {level}, {draws} and {repeats}")
    generator = generator or seeded(0)
    most = min(len(train), len(heldout))
    if count is not None and not 1 <= count <= most:
        raise ValueError(f"count must lie in 1..{most}, the size of the smaller set, not {count}")
    nearest = [
        _nearest(similarities(images, others, verifier), count or most, repeats, generator)
        for others in (train, heldout)
    ]
    gaps = nearest[0] - nearest[1]
    low, high = grouped_interval(gaps, groups, level=level, draws=draws, generator=generator)
    return Leakage(to_train=nearest[0], to_heldout=nearest[1], gap=float(gaps.mean()), low=low, high=high)


def crossed_leakage(
    images: tuple[Tensor, Tensor],
    sets: tuple[Tensor, Tensor],
    *,
    verifier: Target | None = None,
    groups: tuple[Sequence[int] | Tensor, Sequence[int] | Tensor] | None = None,
    level: float = 0.95,
    draws: int = 2000,
    generator: torch.Generator | None = None,
) -> Leakage:
    """:func:`measure_leakage` of two networks, trained on one of two sets each: what one saw, the other did not.

    One set may be nearer to any image than the other, by chance or by the classes in it. That adds to one network's gap
    what it takes from the other's, so the mean of both gaps is free of it.

    Args:
        images: Those of both networks, each ``(N, C, H, W)``; ``images[k]`` come from the network trained on
            ``sets[k]``.
        sets: Their training images, equally many.
        verifier: See :func:`measure_leakage`, as are ``level``, ``draws`` and ``generator``.
        groups: Which images of each network belong together, as in :func:`measure_leakage`: for generated images their
            classes. A group that both networks have, say a class, is drawn for both at once. None takes each image for
            itself.

    Returns:
        The similarities of the first network's images and then of the second's, the mean of both gaps, and its
        bootstrap interval.

    Raises:
        ValueError: As :func:`measure_leakage`, and for sets of different sizes.

    >>> sets = torch.rand(4, 1, 12, 12), torch.rand(4, 1, 12, 12)
    >>> crossed_leakage(sets, sets).leaks
    True
    """
    if len(sets[0]) != len(sets[1]):
        raise ValueError(f"the two sets must be equally large, not {len(sets[0])} and {len(sets[1])}")
    generator = generator or seeded(0)
    halves = [
        measure_leakage(images[k], sets[k], sets[1 - k], verifier=verifier, draws=1, generator=generator)
        for k in (0, 1)
    ]
    counts = [len(half.to_train) for half in halves]
    if groups is None:
        ids = torch.arange(sum(counts))
    else:
        ids = torch.cat([_group_ids(own, count) for own, count in zip(groups, counts, strict=True)])
    # Each half counts half, whatever the number of its images.
    weights = torch.cat([torch.full((count,), sum(counts) / (2 * count)) for count in counts])
    train, heldout = (torch.cat([getattr(half, name) for half in halves]) for name in ("to_train", "to_heldout"))
    low, high = grouped_interval((train - heldout) * weights, ids, level=level, draws=draws, generator=generator)
    return Leakage(to_train=train, to_heldout=heldout, gap=(halves[0].gap + halves[1].gap) / 2, low=low, high=high)


def exchange_test(
    images: Tensor,
    train: Tensor,
    heldout: Tensor,
    *,
    verifier: Target | None = None,
    draws: int = 999,
    generator: torch.Generator | None = None,
) -> float:
    """How often training and held-out images, exchanged at random, give as large a gap as they do as they are.

    A permutation test of whether the two sets are alike to a network: where it saw neither, or both, exchanging them
    changes nothing, whatever its images look like and however few there are. It covers the choice of the two sets,
    which the interval of :func:`measure_leakage` does not.

    Args:
        images: ``(N, C, H, W)`` in [0, 1].
        train: What the network was trained on, ``(T, C, H, W)``.
        heldout: Images of the same origin that it never saw, as many ``(T, C, H, W)``.
        verifier: See :func:`measure_leakage`.
        draws: Exchanges.
        generator: Source of the exchanges; a fixed one if None.

    Returns:
        The p-value, in (0, 1]: small where the images are nearer to the training set than chance explains.

    Raises:
        ValueError: As :func:`measure_leakage`, and for sets of different sizes.

    >>> train, heldout = torch.rand(2, 12, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    >>> exchange_test(train, train, heldout), exchange_test(torch.rand(8, 1, 12, 12), train, heldout) > 0.01
    (0.001, True)
    """
    images, train, heldout = _check_sets(images, train, heldout)
    if len(train) != len(heldout) or draws < 1:
        raise ValueError(
            f"the two sets must be equally large and draws be >= 1, not {len(train)}, {len(heldout)} and {draws}"
        )
    generator = generator or seeded(0)
    similar = similarities(images, torch.cat([train, heldout]), verifier)

    def gap(order: Tensor) -> Tensor:
        one, other = similar[:, order].chunk(2, 1)
        return (one.amax(1) - other.amax(1)).mean()

    observed = gap(torch.arange(2 * len(train)))
    exchanged = [gap(torch.randperm(2 * len(train), generator=generator)) for _ in range(draws)]
    return (1 + sum(bool(value >= observed) for value in exchanged)) / (1 + draws)


def pooled_leakage(parts: Sequence[Leakage], *, level: float = 0.95) -> Leakage:
    """The gap over several networks, or pairs of networks, each trained on sets of its own.

    They are what a statement about networks in general is made of: the interval is that of a t-test over their gaps,
    and covers the choice of the training sets too.

    Args:
        parts: What :func:`measure_leakage` gave for each network, or :func:`crossed_leakage` for each pair; two or
            more.
        level: Of the interval, in (0, 1).

    Returns:
        All similarities, the mean of the gaps, and its interval.

    Raises:
        ValueError: For fewer than two parts, or another level.

    >>> def part(gap):
    ...     return Leakage(to_train=torch.ones(1), to_heldout=torch.ones(1) - gap, gap=gap, low=gap, high=gap)
    >>> pooled = pooled_leakage([part(0.1), part(0.2), part(0.3)])
    >>> round(pooled.gap, 3), round(pooled.low, 3), round(pooled.high, 3)
    (0.2, -0.048, 0.448)
    """
    if len(parts) < 2 or not 0 < level < 1:
        raise ValueError(f"parts must be two or more and level lie in (0, 1), not {len(parts)} parts and {level}")
    gaps = [part.gap for part in parts]
    low, high = mean_interval(gaps, level)
    return Leakage(
        to_train=torch.cat([part.to_train for part in parts]),
        to_heldout=torch.cat([part.to_heldout for part in parts]),
        gap=fmean(gaps), low=low, high=high,
    )  # fmt: skip


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The interval of a mean by a t-test, as over networks or seeds.

    Args:
        values: Two or more.
        level: Of the interval, in (0, 1).

    Returns:
        Its lower and upper end.

    Raises:
        ValueError: For fewer than two values, or another level.

    >>> [round(end, 3) for end in mean_interval([0.1, 0.2, 0.3])]
    [-0.048, 0.448]
    """
    if len(values) < 2 or not 0 < level < 1:
        raise ValueError(f"values must be two or more and level lie in (0, 1), not {len(values)} and {level}")
    half = _t(level, len(values)) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def grouped_interval(
    values: Tensor,
    groups: Sequence[int] | Tensor | None = None,
    *,
    level: float = 0.95,
    draws: int = 2000,
    generator: torch.Generator | None = None,
) -> tuple[float, float]:
    """Interval of the mean of values that come in groups, by a bootstrap that draws whole groups.

    Values of one group may be as alike as they will: the interval is as wide as the number of groups asks. Deviations
    of the bootstrap, too small for few groups, are widened by ``t / z sqrt(G / (G - 1))``, by 23% for ten groups.

    Args:
        values: ``(N,)``.
        groups: ``(N,)`` whole numbers, equal where values belong together; None takes each value for itself.
        level: Of the interval, in (0, 1).
        draws: Bootstrap samples, at least 1.
        generator: Source of the samples; a fixed one if None.

    Returns:
        Its lower and upper end.

    Raises:
        ValueError: For another number of groups than values, or fewer than two different ones.

    >>> values = torch.randn(5, generator=torch.Generator().manual_seed(0))
    >>> copied = grouped_interval(values.repeat(9), torch.arange(5).repeat(9))
    >>> all(abs(a - b) < 1e-6 for a, b in zip(copied, grouped_interval(values)))
    True
    """
    generator = generator or seeded(0)
    ids = torch.arange(len(values)) if groups is None else _group_ids(groups, len(values))
    _, places = ids.unique(return_inverse=True)
    count = int(places.max()) + 1
    if count < 2:
        raise ValueError(f"groups must be two or more different ones, not {count}: nothing else tells of the spread")
    values = values.double()
    sums = values.new_zeros(count).index_add_(0, places, values)
    sizes = values.new_zeros(count).index_add_(0, places, torch.ones_like(values))
    rows = torch.randint(count, (draws, count), generator=generator)
    mean = values.mean()
    deviations = sums[rows].sum(1) / sizes[rows].sum(1) - mean
    tails = values.new_tensor([(1 - level) / 2, (1 + level) / 2])
    z = math.sqrt(2) * float(torch.erfinv(torch.tensor(level, dtype=torch.float64)))
    wider = _t(level, count) / z * math.sqrt(count / (count - 1))
    low, high = (mean + wider * deviations.quantile(tails)).tolist()
    return low, high


def _group_ids(groups: Sequence[int] | Tensor, count: int) -> Tensor:
    ids = torch.as_tensor(groups).cpu()
    if ids.shape != (count,) or ids.is_floating_point():
        raise ValueError(f"groups must be one whole number for each of {count} images, not {tuple(ids.shape)}")
    return ids


def _t(level: float, count: int) -> float:
    """Student's quantile, by which a mean of ``count`` values lies within its interval."""
    from scipy.stats import t  # imported where needed: it takes a second

    return float(t.ppf((1 + level) / 2, count - 1))


def _check_sets(images: Tensor, train: Tensor, heldout: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    images = check_images(images)
    train, heldout = check_images(train, "train"), check_images(heldout, "heldout")
    if len(images) < 2:
        raise ValueError(f"images must be two or more, not {len(images)}")
    if not images.shape[1:] == train.shape[1:] == heldout.shape[1:]:
        shapes = ", ".join(str(tuple(x.shape[1:])) for x in (images, train, heldout))
        raise ValueError(f"images, training and held-out images must have one shape, not {shapes}")
    return images, train, heldout


def _nearest(similar: Tensor, count: int, repeats: int, generator: torch.Generator) -> Tensor:
    """Largest entry of each row ``(N,)`` among ``count`` columns; their choice is averaged over."""
    if count == similar.shape[1]:
        return similar.amax(1)
    chosen = [torch.randperm(similar.shape[1], generator=generator)[:count] for _ in range(repeats)]
    return torch.stack([similar[:, columns].amax(1) for columns in chosen]).mean(0)


def similarities(images: Tensor, others: Tensor, verifier: Target | None = None) -> Tensor:
    """Similarity ``(N, M)``, at most 1, of each image to each of the others.

    Args:
        images: ``(N, C, H, W)`` in [0, 1].
        others: ``(M, C, H, W)`` in [0, 1].
        verifier: Compares by the cosine of its penultimate features; by the SSIM if None.

    Returns:
        float64 ``(N, M)`` in [-1, 1].

    Raises:
        ValueError: For images below 11 pixels without a verifier, SSIM's window.

    >>> image = torch.eye(12).view(1, 1, 12, 12)
    >>> similarities(image, torch.cat([image, 1 - image])) > 0.9
    tensor([[ True, False]])
    """
    images, others = check_images(images), check_images(others, "others")
    if verifier is not None:
        one, two = (
            torch.nn.functional.normalize(in_batches(verifier.features, x, device=verifier.device).double())
            for x in (images, others)
        )
        return one @ two.T
    return pairwise_ssim(images, others)
