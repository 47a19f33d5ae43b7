"""The batch-norm penalty R_feature: exact over micro-batches and ranks, nearly free in the backward pass.

The penalty compares the mean and variance of a *whole* batch at the input of each batch norm with those the layer
stored in training. It depends on the images only through one count, mean and variance per layer and channel, so the
gradient of a batch of any size can be put together from chunks: first merge the moments of all chunks, then
differentiate the penalty with respect to the merged moments, then send the resulting linear form through each chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from invkit.core.hooks import Hooks


@dataclass(frozen=True, slots=True)
class Moments:
    """Statistics of one layer's input: ``count`` values per channel, their ``mean`` and unbiased ``var``, ``(C,)``."""

    count: int
    mean: Tensor
    var: Tensor


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel ``(C,)`` of ``(N, C, ...)``, in float32 at least, exact where |mean| >> std.

    >>> mean, var = batch_statistics(torch.tensor([[1.0, 10.0], [3.0, 10.0]]))
    >>> mean.tolist(), var.tolist()
    ([2.0, 10.0], [1.0, 0.0])
    """
    wide = x if x.dtype == torch.float64 else x.float()
    inside = list(range(2, x.ndim))
    if x.is_cuda or torch.compiler.is_compiling():
        var, mean = torch.var_mean(wide, [0, *inside], correction=0)
        return mean, var

    # Image by image, then over images: on a CPU several times faster than var_mean in either memory format, and short
    # sums keep the digits that one sum over a million float32 numbers loses.
    def average(values: Tensor) -> Tensor:
        return (values.mean(inside) if inside else values).mean(0)

    mean = average(wide)
    return mean, average((wide - mean.view(-1, *[1] * len(inside))).square_())


class _Tapped(torch.autograd.Function):
    """``x -> (x, mean, var)``, with the gradient of the moments added in x's own backward pass.

    The gradient of any function of the moments is an affine map of x per channel,
    ``g_mean / n + g_var * 2 (x - mean) / (n - 1)``: no graph through the statistics is needed.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[no-untyped-def]
        mean, var = _unbiased(x)
        ctx.save_for_backward(x, mean)
        # x[...] keeps the strides; view_as would not for one channels-last image, whose gradient torch's batch norm
        # then gets wrong.
        return x[...], mean, var

    @staticmethod
    def backward(ctx, grad: Tensor, by_mean: Tensor, by_var: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        x, mean = ctx.saved_tensors
        slope, offset = _affine(x, mean, by_mean, by_var)
        # The sum in place: a feature map for a temporary costs more than both passes.
        return torch.addcmul(grad, x, slope).add_(offset)


class _TappedNorm(torch.autograd.Function):
    """``x -> (batch_norm(x), mean, var)`` of a frozen layer in eval mode, with one backward pass for both.

    Batch norm is then itself affine per channel, so its gradient and that of the moments are two fused passes.
    """

    @staticmethod
    def forward(ctx, x: Tensor, layer: Any) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[no-untyped-def]
        mean, var = _unbiased(x)
        scale = torch.rsqrt(layer.running_var + layer.eps)
        ctx.save_for_backward(x, mean, scale if layer.weight is None else scale * layer.weight)
        running = layer.running_mean, layer.running_var, layer.weight, layer.bias
        return F.batch_norm(x, *running, training=False, eps=layer.eps), mean, var

    @staticmethod
    def backward(ctx, grad: Tensor, by_mean: Tensor, by_var: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        x, mean, scale = ctx.saved_tensors
        slope, offset = _affine(x, mean, by_mean, by_var)
        return torch.addcmul(offset, x, slope).addcmul_(grad, scale.to(x.dtype).view(slope.shape)), None


def _unbiased(x: Tensor) -> tuple[Tensor, Tensor]:
    count = x.numel() // x.shape[1]
    mean, var = batch_statistics(x)
    return mean, var * (count / max(count - 1, 1))


def _affine(x: Tensor, mean: Tensor, by_mean: Tensor, by_var: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and offset per channel of the moments' gradient, shaped to go with x."""
    count, shape = x.numel() // x.shape[1], [1, -1, *[1] * (x.ndim - 2)]
    slope = by_var * (2 / max(count - 1, 1))
    offset = by_mean / count - slope * mean
    return slope.to(x.dtype).view(shape), offset.to(x.dtype).view(shape)


def merge(parts: Sequence[Moments]) -> Moments:
    """Moments of the union of several samples, from counts, means and centred squares (Chan et al., 1983).

    Plain sums of squares would cancel in float32 where |mean| is much larger than the standard deviation.

    >>> one, two = (Moments(2, torch.tensor([m]), torch.tensor([2.0])) for m in (0.0, 4.0))
    >>> merge([one, two]).mean, merge([one, two]).var
    (tensor([2.]), tensor([6.6667]))
    """
    count = sum(p.count for p in parts)
    weights = torch.tensor([p.count / count for p in parts], dtype=parts[0].mean.dtype, device=parts[0].mean.device)
    means = torch.stack([p.mean for p in parts])
    mean = weights @ means
    inner = sum(p.var * (max(p.count - 1, 1) / max(count - 1, 1)) for p in parts)
    between = (weights * (count / max(count - 1, 1))) @ (means - mean).square()
    return Moments(count, mean, inner + between)


class BatchNormPenalty:
    """R_feature of Yin et al. (2020): how far a batch's statistics are from those that the batch norms stored.

    As given in §3.1.1 of Botach & Cohen,

    ``sum_l s_l (||mean_l(x) - running_mean_l||_2 + ||var_l(x) - running_var_l||_2)`` over the batch-norm layers l, with
    ``s_l = first_layer_scale`` for the first and 1 for the others; moments are those of each layer's *input*, variances
    unbiased, as batch norm stores them. Use inside :meth:`attached`; every forward pass of the network then leaves its
    moments for :meth:`take`.

    Args:
        network: In eval mode, with batch norms that keep running statistics.
        first_layer_scale: Factor on the first batch norm, whose statistics are nearest to the pixels.

    Raises:
        ValueError: For a network without batch norm, or whose batch norms keep no statistics or are in train mode.

    >>> from invkit.testing import tiny_target
    >>> target = tiny_target()
    >>> penalty, images = BatchNormPenalty(target.module), torch.full((4, 3, 8, 8), 0.5, requires_grad=True)
    >>> with penalty.attached():
    ...     logits = target(images)
    ...     value = penalty.value(penalty.take())
    >>> bool(value > 0), torch.autograd.grad(value, images)[0].shape
    (True, torch.Size([4, 3, 8, 8]))
    """

    def __init__(self, network: nn.Module, *, first_layer_scale: float = 1.0) -> None:
        named = [(n, m) for n, m in network.named_modules() if isinstance(m, _BatchNorm)]
        if not named:
            raise ValueError(
                "the network has no batch-norm layer, so DeepInversion has no statistics to match; "
                "class_inversion uses an image prior alone, and Plug-In Inversion needs none"
            )
        for name, layer in named:
            if layer.running_mean is None or layer.running_var is None:
                raise ValueError(
                    f"batch norm {name} tracks no running statistics, so there is nothing to match; "
                    "re-estimate them with calibrate(target, images), or use Plug-In Inversion, which needs none"
                )
            if layer.training:
                raise ValueError(
                    f"batch norm {name} is in train mode: inverting would overwrite its statistics; call eval() first"
                )
        self.layers: list[Any] = [m for _, m in named]
        self.names = [n for n, _ in named]
        self.first_layer_scale = first_layer_scale
        self._taken: list[tuple[int, Moments]] = []

    @contextmanager
    def attached(self) -> Iterator[BatchNormPenalty]:
        """Listen at the layers; they are as they were on leaving the context, whatever happens."""
        self._taken.clear()
        with Hooks() as hooks:
            for index, layer in enumerate(self.layers):
                if _is_plain(layer):
                    layer.forward = self._norm(index, layer)
                    hooks.callback(delattr, layer, "forward")
                else:
                    hooks.before(layer, self._tap(index))
            hooks.callback(self._taken.clear)
            yield self

    def _norm(self, index: int, layer: nn.Module) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            y, mean, var = _TappedNorm.apply(x, layer)
            self._taken.append((index, Moments(x.numel() // x.shape[1], mean, var)))
            return y

        return forward

    def _tap(self, index: int) -> Callable[[Tensor], Tensor]:
        def tap(x: Tensor) -> Tensor:
            y, mean, var = _Tapped.apply(x)
            self._taken.append((index, Moments(x.numel() // x.shape[1], mean, var)))
            return y

        return tap

    def take(self) -> list[tuple[int, Moments]]:
        """The moments of the last forward pass, in the order the layers were called, with the layers' indices."""
        taken = list(self._taken)
        self._taken.clear()
        return taken

    def value(self, taken: Sequence[tuple[int, Moments]]) -> Tensor:
        """The penalty of these moments: a scalar with a graph to them."""
        total: Tensor | float = 0.0
        for index, moments in taken:
            layer = self.layers[index]
            scale = self.first_layer_scale if index == 0 else 1.0
            gap_mean = torch.linalg.vector_norm(moments.mean - layer.running_mean.to(moments.mean.dtype))
            gap_var = torch.linalg.vector_norm(moments.var - layer.running_var.to(moments.var.dtype))
            total = total + scale * (gap_mean + gap_var)
        return torch.as_tensor(total)

    def linear_forms(
        self, chunks: Sequence[list[tuple[int, Moments]]], across_ranks: bool = False
    ) -> tuple[Tensor, list[LinearForm]]:
        """Value of the penalty on the union of all chunks (and ranks), and for each chunk its linear form.

        Adding ``form(moments of the chunk)`` to that chunk's loss gives its images the gradient of the global penalty.
        """
        merged = []
        for parts in zip(*chunks, strict=True):
            local = merge([m for _, m in parts])
            merged.append((parts[0][0], merge(_gather(local)) if across_ranks else local))
        leaves = [(i, Moments(m.count, m.mean.requires_grad_(), m.var.requires_grad_())) for i, m in merged]
        with torch.enable_grad():
            value = self.value(leaves)
        flat = torch.autograd.grad(value, [t for _, m in leaves for t in (m.mean, m.var)])
        slopes = list(zip(flat[::2], flat[1::2], strict=True))
        totals = [Moments(m.count, m.mean.detach(), m.var.detach()) for _, m in leaves]
        return value.detach(), [LinearForm.of(chunk, totals, slopes) for chunk in chunks]


@dataclass(frozen=True, slots=True)
class LinearForm:
    """``sum_l <a_l, mean_l> + <b_l, var_l>`` over the moments of one chunk."""

    coefficients: list[tuple[Tensor, Tensor]]

    @classmethod
    def of(
        cls, chunk: Sequence[tuple[int, Moments]], totals: Sequence[Moments], slopes: Sequence[tuple[Tensor, Tensor]]
    ) -> LinearForm:
        """Chain rule through :func:`merge`: how the global moments move with one chunk's mean and variance."""
        coefficients = []
        for (_, part), total, (by_mean, by_var) in zip(chunk, totals, slopes, strict=True):
            share, freedom = part.count / total.count, max(total.count - 1, 1)
            of_mean = share * by_mean + by_var * (2 * part.count / freedom) * (part.mean.detach() - total.mean)
            coefficients.append((of_mean, by_var * (max(part.count - 1, 1) / freedom)))
        return cls(coefficients)

    def __call__(self, taken: Sequence[tuple[int, Moments]]) -> Tensor:
        pairs = zip(self.coefficients, taken, strict=True)
        return torch.stack([a @ m.mean + b @ m.var for (a, b), (_, m) in pairs]).sum()


def _is_plain(layer: nn.Module) -> bool:
    """Whether the layer does nothing but torch's batch norm, with nothing to learn and no forward of another's."""
    plain = type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d) and "forward" not in vars(layer)
    return plain and not any(p.requires_grad for p in layer.parameters())


def _gather(local: Moments) -> list[Moments]:
    """The same layer's moments from every rank."""
    packed = torch.cat([local.mean, local.var, local.mean.new_tensor([float(local.count)])])
    parts = [torch.empty_like(packed) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, packed)
    width = local.mean.numel()
    return [Moments(int(p[-1]), p[:width], p[width:-1]) for p in parts]
