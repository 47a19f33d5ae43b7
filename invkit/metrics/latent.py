"""What recovered latent codes are worth: their error, the directions in which it lies, the way from code to code."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from invkit.core.spec import check_images
from invkit.core.target import GeneratorTarget
from invkit.core.trial import in_trial


@torch.no_grad()
def reproject(
    target: GeneratorTarget, encode: Callable[[Tensor], Tensor], images: Tensor, batch_size: int = 256
) -> tuple[Tensor, Tensor]:
    """The codes of images, ``z' = G^-1(x)``, and the images ``G(z')`` generated from them (Dong et al. 2021, §4.2).

    Args:
        target: The generator G.
        encode: From images to codes, an :class:`invkit.networks.inverse.ChainInverse` of the whole generator or any
            other function.
        images: ``(N, C, H, W)`` in [0, 1].
        batch_size: Images of one batch.

    Returns:
        Codes ``(N, D)`` and images ``(N, C, H, W)``, on the CPU.

    >>> from invkit.core.spec import LatentSpec
    >>> network = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Unflatten(1, (1, 2, 2)), torch.nn.Sigmoid())
    >>> target = GeneratorTarget(network, LatentSpec(2))
    >>> codes, images = reproject(target, lambda x: x.flatten(1)[:, :2], torch.rand(5, 1, 2, 2))
    >>> codes.shape, images.shape
    (torch.Size([5, 2]), torch.Size([5, 1, 2, 2]))
    """
    images = check_images(images, dtype=target.dtype)
    codes, reprojected = [], []
    for part in images.split(batch_size):
        codes.append(encode(part.to(target.device)))
        reprojected.append(target(codes[-1]).cpu())
    return torch.cat(codes).cpu(), torch.cat(reprojected)


def code_error(codes: Tensor, recovered: Tensor) -> float:
    """``sum |z - z'|^2 / sum |z|^2``: 0 where codes are recovered, 1 for a guess of zero.

    Args:
        codes: ``(N, D)``.
        recovered: ``(N, D)``.

    Returns:
        The error of all codes together, at least 0.

    Raises:
        ValueError: For other shapes.

    >>> code_error(torch.ones(2, 3), torch.zeros(2, 3))
    1.0
    """
    if codes.shape != recovered.shape or codes.ndim != 2 or len(codes) == 0:
        raise ValueError(f"codes (N, D) of one shape are needed, not {tuple(codes.shape)} and {tuple(recovered.shape)}")
    return float((codes - recovered).square().sum() / codes.square().sum())


def visible_directions(target: GeneratorTarget, codes: Tensor) -> tuple[Tensor, Tensor]:
    """How far the image moves with its code: the singular values of ``dG/dz`` and their directions.

    A step of length e along direction k changes the image by ``e * value[k]`` in the Euclidean norm, where e is small.
    Directions of value zero, where a code has more entries than the image has pixels, are not returned.

    Args:
        target: The generator G.
        codes: ``(N, D)``.

    Returns:
        Values ``(N, K)``, largest first, and directions ``(N, K, D)``, one in each row, on the CPU; K is the smaller of
        a code's entries and an image's pixels.

    >>> from invkit.core.spec import LatentSpec
    >>> network = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Unflatten(1, (1, 2, 2)), torch.nn.Sigmoid())
    >>> target = GeneratorTarget(network, LatentSpec(2))
    >>> values, directions = visible_directions(target, torch.zeros(3, 2))
    >>> values.shape, directions.shape
    (torch.Size([3, 2]), torch.Size([3, 2, 2]))
    """
    codes = target.check(codes)

    def one(code: Tensor) -> Tensor:
        image: Tensor = target(code[None])
        return image.flatten()

    with warnings.catch_warnings():  # torch warns of its own code on the first use of forward mode
        warnings.simplefilter("ignore", FutureWarning)
        jacobians = torch.func.vmap(torch.func.jacfwd(one))(codes.to(target.device))
    _, values, directions = torch.linalg.svd(jacobians, full_matrices=False)
    return values.cpu(), directions.cpu()


def error_along(codes: Tensor, recovered: Tensor, directions: Tensor) -> Tensor:
    """:func:`code_error` split along directions: ``sum_n (v_k . (z - z'))^2 / sum |z|^2``.

    Args:
        codes: ``(N, D)``.
        recovered: ``(N, D)``.
        directions: Orthonormal for each code, ``(N, K, D)``.

    Returns:
        Parts ``(K,)``, which add up to the error for a whole set of directions.

    >>> error_along(torch.ones(1, 2), torch.tensor([[1.0, 0.0]]), torch.eye(2)[None])
    tensor([0.0000, 0.5000])
    """
    gap = torch.einsum("nkd,nd->nk", directions, codes - recovered)
    return gap.square().sum(0) / codes.square().sum()


def refine_codes(target: GeneratorTarget, codes: Tensor, images: Tensor, steps: int = 200, lr: float = 0.02) -> Tensor:
    """Codes that Adam has brought nearer to generating the images, by ``|G(z) - x|^2``.

    A code that a network predicts is a good start of such a search (Zhu et al. 2016).

    Args:
        target: The generator G.
        codes: Where the search begins, ``(N, D)``.
        images: One for each code, ``(N, C, H, W)`` in [0, 1].
        steps: Of Adam.
        lr: Its step size.

    Returns:
        Codes ``(N, D)`` on the CPU.

    Raises:
        ValueError: For another number of images than codes.

    >>> from invkit.core.spec import LatentSpec
    >>> network = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Unflatten(1, (1, 2, 2)), torch.nn.Sigmoid())
    >>> target = GeneratorTarget(network, LatentSpec(2))
    >>> codes, images = torch.zeros(1, 2), target(torch.ones(1, 2))
    >>> bool((target(refine_codes(target, codes, images)) - images).norm() < (target(codes) - images).norm())
    True
    """
    codes, images = target.check(codes), check_images(images, dtype=target.dtype)
    if len(codes) != len(images):
        raise ValueError(f"there are {len(codes)} codes for {len(images)} images")
    leaf, aim = codes.detach().to(target.device, copy=True).requires_grad_(), images.to(target.device)
    optimizer = torch.optim.Adam([leaf], lr)
    for _ in range(in_trial(steps)):
        loss = (target(leaf) - aim).square().sum()
        (leaf.grad,) = torch.autograd.grad(loss, leaf)
        optimizer.step()
    return leaf.detach().cpu()


def interpolate_codes(first: Tensor, last: Tensor, steps: int) -> Tensor:
    """Codes on the straight line between two, ends included.

    Args:
        first: ``(N, D)``.
        last: ``(N, D)``.
        steps: Codes on each line, 2 or more.

    Returns:
        ``(steps, N, D)``.

    Raises:
        ValueError: For fewer steps and other shapes.

    >>> interpolate_codes(torch.zeros(1, 1), torch.ones(1, 1), 3).flatten()
    tensor([0.0000, 0.5000, 1.0000])
    """
    if steps < 2 or first.shape != last.shape:
        raise ValueError(
            f"a way between codes needs two steps and equal shapes, not {steps}, {tuple(first.shape)} "
            f"and {tuple(last.shape)}"
        )
    at = torch.linspace(0, 1, steps, device=first.device).view(-1, *(1 for _ in first.shape))
    return torch.lerp(first, last, at)


def path_lengths(features: Tensor) -> tuple[Tensor, Tensor]:
    """How long ways through features are, and how even: Karras et al. (2019, §4.1) with finite steps.

    Args:
        features: ``(steps, N, D)``.

    Returns:
        Lengths ``(N,)``, the sums of the distances between neighbours, and the largest single step as a share of the
        length, ``(N,)``: ``1 / (steps - 1)`` for an even pace, 1 for a jump.

    >>> path_lengths(torch.tensor([0.0, 1.0, 4.0]).view(3, 1, 1))
    (tensor([4.]), tensor([0.7500]))
    """
    steps = features.diff(dim=0).norm(dim=2)
    length = steps.sum(0)
    return length, steps.amax(0) / length.clamp_min(1e-12)
