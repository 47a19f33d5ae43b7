"""Imports point downward only: ground, parts, loops, methods, show."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest
import yaml

PACKAGE = Path(__file__).resolve().parents[1] / "invkit"
LAYERS = yaml.safe_load((PACKAGE.parent / "book/api/layers.yml").read_text("utf8"))
APART = set(LAYERS.pop("runner"))
HEIGHT = {name: height for height, names in enumerate(LAYERS.values()) for name in names}
# Extensions that the papers themselves make.
EXTENSIONS = {("ood", "network_inversion"), ("reconstruction", "network_inversion")}
DRAWING = {"matplotlib", "seaborn", "ipywidgets"}
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def imported(path: Path) -> set[tuple[str, ...]]:
    """Modules that a file imports, anywhere in it, as tuples of names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf8"))):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            base = tuple((node.module or "").split("."))
            # `from invkit import priors` may name a module; a name below one does no harm here.
            found |= {(*base, alias.name) for alias in node.names} if base == ("invkit",) else {base}
    return found


def part(path: Path) -> str:
    """The part of the package that a file belongs to: a module's or a folder's name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def own(path: Path) -> set[str]:
    """Parts of the package that a file imports, without its own."""
    return {names[1] for names in imported(path) if names[0] == "invkit" and len(names) > 1} - {part(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_point_downward(path):
    name = part(path)
    if name in APART:
        assert own(path) <= APART, f"{name} stands apart from the layers"
        return
    assert name in HEIGHT, f"invkit.{name} has no layer yet: give it one in book/api/layers.yml"
    upward = {other for other in own(path) if HEIGHT.get(other, 99) > HEIGHT[name]}
    assert not upward, f"{name} imports {sorted(upward)}, which stand above it or have no layer"


@pytest.mark.parametrize("path", sorted((PACKAGE / "methods").glob("[!_]*.py")), ids=lambda p: p.stem)
def test_methods_do_not_import_each_other(path):
    others = {names[2] for names in imported(path) if names[:2] == ("invkit", "methods") and len(names) > 2}
    assert {(path.stem, other) for other in others} <= EXTENSIONS


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_only_show_draws(path):
    drawing = DRAWING & {names[0] for names in imported(path)}
    assert part(path) == "show" or not drawing, f"{part(path)} imports {sorted(drawing)}"


def test_no_circles_within_a_layer():
    graph: dict[str, set[str]] = {}
    for path in FILES:
        graph.setdefault(part(path), set()).update(own(path))
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"imports go round in a circle: {error.args[1]}")


def test_the_worker_starts_without_the_package():
    assert not own(PACKAGE / "run_worker.py"), "each worker would import torch"
