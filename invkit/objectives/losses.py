"""Losses on logits, one value per image, and on the features of a batch, which compare each image with the others."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy ``(N,)`` of ``logits / temperature`` ``(N, K)`` with class indices ``(N,)``.

    Args:
        logits: ``(N, K)``.
        labels: Class indices ``(N,)``, int64.
        temperature: Divides the logits, > 0.

    Returns:
        One value for each image in nats, ``(N,)``, at least 0.

    >>> cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor([0.6931])
    """
    return F.cross_entropy(logits / temperature, labels, reduction="none")


def class_logit(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the logit of each image's class, ``(N,)``: raises one class without pushing the others down.

    Args:
        logits: ``(N, K)``.
        labels: Class indices ``(N,)``, int64.

    Returns:
        One value for each image, ``(N,)``, in units of the logits.

    >>> class_logit(torch.tensor([[1.0, 5.0]]), torch.tensor([1])).tolist()
    [-5.0]
    """
    return -logits.gather(1, labels.view(-1, 1)).squeeze(1)


def jensen_shannon(logits: Tensor, other: Tensor, temperature: float = 1.0) -> Tensor:
    """Jensen-Shannon divergence ``(N,)`` between two softmax distributions, in [0, 1]: base 2.

    ``JS(p, q) = KL(p, m) / 2 + KL(q, m) / 2`` with ``m = (p + q) / 2``.

    Args:
        logits: ``(N, K)``.
        other: ``(N, K)``, the logits to compare them with.
        temperature: Divides both, > 0.

    Returns:
        One value for each image in bits, ``(N,)``, in [0, 1]; 0 for equal distributions.

    >>> float(jensen_shannon(torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 50.0]])))
    1.0
    """
    p, q = (F.log_softmax(v / temperature, dim=1) for v in (logits, other))
    m = torch.logaddexp(p, q) - math.log(2)
    bits = (p.exp() * (p - m)).sum(1) + (q.exp() * (q - m)).sum(1)
    return bits / (2 * math.log(2))


def distillation(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """``T^2 KL(teacher || student)`` ``(N,)`` of softened distributions (Hinton et al., 2015).

    Args:
        student: Logits ``(N, K)``.
        teacher: Logits ``(N, K)``.
        temperature: T > 0, which divides both.

    Returns:
        One value for each image in nats, ``(N,)``, at least 0.

    >>> logits = torch.tensor([[1.0, 2.0]])
    >>> distillation(logits, logits).tolist()
    [0.0]
    """
    log_p, log_q = (F.log_softmax(v / temperature, dim=1) for v in (teacher, student))
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(1)


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """``max(0, 1 - D(x)) + max(0, 1 + D(G(z)))`` ``(N,)`` of scores ``(N,)`` (Miyato et al. 2018, eq. 16).

    Args:
        real: Scores ``(N,)`` of real images.
        fake: Scores ``(N,)`` of generated ones.

    Returns:
        One value for each pair, ``(N,)``, at least 0; 0 where both scores are beyond the margin of 1.

    >>> hinge_discriminator(torch.tensor([2.0, 0.0]), torch.tensor([-1.0, 0.5])).tolist()
    [0.0, 2.5]
    """
    return F.relu(1 - real) + F.relu(1 + fake)


def hinge_generator(fake: Tensor) -> Tensor:
    """``-D(G(z))`` ``(N,)`` of the scores of generated images (Miyato et al. 2018, eq. 17).

    Args:
        fake: Scores ``(N,)`` of generated images.

    Returns:
        One value for each image, ``(N,)``.

    >>> hinge_generator(torch.tensor([0.5])).tolist()
    [-0.5]
    """
    return -fake


def kl_divergence(logits: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """``D_KL(P || Q) = sum_i P(i) log(P(i) / Q(i))`` ``(N,)`` in nats, from the distribution that was asked for.

    P is ``target`` ``(N, K)``, rows that sum to one, and Q is ``softmax(logits / temperature)``, what the classifier
    answers (Suhail et al., §3.3): P is no softmax of logits and is not softened. A hot P makes it the cross-entropy.

    Args:
        logits: ``(N, K)``.
        target: ``(N, K)``, rows >= 0 that sum to 1.
        temperature: Divides the logits alone, > 0.

    Returns:
        One value for each image, ``(N,)``, at least 0; 0 where the classifier answers the target.

    >>> float(kl_divergence(torch.zeros(1, 2), torch.tensor([[0.5, 0.5]])))
    0.0
    """
    log_q = F.log_softmax(logits / temperature, dim=1)
    return (torch.xlogy(target, target) - target * log_q).sum(1)


def cosine_matrix(features: Tensor) -> Tensor:
    """Gram matrix ``G_ij = cos(f_i, f_j)`` ``(N, N)`` of features ``(N, D)`` brought to length one: one matrix product.

    Args:
        features: ``(N, D)``, N of 2 or more.

    Returns:
        Cosines ``(N, N)`` in [-1, 1], with a graph to the features.

    Raises:
        ValueError: For fewer than two features, which leave nothing to compare.

    >>> cosine_matrix(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    tensor([[1., 0.],
            [0., 1.]])
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"pairwise terms need features (N, D) of at least 2 images, not {tuple(features.shape)}")
    directions = F.normalize(features)
    return directions @ directions.T


def pairwise_cosine(cosines: Tensor) -> Tensor:
    """``1 / (N (N - 1)) sum_(i != j) cos(theta_ij)``, in [-1, 1] (Suhail et al., §3.3), of a :func:`cosine_matrix`.

    Args:
        cosines: The matrix ``(N, N)``, N of 2 or more.

    Returns:
        A scalar, the mean cosine of two different images.

    >>> round(float(pairwise_cosine(cosine_matrix(torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])))), 4)
    0.3333
    """
    count = len(cosines)
    return (cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1))


def gram_orthogonality(cosines: Tensor) -> Tensor:
    """``1 / N^2 sum_ij (G_ij - delta_ij)^2``, in [0, 1) (Suhail et al., §3.3), of a :func:`cosine_matrix`.

    The features have length one: otherwise the term would mostly ask the classifier for features of that length.

    Args:
        cosines: The matrix ``(N, N)``, N of 2 or more.

    Returns:
        A scalar, 0 where all features are at right angles.

    >>> float(gram_orthogonality(cosine_matrix(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))))
    0.0
    """
    return (cosines - torch.eye(len(cosines)).to(cosines)).square().mean()
