"""Claims: the list is whole, answers are checked, and files are complete or absent."""

import json
import math
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from invkit.book.ledger.claims import Claims, digest, find_root, load_claims, read_row
from invkit.book.ledger.rules import load_rules
from invkit.book.ledger.verdicts import CONTRADICTED, HOLDS, IN_PART, NOT_TESTED, OPPOSED
from invkit.book.record_file import record

ROOT = Path(__file__).resolve().parents[2]
SURE = [0.9, 0.95, 0.92]
CIFAR = {"data": "CIFAR-10", "network": "ResNet-20", "finding": "Another network recognises <92%> | of them."}
DIGITS = {"data": "digits", "network": "BN-CNN", "finding": "It recognises few."}


def answered() -> Claims:
    claims = Claims("01_deepinversion", profile="ci")
    for id in claims.owned:
        claims.untested(id, "Not measured here.")
    return claims


def test_the_list_holds_every_claim_once():
    claims = load_claims()
    papers = Counter(claim.paper for claim in claims.values())
    assert sum(papers.values()) == 68
    assert sorted(papers.values()) == [9, 11, 13, 17, 18]
    assert Counter(id.split(".")[0] for id in claims)["di"] == 13
    assert all(all((c.claim, c.reported, c.measure, c.chapter.isdigit())) for c in claims.values())


def test_each_work_of_the_bibliography_can_be_found():
    entries = [line for line in (ROOT / "book/references.bib").read_text("utf8").splitlines() if line.startswith("@")]
    assert len(entries) > 30
    assert [e[:60] for e in entries if not any(f"{field}={{" in e for field in ("url", "doi", "eprint"))] == []


def test_papers_are_in_the_bibliography_and_the_list_is_in_the_package():
    bibliography = (ROOT / "book/references.bib").read_text("utf8")
    assert all(f"{{{claim.paper}," in bibliography for claim in load_claims().values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))
    assert "book/ledger/claims.yml" in project["tool"]["setuptools"]["package-data"]["invkit"]


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
    claims.test("di.verifier", SURE, **CIFAR, measured=measured)
    found = claims.rows["di.verifier"].tests[0].measured[""]
    assert (found["mean"], found["sd"], found["n"]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("measured", "message"),
    [
        (float("nan"), "not finite"),
        ({"a": [1, float("inf")]}, "di.verifier a: .*not finite"),
        ([], "no number"),
        ({}, "empty"),
        ("fast", "should be numbers"),
    ],
)
def test_bad_numbers_beside_an_effect_are_refused(measured, message):
    claims = Claims("01_deepinversion", profile="ci")
    with pytest.raises(ValueError, match=message):
        claims.test("di.verifier", SURE, **CIFAR, measured=measured)
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
    claims.untested("di.amp", "Needs a GPU.")
    numbers = {"ResNet": [0.9, 0.92], "MLP": [0.8, 0.8]}
    claims.test("di.verifier", SURE, **CIFAR, measured=numbers, note="n = 64")
    data = json.loads(claims.save(tmp_path).read_text("utf8"))
    rows = {row["id"]: row for row in data["claims"]}
    assert list(rows) == list(claims.owned)
    assert rows["di.amp"] | {"verdict": NOT_TESTED, "tests": [], "reason": "Needs a GPU."} == rows["di.amp"]
    assert rows["di.verifier"]["verdict"] == HOLDS
    assert data["digest"] == digest(data["claims"])
    page = claims.table()._repr_html_()
    assert f'data-claims="{data["digest"]}"' in page
    assert "n = 64" in page
    assert "ResNet 0.910 ± 0.014; MLP 0.800 ± 0.000 (2 seeds)" in page
    assert 'id="claim-di-amp"' in page
    assert "Needs a GPU." in page


def chapter() -> Claims:
    return Claims("01_deepinversion", profile="ci")


