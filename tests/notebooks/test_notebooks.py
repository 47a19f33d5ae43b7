"""Every chapter keeps to the form that the runner, the pages and readers rely on."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import yaml

from invkit.book.parameters import read_parameters

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
CELL = 25  # lines
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def cells(path: Path, kind: str) -> list[dict]:
    found = [c for c in json.loads(path.read_text("utf8"))["cells"] if c["cell_type"] == kind]
    return [c | {"source": "".join(c["source"])} for c in found]


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def test_its_parameters_are_typed_explained_and_complete(path):
    first = cells(path, "code")[0]
    assert "parameters" in tags(first), "the first code cell carries the tag `parameters`"
    known = read_parameters(first["source"])
    assert known["profile"].default == "book", "published pages come from the defaults"
    assert known["profile"].choices == ["ci", "book", "paper"]
    assert "seed" in known
    for parameter in known.values():
        assert parameter.types, f"{parameter.name} has no type"
        assert parameter.help, f"{parameter.name} has no help"
        assert not parameter.check(parameter.default), parameter.name


def test_its_parameters_are_checked_before_any_work(path):
    calls = [i for i, c in enumerate(cells(path, "code")) if "check_parameters()" in c["source"]]
    assert calls == [1], "the cell after the parameters calls check_parameters()"


def trees(path: Path) -> list[ast.Module]:
    """The syntax of each code cell; lines for IPython alone become ``pass``."""
    magic = re.compile(r"^(\s*)[%!].*$", re.M)
    return [ast.parse(magic.sub(r"\1pass", cell["source"])) for cell in cells(path, "code")]


def test_no_two_cells_share_an_id(path):
    ids = [cell["id"] for cell in json.loads(path.read_text("utf8"))["cells"]]
    assert len(set(ids)) == len(ids)


def test_no_cell_is_longer_than_a_screen(path):
    for number, cell in enumerate(cells(path, "code"), 1):
        assert len(cell["source"].splitlines()) <= CELL, f"code cell {number}"


def test_no_comprehension_holds_another(path):
    for number, tree in enumerate(trees(path), 1):
        for outer in (node for node in ast.walk(tree) if isinstance(node, COMPREHENSIONS)):
            inner = [node for node in ast.walk(outer) if isinstance(node, COMPREHENSIONS) and node is not outer]
            assert not inner, f"code cell {number}: {ast.unparse(outer)}"


def test_no_name_is_given_within_an_expression(path):
    for number, tree in enumerate(trees(path), 1):
        for node in ast.walk(tree):
            assert not isinstance(node, ast.NamedExpr), f"code cell {number}: {ast.unparse(node)}"


def test_what_teaches_nothing_of_the_method_is_folded(path):
    code = cells(path, "code")
    claims = (number for number, cell in enumerate(code) if "Claims(" in cell["source"])
    first_claim = next(claims, len(code))  # a chapter on no paper states none
    set_up = next(number for number, cell in enumerate(code) if "import invkit as ik" in cell["source"])
    for number in (1, set_up):
        assert "hide-input" in tags(code[number]), f"code cell {number + 1} sets up"
    for number, cell in enumerate(code[first_claim:], first_claim + 1):
        assert "hide-input" in tags(cell), f"code cell {number} states claims"


def test_elsewhere_it_installs_what_it_draws_with(path):
    assert '%pip install -q "invkit[show] @ git+https://' in cells(path, "code")[1]["source"]


def test_it_explains_itself(path):
    text = cells(path, "markdown")
    assert text[0]["source"].startswith("# ")
    assert len([c for c in text if c["source"].startswith("# ")]) == 1
    kinds = [cell["cell_type"] for cell in json.loads(path.read_text("utf8"))["cells"]]
    first = kinds.index("code") + 3  # the parameters, their check and the imports stand together
    pairs = list(zip(kinds[first:], kinds[first + 1 :]))
    assert ("code", "code") not in pairs, "a text cell before each code cell"


def test_it_holds_no_outputs(path):
    for cell in cells(path, "code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


def test_its_figures_have_captions(path):
    for cell in cells(path, "code"):
        figure = cell["metadata"].get("mystnb", {}).get("figure")
        assert figure is None or (figure.get("name") and figure.get("caption")), cell["source"]


def test_it_stands_in_the_table_of_contents_and_in_the_introduction(path):
    toc = yaml.safe_load((ROOT / "book/_toc.yml").read_text("utf8"))
    files = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    assert f"notebooks/{path.stem}" in files
    assert f"notebooks/{path.name}" in (ROOT / "book/intro.md").read_text("utf8")
