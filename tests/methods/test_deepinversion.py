"""DeepInversion: its loss by hand, what each term does, and what it refuses."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from invkit.core.config import plain
from invkit.core.rng import seeded
from invkit.core.target import Target
from invkit.methods.deepinversion import DeepInversionConfig, deep_inversion
from invkit.objectives import losses, priors
from invkit.objectives.batch_norm import BatchNormPenalty
from invkit.transforms.resize import initial_images

LABELS = [0, 1, 2, 3, 0, 1]
SMALL = {"steps": 60, "lr": 0.05, "jitter": 0, "flip": 0.0, "log_every": 20, "betas": (0.5, 0.9)}
# The loss as the report writes it, in pixels of [0, 1]: what the tests below work out by hand.
SMALL |= {"low_resolutions": (), "scales": 1, "form": "norm", "roughness": 0.0, "wrap": True}
SMALL |= {"cross_entropy": 1.0, "temperature": 1.0}


def config(**change):
    return DeepInversionConfig(**SMALL | {"tv": 0.01, "l2": 0.001, "batch_norm": 0.1} | change)


def penalty_of(target, images):
    penalty = BatchNormPenalty(target)
    with torch.no_grad(), penalty.attached():
        target(images)
        return float(penalty.value(penalty.take()))


def test_the_first_loss_by_hand(target):
    result = deep_inversion(target, LABELS, config(steps=1, temperature=2.0, cross_entropy=0.5))
    images = initial_images(6, (3, 8, 8), seeded(0))
    logits = target(images)
    expected = {
        "cross_entropy": 0.5 * float(F.cross_entropy(logits / 2, torch.tensor(LABELS))),
        "tv": 0.01 * float(priors.total_variation(images).mean()),
        "l2": 0.001 * float(priors.l2(images).mean()),
        "batch_norm": 0.1 * penalty_of(target, images),
    }
    expected["total"] = sum(expected.values())
    assert result.history.keys() == expected.keys()
    for name, value in expected.items():
        assert result.history[name][0] == pytest.approx(value, rel=1e-5), name


def test_the_reports_first_loss_by_hand(target):
    """§3.1.1 and §5.1 on normalised pixels, from full-amplitude noise; no jitter, so that it can be worked out."""
    result = deep_inversion(target, LABELS, DeepInversionConfig.paper(steps=2, jitter=0, flip=0.0))
    generator = seeded(0)
    images = torch.randn(6, 3, 8, 8, generator=generator).clamp(0, 1)
    normalised = (images - target.mean) / target.std
    x, y = normalised, normalised
    variation = [x[..., 1:] - y[..., :-1], x[..., 1:, :] - y[..., :-1, :]]
    variation += [x[..., 1:, 1:] - y[..., :-1, :-1], x[..., 1:, :-1] - y[..., :-1, 1:]]
    expected = {
        "cross_entropy": float(F.cross_entropy(target(images), torch.tensor(LABELS))),
        "tv": 8e-3 * sum(float(d.flatten(1).norm(dim=1).mean()) for d in variation),
        "l2": 1e-5 * float(normalised.flatten(1).norm(dim=1).mean()),
        "batch_norm": 1e-2 * penalty_of(target, images),
    }
    for name, value in expected.items():
        assert result.history[name][0] == pytest.approx(value, rel=1e-5), name
    assert result.config["lr"] == 0.2


def test_the_reports_step_is_as_long_as_on_normalised_pixels(target):
    """Adam's first step has the length lr in the units of what it moves."""
    moved = []
    deep_inversion(
        target, LABELS, DeepInversionConfig.paper(steps=1, jitter=0, flip=0.0), init=torch.full((6, 3, 8, 8), 0.5),
        callbacks=[lambda step: moved.append((step.images - 0.5).abs().max())],
    )  # fmt: skip
    assert float(moved[0] / target.std.mean()) == pytest.approx(0.2, rel=1e-2)


def test_the_loss_a_user_takes_by_hand(target):
    """The defaults: the relative penalty and what it asks of each image, the prior on the images without jitter."""
    config = DeepInversionConfig(steps=1, low_resolutions=())
    result = deep_inversion(target, LABELS, config)
    images = initial_images(6, (3, 8, 8), seeded(0))
    assert list(result.history) == ["cross_entropy", "roughness", "batch_norm", "total"]
    rough = images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean()
    assert result.history["roughness"][0] == pytest.approx(config.roughness * float(rough), rel=1e-5)


