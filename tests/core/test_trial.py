"""Trial runs: loops that end after a few steps."""

from __future__ import annotations

import json

import pytest
import torch

import invkit as ik
from invkit.book.record_file import record
from invkit.core.trial import TRIAL, in_trial
from invkit.report.sections.classes import distance_from_grey
from invkit.testing import quadrants_target, tiny_target


@pytest.mark.parametrize(("text", "steps"), [("", 9), ("2", 2), ("20", 9), (" 3 ", 3)])
def test_the_variable_limits_steps(monkeypatch, text, steps):
    monkeypatch.setenv(TRIAL, text)
    assert in_trial(9) == steps


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_what_is_no_number_of_steps_is_refused(monkeypatch, text):
    monkeypatch.setenv(TRIAL, text)
    with pytest.raises(ValueError, match=f"INVKIT_TRIAL should be a whole number of steps, at least 1, not '{text}'"):
        in_trial(9)


def test_images_and_learners_take_no_more_steps(monkeypatch):
    target, config = tiny_target(), ik.DeepInversionConfig(steps=5, low_resolutions=((0.5, 4),))
    dci = ik.DCIConfig(steps=5, fine_tune_steps=5, restarts=0, batch_size=4)

    def steps() -> tuple[int, int]:
        made = ik.deep_inversion(target, [0], config, generator=ik.seeded(0))
        _, stages = ik.divide_and_conquer(target, torch.rand(4, 3, 8, 8), dci, generator=ik.seeded(0))
        return len(made.history["total"]), stages.stages[0].fits["train"].steps

    assert steps() == (9, 5)
    monkeypatch.setenv(TRIAL, "2")
    assert steps() == (4, 2), "two of each stage"


def test_attacks_codes_and_distances_take_no_more_steps_either(monkeypatch):
    target, grey = quadrants_target(), torch.full((1, 1, 12, 12), 0.5)

    def found() -> tuple[float, bool]:
        moved = ik.attacks.pgd(target, grey, [0], eps=0.5, steps=50, step_size=0.01, random_start=False) - grey
        return round(float(moved.abs().max()), 4), bool(distance_from_grey(target, torch.tensor([0]), 200).isfinite())

    assert found() == (0.5, True)
    monkeypatch.setenv(TRIAL, "2")
    assert found() == (0.02, False)


def test_a_network_of_a_trial_is_not_kept(monkeypatch, tmp_path):
    data, config = ik.load_data("digits", limit=60), ik.ClassifierConfig(steps=8, warmup=0)
    monkeypatch.setenv(TRIAL, "2")
    ik.load_or_train("bn_cnn", data, config, width=4, seed=0, folder=tmp_path)
    assert not list(tmp_path.rglob("*.json")), "a whole run would take it for its own"
    monkeypatch.delenv(TRIAL)
    ik.load_or_train("bn_cnn", data, config, width=4, seed=0, folder=tmp_path)
    (kept,) = tmp_path.rglob("*.json")
    assert json.loads(kept.read_text("utf8"))["result"]["steps"] == 8


def test_a_trial_records_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv(TRIAL, "2")
    with pytest.raises(ValueError, match="run: loops are cut short by INVKIT_TRIAL"):
        record(
            "run", title="A run", config={}, measured={"a": {"x": 1.0}}, seeds=[0], command="make run", seconds=1,
            device="cpu", folder=tmp_path,
        )  # fmt: skip
    assert not list(tmp_path.iterdir())
