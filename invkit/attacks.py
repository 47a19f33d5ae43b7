"""Images changed a little so that a network errs, and random changes of the same size to compare with.

The steps along the sign of the gradient are captum's. Its ``PGD`` around them is not used: in norm L2 it still
steps along the sign and its random start fails on a batch, it starts from the global random numbers, and it warns
at each step. The loop here is the paper's equation in both norms, from a generator of one's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invkit.core.rng import default_generator
from invkit.core.spec import ImageSpec
from invkit.data.batching import to_float
from invkit.metrics.quality import in_batches

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
        network: A :class:`~invkit.core.target.Target`, or any function of images in [0, 1] that gives logits ``(N,
        K)``. images: Float ``(N, C, H, W)`` in [0, 1], on the network's device.
        labels: ``(N,)``: the classes to be left; those to be reached where ``targeted``, which descends instead.
        radius: Of the ball, in units of [0, 1]; in L2 of a whole image. 0 gives the images back.
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
    """
    images, labels = _checked(network, images, labels)
    _check_ball(eps, norm)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    if step_size is not None and not step_size > 0:
        raise ValueError(f"step_size must be positive, or None, not {step_size}")
    size = (2.5 * eps / steps if step_size is None else step_size) * (-1 if targeted else 1)
    drawn = _in_ball(images, eps, norm, generator or default_generator()) if random_start else 0.0
    attacked = (images + drawn).clamp(0, 1)
    step = {"Linf": _sign_step, "L2": _gradient_step}[norm]
    with evaluating(network):
        for _ in range(steps):
            attacked = images + _project(step(network, attacked, labels, size) - images, eps, norm)
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

    ``x' = clamp(x + eps · sign(∇_x CE(network(x), y)))``, and along the gradient itself in norm L2. Arguments,
    shapes, ranges and errors as for :func:`pgd`.
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
        radius: In units of [0, 1], as for :func:`pgd`.
        norm: ``"Linf"`` or ``"L2"``.
        generator: A fixed one if None.

    Raises:
        ValueError: For images out of range, ``eps < 0`` or an unknown norm.
    """
    _check_images(images)
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

    Images ``(N, C, H, W)`` are uint8 or float in [0, 1] and are moved to the network's device batch by batch; the
    other arguments and errors are those of :func:`pgd`.
    """
    wanted = torch.as_tensor(labels).cpu()
    if len(wanted) != len(images):
        raise ValueError(f"there are {len(images)} images but {len(wanted)} labels")
    if len(images) == 0:
        raise ValueError("there are no images to attack")
    generator, place = generator or default_generator(), getattr(target, "device", None)
    right = []
    for some, y in zip(images.split(batch_size), wanted.split(batch_size), strict=True):
        clean = to_float(some.to(place) if place else some)
        attacked = pgd(
            target, clean, y, eps=eps, step_size=step_size, steps=steps, norm=norm,
            random_start=random_start, generator=generator,
        )  # fmt: skip
        with evaluating(target):
            found = in_batches(target, torch.cat([clean, attacked]), 2 * batch_size).argmax(1)
        right.append((found.view(2, -1) == y).all(0))
    return float(torch.cat(right).double().mean())


@contextmanager
def evaluating(network: Network) -> Iterator[None]:
    """``network`` in eval mode if it is an ``nn.Module``; each submodule gets its own mode back in the end."""
    modes = [(m, m.training) for m in network.modules()] if isinstance(network, nn.Module) else []
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


def _sign_step(network: Network, images: Tensor, labels: Tensor, size: float) -> Tensor:
    from captum.robust import FGSM  # here, since it brings matplotlib along and takes half a second

    step = FGSM(network, _loss)
    step.zero_thresh = 0.0  # at captum's 1e-6 the images that a network is surest of would stand still
    inputs = images.detach().requires_grad_()  # captum warns of others
    return step.perturb(inputs, size, labels).detach()


def _gradient_step(network: Network, images: Tensor, labels: Tensor, size: float) -> Tensor:
    inputs = images.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(_loss(network(inputs), labels), inputs)
    return images + size * _unit(gradient)


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    # The sum, so that an image's gradient does not depend on its neighbours; one element, as captum wants it.
    return F.cross_entropy(logits, labels, reduction="sum")[None]


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


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or not images.is_floating_point() or images.numel() == 0:
        raise ValueError(f"images must be a float tensor (N, C, H, W), not {images.dtype} {tuple(images.shape)}")
    low, high = float(images.amin()), float(images.amax())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"images must lie in [0, 1], not in [{low:.3g}, {high:.3g}]; normalise inside the network")


def _checked(network: Network, images: Tensor, labels: Tensor | Sequence[int]) -> tuple[Tensor, Tensor]:
    """Images without a graph and labels on their device, once both are seen to fit the network."""
    _check_images(images)
    spec = getattr(network, "spec", None)
    if isinstance(spec, ImageSpec):
        spec.check(images)
    with torch.no_grad(), evaluating(network):
        classes = spec.n_classes if isinstance(spec, ImageSpec) else network(images[:1]).shape[-1]
    given = torch.as_tensor(labels)
    if given.shape != (len(images),) or given.is_floating_point():
        raise ValueError(f"labels must be {len(images)} class indices, one for each image, not {tuple(given.shape)}")
    low, high = int(given.amin()), int(given.amax())
    if low < 0 or high >= classes:
        raise ValueError(f"labels go from {low} to {high}; the network knows 0..{classes - 1}")
    return images.detach(), given.long().to(images.device)
