"""The Sphinx extension that brings the runs' outputs into the pages."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from invkit.book.runner import key_of

EXTENSIONS = Path(__file__).resolve().parents[2] / "book/_ext"
VIEW = "application/vnd.jupyter.widget-view+json"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, EXTENSIONS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


executed = load("executed")


def code(source: str, *outputs: dict, tags: tuple[str, ...] = ()) -> dict:
    return {
        "cell_type": "code",
        "metadata": {"tags": list(tags)},
        "source": source,
        "outputs": list(outputs),
        "execution_count": None,
    }


def shown(**data) -> dict:
    return {"output_type": "display_data", "metadata": {}, "data": data}


def notebook(*cells: dict, **metadata) -> dict:
    return {"cells": list(cells), "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture
def warnings():
    return []


@pytest.fixture
def warn(warnings):
    return lambda kind, message: warnings.append(kind)


PARAMETERS = code('profile: str = "book"', tags=("parameters",))


def test_outputs_come_from_the_run_and_words_from_the_source(warn, warnings):
    source = notebook({"cell_type": "markdown", "metadata": {}, "source": "new"}, code("1"))
    run = notebook({"cell_type": "markdown", "metadata": {}, "source": "old"}, code("1", shown(a="1")))
    page = executed.graft(source, run, warn)
    assert page["cells"][0]["source"] == "new"
    assert page["cells"][1]["outputs"] == [shown(a="1")]
    assert warnings == []


def test_changed_code_is_stale(warn, warnings):
    executed.graft(notebook(code("1")), notebook(code("2")), warn)
    assert warnings == ["stale"]


@pytest.mark.parametrize(("given", "visible"), [({"profile": "book"}, 1), ({"profile": "ci"}, 2)])
def test_a_page_never_claims_defaults_of_a_run_that_had_others(warn, given, visible):
    injected = code('profile = "x"', tags=("injected-parameters",))
    run = notebook(PARAMETERS, injected, book={"parameters": given})
    assert len(executed.graft(notebook(PARAMETERS), run, warn)["cells"]) == visible


def test_a_widget_without_a_kernel_free_rendering_is_refused(warn, warnings):
    page = executed.without_kernel(notebook(code("w", shown(**{VIEW: {}, "text/plain": "w"})), widgets={}), warn)
    assert warnings == ["widget"]
    assert "widgets" not in page["metadata"]


@pytest.mark.parametrize("kind", ["text/html", "image/png"])
def test_a_widget_keeps_its_kernel_free_rendering(warn, warnings, kind):
    page = executed.without_kernel(notebook(code("w", shown(**{VIEW: {}, kind: "x"}))), warn)
    assert page["cells"][0]["outputs"][0]["data"] == {kind: "x"}
    assert warnings == []


def test_a_live_control_leaves_a_note(warn, warnings):
    page = executed.without_kernel(notebook(code("w", shown(**{VIEW: {}}), tags=("live-only",))), warn)
    assert "needs a running kernel" in page["cells"][0]["outputs"][0]["data"]["text/html"]
    assert warnings == []


@pytest.mark.parametrize("bar", ["  0%|     | 0/3 [00:00<?, ?it/s]", "fit: 100%|###| 3/3", "5it [00:01, 5it/s]"])
def test_progress_bars_leave_nothing(warn, warnings, bar):
    page = executed.without_kernel(notebook(code("w", shown(**{VIEW: {}, "text/plain": bar}))), warn)
    assert page["cells"][0]["outputs"] == []
    assert warnings == []


# ---------------------------------------------------------------- the whole step, on a book in a folder


@pytest.fixture
def book(tmp_path, monkeypatch, warnings):
    """A book of one chapter with a good run, and the event that reads it."""
    source, folder = tmp_path / "notebooks/01_a.ipynb", tmp_path / "build/executed/book"
    source.parent.mkdir()
    folder.mkdir(parents=True)
    (tmp_path / "invkit").mkdir()
    source.write_text(json.dumps(notebook(PARAMETERS, code("print(1)"))))
    about = {"profile": "book", "parameters": {"profile": "book"}}
    about["key"] = key_of(tmp_path, source, about["parameters"])
    run = notebook(PARAMETERS, code("print(1)", shown(a="1")), book=about)
    (folder / source.name).write_text(json.dumps(run))
    app = SimpleNamespace(
        srcdir=str(tmp_path),
        config=SimpleNamespace(executed_dir="build/executed", executed_profile="book"),
        env=SimpleNamespace(doc2path=lambda name: str(source), note_dependency=lambda path: None),
    )
    monkeypatch.setattr(executed.log, "warning", lambda *a, subtype, **k: warnings.append(subtype))

    def read() -> str:
        content = [source.read_text()]
        executed.swap(app, "notebooks/01_a", content)
        return content[0]

    return SimpleNamespace(root=tmp_path, source=source, run=folder / source.name, app=app, read=read)


def test_a_good_run_is_shown_without_complaint(book, warnings):
    assert '"a": "1"' in book.read()
    assert warnings == []


def change(path: Path, edit) -> None:
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def test_a_missing_run_is_refused(book, warnings):
    book.run.unlink()
    book.read()
    assert warnings == ["missing"]


def test_a_run_of_another_package_state_is_refused(book, warnings):
    (book.root / "invkit/new.py").write_text("")
    book.read()
    assert warnings == ["stale"]


def test_a_run_of_other_code_is_refused(book, warnings):
    change(book.source, lambda d: d["cells"][1].update(source="print(2)"))
    book.read()
    assert set(warnings) == {"stale"}


def test_a_run_of_another_profile_is_refused(book, warnings):
    change(book.run, lambda d: d["metadata"]["book"].update(profile="ci"))
    book.read()
    assert warnings == ["profile"]


@pytest.mark.parametrize(
    "metadata",
    [{"papermill": {"exception": True}, "book": {"profile": "book"}}, {}],
    ids=["failed", "foreign"],
)
def test_a_failed_or_foreign_run_is_refused(book, warnings, metadata):
    change(book.run, lambda d: d.update(metadata=metadata))
    book.read()
    assert warnings == ["failed"]


def test_a_record_that_the_run_lacked_is_named_and_the_page_is_written(book, warnings, monkeypatch):
    told = []
    monkeypatch.setattr(executed.log, "warning", lambda message, **about: told.append((message, about)))
    change(book.run, lambda d: d["metadata"]["book"].update(missing={"my_run": "there is no my_run.json"}))
    assert '"a": "1"' in book.read()
    ((message, about),) = told
    assert message == (
        "the recorded run my_run is missing (there is no my_run.json), and with it what the page says of it"
    )
    assert about == {"location": "notebooks/01_a", "type": "executed", "subtype": "record"}


def test_editing_words_needs_no_new_run(book, warnings):
    new = {"cell_type": "markdown", "metadata": {}, "source": "more"}
    change(book.source, lambda d: d["cells"].append(new))
    assert "more" in book.read()
    assert warnings == []
