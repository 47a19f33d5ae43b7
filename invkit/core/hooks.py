"""Hooks on the modules of a network: to read what passes, to put something else there, to stop the pass early."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import nn

Visit = Callable[[Any], Any]
"""Sees what goes into a module, or comes out; what it returns takes that place, None leaves it."""


class StopForward(Exception):
    """Raised by a visit to end the forward pass; whoever started the pass catches it."""


class Hooks(ExitStack):
    """Hooks that are gone when the context is left, whatever happens in it.

    >>> import torch
    >>> from invkit.testing import tiny_target
    >>> shapes, target = [], tiny_target()
    >>> with Hooks() as hooks:
    ...     hooks.after(target.module.conv2, lambda output: shapes.append(tuple(output.shape)))
    ...     logits = target(torch.rand(5, 3, 8, 8))
    >>> shapes
    [(5, 8, 4, 4)]
    """

    def before(self, module: nn.Module, visit: Visit) -> None:
        """Call ``visit`` with the first input of ``module`` each time the module runs.

        >>> module = nn.Identity()
        >>> with Hooks() as hooks:
        ...     hooks.before(module, lambda x: 2 * x)
        ...     module(3)
        6
        """

        def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
            answer = visit(inputs[0])
            return None if answer is None else (answer, *inputs[1:])

        self.callback(module.register_forward_pre_hook(hook).remove)

    def after(self, module: nn.Module, visit: Visit) -> None:
        """Call ``visit`` with the output of ``module`` each time the module has run.

        >>> module = nn.Identity()
        >>> with Hooks() as hooks:
        ...     hooks.after(module, lambda x: x + 1)
        ...     module(3)
        4
        """
        self.callback(module.register_forward_hook(lambda _module, _inputs, output: visit(output)).remove)
