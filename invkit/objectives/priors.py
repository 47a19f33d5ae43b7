"""Image priors: one value per image, so that their mean does not depend on the batch size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from invkit.core.spec import check_rank
from invkit.objectives.objective import Prior


def total_variation(images: Tensor) -> Tensor:
    """Total variation ``(N,)`` of images ``(N, C, H, W)`` over the four one-pixel shifts.

    ``||x - x_H||_2 + ||x - x_V||_2 + ||x - x_D1||_2 + ||x - x_D2||_2`` per image (Botach & Cohen, §3.1.1, R_TV), the
    shifts being horizontal, vertical and along both diagonals; pixels without a neighbour take no part.

    Args:
        images: ``(N, C, H, W)``.

    Returns:
        One value for each image, ``(N,)``, at least 0; 0 for an image of one colour.

    >>> float(total_variation(torch.full((1, 3, 4, 4), 0.3)))
    0.0
    """
    check_rank(images)
    differences = (
        images[..., :, 1:] - images[..., :, :-1],
        images[..., 1:, :] - images[..., :-1, :],
        images[..., 1:, 1:] - images[..., :-1, :-1],
        images[..., 1:, :-1] - images[..., :-1, 1:],
    )
    return sum((_norm(d) for d in differences), start=images.new_zeros(()))


def roughness(images: Tensor) -> Tensor:
    """Mean absolute difference to the right-hand plus to the lower neighbour ``(N,)``, in units of the pixel range.

    A mean, so that one weight serves images of any size, and absolute, so that edges cost no more than slopes.

    Args:
        images: ``(N, C, H, W)``, at least 2 pixels wide and high.

    Returns:
        One value for each image, ``(N,)``, in [0, 2] for images in [0, 1].

    >>> roughness(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])).tolist()
    [1.0]
    """
    check_rank(images)
    axes = [axis for axis in (2, 3) if images.shape[axis] > 1]  # along one pixel there is nothing to differ
    return sum((images.diff(dim=axis).abs().flatten(1).mean(1) for axis in axes), start=images.new_zeros(len(images)))


def l2(images: Tensor) -> Tensor:
    """Euclidean norm ``(N,)`` of each image (Botach & Cohen, §3.1.1, R_l2).

    Args:
        images: ``(N, C, H, W)``.

    Returns:
        One value for each image, ``(N,)``, at least 0; at most the root of the number of values for images in [0, 1].

    >>> float(l2(torch.ones(1, 1, 2, 2)))
    2.0
    """
    check_rank(images)
    return _norm(images)


def squared_variation(images: Tensor) -> Tensor:
    """``sum_hw (I_(h+1,w) - I_(h,w))^2 + (I_(h,w+1) - I_(h,w))^2`` ``(N,)`` (Suhail et al., §5.3, L_Var).

    Args:
        images: ``(N, C, H, W)``.

    Returns:
        One value for each image, ``(N,)``, at least 0; the sum is over the channels too.

    >>> squared_variation(torch.tensor([[[[0.0, 1.0], [2.0, 2.0]]]])).tolist()
    [6.0]
    """
    check_rank(images)
    return sum((images.diff(dim=axis).square().flatten(1).sum(1) for axis in (2, 3)), start=images.new_zeros(()))


def out_of_range(images: Tensor) -> Tensor:
    """``sum max(0, -I) + sum max(0, I - 1)`` ``(N,)``, zero for images in [0, 1] (Suhail et al., §5.3, L_Pix).

    Args:
        images: ``(N, C, H, W)``.

    Returns:
        One value for each image, ``(N,)``, at least 0, in units of the pixel range.

    >>> out_of_range(torch.tensor([[[[-0.5, 1.25]]]])).tolist()
    [0.75]
    """
    check_rank(images)
    return ((-images).relu() + (images - 1).relu()).flatten(1).sum(1)


def image_prior(
    tv: float, l2_: float, units: Callable[[Tensor], Tensor] | None = None
) -> dict[str, tuple[float, Prior]]:
    """The image prior ``tv R_TV + l2 R_l2`` (§3.1.1) of images as they are; a weight of zero leaves its term out.

    In which units pixels are counted matters for more than the weights: R_l2 draws to where they are zero, which is
    black for pixels in [0, 1] and the training set's mean colour for normalised ones, as the papers have them.

    Args:
        tv: Weight of :func:`total_variation`, at least 0.
        ``l2_``: Weight of :func:`l2`, at least 0.
        units: Applied to the images first, such as :meth:`~invkit.core.spec.ImageSpec.normalise`; None leaves [0, 1].

    Returns:
        By name, ``tv`` and ``l2``, each with its weight: the ``priors`` of an
        :class:`~invkit.objectives.objective.Objective`.

    >>> prior = image_prior(0.0, 1.0, units=lambda images: images - 0.5)
    >>> list(prior), float(prior["l2"][1](torch.full((1, 1, 2, 2), 0.5)))
    (['l2'], 0.0)
    """
    in_units = units or (lambda images: images)
    terms: dict[str, tuple[float, Prior]] = {
        "tv": (tv, lambda images: total_variation(in_units(images))),
        "l2": (l2_, lambda images: l2(in_units(images))),
    }
    return {name: term for name, term in terms.items() if term[0]}


def _norm(x: Tensor) -> Tensor:
    # The subgradient of the norm at zero is zero: a constant image is not a singular point.
    return torch.linalg.vector_norm(x.flatten(1), dim=1)
