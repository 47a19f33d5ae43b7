"""DeepDream and class inversion: what rises, what falls, and what is refused."""

import dataclasses
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from invkit.core.rng import seeded
from invkit.methods.deepdream import DeepDreamConfig, class_inversion, deep_dream
from invkit.objectives import priors
from invkit.transforms.resize import initial_images

CONFIG = DeepDreamConfig(steps=10, lr=0.02, octaves=2, octave_scale=1.5, log_every=5)


@pytest.fixture
def photo():
    return torch.rand(2, 3, 12, 18, generator=seeded(0))


def activation(target, layer, images):
    with torch.no_grad(), target.tap(layer) as read:
        return read(images)[layer].flatten(1).square().mean(1).sqrt()


@pytest.mark.parametrize("layer", ["conv1", "bn2", "head"])
def test_the_layer_answers_more_strongly(target, photo, layer):
    result = deep_dream(target, photo, layer, CONFIG)
    assert result.images.shape == photo.shape
    assert (activation(target, layer, result.images) > activation(target, layer, photo)).all()
    assert 0 <= result.images.min() <= result.images.max() <= 1


def test_five_steps_raise_the_activation_in_one_octave(target, photo):
    config = dataclasses.replace(CONFIG, steps=5, octaves=1, tv=0.0)
    history = deep_dream(target, photo, "conv2", config).history["activation"]
    assert history[0] == pytest.approx(-float(activation(target, "conv2", photo).mean()), rel=1e-5)
    assert history[-1] < history[0]


def test_octaves_go_from_small_to_the_full_size(target, photo):
    sizes = []
    deep_dream(target, photo, "conv1", CONFIG, callbacks=[lambda s: sizes.append(tuple(s.images.shape[2:]))])
    assert sizes == [(8, 12)] * 10 + [(12, 18)] * 10


def test_detail_of_small_octaves_is_carried_on(target, photo):
    config = dataclasses.replace(CONFIG, octaves=3, steps=30, octave_scale=1.3)
    first = {}

    def look(step):
        first.setdefault(tuple(step.images.shape[2:]), step.losses()["activation"])

    deep_dream(target, photo, "conv1", config, callbacks=[look])
    started = -first[(12, 18)]  # at full size, before anything was dreamt there
    assert started > float(activation(target, "conv1", photo).mean())


def test_the_photo_shines_through(target, photo):
    config = dataclasses.replace(CONFIG, steps=1, lr=1e-9)
    torch.testing.assert_close(deep_dream(target, photo, "conv1", config).images, photo, rtol=0, atol=1e-5)
    before = photo.clone()
    deep_dream(target, photo, "conv1", CONFIG)
    assert torch.equal(photo, before)


def test_a_callback_ends_all_octaves(target, photo):
    result = deep_dream(target, photo, "conv1", CONFIG, callbacks=[lambda s: s.index == 2])
    assert result.stopped == "callback"
    assert result.images.shape == photo.shape, "what was dreamt in a small octave lies on the image as it was given"
    assert not torch.equal(result.images, photo)


def test_an_octave_out_of_patience_is_followed_by_the_next(target, photo):
    config = replace(CONFIG, patience=0.1, log_every=1, lr=1e-9)
    seen = []
    deep_dream(target, photo, "conv1", config, callbacks=[lambda s: seen.append(tuple(s.images.shape))])
    assert len(set(seen)) == config.octaves


