"""The batch-norm penalty R_feature: exact over micro-batches and ranks, nearly free in the backward pass.

The penalty compares the mean and variance of a *whole* batch at the input of each batch norm with those the layer
stored in training. It depends on the images only through one count, mean and variance per layer and channel, so the
gradient of a batch of any size can be put together from chunks: first merge the moments of all chunks, then
differentiate the penalty with respect to the merged moments, then send the resulting linear form through each chunk.
What is asked of each image on its own is a mean over images and needs no merging.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from invkit.core.hooks import Hooks
from invkit.objectives.moments import ImageMoments, Moments, Tapped, TappedNorm, merge

Form = Literal["relative", "norm"]
Taken = list[tuple[int, ImageMoments]]
"""What one forward pass left: for each call of a layer, in order, the layer's index and its input's moments."""


class BatchNormPenalty:
    """R_feature: how far the statistics of a batch are from those that the batch norms stored in training.

    For a layer l with stored mean m, variance v and eps, and the batch's mean and (unbiased) variance at its *input*:

    ``norm``, Yin et al. (2020) as given in §3.1.1 of Botach & Cohen, in the units of each layer:
        ``sum_l s_l (||mean_l - m_l||_2 + ||var_l - v_l||_2)``.
    ``relative``, without units, so that one weight serves networks of any depth, width and scale:
        ``mean_l s_l mean_c [(mean - m)^2 / (v + eps) + 1/2 log((var + eps) / (v + eps))^2]``, plus ``per_image`` times
        the mean over images of ``mean_l s_l 1/2 max(0, mean_c log(e)^2 - tolerance)``, where
        ``e = ((mean_i - m)^2 + var_i + eps) / (v + eps)`` is the energy of image i in each channel. Over the training
        set e is 1 on average, whatever the network: no image can be given up to noise, or to emptiness, so that the
        batch's variance comes out right for the others. Real images, one at a time, have 0.1 to 0.8 in most layers
        of the networks measured; within the tolerance nothing is asked of an image.

    ``s_l = first_layer_scale`` for the first layer and 1 for the others (``mean_l s_l`` divides by the sum of s).

    Use inside :meth:`attached`; every forward pass of the network then leaves its moments for :meth:`take`.

    Args:
        network: In eval mode, with batch norms that keep running statistics.
        form: ``relative`` or ``norm``.
        per_image: Weight of what is asked of each image on its own, with the relative form.
        tolerance: How far an image's statistics may lie from those of the training set.
        first_layer_scale: Factor on the first batch norm, whose statistics are nearest to the pixels.

    Raises:
        ValueError: For a network without batch norm, or whose batch norms keep no statistics, keep statistics that were
            never updated or are not finite, or are in train mode.

    >>> from invkit.testing import tiny_target
    >>> target = tiny_target()
    >>> penalty, images = BatchNormPenalty(target.module), torch.full((4, 3, 8, 8), 0.5, requires_grad=True)
    >>> with penalty.attached():
    ...     logits = target(images)
    ...     value = penalty.value(penalty.take())
    >>> bool(value > 0), torch.autograd.grad(value, images)[0].shape
    (True, torch.Size([4, 3, 8, 8]))
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        form: Form = "norm",
        per_image: float = 0.0,
        tolerance: float = 0.5,
        first_layer_scale: float = 1.0,
    ) -> None:
        if form not in ("relative", "norm"):
            raise ValueError(f"form must be relative or norm, not {form!r}")
        if not (per_image >= 0 and tolerance >= 0):
            raise ValueError(f"per_image and tolerance must be >= 0, not {per_image} and {tolerance}")
        if per_image and form == "norm":
            raise ValueError("per_image must be 0 with the form norm, which asks nothing of an image on its own")
        if not first_layer_scale > 0:
            raise ValueError(f"first_layer_scale must be positive, not {first_layer_scale}")
        named = [(n, m) for n, m in network.named_modules() if _is_batch_norm(m)]
        if not named:
            raise ValueError(
                "the network has no batch-norm layer, so DeepInversion has no statistics to match; "
                "class_inversion uses an image prior alone, and Plug-In Inversion needs none"
            )
        for name, layer in named:
            _check_statistics(name, layer)
        self.layers: list[Any] = [m for _, m in named]
        self.names = [n for n, _ in named]
        self.form, self.per_image, self.tolerance = form, per_image, tolerance
        self.first_layer_scale = first_layer_scale
        self._taken: Taken = []
        self._flat: dict[tuple[Any, ...], _Flat] = {}

    def check_trained(self) -> None:
        """Raise ``ValueError`` where no layer's statistics were ever updated: nothing of the training is in them."""
        if all(bool((m.running_mean == 0).all() and (m.running_var == 1).all()) for m in self.layers):
            raise ValueError(
                "the batch norms still hold the statistics they were made with, mean 0 and variance 1: the network was "
                "never trained, or its weights file lacks them; re-estimate them with calibrate(target, images)"
            )

    @contextmanager
    def attached(self) -> Iterator[BatchNormPenalty]:
        """Listen at the layers; they are as they were on leaving the context, whatever happens."""
        self._taken.clear()
        self._flat.clear()  # the statistics may have been loaded or re-estimated since
        with Hooks() as hooks:
            for index, layer in enumerate(self.layers):
                if _is_plain(layer):
                    layer.forward = self._norm(index, layer, _behind(layer))
                    hooks.callback(delattr, layer, "forward")
                else:
                    hooks.before(layer, self._tap(index))
            hooks.callback(self._taken.clear)
            yield self

    def _norm(self, index: int, layer: nn.Module, behind: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
        def forward(x: Tensor) -> Tensor:
            y, means, variances = TappedNorm.apply(x, layer)
            self._taken.append((index, ImageMoments(x[0, 0].numel(), means, variances)))
            for module in behind:
                y = module(y)
            return y

        return forward

    def _tap(self, index: int) -> Callable[[Tensor], Tensor]:
        def tap(x: Tensor) -> Tensor:
            y, means, variances = Tapped.apply(x)
            self._taken.append((index, ImageMoments(x[0, 0].numel(), means, variances)))
            return y

        return tap

    def take(self) -> Taken:
        """The moments of the last forward pass, in the order the layers were called, with the layers' indices."""
        taken = list(self._taken)
        self._taken.clear()
        return taken

    def value(self, taken: Taken) -> Tensor:
        """The penalty of these moments: a scalar with a graph to them."""
        self._check_reached(taken)
        value = self.of_batch([(index, moments.pooled()) for index, moments in taken])
        return value + self.per_image * self.of_images(taken).mean() if self.per_image else value

    def of_batch(self, pooled: Sequence[tuple[int, Moments]]) -> Tensor:
        """What the penalty says of the batch as a whole: a scalar."""
        if self.form == "norm":
            return torch.stack([self._norms(index, moments) for index, moments in pooled]).sum()
        flat = self._stored(pooled[0][1].mean, [index for index, _ in pooled])
        mean = torch.cat([moments.mean for _, moments in pooled])
        # One value has no variance: nothing is asked of it then (a batch of one behind a global pooling).
        variances = [m.var if m.count > 1 else self.layers[index].running_var.to(m.var) for index, m in pooled]
        var = torch.cat(variances)
        gaps = (mean - flat.mean).square() / flat.spread + ((var + flat.eps) / flat.spread).log().square() / 2
        return gaps @ flat.weight

    def of_images(self, taken: Taken) -> Tensor:
        """What it says of each image on its own, ``(N,)``, before the factor ``per_image``.

        A layer that sees several rows of each image, its tokens or crops, counts by their mean.
        """
        count = _images(taken)
        if any(len(moments.means) != count for _, moments in taken):
            return self._of_rows(taken, count)
        flat = self._stored(taken[0][1].means, [index for index, _ in taken])
        means, variances = (torch.cat([getattr(m, name) for _, m in taken], 1) for name in ("means", "variances"))
        energy = ((means - flat.mean).square() + variances + flat.eps) / flat.spread
        widths = [m.means.shape[1] for _, m in taken]
        each = torch.stack([part.mean(1) for part in energy.log().square().split(widths, 1)], 1)
        return (each - self.tolerance).relu() @ flat.layer_weight / 2

    def _of_rows(self, taken: Taken, count: int) -> Tensor:
        """The same layer by layer, where the layers' numbers of rows differ."""
        total: Tensor | float = 0.0
        shares = self._stored(taken[0][1].means, [index for index, _ in taken]).layer_weight
        for share, (index, moments) in zip(shares, taken, strict=True):
            layer = self.layers[index]
            stored = layer.running_var.to(moments.means) + layer.eps
            energy = (moments.means - layer.running_mean.to(moments.means)).square() + moments.variances + layer.eps
            each = ((energy / stored).log().square().mean(1) - self.tolerance).relu()
            total = total + share * (each.view(count, -1).mean(1) if len(each) % count == 0 else each.mean()) / 2
        return torch.as_tensor(total).expand(count)

    def _check_reached(self, taken: Taken) -> None:
        if not taken:
            raise ValueError(f"the forward pass reached none of the batch norms: {', '.join(self.names)}")

    def _norms(self, index: int, moments: Moments) -> Tensor:
        layer, scale = self.layers[index], self.first_layer_scale if index == 0 else 1.0
        gap_mean = torch.linalg.vector_norm(moments.mean - layer.running_mean.to(moments.mean.dtype))
        gap_var = torch.linalg.vector_norm(moments.var - layer.running_var.to(moments.var.dtype))
        return scale * (gap_mean + gap_var)

    def _stored(self, like: Tensor, indices: Sequence[int]) -> _Flat:
        """The stored statistics of these layers in one row, made once; all of a network in a few operations."""
        key = (*indices, like.device, like.dtype)
        if key not in self._flat:
            with torch.inference_mode(False), torch.no_grad():  # it outlives the mode in which it was asked for
                layers = [self.layers[i] for i in indices]
                self._flat[key] = _Flat.of(layers, indices, self.first_layer_scale, like.device, like.dtype)
        return self._flat[key]

    def linear_forms(self, chunks: Sequence[Taken], across_ranks: bool = False) -> tuple[Tensor, list[LinearForm]]:
        """Value of the penalty on the union of all chunks (and ranks), and for each chunk its linear form.

        Adding ``form(moments of the chunk)`` to that chunk's loss gives its images the gradient of the global penalty.
        """
        for chunk in chunks:
            self._check_reached(chunk)
        pooled = [[(index, moments.pooled()) for index, moments in chunk] for chunk in chunks]
        indices = [parts[0][0] for parts in zip(*pooled, strict=True)]
        local = [merge([m for _, m in parts]) for parts in zip(*pooled, strict=True)]
        whole = [merge(of_ranks) for of_ranks in _gather(local)] if across_ranks else local
        merged = list(zip(indices, whole, strict=True))
        leaves = [(i, Moments(m.count, m.mean.requires_grad_(), m.var.requires_grad_())) for i, m in merged]
        with torch.enable_grad():
            value = self.of_batch(leaves)
        moments = [t for _, m in leaves for t in (m.mean, m.var)]
        flat = torch.autograd.grad(value, moments, allow_unused=True, materialize_grads=True)
        slopes = list(zip(flat[::2], flat[1::2], strict=True))
        totals = [Moments(m.count, m.mean.detach(), m.var.detach()) for _, m in leaves]
        value, images = value.detach(), sum(_images(chunk) for chunk in chunks)
        if across_ranks:
            images = int(_summed(images, value.device))
        if self.per_image:
            with torch.no_grad():
                alone = torch.stack([self.of_images(chunk).sum() for chunk in chunks]).sum() * (self.per_image / images)
            if across_ranks:
                dist.all_reduce(alone)
            value = value + alone
        forms = [LinearForm.of(chunk, totals, slopes) for chunk in pooled]
        return value, [replace(form, penalty=self, per_image=self.per_image / images) for form in forms]


@dataclass(frozen=True, slots=True)
class LinearForm:
    """``sum_l <a_l, mean_l> + <b_l, var_l>`` over the moments of one chunk, plus its images' own part."""

    coefficients: list[tuple[Tensor, Tensor]]
    penalty: BatchNormPenalty | None = None
    per_image: float = 0.0

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

    def __call__(self, taken: Taken) -> Tensor:
        pooled = (moments.pooled() for _, moments in taken)
        pairs = zip(self.coefficients, pooled, strict=True)
        value = torch.stack([a @ m.mean + b @ m.var for (a, b), m in pairs]).sum()
        return (
            value + self.per_image * self.penalty.of_images(taken).sum() if self.per_image and self.penalty else value
        )


@dataclass(frozen=True, slots=True)
class _Flat:
    """Stored statistics of several layers, one channel after the other; ``spread`` is the variance plus ``eps``."""

    mean: Tensor
    spread: Tensor
    eps: Tensor
    weight: Tensor
    layer_weight: Tensor

    @classmethod
    def of(
        cls,
        layers: Sequence[Any],
        indices: Sequence[int],
        first_layer_scale: float,
        device: torch.device,
        dtype: torch.dtype,
    ) -> _Flat:
        scales = [first_layer_scale if index == 0 else 1.0 for index in indices]
        shares = [scale / sum(scales) for scale in scales]
        widths = [len(layer.running_mean) for layer in layers]

        def spread_out(values: Sequence[float]) -> Tensor:
            return torch.cat(
                [
                    torch.full((width,), value, device=device, dtype=dtype)
                    for width, value in zip(widths, values, strict=True)
                ]
            )

        eps = spread_out([layer.eps for layer in layers])
        return cls(
            mean=torch.cat([layer.running_mean.to(device, dtype) for layer in layers]),
            spread=torch.cat([layer.running_var.to(device, dtype) for layer in layers]) + eps,
            eps=eps,
            weight=spread_out([share / width for share, width in zip(shares, widths, strict=True)]),
            layer_weight=torch.tensor(shares, device=device, dtype=dtype),
        )


def _is_batch_norm(module: nn.Module) -> bool:
    """Torch's batch norms and those made like them, frozen ones among them; instance norms do not count."""
    if isinstance(module, torch.jit.ScriptModule):  # takes no hooks
        return False
    if isinstance(module, _BatchNorm):
        return True
    alike = all(isinstance(getattr(module, name, None), Tensor) for name in ("running_mean", "running_var"))
    return alike and hasattr(module, "eps") and not isinstance(module, _InstanceNorm)


def _check_statistics(name: str, layer: Any) -> None:
    """Raise ``ValueError`` where a batch norm keeps no statistics to match, or none that can be matched."""
    if layer.running_mean is None or layer.running_var is None:
        raise ValueError(
            f"batch norm {name} tracks no running statistics, so there is nothing to match; "
            "re-estimate them with calibrate(target, images), or use Plug-In Inversion, which needs none"
        )
    if layer.training and isinstance(layer, _BatchNorm):
        raise ValueError(
            f"batch norm {name} is in train mode: inverting would overwrite its statistics; call eval() first"
        )
    if not (layer.running_mean.isfinite().all() and layer.running_var.isfinite().all()):
        raise ValueError(f"batch norm {name} holds running statistics that are not finite; load the weights again")
    if bool((layer.running_var + layer.eps <= 0).any()) or not bool((layer.running_var > 0).any()):
        raise ValueError(
            f"the running variance of batch norm {name} is zero in every channel, or not positive in one (eps added), "
            "which no images can have; re-estimate it with calibrate(target, images)"
        )


def _images(taken: Taken) -> int:
    """How many images a forward pass was of: the fewest rows that a layer saw."""
    return min(len(moments.means) for _, moments in taken)


def _summed(count: int, device: torch.device) -> Tensor:
    """A count over all ranks."""
    total = torch.tensor(count, device=device)
    dist.all_reduce(total)
    return total


def _is_plain(layer: nn.Module) -> bool:
    """Whether the layer is torch's batch norm or timm's, with nothing to learn and no forward of another's."""
    known = type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d) or _is_timm(layer)
    plain = known and "forward" not in vars(layer)
    return plain and not any(p.requires_grad for p in layer.parameters())


