"""Recorded runs: complete, vouched for, never replaced in silence."""

import hashlib
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from invkit.book import recorded
from invkit.book.ledger.rules import load_rules, read_rule
from invkit.book.record_file import commit_of, record
from invkit.book.recorded import check_records, load_recorded, show_recorded
from invkit.show.grids import image_grid

ROOT = Path(__file__).resolve().parents[2]
STORED = sorted(path.stem for path in (ROOT / "book/recorded").glob("*.json"))
FACTS = {
    "title": "A <small> run",
    "config": {"lr": 0.1},
    "measured": {"ours": {"accuracy": [0.8, 0.9], "loss": 2.0}},
    "command": "make run SEED=0",
    "seeds": [0, 1],
    "seconds": 400,
    "device": "one GPU",
}


def figure():
    return image_grid(torch.zeros(1, 1, 4, 4), title="Black")


def test_a_run_comes_back_as_it_was(tmp_path):
    record("run-1", **FACTS, figure=figure(), folder=tmp_path)
    run = load_recorded("run-1", tmp_path)
    assert (run.config, run.command, run.seeds, run.device) == ({"lr": 0.1}, "make run SEED=0", [0, 1], "one GPU")
    assert run.measured == {"ours": {"accuracy": [0.8, 0.9], "loss": [2.0]}}
    assert run.picture is not None


