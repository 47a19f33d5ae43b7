"""Every public name says what comes in and out, and shows it: the examples themselves run as doctests."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
from typing import Any, get_type_hints

import pytest

import invkit
from invkit import (
    analysis,
    attacks,
    book,
    data,
    methods,
    metrics,
    networks,
    objectives,
    partition,
    show,
    transforms,
)
from invkit.core.config import Config

ROOMS = (invkit, metrics, data, transforms, objectives, partition, networks, attacks, methods, analysis, show, book)


def names_of(module: types.ModuleType) -> list[str]:
    """What a module hands out: its ``__all__``, or without one the functions and classes written in it."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        n for n, v in vars(module).items() if not n.startswith("_") and getattr(v, "__module__", "") == module.__name__
    ]


def public() -> dict[str, Any]:
    """Public functions and classes by their full names, each once; also those of modules such as ``losses``."""
    found: dict[str, Any] = {}
    modules = list(ROOMS)
    for module in modules:
        for name in names_of(module):
            value = getattr(module, name)
            if isinstance(value, types.ModuleType):
                if module is not invkit and value not in modules:  # losses, priors, logits
                    modules.append(value)
            elif (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__.startswith("invkit."):
                found[f"{value.__module__}.{value.__qualname__}"] = value
    return dict(sorted(found.items()))


def missing(value: Any) -> list[str]:
    """What the docstring of a function or class lacks."""
    text = value.__doc__ or ""
    lacks = [] if is_shown(value) or _is_error(value) else ["an example"]
    if inspect.isfunction(value):
        if inspect.signature(value).parameters and "Args:" not in text:
            lacks.append("Args")
        if get_type_hints(value).get("return") is not type(None) and "Returns:" not in text:
            lacks.append("Returns")
    elif issubclass(value, Config):
        lacks += [f"a docstring of {name}" for name in undocumented_fields(value)]
    return lacks


def is_shown(value: Any) -> bool:
    """Whether there is an example: in the docstring, or for a class in that of one of its methods."""
    texts = [value.__doc__]
    if inspect.isclass(value):
        texts += [getattr(member, "__doc__", None) for name, member in vars(value).items() if not name.startswith("_")]
    return any(">>>" in (text or "") for text in texts)


def _is_error(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, BaseException)


def undocumented_fields(config: type) -> list[str]:
    """Fields that neither the config nor one that it extends has a docstring for."""
    bases = [base for base in config.__mro__ if issubclass(base, Config)]
    documented = {name for base in bases for name in _documented(base)}
    return [f.name for f in dataclasses.fields(config) if f.name not in documented]


def _documented(config: type) -> set[str]:
    """Fields with a string below them."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    assert isinstance(node, ast.ClassDef)
    names = set()
    for line, below in zip(node.body, node.body[1:]):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(below, ast.Expr):
            names.add(line.target.id)
    return names


@pytest.mark.parametrize("name", public())
def test_it_is_documented(name):
    lacks = missing(public()[name])
    assert not lacks, f"the docstring of {name} lacks {', '.join(lacks)}"


def test_what_is_missing_is_found():
    def bare(images: int) -> int:
        """Does something."""
        return images

    @dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
    class BareConfig(Config):
        """A config.

        >>> 1
        1
        """

        steps: int = 3
        """How long."""
        lr: float = 0.1

    assert missing(bare) == ["an example", "Args", "Returns"]
    assert missing(BareConfig) == ["a docstring of lr"]
    assert missing(invkit.compare) == []
    assert len(public()) > 100
