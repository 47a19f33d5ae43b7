"""Training images solved for from the weights of a network with one hidden layer (Haim et al. 2022).

The weights of a homogeneous network that gradient descent has trained far beyond its first perfect answer tend, in
their direction, to a stationary point of the maximum-margin problem. They are then nearly a sum of gradients at
training images, ``theta = sum_i lambda_i y_i grad f(x_i)`` with ``lambda_i >= 0``. Here ``f(x) = v . ReLU(W x + b)``
tells two classes apart by its sign.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from invkit.core.rng import default_generator
from invkit.core.trial import in_trial

SHARPNESS = 300.0  # of the sigmoid in place of a step, whose slope would tell a candidate nothing
LEAST_SHARE = 0.01  # a candidate whose share is smaller could stop moving
OUTSIDE = 0.01  # weight of pixels outside [0, 1]


@dataclass(frozen=True, slots=True)
class HiddenLayer:
    """A network ``f(x) = v . ReLU(W x + b)`` of one hidden layer, homogeneous in its weights together.

    Attributes:
        weights: ``W``, ``(H, D)``.
        biases: ``b``, ``(H,)``.
        heads: ``v``, ``(H,)``.

    >>> HiddenLayer(torch.eye(2), torch.zeros(2), torch.tensor([1.0, -1.0]))(torch.tensor([[3.0, 1.0]]))
    tensor([2.])
    """

    weights: Tensor
    biases: Tensor
    heads: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Of each row of ``x``, ``(N, D)``, a number; its sign is the class."""
        return F.relu(x @ self.weights.T + self.biases) @ self.heads

    @property
    def energy(self) -> float:
        """Sum of the squares of all weights."""
        return float(sum(part.square().sum() for part in (self.weights, self.biases, self.heads)))


def train_to_the_end(
    x: Tensor, y: Tensor, *, width: int = 200, steps: int = 8000, start: float = 0.01,
    generator: torch.Generator | None = None,
) -> HiddenLayer:  # fmt: skip
    """Train by plain gradient descent, in steps that grow as the loss falls, until hardly any loss is left.

    Args:
        x: ``(N, D)``, of the order of 1, from which something public was subtracted, such as a mean image.
        y: ``(N,)``, 1 or -1.
        width: Hidden units.
        steps: Steps over all of ``x``.
        start: Standard deviation of the first layer to begin with; what the start puts at right angles to the images
            stays for good.
        generator: Of the first weights.

    Returns:
        The network.

    Raises:
        ValueError: For other shapes and other classes, and where the training breaks down.

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> network = train_to_the_end(x, torch.tensor([1.0, -1.0]), width=8, steps=300)
    >>> network(x).sign()
    tensor([ 1., -1.])
    """
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ValueError(f"x should be (N, D) and y (N,), not {tuple(x.shape)} and {tuple(y.shape)}")
    if not bool((y.abs() == 1).all()):
        raise ValueError(f"y should be 1 or -1, but holds {sorted(set(y.tolist()))}")
    generator = generator or default_generator()
    first = start * torch.randn(width, x.shape[1], generator=generator)
    last = torch.randn(width, generator=generator) / width**0.5
    parts = [part.requires_grad_() for part in (first, torch.zeros(width), last)]
    network = HiddenLayer(*parts)
    for _ in range(in_trial(steps)):
        loss = F.softplus(-y * network(x)).mean()
        rate = min(0.05 / max(loss.item(), 1e-12), 50.0)
        with torch.no_grad():
            for part, gradient in zip(parts, torch.autograd.grad(loss, parts), strict=True):
                part -= rate * gradient
    trained = HiddenLayer(*(part.detach() for part in parts))
    answers = trained(x)
    if not bool(answers.isfinite().all()) or not bool(answers.any()):
        raise ValueError(
            f"the training broke down; x should be finite and of the order of 1, but reaches {float(x.abs().max()):.3g}"
        )
    return trained


