"""What every score stands beside: images that need no inversion, and what a judge says of noise."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from invkit.core.rng import seeded
from invkit.core.spec import ImageSpec, check_images
from invkit.core.target import Target
from invkit.metrics.quality import in_batches, probabilities
from invkit.transforms.resize import resize_images

Features = Callable[[Tensor], Tensor]
"""Images ``(N, C, H, W)`` in [0, 1] to features ``(N, ...)``."""


def baselines(
    images: Tensor,
    labels: Tensor,
    train: Tensor,
    train_labels: Tensor,
    *,
    features: Features | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Answers to an inversion that run no network backwards, one for each image that was sought.

    An inversion that is no better than these has shown the class, or the set, and not the image. ``mean colour`` knows
    the mean of each image alone, ``class mean`` its class, ``nearest in features`` what the inversion itself is given;
    ``nearest in pixels`` is the most that a memory of the training set can do.

    Args:
        images: The images sought, ``(N, C, H, W)`` in [0, 1].
        labels: Their classes, ``(N,)``.
        train: Training images ``(T, C, H, W)`` in [0, 1], with at least one of each class sought.
        train_labels: Their classes, ``(T,)``.
        features: The features that are inverted; without them there is no ``nearest in features``.
        generator: Source of the random training images and of the noise; a fixed one if None.

    Returns:
        By name ``mean colour``, ``class mean``, ``nearest in pixels``, ``nearest in features``, ``random training
        image`` and ``noise``, each ``(N, C, H, W)`` in [0, 1] on the CPU, as
        :class:`~invkit.metrics.judge.PairJudge` takes them.

    Raises:
        ValueError: For images of different shapes, another number of labels than images, or a class without a training
            image.

    >>> train, labels = torch.rand(6, 3, 8, 8), torch.arange(6) % 2
    >>> rows = baselines(train[:2], labels[:2], train, labels, features=lambda images: images.mean((2, 3)))
    >>> list(rows), torch.equal(rows["nearest in features"], train[:2])
    (['mean colour', 'class mean', 'nearest in pixels', 'nearest in features', 'random training image', 'noise'], True)
    """
    images, train = check_images(images).cpu(), check_images(train, "train").cpu()
    if images.shape[1:] != train.shape[1:]:
        shapes = f"{tuple(images.shape[1:])} and {tuple(train.shape[1:])}"
        raise ValueError(f"images and train must have one shape (C, H, W), not {shapes}")
    labels, train_labels = _labels(labels, len(images), "labels"), _labels(train_labels, len(train), "train_labels")
    generator = generator or seeded(0)
    rows = {
        "mean colour": images.mean((2, 3), keepdim=True).expand_as(images).clone(),
        "class mean": _class_means(labels, train, train_labels),
        "nearest in pixels": train[_nearest(images, train)],
    }
    if features is not None:
        rows["nearest in features"] = train[_nearest(in_batches(features, images), in_batches(features, train))]
    rows["random training image"] = train[torch.randint(len(train), (len(images),), generator=generator)]
    rows["noise"] = torch.rand(images.shape, generator=generator).to(images.dtype)  # the same in any precision
    return rows


def noise_rate(
    judge: Target, labels: Tensor | int, generator: torch.Generator | None = None
) -> dict[str, dict[str, float]]:
    """What a judge answers to noise, which is of no class: what its answers to noisy inversions are worth.

    A judge whose ``confidence`` in noise is high, or that sends nearly all of it to one class, tells nothing about
    images that look like noise.

    Args:
        judge: The network that judges.
        labels: The classes that images are asked for, ``(N,)``, or how many images, with the classes in turn.
        generator: Source of the noise; a fixed one if None.

    Returns:
        A row for ``uniform`` noise, ``gaussian`` noise of deviation 0.25 around grey and ``low-pass`` noise, uniform at
        a quarter of the size and enlarged. In each, ``rate``: the share of images that are given the class asked for;
        ``commonest``: the share that the class most often given has; ``confidence``: the mean of the highest
        probability; all in [0, 1].

    Raises:
        ValueError: For labels that the judge does not have, or fewer than one image.

    >>> from invkit.testing import tiny_target
    >>> list(noise_rate(tiny_target(), 20)), list(noise_rate(tiny_target(), 20)["uniform"])
    (['uniform', 'gaussian', 'low-pass'], ['rate', 'commonest', 'confidence'])
    """
    if isinstance(labels, int):
        if labels < 1:
            raise ValueError(f"labels must be classes or a number of images of at least 1, not {labels}")
        labels = torch.arange(labels) % judge.spec.n_classes
    asked = judge.spec.check_labels(labels).cpu()
    rows = {}
    for name, noise in _noises(len(asked), judge.spec, generator or seeded(0)).items():
        confidence, answers = probabilities(judge, noise).max(1)
        rows[name] = {
            "rate": float((answers == asked).double().mean()),
            "commonest": int(answers.bincount().max()) / len(answers),
            "confidence": float(confidence.mean()),
        }
    return rows


def _noises(n: int, spec: ImageSpec, generator: torch.Generator) -> dict[str, Tensor]:
    uniform = torch.rand(n, *spec.shape, generator=generator)
    gaussian = (0.5 + 0.25 * torch.randn(n, *spec.shape, generator=generator)).clamp(0, 1)
    quarter = [max(side // 4, 1) for side in spec.size]
    coarse = torch.rand(n, spec.channels, *quarter, generator=generator)
    return {"uniform": uniform, "gaussian": gaussian, "low-pass": resize_images(coarse, spec.size)}


def _class_means(labels: Tensor, train: Tensor, train_labels: Tensor) -> Tensor:
    missing = sorted(set(labels.tolist()) - set(train_labels.tolist()))
    if missing:
        raise ValueError(f"train_labels must hold each class of labels, but there is no training image of {missing}")
    means = {label: train[train_labels == label].mean(0) for label in set(labels.tolist())}
    return torch.stack([means[label] for label in labels.tolist()])


def _nearest(these: Tensor, others: Tensor, rows: int = 256) -> Tensor:
    """Index ``(N,)`` of the nearest of the others to each, by Euclidean distance."""
    others = others.flatten(1).double()
    return torch.cat([torch.cdist(part.double(), others).argmin(1) for part in these.flatten(1).split(rows)])


def _labels(labels: Tensor, count: int, name: str) -> Tensor:
    labels = torch.as_tensor(labels).cpu()
    if labels.shape != (count,):
        raise ValueError(f"{name} must be one class for each of {count} images, not of shape {tuple(labels.shape)}")
    return labels
