"""Claims: the list is whole, answers are checked, and files are complete or absent."""

import json
import math
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from invkit.book.claims import Claims, digest, find_root, load_claims

ROOT = Path(__file__).resolve().parents[2]


def answered() -> Claims:
    claims = Claims("01_deepinversion", profile="ci")
    for id in claims.owned:
        claims.add(id, measured=[0.5, 0.7], holds=True)
    return claims


def test_the_list_holds_every_claim_once():
    claims = load_claims()
    papers = Counter(claim.paper for claim in claims.values())
    assert sum(papers.values()) == 68
    assert sorted(papers.values()) == [9, 11, 13, 17, 18]
    assert Counter(id.split(".")[0] for id in claims)["di"] == 13
    assert all(all((c.claim, c.reported, c.measure, c.chapter.isdigit())) for c in claims.values())


def test_papers_are_in_the_bibliography_and_the_list_is_in_the_package():
    bibliography = (ROOT / "book/references.bib").read_text("utf8")
    assert all(f"{{{claim.paper}," in bibliography for claim in load_claims().values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))
    assert "book/claims.yml" in project["tool"]["setuptools"]["package-data"]["invkit"]


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (0.5, (0.5, None, 1)),
        ([0.0, 2.0], (1.0, math.sqrt(2), 2)),
        (torch.tensor([1.0, 2.0, 3.0]), (2.0, 1.0, 3)),
        (np.float32(0.5), (0.5, None, 1)),
    ],
)
def test_mean_spread_and_seeds(measured, expected):
    claims = Claims("01_deepinversion", profile="ci")
    claims.add("di.verifier", measured=measured, holds=True)
    found = claims.rows["di.verifier"].measured[""]
    assert (found["mean"], found["sd"], found["n"]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("id", "answer", "message"),
    [
        ("di.nonsense", {"measured": 1, "holds": True}, "unknown claim 'di.nonsense'"),
        ("dci.deep", {"measured": 1, "holds": True}, "belongs to chapter 04"),
        ("di.amp", {"measured": float("nan"), "holds": True}, "not finite"),
        ("di.amp", {"measured": {"a": [1, float("inf")]}, "holds": False}, "di.amp a: .*not finite"),
        ("di.amp", {"measured": [], "holds": True}, "no number"),
        ("di.amp", {"measured": {}, "holds": True}, "empty"),
        ("di.amp", {"measured": "fast", "holds": True}, "should be numbers"),
        ("di.amp", {"holds": True}, "needs measured numbers"),
        ("di.amp", {"holds": None}, "needs a reason"),
        ("di.amp", {"measured": 1, "holds": 0.9}, "True, False or None"),
    ],
)
def test_bad_answers_are_refused(id, answer, message):
    claims = Claims("01_deepinversion", profile="ci")
    with pytest.raises(ValueError, match=message):
        claims.add(id, **answer)
    assert not claims.rows


def test_a_chapter_without_claims_is_refused():
    with pytest.raises(ValueError, match="'99_nothing'"):
        Claims("99_nothing", profile="ci")


def test_save_names_what_is_owed_and_writes_nothing(tmp_path):
    claims = answered()
    del claims.rows["di.amp"], claims.rows["di.jitter"]
    with pytest.raises(ValueError, match=r"owes an answer to di\.jitter, di\.amp"):
        claims.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_saved_answers_match_the_table(tmp_path):
    claims = answered()
    claims.add("di.amp", holds=None, reason="Needs a GPU.")
    claims.add(
        "di.verifier",
        measured={"ResNet": [0.9, 0.92], "MLP": [0.8, 0.8]},
        holds=np.bool_(False),
        note="n = 64",
    )
    data = json.loads(claims.save(tmp_path).read_text("utf8"))
    rows = {row["id"]: row for row in data["claims"]}
    assert list(rows) == list(claims.owned)
    assert rows["di.amp"] | {"verdict": "out of reach", "measured": {}} == rows["di.amp"]
    assert rows["di.verifier"]["verdict"] == "does not hold"
    assert data["digest"] == digest(data["claims"])
    page = claims.table()._repr_html_()
    assert f'data-claims="{data["digest"]}"' in page
    assert "ResNet 0.91 ± 0.014; MLP 0.8 ± 0 (2 seeds). n = 64" in page
    assert 'id="claim-di-amp"' in page


def test_another_answer_changes_the_digest():
    first, second = answered(), answered()
    second.add("di.amp", measured=[0.5, 0.7], holds=False)
    assert first.table().digest != second.table().digest


def test_markup_in_words_does_not_reach_the_page():
    claims = Claims("01_deepinversion", profile="ci")
    claims.add("di.amp", holds=None, reason="<script>|")
    assert "<script>" not in claims.table()._repr_html_()
    assert "<script>\\|" in claims.table()._repr_markdown_()


def test_the_root_is_found_from_the_notebooks_folder_and_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "book").mkdir()
    (tmp_path / "book/_toc.yml").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert answered().save() == tmp_path / "build/claims/ci/01_deepinversion.json"
    (tmp_path / "book/_toc.yml").unlink()
    assert find_root() == tmp_path / "notebooks"