def test_one_setting_gives_good_images_from_one_to_many(target):
    """No image is given up: whatever the batch, none is much rougher than the others, and classes are reached."""
    for labels in ([1], LABELS):
        images = deep_inversion(target, labels, DeepInversionConfig(steps=60, low_resolutions=((0.5, 30),))).images
        each = priors.roughness(images)
        assert float(each.max()) < 2 * float(each.median()) + 1e-3


def test_classes_are_reached_and_statistics_matched(target):
    result = deep_inversion(target, LABELS, config(steps=200, batch_norm=1.0))
    start = initial_images(6, (3, 8, 8), seeded(0))
    assert penalty_of(target, result.images) < 0.7 * penalty_of(target, start)
    assert result.labels.tolist() == LABELS
    assert 0 <= result.images.min() <= result.images.max() <= 1
    assert result.stopped == "steps"


def test_without_the_penalty_statistics_stay_far(target):
    with_it = deep_inversion(target, LABELS, config(steps=200, batch_norm=1.0))
    without = deep_inversion(target, LABELS, config(steps=200, batch_norm=0.0))
    assert "batch_norm" not in without.history
    assert penalty_of(target, without.images) > 1.3 * penalty_of(target, with_it.images)


def test_without_total_variation_images_are_rougher(target):
    smooth = deep_inversion(target, LABELS, config(tv=0.3))
    rough = deep_inversion(target, LABELS, config(tv=0.0))
    assert "tv" not in rough.history
    assert priors.total_variation(rough.images).mean() > 1.3 * priors.total_variation(smooth.images).mean()


def test_the_logit_in_the_place_of_the_cross_entropy(target):
    result = deep_inversion(target, LABELS, config(cross_entropy=0, class_logit=0.5))
    assert list(result.history) == ["class_logit", "tv", "l2", "batch_norm", "total"]
    images = initial_images(6, (3, 8, 8), seeded(0))
    first = -0.5 * float(target(images)[range(6), LABELS].mean())
    assert result.history["class_logit"][0] == pytest.approx(first, rel=1e-5)
    strong = deep_inversion(target, LABELS, config(steps=150, cross_entropy=0, class_logit=10, batch_norm=0))
    raised = (target(strong.images) - target(images))[range(6), LABELS]
    assert (raised > 0.1).all()


def test_statistics_alone(target):
    result = deep_inversion(target, LABELS, config(cross_entropy=0, tv=0, l2=0))
    assert list(result.history) == ["batch_norm", "total"]
    assert result.history["total"][-1] < result.history["total"][0]
    with pytest.raises(ValueError, match="every weight"):
        deep_inversion(target, LABELS, config(cross_entropy=0, tv=0, l2=0, batch_norm=0))


def test_seeds_and_micro_batches(target):
    first = deep_inversion(target, LABELS, config(jitter=2, flip=0.5), generator=seeded(5))
    again = deep_inversion(target, LABELS, config(jitter=2, flip=0.5), generator=seeded(5))
    assert torch.equal(first.images, again.images)
    assert first.seed == 5
    five = config(steps=5, schedule="constant")
    whole = deep_inversion(target, LABELS, five)
    chunked = deep_inversion(target, LABELS, dataclasses.replace(five, micro_batch=4))
    assert chunked.history["total"] == pytest.approx(whole.history["total"], rel=1e-4)


def test_starting_from_given_images(target):
    init = torch.rand(6, 3, 8, 8, generator=seeded(3))
    before = init.clone()
    result = deep_inversion(target, LABELS, config(steps=1), init=init)
    assert torch.equal(result.images, init)
    assert torch.equal(init, before)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"labels": [0, 4]}, r"labels \[4\] are outside the network's classes 0\.\.3"),
        ({"labels": [-1]}, r"labels \[-1\]"),
        ({"labels": []}, "non-empty"),
        ({"labels": [0.5]}, "class indices"),
        ({"init": torch.rand(6, 1, 8, 8)}, "init have 1 channels; the network takes 3"),
        ({"init": torch.rand(6, 3, 9, 8)}, r"init are \(9, 8\) pixels"),
        ({"init": torch.zeros(6, 3, 8, 8, dtype=torch.int64)}, "init must be a float tensor"),
        ({"init": torch.rand(5, 3, 8, 8)}, "init .* 6 .* 5"),
        ({"config": config(competition=1.0)}, "needs both competition > 0 in the config and a student"),
    ],
)
def test_bad_input_is_named(target, options, says):
    with pytest.raises(ValueError, match=says):
        deep_inversion(target, **{"labels": LABELS, "config": config(steps=1)} | options)


