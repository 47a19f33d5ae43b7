"""Images changed a little so that a network errs, and random changes of the same size to compare with.

Gradient steps and projections are the papers' equations, in two norms and from a generator of one's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from invkit.core.rng import default_generator
from invkit.core.spec import ImageSpec, check_images
from invkit.core.trial import in_trial
from invkit.data.batching import to_float
from invkit.metrics.quality import class_indices, evaluating, in_batches

Network = Callable[[Tensor], Tensor]
Norm = Literal["Linf", "L2"]


def pgd(
    network: Network,
    images: Tensor,
    labels: Tensor | Sequence[int],
    *,
    eps: float,
    step_size: float | None = None,
    steps: int = 10,
    norm: Norm = "Linf",
    targeted: bool = False,
    random_start: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient ascent on the cross-entropy within a ball around each image (Madry et al. 2018, section 2.1).

    ``x_(t+1) = Π(x_t + step_size · direction(∇_x CE(network(x_t), y)))``. The direction is the sign of the gradient
    in norm Linf and the gradient over its own length in L2; Π projects onto the ball of ``eps`` around the image
    and onto [0, 1]. The first point is the image, or a uniform draw from the ball where ``random_start``.

    A network that is an ``nn.Module`` is attacked in eval mode and gets its modes back; a function is called as it
    is. Gradients of weights are neither computed nor changed. The same seed gives the same bits on the CPU.

    Args:
        network: A :class:`~invkit.core.target.Target`, or any function from images in [0, 1] to logits ``(N, K)``.
        images: Float ``(N, C, H, W)`` in [0, 1], on the network's device.
        labels: ``(N,)``: the classes to be left; those to be reached where ``targeted``, which descends instead.
        eps: Radius of the ball, in units of [0, 1]; in L2 of a whole image. 0 gives the images back.
        step_size: None takes 2.5 · eps / steps, which reaches the border from anywhere (Madry et al., section 5).
        steps: Gradient steps, at least 1.
        norm: ``"Linf"`` or ``"L2"``.
        targeted: Lower the loss of ``labels`` instead of raising it.
        random_start: Begin at a random point of the ball.
        generator: For the start; a fixed one if None.

    Returns:
        Images of the same shape, in [0, 1] and, but for rounding, in the ball.

    Raises:
        ValueError: For images or labels out of range, ``eps < 0``, ``steps < 1`` or an unknown norm.

    >>> from invkit.testing import quadrants_target
    >>> target, grey = quadrants_target(), torch.full((1, 1, 12, 12), 0.5)
    >>> attacked = pgd(target, grey, [3], eps=0.1, targeted=True)
    >>> target.spec.classes[target(attacked).argmax()], round(float((attacked - grey).abs().max()), 3)
    ('se', 0.1)
    """
    images, labels = _checked(network, images, labels)
    _check_ball(eps, norm)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    if step_size is not None and not step_size > 0:
        raise ValueError(f"step_size must be positive, or None, not {step_size}")
    size = (2.5 * eps / steps if step_size is None else step_size) * (-1 if targeted else 1)
    start = _in_ball(images, eps, norm, generator or default_generator()) if random_start else 0.0
    attacked = (images + start).clamp(0, 1)
    with evaluating(network):
        for _ in range(in_trial(steps)):
            gradient = _gradient(network, attacked, labels)
            step = size * (gradient.sign() if norm == "Linf" else _unit(gradient))
            attacked = images + _project(attacked + step - images, eps, norm)
            # The clamp comes last: towards a box that holds the centre, it only shortens the change.
            attacked = attacked.clamp(0, 1)
    return attacked


