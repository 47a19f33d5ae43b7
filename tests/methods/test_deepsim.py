"""DeePSiM: its generator's shapes, each loss by hand and taken away, resuming, and what it refuses."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from invkit.core.rng import seeded
from invkit.core.spec import ImageSpec
from invkit.methods.deepsim import DeePSiM, DeePSiMConfig, deepsim
from invkit.networks.upconv import UpConvGenerator

CONFIG = DeePSiMConfig(
    steps=8, batch_size=8, lr=2e-3, image=0.5, features=0.1, adversarial=2.0, width=4, checkpoint_every=2
)


@pytest.fixture
def images():
    """Smooth pictures: a few blobs of colour, which a network can learn in a few steps."""
    return F.interpolate(torch.rand(48, 3, 2, 2, generator=seeded(0)), (8, 8), mode="bilinear")


def spec_of(*size, channels=3):
    return ImageSpec(channels=channels, size=size, mean=(0.5,) * channels, std=(0.5,) * channels, classes=("a", "b"))


def features_of(target, images, layer="conv2"):
    with torch.no_grad(), target.tap(layer) as read:
        return read(images)[layer]


@pytest.mark.parametrize("shape", [(6, 8, 8), (6, 4, 4), (6, 7, 9), (6, 1, 1), (10,), (5, 4), (6, 40, 40)])
@pytest.mark.parametrize("size", [(16, 16), (28, 20)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_features_become_images(shape, size, channels):
    network = UpConvGenerator(shape, spec_of(*size, channels=channels), width=2)
    features = torch.randn(3, *shape, generator=seeded(0))
    assert network(features).shape == (3, channels, *size)
    network.last.bias.data.fill_(-0.1)
    images = network.eval()(features)
    assert 0 <= images.min() <= images.max() <= 1


def test_a_bad_start_does_not_last(target, images):
    """Far out of range the gradient must still be there, or a large loss of features would saturate the output."""
    config = dataclasses.replace(CONFIG, steps=60, lr=1e-2, image=1.0, features=0.0, adversarial=0.0)
    learner = DeePSiM(target, "conv2", config, generator=seeded(0))
    learner.inverse.last.bias.data.fill_(-3.0)
    losses = [float(learner.step((images, images))["image"]) for _ in range(60)]
    assert losses[-1] < 0.05 * losses[0]


def test_the_scale_of_the_features_plays_no_part():
    network, features = UpConvGenerator((6, 4, 4), spec_of(8, 8), width=2), torch.randn(5, 6, 4, 4)
    torch.testing.assert_close(network(features), network(1000 * features + 7), rtol=1e-3, atol=1e-3)


def test_shapes_that_make_no_sense():
    for shape in ((), (0,), (4, 0, 4)):
        with pytest.raises(ValueError, match="features"):
            UpConvGenerator(shape, spec_of(8, 8))


def test_the_losses_by_hand(target, images):
    learner, found = DeePSiM(target, "conv2", CONFIG, generator=seeded(0)), images.flip(0)
    learner.discriminator.eval()  # spectral norms keep still
    terms = learner.losses(images, features_of(target, images), found)
    gap = features_of(target, images) - features_of(target, found)
    probability = torch.sigmoid(learner.discriminator(found))
    expected = {
        "image": 0.5 * (images - found).square().sum() / 48,
        "features": 0.1 * gap.square().sum() / 48,
        "adversarial": -2.0 * probability.log().mean(),
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-4, atol=1e-5)
    loss = learner.discriminate(images, found, terms["adversarial"])
    learner = DeePSiM(target, "conv2", CONFIG, generator=seeded(0))
    learner.discriminator.eval()
    real, fake = (torch.sigmoid(learner.discriminator(x)) for x in (images, found))
    torch.testing.assert_close(loss, -real.log().mean() - (1 - fake).log().mean(), rtol=1e-4, atol=1e-5)


def test_the_comparator_may_be_another_layer(target, images):
    learner = DeePSiM(target, "conv2", CONFIG, generator=seeded(0), comparator="conv1")
    found = images.flip(0)
    gap = features_of(target, images, "conv1") - features_of(target, found, "conv1")
    terms = learner.losses(images, features_of(target, images, "conv1"), found)
    torch.testing.assert_close(terms["features"], 0.1 * gap.square().sum() / 48)
    assert learner.features(images)[0].shape != learner.features(images)[1].shape
    assert set(learner.step((images, images))) == {"image", "features", "adversarial", "discriminator"}
    with pytest.raises(ValueError, match="no layer named"):
        deepsim(target, images, "conv2", CONFIG, comparator="conv9")


def test_a_weight_of_zero_leaves_its_term_out(target, images):
    wanted = features_of(target, images)
    for name in ("image", "features", "adversarial"):
        config = dataclasses.replace(CONFIG, **{name: 0.0})
        learner = DeePSiM(target, "conv2", config, generator=seeded(0))
        terms = learner.losses(images, wanted, learner.inverse(wanted))
        assert set(terms) == {"image", "features", "adversarial"} - {name}
        assert (learner.discriminator is None) == (name == "adversarial") == (len(learner.optimizers) == 1)


def test_the_discriminator_pauses_when_it_is_too_good(target, images):
    for adversarial, moves in ((2.0 * 1e9, False), (0.0, True)):
        learner = DeePSiM(target, "conv2", CONFIG, generator=seeded(0))
        before = learner.discriminator.head.bias.detach().clone()
        learner.discriminate(images, images.flip(0) * 0.5, torch.tensor(adversarial))
        assert torch.equal(before, learner.discriminator.head.bias) != moves


def test_images_of_features_never_seen_and_what_the_losses_are_for(target, images):
    train, unseen = images[:40], images[40:]
    wanted = features_of(target, unseen, "conv1")

    def gaps(**change):
        config = dataclasses.replace(CONFIG, steps=80, lr=1e-2, image=1.0, features=0.5, adversarial=0.01)
        inverse, result = deepsim(target, train, "conv1", dataclasses.replace(config, **change))
        assert result.stopped == "steps"
        found = inverse(wanted)
        features = (features_of(target, found, "conv1") - wanted).square().mean()
        return float((found - unseen).square().mean()), float(features)

    mean = float((train.mean(0) - unseen).square().mean())  # what knows nothing of the features gives
    image, features = gaps()
    assert image < 0.4 * mean
    assert gaps(image=0.0)[0] > 1.2 * image
    blind = gaps(image=0.0, features=0.0)  # the discriminator asks for likely images, not for these
    assert blind[0] > 2 * image
    assert blind[1] > 2 * features


def test_the_inverse_is_frozen_and_the_target_untouched(target, images):
    before = target.fingerprint()
    inverse, result = deepsim(target, images, "bn1", CONFIG)
    features = features_of(target, images, "bn1")
    assert torch.equal(inverse(features), inverse(features, seeded(0)))  # called as every inverse
    assert not any(m.training for m in inverse.modules())
    assert not any(p.requires_grad for p in inverse.parameters())
    assert set(result.history) == {"image", "features", "adversarial", "discriminator"}
    assert target.fingerprint() == before
    assert not any(p.grad is not None for p in target.parameters())


@pytest.mark.parametrize("adversarial", [0.0, 2.0])
def test_a_killed_run_resumes_to_the_same_bits(target, images, tmp_path, adversarial):
    config = dataclasses.replace(CONFIG, adversarial=adversarial)

    def kill(step):
        if step.index == 4:
            raise RuntimeError("killed")

    path, wanted = tmp_path / "run.checkpoint", features_of(target, images)
    with pytest.raises(RuntimeError, match="killed"):
        deepsim(target, images, "conv2", config, callbacks=[kill], checkpoint=path)
    resumed, again = deepsim(target, images, "conv2", config, generator=seeded(7), checkpoint=path)
    whole, result = deepsim(target, images, "conv2", config)
    other, _ = deepsim(target, images, "conv2", config, generator=seeded(7))
    assert torch.equal(resumed(wanted), whole(wanted))
    assert not torch.equal(other(wanted), whole(wanted))
    assert again.history == result.history


def test_bad_input_is_named(target, images):
    for change, says in (
        ({"layer": "conv9"}, "no layer named"),
        ({"images": images[:, :1]}, "1 channels"),
        ({"images": images[:1]}, "two images or more"),
    ):
        options = {"images": images, "layer": "conv2", "config": CONFIG} | change
        with pytest.raises(ValueError, match=says):
            deepsim(target, **options)
    target.module.bn1.train()
    with pytest.raises(ValueError, match="train mode"):
        deepsim(target, images, "conv2", CONFIG)


def test_a_run_that_diverges_gives_its_last_good_state(target, images):
    with pytest.warns(UserWarning, match="diverged"):
        inverse, result = deepsim(target, images, "conv2", dataclasses.replace(CONFIG, lr=1e30, image=1e30))
    assert (result.stopped, result.steps) == ("diverged", 0)
    assert all(p.isfinite().all() for p in inverse.parameters())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image", -1.0), ("features", math.nan), ("adversarial", math.inf), ("pause_ratio", -0.1), ("lr", 0.0),
        ("batch_size", 1), ("width", 0), ("betas", (0.9, 1.0)), ("steps", 0),
    ],
)  # fmt: skip
def test_configs_refuse_nonsense(field, value):
    with pytest.raises(ValueError, match=field):
        DeePSiMConfig(**{field: value})


def test_profiles():
    paper, book, ci = (DeePSiMConfig.for_profile(p) for p in ("paper", "book", "ci"))
    assert paper == DeePSiMConfig()
    assert (paper.features, paper.adversarial, paper.image) == (0.01, 100.0, pytest.approx(0.13005))
    assert ci.steps < book.steps < paper.steps
    with pytest.raises(ValueError, match="every weight is zero"):
        DeePSiMConfig(image=0, features=0, adversarial=0)
