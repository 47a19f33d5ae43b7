"""The runner: parameters checked before work, runs published whole or not at all, failures named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from invkit.book import runner
from invkit.book.parameters import BadParameters, read_parameters, refuse

ROOT = Path(__file__).parents[2]
PARAMETERS = """\
profile: str = "book"  # how much work; one of: ci, book, paper
seed: int = 0  # random seed
lr: float = 0.1  # learning rate
data: str = "digits"  # which set
target: str | None = None  # which network
"""


def notebook(folder: Path, name: str, *cells: str, prose: str = "# Title") -> Path:
    """Write a notebook whose first code cell is the parameters'."""
    code = [
        {
            "cell_type": "code",
            "id": f"c{i}",
            "metadata": {},
            "outputs": [],
            "execution_count": None,
            "source": s,
        }
        for i, s in enumerate([PARAMETERS, *cells])
    ]
    code[0]["metadata"] = {"tags": ["parameters"]}
    text = {"cell_type": "markdown", "id": "m", "metadata": {}, "source": prose}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    meta = {"kernelspec": kernel, "language_info": {"name": "python"}}
    path = folder / "notebooks" / f"{name}.ipynb"
    path.write_text(json.dumps({"cells": [text, *code], "metadata": meta, "nbformat": 4, "nbformat_minor": 5}))
    return path


