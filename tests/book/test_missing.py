"""A chapter without one of its recorded runs: the rest of it is run, and what is missing is said."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from invkit.book import missing, runner
from invkit.book.missing import names_of, records_missing, rewritten, tree_of

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
PARAMETERS = 'profile: str = "book"  # how much work; one of: ci, book, paper\nseed: int = 0  # random seed\n'
GONE = {"gone": "there is none"}


def code_of(path: Path) -> list[str]:
    cells = json.loads(path.read_text("utf8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_record_that_a_chapter_names_is_known_by_name(path):
    code = code_of(path)
    found = set().union(*(names_of(tree_of(source)) for source in code))
    stored = {file.stem for file in (ROOT / "book/recorded").glob("*.json")}
    assert found == set(re.findall(r"""["']([\w-]+)["']""", "\n".join(code))) & stored
    assert records_missing(code, ROOT / "book/recorded") == {}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_without_any_record_every_chapter_is_still_python_and_saves_its_claims(path):
    code = code_of(path)
    gone = dict.fromkeys(set().union(*(names_of(tree_of(source)) for source in code)), "it is not there")
    new = rewritten(code, gone)
    for source in new.values():
        compile(source, "cell", "exec")
    left = "\n".join(new.get(number, source) for number, source in enumerate(code))
    assert not [name for name in gone if re.search(rf"""(load|show)_recorded\(\s*["']{name}["']""", left)]
    assert ("claims.save()" in left) == ("claims.save()" in "\n".join(code))


def left_of(*cells: str, gone: dict[str, str] = GONE) -> list[list[str]]:
    """The lines that are left of each cell, without those that say what is missing."""
    new = rewritten(cells, gone)
    lines = (new.get(number, source).splitlines() for number, source in enumerate(cells))
    return [[line for line in found if not line.startswith("display(")] for found in lines]


LOAD = "run = load_recorded('gone')"


@pytest.mark.parametrize(
    ("cells", "left"),
    [
        # what reads it goes, and what reads that; what is between them stays
        ([LOAD, "n = 1\nmean = run.mean()\nm = 2", "print(mean)", "print(n, m)"], [[], ["n = 1", "m = 2"], [], None]),
        # a name with a value from before has a wrong one now, until it is given another
        (["x = 1", "x = load_recorded('gone')", "print(x)", "x = 2", "print(x)"], [None, [], [], None, None]),
        # names of a function and of a comprehension are their own
        ([LOAD, "def f(run):\n    return run", "[run for run in (1, 2)]", "f(3)"], [[], None, None, None]),
        # a function reads what it reads when it is called, however far down
        (["def f():\n    return run", "def g():\n    return f()", LOAD, "g()", "h = lambda: g()", "h()"],
         [None, None, [], [], None, []]),
        # what is filled in part is not whole
        (["d = {}", LOAD, "d['a'] = run", "print(d)"], [None, [], [], []]),
        (["d = {}", LOAD, "for k in (1, 2):\n    d.setdefault(k, []).append(run)", "print(d)"], [None, [], [], []]),
        (["n = 0", LOAD, "n += run", "print(n)"], [None, [], [], []]),
        # but a module is
        (["import numpy as np", LOAD, "np.seterr(run)", "np.ones(1)"], [None, [], [], None]),
        # a loop gives its variable before it reads it
        ([LOAD, "for k in run:\n    pass", "for k in (1, 2):\n    print(k)", "print(k)"], [[], [], None, None]),
        # by a variable over names, and as a claim's record
        (["for name in ('there', 'gone'):\n    load_recorded(name)"], [[]]),
        (["f(recorded='gone')", "f(recorded='there')"], [[], None]),
        (["%time x = 1", LOAD], [None, []]),
        (["print('going, gone')"], [None]),
    ],
)  # fmt: skip
def test_what_needs_a_missing_record_is_left_out_and_nothing_else(cells, left):
    wanted = [source.splitlines() if lines is None else lines for source, lines in zip(cells, left, strict=True)]
    assert left_of(*cells) == wanted


def test_nothing_is_touched_where_all_is_there():
    assert rewritten([LOAD, "print(run);"], {}) == {}


def test_the_box_stands_once_where_it_is_first_named_and_where_it_is_shown():
    cells = [LOAD, "print(run)", "other = load_recorded('gone')", "show_recorded('gone', hide=['a'])"]
    new = rewritten(cells, GONE)
    assert [("admonition" in new[k], "Left out" in new[k]) for k in range(4)] == [
        (True, False), (False, True), (False, True), (True, False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("record", "picture", "problem"),
    [
        (None, None, "there is no run.json among the recorded runs"),
        ("{", None, "run.json is damaged"),
        ("{}", None, "run.json is damaged"),
        ('{"picture_sha256": ""}', None, ""),
        ('{"picture_sha256": "00"}', None, "its picture is missing or another one"),
        ('{"picture_sha256": "00"}', b"x", "its picture is missing or another one"),
    ],
)
def test_a_record_is_missing_too_where_it_or_its_picture_cannot_be_read(tmp_path, record, picture, problem):
    for name, content in (("run.json", record and record.encode()), ("run.png", picture)):
        if content is not None:
            (tmp_path / name).write_bytes(content)
    assert missing.problem_of("run", tmp_path) == problem


# ---------------------------------------------------------------- the whole way


CELLS = [
    PARAMETERS,
    "from invkit import book\nfrom invkit.book import load_recorded, show_recorded",
    'claims = book.Claims("05_gan_inversion", profile=profile)\nprint("before")',
    'there = load_recorded("there")\nprint(there.means()["ours"]["psnr"])',
    'run = load_recorded("gone")\nnumber = run.means()["ours"]["psnr"]',
    "print(number)",
    'show_recorded("gone")',
    'claims.test("IDS", number, data="digits", network="net", finding="It is so.")',
    "claims.save()\nclaims.table()",
    'print("after")',
]


@pytest.fixture
def chapter(tmp_path, monkeypatch) -> Path:
    """A book of one chapter that names two records, of which one is there."""
    from invkit.book import load_claims, record

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INVKIT_CLAIMS", raising=False)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "_config.yml").touch()
    facts = {"title": "t", "config": {}, "command": "make", "seeds": [0], "seconds": 1, "device": "cpu"}
    record("there", measured={"ours": {"psnr": [21.0]}}, folder=tmp_path / "book/recorded", **facts)
    (tmp_path / "book/_toc.yml").touch()
    first = next(claim.id for claim in load_claims().values() if claim.chapter == "05")
    cells = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "outputs": [], "execution_count": None,
         "source": source.replace("IDS", first)}
        for i, source in enumerate(CELLS)
    ]  # fmt: skip
    cells[0]["metadata"] = {"tags": ["parameters"]}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    text = {"cell_type": "markdown", "id": "m", "metadata": {}, "source": "# Title"}
    meta = {"kernelspec": kernel, "language_info": {"name": "python"}}
    path = tmp_path / "notebooks/05_gan_inversion.ipynb"
    path.write_text(json.dumps({"cells": [text, *cells], "metadata": meta, "nbformat": 4, "nbformat_minor": 5}))
    return path


