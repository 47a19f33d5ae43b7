"""Verdicts: rules are whole, intervals are those computed by hand, each rule of judging at and beside its boundary."""

from __future__ import annotations

import dataclasses
import itertools
import math
import tomllib
from pathlib import Path

import numpy as np
import pytest

from invkit.book.ledger.claims import load_claims
from invkit.book.ledger.rules import Part, Rule, load_rules, read_rule
from invkit.book.ledger.verdicts import (
    CONTRADICTED,
    HOLDS,
    IN_PART,
    MARKS,
    NOT_SEEN,
    NOT_TESTED,
    OPPOSED,
    SCALE,
    VERDICTS,
    Effect,
    combine,
    grade_of,
    interval,
    judge,
    mark,
    overall,
    run_test,
)
from invkit.book.numbers import format_interval

ROOT = Path(__file__).resolve().parents[2]
PART = Part(quantity="gain", unit="dB", holds=1.0)
ONE = Rule(id="a.one", parts=(PART,), source="s", before="holds", why="w")
TWO = Rule(
    id="a.two", source="s", before="holds", why="w",
    parts=(Part(name="first", quantity="p", holds=1.0), Part(name="second", quantity="q", holds=0.0, absent=-1.0)),
)  # fmt: skip
ABOUT = {"data": "CIFAR-10", "network": "ResNet-20", "finding": "It gains 2 dB."}
SURE = [1.9, 2.0, 2.1]
NONE = [-2.1, -2.0, -1.9]
WIDE = [-3.0, 0.0, 3.0]


def test_each_claim_has_its_rule_in_the_same_order():
    assert list(load_rules()) == list(load_claims())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))
    assert "book/ledger/rules.yml" in project["tool"]["setuptools"]["package-data"]["invkit"]


@pytest.mark.parametrize("id", load_rules())
def test_a_rule_says_what_it_measures_where_its_threshold_comes_from_and_why(id):
    rule = load_rules()[id]
    assert rule.before in ("holds", "does not hold", "out of reach")
    assert len(rule.source) > 5
    assert rule.why.endswith(".")
    assert all(len(part.quantity) > 10 for part in rule.parts)
    names = [part.name for part in rule.parts]
    assert len(set(names)) == len(names)
    assert all(names) or names == [""]


def test_an_interval_by_hand():
    # Mean 2, standard deviation 1, standard error 0.57735; t for 2 degrees of freedom is 4.30265.
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-5)
    # Mean 5, squared deviations 4 + 1 + 9 = 14, sd sqrt 7, standard error sqrt(7 / 3) = 1.52753, times 4.30265.
    assert interval([3.0, 4.0, 8.0]) == pytest.approx((5 - 6.57240, 5 + 6.57240), abs=1e-4)


def test_two_seeds_have_no_interval_and_what_is_exact_needs_one_number():
    assert interval([1.0, 2.0]) is None
    assert interval([1.0], exact=True) == (1.0, 1.0)
    assert interval([3.0, 1.0], exact=True) == (1.0, 3.0)


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ((1.001, 9), HOLDS),
        ((1.0, 9), NOT_SEEN),  # it has to lie above
        ((0.5, 1.5), NOT_SEEN),
        ((0.001, 0.999), IN_PART),
        ((0.0, 0.5), NOT_SEEN),
        ((0.5, 1.0), NOT_SEEN),
        ((-0.5, 0.5), NOT_SEEN),
        ((-0.5, 1.5), NOT_SEEN),
        ((-0.5, 0.0), NOT_SEEN),
        ((-0.5, -0.001), CONTRADICTED),
        (None, NOT_TESTED),
    ],
)
def test_an_interval_is_judged_by_where_it_lies(ends, verdict):
    assert judge(ends, PART) == verdict


def test_absence_is_where_the_rule_says():
    part = Part(quantity="minus the loss", holds=-1, absent=-3)
    assert [judge(ends, part) for ends in ((-0.9, 0), (-2.5, -1.5), (-4, -3.5), (-3.5, -2))] == [
        HOLDS, IN_PART, CONTRADICTED, NOT_SEEN,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        *[((one, one), one) for one in VERDICTS],
        ((HOLDS, CONTRADICTED), IN_PART),
        ((HOLDS, NOT_SEEN), IN_PART),
        ((HOLDS, NOT_TESTED), IN_PART),
        ((HOLDS, IN_PART), IN_PART),
        ((CONTRADICTED, NOT_SEEN), CONTRADICTED),
        ((CONTRADICTED, IN_PART), CONTRADICTED),
        ((CONTRADICTED, NOT_TESTED), CONTRADICTED),
        ((IN_PART, NOT_SEEN), NOT_SEEN),
        ((NOT_SEEN, NOT_TESTED), NOT_SEEN),
    ],
)
def test_parts_make_one_verdict_in_any_order(parts, verdict):
    assert combine(parts) == combine(parts[::-1]) == verdict


