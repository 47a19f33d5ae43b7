"""Chapter 3 takes any network by name: from a weights file, and with one error where there are no weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from invkit.book import runner

ROOT = Path(__file__).resolve().parents[2]
CHAPTER = str(ROOT / "notebooks/03_plug_in_inversion.ipynb")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    timm = pytest.importorskip("timm")
    path = tmp_path_factory.mktemp("weights") / "net.pt"
    torch.save(timm.create_model("test_vit").state_dict(), path)
    return path


def start(out: Path, **values) -> int:
    given = [word for name, value in values.items() for word in ("-p", name, str(value))]
    return runner.main([CHAPTER, "--profile", "ci", "--out", str(out), *given])


def test_a_network_by_name_is_inverted(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert start(tmp_path, target="timm/test_vit", weights=weights, labels="[980, 200]") == 0
    (executed,) = tmp_path.rglob("03_plug_in_inversion.ipynb")
    cells = json.loads(executed.read_text())["cells"]
    (shown,) = (c for c in cells if "if guest:" in "".join(c["source"]))
    assert "volcano" in str(shown["outputs"])
    assert any("image/png" in output.get("data", {}) for output in shown["outputs"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": "nowhere.pt"}, "nowhere.pt"),
        ({"labels": "[1000]"}, "1000"),
        ({"labels": "tench"}, "whole numbers"),
    ],
)
def test_what_cannot_be_inverted_is_named_before_any_training(weights, tmp_path, monkeypatch, capfd, change, words):
    monkeypatch.chdir(ROOT)
    given = {"target": "timm/test_vit", "weights": weights, "labels": "[980, 200]"} | change
    assert start(tmp_path, **given) != 0
    told = capfd.readouterr()
    assert words in told.out + told.err
    assert not list(tmp_path.rglob("03_plug_in_inversion.ipynb"))