def shown(path: Path) -> dict[str, str]:
    """What each cell of a run shows, by its id."""
    found = {}
    for cell in json.loads(path.read_text("utf8"))["cells"]:
        parts = [o.get("text", "") or o.get("data", {}).get("text/html", "") for o in cell.get("outputs", [])]
        found[cell["id"]] = "".join("".join(part) for part in parts)
    return found


def test_a_chapter_without_a_record_is_run_to_its_end_and_says_what_is_missing(chapter, tmp_path, capsys):
    assert runner.main(["--profile", "ci"]) == 0
    told = capsys.readouterr()
    warning = "warning: 05_gan_inversion lacks the recorded run gone (there is no gone.json among the recorded runs)"
    assert warning in told.err
    assert "ran " in told.out
    path = tmp_path / "build/executed/ci/05_gan_inversion.ipynb"
    page = shown(path)
    assert (page["c2"], page["c3"], page["c9"]) == ("before\n", "21.0\n", "after\n")
    assert "The recorded run gone is missing" in page["c4"]
    assert (
        page["c5"]
        == page["c7"]
        == ('<p class="inv-left-out"><em>Left out, as a recorded run is missing: gone.</em></p>')
    )
    assert 'class="admonition warning"' in page["c6"]
    run = json.loads(path.read_text("utf8"))
    assert run["metadata"]["book"]["missing"] == {"gone": "there is no gone.json among the recorded runs"}
    code = [cell for cell in run["cells"] if cell["cell_type"] == "code" and cell["id"].startswith("c")]
    sources = ["".join(cell["source"]) for cell in code if "injected-parameters" not in cell["metadata"]["tags"]]
    assert sources == code_of(chapter), "a page shows the notebook's own code"
    answers = json.loads((tmp_path / "build/claims/ci/05_gan_inversion.json").read_text())["claims"]
    assert {answer["verdict"] for answer in answers} == {"not tested"}
    assert all("needs gone, a recorded run that is missing" in answer["reason"] for answer in answers)

    assert runner.main(["--profile", "ci"]) == 0
    told = capsys.readouterr()
    assert "up to date" in told.out
    assert warning in told.err


def test_a_record_that_comes_back_is_shown(chapter, tmp_path, capsys):
    assert runner.main(["--profile", "ci"]) == 0
    there = tmp_path / "book/recorded/there.json"
    (tmp_path / "book/recorded/gone.json").write_text(there.read_text().replace("21.0", "22.0"))
    chapter.write_text(chapter.read_text().replace("claims.save()", "").replace("claims.test(", "str.format("))
    capsys.readouterr()
    assert runner.main(["--profile", "ci"]) == 0
    told = capsys.readouterr()
    assert "warning" not in told.err
    run = tmp_path / "build/executed/ci/05_gan_inversion.ipynb"
    assert shown(run)["c5"] == "22.0\n"
    assert "missing" not in json.loads(run.read_text("utf8"))["metadata"]["book"]