def test_the_script_is_known_by_its_hash(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("print()")
    record("run-1", **FACTS, script=script, folder=tmp_path)
    assert load_recorded("run-1", tmp_path).script_sha256 == hashlib.sha256(b"print()").hexdigest()


def test_names_in_a_note_are_set_as_code(tmp_path):
    record("run-1", **FACTS, note="`loss` is <1", folder=tmp_path)
    assert "<p><code>loss</code> is &lt;1</p>" in load_recorded("run-1", tmp_path)._repr_html_()


def test_numbers_come_by_row_and_column(tmp_path):
    measured = {"ours": {"accuracy": [0.8, 0.9]}, "theirs": {"accuracy": {"mean": 0.5, "sd": 0.1, "n": 600}}}
    record("run-1", **FACTS | {"measured": measured}, folder=tmp_path)
    run = load_recorded("run-1", tmp_path)
    assert run.means() == {"ours": {"accuracy": pytest.approx(0.85)}, "theirs": {"accuracy": 0.5}}
    assert run.summaries()["ours"]["accuracy"] == {
        "mean": pytest.approx(0.85), "sd": pytest.approx(0.0707, abs=1e-4), "n": 2,
    }  # fmt: skip
    assert run.summaries()["theirs"] == measured["theirs"]


def test_it_is_shown_as_recorded_with_its_origin(tmp_path):
    record("run-1", **FACTS, figure=figure(), folder=tmp_path)
    bundle = show_recorded("run-1", tmp_path)._repr_mimebundle_()
    for text in bundle["text/html"], bundle["text/plain"]:
        assert "Recorded run" in text
        assert "one GPU, 7 min, seeds 0, 1, commit " in text
        assert "make run SEED=0" in re.sub("<.*?>", "", text)
        assert "0.850 ± 0.071" in text
    assert "A &lt;small&gt; run" in bundle["text/html"]
    assert 'alt="Black: One image."' in bundle["text/html"]


def test_a_picture_can_be_left_out(tmp_path):
    record("run-1", **FACTS, figure=figure(), folder=tmp_path)
    assert "<img" in show_recorded("run-1", tmp_path)._repr_html_()
    page = show_recorded("run-1", tmp_path, picture=False)._repr_html_()
    assert "<img" not in page
    assert "0.850 ± 0.071" in page


def test_columns_can_be_left_out_of_a_table_which_says_so(tmp_path):
    measured = {"first": {"a": 1.0, "b < c": 2.0, "d": 3.0}, "second": {"a": 4.0}}
    record("run-1", **FACTS | {"measured": measured}, folder=tmp_path)
    shown = show_recorded("run-1", tmp_path, hide=["b < c", "d"])
    page = shown._repr_html_()
    assert re.findall(r'<th scope="col">(.*?)</th>', page) == ["a"]
    assert "Left out here, and kept in <code>book/recorded/run-1.json</code>: b &lt; c, d." in page
    assert shown.means() == measured
    assert "Left out" not in show_recorded("run-1", tmp_path)._repr_html_()
    with pytest.raises(ValueError, match=r"run-1 has no column 'e' to hide; there is a, b < c, d"):
        show_recorded("run-1", tmp_path, hide=["e"])


def test_rows_and_columns_make_a_table(tmp_path):
    measured = {"first": {"a": 1.0, "b": 2.0}, "second": {"b": 3.0}}
    record("run-1", **FACTS | {"measured": measured}, folder=tmp_path)
    page = show_recorded("run-1", tmp_path)._repr_html_()
    assert '<th scope="col">a</th><th scope="col">b</th>' in page
    assert '<th scope="row">second</th><td></td><td>3</td>' in page


def test_nothing_is_replaced_in_silence(tmp_path):
    record("run-1", **FACTS, folder=tmp_path)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        record("run-1", **FACTS | {"seeds": [6, 7]}, folder=tmp_path)
    assert load_recorded("run-1", tmp_path).seeds == [0, 1]
    record("run-1", **FACTS | {"seeds": [6, 7]}, folder=tmp_path, overwrite=True)
    assert load_recorded("run-1", tmp_path).seeds == [6, 7]


def test_another_picture_is_noticed(tmp_path):
    path = record("run-1", **FACTS, figure=figure(), folder=tmp_path)
    path.with_suffix(".png").write_bytes(b"other")
    with pytest.raises(ValueError, match="not the picture of this run"):
        load_recorded("run-1", tmp_path)
    path.with_suffix(".png").unlink()
    with pytest.raises(ValueError, match="missing"):
        load_recorded("run-1", tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("../run", {}, "lower-case"),
        ("run", {"measured": {"ours": {"a": float("nan")}}}, "ours: a.*not finite"),
        ("run", {"measured": {"ours": {"a": []}}}, "ours: a"),
        ("run", {"measured": {"ours": 0.5}}, "columns.*'ours'"),
        ("run", {"measured": {}}, "empty"),
        ("run", {"command": " "}, "command"),
        ("run", {"claims": ["dci.deep", "dci.nonsense"]}, "run: claims names dci.nonsense"),
        ("run", {"claims": "dci.deep"}, "run: claims must be a sequence"),
    ],
)
def test_bad_records_are_refused(tmp_path, name, change, message):
    with pytest.raises(ValueError, match=message):
        record(name, **FACTS | change, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_not_there_lists_those_that_are(tmp_path):
    record("run-1", **FACTS, folder=tmp_path)
    with pytest.raises(FileNotFoundError, match="there is run-1"):
        load_recorded("run-2", tmp_path)


def test_outside_of_git_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit_of(tmp_path / "not" / "there") == "unknown"


SEEDS = {
    "seeds": [0, 1, 2],
    "measured": {
        "ours": {"psnr": [20.0, 22.0, 24.0], "distance": [1.0, 2.0, 3.0]},
        "nearest": {"psnr": [19.0, 23.0, 21.0], "distance": [2.0, 1.0, 6.0]},
        "class mean": {"psnr": 21.0},
        "stopped": {"psnr": [20.0, 22.0]},
        "summary": {"psnr": {"mean": 20.0, "sd": 1.0, "n": 3}},
    },
}


def test_a_record_keeps_the_rules_and_networks_of_its_making(tmp_path):
    record("run-1", **FACTS, folder=tmp_path, claims=("dci.deep",), networks={"net": "a1", "seeds": ["c3", "b2", "c3"]})
    run = load_recorded("run-1", tmp_path)
    assert run.rules == {"dci.deep": load_rules()["dci.deep"].digest()}
    assert run.networks == {"net": ["a1"], "seeds": ["b2", "c3"]}
    assert check_records(tmp_path) == []


def test_records_from_before_have_no_rules(tmp_path):
    path = record("run-1", **FACTS, folder=tmp_path)
    data = json.loads(path.read_text("utf8"))
    del data["rules"], data["networks"]
    path.write_text(json.dumps(data))
    run = load_recorded("run-1", tmp_path)
    assert (run.rules, run.networks) == ({}, {})
    assert check_records(tmp_path) == []


def with_another_rule(path, digest, **changes):
    """A stored run whose rule of dci.shallow had another digest, with other fields."""
    data = json.loads(path.read_text("utf8")) | changes
    data["rules"] = {"dci.shallow": digest}
    path.write_text(json.dumps(data))


def test_a_rule_that_changed_is_told(tmp_path):
    path = record("run-1", **FACTS, folder=tmp_path, claims=("dci.shallow",))
    assert check_records(tmp_path) == []
    with_another_rule(path, "0" * 12)
    (problem,) = check_records(tmp_path)
    assert "recorded run run-1: the rule of dci.shallow has changed" in problem
    with pytest.warns(UserWarning, match="has changed"):
        load_recorded("run-1", tmp_path)


def test_a_rule_that_is_gone_is_told(tmp_path):
    path = record("run-1", **FACTS, folder=tmp_path, claims=("dci.shallow",))
    path.write_text(path.read_text("utf8").replace("dci.shallow", "dci.gone"))
    (problem,) = check_records(tmp_path)
    assert "recorded run run-1: the rule of dci.gone is gone" in problem


@pytest.mark.parametrize(("made", "told"), [("2026-11-30", 0), ("2026-12-02", 1)])
def test_runs_from_before_a_rule_was_mended_are_judged_by_it_still(tmp_path, monkeypatch, made, told):
    rules = load_rules()
    rule = rules["dci.shallow"]
    mended = {**rules, "dci.shallow": replace(rule, mended="2026-12-01", mended_digest=rule.digest())}
    monkeypatch.setattr(recorded, "load_rules", lambda: mended)
    path = record("run-1", **FACTS, folder=tmp_path, claims=("dci.shallow",))
    with_another_rule(path, "0" * 12, date=f"{made}T12:00:00+00:00")
    assert len(check_records(tmp_path)) == told


def test_a_mended_rule_that_changed_again_is_told(tmp_path, monkeypatch):
    rules = load_rules()
    mended = replace(rules["dci.shallow"], mended="2026-12-01", mended_digest=rules["dci.shallow"].digest())
    path = record("run-1", **FACTS, folder=tmp_path, claims=("dci.shallow",))
    with_another_rule(path, "0" * 12, date="2026-11-30T12:00:00+00:00")
    again = replace(mended, parts=tuple(replace(part, holds=part.holds + 1) for part in mended.parts))
    for rule, told in ((mended, 0), (again, 1), (replace(again, mended_digest=again.digest()), 0)):
        monkeypatch.setattr(recorded, "load_rules", lambda rule=rule: {**rules, "dci.shallow": rule})
        found = check_records(tmp_path)
        assert len(found) == told
        assert all("recorded run run-1: the rule of dci.shallow has changed" in problem for problem in found)


@pytest.mark.parametrize("claims", [(), ("dci.deep",)])
def test_a_missing_seed_is_told(tmp_path, claims):
    record("run-1", **FACTS | SEEDS, folder=tmp_path, claims=claims)
    assert check_records(tmp_path) == [
        "recorded run run-1, row 'stopped': psnr has 2 numbers for the seeds 0, 1, 2"
    ]  # fmt: skip
    with pytest.warns(UserWarning, match="row 'stopped'"):
        load_recorded("run-1", tmp_path)


ALONE = {
    "seeds": [0, 1, 2],
    "measured": {
        "ours": {"psnr": [20.0, 22.0, 24.0], "steps": 9.0},
        "class mean": {"psnr": 21.0, "ssim": 0.5},
        "photographs": {"psnr": {"mean": 20.0, "sd": 1.0, "n": 600}, "ssim": 1.0},
        "old": {"psnr": {"mean": 20.0, "sd": 1.0, "n": 3}},
    },
}


def test_a_record_names_what_holds_one_number_for_all_seeds(tmp_path):
    path = record("run-1", **FACTS | ALONE, folder=tmp_path)
    assert list(json.loads(path.read_text("utf8")))[-5:-3] == ["single", "measured"]
    assert load_recorded("run-1", tmp_path).single == ["ours: steps", "class mean", "photographs"]
    assert check_records(tmp_path) == []
    one = FACTS | {"seeds": [0], "measured": {"ours": {"psnr": 20.0}}}
    record("run-2", **one, folder=tmp_path)
    assert load_recorded("run-2", tmp_path).single == []
    assert check_records(tmp_path) == []


def test_one_number_that_the_record_does_not_name_is_a_missing_seed(tmp_path):
    path = record("run-1", **FACTS | ALONE, folder=tmp_path)
    data = json.loads(path.read_text("utf8"))
    data["measured"]["ours"]["psnr"] = [20.0]  # two of three seeds are lost
    path.write_text(json.dumps(data))
    assert check_records(tmp_path) == ["recorded run run-1, row 'ours': psnr has 1 number for the seeds 0, 1, 2"]
    with pytest.warns(UserWarning, match="row 'ours': psnr has 1 number"):
        load_recorded("run-1", tmp_path)


def test_records_from_before_name_no_single_numbers(tmp_path):
    path = record("run-1", **FACTS | ALONE, folder=tmp_path)
    data = json.loads(path.read_text("utf8"))
    del data["single"]
    path.write_text(json.dumps(data))
    told = [problem.partition("row ")[2].partition(" has")[0] for problem in check_records(tmp_path)]
    assert told == ["'ours': steps", "'class mean': psnr", "'class mean': ssim", "'photographs': ssim"]


def test_one_number_stands_for_all_seeds_only_where_the_record_says_so(tmp_path):
    path = record("run-1", **FACTS | ALONE, folder=tmp_path)
    run = load_recorded("run-1", tmp_path)
    assert run.effect("ours", "psnr", over="class mean") == [-1.0, 1.0, 3.0]
    data = json.loads(path.read_text("utf8"))
    data["measured"]["ours"]["steps"] = [9.0, 8.0, 7.0]
    data["measured"]["theirs"] = {"psnr": [21.0], "steps": [8.0]}
    data["single"] = ["class mean", "photographs", "theirs: steps"]
    path.write_text(json.dumps(data))
    with pytest.warns(UserWarning, match="row 'theirs': psnr"):
        run = load_recorded("run-1", tmp_path)
    assert run.effect("ours", "steps", over="theirs") == [1.0, 0.0, -1.0]
    with pytest.raises(ValueError, match="row 'theirs': psnr has 1 number for the seeds 0, 1, 2"):
        run.effect("ours", "psnr", over="theirs")


@pytest.mark.parametrize(
    ("networks", "same"),
    [
        ({}, False),
        ({"net": "a1"}, True),
        ({"net": "a1", "judge": "b2"}, True),
        ({"net": ["a1", "b2", "c3"], "judge": "d4"}, False),
        ({"net, seed 0": "a1", "net, seed 1": "b2", "net, seed 20": "c3"}, False),
        ({"net, seed 0": "a1", "other, seed 1": "b2", "third, seed 2": "c3"}, True),
    ],
)
def test_a_run_knows_whether_its_seeds_left_the_networks_alone(tmp_path, networks, same):
    record("run-1", **FACTS | ALONE, folder=tmp_path, networks=networks)
    assert load_recorded("run-1", tmp_path).same_networks is same


def test_other_networks_of_one_name_are_told(tmp_path):
    record("first", **FACTS, folder=tmp_path, networks={"net": "a1", "seeds": ["b2", "c3"]})
    record("second", **FACTS, folder=tmp_path, networks={"seeds": ["b2", "c3", "d4"], "other": "e5"})
    assert check_records(tmp_path) == [], "more seeds of the same networks are no other networks"
    record("third", **FACTS, folder=tmp_path, networks={"net": "f6"})
    (problem,) = check_records(tmp_path)
    assert "recorded runs first and third: the network 'net' is not the same (a1 and f6)" in problem
    with pytest.warns(UserWarning, match="first"):
        load_recorded("third", tmp_path)


@pytest.mark.filterwarnings("ignore:recorded run run-1, row 'stopped'")
def test_effects_are_taken_seed_by_seed_over_the_best_of_others(tmp_path):
    record("run-1", **FACTS | SEEDS, folder=tmp_path)
    run = load_recorded("run-1", tmp_path)
    assert run.by_seed("ours", "psnr") == [20.0, 22.0, 24.0]
    assert run.effect("ours", "psnr", over=["nearest", "class mean"]) == [-1.0, -1.0, 3.0]
    assert run.effect("ours", "distance", over="nearest", lower_is_better=True) == [1.0, -1.0, 3.0]
    assert run.effect("ours", "distance", over="nearest", lower_is_better=True, relative=True) == [0.5, -1.0, 0.5]


@pytest.mark.filterwarnings("ignore:recorded run run-1, row 'stopped'")
@pytest.mark.parametrize(
    ("row", "column", "over", "message"),
    [
        ("theirs", "psnr", "ours", "run-1 has no row 'theirs'; there is ours"),
        ("ours", "ssim", "nearest", "run-1, row 'ours': no column 'ssim'; there is psnr, distance"),
        ("stopped", "psnr", "ours", "row 'stopped': psnr has 2 numbers for the seeds 0, 1, 2"),
        ("class mean", "psnr", "ours", "row 'class mean': psnr has 1 number for the seeds"),
        ("ours", "psnr", "stopped", "row 'stopped': psnr has 2 numbers"),
        ("summary", "psnr", "ours", "row 'summary': of psnr only a summary was kept"),
        ("ours", "psnr", [], "run-1: over is empty"),
    ],
)
def test_effects_of_what_is_not_there_are_refused(tmp_path, row, column, over, message):
    record("run-1", **FACTS | SEEDS, folder=tmp_path)
    with pytest.raises(ValueError, match=message):
        load_recorded("run-1", tmp_path).effect(row, column, over=over)


def test_the_books_records_agree_with_their_rules_and_with_each_other():
    assert check_records(ROOT / "book/recorded") == []


@pytest.mark.parametrize("name", STORED)
def test_what_is_stored_can_be_shown_and_repeated(name):
    run = load_recorded(name, ROOT / "book/recorded")
    assert run.means()
    assert run.seeds
    (script,) = (word for word in run.command.split() if word.endswith(".py"))
    assert (ROOT / script).is_file()
    for row in run.summaries().values():
        # What is no seed is an image, a summary of which is stored.
        assert {s["n"] for s in row.values() if s["n"] < 10} <= {1, len(run.seeds)}


def test_a_page_reads_on_where_a_record_or_its_picture_is_missing(tmp_path):
    page = show_recorded("no-run", tmp_path)._repr_html_()
    assert "no-run is missing" in page
    path = record("run-1", **FACTS, figure=figure(), folder=tmp_path)
    path.with_suffix(".png").unlink()
    assert "run-1 is missing" in show_recorded("run-1", tmp_path)._repr_html_()


def rules_of(commit):
    """Digests of the rules as a commit has them; a mending is no part of a rule."""
    for place in ("invkit/book/ledger/rules.yml", "invkit/book/rules.yml"):  # where they are, and where they were
        shown = subprocess.run(["git", "show", f"{commit}:{place}"], cwd=ROOT, capture_output=True, text=True)
        if shown.returncode == 0:
            rows = [{key: row[key] for key in row if "mended" not in key} for row in yaml.safe_load(shown.stdout)]
            return {row["id"]: read_rule(row).digest() for row in rows}
    pytest.skip(f"this checkout does not hold the rules of commit {commit}")


@pytest.mark.parametrize("name", STORED)
def test_the_rules_of_a_run_are_those_of_the_commit_that_it_was_made_from(name):
    run = load_recorded(name)
    if not run.rules:
        pytest.skip("it judges no claim")
    there = rules_of(run.commit.partition("+")[0])
    assert run.rules == {id: there.get(id) for id in run.rules}
