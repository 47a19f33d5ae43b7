"""Logit vectors changed on purpose, and what to compare an image made from them with (Teterwak et al. 2021, §1)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from invkit.core.rng import default_generator


def shift(logits: Tensor, by: float) -> Tensor:
    """``z + by``: every class gains alike, so that softmax answers as before.

    Args:
        logits: ``(N, K)``.
        by: What is added to each.

    Returns:
        Logits ``(N, K)``.

    >>> shift(torch.tensor([[1.0, 3.0]]), 2.0).tolist()
    [[3.0, 5.0]]
    """
    return _checked(logits) + by


def scale(logits: Tensor, factor: float) -> Tensor:
    """``factor * z``: above 1 the classifier would be surer of the same class.

    Args:
        logits: ``(N, K)``.
        factor: Above 0.

    Returns:
        Logits ``(N, K)``.

    Raises:
        ValueError: For a factor that is not positive, which would turn the order of the classes round.

    >>> scale(torch.tensor([[1.0, 3.0]]), 2.0).tolist()
    [[2.0, 6.0]]
    """
    if not factor > 0:
        raise ValueError(f"factor must be positive, not {factor}")
    return factor * _checked(logits)


def perturb(logits: Tensor, length: float, *, generator: torch.Generator | None = None) -> Tensor:
    """``z + length * e`` with a random direction ``e``, ``|e| = 1``, for each vector of logits.

    Args:
        logits: ``(N, K)``.
        length: How far each vector moves, at least 0.
        generator: Of the directions.

    Returns:
        Logits ``(N, K)``.

    Raises:
        ValueError: For a negative length.

    >>> perturb(torch.zeros(2, 3), 5.0).norm(dim=1)
    tensor([5.0000, 5.0000])
    """
    if length < 0:
        raise ValueError(f"length must be at least 0, not {length}")
    noise = torch.randn(_checked(logits).shape, generator=generator or default_generator())
    return logits + length * F.normalize(noise).to(logits)


def mix(first: Tensor, second: Tensor, weight: float) -> Tensor:
    """``(1 - weight) * first + weight * second``.

    Args:
        first: ``(N, K)``.
        second: ``(N, K)``.
        weight: Of the second, 0 to 1 between the two.

    Returns:
        Logits ``(N, K)``.

    Raises:
        ValueError: For logits of two shapes.

    >>> mix(torch.tensor([[0.0, 4.0]]), torch.tensor([[4.0, 0.0]]), 0.25).tolist()
    [[1.0, 3.0]]
    """
    if first.shape != second.shape:
        raise ValueError(f"logits of one shape are needed, not {tuple(first.shape)} and {tuple(second.shape)}")
    return torch.lerp(_checked(first), second, weight)


def moves(logits: Tensor, amount: float, *, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """Four ways to move logits equally far, so that what an inverse makes of them can be compared.

    Args:
        logits: ``(N, K)``, two or more.
        amount: The length of the way in units of the mean distance between two of the logits: for every vector where
            they are ``shifted`` or ``perturbed``, on average where they are ``scaled`` up, and nearly so on average
            where they are ``interpolated`` with the next vector of the batch, of which an amount of 1 takes all.
        generator: Of the perturbation.

    Returns:
        Logits ``(N, K)`` by the name of the way.

    Raises:
        ValueError: For fewer than two logits or a negative amount.

    >>> list(moves(torch.eye(3), 0.5))
    ['shifted', 'scaled', 'perturbed', 'interpolated']
    """
    if len(_checked(logits)) < 2 or amount < 0:
        raise ValueError(f"two logits or more and an amount >= 0 are needed, not {len(logits)} and {amount}")
    length = amount * float(torch.pdist(logits).mean())
    return {
        "shifted": shift(logits, length / logits.shape[1] ** 0.5),
        "scaled": scale(logits, 1 + length / float(logits.norm(dim=1).mean())),
        "perturbed": perturb(logits, length, generator=generator),
        "interpolated": mix(logits, logits.roll(-1, 0), amount),
    }


def nearest(logits: Tensor, known: Tensor) -> Tensor:
    """Which of the known logits is nearest to each of the logits.

    ``images[nearest(logits, target(images))]`` is what can be said of an image without any generator.

    Args:
        logits: ``(N, K)``.
        known: ``(M, K)``.

    Returns:
        Indices into ``known``, ``(N,)``.

    >>> nearest(torch.tensor([[0.9, 0.2]]), torch.eye(2))
    tensor([0])
    """
    return torch.cdist(_checked(logits), known).argmin(1)


def relative_change(before: Tensor, after: Tensor, usual: Tensor | None = None) -> float:
    """How far things moved, ``mean_i |b_i - a_i|``, in units of the mean distance between two of ``usual``.

    The quotient of the images' change and the logits' is how strongly an inverse answers: 1 where two images differ as
    much as their logits do.

    Args:
        before: Images or logits ``(N, ...)``.
        after: The same, row for row.
        usual: Two or more of them, ``(M, ...)``; ``before`` where absent.

    Returns:
        The quotient of the two means.

    Raises:
        ValueError: For two shapes, and for fewer than two things to measure by.

    >>> relative_change(torch.tensor([[0.0], [4.0]]), torch.tensor([[1.0], [5.0]]))
    0.25
    """
    if before.shape != after.shape or len(before) == 0:
        raise ValueError(f"things of one shape are needed, not {tuple(before.shape)} and {tuple(after.shape)}")
    usual = before if usual is None else usual
    if len(usual) < 2:
        raise ValueError("the unit is the distance between two things, so two or more are needed")
    return float((after - before).flatten(1).norm(dim=1).mean() / torch.pdist(usual.flatten(1)).mean())


def _checked(logits: Tensor) -> Tensor:
    if logits.ndim != 2 or len(logits) == 0:
        raise ValueError(f"logits (N, K) are needed, not {tuple(logits.shape)}")
    return logits
