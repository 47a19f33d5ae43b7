"""Batch-norm statistics gathered anew, from images of one's choice."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from invkit.core.target import Target
from invkit.networks.masked import keep_no_statistics, keep_statistics


@torch.no_grad()
def calibrate(target: Target, images: Tensor, *, batch_size: int = 256) -> Target:
    """A copy of ``target`` whose batch norms know the statistics of ``images`` alone.

    Each layer's mean and (unbiased) variance are the averages over batches of those it meets while every layer before
    it uses the batch's own, as in training; batch norms that kept none do so from then on. No weight changes.

    Args:
        target: Stays as it is.
        images: ``(N, C, H, W)`` in [0, 1].
        batch_size: Of the batches; a rest of fewer images is left out unless there is nothing else.

    Returns:
        The calibrated copy.

    Raises:
        ValueError: For images that do not fit, fewer than two, or a network without batch norm.

    >>> from invkit.testing import tiny_target
    >>> target = calibrate(tiny_target(), torch.zeros(8, 3, 8, 8))
    >>> target.module.bn2.running_var.max() < 0.5
    tensor(True)
    """
    target.check_frozen()
    images = target.check(images)
    module = copy.deepcopy(target.module)
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    if not layers or len(images) < 2:
        raise ValueError(
            f"calibrating {target.name} needs batch norms, it has {len(layers)}, and two images, not {len(images)}"
        )
    usual = [layer.momentum for layer in layers]
    for layer in layers:
        if layer.running_mean is None:
            keep_statistics(layer)
            layer.to(target.device)
        layer.reset_running_stats()
        layer.momentum = None  # a plain average over the batches
        layer.train()
    whole = len(images) // batch_size * batch_size or len(images)
    for part in images[:whole].split(batch_size):
        module(target.spec.normalise(part.to(target.device)))
    for layer, momentum in zip(layers, usual, strict=True):
        layer.momentum = momentum
    return Target(module, target.spec, f"{target.name}, calibrated")


def without_statistics(target: Target) -> Target:
    """A copy of ``target`` whose batch norms keep no statistics: each batch is normalised by its own, so that what is
    said of an image depends on the images beside it. Nothing is left that DeepInversion could match.

    Args:
        target: Stays as it is.

    Returns:
        The copy without statistics.

    Raises:
        ValueError: For a network without batch norm.

    >>> from invkit.testing import tiny_target
    >>> without_statistics(tiny_target()).module.bn1.running_mean is None
    True
    """
    target.check_frozen()
    module = copy.deepcopy(target.module)
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    if not layers:
        raise ValueError(f"{target.name} has no batch norm whose statistics could be forgotten")
    for layer in layers:
        keep_no_statistics(layer)
    return Target(module, target.spec, f"{target.name}, without statistics")