def fgsm(
    network: Network,
    images: Tensor,
    labels: Tensor | Sequence[int],
    *,
    eps: float,
    norm: Norm = "Linf",
    targeted: bool = False,
) -> Tensor:
    """The fast gradient sign method: one step to the border of the ball (Goodfellow et al. 2015, section 4).

    ``x' = clamp(x + eps · sign(∇_x CE(network(x), y)))``, and along the gradient itself in norm L2.

    Args:
        network: A :class:`~invkit.core.target.Target`, or any function from images in [0, 1] to logits ``(N, K)``.
        images: Float ``(N, C, H, W)`` in [0, 1], on the network's device.
        labels: ``(N,)``: the classes to be left; those to be reached where ``targeted``.
        eps: Length of the step, in units of [0, 1]; in L2 of a whole image. 0 gives the images back.
        norm: ``"Linf"`` or ``"L2"``.
        targeted: Lower the loss of ``labels`` instead of raising it.

    Returns:
        Images of the same shape, in [0, 1] and, but for rounding, in the ball.

    Raises:
        ValueError: For images or labels out of range, ``eps < 0`` or an unknown norm.

    >>> from invkit.testing import quadrants_target
    >>> attacked = fgsm(quadrants_target(), torch.full((1, 1, 12, 12), 0.5), [0], eps=0.1)
    >>> round(float(attacked.min()), 3), round(float(attacked.max()), 3)
    (0.4, 0.6)
    """
    size = eps if eps > 0 else None  # pgd says what is wrong with a radius below 0
    return pgd(
        network, images, labels, eps=eps, step_size=size, steps=1, norm=norm, targeted=targeted,
        random_start=False,
    )  # fmt: skip


def random_perturbation(
    images: Tensor, eps: float, norm: Norm = "Linf", generator: torch.Generator | None = None
) -> Tensor:
    """Images with a random change of length ``eps``: the control for an attack of the same size.

    ``clamp(x + eps · s)`` with signs s of ±1 in norm Linf, ``clamp(x + eps · g / |g|)`` with Gaussian g in L2.

    Args:
        images: Float ``(N, C, H, W)`` in [0, 1].
        eps: Length of the change in units of [0, 1], as for :func:`pgd`.
        norm: ``"Linf"`` or ``"L2"``.
        generator: A fixed one if None.

    Returns:
        Images of the same shape, in [0, 1]; the change is shorter where it is cut off at 0 or 1.

    Raises:
        ValueError: For images out of range, ``eps < 0`` or an unknown norm.

    >>> change = random_perturbation(torch.full((1, 1, 4, 4), 0.5), 0.1) - 0.5
    >>> round(float(change.abs().min()), 3), round(float(change.abs().max()), 3)
    (0.1, 0.1)
    """
    images = _check_range(check_images(images))
    _check_ball(eps, norm)
    noise = torch.randn(images.shape, generator=generator or default_generator()).to(images)
    direction = torch.where(noise < 0, -1.0, 1.0).to(images) if norm == "Linf" else _unit(noise)
    return (images + eps * direction).clamp(0, 1)


def robust_accuracy(
    target: Network,
    images: Tensor,
    labels: Tensor | Sequence[int],
    *,
    eps: float,
    step_size: float | None = None,
    steps: int = 20,
    norm: Norm = "Linf",
    random_start: bool = True,
    generator: torch.Generator | None = None,
    batch_size: int = 256,
) -> float:
    """Share in [0, 1] of images classified rightly both as they are and after :func:`pgd`: an upper bound on the share
    for which no image in the ball is classified wrongly.

    Args:
        target: The network, see :func:`pgd`.
        images: ``(N, C, H, W)``, uint8 or float in [0, 1]; they are moved to the network's device batch by batch.
        labels: Class indices ``(N,)``.
        eps: See :func:`pgd`, as are ``step_size``, ``steps``, ``norm``, ``random_start`` and ``generator``.
        batch_size: Images of one batch.

    Returns:
        The share, in [0, 1]; never more than the accuracy on the images as they are.

    Raises:
        ValueError: As :func:`pgd`, and for no images or another number of labels.

    >>> from invkit.testing import quadrants_target
    >>> image = torch.zeros(1, 1, 12, 12)
    >>> image[..., :6, :6] = 0.4
    >>> [robust_accuracy(quadrants_target(), image, [0], eps=eps) for eps in (0.1, 0.3)]
    [1.0, 0.0]
    """
    images, indices = check_images(images, keep_bytes=True), class_indices(labels)
    if len(indices) != len(images):
        raise ValueError(f"there are {len(images)} images but {len(indices)} labels")
    generator, device = generator or default_generator(), getattr(target, "device", None)
    robust = []
    for part, y in zip(images.split(batch_size), indices.split(batch_size), strict=True):
        clean = to_float(part.to(device) if device else part)
        attacked = pgd(
            target, clean, y, eps=eps, step_size=step_size, steps=steps, norm=norm,
            random_start=random_start, generator=generator,
        )  # fmt: skip
        predicted = in_batches(target, torch.cat([clean, attacked]), 2 * batch_size).argmax(1)
        robust.append((predicted.view(2, -1) == y).all(0))
    return float(torch.cat(robust).double().mean())


