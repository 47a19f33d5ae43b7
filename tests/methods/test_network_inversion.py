"""Network inversion: its loss by hand, that it inverts, its bits, its checkpoints, and what it refuses."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from invkit.core.results import FitResult
from invkit.core.rng import seeded
from invkit.methods.network_inversion import (
    NetworkInversion,
    NetworkInversionConfig,
    make_generators,
    network_inversion,
    steps_to,
    until,
)
from invkit.networks.conditional_generator import KINDS
from invkit.networks.sampling import TrainedGenerator

SMALL = {"steps": 4, "batch_size": 8, "width": 4, "latent": 8, "log_every": 2, "checkpoint_every": 2}


def config(**change):
    return NetworkInversionConfig(**SMALL | change)


def test_the_loss_by_hand(target):
    settings = config(kl=0.5, cross_entropy=2.0, cosine=3.0, orthogonality=4.0, temperature=2.0)
    networks = make_generators(target, settings, seeded(0))
    learner = NetworkInversion(target, networks, settings)
    asked = networks[0].conditioning.draw(8, seeded(1))
    images = torch.rand(8, 3, 8, 8, generator=seeded(2))
    terms = learner.terms(images, asked)
    logits, features = target(images), target.features(images)
    q = (logits / 2).softmax(1)
    torch.testing.assert_close(terms["kl"], 0.5 * (asked.vectors * (asked.vectors / q).log()).sum(1).mean())
    torch.testing.assert_close(terms["cross_entropy"], 2 * F.cross_entropy(logits, asked.labels))
    unit = F.normalize(features)
    cos = unit @ unit.T
    torch.testing.assert_close(terms["cosine"], 3 * (cos.sum() - 8) / 56)
    torch.testing.assert_close(terms["orthogonality"], 4 * (cos - torch.eye(8)).square().mean())
    assert float(terms["accuracy"]) == float((logits.argmax(1) == asked.labels).float().mean())
    alone = NetworkInversion(target, networks, config(kl=0.0, cosine=0.0, orthogonality=0.0))
    assert set(alone.terms(images, asked)) == {"cross_entropy", "accuracy"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_conditioning_learns_to_invert(quadrants, kind):
    settings = config(steps=120, batch_size=32, dropout=0.1, lr=0.01, conditioning=kind, kl=0.1, cosine=0.1)
    made, result = network_inversion(quadrants, settings, generator=seeded(0))
    assert result.stopped == "steps"
    assert result.metrics["inversion_accuracy"] > 0.7  # by chance 0.25
    totals = result.history["total"]
    assert sum(totals[-20:]) < 0.9 * sum(totals[:20])
    images, labels = made.sample(40, generator=seeded(3))
    assert images.shape == (40, 1, 12, 12)
    assert 0 <= images.min() <= images.max() <= 1
    assert float((quadrants(images).argmax(1) == labels).float().mean()) > 0.6


def test_a_run_that_a_callback_ended_goes_on_to_the_same_bits(target, tmp_path):
    """What ends at a step between two checkpoints; the contract kills runs, which goes back to the last one."""
    path = tmp_path / "run.pt"
    whole, full = network_inversion(target, config(steps=6), generator=seeded(0))
    network_inversion(
        target, config(steps=6), generator=seeded(0), checkpoint=path, callbacks=[lambda step: step.index == 2]
    )
    rest, result = network_inversion(target, config(steps=6), generator=seeded(0), checkpoint=path)
    for a, b in zip(whole.networks, rest.networks, strict=True):
        assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    assert result.history["total"] == full.history["total"]


def test_several_generators_take_turns(target):
    made, result = network_inversion(target, config(generators=2), generator=seeded(0))
    assert len(made.networks) == 2
    labels = [0, 1, 2, 3]
    both, first = (made.sample(labels, generator=seeded(1), which=which)[0] for which in (None, 0))
    assert both.shape == first.shape
    assert not torch.equal(both[1], first[1])
    assert {"kl", "cross_entropy", "cosine", "orthogonality", "total", "accuracy"} <= set(result.history)


def test_only_some_classes(target):
    made, _ = network_inversion(target, config(), only=[1, 3], generator=seeded(0))
    assert set(made.sample(50, generator=seeded(0))[1].tolist()) == {1, 3}


def test_it_is_called_as_every_inverse(target):
    made, _ = network_inversion(target, config(steps=1), generator=seeded(0))
    assert torch.equal(made([0, 3, 3], seeded(5)), made.sample([0, 3, 3], generator=seeded(5))[0])
    assert torch.equal(made([1, 2]), made([1, 2]))
    assert not torch.equal(made([1, 2], seeded(1)), made([1, 2], seeded(2)))


def test_sampling_leaves_the_global_numbers_alone(target):
    made, _ = network_inversion(target, config(steps=1), generator=seeded(0))
    state = torch.get_rng_state()
    assert torch.equal(made.sample(3, generator=seeded(0))[0], made.sample(3, generator=seeded(0))[0])
    assert torch.equal(state, torch.get_rng_state())


def test_steps_to_an_accuracy():
    values = (0.0,) * 5 + (1.0,) * 10
    result = FitResult(
        history={"accuracy": values}, metrics={}, steps=15, seconds=0.0, device="cpu", stopped="steps", config={}
    )
    assert steps_to(result, 0.95, window=4) == 9
    assert steps_to(result, 0.95, window=11) is None
    assert steps_to(result, 0.95, window=16) is None


def test_a_run_ends_once_it_is_accurate(quadrants):
    how = config(steps=200, batch_size=32, dropout=0.0, lr=0.01, conditioning="label", kl=0.1, cosine=0.1)
    _, result = network_inversion(quadrants, how, generator=seeded(0), callbacks=[until(0.6, window=4)])
    assert result.stopped == "callback"
    assert result.steps == steps_to(result, 0.6, window=4) == len(result.history["accuracy"])


def test_features_and_logits_come_from_one_pass(target):
    images = torch.rand(3, 3, 8, 8)
    calls = []
    hook = target.module.conv1.register_forward_hook(lambda *_: calls.append(1))
    logits, features = target.with_features(images)
    hook.remove()
    assert len(calls) == 1
    torch.testing.assert_close(logits, target(images))
    torch.testing.assert_close(features, target.features(images))
    assert not target.head._forward_pre_hooks


def test_what_is_refused(target, make_target):
    made, _ = network_inversion(target, config(steps=1), generator=seeded(0))
    with pytest.raises(ValueError, match=r"conditioned on 4 classes, the classifier knows 5"):
        network_inversion(make_target(classes=5), config(), init=made)
    with pytest.raises(ValueError, match=r"makes images of shape \(3, 8, 8\), the classifier takes \(1, 8, 8\)"):
        network_inversion(make_target(channels=1), config(), init=made)
    with pytest.raises(ValueError, match="cannot reach 8x8 pixels"):
        network_inversion(make_target(classes=9), config())
    with pytest.raises(ValueError, match="batch_size"):
        config(batch_size=1)
    with pytest.raises(ValueError, match="at least one weight"):
        config(**dict.fromkeys(config().loss_weights(), 0.0))
    with pytest.raises(ValueError, match="outside"):
        network_inversion(target, config(), only=[4])
    for change in (
        {"lr": 0.0},
        {"vector_std": 0.0},
        {"dropout": 1.0},
        {"generators": 0},
        {"kl": -1.0},
        {"cosine": float("nan")},
    ):
        with pytest.raises(ValueError, match=next(iter(change))):
            config(**change)
    target.module.bn1.train()
    with pytest.raises(ValueError, match="train mode"):
        network_inversion(target, config())


def test_profiles_and_a_generator_that_goes_on(target):
    for profile in ("ci", "book", "paper"):
        assert dataclasses.is_dataclass(NetworkInversionConfig.for_profile(profile))
    made, _ = network_inversion(target, config(steps=1), generator=seeded(0))
    before = made.networks[0].state_dict()["late.0.weight"].clone()
    again, _ = network_inversion(target, config(), init=made, generator=seeded(1))
    assert isinstance(again, TrainedGenerator)
    assert again.networks[0] is made.networks[0]
    assert not torch.equal(before, again.networks[0].state_dict()["late.0.weight"])


def test_sampling_uses_the_statistics_of_the_weights_as_they_are(target):
    """After four fast steps the running averages are far from what the weights give now."""
    made, _ = network_inversion(target, config(lr=0.05, dropout=0.0, batch_size=64), generator=seeded(0))
    norm, seen = made.networks[0].early[1], []
    norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    made.sample(2000, generator=seeded(1))
    given = torch.cat(seen)
    torch.testing.assert_close(norm.running_mean, given.mean((0, 2, 3)), rtol=0, atol=0.1 * float(given.std()))
    torch.testing.assert_close(norm.running_var, given.var((0, 2, 3)), rtol=0.1, atol=0)
