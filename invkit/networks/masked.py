"""Networks of which nothing is learnt but what to leave out: random weights, and masks over them.

The weights of every linear and convolutional layer are drawn once and stay as they are; a mask keeps the share ``k`` of
them whose scores are highest. Scores get their gradient straight through the choice."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from invkit.core.files import read_safetensors, save_tensors

MASKABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
Masks = Mapping[str, Tensor]
"""From a layer's name to which of its weights are kept, bool, of the weight's shape."""


def maskable(module: nn.Module) -> dict[str, Any]:
    """The linear and convolutional layers of ``module`` by name; raises ``ValueError`` where there is none.

    >>> from invkit.testing import tiny_target
    >>> list(maskable(tiny_target().module))
    ['conv1', 'conv2', 'head']
    """
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, MASKABLE)}
    if not layers:
        raise ValueError(f"{type(module).__name__} has no linear or convolutional layer whose weights could be masked")
    return layers


def mask_size(k: float, total: int) -> int:
    """How many of ``total`` weights are ``k`` percent of them: rounded, and at least one.

    >>> mask_size(30, 15), mask_size(100, 7), mask_size(0.1, 7)
    (4, 7, 1)

    Raises ``ValueError`` for ``k`` outside (0, 100].
    """
    if not 0 < k <= 100:
        raise ValueError(f"k is a percentage in (0, 100], not {k}")
    return max(1, round(total * k / 100))


def top_mask(scores: Tensor, count: int) -> Tensor:
    """h(s): true at the ``count`` highest of ``scores``, of any shape; of equal ones the later, never more or fewer.

    >>> top_mask(torch.tensor([0.3, -1.0, 0.9, 0.3]), 2)
    tensor([False, False,  True,  True])
    """
    values = scores.detach()
    if values.device.type != "cpu":  # nothing that would wait for the host
        flat = values.reshape(-1)
        mask = torch.zeros_like(flat, dtype=torch.bool)
        return mask.scatter_(0, flat.topk(count, sorted=False).indices, True).view(values.shape)
    # On a CPU numpy's partition is several times faster than torch's topk and kthvalue.
    array = values.reshape(-1).to(torch.promote_types(values.dtype, torch.float32)).numpy()
    place = len(array) - count
    least = float(np.partition(array, place)[place])
    mask = values >= least
    surplus = int(mask.sum()) - count
    if surplus:
        mask[tuple((values == least).nonzero()[: max(surplus, 0)].T)] = False
    return mask


class StraightThroughMask(torch.autograd.Function):
    """``(w, s, count) -> w h(s)``, with dL/ds = dL/d(w h) · w, as if h were the identity (Bengio et al., 2013).

    >>> weight, scores = torch.tensor([2.0, 3.0]), torch.tensor([0.1, 0.2], requires_grad=True)
    >>> masked = StraightThroughMask.apply(weight, scores, 1)
    >>> masked.sum().backward()
    >>> masked.tolist(), scores.grad.tolist()
    ([0.0, 3.0], [2.0, 3.0])
    """

    @staticmethod
    def forward(ctx, weight: Tensor, scores: Tensor, count: int) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(weight)
        return weight * top_mask(scores, count)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor, None]:  # type: ignore[no-untyped-def]
        (weight,) = ctx.saved_tensors
        return None, grad * weight, None


class ScoredWeight(nn.Module):
    """A parametrisation of a layer's weight: what is used is the weight under the mask of the best ``scores``."""

    def __init__(self, scores: Tensor, k: float, absolute: bool = False) -> None:
        super().__init__()
        self.scores, self.absolute = nn.Parameter(scores), absolute
        self.count = mask_size(k, scores.numel())

    def forward(self, weight: Tensor) -> Tensor:
        return StraightThroughMask.apply(weight, self.ranked(), self.count)

    def ranked(self) -> Tensor:
        """What the weights are ranked by."""
        return self.scores.abs() if self.absolute else self.scores


def draw_untrained(
    module: nn.Module,
    *,
    init: Literal["signed_constant", "kaiming_normal"] = "signed_constant",
    kept_fraction: float = 1.0,
    statistics: bool = True,
    generator: torch.Generator,
) -> nn.Module:
    """A frozen copy of ``module`` as it is before anything is learnt: random weights, no biases, nothing affine.

    The weights of linear and convolutional layers are drawn from ``{-std, std}`` or ``N(0, std²)`` with
    ``std = sqrt(2 / (fan_in · kept_fraction))`` (He et al., 2015; ``kept_fraction`` is that of the weights which a
    mask will keep), their biases are zero. Batch norms lose scale and shift; with ``statistics=False`` also their
    running mean and variance: they then always use those of the batch at hand, in eval mode too, and an image's
    output depends on the images beside it. Everything else, say a transformer's position codes, stays as it was drawn.

    Args:
        module: Of which only the shape counts; it stays as it is.
        init: The draw.
        kept_fraction: Of the weights, in (0, 1], by which the variance is divided.
        statistics: Whether batch norms keep running statistics.
        generator: Source of the weights.

    Returns:
        The copy, on the CPU.

    Raises:
        ValueError: For a network without a layer to mask, or another name of a draw.

    >>> from invkit.testing import tiny_target
    >>> network = draw_untrained(tiny_target().module, generator=torch.Generator())
    >>> network.conv1.weight.abs().unique().numel(), network.bn1.weight
    (1, None)
    """
    if init not in ("signed_constant", "kaiming_normal"):
        raise ValueError(f"init must be signed_constant or kaiming_normal, not {init!r}")
    network = copy.deepcopy(module).to("cpu").requires_grad_(False)
    for layer in maskable(network).values():
        std = math.sqrt(2 / (layer.weight[0].numel() * kept_fraction))
        drawn = torch.randn(layer.weight.shape, generator=generator) * std
        layer.weight.copy_(drawn if init == "kaiming_normal" else torch.where(drawn < 0, -std, std))
        if layer.bias is not None:
            layer.bias.zero_()
    for layer in network.modules():
        if isinstance(layer, _BatchNorm):
            _strip(layer, statistics)
    return network