REAL_ALONE = {
    (HOLDS,): HOLDS,
    (IN_PART,): IN_PART,
    (CONTRADICTED,): CONTRADICTED,
    (NOT_SEEN,): NOT_SEEN,
    (NOT_TESTED,): NOT_TESTED,
    (HOLDS, HOLDS): HOLDS,
    (HOLDS, NOT_TESTED): HOLDS,
    (HOLDS, NOT_SEEN): IN_PART,
    (HOLDS, IN_PART): IN_PART,
    (HOLDS, CONTRADICTED): IN_PART,
    (HOLDS, OPPOSED): IN_PART,
    (IN_PART, OPPOSED): IN_PART,
    (CONTRADICTED, NOT_SEEN): CONTRADICTED,
    (CONTRADICTED, OPPOSED): CONTRADICTED,
    (CONTRADICTED, IN_PART): CONTRADICTED,
    (IN_PART, NOT_SEEN): IN_PART,
    (OPPOSED,): OPPOSED,
    (OPPOSED, NOT_TESTED): OPPOSED,
    (OPPOSED, NOT_SEEN): NOT_SEEN,
    (NOT_SEEN, NOT_TESTED): NOT_SEEN,
    (): NOT_TESTED,
}


@pytest.mark.parametrize(("verdicts", "expected"), REAL_ALONE.items())
def test_real_data_sets_together(verdicts, expected):
    tests = [("real", verdict) for verdict in verdicts]
    assert overall(tests) == overall(tests[::-1]) == expected


@pytest.mark.parametrize(("real", "digits"), list(itertools.product([HOLDS, IN_PART, CONTRADICTED], VERDICTS)))
def test_where_real_data_decide_digits_only_keep_a_claim_from_holding(real, digits):
    kept = real == HOLDS and digits in (OPPOSED, CONTRADICTED)
    assert overall([("real", real), ("digits", digits)]) == (IN_PART if kept else real)


def test_digits_that_speak_against_a_claim_weigh_as_such_though_they_cannot_contradict_it():
    rule = load_rules()["dci.beats-deepsim"]
    about = {"network": "a net", "finding": "It is behind."}
    against, undecided = ([-1.1, -1.0, -0.9], [-1.0, 0.0, 1.0])
    digits = run_test(rule, against, data="digits", **about)
    assert (digits.grade, digits.verdict) == ("digits", OPPOSED)
    assert run_test(rule, undecided, data="digits", **about).verdict == NOT_SEEN
    assert run_test(rule, against, data="CIFAR-10", **about).verdict == CONTRADICTED


def test_a_test_says_what_its_seeds_change():
    rule = load_rules()["dci.beats-deepsim"]
    about = {"data": "CIFAR-10", "network": "ResNet-20", "finding": "It is ahead."}
    assert run_test(rule, [1.0, 1.1, 1.2], **about).tested_on == "CIFAR-10, ResNet-20, 3 seeds"
    told = run_test(rule, [1.0, 1.1, 1.2], seeds_of="the inverses", **about)
    assert told.tested_on == "CIFAR-10, ResNet-20, 3 seeds of the inverses"


@pytest.mark.parametrize("real", [NOT_SEEN, NOT_TESTED])
def test_where_they_do_not_the_digits_give_at_most_in_part(real):
    assert overall([("real", real), ("digits", HOLDS)]) == IN_PART
    assert overall([("real", real), ("digits", IN_PART)]) == IN_PART
    assert overall([("real", real), ("digits", NOT_SEEN)]) == NOT_SEEN
    assert overall([("real", real), ("digits", NOT_TESTED)]) == real


def test_a_toy_does_not_refute():
    assert run_test(ONE, NONE, **ABOUT).verdict == CONTRADICTED
    test = run_test(ONE, NONE, **ABOUT | {"data": "digits"})
    assert test.verdict == OPPOSED
    assert test.grade == "digits"


@pytest.mark.parametrize(
    ("scale", "verdict"),
    [(1.0, CONTRADICTED), (SCALE, CONTRADICTED), (SCALE - 1e-9, OPPOSED), (0.001, OPPOSED)],
)
def test_less_than_a_tenth_of_the_training_does_not_refute_either(scale, verdict):
    assert run_test(ONE, NONE, **ABOUT, scale=scale).verdict == verdict
    parts = {"first": WIDE, "second": NONE}
    assert run_test(TWO, parts, **ABOUT, scale=scale).verdict == verdict
    assert run_test(ONE, NONE, **ABOUT | {"data": "digits"}, scale=scale).verdict == OPPOSED


