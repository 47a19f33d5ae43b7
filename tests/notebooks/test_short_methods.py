"""The method in 25 lines: every chapter on a paper has it in plain PyTorch, and holds it against the package."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from invkit.book.missing.names import called, tree_of

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted((ROOT / "notebooks").glob("0[1-9]_*.ipynb"))
HEADING = re.compile(r"^## The method in\b", re.M)
ANY_HEADING = re.compile(r"^## ", re.M)


def section(path: Path) -> list[ast.Module]:
    """The code cells between the heading and the next one."""
    cells = json.loads(path.read_text("utf8"))["cells"]
    texts = ["".join(cell["source"]) if cell["cell_type"] == "markdown" else "" for cell in cells]
    starts = [number for number, text in enumerate(texts) if HEADING.search(text)]
    assert len(starts) == 1, "one heading that starts with 'The method in'"
    after = range(starts[0] + 1, len(cells))
    end = next((number for number in after if ANY_HEADING.search(texts[number])), len(cells))
    code = [cell for cell in cells[starts[0] + 1 : end] if cell["cell_type"] == "code"]
    return [tree_of("".join(cell["source"])) for cell in code]


def uses_package(tree: ast.Module) -> bool:
    """Whether a cell takes anything from the package, under any name that chapters import it by."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return bool(names & {"ik", "invkit", "book", "show"})


def defined(tree: ast.Module) -> set[str]:
    """The functions and classes of a cell that holds nothing else."""
    if not all(isinstance(part, ast.FunctionDef | ast.ClassDef) for part in tree.body):
        return set()
    return {part.name for part in tree.body if isinstance(part, ast.FunctionDef | ast.ClassDef)}


def asserts(tree: ast.Module) -> bool:
    """Whether a cell stops where something is not so."""
    return any(
        isinstance(node, ast.Assert) or (isinstance(node, ast.Call) and called(node) == "assert_close")
        for node in ast.walk(tree)
    )


def test_every_chapter_on_a_paper_is_here():
    assert [path.stem[:2] for path in CHAPTERS] == [f"0{number}" for number in range(1, 10)]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_method_stands_in_plain_pytorch_and_is_held_against_the_package(path):
    code = section(path)
    method = []
    for tree in code:
        if uses_package(tree) or not defined(tree):
            break
        method.append(tree)
    assert method, "first the method, in functions that take nothing from the package"
    names = set().union(*map(defined, method))
    compared = [
        tree
        for tree in code[len(method) :]
        if "ik." in ast.unparse(tree)
        and asserts(tree)
        and names & {called(node) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    ]
    assert compared, f"then a cell that calls {sorted(names)}, and asserts something beside the package"


def test_a_chapter_without_its_comparison_is_told(tmp_path):
    notebook = json.loads(CHAPTERS[0].read_text("utf8"))
    for cell in notebook["cells"]:
        cell["source"] = [line for line in cell["source"] if not line.startswith("assert ")]
    (tmp_path / "short.ipynb").write_text(json.dumps(notebook), "utf8")
    with pytest.raises(AssertionError, match="asserts something beside the package"):
        test_the_method_stands_in_plain_pytorch_and_is_held_against_the_package(tmp_path / "short.ipynb")
