"""Networks made smaller without their data: weights pruned, and weights and activations rounded to a few bits."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import prune

from invkit.core.hooks import Hooks
from invkit.core.target import Target

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def _layers_of(target: Target, module: nn.Module) -> list[Any]:
    layers = [layer for layer in module.modules() if isinstance(layer, _LAYERS)]
    if not layers:
        raise ValueError(f"{target.name} has no convolution and no linear layer to compress")
    return layers


def prune_weights(target: Target, share: float) -> Target:
    """A copy of ``target`` without its smallest weights, by ``torch.nn.utils.prune``.

    The weights of all convolutions and linear layers are ranked together by their magnitude. Batch norms keep the
    statistics of the whole network, which are no longer those of the pruned one: :func:`move_statistics` and
    :func:`~invkit.networks.batch_norm.calibrate` mend that.

    Args:
        target: Stays as it is.
        share: Of the weights that become zero, in (0, 1).

    Returns:
        The pruned copy.

    Raises:
        ValueError: For a share outside of (0, 1), or a network without such layers.

    >>> from invkit.testing import tiny_target
    >>> pruned = prune_weights(tiny_target(), 0.5)
    >>> weights = torch.cat([layer.weight.flatten() for layer in _layers_of(pruned, pruned.module)])
    >>> round(float((weights == 0).float().mean()), 2)
    0.5
    """
    target.check_frozen()
    if not 0 < share < 1:
        raise ValueError(f"share must lie in (0, 1), not {share}")
    module = copy.deepcopy(target.module)
    weights = [(layer, "weight") for layer in _layers_of(target, module)]
    prune.global_unstructured(weights, pruning_method=prune.L1Unstructured, amount=share)
    for layer, name in weights:
        prune.remove(layer, name)
        layer.weight.requires_grad_(False)
    return Target(module, target.spec, f"{target.name}, {share:.0%} pruned")


@torch.no_grad()
def move_statistics(target: Target, original: Target, images: Tensor) -> Target:
    r"""A copy of ``target`` whose batch norms keep what ``original`` stored, moved by as much as ``images`` say.

    What the images are like cancels out: with :math:`\mu, \sigma^2` of a layer's input on the images, in the changed
    network (new) and in the original (old), the stored mean becomes
    :math:`\mu_s + (\mu_{new} - \mu_{old})` and the stored variance
    :math:`\sigma_s^2\, \sigma_{new}^2 / \sigma_{old}^2`. Layer after layer, so that each sees the layers
    before it mended. A network that was not changed keeps its statistics, whatever the images are.

    Args:
        target: The changed network, pruned or of few bits; stays as it is.
        original: What it was made from.
        images: ``(N, C, H, W)`` in [0, 1], of any origin, in one pass.

    Returns:
        The copy with other statistics.

    Raises:
        ValueError: For images that do not fit, or networks whose batch norms are not the same.

    >>> from invkit.testing import tiny_target
    >>> whole, images = tiny_target(), torch.rand(8, 3, 8, 8)
    >>> same = move_statistics(whole, whole, images)
    >>> torch.allclose(same(images), whole(images), atol=1e-5)
    True
    """
    target.check_frozen()
    original.check_frozen()
    images = target.check(images)
    module = copy.deepcopy(target.module)
    layers, before = _batch_norms(module), _batch_norms(original.module)
    widths = [layer.num_features for layer in layers], [layer.num_features for layer in before]
    if not layers or widths[0] != widths[1] or any(layer.running_mean is None for layer in before):
        raise ValueError(
            f"{target.name} and {original.name} must have the same batch norms with stored statistics, "
            f"not {len(layers)} and {len(before)}"
        )
    old: dict[int, tuple[Tensor, Tensor]] = {}

    def watch(k: int, inputs: Tensor) -> None:
        old[k] = _moments_of(inputs)

    def move(k: int, inputs: Tensor) -> None:
        (mean, var), (old_mean, old_var) = _moments_of(inputs), old[k]
        layer, stored = layers[k], before[k]
        layer.running_mean.copy_(stored.running_mean + mean - old_mean)
        layer.running_var.copy_(stored.running_var * (var + layer.eps) / (old_var + layer.eps))

    shown = target.spec.normalise(images.to(target.device))
    for network, visit, norms in ((original.module, watch, before), (module, move, layers)):
        with Hooks() as hooks:
            for k, layer in enumerate(norms):
                hooks.before(layer, partial(visit, k))
            network(shown)
    return Target(module, target.spec, f"{target.name}, statistics moved")


def _batch_norms(module: nn.Module) -> list[Any]:
    return [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]


def _moments_of(x: Tensor) -> tuple[Tensor, Tensor]:
    inside = [dim for dim in range(x.ndim) if dim != 1]
    var, mean = torch.var_mean(x, inside)
    return mean, var


def _rounded(weight: Tensor, bits: int) -> Tensor:
    """The weight rounded channel by channel, symmetrically."""
    from torch.ao.quantization import PerChannelMinMaxObserver

    top = 2 ** (bits - 1) - 1
    symmetric = torch.per_channel_symmetric
    observer = PerChannelMinMaxObserver(dtype=torch.qint8, qscheme=symmetric, quant_min=-top, quant_max=top)
    observer(weight.cpu())
    scale, zero = observer.calculate_qparams()
    return torch.fake_quantize_per_channel_affine(weight.cpu(), scale, zero.int(), 0, -top, top).to(weight.device)


class _RoundedInput:
    """A hook that first watches a layer's input, and then rounds it to the range that it has seen."""

    def __init__(self, bits: int) -> None:
        from torch.ao.quantization import HistogramObserver

        self.top = 2**bits - 1
        self.observer = HistogramObserver(dtype=torch.quint8, quant_min=0, quant_max=self.top)
        self.range: tuple[Tensor, Tensor] | None = None  # scale and zero point

    def fix(self, device: torch.device) -> None:
        """Go from watching to rounding."""
        scale, zero = self.observer.calculate_qparams()
        self.range = (scale.to(device), zero.to(device, torch.int32))

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        first, *rest = inputs
        if self.range is None:
            self.observer(first.detach().float().cpu())
            return inputs
        return (torch.fake_quantize_per_tensor_affine(first, *self.range, 0, self.top), *rest)