def _is_timm(layer: nn.Module) -> bool:
    """Whether this is timm's ``BatchNormAct2d``: torch's batch norm, then a dropout and an activation of its own."""
    return type(layer).__name__ == "BatchNormAct2d" and type(layer).__module__.startswith("timm.layers.")


def _behind(layer: nn.Module) -> list[nn.Module]:
    """What a batch norm applies to its output."""
    return [layer.drop, layer.act] if _is_timm(layer) else []  # type: ignore[list-item]


def _gather(local: Sequence[Moments]) -> list[list[Moments]]:
    """For each layer its moments from every rank, all of them in one exchange: what counts is how often ranks wait."""
    packed = torch.cat([part for layer in local for part in (layer.mean, layer.var)])
    parts = [torch.empty_like(packed) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, packed)
    # Apart from the others: float32 holds no whole number above 2^24.
    count = torch.tensor([layer.count for layer in local], device=packed.device)
    counts = [torch.empty_like(count) for _ in parts]
    dist.all_gather(counts, count)
    widths = [layer.mean.numel() for layer in local for _ in range(2)]
    ranks = []
    for numbers, part in zip(counts, parts, strict=True):
        pieces = part.split(widths)
        rows = zip(numbers.tolist(), pieces[::2], pieces[1::2], strict=True)
        ranks.append([Moments(int(n), mean, var) for n, mean, var in rows])
    return [list(layer) for layer in zip(*ranks, strict=True)]
