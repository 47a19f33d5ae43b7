"""R_feature as the papers' own programs compute it: by autograd through each layer's statistics.

Kept for comparison, in tests, in the benchmark and in the first chapter; nothing in the package runs on it."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from invkit.core.hooks import Hooks
from invkit.core.target import Target
from invkit.objectives.batch_norm import BatchNormPenalty

Keep = Literal["nothing", "statistics", "features"]


def hooked_penalty(target: Target, images: Tensor, *, keep: Keep) -> Tensor:
    """R_feature of ``images`` as one batch, a scalar with a graph to them (Botach & Cohen, §4.1.1).

    Args:
        target: The network, with batch norms that keep running statistics.
        images: ``(N, C, H, W)`` in [0, 1].
        keep: What hooks collect in the forward pass: each layer's mean and variance in a list, as the authors did
            first; nothing, where they add the penalty up, as they did then; or each layer's input, as some programs do.

    Returns:
        The penalty, at least 0.

    Raises:
        ValueError: For another ``keep``.

    >>> from invkit.testing import tiny_target
    >>> target, images = tiny_target(), torch.rand(4, 3, 8, 8)
    >>> listed, added = (hooked_penalty(target, images, keep=keep) for keep in ("statistics", "nothing"))
    >>> torch.testing.assert_close(listed, added)
    """
    if keep not in get_args(Keep):
        raise ValueError(f"keep must be one of {', '.join(get_args(Keep))}, not {keep!r}")
    layers = BatchNormPenalty(target.module).layers
    inputs: list[tuple[Any, Tensor]] = []
    statistics: list[tuple[Any, Tensor, Tensor]] = []
    total: Tensor | float = 0.0

    def visit(layer: nn.Module, x: Tensor) -> None:
        nonlocal total
        if keep == "features":
            inputs.append((layer, x))
        elif keep == "statistics":
            statistics.append((layer, *_statistics(x)))
        else:
            total = total + _gap(layer, *_statistics(x))

    with Hooks() as hooks:
        for layer in layers:
            hooks.before(layer, partial(visit, layer))
        target(images)
    for layer, x in inputs:
        statistics.append((layer, *_statistics(x)))
    for layer, mean, variance in statistics:
        total = total + _gap(layer, mean, variance)
    return torch.as_tensor(total)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    dims = [0, *range(2, x.ndim)]
    return x.mean(dims), x.var(dims)


def _gap(layer: Any, mean: Tensor, variance: Tensor) -> Tensor:
    return (mean - layer.running_mean).norm() + (variance - layer.running_var).norm()
