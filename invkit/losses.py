"""Losses on logits: one value per image."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy ``(N,)`` of ``logits / temperature`` ``(N, K)`` with class indices ``(N,)``."""
    return F.cross_entropy(logits / temperature, labels, reduction="none")


def class_logit(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the logit of each image's class, ``(N,)``: raises one class without pushing the others down."""
    return -logits.gather(1, labels.view(-1, 1)).squeeze(1)


def jensen_shannon(logits: Tensor, other: Tensor, temperature: float = 1.0) -> Tensor:
    """Jensen-Shannon divergence ``(N,)`` between two softmax distributions, in [0, 1]: base 2.

    ``JS(p, q) = KL(p, m) / 2 + KL(q, m) / 2`` with ``m = (p + q) / 2``.

    >>> float(jensen_shannon(torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 50.0]])))
    1.0
    """
    p, q = (F.log_softmax(v / temperature, dim=1) for v in (logits, other))
    m = torch.logaddexp(p, q) - math.log(2)
    bits = (p.exp() * (p - m)).sum(1) + (q.exp() * (q - m)).sum(1)
    return bits / (2 * math.log(2))


def distillation(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """``T^2 KL(teacher || student)`` ``(N,)`` of softened distributions (Hinton et al., 2015)."""
    log_p, log_q = (F.log_softmax(v / temperature, dim=1) for v in (teacher, student))
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(1)


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """``max(0, 1 - D(x)) + max(0, 1 + D(G(z)))`` ``(N,)`` of scores ``(N,)`` (Miyato et al. 2018, eq. 16).

    >>> hinge_discriminator(torch.tensor([2.0, 0.0]), torch.tensor([-1.0, 0.5])).tolist()
    [0.0, 2.5]
    """
    return F.relu(1 - real) + F.relu(1 + fake)


def hinge_generator(fake: Tensor) -> Tensor:
    """``-D(G(z))`` ``(N,)`` of the scores of generated images (Miyato et al. 2018, eq. 17)."""
    return -fake
