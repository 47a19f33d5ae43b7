"""Comparisons of methods, rows over seeds, and grids of settings."""

import math
import statistics

import pytest
import torch

from invkit.analysis.compare import Comparison, Run, compare
from invkit.analysis.seed_rows import SeedRows
from invkit.core.rng import seeded
from invkit.methods.deepdream import DeepDreamConfig, class_inversion
from invkit.methods.deepinversion import DeepInversionConfig, deep_inversion
from invkit.metrics.judge import Judge, PairJudge
from invkit.show.tables import table
from invkit.testing import tiny_target

LABELS = torch.tensor([0, 1, 2])


def noise(labels, generator):
    return torch.rand(len(labels), 3, 8, 8, generator=generator)


def brightness(images):
    return {"brightness": float(images.mean())}


# ---- compare


def test_each_method_meets_each_seed_with_a_fresh_generator():
    seen = []

    def spy(references, generator):
        seen.append((references, generator.initial_seed()))
        return noise(references, generator)

    comparison = compare({"one": spy, "two": spy}, LABELS, brightness, seeds=(5, 2))
    assert [seed for _, seed in seen] == [5, 2, 5, 2]
    assert all(references is LABELS for references, _ in seen)
    assert torch.equal(comparison.images["one"], noise(LABELS, seeded(5)))
    assert torch.equal(comparison.results["two"][1].images, noise(LABELS, seeded(2)))
    assert comparison.scores["one"][1]["brightness"] == float(noise(LABELS, seeded(2)).mean())
    assert comparison.scores["one"][0]["seconds"] >= 0


def test_both_judges_and_a_published_method_fit():
    target, verifier = tiny_target(size=(12, 12)), tiny_target(size=(12, 12), seed=1)
    real = torch.rand(3, 3, 12, 12, generator=seeded(9))
    config = DeepDreamConfig(steps=3)
    methods = {
        "noise": lambda y, g: torch.rand(len(y), 3, 12, 12, generator=g),
        "class": lambda y, g: class_inversion(target, y, config, generator=g),
    }
    by_label = Judge(target=target, verifiers={"other": verifier}, real=real)
    comparison = compare(methods, LABELS, by_label, seeds=(0,))
    assert comparison.scores["noise"][0].items() >= by_label(comparison.images["noise"], LABELS).items()
    assert len(comparison.results["class"][0].history["total"]) == 3
    by_pair = PairJudge(real=real, labels=LABELS, verifiers={"other": verifier})
    again = compare(methods, LABELS, by_pair, seeds=(0,))
    assert again.scores["class"][0]["psnr"] == by_pair(again.images["class"])["psnr"]


def test_a_method_that_fails_is_a_row_with_its_reason():
    def at_seed_one(labels, generator):
        if generator.initial_seed() == 1:
            raise ArithmeticError("the loss left the numbers")
        return noise(labels, generator)

    def refuses(labels, generator):
        raise ValueError("there is no batch norm")

    methods = {"refuses": refuses, "noise": noise, "at one": at_seed_one, "flat": lambda y, g: torch.zeros(3)}
    methods |= {"few": lambda y, g: noise(y[:1], g), "nan": lambda y, g: noise(y, g) * math.nan}
    comparison = compare(methods, LABELS, brightness, seeds=(0, 1, 2))
    assert list(comparison.scores) == ["noise", "at one"]
    assert [len(rows) for rows in comparison.scores.values()] == [3, 2]
    reasons = comparison.failures
    assert reasons["refuses"] == "there is no batch norm"
    assert reasons["at one, seed 1"] == "the loss left the numbers"
    assert "(3,)" in reasons["flat"]
    assert "3 references" in reasons["few"]
    assert "not finite" in reasons["nan"]
    assert comparison.table()["refuses"] == {"failed": "there is no batch norm"}
    assert list(comparison.table())[:2] == ["noise", "at one"]


def test_the_table_shows_means_spreads_and_reasons():
    runs = [Run(method="a", seed=s, scores={"x": x}) for s, x in enumerate((1.0, 2.0, 3.0))]
    comparison = Comparison((*runs, Run(method="b", seed=0, failure="there is no batch norm")))
    page = table(comparison.table(), digits=1, corner="method").to_html()
    assert "2.0 ± 1.0" in page
    assert "there is no batch norm" in page


def test_what_is_no_failure_of_a_method_is_not_hidden():
    def broken(labels, generator):
        raise TypeError("a mistake in the program")

    with pytest.raises(TypeError, match="mistake"):
        compare({"broken": broken}, LABELS, brightness)


def test_a_judge_that_can_score_nothing_is_an_error():
    def judge(images):
        raise ValueError("the images are too small")

    with pytest.raises(ValueError, match="noise: the images are too small"):
        compare({"noise": noise}, LABELS, judge, seeds=(0,))


def test_a_run_without_finite_losses_is_a_failure():
    target = tiny_target()
    config = DeepDreamConfig(steps=3, tv=0.0)
    start = torch.full((3, 3, 8, 8), 0.5)

    def diverges(labels, generator):
        with torch.no_grad():
            target.head.weight.fill_(math.inf)
        return class_inversion(target, labels, config, generator=generator, init=start)

    comparison = compare({"diverges": diverges, "noise": noise}, LABELS, brightness, seeds=(0,))
    assert "cross_entropy" in comparison.failures["diverges"]


def test_seeds_that_one_method_missed_are_left_out_of_a_lead():
    rows = [("a", 0, 3.0), ("a", 1, 5.0), ("a", 2, 9.0), ("b", 0, 1.0), ("b", 2, 4.0)]
    runs = [Run(method=name, seed=seed, scores={"x": x}) for name, seed, x in rows]
    comparison = Comparison((*runs, Run(method="b", seed=1, failure="no")))
    lead = comparison.lead("x", "a", "b")
    assert (lead.mean, lead.seeds) == (3.5, 2)
    assert comparison.worst_lead("x", "a", "b") == 2.0
    with pytest.raises(ValueError, match="'absent'"):
        comparison.lead("x", "a", "absent")