def test_networks_that_it_does_not_fit(make_target):
    with pytest.raises(ValueError, match=r"no batch-norm layer.*Plug-In Inversion"):
        deep_inversion(make_target(batch_norm=False), LABELS, config())
    deep_inversion(make_target(batch_norm=False), LABELS, config(batch_norm=0, steps=1))  # asks for no statistics
    moving = make_target()
    moving.module.bn1.train()
    with pytest.raises(ValueError, match=r"bn1 .*in train mode"):
        deep_inversion(moving, LABELS, config())
    untracked = make_target()
    untracked.module.bn1 = nn.BatchNorm2d(4, track_running_stats=False).eval()
    with pytest.raises(ValueError, match="bn1 tracks no running statistics"):
        deep_inversion(untracked, LABELS, config())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tv", -1.0), ("l2", math.nan), ("batch_norm", -0.1), ("cross_entropy", -1), ("competition", -1),
        ("temperature", 0.0), ("first_layer_scale", 0.0), ("steps", 0), ("jitter", -2), ("flip", 2),
        ("low_resolutions", ((8,),)), ("low_resolutions", ((0, 5),)),
    ],
)  # fmt: skip
def test_nonsense_in_the_config_is_named(field, value):
    with pytest.raises(ValueError, match=field):
        DeepInversionConfig(**{field: value})


def test_profiles():
    paper = DeepInversionConfig.for_profile("paper")
    assert paper == DeepInversionConfig.paper()
    assert DeepInversionConfig().steps < 1000
    ci, book = (DeepInversionConfig.for_profile(p, batch_norm=7.0) for p in ("ci", "book"))
    assert ci.steps < book.steps < paper.steps
    assert ci.batch_norm == book.batch_norm == 7.0
    with pytest.raises(ValueError, match="ci, book, paper"):
        DeepInversionConfig.for_profile("huge")
    with pytest.raises(TypeError, match="no_such_field"):
        DeepInversionConfig.for_profile("ci", no_such_field=1)


# ---- adaptive DeepInversion


def test_competition_by_hand_and_its_gradient(make_target):
    teacher, student = make_target(), make_target(seed=5)
    alone = config(steps=1, cross_entropy=0, tv=0, l2=0, batch_norm=0, competition=2.0)
    images = torch.rand(6, 3, 8, 8, generator=seeded(0))
    result = deep_inversion(teacher, LABELS, alone, init=images, student=student)
    js = losses.jensen_shannon(teacher(images), student(images))
    assert result.history["competition"][0] == pytest.approx(2 * float((1 - js).mean()), rel=1e-5)
    leaf = images.clone().requires_grad_()
    value = losses.jensen_shannon(teacher(leaf), student(leaf)).mean()
    assert torch.autograd.grad(value, leaf)[0].abs().max() > 0


def test_competition_draws_teacher_and_student_apart(make_target):
    teacher, student = make_target(), make_target(seed=5)
    alone = config(steps=60, cross_entropy=0, tv=0, l2=0, batch_norm=0, competition=1.0)
    images = torch.rand(6, 3, 8, 8, generator=seeded(0))
    found = deep_inversion(teacher, LABELS, alone, init=images, student=student).images

    def disagreement(x):
        return float(losses.jensen_shannon(teacher(x), student(x)).mean())

    with torch.no_grad():
        assert disagreement(found) > 1.05 * disagreement(images)


def test_the_student_sees_micro_batches_and_is_not_hooked(make_target):
    teacher, student = make_target(), make_target(seed=5)
    options = {"competition": 1.0, "steps": 3, "schedule": "constant"}
    whole = deep_inversion(teacher, LABELS, config(**options), student=student)
    chunked = deep_inversion(teacher, LABELS, config(**options, micro_batch=4), student=student)
    assert whole.history["competition"] == pytest.approx(chunked.history["competition"], rel=1e-4)
    assert whole.history["batch_norm"][0] == pytest.approx(
        0.1 * penalty_of(teacher, initial_images(6, (3, 8, 8), seeded(0))), rel=1e-5
    )


def test_students_that_do_not_fit(make_target):
    teacher, student = make_target(), make_target(seed=5)
    with pytest.raises(ValueError, match="needs both"):
        deep_inversion(teacher, LABELS, config(), student=student)
    with pytest.raises(ValueError, match=r"student.* n_classes 3"):
        deep_inversion(teacher, LABELS, config(competition=1.0), student=make_target(classes=3))
    student.module.bn1.train()
    with pytest.raises(ValueError, match="train mode"):
        deep_inversion(teacher, LABELS, config(competition=1.0), student=student)


