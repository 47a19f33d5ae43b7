"""A page of a real chapter, built from a real run that is too short for its sentences: as the book's it is refused."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from invkit.book.missing.names import called, tree_of
from invkit.book.runner import key_of
from invkit.book.statements import MIME

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
CONF = """\
import sys
sys.path.insert(0, {extensions!r})
extensions = ["myst_nb", "sphinxcontrib.bibtex", "executed"]
root_doc = "notebooks/{stem}"
include_patterns = ["notebooks/*.ipynb"]
nb_execution_mode = "off"
nb_merge_streams = True
numfig = True
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath", "substitution"]
bibtex_bibfiles = [{bibliography!r}]
suppress_warnings = ["myst.xref_missing", "bibtex", "ref"]  # the other pages are not here
executed_profile = {profile!r}
"""


def code_of(notebook: dict) -> list[str]:
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    own = [cell for cell in cells if "injected-parameters" not in cell["metadata"].get("tags", [])]
    return ["".join(cell["source"]) for cell in own]


def refuted_by(run: dict) -> list[tuple[str, str]]:
    """The sentences that a run refutes, each with the id of its cell."""
    return [
        (cell["id"], statement["sentence"])
        for cell in run["cells"]
        for output in cell.get("outputs", [])
        for statement in output.get("data", {}).get(MIME, [])
        if not statement["holds"]
    ]


@pytest.fixture(scope="module")
def run() -> Path:
    """The smallest run of profile ``ci`` that refutes a sentence of its chapter."""
    found = []
    for path in sorted((ROOT / "build/executed/ci").glob("[0-9]*.ipynb")):
        made, source = (json.loads(file.read_text("utf8")) for file in (path, ROOT / "notebooks" / path.name))
        if refuted_by(made) and code_of(made) == code_of(source) and "missing" not in made["metadata"]["book"]:
            found.append((path.stat().st_size, path))
    if not found:
        pytest.skip("no run of profile ci that refutes a sentence; run `python -m invkit.run --profile ci`")
    return min(found)[1]


def built(folder: Path, run: Path, profile: str) -> tuple[int, str, str]:
    """Build the page of a run, as if it were of another profile: exit status, warnings, and the page."""
    (folder / "notebooks").mkdir()
    (folder / "book").mkdir()
    (folder / "invkit").symlink_to(ROOT / "invkit", target_is_directory=True)
    (folder / "book/recorded").symlink_to(ROOT / "book/recorded", target_is_directory=True)
    source = folder / "notebooks" / run.name
    shutil.copy(ROOT / "notebooks" / run.name, source)
    made, parameters = json.loads(run.read_text("utf8")), {"profile": profile}
    key = key_of(folder, source, parameters)
    made["metadata"]["book"] |= {"profile": profile, "parameters": parameters, "key": key}
    target = folder / "build/executed" / profile / run.name
    target.parent.mkdir(parents=True)
    target.write_text(json.dumps(made), "utf8")
    about = {"extensions": str(ROOT / "book/_ext"), "bibliography": str(ROOT / "book/references.bib")}
    (folder / "conf.py").write_text(CONF.format(stem=run.stem, profile=profile, **about))
    call = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", ".", "out"]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True)
    page = folder / "out/notebooks" / f"{run.stem}.html"
    return done.returncode, done.stderr, page.read_text("utf8") if page.is_file() else done.stderr


def test_a_run_of_the_book_that_refutes_its_sentences_fails_the_build_by_sentence_and_cell(run, tmp_path):
    refuted = refuted_by(json.loads(run.read_text("utf8")))
    status, told, page = built(tmp_path, run, "book")
    assert status != 0
    warnings = [line for line in told.splitlines() if "WARNING: " in line]
    assert len(warnings) == len(refuted), told
    for line, (cell, sentence) in zip(warnings, refuted, strict=True):
        assert f"notebooks/{run.name}" in line
        assert f"({cell}): the run refutes the sentence {sentence!r}" in line
    assert page.count("Not so in this run") == len(refuted), "the page is written all the same"


def test_the_same_page_is_built_from_the_short_run_as_what_it_is(run, tmp_path):
    status, told, page = built(tmp_path, run, "ci")
    assert (status, told) == (0, "")
    assert "Not so in this run" in page


def conditions(tree: ast.Module) -> list[tuple[ast.expr, ast.expr]]:
    """The sentences that a cell checks, each with its condition."""
    given: dict[str, ast.expr] = {}  # by the name of a variable
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            given |= {ast.unparse(target): node.value for target in node.targets}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called(node) == "check":
            statements = given.get(ast.unparse(node.args[0]), node.args[0])
            if isinstance(statements, ast.Dict):
                found += zip(statements.keys, statements.values, strict=True)
    return [pair for pair in found if pair[0] is not None]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_sentence_of_a_chapter_has_a_condition_that_can_fail(path):
    seen = 0
    for cell in json.loads(path.read_text("utf8"))["cells"]:
        source = "".join(cell["source"]) if cell["cell_type"] == "code" else ""
        for sentence, condition in conditions(tree_of(source)):
            reads = [part for part in ast.walk(condition) if isinstance(part, ast.Name)]
            assert reads, f"{cell['id']}: {ast.unparse(sentence)}: {ast.unparse(condition)}"
            seen += 1
    assert seen