@pytest.fixture
def book(tmp_path, monkeypatch) -> Path:
    """An empty book, with the tests standing in it."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "_config.yml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def outputs(path: Path) -> str:
    cells = json.loads(path.read_text())["cells"]
    return "".join("".join(o.get("text", "")) for c in cells for o in c.get("outputs", []))


# ---------------------------------------------------------------- parameters


def test_parameters_are_read_with_type_default_help_and_choices():
    known = read_parameters(PARAMETERS)
    assert list(known) == ["profile", "seed", "lr", "data", "target"]
    assert known["profile"].choices == ["ci", "book", "paper"]
    assert (known["seed"].default, known["seed"].types, known["seed"].help) == (0, (int,), "random seed")
    assert known["target"].types == (str, type(None))
    assert known["seed"].choices == []


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [("seed", "3", 3), ("lr", "1e-3", 1e-3), ("lr", "2", 2), ("data", "7", "7"), ("target", "none", None)],
)
def test_text_is_read_by_the_type_of_its_parameter(name, text, value):
    parsed = read_parameters(PARAMETERS)[name].parse(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sead": 1}, "sead is not a parameter"),
        ({"seed": "x"}, "seed should be int"),
        ({"seed": 1.5}, "seed should be int"),
        ({"seed": True}, "seed should be int"),
        ({"seed": None}, "seed should be int"),
        ({"data": 3}, "data should be str"),
        ({"profile": "fast"}, "profile should be one of ci, book, paper"),
    ],
)
def test_a_bad_value_is_refused_with_the_list_of_parameters(given, message):
    with pytest.raises(BadParameters, match=message) as caught:
        refuse("01_a.ipynb", read_parameters(PARAMETERS), given)
    assert "01_a.ipynb" in str(caught.value)
    assert "lr = 0.1  learning rate" in str(caught.value)


def test_good_values_pass():
    refuse("a", read_parameters(PARAMETERS), {"profile": "ci", "seed": 2, "lr": 1, "target": None})


LABELS = "labels: list[int] = []  # which classes; empty for all"


@pytest.mark.parametrize(
    ("text", "value"),
    [("[980, 200]", [980, 200]), ("980, 200", [980, 200]), ("[]", []), ("[-1]", [-1])],
)
def test_a_list_of_numbers_is_read(text, value):
    known = read_parameters(LABELS)
    assert known["labels"].parse(text) == value
    refuse("a", known, {"labels": value})


@pytest.mark.parametrize("text", ["x", "980", "[1.5]", "[True]", "['a']", "none", "[980, 200", "{980, 200}", "{[1]}"])
def test_what_is_no_list_of_numbers_is_refused(text):
    known = read_parameters(LABELS)
    value = known["labels"].parse(text)
    says = rf"labels should be a list of whole numbers, as in \[980, 200\], not {re.escape(repr(value))}\n"
    with pytest.raises(BadParameters, match=says):
        refuse("a", known, {"labels": value})


def test_a_list_that_came_as_text_is_refused_with_the_way_to_give_it():
    with pytest.raises(BadParameters, match=r"not '\[980, 200\]'; with papermill write -y 'labels: \[980, 200\]'"):
        refuse("a", read_parameters(LABELS), {"labels": "[980, 200]"})


def test_lists_of_other_kinds():
    known = read_parameters("rates: list[float] | None = None  # r\nnames: list[str] = []  # n\nany: list = []  # a")
    refuse("a", known, {"rates": [1, 0.5], "names": ["x"], "any": [1, "x"]})
    refuse("a", known, {"rates": None})
    for name, value, says in [("rates", ["x"], "list of numbers"), ("names", [1], "list of words"), ("any", 1, "list")]:
        with pytest.raises(BadParameters, match=says):
            refuse("a", known, {name: value})


def test_a_list_reaches_the_notebook(book):
    calls = "from invkit.book.parameters import check_parameters\ncheck_parameters()"
    path = notebook(book, "01_a", calls, "print(target, sum(labels))")
    path.write_text(path.read_text().replace("seed: int = 0  # random seed", LABELS))
    values = ["-p", "target", "timm/vit_base_patch16_224", "-p", "labels", "[980, 200]"]
    assert runner.main(["01_a", "--profile", "ci", *values]) == 0
    assert outputs(book / "build/executed/ci-custom/01_a.ipynb") == "timm/vit_base_patch16_224 1180\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "sead", "1"], ["01_a.ipynb: sead", "seed = 0  random seed"]),
        (["-p", "lr", "fast"], ["lr should be float"]),
        (["-p", "profile", "fast"], ["profile should be one of"]),
        (["--set", "01_a.sead=1"], ["sead is not a parameter"]),
        (["--set", "02_b.seed=1"], ["02_b"]),
        (["--set", "seed=1"], ["NOTEBOOK.NAME=VALUE"]),
        (["03_c"], ["no notebook '03_c'", "01_a"]),
    ],
)
def test_the_command_line_refuses_before_any_work(book, capsys, monkeypatch, arguments, words):
    notebook(book, "01_a")
    monkeypatch.setattr(runner, "start_worker", lambda *a: pytest.fail("work was started"))
    assert runner.main(arguments) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert not (book / "build").exists()


def test_a_notebook_without_the_parameter_profile_is_refused(book, capsys):
    path = notebook(book, "01_a")
    path.write_text(path.read_text().replace('"parameters"', '"other"'))
    assert runner.main([]) == 2
    assert "profile is not a parameter" in capsys.readouterr().err


def test_outside_of_a_book_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "__file__", str(tmp_path / "invkit" / "run.py"))
    with pytest.raises(BadParameters, match="no book"):
        runner.find_root(tmp_path)


# ---------------------------------------------------------------- running


def test_runs_are_published_with_their_record_and_not_repeated(book, capsys):
    notebook(book, "01_a", "print(profile, seed)")
    path = notebook(book, "02_b", "print(2)")
    assert runner.main(["--profile", "ci", "-j", "2"]) == 0
    assert capsys.readouterr().out.count("ran ") == 2
    done = book / "build/executed/ci"
    assert outputs(done / "01_a.ipynb") == "ci 0\n"
    about = json.loads((done / "01_a.ipynb").read_text())["metadata"]["book"]
    assert about["profile"] == "ci"
    assert about["parameters"] == {"profile": "ci"}
    assert about["key"] == runner.key_of(book, book / "notebooks/01_a.ipynb", {"profile": "ci"})
    assert {"torch", "python"} <= set(about["versions"])
    assert {"date", "commit", "seconds"} <= set(about)
    assert sorted(p.name for p in done.iterdir()) == ["01_a.ipynb", "02_b.ipynb"]

    notebook(book, "01_a", "print(profile, seed)", prose="# Other words")
    path.write_text(path.read_text().replace("print(2)", "print(3)"))
    assert runner.main(["--profile", "ci"]) == 0
    out = capsys.readouterr().out
    assert "up to date  01_a" in out
    assert "ran         02_b" in out
    assert outputs(done / "02_b.ipynb") == "3\n"


def test_the_key_follows_package_and_named_records_but_not_the_runner(book):
    path = notebook(book, "01_a", 'load_recorded("mine")')
    for name in ("invkit/a.py", "invkit/run.py", "book/recorded/mine.json", "book/recorded/other.json"):
        (book / name).parent.mkdir(parents=True, exist_ok=True)
        (book / name).write_text("1")
    keys = [runner.key_of(book, path, {})]
    for name in ("invkit/a.py", "book/recorded/mine.json"):
        (book / name).write_text("2")
        keys.append(runner.key_of(book, path, {}))
    assert len(set(keys)) == 3
    for name in ("invkit/run.py", "book/recorded/other.json", "book/recorded/mine.py"):
        (book / name).write_text("2")
    assert runner.key_of(book, path, {}) == keys[-1]
    assert runner.key_of(book, path, {"seed": 1}) != keys[-1]


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_recorded_run_is_named_in_whole(path):
    # By its name in quotes a page is known to depend on it: one put together would leave the page stale unnoticed.
    code = "".join(
        "".join(c["source"]) for c in json.loads(path.read_text("utf8"))["cells"] if c["cell_type"] == "code"
    )
    for given in re.findall(r"\b(?:load|show)_recorded\(\s*([^,)]*)", code):
        assert re.fullmatch(r"""\w+|["'][\w-]+["']""", given.strip()), given


def test_own_values_never_reach_the_published_runs(book):
    notebook(book, "01_a", "print(seed)")
    assert runner.main(["01_a", "--profile", "ci", "-p", "seed", "5"]) == 0
    assert not (book / "build/executed/ci").exists()
    assert outputs(book / "build/executed/ci-custom/01_a.ipynb") == "5\n"


def test_answers_overwritten_by_another_run_are_made_again(book):
    write = (
        "from pathlib import Path\n"
        "p = Path('../build/claims/ci')\n"
        "p.mkdir(parents=True, exist_ok=True)\n"
        "(p / '01_a.json').write_text(str(seed));"
    )
    notebook(book, "01_a", write)
    assert runner.main(["--profile", "ci"]) == 0
    jobs = runner.plan(book, runner.arguments().parse_args(["--profile", "ci"]))
    assert jobs[0].is_done()
    (book / "build/claims/ci/01_a.json").write_text("5")
    assert not jobs[0].is_done()


def test_a_failed_cell_is_named_and_the_last_good_run_stays(book, capsys):
    notebook(book, "01_a", "print('good')")
    assert runner.main(["--profile", "ci"]) == 0
    notebook(book, "01_a", "print('now')", "value = 1 / (seed - seed)")
    notebook(book, "02_b", "print(2)")
    assert runner.main(["--profile", "ci"]) == 1
    shown = capsys.readouterr()
    assert "FAILED      01_a" in shown.out
    assert "ran         02_b" in shown.out
    for words in (
        "01_a.ipynb, cell In [4]",
        "ZeroDivisionError",
        "value = 1 / (seed - seed)",
        "build/failed",
    ):
        assert words in shown.err
    assert outputs(book / "build/executed/ci/01_a.ipynb") == "good\n"
    assert "now" in outputs(book / "build/failed/01_a.ipynb")
    assert not list((book / "build/executed/ci").glob(".*"))


@pytest.mark.parametrize(
    ("cell", "arguments"),
    [("import time; time.sleep(60)", ["--timeout", "2"]), ("import os; os._exit(1)", [])],
    ids=["too slow", "kernel dies"],
)
def test_a_run_that_breaks_off_is_never_published(book, capsys, cell, arguments):
    notebook(book, "01_a", cell)
    assert runner.main(["--profile", "ci", *arguments]) == 1
    assert "01_a.ipynb" in capsys.readouterr().err
    assert not (book / "build/executed/ci/01_a.ipynb").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [({"sead": 1}, "sead is not a parameter"), ({"seed": "x"}, "seed should be int"), ({"seed": 2}, "")],
)
def test_plain_papermill_is_held_to_the_same(book, given, words):
    import papermill

    calls = "from invkit.book.parameters import check_parameters\ncheck_parameters()"
    path = notebook(book, "01_a", calls, "print('work', seed)")
    out = book / "out.ipynb"
    options = {"kernel_name": "python3", "progress_bar": False}
    if not words:
        papermill.execute_notebook(str(path), str(out), given, **options)
        assert outputs(out) == "work 2\n"
        return
    with pytest.raises(papermill.PapermillExecutionError, match=words):
        papermill.execute_notebook(str(path), str(out), given, **options)
    assert "work" not in outputs(out)


def test_the_kernel_is_this_interpreter(book, monkeypatch):
    import sys

    spec = book / "jupyter/kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["/no/such/python"], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(book / "jupyter"))
    notebook(book, "01_a", "import sys\nprint(sys.executable)")
    assert runner.main(["--profile", "ci"]) == 0
    assert outputs(book / "build/executed/ci/01_a.ipynb").strip() == sys.executable