def test_the_record_is_that_of_all_octaves(target, photo):
    seen = []
    result = deep_dream(target, photo, "conv1", CONFIG, callbacks=[lambda s: seen.append((s.index, s.stage))])
    assert seen == [(i, i // CONFIG.steps) for i in range(CONFIG.octaves * CONFIG.steps)]
    assert len(result.history["total"]) == len(seen)
    assert [s.shape[-1] for s in result.stages] == sorted(s.shape[-1] for s in result.stages)
    assert torch.equal(result.stages[-1], result.images)


@pytest.mark.parametrize("stop", [0, 3, 5, 8])
def test_a_dream_goes_on_to_the_same_bits(target, photo, tmp_path, stop):
    config = dataclasses.replace(CONFIG, steps=4, octaves=2, jitter=1, log_every=1, checkpoint_every=2)
    path = tmp_path / "dream.pt"

    def crash(step):
        if step.index == stop:
            raise ZeroDivisionError

    def dream(**options):
        return deep_dream(target, photo, "conv2", config, generator=seeded(1), **options)

    whole = dream()
    if stop < 8:
        with pytest.raises(ZeroDivisionError):
            dream(checkpoint=path, callbacks=[crash])
    resumed = dream(checkpoint=path)
    assert torch.equal(whole.images, resumed.images)
    assert whole.history == resumed.history
    assert not list(tmp_path.iterdir()), "one file, and none of a finished run"


@pytest.mark.parametrize("change", ["images", "layer"])
def test_another_dreams_checkpoint_is_refused(target, photo, tmp_path, change):
    path = tmp_path / "dream.pt"
    config = dataclasses.replace(CONFIG, log_every=1, checkpoint_every=1)
    deep_dream(target, photo, "conv1", config, callbacks=[lambda step: step.index == 2], checkpoint=path)
    images, layer = (1 - photo, "conv1") if change == "images" else (photo, "conv2")
    with pytest.raises(ValueError, match=r"dream\.pt belongs to a run with another"):
        deep_dream(target, images, layer, config, checkpoint=path)


def test_what_is_refused(target, photo):
    with pytest.raises(ValueError, match=r"no layer named \['conv7'\]"):
        deep_dream(target, photo, "conv7", CONFIG)
    with pytest.raises(ValueError, match="1 channels; the network takes 3"):
        deep_dream(target, photo[:, :1], "conv1", CONFIG)
    with pytest.raises(ValueError, match="float tensor"):
        deep_dream(target, photo[0], "conv1", CONFIG)
    with pytest.raises(ValueError, match="float tensor"):
        deep_dream(target, (photo * 255).int(), "conv1", CONFIG)
    target.module.bn1.train()
    with pytest.raises(ValueError, match="train mode"):
        deep_dream(target, photo, "conv1", CONFIG)


def test_octaves_that_the_network_does_not_take(make_target):
    from torch import nn

    from invkit.core.target import Target

    spec = make_target().spec
    flat = Target(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), spec, "flat")
    with pytest.raises(ValueError, match=r"flat does not take images of \(5, 5\) pixels"):
        deep_dream(flat, torch.rand(1, 3, 8, 8), "1", CONFIG)
    result = deep_dream(flat, torch.rand(1, 3, 8, 8), "1", dataclasses.replace(CONFIG, octaves=1))
    assert result.images.shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"octaves": 0}, "octaves"), ({"octave_scale": 1.0}, "octave_scale"), ({"steps": 0}, "steps"),
        ({"tv": -1.0}, "tv"), ({"l2": -1.0}, "l2"),
    ],
)  # fmt: skip
def test_nonsense_in_the_config(change, says):
    with pytest.raises(ValueError, match=says):
        DeepDreamConfig(**change)


def test_class_inversion_by_hand_and_downhill(target):
    labels = [0, 1, 2, 3]
    config = dataclasses.replace(CONFIG, steps=5, tv=0.02, l2=0.01)
    result = class_inversion(target, labels, config)
    images = initial_images(4, (3, 8, 8), seeded(0))
    ce = F.cross_entropy(target(images), torch.tensor(labels))
    expected = ce + 0.02 * priors.total_variation(images).mean() + 0.01 * priors.l2(images).mean()
    assert result.history["total"][0] == pytest.approx(float(expected), rel=1e-5)
    assert result.history["total"][-1] < result.history["total"][0]
    assert set(result.history) == {"cross_entropy", "tv", "l2", "total"}


def test_the_papers_euclidean_norm_draws_to_the_mean_colour(target):
    config = DeepDreamConfig.paper(steps=150, tv=0.0, l2=100.0)
    drawn = class_inversion(target, [0, 1], config).images.mean((0, 2, 3))
    torch.testing.assert_close(drawn, target.mean.flatten(), rtol=0, atol=0.03)
    black = class_inversion(target, [0, 1], replace(config, normalised=False)).images
    assert black.mean() < 0.05


def test_a_dream_in_normalised_pixels_draws_to_the_mean_colour(target, photo):
    config = DeepDreamConfig.paper(steps=150, octaves=1, tv=0.0, l2=100.0)
    dreamt = deep_dream(target, photo, "conv1", config)
    torch.testing.assert_close(dreamt.images.mean((0, 2, 3)), target.mean.flatten(), rtol=0, atol=0.03)
    assert dreamt.config["lr"] == config.lr


def test_class_inversion_goes_on_to_the_same_bits(target, tmp_path):
    config = dataclasses.replace(CONFIG, steps=8, jitter=1, log_every=1, checkpoint_every=3)
    path = tmp_path / "run.pt"
    stopped = class_inversion(target, [0, 1], config, callbacks=[lambda step: step.index == 5], checkpoint=path)
    assert stopped.stopped == "callback"
    assert path.exists()
    whole, resumed = class_inversion(target, [0, 1], config), class_inversion(target, [0, 1], config, checkpoint=path)
    assert torch.equal(whole.images, resumed.images)
    assert whole.history == resumed.history


def test_class_inversion_needs_no_batch_norm(make_target):
    target = make_target(batch_norm=False)
    config = dataclasses.replace(CONFIG, steps=200, lr=0.05, tv=0.0)
    result = class_inversion(target, [0, 1, 2, 3], config)
    assert result.history["cross_entropy"][-1] < 0.8 * result.history["cross_entropy"][0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"labels": [9]}, r"labels \[9\]"),
        ({"init": torch.rand(2, 3, 9, 9)}, "init"),
        ({"init": torch.rand(3, 3, 8, 8)}, "init .* 2 .* 3"),
    ],
)
def test_class_inversion_refuses(target, options, says):
    with pytest.raises(ValueError, match=says):
        class_inversion(target, **{"labels": [0, 1], "config": CONFIG} | options)
