"""The smallest parts of a network that run one after another: found by trying, for any module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from invkit.core.hooks import Hooks, StopForward


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Unit:
    """A module through which everything that follows is reached, with its tensors for two images."""

    name: str
    module: nn.Module
    inputs: Tensor
    outputs: Tensor
    branches: bool
    """Whether paths run side by side inside, as in a residual block; else it is a single layer."""

    @property
    def weighted(self) -> bool:
        """Whether it holds a convolution, a linear layer or the like; batch norms and activations do not count."""
        return any(p.ndim > 1 for p in self.module.parameters())

    @property
    def convolutions(self) -> list[tuple[int, int]]:
        """Output channels and kernel size of each convolution inside."""
        layers = [m for m in self.module.modules() if isinstance(m, _ConvNd)]
        return [(m.out_channels, m.kernel_size[0]) for m in layers]


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    name: str
    module: nn.Module
    inputs: Tensor
    outputs: Tensor


@torch.no_grad()
def find_units(module: nn.Module, images: Tensor) -> list[Unit]:
    """The finest chain of modules whose composition is ``module``, in order; ``images`` are two, normalised.

    A module is taken apart where each of its children, once its output is known, decides all that follows: the
    output for one image, put into the pass of another, must give the next child what it gets for the first. Where
    this fails (a shortcut by-passes the child) the module is one unit. Activations, pools and other functions between
    the children need no module of their own.

    >>> from invkit.testing import tiny_target
    >>> [unit.name for unit in find_units(tiny_target().module, torch.rand(2, 3, 8, 8))]
    ['conv1', 'bn1', 'conv2', 'bn2', 'head']
    """
    call = _Call("", module, images, module(images))
    return list(_walk(call))


def decides(features: Tensor, expected: Tensor) -> bool:
    """Whether ``features`` are as ``expected`` ``(2, ...)``, measured by how much its two images differ.

    >>> decides(torch.tensor([0.0, 1.001]), torch.tensor([0.0, 1.0])), decides(torch.zeros(2), torch.tensor([0.0, 1.0]))
    (True, False)
    """
    if features.shape != expected.shape:
        return False
    gap = (expected - expected.flip(0)).abs().max()  # small in deep networks: no tolerance beside it
    return bool((features - expected).abs().max() <= 1e-2 * gap)


def _walk(call: _Call) -> Iterator[Unit]:
    calls = _children(call)
    if calls and _is_chain(call, calls):
        for child in calls:
            yield from _walk(child)
    else:
        branches = any(True for _ in call.module.children())
        yield Unit(name=call.name, module=call.module, inputs=call.inputs, outputs=call.outputs, branches=branches)


def _children(call: _Call) -> list[_Call]:
    """Calls of the direct children, in order; none where one takes or gives anything but a tensor, or runs twice."""
    calls: list[_Call] = []
    inputs: dict[nn.Module, Tensor] = {}
    separable = True

    def before(module: nn.Module, args: tuple[object, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            inputs[module] = args[0].clone()  # copies, since an activation may work in place on what it is given

    def after(
        name: str, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object
    ) -> None:
        nonlocal separable
        plain = len(args) == 1 and not kwargs and module in inputs and isinstance(output, Tensor)
        separable = separable and plain and all(earlier.module is not module for earlier in calls)
        if plain:
            calls.append(_Call(name, module, inputs.pop(module), output.clone()))  # type: ignore[attr-defined]

    with Hooks() as hooks:
        for name, child in _direct(call.module, call.name):
            hooks.callback(child.register_forward_pre_hook(before).remove)
            hooks.callback(child.register_forward_hook(partial(after, name), with_kwargs=True).remove)
        call.module(call.inputs.clone())
    return calls if separable else []


def _direct(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Children with their full names; lists and dictionaries of modules, which are never called, are looked through."""
    for name, child in module.named_children():
        full = f"{prefix}.{name}" if prefix else name
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _direct(child, full)
        else:
            yield full, child


def _is_chain(call: _Call, calls: list[_Call]) -> bool:
    if type(call.module).forward is nn.Sequential.forward:
        return True
    following = [*calls[1:], None]
    return all(_reaches(call, child, after) for child, after in zip(calls, following, strict=True))


def _reaches(call: _Call, child: _Call, following: _Call | None) -> bool:
    """Whether the next child (or the end) gets the same when this child's answer alone is put into another pass."""
    reached: list[Tensor] = []

    def stop(inputs: Tensor) -> None:
        reached.append(inputs)
        raise StopForward

    with Hooks() as hooks, suppress(StopForward):
        hooks.after(child.module, lambda _: child.outputs.clone())
        if following is not None:
            hooks.before(following.module, stop)
        reached.append(call.module(call.inputs.flip(0)))
    return decides(reached[0], call.outputs if following is None else following.inputs)
