"""Every method as a number of steps: equal time for all, only what a network allows, and a method of one's own."""

from __future__ import annotations

import math

import pytest
import torch

import invkit as ik
from invkit.methods import layer_features
from invkit.report import Contestant, feature_contestants, label_contestants, load_method, named
from invkit.testing import tiny_target


class Clock:
    """Each step of work takes a fixed time."""

    def __init__(self, a_step: float) -> None:
        self.now, self.a_step, self.steps = 0.0, a_step, []

    def __call__(self) -> float:
        return self.now

    def run(self, references, steps, generator):
        self.now += steps * self.a_step
        self.steps.append(steps)
        return torch.rand(len(references), 1, 4, 4, generator=generator)


def test_a_slow_method_gets_fewer_steps_and_all_get_the_same_time():
    for a_step in (0.1, 0.5):
        clock = Clock(a_step)
        method = Contestant(run=clock.run, needs="nothing").within(10.0, clock=clock)
        method(torch.arange(2), ik.seeded(0))
        assert clock.now == pytest.approx(10.0, abs=a_step), "the trial counts too"
        method(torch.arange(2), ik.seeded(1))
        assert clock.steps[2:] == [clock.steps[2]] * 2, "seeds have the same number of steps"


def test_steps_stay_within_their_bounds():
    clock = Clock(0.1)
    contestant = Contestant(run=clock.run, needs="nothing", least=20, most=50)
    assert contestant.steps_within(0.1, torch.arange(2), clock=clock) == 20
    assert contestant.steps_within(100.0, torch.arange(2), clock=clock) == 50


def test_methods_are_those_that_the_network_allows():
    with_statistics, without = (label_contestants(tiny_target(batch_norm=norm)) for norm in (True, False))
    assert set(with_statistics) - set(without) == {"DeepInversion", "DeepInversion, report's setting"}
    large = label_contestants(tiny_target(size=(96, 96)))
    assert "Network Inversion" not in large


@pytest.mark.parametrize("name", list(label_contestants(tiny_target())))
def test_each_method_gives_images_of_the_labels_and_the_same_again(name):
    target, labels = tiny_target(size=(16, 16)), torch.tensor([0, 3])
    contestant = label_contestants(target)[name]
    one, again, other = (contestant.run(labels, 2, ik.seeded(seed)) for seed in (0, 0, 1))
    assert one.shape == (2, 3, 16, 16)
    assert one.min() >= 0
    assert one.max() <= 1
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", list(feature_contestants(tiny_target(), "bn2", torch.rand(8, 3, 8, 8))))
def test_each_inverse_gives_images_of_the_features(name):
    target, images = tiny_target(size=(16, 16)), torch.rand(12, 3, 16, 16, generator=ik.seeded(0))
    features = layer_features(target, images[:2], "bn2")
    made = feature_contestants(target, "bn2", images[2:])[name].run(features, 2, ik.seeded(0))
    assert made.shape == (2, 3, 16, 16)
    assert made.min() >= 0
    assert made.max() <= 1


def test_a_layer_that_cannot_be_cut_at_is_refused_by_name():
    target, images = tiny_target(), torch.rand(8, 3, 8, 8)
    features = layer_features(target, images[:2], "conv1")
    with pytest.raises(ValueError, match="layer must be one where the network can be cut"):
        feature_contestants(target, "conv1", images)["divide and conquer"].run(features, 2, ik.seeded(0))


def test_memory_is_counted_where_autograd_can_be_watched():
    contestants = label_contestants(tiny_target(size=(16, 16)))
    labels = torch.tensor([0, 1])
    few, many = contestants["DeepDream"].memory(labels), contestants["DeepDream"].memory(labels.repeat(4))
    assert 0 < few < many
    assert math.isnan(contestants["Reconstruction"].memory(labels))


def test_a_method_of_ones_own_is_one_more_row(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def grey(target, labels, generator):\n    return torch.full((len(labels), *target.spec.shape), 0.5)\n"
    )
    monkeypatch.setenv("INVKIT_START", str(tmp_path))
    own, target = load_method("mine:grey"), tiny_target()
    contestants = {"yours": Contestant(run=lambda y, steps, g: own(target, y, g), needs="?", most=1)}
    comparison = ik.compare(named(contestants, 0.1), torch.arange(3), lambda images: {"mean": float(images.mean())})
    assert comparison.mean("yours", "mean") == 0.5
    with pytest.raises(ValueError, match="cannot load"):
        load_method("mine:white")
    (tmp_path / "number.py").write_text("seven = 7\n")
    with pytest.raises(ValueError, match="is a int, not a function"):
        load_method("number:seven")
