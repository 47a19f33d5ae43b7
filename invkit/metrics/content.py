"""Where in an image its content is, how coarse and how strong."""

from __future__ import annotations

import torch
from torch import Tensor

from invkit.core.spec import check_floats, check_images
from invkit.core.target import Target


def saliency(target: Target, images: Tensor, labels: Tensor) -> Tensor:
    """``max_c |d logit_y / d x_c|`` (Simonyan et al. 2014, §3.1): how much each pixel moves the class's logit.

    Args:
        target: The network.
        images: ``(N, C, H, W)`` in [0, 1].
        labels: The classes y, ``(N,)``.

    Returns:
        Maps ``(N, H, W)`` on the CPU.

    Raises:
        ValueError: For images and labels that are not the network's.

    >>> from invkit.testing import tiny_target
    >>> saliency(tiny_target(), torch.rand(2, 3, 8, 8), torch.tensor([0, 3])).shape
    torch.Size([2, 8, 8])
    """
    inputs = target.check(images).to(target.device, copy=True).requires_grad_()
    indices = target.spec.check_labels(labels).to(target.device)
    if len(indices) != len(inputs):
        raise ValueError(f"there are {len(inputs)} images but {len(indices)} labels")
    with torch.enable_grad():
        logits = target(inputs).gather(1, indices[:, None])
        (gradient,) = torch.autograd.grad(logits.sum(), inputs)
    return gradient.abs().amax(1).cpu()


def central_share(maps: Tensor) -> float:
    """The share of a map in the middle half of its height and width, in [0, 1]; the mean over the maps.

    A map without structure has the middle's share of the area.

    Args:
        maps: ``(N, H, W)`` of at least 4 pixels, all >= 0.

    Returns:
        The share, in [0, 1]; a map of zeros counts as 0.

    Raises:
        ValueError: For other maps.

    >>> central_share(torch.ones(2, 8, 8))
    0.25
    """
    maps = check_floats(maps, "maps")
    height, width = maps.shape[-2:]
    if maps.ndim != 3 or min(height, width) < 4 or bool((maps < 0).any()):
        raise ValueError(f"maps must be (N, H, W) of at least 4 pixels and >= 0, not {tuple(maps.shape)}")
    middle = maps[:, height // 4 : height - height // 4, width // 4 : width - width // 4]
    total = maps.sum((1, 2))
    return float((middle.sum((1, 2)) / total.clamp_min(torch.finfo(maps.dtype).tiny)).mean())


def low_frequency_share(images: Tensor, cutoff: float = 0.25) -> float:
    """The share of an image's variance in periods of ``2 / cutoff`` pixels or more, in [0, 1]; the mean over images.

    Args:
        images: ``(N, C, H, W)``; their mean grey does not count.
        cutoff: In units of the highest frequency, in (0, 1].

    Returns:
        The share, in [0, 1]; an image of one grey counts as 0.

    Raises:
        ValueError: For another cutoff.

    >>> stripes = (torch.arange(8) % 2).float().expand(1, 1, 8, 8)
    >>> low_frequency_share(stripes)
    0.0
    """
    if not 0 < cutoff <= 1:
        raise ValueError(f"cutoff must lie in (0, 1], not {cutoff}")
    images = check_images(images)
    power = torch.fft.fft2(images.double()).abs().square().sum(1)
    power[:, 0, 0] = 0
    down, right = (torch.fft.fftfreq(side, 0.5).abs() for side in images.shape[-2:])
    low = (torch.maximum(down[:, None], right[None]) <= cutoff).to(power)
    return float(((power * low).sum((1, 2)) / power.sum((1, 2)).clamp_min(1e-12)).mean())


def stretch_contrast(images: Tensor, tails: float = 0.02) -> Tensor:
    """Images with their contrast stretched to fill [0, 1], each by itself.

    Args:
        images: ``(N, C, H, W)``.
        tails: Share of the darkest and of the brightest values that are cut off, in [0, 0.5).

    Returns:
        Images of the same shape in [0, 1].

    Raises:
        ValueError: For other tails.

    >>> stretch_contrast(torch.tensor([[[[0.25, 0.5]]]]), tails=0.0).tolist()
    [[[[0.0, 1.0]]]]
    """
    if not 0 <= tails < 0.5:
        raise ValueError(f"tails must lie in [0, 0.5), not {tails}")
    images = check_images(images)
    low, high = (images.flatten(1).quantile(q, 1).view(-1, 1, 1, 1) for q in (tails, 1 - tails))
    return ((images - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)