def test_a_real_network_is_convinced(data_folder):
    """ResNet-20 trained on CIFAR-10: a few steps give its classes and statistics near the stored ones."""
    from invkit.networks.loading import load_target

    target = load_target("invkit/resnet20", weights=data_folder / "weights" / "cifar10_resnet20.safetensors")
    assert isinstance(target, Target)
    labels = torch.arange(10)
    small = DeepInversionConfig(steps=30, low_resolutions=(), log_every=10)
    result = deep_inversion(target, labels, small)
    with torch.no_grad():
        right = (target(result.images).argmax(1) == labels).float().mean()
    assert right >= 0.8
    assert result.history["batch_norm"][-1] < 0.5 * result.history["batch_norm"][0]


def test_statistics_that_were_never_updated_are_named(make_target):
    target = make_target()
    for layer in (target.module.bn1, target.module.bn2):
        layer.reset_running_stats()
    with pytest.raises(ValueError, match="mean 0 and variance 1"):
        deep_inversion(target, LABELS)


def test_a_low_resolution_larger_than_the_images_is_named(target):
    with pytest.raises(ValueError, match=r"low_resolutions .* \(16, 16\)"):
        deep_inversion(target, LABELS, DeepInversionConfig(low_resolutions=((16, 5),)))


def test_priors_do_not_see_the_black_rim_of_the_jitter(target):
    """Total variation of an image without edges is zero however far it is shifted in black."""
    flat = config(steps=1, jitter=3, wrap=False, cross_entropy=0, l2=0, batch_norm=0, tv=1.0)
    result = deep_inversion(target, LABELS, flat, init=torch.full((6, 3, 8, 8), 0.7))
    assert result.history["tv"][0] == 0


class FixedSize(torch.nn.Module):
    """Takes images of 8 pixels only, as networks do that end in a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = torch.nn.BatchNorm2d(3)
        self.bn.running_mean.fill_(0.1)
        self.head = torch.nn.Linear(192, 4)

    def forward(self, x):
        return self.head(self.bn(x).flatten(1))


def test_a_network_of_one_size_goes_without_the_half_size(target):
    fixed = Target(FixedSize(), target.spec, "fixed")
    with pytest.warns(UserWarning, match=r"fixed takes no images of \(4, 4\) pixels"):
        result = deep_inversion(fixed, LABELS, DeepInversionConfig(steps=3))
    assert len(result.history["total"]) == 3
    with pytest.raises(ValueError, match="low_resolutions"):
        deep_inversion(fixed, LABELS, DeepInversionConfig(steps=3, low_resolutions=((4, 2),)))


def test_a_student_that_shares_the_targets_layers_is_named(target):
    with pytest.raises(ValueError, match="student shares layers"):
        deep_inversion(target, LABELS, config(steps=1, competition=1.0), student=Target(target.module, target.spec))


class Tokens(torch.nn.Module):
    """A batch norm over the tokens of an image, folded into the batch, after one over images."""

    def __init__(self) -> None:
        super().__init__()
        self.bn2d, self.bn1d = torch.nn.BatchNorm2d(3), torch.nn.BatchNorm1d(3)
        self.bn2d.running_mean.fill_(0.1)
        self.head = torch.nn.Linear(3, 4)

    def forward(self, x):
        tokens = self.bn2d(x).flatten(2).transpose(1, 2)
        tokens = self.bn1d(tokens.flatten(0, 1)).view(tokens.shape)
        return self.head(tokens.mean(1))


def test_batch_norms_over_tokens_count_in_any_micro_batch(target):
    folded = Target(Tokens(), target.spec, "tokens")
    short = DeepInversionConfig(steps=3, low_resolutions=(), per_image=2.0)
    whole = deep_inversion(folded, LABELS, short)
    parts = deep_inversion(folded, LABELS, dataclasses.replace(short, micro_batch=4))
    torch.testing.assert_close(whole.images, parts.images, atol=1e-4, rtol=0)


def test_a_network_that_passes_its_batch_norms_by_is_named(make_target):
    target = make_target()
    target.module.bn1, target.module.bn2, spare = torch.nn.Identity(), torch.nn.Identity(), target.module.bn1
    target.module.spare = spare
    target.module.eval()
    with pytest.raises(ValueError, match="reached none of the batch norms: spare"):
        deep_inversion(target, LABELS, DeepInversionConfig(steps=1, low_resolutions=()))


@pytest.mark.parametrize(
    "name",
    ["small", "efficientnet_lite0", "tinydarknet", "tinydarknet_front", "cifar10", "efficientnet_lite0_methods"],
)
def test_recorded_runs_of_one_setting_took_the_defaults_of_today(name):
    record = json.loads((Path(__file__).parents[2] / f"book/recorded/one_setting_{name}.json").read_text("utf8"))
    config = record["config"]
    config = config.get("defaults") or config.get("DeepInversion") or config
    assert config == json.loads(json.dumps(plain(DeepInversionConfig())))
