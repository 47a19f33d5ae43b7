"""Sentences that depend on a run: worded by it, and a build whose run refutes one names sentence and cell."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch

from invkit import book
from invkit.book.runner import key_of
from invkit.book.statements import MIME

EXTENSIONS = Path(__file__).resolve().parents[2] / "book/_ext"
SENTENCE = "Noise teaches {share:.0%}"
CELL = """\
from invkit import book
shares = [float(s) for s in "SHARES".split()]
share = sum(shares) / len(shares)
book.check({"Noise teaches {share:.0%}, less than half.": share < 0.5}, share=share)
"""


def test_a_sentence_is_worded_by_the_run():
    shown = book.check({f"{SENTENCE}.": np.bool_(True), "And <no> more.": torch.tensor(False)}, share=0.25)
    bundle = shown._repr_mimebundle_()
    assert bundle["text/plain"] == "✓ Noise teaches 25%.\n\n✗ Not so in this run: “And <no> more.”"
    assert "&lt;no&gt;" in bundle["text/html"]
    assert bundle["text/html"].count("inv-refuted") == 1
    assert shown.refuted() == ["And <no> more."]


@pytest.mark.parametrize(
    ("statements", "numbers", "message"),
    [
        ({}, {}, "no statement"),
        ({" ": True}, {}, "a sentence is empty"),
        ({"It falls.": 0.3}, {}, "'It falls.' is neither true nor false but 0.3"),
        ({"It falls.": np.array([True, False])}, {}, "neither true nor false"),
        ({"It falls by {gap}.": True}, {"loss": 1}, "field 'gap' for which no number was given; given: loss"),
    ],
)
def test_bad_statements_are_refused_by_name(statements, numbers, message):
    with pytest.raises(ValueError, match=message):
        book.check(statements, **numbers)


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A chapter of one statement: a function that runs it on some shares, reads its page and returns the warnings."""
    spec = importlib.util.spec_from_file_location("executed", EXTENSIONS / "executed.py")
    executed = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "executed", executed)
    spec.loader.exec_module(executed)
    source = tmp_path / "notebooks/01_a.ipynb"
    source.parent.mkdir()
    (tmp_path / "invkit").mkdir()

    def read(shares: str, profile: str = "book") -> tuple[str, list[str]]:
        told: list[str] = []
        monkeypatch.setattr(executed.log, "warning", lambda message, **_: told.append(message))
        cells = [
            nbformat.v4.new_code_cell('profile: str = "book"', metadata={"tags": ["parameters"]}, id="parameters"),
            nbformat.v4.new_code_cell(CELL.replace("SHARES", shares), id="cell-noise"),
        ]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), source)
        namespace: dict = {}
        *lines, last = cells[1].source.splitlines()
        exec("\n".join(lines), namespace)
        bundle = eval(last, namespace)._repr_mimebundle_()
        run = nbformat.v4.new_notebook(cells=cells)
        run.cells[1].outputs = [nbformat.v4.new_output("execute_result", bundle, execution_count=2)]
        parameters = {"profile": profile}
        key = key_of(tmp_path, source, parameters)
        run.metadata["book"] = {"profile": profile, "parameters": parameters, "key": key}
        folder = tmp_path / f"build/executed/{profile}"
        folder.mkdir(parents=True, exist_ok=True)
        nbformat.write(run, folder / source.name)
        app = SimpleNamespace(
            srcdir=str(tmp_path),
            config=SimpleNamespace(executed_dir="build/executed", executed_profile=profile),
            env=SimpleNamespace(doc2path=lambda name: str(source), note_dependency=lambda path: None),
        )
        content = [source.read_text("utf8")]
        executed.swap(app, "notebooks/01_a", content)
        return content[0], told

    return read


def test_a_run_that_bears_its_sentences_out_is_built(page):
    text, told = page("0.2 0.3")
    assert told == []
    assert "Noise teaches 25%, less than half." in text
    assert MIME not in text


def test_a_run_that_refutes_a_sentence_fails_the_build_by_sentence_and_cell(page):
    text, told = page("0.7 0.9")  # the same cell, other numbers
    (warning,) = told
    assert "cell 1 (cell-noise)" in warning
    assert "refutes the sentence 'Noise teaches 80%, less than half.'" in warning
    assert "Not so in this run" in text


def test_a_trial_run_is_not_asked_for_what_it_shows(page):
    text, told = page("0.7 0.9", profile="ci")
    assert told == []
    assert "Not so in this run" in text
