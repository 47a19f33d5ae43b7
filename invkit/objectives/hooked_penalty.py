"""R_feature as the papers' own programs compute it: by autograd through each layer's statistics.

Kept for comparison, in tests, in the benchmark and in the first chapter; nothing in the package runs on it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from invkit.core.hooks import Hooks
from invkit.core.target import Target
from invkit.objectives.batch_norm import BatchNormPenalty


def hooked_penalty(target: Target, images: Tensor, *, keep_features: bool) -> Tensor:
    """R_feature of ``images`` as one batch, a scalar with a graph to them (Botach & Cohen, §4.1.1).

    Args:
        target: The network, with batch norms that keep running statistics.
        images: ``(N, C, H, W)`` in [0, 1].
        keep_features: Collect each layer's input and compute the statistics at the end, as the authors did first;
            otherwise hooks add the penalty up during the forward pass, as they did then.

    Returns:
        The penalty, at least 0.

    >>> from invkit.testing import tiny_target
    >>> target, images = tiny_target(), torch.rand(4, 3, 8, 8)
    >>> kept, hooked = (hooked_penalty(target, images, keep_features=keep) for keep in (True, False))
    >>> torch.testing.assert_close(kept, hooked)
    """
    layers = BatchNormPenalty(target.module).layers
    inputs: list[tuple[nn.Module, Tensor]] = []
    terms: list[Tensor] = []

    def visit(layer: nn.Module, x: Tensor) -> None:
        if keep_features:
            inputs.append((layer, x))
        else:
            terms.append(_gap(layer, x))

    with Hooks() as hooks:
        for layer in layers:
            hooks.before(layer, partial(visit, layer))
        target(images)
    return torch.stack(terms + [_gap(layer, x) for layer, x in inputs]).sum()


def _gap(layer: Any, x: Tensor) -> Tensor:
    dims = [0, *range(2, x.ndim)]
    return (x.mean(dims) - layer.running_mean).norm() + (x.var(dims) - layer.running_var).norm()