def test_a_small_scale_changes_no_other_verdict():
    for effect, verdict in ((SURE, HOLDS), ([0.4, 0.5, 0.6], IN_PART), (WIDE, NOT_SEEN), ([5.0, 6.0], NOT_TESTED)):
        test = run_test(ONE, effect, **ABOUT, scale=0.01)
        assert (test.grade, test.verdict) == ("real", verdict)
    halves = run_test(TWO, {"first": SURE, "second": NONE}, **ABOUT, scale=0.01)
    assert halves.verdict == IN_PART


def test_what_speaks_against_a_claim_at_small_scale_keeps_it_from_holding_and_does_not_contradict_it():
    small, large = (("real", run_test(ONE, NONE, **ABOUT, scale=scale).verdict) for scale in (0.05, 0.5))
    holds = ("real", HOLDS)
    assert (small, large) == (("real", OPPOSED), ("real", CONTRADICTED))
    assert overall([small]) == overall([small, small]) == OPPOSED
    assert overall([small, holds]) == overall([holds, small]) == IN_PART
    assert overall([small, ("real", NOT_SEEN)]) == overall([small, ("digits", NOT_SEEN)]) == NOT_SEEN
    assert overall([small, ("real", IN_PART)]) == IN_PART
    assert overall([small, large]) == overall([large]) == CONTRADICTED
    assert overall([small, ("digits", HOLDS)]) == IN_PART
    assert overall([small, ("digits", OPPOSED)]) == overall([small, ("real", NOT_TESTED)]) == OPPOSED


@pytest.mark.parametrize(
    ("scale", "words"),
    [(1.0, ""), (0.05, ", 5% of the paper's training"), (0.0012, ", 0.12% of the paper's training")],
)
def test_a_test_says_how_much_of_the_training_there_was(scale, words):
    assert run_test(ONE, SURE, **ABOUT, scale=scale).tested_on == f"CIFAR-10, ResNet-20, 3 seeds{words}"


@pytest.mark.parametrize("scale", [0.0, -0.1, 1.01, math.nan, math.inf])
def test_a_scale_is_a_share(scale):
    with pytest.raises(ValueError, match=r"a\.one: scale, the share of the paper's training, must lie in \(0, 1\]"):
        run_test(ONE, SURE, **ABOUT, scale=scale)


def test_a_test_keeps_its_numbers():
    test = run_test(ONE, np.array([1.0, 2.0, 3.0]), **ABOUT, note="n", unit="dB")
    (effect,) = test.effects.values()
    assert (test.n, effect.values, effect.mean, test.grade) == (3, (1.0, 2.0, 3.0), 2.0, "real")
    assert (effect.low, effect.high) == pytest.approx((-0.484, 4.484), abs=1e-3)
    assert test.against(ONE) == ["2.0 [−0.5, 4.5] dB against 1 dB, absent at 0 dB"]
    assert test.tested_on == "CIFAR-10, ResNet-20, 3 seeds"


def test_few_seeds_are_shown_and_not_judged():
    test = run_test(ONE, [5.0, 6.0], **ABOUT)
    assert test.verdict == NOT_TESTED
    assert test.against(ONE) == ["5.5 dB against 1 dB"]
    assert run_test(dataclasses.replace(ONE, exact=True), 5.0, **ABOUT).verdict == HOLDS


def test_parts_are_judged_apart_and_one_may_be_left_out():
    test = run_test(TWO, {"second": NONE, "first": SURE}, **ABOUT)
    assert [effect.verdict for effect in test.effects.values()] == [HOLDS, CONTRADICTED]
    assert list(test.effects) == ["first", "second"], "in the rule's order"
    assert test.verdict == IN_PART
    alone = run_test(TWO, {"first": SURE}, **ABOUT)
    assert alone.verdict == IN_PART
    assert alone.against(TWO)[1] == "second: not tested"
    assert run_test(TWO, {"first": SURE, "second": [0.4, 0.5, 0.6]}, **ABOUT).verdict == HOLDS
    assert run_test(TWO, {"first": WIDE, "second": NONE}, **ABOUT).verdict == CONTRADICTED


