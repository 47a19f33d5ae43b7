"""The question that matters most, on networks of which the answer is known."""

from __future__ import annotations

import warnings

import pytest
import torch

import invkit as ik
from invkit.report import Pair, Pictures, Section, open_report
from invkit.report.sections.drawn import by_statistics
from tests.report.conftest import train

COUNT = 20


def shuffled():
    """In the order of the file come digits of one hand after the other: neighbours are no strangers."""
    train = ik.load_data("digits").train
    return train[torch.randperm(len(train), generator=ik.seeded(0))]


def asked(home, weights, split, heldout):
    """The section on leaks for a network, of some images and others."""
    report = open_report("my_file:make_net", str(weights), minutes=0.05)
    report.case.pair = Pair(
        train=Pictures(pixels=split.pixels, labels=split.labels),
        heldout=Pictures(pixels=heldout.pixels, labels=heldout.labels),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # stages that are too small for this network
        report.case.done["drawn"] = Section(
            name="drawn", title="", images={"DeepInversion": (by_statistics(report.case, 1.0) * 255).round().byte()}
        )
        return report.ask("leak")


@pytest.mark.parametrize("seed", [0, 1])
def test_a_network_that_learnt_twenty_images_by_heart_is_flagged(at_home, seed):
    digits = shuffled()
    inside, outside = digits[COUNT * seed : COUNT * (seed + 1)], digits[600 + 60 * seed : 660 + 60 * seed]
    weights = train(at_home, inside.images, inside.labels, f"guilty_{seed}", seed=seed)
    section = asked(at_home, weights, inside, outside)
    assert section.numbers["leaks"] == 1
    assert section.numbers["canaries low"] > 0.5, "the control finds what was planted"
    assert section.summary.startswith("It leaks")


def test_of_ten_networks_that_never_saw_the_images_hardly_one_is_flagged(at_home):
    """Each has images of its own: with the same for all, one unlucky choice would count ten times."""
    digits, alarms = shuffled(), []
    for seed in range(10):
        pieces = digits[(COUNT + 40) * seed : (COUNT + 40) * (seed + 1)]
        learnt, claimed = pieces[:COUNT], pieces[COUNT : 2 * COUNT]
        weights = train(at_home, learnt.images, learnt.labels, f"other_{seed}", seed=seed + 1)
        section = asked(at_home, weights, claimed, pieces[2 * COUNT :])
        alarms.append(section.numbers["leaks"])
    print(f"false alarms: {sum(alarms):.0f} of {len(alarms)} networks that never saw the images")
    assert sum(alarms) <= 1  # at a level of 5% ten networks give more than one in one of twelve cases


def test_canaries_are_not_found_where_none_could_be_learnt(at_home):
    """With the fewest steps the networks trained anew have learnt nothing, and the report says that it is blind."""
    report = open_report("my_file:make_net", "my.pt", "folder:images", least=True)
    section = report.ask("leak")
    assert "were not found" in section.summary
    assert any("cannot be relied on" in paragraph for paragraph in section.paragraphs)
