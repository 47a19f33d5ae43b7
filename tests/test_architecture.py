"""Folders are the layers: imports point downward only, drawing stays in its room, and no room is crowded."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "invkit"
# Rooms on one line may not import each other, those further down may import all above.
ORDER = [
    "core",
    "transforms",
    "objectives data",
    "metrics partition",
    "networks attacks",
    "engine",
    "methods analysis",
    "testing",
    "show",
    "report",
    "book",
]
HEIGHT = {room: height for height, rooms in enumerate(ORDER) for room in rooms.split()}
# Extensions that the papers themselves make.
EXTENSIONS = {
    ("garbage_class", "network_inversion"), ("reconstruction", "network_inversion"), ("hidden", "deepinversion"),
}  # fmt: skip
DRAWING = {"matplotlib", "seaborn", "ipywidgets"}
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p not in (PACKAGE / "__init__.py", PACKAGE / "run.py"))


def imported(path: Path) -> set[tuple[str, ...]]:
    """Modules that a file imports, anywhere in it, as tuples of names."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text("utf8"))):
        if isinstance(node, ast.Import):
            modules |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            base = tuple((node.module or "").split("."))
            # `from invkit import priors` may name a module; a name below one does no harm here.
            modules |= {(*base, alias.name) for alias in node.names} if base == ("invkit",) else {base}
    return modules


def part(path: Path) -> str:
    """The part of the package that a file belongs to: a module's or a folder's name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def own(path: Path) -> set[str]:
    """Parts of the package that a file imports, without its own."""
    return {names[1] for names in imported(path) if names[0] == "invkit" and len(names) > 1} - {part(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_point_downward(path):
    room = part(path)
    assert room in HEIGHT, f"invkit/{room} is no room of the house: {ORDER}"
    upward = {other for other in own(path) if HEIGHT.get(other, 99) >= HEIGHT[room]}
    assert not upward, f"{room} imports {sorted(upward)}, which stand beside or above it"


# Each method is a file, so its room grows.
ROOMS = sorted(p for p in PACKAGE.iterdir() if (p / "__init__.py").is_file() and p.name != "methods")


@pytest.mark.parametrize("folder", ROOMS, ids=lambda p: p.name)
def test_no_room_is_crowded(folder):
    assert len(list(folder.glob("[!_]*.py"))) <= 12


@pytest.mark.parametrize("path", sorted((PACKAGE / "methods").glob("[!_]*.py")), ids=lambda p: p.stem)
def test_methods_do_not_import_each_other(path):
    others = {names[2] for names in imported(path) if names[:2] == ("invkit", "methods") and len(names) > 2}
    assert {(path.stem, other) for other in others} <= EXTENSIONS


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_only_show_draws(path):
    drawing = DRAWING & {names[0] for names in imported(path)}
    assert part(path) == "show" or not drawing, f"{part(path)} imports {sorted(drawing)}"


def test_every_room_has_its_page():
    rooms = {part(path) for path in FILES}
    assert rooms == set(HEIGHT), "ORDER names the rooms that are there"
    toc = yaml.safe_load((ROOT / "book/_toc.yml").read_text("utf8"))
    pages = [section["file"] for p in toc["parts"] for c in p["chapters"] for section in c.get("sections", [])]
    assert set(pages) == {f"book/api/{room}" for room in rooms}
    for room in rooms:
        assert f"% room: {room}\n" in (ROOT / f"book/api/{room}.md").read_text("utf8")
        assert f"]({room}.md)" in (ROOT / "book/api/index.md").read_text("utf8")


def test_no_circles_between_rooms():
    graph: dict[str, set[str]] = {}
    for path in FILES:
        graph.setdefault(part(path), set()).update(own(path))
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"imports go round in a circle: {error.args[1]}")


def test_the_worker_starts_without_the_package():
    assert not own(PACKAGE / "book/worker.py"), "each worker would import torch"
