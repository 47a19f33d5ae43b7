"""Mean and variance of a layer's input, image by image, and autograd functions that read them off on the way.

The gradient of whatever is made of these moments is put together by hand: an affine map of the input per channel, with
no graph through the statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Moments:
    """Statistics of one layer's input: ``count`` values per channel, their ``mean`` and unbiased ``var``, ``(C,)``.

    >>> images = ImageMoments(4, means=torch.tensor([[0.0], [2.0]]), variances=torch.ones(2, 1))
    >>> images.pooled()
    Moments(count=8, mean=tensor([1.]), var=tensor([2.2857]))
    """

    count: int
    mean: Tensor
    var: Tensor


@dataclass(frozen=True, slots=True)
class ImageMoments:
    """The same image by image: ``count`` values of each, their ``means`` and biased ``variances``, ``(N, C)``."""

    count: int
    means: Tensor
    variances: Tensor

    def pooled(self) -> Moments:
        """Statistics of all images together, with a graph to each one's."""
        count = self.count * len(self.means)
        mean = self.means.mean(0)
        biased = self.variances.mean(0) + (self.means - mean).square().mean(0)
        return Moments(count, mean, biased * (count / max(count - 1, 1)))


CANCELLING = 1e-2
"""Share of the variance in the mean square below which two digits and more would be lost."""


def image_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per image and channel of ``(N, C, ...)``, each ``(N, C)``, in at least float32.

    From sums and norms, which take no memory: a feature map for a temporary that does not fit the caches costs thirty
    times as much as both. Where a mean is so much larger than its deviation that their difference loses digits, the
    values are centred first. Sums over one image are short enough to keep the digits that one over a million float32
    numbers loses.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    inside = list(range(2, x.ndim))
    if not inside:
        return wide.clone(), torch.zeros_like(wide)
    if x.is_cuda or torch.compiler.is_compiling():
        var, mean = torch.var_mean(wide, inside, correction=0)
        return mean, var
    mean = wide.mean(inside)
    squares = torch.linalg.vector_norm(wide, dim=inside).square() / x[0, 0].numel()
    var = squares - mean.square()
    if bool((var < CANCELLING * squares).any()):
        var = (wide - mean.view(*mean.shape, *[1] * len(inside))).square_().mean(inside)
    return mean, var


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel of ``(N, C, ...)``, in at least float32.

    Stable where the mean is much larger than the standard deviation.

    Args:
        x: A layer's input, ``(N, C, ...)``.

    Returns:
        Mean and variance, ``(C,)`` each, with a graph to ``x``.

    >>> mean, variance = batch_statistics(torch.tensor([[[1.0, 3.0]], [[5.0, 7.0]]]))
    >>> mean, variance
    (tensor([4.]), tensor([5.]))
    """
    means, variances = image_statistics(x)
    mean = means.mean(0)
    return mean, variances.mean(0) + (means - mean).square().mean(0)


class Tapped(torch.autograd.Function):
    """``x -> (x, means, variances)``, with the gradient of the moments added in x's own backward pass.

    The gradient of any function of an image's moments is an affine map of x per channel,
    ``(g_mean + 2 g_var (x - mean)) / n``: no graph through the statistics is needed.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[no-untyped-def]
        means, variances = image_statistics(x)
        ctx.save_for_backward(x, means)
        # x[...] keeps the strides; view_as would not for one channels-last image, whose gradient torch's batch norm
        # then gets wrong.
        return x[...], means, variances

    @staticmethod
    def backward(ctx, grad: Tensor, by_means: Tensor, by_variances: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        x, means = ctx.saved_tensors
        slope, offset = _affine(x, means, by_means, by_variances)
        # The sum in place: a feature map for a temporary costs more than both passes.
        return torch.addcmul(grad, x, slope).add_(offset)


class TappedNorm(torch.autograd.Function):
    """``x -> (batch_norm(x), means, variances)`` of a frozen layer in eval mode, with one backward pass for both.

    Batch norm is then itself affine per channel, so its gradient and that of the moments are two fused passes.
    """

    @staticmethod
    def forward(ctx, x: Tensor, layer: Any) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[no-untyped-def]
        means, variances = image_statistics(x)
        scale = torch.rsqrt(layer.running_var + layer.eps)
        ctx.save_for_backward(x, means, scale if layer.weight is None else scale * layer.weight)
        running = layer.running_mean, layer.running_var, layer.weight, layer.bias
        return F.batch_norm(x, *running, training=False, eps=layer.eps), means, variances

    @staticmethod
    def backward(ctx, grad: Tensor, by_means: Tensor, by_variances: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        x, means, scale = ctx.saved_tensors
        slope, offset = _affine(x, means, by_means, by_variances)
        of_norm = scale.to(x.dtype).view(1, *slope.shape[1:])
        return torch.addcmul(offset, x, slope).addcmul_(grad, of_norm), None


def _affine(x: Tensor, means: Tensor, by_means: Tensor, by_variances: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and offset per image and channel of the moments' gradient, shaped to go with x."""
    count, shape = x[0, 0].numel(), [*means.shape, *[1] * (x.ndim - 2)]
    slope = by_variances * (2 / count)
    offset = by_means / count - slope * means
    return slope.to(x.dtype).view(shape), offset.to(x.dtype).view(shape)


def merge(parts: Sequence[Moments]) -> Moments:
    """Moments of the union of several samples, from counts, means and centred squares (Chan et al., 1983).

    Plain sums of squares would cancel in float32 where the mean is much larger than the standard deviation.
    """
    count = sum(p.count for p in parts)
    weights = torch.tensor([p.count / count for p in parts], dtype=parts[0].mean.dtype, device=parts[0].mean.device)
    means = torch.stack([p.mean for p in parts])
    mean = weights @ means
    inner = sum(p.var * (max(p.count - 1, 1) / max(count - 1, 1)) for p in parts)
    between = (weights * (count / max(count - 1, 1))) @ (means - mean).square()
    return Moments(count, mean, inner + between)