@pytest.mark.parametrize(
    ("rule", "effect", "change", "message"),
    [
        (ONE, {"third": SURE}, {}, "a.one: unknown part 'third'; its rule has a single quantity"),
        (TWO, {"third": SURE}, {}, "a.two: unknown part 'third'; its parts are 'first', 'second'"),
        (TWO, SURE, {}, "a.two: effect must be a mapping from the parts 'first', 'second'"),
        (ONE, [1.0, math.nan, 1.0], {}, "a.one: .*not finite"),
        (TWO, {"first": [1.0, math.inf, 1.0]}, {}, "a.two first: .*not finite"),
        (ONE, [], {}, "a.one: .*no number"),
        (ONE, "much", {}, "a.one: .*should be numbers"),
        (ONE, None, {}, "a.one: .*not finite"),
        (TWO, {}, {}, "a.two: effect is empty"),
        (ONE, {"mean": 1.0, "sd": 0.1, "n": 3}, {}, "a.one: effect must hold one number for each seed"),
        (TWO, {"first": SURE, "second": [1.0]}, {}, "unequal numbers of seeds: 3 of 'first', 1 of 'second'"),
        (ONE, SURE, {"finding": " "}, "a.one: finding is empty"),
        (ONE, SURE, {"network": ""}, "a.one: network is empty"),
        (ONE, SURE, {"data": ""}, "a.one: data is empty"),
        (ONE, SURE, {"data": "scans"}, "data 'scans': say whether its grade"),
        (ONE, SURE, {"grade": "toy"}, "a.one: grade must be 'digits' or 'real', not 'toy'"),
    ],
)
def test_bad_tests_are_refused(rule, effect, change, message):
    with pytest.raises(ValueError, match=message):
        run_test(rule, effect, **ABOUT | change)


@pytest.mark.parametrize("name", ["CIFAR-10", "MNIST digits", "ImageNet, 143 photographs", "Fashion-MNIST", "any"])
def test_real_data_are_known_by_name(name):
    assert grade_of(name) == "real"


def test_a_digest_tells_what_may_change_a_verdict():
    first = ONE.digest()
    for field in ("source", "before", "why"):
        assert dataclasses.replace(ONE, **{field: "other"}).digest() == first
    others = [{"holds": 2.0}, {"absent": -1.0}, {"quantity": "loss"}, {"unit": "B"}]
    changed = [dataclasses.replace(ONE, parts=(dataclasses.replace(PART, **other),)).digest() for other in others]
    changed.append(dataclasses.replace(ONE, exact=True).digest())
    assert len({first, *changed}) == 6


@pytest.mark.parametrize("change", [{"mended": "2026-12-01"}, {"mended_digest": "0123456789ab"}])
def test_a_mended_rule_has_the_digest_that_it_was_mended_to(change):
    with pytest.raises(ValueError, match=rf"rule of a\.one: mended and mended_digest .* {ONE.digest()} now"):
        dataclasses.replace(ONE, **change)
    mended = dataclasses.replace(ONE, mended="2026-12-01", mended_digest=ONE.digest())
    assert mended.digest() == ONE.digest(), "a mending changes no verdict by itself"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"holds": -1.0}, ValueError, r"absent \(0.0\) must be at most holds"),
        ({"quantity": ""}, ValueError, "needs a quantity"),
        ({"threshold": 1.0}, TypeError, "threshold"),
        ({"mended": "2026-12-01"}, ValueError, "rule of a: mended and mended_digest"),
    ],
)
def test_bad_rules_are_refused(change, error, message):
    entry = {"id": "a", "quantity": "gain", "holds": 1, "source": "s", "before": "holds", "why": "w"}
    with pytest.raises(error, match=message):
        read_rule(entry | change)


def test_marks_differ_without_colour():
    assert len(set(MARKS.values())) == len(VERDICTS) == 6
    assert [mark(verdict)[2:] for verdict in VERDICTS] == list(VERDICTS)


def test_an_effect_without_chance_shows_no_interval():
    assert Effect.of([0.5], Part(quantity="saving", holds=0.1), exact=True).against(PART) == "0.5 dB against 1 dB"


@pytest.mark.parametrize(
    ("ends", "thresholds", "expected"),
    [
        ((-2.53, -2.2), (), "-2.37 [-2.53, -2.20]"),
        ((0.04, 3.96), (0,), "2.00 [0.04, 3.96]"),  # and not 0.0, which is the threshold
        ((0.146, 0.5), (0.148,), "0.323 [0.146, 0.500]"),  # and not 0.15, which is above it
        ((-0.004, 0.5), (1,), "0.25 [0.00, 0.50]"),  # no minus before a zero
        ((1 - 0.9, 1 - 0.9 + 1e-15), (0,), "0.100000 [0.100000, 0.100000]"),
        ((-1200, 3400), (0,), "1,100 [-1,200, 3,400]"),
    ],
)
def test_ends_of_intervals_have_the_decimals_that_their_width_deserves(ends, thresholds, expected):
    assert format_interval(sum(ends) / 2, *ends, thresholds) == expected


def test_numbers_that_differ_by_rounding_alone_have_no_interval_to_show():
    effect = Effect.of([1.0 - 0.9, 0.25 - 0.15, 0.95 - 0.85], Part(quantity="gain", holds=0.5))
    assert effect.against(Part(quantity="gain", holds=0.5)) == "0.1 against 0.5, absent at 0"