def _gradient(network: Network, images: Tensor, labels: Tensor) -> Tensor:
    inputs = images.detach().requires_grad_()
    with torch.enable_grad():
        # The sum, so that an image's gradient does not depend on its neighbours.
        loss = F.cross_entropy(network(inputs), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, inputs)
    return gradient


def _unit(change: Tensor) -> Tensor:
    # The largest entry is scaled to 1 first: squares of the gradients of a sure network vanish in float32.
    flat = F.normalize(change.flatten(1), p=torch.inf, eps=torch.finfo(change.dtype).tiny)
    return F.normalize(flat).view_as(change)


def _project(change: Tensor, eps: float, norm: Norm) -> Tensor:
    if norm == "Linf":
        return change.clamp(-eps, eps)
    return torch.renorm(change, 2, 0, eps) if eps > 0 else torch.zeros_like(change)


def _in_ball(images: Tensor, eps: float, norm: Norm, generator: torch.Generator) -> Tensor:
    """A uniform draw from the ball, made on the CPU, so that a seed means the same everywhere."""
    if norm == "Linf":
        return (2 * torch.rand(images.shape, generator=generator) - 1).to(images) * eps
    direction = _unit(torch.randn(images.shape, generator=generator))
    share = torch.rand(len(images), 1, 1, 1, generator=generator) ** (1 / images[0].numel())
    return (share * direction).to(images) * eps


def _check_ball(eps: float, norm: str) -> None:
    if not 0 <= eps < float("inf"):
        raise ValueError(f"eps must be at least 0 and finite, not {eps}")
    if norm not in ("Linf", "L2"):
        raise ValueError(f"norm must be Linf or L2, not {norm!r}")


def _check_range(images: Tensor) -> Tensor:
    low, high = float(images.amin()), float(images.amax())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"images must lie in [0, 1], not in [{low:.3g}, {high:.3g}]; normalise inside the network")
    return images


def _checked(network: Network, images: Tensor, labels: Tensor | Sequence[int]) -> tuple[Tensor, Tensor]:
    """Images without a graph and labels on their device, once both are seen to fit the network."""
    spec = getattr(network, "spec", None)
    if isinstance(spec, ImageSpec):
        images = spec.check(images, dtype=getattr(network, "dtype", None))
    else:
        images = check_images(images)
    _check_range(images)
    with torch.no_grad(), evaluating(network):
        classes = spec.n_classes if isinstance(spec, ImageSpec) else network(images[:1]).shape[-1]
    indices = class_indices(labels)
    if indices.shape != (len(images),):
        raise ValueError(f"labels must be {len(images)} class indices, one for each image, not {tuple(indices.shape)}")
    low, high = int(indices.amin()), int(indices.amax())
    if low < 0 or high >= classes:
        raise ValueError(f"labels go from {low} to {high}; the network knows 0..{classes - 1}")
    return images, indices.to(images.device)
