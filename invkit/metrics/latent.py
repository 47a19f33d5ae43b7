"""What recovered latent codes are worth: their error, the directions in which it lies, the way from code to code."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from invkit.core.spec import check_images
from invkit.core.target import GeneratorTarget


@torch.no_grad()
def reproject(
    target: GeneratorTarget, encode: Callable[[Tensor], Tensor], images: Tensor, batch_size: int = 256
) -> tuple[Tensor, Tensor]:
    """Codes ``z' = G^-1(x)`` ``(N, D)`` and the images ``G(z')`` generated again, both on the CPU.

    ``encode`` is an :class:`invkit.networks.inverse.ChainInverse` of the whole generator, or any other way from images
    ``(N, C, H, W)`` in [0, 1] to codes (Dong et al. 2021, §4.2).
    """
    images = check_images(images, dtype=target.dtype)
    codes, again = [], []
    for part in images.split(batch_size):
        codes.append(encode(part.to(target.device)))
        again.append(target(codes[-1]).cpu())
    return torch.cat(codes).cpu(), torch.cat(again)


def code_error(codes: Tensor, found: Tensor) -> float:
    """``sum |z - z'|^2 / sum |z|^2`` for codes ``(N, D)``: 0 where they are recovered, 1 for a guess of zero.

    >>> code_error(torch.ones(2, 3), torch.zeros(2, 3))
    1.0
    """
    if codes.shape != found.shape or codes.ndim != 2 or len(codes) == 0:
        raise ValueError(f"codes (N, D) of one shape are needed, not {tuple(codes.shape)} and {tuple(found.shape)}")
    return float((codes - found).square().sum() / codes.square().sum())


def visible_directions(target: GeneratorTarget, codes: Tensor) -> tuple[Tensor, Tensor]:
    """How far the image moves with each code ``(N, D)``: singular values ``(N, D)`` of ``dG/dz``, largest first, and
    their directions ``(N, D, D)``, one in each row.

    A step of length e along direction k changes the image by ``e * value[k]`` in the Euclidean norm, where e is small.
    Directions of value zero, where a code has more entries than the image has pixels, are not returned.
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


def error_along(codes: Tensor, found: Tensor, directions: Tensor) -> Tensor:
    """:func:`code_error` split along ``directions`` ``(N, K, D)``: ``sum_n (v_k . (z - z'))^2 / sum |z|^2``, ``(K,)``.

    The parts of a whole set of orthonormal directions add up to the error.
    """
    gap = torch.einsum("nkd,nd->nk", directions, codes - found)
    return gap.square().sum(0) / codes.square().sum()


def refine_codes(target: GeneratorTarget, codes: Tensor, images: Tensor, steps: int = 200, lr: float = 0.02) -> Tensor:
    """Codes ``(N, D)`` after ``steps`` of Adam, from ``codes``, on ``|G(z) - x|^2`` for each image ``(N, C, H, W)``.

    A code that a network predicts is a good start of such a search (Zhu et al. 2016).
    """
    codes, images = target.check(codes), check_images(images, dtype=target.dtype)
    if len(codes) != len(images):
        raise ValueError(f"there are {len(codes)} codes for {len(images)} images")
    leaf, aim = codes.detach().to(target.device, copy=True).requires_grad_(), images.to(target.device)
    optimizer = torch.optim.Adam([leaf], lr)
    for _ in range(steps):
        loss = (target(leaf) - aim).square().sum()
        (leaf.grad,) = torch.autograd.grad(loss, leaf)
        optimizer.step()
    return leaf.detach().cpu()


def interpolate_codes(first: Tensor, last: Tensor, steps: int) -> Tensor:
    """Codes on the straight line from ``first`` to ``last`` ``(N, D)``, ends included: ``(steps, N, D)``."""
    if steps < 2 or first.shape != last.shape:
        raise ValueError(
            f"a way between codes needs two steps and equal shapes, not {steps}, {tuple(first.shape)} "
            f"and {tuple(last.shape)}"
        )
    at = torch.linspace(0, 1, steps, device=first.device).view(-1, *(1 for _ in first.shape))
    return torch.lerp(first, last, at)


def path_lengths(features: Tensor) -> tuple[Tensor, Tensor]:
    """Of ways through ``features`` ``(steps, N, D)``: their lengths ``(N,)``, and the largest single step as a share of
    the length, ``(N,)``: ``1 / (steps - 1)`` for an even pace, 1 for a jump.

    The length is the sum of the distances between neighbours (Karras et al. 2019, §4.1, with finite steps).
    """
    steps = features.diff(dim=0).norm(dim=2)
    length = steps.sum(0)
    return length, steps.amax(0) / length.clamp_min(1e-12)
