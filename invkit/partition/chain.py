"""Cutting a target into blocks that run one after another: ``F = F_K o ... o F_1``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from invkit.core.hooks import Hooks, StopForward
from invkit.core.rng import seeded
from invkit.core.target import FrozenNetwork
from invkit.partition.sequential import Unit, decides, find_units


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One ``F_k``: what its inverse is built from. Shapes are those of one image's tensors.

    >>> from invkit.testing import tiny_target
    >>> partition_network(tiny_target()).blocks[0].outputs
    (4, 8, 8)
    """

    name: str
    """Where it ends: a module (its output), or ``module:input``."""
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    depth: int = 1
    """Number of units with weights inside."""
    residual: bool = False
    """Whether there are paths side by side inside, as in a residual block."""
    width: int | None = None
    """Channels inside, where they are fewer than the output's, as in a bottleneck."""
    signed: bool = True
    """Whether the output takes values below zero."""
    signed_inputs: bool = True
    """Whether the input does, or is an image or a code."""


class Chain:
    """A target and the places where it is cut; made by :func:`partition_network`.

    ``names`` are the cuts and ``blocks`` what lies between them, one for each cut.

    >>> from invkit.testing import tiny_target
    >>> chain = partition_network(tiny_target())
    >>> chain.names, len(chain)
    (('conv2:input', 'bn2', 'head'), 3)
    """

    def __init__(self, target: FrozenNetwork, names: Sequence[str]) -> None:
        modules = dict(target.module.named_modules())
        _check_names(target, names, modules)
        self.target, self.names = target, tuple(names)
        self.taps = [(modules[n.removesuffix(":input")], n.endswith(":input")) for n in names]
        self._copied: set[int] = set()
        self.blocks: tuple[Block, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def read(self, images: Tensor, depth: int | None = None) -> list[Tensor]:
        """The features of ``images`` at each cut, ``[F_1(x), F_1:2(x), ..., F_1:depth(x)]``; the pass ends there.

        Args:
            images: ``(N, C, H, W)`` in [0, 1], or codes ``(N, D)``. Gradients flow to them where they ask for them.
            depth: How many cuts to read; None reads all.

        Raises:
            ValueError: For images of another shape, or more cuts than there are.

        >>> from invkit.testing import tiny_target
        >>> chain = partition_network(tiny_target())
        >>> [tuple(features.shape) for features in chain.read(torch.rand(2, 3, 8, 8))]
        [(2, 4, 8, 8), (2, 8, 4, 4), (2, 4)]
        """
        # Values are not looked at, and a graph is kept: this runs in each step.
        fits = isinstance(images, Tensor) and images.dtype == self.target.dtype
        if not fits or tuple(images.shape[1:]) != self.target.spec.shape:
            images = self.target.check(images)
        return self._pass(images, len(self) if depth is None else self.check_depth(depth))

    def step(self, block: int, features: Tensor, images: Tensor) -> Tensor:
        """``F_block(features)``, from the pass of any other ``images`` with ``features`` put in at the cut before.

        >>> from invkit.testing import tiny_target
        >>> chain, images = partition_network(tiny_target()), torch.rand(2, 3, 8, 8)
        >>> first, second, third = chain.read(images)
        >>> torch.equal(chain.step(3, second, images.flip(0)), third)
        True
        """
        return self._pass(images, block, {block - 1: features})[block - 1]

    def check_depth(self, depth: int) -> int:
        """``depth`` if there are so many blocks; else ``ValueError``."""
        if not 1 <= depth <= len(self):
            raise ValueError(f"depth must lie in 1..{len(self)}, the blocks of {self.target.name}, not {depth}")
        return depth

    def _pass(self, images: Tensor, depth: int, replaced: Mapping[int, Tensor] | None = None) -> list[Tensor]:
        """Features at the first ``depth`` cuts, with those ``replaced`` put in at their cut (from 1)."""
        read: dict[int, tuple[Tensor, int]] = {}

        def visit(k: int, tensor: object) -> Tensor:
            if not isinstance(tensor, Tensor) or k in read:
                what = "is reached more than once" if k in read else f"gives a {type(tensor).__name__}, not a tensor"
                raise ValueError(f"the cut {self.names[k]!r} of {self.target.name} {what} in a forward pass")
            tensor = (replaced or {}).get(k + 1, tensor)
            read[k] = (tensor, _version(tensor))
            if k + 1 == depth:
                raise StopForward
            return tensor.clone() if k in self._copied else tensor

        with Hooks() as hooks, suppress(StopForward):
            for k, (module, before) in enumerate(self.taps[:depth]):
                register = hooks.before if before else hooks.after
                register(module, partial(visit, k))
            self.target(images)
        missing = [n for k, n in enumerate(self.names[:depth]) if k not in read]
        if missing:
            last = self.names[depth - 1]
            raise ValueError(f"the forward pass of {self.target.name} never reached {missing} before {last!r}")
        changed = {k for k, (tensor, version) in read.items() if _version(tensor) != version}
        if changed:  # by an activation that works in place: from now on it gets a copy
            self._copied |= changed
            return self._pass(images, depth, replaced)
        return [read[k][0] for k in range(depth)]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version  # counts changes in place; not kept in inference mode


def partition_network(target: FrozenNetwork, cut: Sequence[str] | None = None) -> Chain:
    """Cut ``target`` into blocks that run one after another.

    The default follows Dong et al., §3 and §4.4: a block is one layer with weights, or one residual unit, with the
    batch norm, the activation and the max-pool that follow it; a global pooling belongs to the linear layer behind
    it. It is found by trying (:func:`invkit.partition.sequential.find_units`) and so works for networks of any make.

    Args:
        target: A classifier, or a :class:`invkit.core.target.GeneratorTarget`, whose inputs are codes and whose last
            features are images.
        cut: Where the blocks end: names of modules for their outputs, ``name:input`` for what goes into one. None
            takes one block for each layer.

    Returns:
        The target with its cuts and blocks.

    Raises:
        ValueError: Two images of noise (or codes) are sent through. Where the blocks, one after another, do not give
            the target's features (a shortcut passes by a cut, the names are out of order), where a module is unknown,
            reached twice or never, or where a shape is not the same for each image.

    >>> from invkit.testing import tiny_target
    >>> chain = partition_network(tiny_target(), ["bn1", "head"])
    >>> [(block.inputs, block.outputs) for block in chain.blocks]
    [((3, 8, 8), (4, 8, 8)), ((4, 8, 8), (4,))]
    """
    target.check_frozen()
    probe = target.spec.probe(seeded(0)).to(target.device)
    with torch.no_grad():
        units = find_units(target.module, target.spec.normalise(probe))
        chain = Chain(target, propose(units) if cut is None else cut)
        features = _verified(chain, probe)
    chain.blocks = _describe(chain, units, [probe, *features])
    return chain


def propose(units: Sequence[Unit]) -> list[str]:
    """Where to cut a chain of units: behind each one with weights and what belongs to it.

    >>> from invkit.testing import tiny_target
    >>> target = tiny_target()
    >>> propose(find_units(target.module, torch.rand(2, 3, 8, 8)))
    ['conv2:input', 'bn2', 'head']
    """
    groups: list[list[Unit]] = []
    waiting: list[Unit] = []  # for the linear layer that a pooling or flattening prepares
    for unit in units:
        if unit.weighted or not groups:
            groups.append([*waiting, unit])
            waiting = []
        elif waiting or unit.outputs[0].squeeze().ndim < groups[-1][-1].outputs[0].squeeze().ndim:
            waiting.append(unit)
        else:
            groups[-1].append(unit)
    groups = _with_weights(groups)
    return [_end(group, following) for group, following in zip(groups, [*groups[1:], None], strict=True)]


def _with_weights(groups: list[list[Unit]]) -> list[list[Unit]]:
    """A first group without weights joins the next."""
    if len(groups) > 1 and not any(u.weighted for u in groups[0]):
        return [groups[0] + groups[1], *groups[2:]]
    return groups


def _end(group: list[Unit], following: list[Unit] | None) -> str:
    last = group[-1].outputs
    if following is not None:
        entering = following[0].inputs
        if entering.ndim == last.ndim and not _equal(entering, last):  # a function in between, such as F.relu
            return f"{following[0].name}:input"
    while len(group) > 1 and _equal(group[-1].outputs, group[-2].outputs):  # dropout and the like
        group = group[:-1]
    return group[-1].name


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def _check_names(target: FrozenNetwork, names: Sequence[str], modules: dict[str, torch.nn.Module]) -> None:
    unknown = [n for n in names if n.removesuffix(":input") not in modules or not n]
    if unknown or not names:
        raise ValueError(f"{target.name} has no layer to cut at named {unknown}; it has {[n for n in modules if n]}")
    twice = sorted({n for n in names if list(names).count(n) > 1})
    if twice:
        raise ValueError(f"the cut of {target.name} names {twice} twice")


def _verified(chain: Chain, probe: Tensor) -> list[Tensor]:
    """Features of the probe; raises where the blocks one after another give others."""
    name, names = chain.target.name, chain.names
    features, single = chain.read(probe), chain.read(probe[:1])
    for k, (two, one) in enumerate(zip(features, single, strict=True)):
        if two.shape[0] != 2 or one.shape != (1, *two.shape[1:]):
            raise ValueError(
                f"the shape at the cut {names[k]!r} of {name} changes between calls: {tuple(two.shape)} "
                f"for two images, {tuple(one.shape)} for one"
            )
    for k in range(2, len(chain) + 1):
        if not decides(chain.step(k, features[k - 2], probe.flip(0)), features[k - 1]):
            raise ValueError(
                f"the cut of {name} is not a chain: the features at {names[k - 1]!r} do not follow from those at "
                f"{names[k - 2]!r} alone"
            )
    return features


def _describe(chain: Chain, units: Sequence[Unit], features: Sequence[Tensor]) -> tuple[Block, ...]:
    inside = _members(chain, units, features[0])
    blocks = []
    for k, name in enumerate(chain.names):
        weighted = [u for u in inside[k] if u.weighted]
        widths = [c for u in weighted for c, kernel in u.convolutions if kernel > 1]
        shape = tuple(features[k + 1].shape[1:])
        blocks.append(
            Block(
                name=name, inputs=tuple(features[k].shape[1:]), outputs=shape, depth=max(1, len(weighted)),
                residual=any(_by_passed(u) for u in weighted) and len(shape) == 3,
                width=min(widths) if widths and min(widths) < shape[0] else None,
                signed=bool(features[k + 1].min() < 0), signed_inputs=k == 0 or bool(features[k].min() < 0),
            )
        )  # fmt: skip
    return tuple(blocks)


def _by_passed(unit: Unit) -> bool:
    # The parallel branches of a RepVGG block add up to one convolution; there is no way round it.
    return unit.branches and not hasattr(unit.module, "reparameterize")


def _members(chain: Chain, units: Sequence[Unit], probe: Tensor) -> list[list[Unit]]:
    """The units of each block: those that end between its two cuts."""
    inside: list[list[Unit]] = [[]]

    def enter(unit: Unit, _: object) -> None:
        inside[-1].append(unit)

    def pass_cut(_: object) -> None:
        inside.append([])

    with Hooks() as hooks:
        # Of two hooks on one module the first registered comes first: a unit ends before the cut behind it.
        for unit in units:
            hooks.after(unit.module, partial(enter, unit))
        for module, before in chain.taps:
            register = hooks.before if before else hooks.after
            register(module, pass_cut)
        chain.target(probe[:1])
    return inside
