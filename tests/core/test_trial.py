"""Trial runs: loops that end after a few steps."""

from __future__ import annotations

import pytest
import torch

import invkit as ik
from invkit.core.trial import TRIAL, in_trial
from invkit.testing import tiny_target


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
