"""Scores that tell members from others: by hand, at both ends, and no oftener by chance than they say."""

from __future__ import annotations

import math

import pytest
import torch

from invkit.core.rng import seeded
from invkit.metrics import auroc, measure_membership, membership_scores


class Logits(torch.nn.Module):
    """Answers what it was made with, whatever it sees."""

    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits[: len(images)]


def test_the_score_is_the_logarithm_of_the_odds():
    network = Logits([[math.log(0.7), math.log(0.2), math.log(0.1)]] * 2)
    scores = membership_scores(network, torch.rand(2, 1, 4, 4), torch.tensor([0, 2]))
    assert scores.tolist() == pytest.approx([math.log(0.7 / 0.3), math.log(0.1 / 0.9)], abs=1e-6)


def test_it_still_tells_apart_what_floating_point_rounds_to_one():
    network = Logits([[30.0, 0.0], [35.0, 0.0]])
    one, other = membership_scores(network, torch.rand(2, 1, 4, 4), torch.tensor([0, 0]))
    assert other - one == pytest.approx(5.0)


def test_rounded_answers_tell_less():
    network = Logits([[3.0, 0.0], [3.2, 0.0]])
    one, other = membership_scores(network, torch.rand(2, 1, 4, 4), torch.tensor([0, 0]), digits=1)
    assert one == other


def test_without_labels_it_takes_the_networks_own_answer():
    network = Logits([[0.0, 2.0]])
    assert membership_scores(network, torch.rand(1, 1, 4, 4)).tolist() == pytest.approx([2.0])


def test_the_area_and_its_interval():
    generator = seeded(0)
    members, others = torch.randn(80, generator=generator) + 1, torch.randn(60, generator=generator)
    measured = measure_membership(members, others)
    assert measured.auroc == pytest.approx(auroc(members, others))
    assert measured.low < measured.auroc < measured.high
    assert measured.leaks
    assert 0.6 < measured.low < measured.high < 0.9  # the true area is 0.76


def test_chance_alone_is_called_a_leak_about_as_often_as_stated():
    generator = seeded(1)
    false = 0
    for _ in range(400):
        members, others = torch.randn(2, 12, generator=generator)
        false += measure_membership(members, others, draws=1).leaks
    assert 0 < false <= 20  # of 400 at a level of 2.5%: ten are expected


def test_two_images_are_never_enough():
    assert not measure_membership(torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0])).leaks


@pytest.mark.parametrize(
    ("members", "match"),
    [
        (torch.ones(1), "members must be two or more"),
        (torch.tensor([1.0, torch.nan]), "finite"),
        (torch.ones(2, 2), "members"),
    ],
)
def test_bad_scores_are_refused(members, match):
    with pytest.raises(ValueError, match=match):
        measure_membership(members, torch.zeros(4))


def test_bad_labels_and_digits_are_refused():
    with pytest.raises(ValueError, match="labels must be one for each of 1"):
        membership_scores(Logits([[0.0, 1.0]]), torch.rand(1, 1, 4, 4), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="digits"):
        membership_scores(Logits([[0.0, 1.0]]), torch.rand(1, 1, 4, 4), torch.tensor([0]), digits=-1)
