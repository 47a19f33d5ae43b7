"""Feature inversion: its loss by hand, what it finds again, and what it refuses."""

import dataclasses
import functools
import math

import pytest
import torch
from torch import nn

from invkit.core.rng import seeded
from invkit.core.spec import ImageSpec
from invkit.core.target import Target
from invkit.methods.feature_inversion import FeatureInversionConfig, feature_inversion, layer_features
from invkit.metrics.judge import statistics_penalty
from invkit.objectives import priors
from invkit.transforms.resize import initial_images

CONFIG = FeatureInversionConfig(steps=60, lr=0.05, match=1.0, tv=0.01, l2=0.001, batch_norm=0.1, log_every=20)
PLAIN = dataclasses.replace(CONFIG, tv=0.0, l2=0.0, batch_norm=0.0)


@pytest.fixture
def images():
    return torch.rand(5, 3, 8, 8, generator=seeded(3))


class Inplace(nn.Module):
    """A linear layer whose output the next one overwrites, as the ReLUs of many published networks do."""

    def __init__(self, width=48):
        super().__init__()
        self.linear = nn.Linear(48, width, bias=False)
        nn.init.orthogonal_(self.linear.weight)
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        return self.head(self.norm(torch.relu_(self.linear(x.flatten(1)))))


def linear_target(width=48):
    spec = ImageSpec(channels=3, size=(4, 4), mean=(0.0,) * 3, std=(1.0,) * 3, classes=("a", "b"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Target(Inplace(width), spec)


def distance(a, b):
    return (a - b).flatten(1).norm(dim=1)


def test_the_first_loss_by_hand(target, images):
    features = layer_features(target, images, "conv2")
    result = feature_inversion(target, features, "conv2", dataclasses.replace(CONFIG, steps=1, match=0.5))
    start = initial_images(5, (3, 8, 8), seeded(0))
    expected = {
        "match": 0.5 * distance(layer_features(target, start, "conv2"), features).mean(),
        "tv": 0.01 * priors.total_variation(start).mean(),
        "l2": 0.001 * priors.l2(start).mean(),
        "batch_norm": 0.1 * statistics_penalty(target, start),  # of all layers, also those behind the one inverted
    }
    assert result.history.keys() == {*expected, "total"}
    for name, value in expected.items():
        assert result.history[name][0] == pytest.approx(float(value), rel=1e-5), name


@pytest.mark.parametrize("layer", ["conv1", "bn2", ""])
@pytest.mark.parametrize("batch_norm", [0.0, 0.01])
def test_the_features_are_approached(target, images, layer, batch_norm):
    features = layer_features(target, images, layer)
    config = dataclasses.replace(CONFIG, steps=40, batch_norm=batch_norm, tv=1e-4, l2=0.0)
    result = feature_inversion(target, features, layer, config)
    start = initial_images(5, (3, 8, 8), seeded(0))
    before, after = (distance(layer_features(target, x, layer), features) for x in (start, result.images))
    assert after.mean() < 0.5 * before.mean()
    assert result.history["total"][-1] < result.history["total"][0]
    assert (result.labels, result.images.shape) == (None, images.shape)
    assert ("batch_norm" in result.history) == (batch_norm > 0)


@pytest.mark.parametrize("batch_norm", [0.0, 1e-6])
def test_a_linear_layer_is_inverted_exactly(batch_norm):
    """An orthogonal map loses nothing; the penalty's longer forward pass must not show it the ReLU's answer."""
    target, images = linear_target(), torch.rand(3, 3, 4, 4, generator=seeded(1))
    features = layer_features(target, images, "linear")
    assert float(features.min()) < 0
    result = feature_inversion(target, features, "linear", dataclasses.replace(PLAIN, steps=150, batch_norm=batch_norm))
    torch.testing.assert_close(result.images, images, rtol=0, atol=2e-3)


def test_an_identity_is_inverted_exactly(images):
    spec = ImageSpec(channels=3, size=(8, 8), mean=(0.3,) * 3, std=(0.5,) * 3, classes=("a", "b"))
    target = Target(nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(192, 2)), spec)
    found = feature_inversion(target, spec.normalise(images), "0", dataclasses.replace(PLAIN, steps=150)).images
    torch.testing.assert_close(found, images, rtol=0, atol=2e-3)


def test_without_the_features_the_image_is_not_found(target, images):
    """Ablation: priors and statistics alone know nothing of this image."""
    features = layer_features(target, images, "conv1")
    config = dataclasses.replace(CONFIG, steps=80, tv=1e-4, l2=0.0, batch_norm=0.01)
    with_it, without = (
        feature_inversion(target, features, "conv1", dataclasses.replace(config, match=match)).images
        for match in (1.0, 0.0)
    )
    assert (with_it - images).square().mean() < 0.5 * (without - images).square().mean()


def test_without_the_penalty_statistics_are_further_off(target, images):
    features = layer_features(target, images, "head")
    config = dataclasses.replace(CONFIG, steps=60)
    with_it, without = (
        statistics_penalty(target, feature_inversion(target, features, "head", c).images)
        for c in (dataclasses.replace(config, batch_norm=1.0), dataclasses.replace(config, batch_norm=0.0))
    )
    assert with_it < 0.8 * without


def test_seeds_micro_batches_and_the_target(target, images):
    features, before = layer_features(target, images, "conv2"), target.fingerprint()
    five = dataclasses.replace(CONFIG, steps=5, schedule="constant")
    whole, again, other = (
        feature_inversion(target, features, "conv2", five, generator=seeded(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(whole.images, again.images)
    assert not torch.equal(whole.images, other.images)
    chunked = feature_inversion(
        target, features, "conv2", dataclasses.replace(five, micro_batch=2), generator=seeded(1)
    )
    assert chunked.history["total"] == pytest.approx(whole.history["total"], rel=1e-4)
    assert target.fingerprint() == before
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in target.modules())


def test_a_stopped_run_resumes_to_the_same_bits(target, images, tmp_path):
    features, path = layer_features(target, images, "conv2"), tmp_path / "run.checkpoint"
    config = dataclasses.replace(CONFIG, steps=30, log_every=5, checkpoint_every=5, jitter=1)
    whole = feature_inversion(target, features, "conv2", config)
    cut = {"callbacks": [lambda step: step.index == 17], "checkpoint": path}
    feature_inversion(target, features, "conv2", config, **cut)
    with pytest.raises(ValueError, match="belongs to a run with another"):
        feature_inversion(target, features + 1, "conv2", config, checkpoint=path)
    resumed = feature_inversion(target, features, "conv2", config, checkpoint=path)
    assert torch.equal(whole.images, resumed.images)
    assert whole.history == resumed.history


def test_starting_from_the_answer_there_is_nothing_to_do(target, images):
    features = layer_features(target, images, "conv1")
    result = feature_inversion(target, features, "conv1", dataclasses.replace(PLAIN, steps=3), init=images)
    assert result.history["match"][0] == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(result.images, images, rtol=0, atol=1e-6)


def test_bad_input_is_named(target, make_target, images):
    features = layer_features(target, images, "conv2")
    for change, says in (
        ({"layer": "conv9"}, r"no layer named \['conv9'\]; it has .*conv2"),
        ({"features": features[:, :1]}, r"\(8, 4, 4\) at layer 'conv2' of tiny, not \(1, 4, 4\)"),
        ({"features": features.flatten(1)}, "not .128,"),
        ({"features": features[:0]}, "non-empty float"),
        ({"features": features.long()}, "non-empty float"),
        ({"features": features * math.nan}, "not finite"),
        ({"init": images[:, :1]}, "init have 1 channels"),
        ({"init": images[:2]}, "init .* 5 .* 2"),
    ):
        options = {"features": features, "layer": "conv2", "config": dataclasses.replace(CONFIG, steps=1)} | change
        with pytest.raises(ValueError, match=says):
            feature_inversion(target, **options)
    unnormed = make_target(batch_norm=False)
    with pytest.raises(ValueError, match="no batch-norm layer"):
        feature_inversion(unnormed, features, "conv2", CONFIG)
    feature_inversion(unnormed, features, "conv2", dataclasses.replace(PLAIN, steps=1))  # asks for no statistics
    with pytest.raises(ValueError, match="every weight of the loss is zero"):
        feature_inversion(target, features, "conv2", dataclasses.replace(PLAIN, match=0.0))
    target.module.bn1.train()
    with pytest.raises(ValueError, match="train mode"):
        feature_inversion(target, features, "conv2", CONFIG)


@pytest.mark.parametrize(
    ("field", "value"),
    [("match", -1.0), ("tv", math.nan), ("l2", math.inf), ("batch_norm", -1)],
)
def test_nonsense_in_the_config_is_named(field, value):
    with pytest.raises(ValueError, match=field):
        FeatureInversionConfig(**{field: value})


@pytest.mark.parametrize(("normalised", "colour"), [(True, "mean"), (False, "black")])
def test_the_papers_euclidean_norm_draws_to_the_mean_colour(make_target, normalised, colour):
    target = make_target(batch_norm=False)
    features = torch.zeros(2, 4, 8, 8)
    config = FeatureInversionConfig.paper(
        steps=150, match=0.0, tv=0.0, l2=1.0, batch_norm=0.0, normalised=normalised, schedule="cosine"
    )
    drawn = feature_inversion(target, features, "conv1", config).images.mean((0, 2, 3))
    wanted = target.mean.flatten() if colour == "mean" else torch.zeros(3)
    torch.testing.assert_close(drawn, wanted, rtol=0, atol=0.03)


def test_a_step_is_as_long_in_either_unit(make_target, images):
    """A step size in normalised pixels moves pixels in [0, 1] by a deviation times as much."""
    target = make_target()
    features = layer_features(target, images, "conv1")
    grey, moved = torch.full_like(images, 0.5), {}
    plain = FeatureInversionConfig(
        steps=2, lr=0.1, match=1.0, tv=0.0, l2=0.0, batch_norm=0.0, clip=False, schedule="constant"
    )
    for normalised in (False, True):
        config, seen = dataclasses.replace(plain, normalised=normalised), []
        look = functools.partial(lambda seen, step: seen.append(step.images.clone()), seen)
        feature_inversion(target, features, "conv1", config, callbacks=[look], init=grey)
        moved[normalised] = float((seen[0] - 0.5).abs().max())
    assert moved[False] == pytest.approx(0.1, rel=1e-3)
    assert moved[True] == pytest.approx(0.1 * sum(target.spec.std) / 3, rel=1e-3)


def test_the_weight_of_the_features_is_measured_where_it_is_left_open(target, images):
    features = 40 * layer_features(target, images, "conv2")  # of another size than the weights were published for
    config = FeatureInversionConfig.paper(steps=3, match=None)
    result = feature_inversion(target, features, "conv2", config)
    first = {name: values[0] for name, values in result.history.items() if name != "total"}
    match = first.pop("match")
    assert match == pytest.approx(sum(first.values()) / len(first), rel=1e-3)
    again = feature_inversion(target, features, "conv2", dataclasses.replace(config, match=result.config["match"]))
    assert torch.equal(again.images, result.images)
    chunks = feature_inversion(target, features, "conv2", dataclasses.replace(config, micro_batch=2))
    assert chunks.config["match"] == pytest.approx(result.config["match"], rel=1e-4)
    with pytest.raises(ValueError, match="match must be a weight where there is no other term"):
        FeatureInversionConfig(match=None, tv=0.0, l2=0.0, batch_norm=0.0)


def test_the_prior_looks_at_images_that_were_not_moved(make_target):
    """The black that jitter brings in has no edges for the total variation to smooth."""
    target = make_target(batch_norm=False)
    config = FeatureInversionConfig(steps=30, lr=0.02, match=0.0, tv=1.0, l2=0.0, batch_norm=0.0, jitter=3, wrap=False)
    bright = torch.full((1, 3, 8, 8), 0.8)
    result = feature_inversion(target, torch.zeros(1, 4, 8, 8), "conv1", config, init=bright)
    assert max(result.history["tv"]) < 1e-4


def test_profiles():
    assert FeatureInversionConfig.paper().normalised
    assert not FeatureInversionConfig.for_profile("book").normalised
    paper = FeatureInversionConfig.for_profile("paper")
    assert (paper.steps, paper.match, paper.tv, paper.l2, paper.batch_norm) == (20_000, 1e-3, 1e-4, 1e-2, 1e-2)
    ci, book = (FeatureInversionConfig.for_profile(p, batch_norm=0.0) for p in ("ci", "book"))
    assert ci.steps < book.steps < paper.steps
    assert ci.batch_norm == 0
