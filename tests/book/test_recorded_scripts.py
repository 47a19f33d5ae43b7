"""The scripts of recorded runs still run: each at tiny size, into a folder of its own."""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from pathlib import Path

import pytest

from invkit.book.recorded import Recorded, load_recorded
from invkit.book.recording import RecordedRun

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "book/recorded").glob("*.py"))


def load(script: Path):
    """The script as a module, by its path."""
    if script.stem not in sys.modules:
        spec = importlib.util.spec_from_file_location(script.stem, script)
        sys.modules[script.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[script.stem])
    return sys.modules[script.stem]


def parts() -> list:
    """Every run of every script."""
    runs = []
    for script in SCRIPTS:
        for name, value in vars(load(script)).items():
            if isinstance(value, RecordedRun) and script.stem != "hero":  # which draws a picture and records nothing
                runs.append(pytest.param(script, value, id=f"{script.stem}-{name}"))
    return runs


def columns(record: Recorded) -> set[str]:
    """Names of all columns of a record's table."""
    return {column for row in record.measured.values() for column in row}


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("INVKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("INVKIT_WORK", raising=False)


@pytest.mark.parametrize(("script", "run"), parts())
def test_it_runs_at_tiny_size(script, run, tmp_path, capsys):
    if run.data and not os.environ.get("INVKIT_DATA"):
        pytest.skip("INVKIT_DATA names no folder of real data and weights")
    load(script).command_line(run, argv=["--smoke", "--folder", str(tmp_path)])
    written = sorted(path.stem for path in tmp_path.glob("*.json"))
    assert written
    stored = {path.stem for path in (ROOT / "book/recorded").glob("*.json")}
    for name in written:
        record = load_recorded(name, tmp_path)
        assert record.script_sha256
        assert script.name in record.command
        if name in stored:  # what pages read of it is still there under the same names
            assert columns(record) <= columns(load_recorded(name, ROOT / "book/recorded"))
    assert capsys.readouterr().out, "rows are printed as they come"


def test_the_opening_picture_can_be_drawn(tmp_path):
    hero = load(ROOT / "book/recorded/hero.py")
    hero.command_line(hero.hero, argv=["--smoke", "--folder", str(tmp_path)])
    assert (tmp_path / "hero.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_every_script_ends_with_its_runs(script):
    runs = [name for name, value in vars(load(script)).items() if isinstance(value, RecordedRun)]
    assert script.read_text("utf8").endswith(f'if __name__ == "__main__":\n    command_line({", ".join(runs)})\n'), (
        "runs in the order of their definition"
    )


@pytest.mark.parametrize("path", sorted((ROOT / "book/recorded").glob("*.json")), ids=lambda path: path.stem)
def test_the_command_of_a_record_is_still_understood(path, tmp_path, monkeypatch):
    monkeypatch.setenv("INVKIT_DATA", str(tmp_path))
    started = []
    monkeypatch.setattr(RecordedRun, "start", lambda run, given, part: started.append(run.name))
    words = shlex.split(load_recorded(path.stem, path.parent).command)
    script = next(word for word in words if word.endswith(".py"))
    module = load(ROOT / script)
    runs = [value for value in vars(module).values() if isinstance(value, RecordedRun)]
    module.command_line(*runs, argv=words[words.index(script) + 1 :])
    assert len(started) == 1