def test_each_data_set_and_network_is_a_test_of_its_own():
    claims = chapter()
    claims.test("di.verifier", [0.1, 0.12, 0.11], **DIGITS)
    assert claims.rows["di.verifier"].verdict == IN_PART
    claims.test("di.verifier", SURE, **CIFAR)
    assert claims.rows["di.verifier"].verdict == HOLDS, "real data decide"
    claims.test("di.verifier", [-0.3, -0.2, -0.25], **CIFAR | {"network": "ResNet-44"})
    assert claims.rows["di.verifier"].verdict == IN_PART
    assert [test.verdict for test in claims.rows["di.verifier"].tests] == [IN_PART, HOLDS, CONTRADICTED]
    claims.test("di.verifier", SURE, **CIFAR | {"network": "ResNet-44"})
    assert len(claims.rows["di.verifier"].tests) == 3, "the second replaces the first"
    assert claims.rows["di.verifier"].verdict == HOLDS


def test_what_is_not_tested_says_why():
    claims = chapter()
    claims.test("di.amp", {"time": SURE, "memory": SURE}, **CIFAR)
    claims.untested("di.amp", "It needs a GPU.")
    assert claims.rows["di.amp"].verdict == NOT_TESTED
    assert "It needs a GPU" in claims.table()._repr_html_()
    claims.test("di.amp", {"time": SURE, "memory": SURE}, **CIFAR)
    assert "It needs a GPU" not in claims.table()._repr_html_()
    for reason in ("", "  ", None):
        with pytest.raises(ValueError, match=r"di\.amp: .*needs a reason"):
            claims.untested("di.amp", reason)


