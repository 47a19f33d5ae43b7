"""Where in an image its content is, how coarse and how strong."""

from __future__ import annotations

import torch
from torch import Tensor

from invkit.core.target import Target


def saliency(target: Target, images: Tensor, labels: Tensor) -> Tensor:
    """``max_c |d logit_y / d x_c|`` (Simonyan et al. 2014, §3.1): how much each pixel moves the class's logit.

    Images ``(N, C, H, W)`` in [0, 1] and labels ``(N,)`` give maps ``(N, H, W)`` on the CPU.
    """
    from captum.attr import Saliency  # here, since it brings matplotlib along

    target.spec.check(images)
    inputs = images.detach().to(target.device, copy=True).requires_grad_()
    found: Tensor = Saliency(target).attribute(inputs, target=target.spec.check_labels(labels).to(target.device))
    return found.detach().amax(1).cpu()


def central_share(maps: Tensor) -> float:
    """The share of ``maps`` ``(N, H, W)``, all >= 0, in the middle half of height and width; the mean over images.

    A map without structure has the middle's share of the area.

    >>> central_share(torch.ones(2, 8, 8))
    0.25
    """
    height, width = maps.shape[-2:]
    if maps.ndim != 3 or min(height, width) < 4 or bool((maps < 0).any()):
        raise ValueError(f"maps must be (N, H, W) of at least 4 pixels and >= 0, not {tuple(maps.shape)}")
    middle = maps[:, height // 4 : height - height // 4, width // 4 : width - width // 4]
    total = maps.sum((1, 2))
    return float((middle.sum((1, 2)) / total.clamp_min(torch.finfo(maps.dtype).tiny)).mean())


def low_frequency_share(images: Tensor, cutoff: float = 0.25) -> float:
    """The share of the variance of ``images`` ``(N, C, H, W)`` in periods of ``2 / cutoff`` pixels or more.

    ``cutoff`` is in units of the highest frequency, in (0, 1]; the mean grey does not count. The mean over images.

    >>> stripes = (torch.arange(8) % 2).float().expand(1, 1, 8, 8)
    >>> low_frequency_share(stripes)
    0.0
    """
    if not 0 < cutoff <= 1:
        raise ValueError(f"cutoff must lie in (0, 1], not {cutoff}")
    power = torch.fft.fft2(images.double()).abs().square().sum(1)
    power[:, 0, 0] = 0
    down, right = (torch.fft.fftfreq(side, 0.5).abs() for side in images.shape[-2:])
    low = (torch.maximum(down[:, None], right[None]) <= cutoff).to(power)
    return float(((power * low).sum((1, 2)) / power.sum((1, 2)).clamp_min(1e-12)).mean())


def stretch_contrast(images: Tensor, tails: float = 0.02) -> Tensor:
    """``images`` ``(N, C, H, W)`` with their contrast stretched, each by itself: all but a share of ``tails`` of its
    darkest and of its brightest values then fill [0, 1], and these are cut off.

    >>> stretch(torch.tensor([[[[0.25, 0.5]]]]), tails=0.0).tolist()
    [[[[0.0, 1.0]]]]
    """
    if not 0 <= tails < 0.5:
        raise ValueError(f"tails must lie in [0, 0.5), not {tails}")
    low, high = (images.flatten(1).quantile(q, 1).view(-1, 1, 1, 1) for q in (tails, 1 - tails))
    return ((images - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)