def test_finished_runs_are_kept_and_judged_anew(tmp_path):
    calls = []

    def counted(labels, generator):
        calls.append(generator.initial_seed())
        if len(calls) == 3:
            raise KeyboardInterrupt
        return noise(labels, generator)

    with pytest.raises(KeyboardInterrupt):
        compare({"noise": counted}, LABELS, brightness, seeds=(0, 1, 2), folder=tmp_path)
    kept = compare({"noise": counted}, LABELS, brightness, seeds=(0, 1, 2), folder=tmp_path)
    assert calls == [0, 1, 2, 2]
    whole = compare({"noise": noise}, LABELS, brightness, seeds=(0, 1, 2))
    assert kept.scores.columns(["brightness"], "noise") == whole.scores.columns(["brightness"], "noise")
    darkness = compare({"noise": counted}, LABELS, lambda images: {"dark": 0.0}, seeds=(0, 1, 2), folder=tmp_path)
    assert darkness.mean("noise", "dark") == 0
    assert len(calls) == 4
    compare({"noise": counted, "new": counted}, LABELS, brightness, seeds=(0, 3), folder=tmp_path)
    assert calls[4:] == [3, 0, 3]  # a new seed and a new method add only their own
    compare({"noise": counted}, LABELS + 1, brightness, seeds=(0,), folder=tmp_path)
    assert len(calls) == 8  # other references are another comparison


def test_a_method_of_several_resolutions_is_kept(tmp_path):
    target, config = tiny_target(), DeepInversionConfig(low_resolutions=((0.5, 2),), steps=2)
    methods = {"ours": lambda labels, generator: deep_inversion(target, labels, config, generator=generator)}
    first = compare(methods, LABELS, brightness, seeds=(0,), folder=tmp_path)
    again = compare({"ours": None}, LABELS, brightness, seeds=(0,), folder=tmp_path)  # read, not repeated
    assert torch.equal(again.images["ours"], first.images["ours"])
    assert len(again.results["ours"][0].stages) == 2


def test_an_interruption_inside_a_method_ends_the_comparison():
    def interrupted(labels, generator):
        def interrupt(step):
            raise KeyboardInterrupt

        target, config = tiny_target(), DeepDreamConfig(steps=5)
        return class_inversion(target, labels, config, generator=generator, callbacks=[interrupt])

    with pytest.raises(KeyboardInterrupt):
        compare({"interrupted": interrupted}, LABELS, brightness)


@pytest.mark.parametrize(
    ("change", "field"),
    [({"methods": {}}, "methods"), ({"seeds": ()}, "seeds"), ({"seeds": (1, 1)}, "seeds must differ")],
)
def test_comparisons_of_nothing_are_refused(change, field):
    arguments = {"methods": {"noise": noise}, "references": LABELS, "judge": brightness} | change
    with pytest.raises(ValueError, match=field):
        compare(**arguments)


# ---- rows over seeds


def test_columns_means_and_the_smallest_lead():
    rows = SeedRows({"a": [{"x": 3.0, "y": 0.0}, {"x": 5.0, "y": 1.0}], "d": {"x": 7.0}})
    rows.add({"b": [{"x": 1.0}, {"x": 4.5}], "c": {"x": 4.0}}, ", more")
    assert rows.columns(["x", "y"], "a") == {"a, x": [3, 5], "a, y": [0, 1]}
    assert rows["d"] == [{"x": 7.0}]
    assert rows.mean("a", "x") == 4
    assert rows.deviation("a", "x") == statistics.stdev([3, 5])
    assert math.isnan(rows.deviation("d", "x"))
    assert rows.worst_lead("x", "a", "b, more") == 0.5
    assert rows.worst_lead("x", "a", "c, more") == -1  # one seed alone meets the first


def test_the_interval_by_hand():
    rows = SeedRows({"a": [{"x": v} for v in (4.0, 6.0, 5.0)], "b": [{"x": v} for v in (1.0, 2.0, 3.0)]})
    lead = rows.lead("x", "a", "b", level=0.95)
    half = 4.302653 * 1.0 / math.sqrt(3)  # differences 3, 4, 2; Student's t with 2 degrees of freedom
    assert lead.mean == 3
    assert lead.low == pytest.approx(3 - half, abs=1e-5)
    assert lead.high == pytest.approx(3 + half, abs=1e-5)
    assert lead.certain
    assert not rows.lead("x", "b", "a").certain
    assert not rows.lead("x", "a", "b", level=0.99).certain


def test_one_seed_gives_no_interval():
    lead = SeedRows({"a": {"x": 3.0}, "b": {"x": 1.0}}).lead("x", "a", "b")
    assert (lead.mean, lead.low, lead.high, lead.seeds) == (2.0, -math.inf, math.inf, 1)
    assert not lead.certain
    assert "no interval" in str(lead)


@pytest.mark.parametrize("level", [0, 1, -0.5, 95])
def test_a_level_that_is_no_confidence_is_refused(level):
    with pytest.raises(ValueError, match="level"):
        SeedRows({"a": {"x": 3.0}, "b": {"x": 1.0}}).lead("x", "a", "b", level=level)


def test_a_method_without_records_has_no_images():
    (finished,) = compare({"noise": noise}, LABELS, brightness, seeds=(0,)).runs
    comparison = Comparison((finished, Run(method="told", seed=0, scores={"brightness": 0.5})))
    assert list(comparison.images) == ["noise"]
    assert list(comparison.scores) == ["noise", "told"]