@pytest.mark.parametrize(
    ("id", "effect", "change", "message"),
    [
        ("di.nonsense", 1.0, {}, "unknown claim 'di.nonsense'"),
        ("dci.deep", 1.0, {}, "belongs to chapter 04"),
        ("di.amp", {"speed": SURE}, {}, "di.amp: unknown part 'speed'; its parts are 'time', 'memory'"),
        ("di.amp", {"time": SURE, "memory": SURE[:2]}, {}, "di.amp: parts have unequal numbers of seeds"),
        ("di.verifier", [math.nan] * 3, {}, "di.verifier: .*not finite"),
        ("di.verifier", SURE, {"finding": ""}, "di.verifier: finding is empty"),
        ("di.verifier", SURE, {"measured": {"own": math.inf}}, "di.verifier own: .*not finite"),
        ("di.verifier", SURE, {"recorded": "no_such_run"}, "no recorded run 'no_such_run'"),
    ],
)
def test_bad_tests_are_refused(id, effect, change, message):
    claims = chapter()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        claims.test(id, effect, **CIFAR | change)
    assert not claims.rows


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A book whose records are made here."""
    (tmp_path / "book/recorded").mkdir(parents=True)
    (tmp_path / "book/_toc.yml").touch()
    monkeypatch.chdir(tmp_path)

    def make(name: str, **about) -> None:
        facts = {"title": "A run", "config": {}, "command": "make", "seeds": [0, 1, 2], "seconds": 1, "device": "cpu"}
        record(name, measured={"ours": {"recognised": SURE}}, **facts | about)

    return make


def test_a_record_knows_whether_its_rule_is_older(runs):
    runs("old_run")
    runs("new_run", claims=["di.verifier"])
    claims = chapter()
    claims.test("di.verifier", SURE, **CIFAR, recorded="old_run")
    assert "3 seeds, recorded run old_run (rule younger than the run)" in claims.table()._repr_html_()
    claims.test("di.verifier", SURE, **CIFAR, recorded="new_run")
    (test,) = claims.rows["di.verifier"].tests
    assert test.rule_first
    assert "recorded run new_run</p>" in claims.table()._repr_html_()


def test_a_rule_that_changed_since_is_younger_than_the_run(runs):
    runs("run-1", claims={"di.verifier": "0" * 12})
    claims = chapter()
    with pytest.warns(UserWarning, match=r"recorded run run-1: the rule of di\.verifier has changed"):
        claims.test("di.verifier", SURE, **CIFAR, recorded="run-1")
    assert not claims.rows["di.verifier"].tests[0].rule_first


@pytest.mark.parametrize("effect", [SURE[:2], [*SURE, 0.9], 0.9])
def test_a_recorded_test_has_a_number_for_each_seed(runs, effect):
    runs("run-1")
    with pytest.raises(ValueError, match=r"di\.verifier: .*run-1 has 3 seeds \(0, 1, 2\)"):
        chapter().test("di.verifier", effect, **CIFAR, recorded="run-1")


def test_what_is_exact_needs_one_number_of_a_record(runs):
    runs("run-1")
    claims = chapter()
    claims.test("di.running-sum", 0.0, **CIFAR | {"data": "any"}, recorded="run-1")
    assert claims.rows["di.running-sum"].verdict == CONTRADICTED


ONE_NETWORK = "CIFAR-10, ResNet-20, 3 seeds of one network, recorded run run-1"


@pytest.mark.parametrize(
    ("networks", "said", "words"),
    [
        ({"net": "a1", "judge": "b2"}, "", ONE_NETWORK),
        ({"net": "a1"}, "the students", ONE_NETWORK.replace("one network", "the students")),
        ({"net": ["a1", "b2", "c3"], "judge": "d4"}, "", ONE_NETWORK.replace(" of one network", "")),
        ({f"net, seed {k}": str(k) for k in range(3)}, "", ONE_NETWORK.replace(" of one network", "")),
        ({}, "", ONE_NETWORK.replace(" of one network", "")),
    ],
)
def test_a_test_says_where_the_seeds_left_the_network_alone(runs, networks, said, words):
    runs("run-1", claims=["di.verifier"], networks=networks)
    claims = chapter()
    claims.test("di.verifier", SURE, **CIFAR, recorded="run-1", seeds_of=said)
    assert claims.rows["di.verifier"].tests[0].tested_on == words


def test_what_is_exact_has_no_seeds_to_speak_of(runs):
    runs("run-1", claims=["di.running-sum"], networks={"net": "a1"})
    claims = chapter()
    claims.test("di.running-sum", 0.0, **CIFAR | {"data": "any"}, recorded="run-1")
    assert claims.rows["di.running-sum"].tests[0].tested_on == "any, ResNet-20, 1 seed, recorded run run-1"


def test_little_training_does_not_contradict_a_claim(tmp_path):
    claims = answered()
    claims.test("di.verifier", [-0.3, -0.2, -0.25], **CIFAR, scale=0.05)
    assert claims.rows["di.verifier"].verdict == OPPOSED
    assert "CIFAR-10, ResNet-20, 3 seeds, 5% of the paper" in claims.table()._repr_html_()
    claims.test("di.verifier", SURE, **CIFAR | {"network": "ResNet-44"})
    assert claims.rows["di.verifier"].verdict == IN_PART, "it does not hold either"
    data = json.loads(claims.save(tmp_path).read_text("utf8"))
    (row,) = (read_row(row) for row in data["claims"] if row["id"] == "di.verifier")
    assert [test.scale for test in row.tests] == [0.05, 1.0]
    with pytest.raises(ValueError, match=r"di\.verifier: scale"):
        claims.test("di.verifier", SURE, **CIFAR, scale=0.0)


LEFT_OUT = {
    ("dci.beats-deepsim", "cifar10_dci_methods"): "its rival had a fifth of the steps; cifar10_dci_tuned has as many",
    ("dci.beats-deepsim", "cifar10_dci_rival"): "its numbers are those that cifar10_dci_tuned is judged against",
    ("dci.shallow", "cifar10_dci_depth"): "the claim is of three halvings, and its network halves twice",
}
"""Claims that a recorded run was made for and does not judge, and why."""


@pytest.fixture(scope="module")
def judged() -> set[tuple[str, str]]:
    """Claim and recorded run of every test that the chapters have saved in profile ``ci``."""
    folder = ROOT / "build/claims/ci"
    chapters = {claim.chapter for claim in load_claims().values()}
    if missing := sorted(chapters - {path.stem[:2] for path in folder.glob("*.json")}):
        pytest.skip(f"chapters {', '.join(missing)} have no answers in {folder}: python -m invkit.run --profile ci")
    files = [json.loads(path.read_text("utf8")) for path in sorted(folder.glob("*.json"))]
    rows = [read_row(row) for data in files for row in data["claims"]]
    return {(row.id, test.recorded) for row in rows for test in row.tests if test.recorded}


def declared() -> set[tuple[str, str]]:
    """Claim and recorded run of every rule that a record was made for."""
    records = [json.loads(path.read_text("utf8")) for path in (ROOT / "book/recorded").glob("*.json")]
    return {(id, data["name"]) for data in records for id in data.get("rules", {})}


def in_words(pairs: set[tuple[str, str]]) -> str:
    """All of them, where pytest would leave some out."""
    return "; ".join(f"{id} by {run}" for id, run in sorted(pairs))


def test_a_run_that_was_made_for_a_claim_judges_it(judged):
    """Else a run whose numbers do not please could be left out."""
    left_out = declared() - judged
    assert left_out == set(LEFT_OUT), in_words(left_out ^ set(LEFT_OUT))


def test_a_claim_is_judged_by_runs_that_were_made_for_it(judged):
    undeclared = judged - declared()
    assert not undeclared, in_words(undeclared)


def test_the_table_shows_finding_interval_threshold_data_and_verdicts():
    claims = chapter()
    claims.test("di.verifier", [0.1, 0.2, 0.3], **DIGITS, measured={"own": [1.0, 1.0, 1.0]}, note="Few images.")
    claims.test("di.verifier", SURE, **CIFAR)
    page = claims.table()._repr_html_()
    for text in (
        "0.20 [−0.05, 0.45] against 0.5, absent at 0",
        "digits, BN-CNN, 3 seeds",
        "CIFAR-10, ResNet-20, 3 seeds",
        "It recognises few.",
        "Few images.",
        "Measured: own 1.00 ± 0.00 (3 seeds).",
        "Reported: ResNet-152: 97.02 / 99.32% top-1 / top-5",
        "Effect: share recognised by a network of another architecture",
        'rowspan="2"',
        "&lt;92%&gt;",
    ):
        assert text in page, text
    assert page.count("✓ holds") == 2, "on CIFAR-10 and overall"
    assert page.count("○ not seen at this scale") == 1
    *lines, empty, legend = claims.table()._repr_markdown_().splitlines()
    assert {line.replace("\\|", "").count("|") for line in lines} == {5}
    assert not empty
    assert legend in page
    assert "○ says that the numbers do not decide" in legend
    assert "⊘" not in legend, "no row has it"
    claims.test("di.adaptive", [-0.9, -0.8, -0.9], **DIGITS)
    assert "⊘ says that the numbers speak against the claim" in claims.table()._repr_html_()


def test_saved_tests_come_back(tmp_path):
    claims = answered()
    claims.test("di.verifier", SURE, **CIFAR, measured={"own": 1.0})
    claims.test("di.amp", {"time": SURE}, **CIFAR)
    data = json.loads(claims.save(tmp_path).read_text("utf8"))
    rows = [read_row(row) for row in data["claims"]]
    assert rows == [claims.rows[id] for id in claims.owned]
    assert digest(rows) == data["digest"] == claims.table().digest
    by_id = {row.id: row for row in rows}
    assert by_id["di.verifier"].rule == load_rules()["di.verifier"].digest()
    assert by_id["di.verifier"].tests[0].effects[""].values == tuple(SURE)


def test_another_number_changes_the_digest():
    first, second = chapter(), chapter()
    first.test("di.verifier", SURE, **CIFAR)
    second.test("di.verifier", [*SURE[:2], 0.93], **CIFAR)
    assert first.table().digest != second.table().digest


def test_another_answer_changes_the_digest():
    first, second = answered(), answered()
    second.untested("di.amp", "Needs a GPU.")
    assert first.table().digest != second.table().digest


def test_markup_in_words_does_not_reach_the_page():
    claims = Claims("01_deepinversion", profile="ci")
    claims.untested("di.amp", "<script>|")
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
