"""The smallest parts of a network that run one after another: found by trying, for any module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd


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
    """
    call = _Call("", module, images, module(images))
    return list(_walk(call))


def decides(found: Tensor, wanted: Tensor) -> bool:
    """Whether ``found`` is ``wanted`` ``(2, ...)``, measured by how much its two images differ from each other."""
    if found.shape != wanted.shape:
        return False
    gap = (wanted - wanted.flip(0)).abs().max()  # small in deep networks: no tolerance beside it
    return bool((found - wanted).abs().max() <= 1e-2 * gap)


class _Stop(Exception):
    """Ends a pass at the module that is looked at."""


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
    odd = False

    def record(name: str, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], out: object) -> None:
        nonlocal odd
        plain = len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and isinstance(out, Tensor)
        odd = odd or not plain or any(c.module is module for c in calls)
        if plain:
            # Copies, since an activation may work in place on what it is given.
            calls.append(_Call(name, module, inputs.pop(module), out.clone()))  # type: ignore[attr-defined]

    inputs: dict[nn.Module, Tensor] = {}

    def before(module: nn.Module, args: tuple[object, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            inputs[module] = args[0].clone()

    with ExitStack() as stack:
        for name, child in _direct(call.module, call.name):
            stack.callback(child.register_forward_pre_hook(before).remove)
            hook = child.register_forward_hook(lambda m, a, k, o, n=name: record(n, m, a, k, o), with_kwargs=True)
            stack.callback(hook.remove)
        call.module(call.inputs.clone())
    return [] if odd else calls


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
    return all(_reaches(call, child, then) for child, then in zip(calls, following, strict=True))


def _reaches(call: _Call, child: _Call, then: _Call | None) -> bool:
    """Whether the next child (or the end) gets the same when this child's answer alone is put into another pass."""
    found: list[Tensor] = []

    def look(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        found.append(args[0])
        raise _Stop

    with ExitStack() as stack:
        stack.callback(child.module.register_forward_hook(lambda *_: child.outputs.clone()).remove)
        if then is not None:
            stack.callback(then.module.register_forward_pre_hook(look).remove)
        with suppress(_Stop):
            found.append(call.module(call.inputs.flip(0)))
    return decides(found[0], call.outputs if then is None else then.inputs)