def _strip(layer: _BatchNorm, statistics: bool) -> None:
    """Take scale and shift from a batch norm; and what it knows of earlier images, or also the place to keep it."""
    layer.affine = False
    layer.register_parameter("weight", None)
    layer.register_parameter("bias", None)
    if not statistics:
        keep_no_statistics(layer)
    elif layer.running_mean is None:
        keep_statistics(layer)
    layer.reset_running_stats()


def keep_statistics(layer: _BatchNorm) -> None:
    """Let a batch norm keep running statistics from now on, beginning with mean 0 and variance 1."""
    like = next((p for p in layer.parameters()), torch.zeros(()))
    layer.track_running_stats = True
    layer.register_buffer("running_mean", like.new_zeros(layer.num_features))
    layer.register_buffer("running_var", like.new_ones(layer.num_features))
    layer.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long, device=like.device))


def keep_no_statistics(layer: _BatchNorm) -> None:
    """Let a batch norm use the statistics of the batch at hand from now on, in eval mode too."""
    layer.track_running_stats = False
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        layer.register_buffer(name, None)


def score_weights(network: nn.Module, k: float, generator: torch.Generator, *, absolute: bool = False) -> None:
    """Give each layer of a frozen ``network`` scores, in place: from now on it uses ``k`` percent of each layer's
    weights. Scores are drawn Kaiming uniform, ``U(-b, b)`` with ``b = 1 / sqrt(fan_in)`` (torch's own default).

    >>> network = nn.Linear(8, 2).requires_grad_(False)
    >>> score_weights(network, 25, torch.Generator())
    >>> int((network.weight != 0).sum())
    4
    """
    for layer in maskable(network).values():
        bound = 1 / math.sqrt(layer.weight[0].numel())
        scores = (2 * torch.rand(layer.weight.shape, generator=generator) - 1) * bound
        scored = ScoredWeight(scores.to(layer.weight), k, absolute)
        parametrize.register_parametrization(layer, "weight", scored)


def masks_of(network: nn.Module) -> dict[str, Tensor]:
    """Which weights are used: those chosen by their scores or, once applied, those that are not zero.

    Args:
        network: With scored weights, or an ordinary one.

    Returns:
        For each linear and convolutional layer a mask of its weight's shape, bool, on the CPU.

    >>> network = nn.Sequential(nn.Linear(2, 1))
    >>> network[0].weight.data = torch.tensor([[0.0, 3.0]])
    >>> masks_of(network)
    {'0': tensor([[False,  True]])}
    """

    def mask(layer: Any) -> Tensor:
        if not parametrize.is_parametrized(layer, "weight"):
            return layer.weight.detach() != 0
        scored = layer.parametrizations.weight[0]
        return top_mask(scored.ranked(), scored.count)

    return {name: mask(layer).cpu() for name, layer in maskable(network).items()}


def apply_masks(network: nn.Module, masks: Masks) -> nn.Module:
    """A copy of a network in which weights outside the masks are zero: an ordinary network of ordinary layers.

    Args:
        network: Stays as it is.
        masks: For each linear and convolutional layer which of its weights are kept, bool, of the weight's shape.

    Returns:
        The copy.

    Raises:
        ValueError: Naming the layer for masks of another network: other layers, shapes or no booleans.

    >>> network = nn.Sequential(nn.Linear(2, 1))
    >>> apply_masks(network, {"0": torch.tensor([[False, True]])})[0].weight != 0
    tensor([[False,  True]])
    """
    masked = copy.deepcopy(network)
    layers = maskable(masked)
    differing = sorted(layers.keys() ^ masks.keys())
    if differing:
        raise ValueError(
            f"the masks are of another network: they and {type(network).__name__} do not share {differing}"
        )
    for name, layer in layers.items():
        if masks[name].shape != layer.weight.shape or masks[name].dtype != torch.bool:
            raise ValueError(
                f"the masks are of another network: {name} has weights {tuple(layer.weight.shape)}, its mask is "
                f"{tuple(masks[name].shape)} of {masks[name].dtype}"
            )
        with torch.no_grad():
            layer.weight.mul_(masks[name].to(layer.weight.device))
    return masked


def save_masks(masks: Masks, path: str | Path) -> None:
    """Write masks into a file, whole or not at all.

    Args:
        masks: As :func:`masks_of` gives them.
        path: Of the file, safetensors.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "masks.safetensors"
    >>> save_masks({"head": torch.tensor([True, False])}, path)
    >>> load_masks(path)
    {'head': tensor([ True, False])}
    """
    save_tensors(path, masks)


def load_masks(path: str | Path) -> dict[str, Tensor]:
    """Read what :func:`save_masks` wrote.

    Args:
        path: Of the file.

    Returns:
        For each layer a mask of its weight's shape.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: For a file that holds something else.

    >>> load_masks("nowhere.safetensors")
    Traceback (most recent call last):
    FileNotFoundError: there is no file of masks at nowhere.safetensors
    """
    return read_safetensors(path, "file of masks")
