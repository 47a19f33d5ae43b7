"""Every chapter keeps to the form that the runner, the pages and readers rely on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from invkit.book.parameters import read_parameters

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
LINES, WIDTH, CELL = 180, 88, 17  # of code in all, across, and in one cell; blank lines do not count
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


def test_its_code_is_short(path):
    sources = [c["source"] for c in cells(path, "code")]
    assert sum(bool(line.strip()) for s in sources for line in s.splitlines()) <= LINES
    for number, source in enumerate(sources, 1):
        lines = [line for line in source.splitlines() if line.strip()]
        assert len(lines) <= CELL, f"code cell {number} has {len(lines)} lines"
        assert max(map(len, lines), default=0) <= WIDTH, f"code cell {number} is wider than {WIDTH} characters"


def test_it_explains_itself(path):
    text = cells(path, "markdown")
    assert text[0]["source"].startswith("# ")
    assert len([c for c in text if c["source"].startswith("# ")]) == 1
    assert len(text) >= len(cells(path, "code")) - 3, "a text cell for each code cell"


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
