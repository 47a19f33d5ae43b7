"""Do images resemble what a network was trained on more than what it never saw?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from invkit.core.rng import seeded
from invkit.core.spec import check_images
from invkit.core.target import Target
from invkit.metrics.quality import in_batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Leakage:
    """Similarity of each image to its nearest training and its nearest held-out image, and the mean gap between them.

    ``low`` and ``high`` bound the gap by the bootstrap; training data leak where ``low`` is above 0.

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
    count: int | None = None,
    level: float = 0.95,
    draws: int = 2000,
    repeats: int = 10,
    generator: torch.Generator | None = None,
) -> Leakage:
    """The gap ``mean_i (max_t s(x_i, t) - max_h s(x_i, h))`` between nearest training image t and held-out image h.

    Similarity s is the SSIM or, with a ``verifier``, the cosine of its penultimate features. More images come nearer by
    chance alone, so the nearest is sought among equal numbers: ``repeats`` random subsets of a larger set, averaged.
    The interval resamples the images ``draws`` times; it does not cover the choice of the training set, for which
    training anew is needed.

    Args:
        images: ``(N, C, H, W)`` in [0, 1], two or more.
        train: What the network was trained on, ``(T, C, H, W)`` in [0, 1].
        heldout: Images of the same origin that it never saw, ``(M, C, H, W)``.
        verifier: A network that was trained on neither ``train`` nor ``heldout``, or on both; else it is biased itself.
        count: How many images of each set to compare with, the smaller set's number if None; for training sets of
            several sizes take one number, since the nearest similarity grows with it.
        level: Of the interval, in (0, 1).
        draws: Bootstrap samples.
        repeats: Subsets of a set that holds more than ``count``.
        generator: For subsets and bootstrap; a fixed one if None.

    Returns:
        The similarities of each image, the mean gap between them, in [-2, 2], and its bootstrap interval.

    Raises:
        ValueError: For fewer than two images, an empty set, or sets of other shapes.

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
    return _summary([nearest[0]], [nearest[1]], level, draws, generator)


def crossed_leakage(
    images: tuple[Tensor, Tensor],
    sets: tuple[Tensor, Tensor],
    *,
    verifier: Target | None = None,
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
        verifier: See :func:`measure_leakage`, as are ``level``, ``draws`` and ``generator``; the bootstrap keeps to
            each half.

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
    halves = []
    for k in (0, 1):
        half = measure_leakage(
            images[k], sets[k], sets[1 - k], verifier=verifier, level=level, draws=draws, generator=generator
        )
        halves.append(half)
    return _summary([h.to_train for h in halves], [h.to_heldout for h in halves], level, draws, generator)


def _summary(
    train: list[Tensor], heldout: list[Tensor], level: float, draws: int, generator: torch.Generator
) -> Leakage:
    """The mean over the parts' mean gaps, with its bootstrap interval; each part is resampled by itself."""
    means, resampled = [], []
    for one, other in zip(train, heldout, strict=True):
        gaps = one - other
        rows = torch.randint(len(gaps), (draws, len(gaps)), generator=generator)
        means.append(gaps.mean())
        resampled.append(gaps[rows].mean(1))
    tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=means[0].dtype)
    low, high = torch.stack(resampled).mean(0).quantile(tail).tolist()
    gap = float(torch.stack(means).mean())
    return Leakage(to_train=torch.cat(train), to_heldout=torch.cat(heldout), gap=gap, low=low, high=high)


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
    if min(images.shape[-2:]) < 11:
        raise ValueError(f"SSIM's window is 11 pixels wide; the images are {tuple(images.shape[-2:])}")
    return torch.stack([_ssim_to_all(image, others) for image in images]).double()


def _ssim_to_all(image: Tensor, others: Tensor) -> Tensor:
    from torchmetrics.functional.image import structural_similarity_index_measure

    value = structural_similarity_index_measure(image.expand_as(others), others, data_range=1.0, reduction="none")
    return value[0] if isinstance(value, tuple) else value