def unexplained(network: HiddenLayer, x: Tensor, y: Tensor, shares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``sum_i lambda_i y_i grad f(x_i) - theta``, with the derivative of ReLU smoothed.

    Args:
        network: With the weights ``theta``.
        x: Candidates ``(N, D)``.
        y: Their classes, 1 or -1.
        shares: ``lambda``, ``(N,)``.

    Returns:
        What is left of ``W``, of ``b`` and of ``v``.

    >>> network = HiddenLayer(torch.ones(1, 1), torch.zeros(1), torch.ones(1))
    >>> unexplained(network, torch.ones(1, 1), torch.ones(1), torch.ones(1))
    (tensor([[0.]]), tensor([1.]), tensor([0.]))
    """
    before = x @ network.weights.T + network.biases
    signed = (shares * y)[:, None]
    inner = signed * network.heads * torch.sigmoid(SHARPNESS * before)
    return (
        inner.T @ x - network.weights,
        inner.sum(0) - network.biases,
        (signed * F.relu(before)).sum(0) - network.heads,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """Images that explain a network's weights.

    Attributes:
        images: ``(N, D)``, of the classes 1 and -1 in turn, cut off to [0, 1].
        shares: ``lambda`` of each.
        unexplained: What they leave of the weights' energy before they are cut off, as a share of it.

    >>> Solution(images=torch.zeros(2, 4), shares=torch.ones(2), unexplained=0.1).unexplained
    0.1
    """

    images: Tensor
    shares: Tensor
    unexplained: float


def solve_for_images(
    network: HiddenLayer, mean: Tensor, *, candidates: int = 6, steps: int = 4000, lr: float = 0.01,
    generator: torch.Generator | None = None,
) -> Solution:  # fmt: skip
    """Images of both classes in turn whose gradients add up to the weights, by Adam.

    Minimises the squares of :func:`unexplained`, with penalties on shares near zero and on pixels outside [0, 1].

    Args:
        network: Trained to the end; see :func:`train_to_the_end`.
        mean: ``(D,)``, what was subtracted from the training images.
        candidates: How many images to look for, at least 1 and better more than there were.
        steps: Steps of Adam, at a rate that falls by a cosine.
        lr: Where it begins.
        generator: Of the first candidates.

    Returns:
        The candidates.

    Raises:
        ValueError: For a mean of another length, and for no candidates.

    >>> x, mean = torch.tensor([[0.5, 0.0], [0.0, 0.5]]), torch.full((2,), 0.5)
    >>> network = train_to_the_end(x, torch.tensor([1.0, -1.0]), width=8, steps=300)
    >>> solve_for_images(network, mean, steps=10).images.shape
    torch.Size([6, 2])
    """
    if mean.shape != network.weights.shape[1:]:
        raise ValueError(f"mean should be ({network.weights.shape[1]},), not {tuple(mean.shape)}")
    if candidates < 1:
        raise ValueError(f"candidates should be at least 1, not {candidates}")
    generator = generator or default_generator()
    x = (0.01 * torch.randn(candidates, len(mean), generator=generator)).requires_grad_()
    shares = torch.rand(candidates, generator=generator).requires_grad_()
    y = torch.tensor([1.0, -1.0]).repeat(-(-candidates // 2))[:candidates]
    adam = torch.optim.Adam([x, shares], lr)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(in_trial(steps)):
        left = torch.stack([part.square().sum() for part in unexplained(network, x, y, shares)]).sum()
        outside = (F.relu(-(x + mean)) + F.relu(x + mean - 1)).square().sum()
        adam.zero_grad()
        (left + OUTSIDE * outside + F.relu(LEAST_SHARE - shares).sum()).backward()
        adam.step()
        falling.step()
    x, shares = x.detach(), shares.detach()
    left = torch.stack([part.square().sum() for part in unexplained(network, x, y, shares)]).sum()
    return Solution(images=(x + mean).clamp(0, 1), shares=shares, unexplained=float(left) / network.energy)