def quantise_network(
    target: Target, images: Tensor, *, bits: int = 8, weight_bits: int = 8, batch_size: int = 16
) -> Target:
    """A copy of ``target`` that computes with few bits, its ranges taken from ``images``.

    Of every convolution and linear layer the weights are rounded channel by channel, symmetrically, and the inputs to a
    range that torch's ``HistogramObserver`` chooses by the least squared error on what the layer is given of
    ``images``. This is the arithmetic of static quantisation, simulated in float32: the same numbers as integer kernels
    up to the rounding of sums, on any device. A batch norm after a layer scales its channels, which rounding by channel
    commutes with, so nothing has to be folded.

    Args:
        target: Stays as it is.
        images: ``(N, C, H, W)`` in [0, 1]: what ranges are taken from, of any origin.
        bits: Of the layers' inputs, 2 to 8.
        weight_bits: Of the weights, 2 to 8.
        batch_size: Of the passes over ``images``.

    Returns:
        The quantised copy, which can be judged but not trained.

    Raises:
        ValueError: For bits outside of 2 to 8, images that do not fit, or a network without such layers.

    >>> from invkit.testing import tiny_target
    >>> target, images = tiny_target(), torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> errors = [float((quantise_network(target, images, bits=b)(images) - target(images)).norm()) for b in (8, 4)]
    >>> errors[0] < errors[1]
    True
    """
    target.check_frozen()
    for name, value in (("bits", bits), ("weight_bits", weight_bits)):
        if isinstance(value, bool) or not isinstance(value, int) or not 2 <= value <= 8:
            raise ValueError(f"{name} must be a whole number from 2 to 8, not {value!r}")
    images = target.check(images)
    module = copy.deepcopy(target.module)
    hooks = []
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's words about where its observers will live one day
        for layer in _layers_of(target, module):
            layer.weight.copy_(_rounded(layer.weight, weight_bits))
            hooks.append(_RoundedInput(bits))
            layer.register_forward_pre_hook(hooks[-1])
        for part in images.split(batch_size):
            module(target.spec.normalise(part.to(target.device)))
        for hook in hooks:
            hook.fix(target.device)
    return Target(module, target.spec, f"{target.name}, {weight_bits}/{bits} bits")
