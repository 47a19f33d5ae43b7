"""Answers that need no inversion, by hand, and what judges say of noise."""

import pytest
import torch
from torch import nn

from invkit.core.rng import seeded
from invkit.core.target import Target
from invkit.metrics.baselines import baselines, noise_rate
from invkit.metrics.quality import psnr

TRAIN = torch.rand(12, 3, 8, 8, generator=seeded(0))
TRAIN_LABELS = torch.arange(12) % 3
IMAGES = torch.rand(5, 3, 8, 8, generator=seeded(1))
LABELS = torch.tensor([0, 2, 1, 1, 0])


def test_each_baseline_by_hand():
    rows = baselines(IMAGES, LABELS, TRAIN, TRAIN_LABELS, features=lambda x: x[:, 0, :2, :2])
    for i, (image, label) in enumerate(zip(IMAGES, LABELS.tolist(), strict=True)):
        for channel in range(3):
            assert (rows["mean colour"][i, channel] - image[channel].mean()).abs().max() < 1e-6
        of_class = torch.stack([t for t, other in zip(TRAIN, TRAIN_LABELS.tolist(), strict=True) if other == label])
        torch.testing.assert_close(rows["class mean"][i], of_class.mean(0))
        distances = [float((image - t).square().sum()) for t in TRAIN]
        assert torch.equal(rows["nearest in pixels"][i], TRAIN[distances.index(min(distances))])
        distances = [float((image[0, :2, :2] - t[0, :2, :2]).square().sum()) for t in TRAIN]
        assert torch.equal(rows["nearest in features"][i], TRAIN[distances.index(min(distances))])
        assert any(torch.equal(rows["random training image"][i], t) for t in TRAIN)
    assert all(row.shape == IMAGES.shape and 0 <= row.min() <= row.max() <= 1 for row in rows.values())
    assert "nearest in features" not in baselines(IMAGES, LABELS, TRAIN, TRAIN_LABELS)


def test_the_order_that_a_table_relies_on():
    """The nearest in pixels is the best that a training image can do; the mean is better than a random one."""
    coarse = torch.rand(63, 1, 2, 2, generator=seeded(2))
    pictures = nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear")
    rows = baselines(pictures[:3], torch.zeros(3), pictures[3:], torch.zeros(60))
    scores = {name: psnr(row, pictures[:3]) for name, row in rows.items()}
    assert scores["nearest in pixels"] > scores["class mean"] > scores["random training image"] > scores["noise"]
    assert scores["mean colour"] > scores["noise"]


def test_features_come_from_a_network_in_eval_mode(target):
    rows = baselines(TRAIN[:2], TRAIN_LABELS[:2], TRAIN, TRAIN_LABELS, features=target.features)
    assert torch.equal(rows["nearest in features"], TRAIN[:2])


def test_the_generator_decides():
    one, two, other = (baselines(IMAGES, LABELS, TRAIN, TRAIN_LABELS, generator=seeded(s)) for s in (0, 0, 1))
    assert torch.equal(one["noise"], two["noise"])
    assert not torch.equal(one["noise"], other["noise"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": LABELS[:4]}, r"labels must be one class for each of 5 images, not of shape \(4,\)"),
        ({"train_labels": LABELS}, "train_labels must be one class for each of 12"),
        ({"labels": LABELS + 2}, r"no training image of \[3, 4\]"),
        ({"train": TRAIN[..., :4]}, "images and train must have one shape"),
    ],
)
def test_what_does_not_fit_is_named(change, says):
    fitting = {"images": IMAGES, "labels": LABELS, "train": TRAIN, "train_labels": TRAIN_LABELS}
    with pytest.raises(ValueError, match=says):
        baselines(**fitting | change)


def test_a_judge_that_sees_a_class_in_noise_is_found_out(make_target):
    """One judge gives all noise to its third class and is sure; another has no preference."""
    biased = make_target()
    biased.module.head.weight.data.zero_()
    biased.module.head.bias.data = torch.tensor([0.0, 0.0, 9.0, 0.0])
    for row in noise_rate(biased, 40).values():
        assert row["commonest"] == 1
        assert row["confidence"] > 0.99
        assert row["rate"] == pytest.approx(0.25)
    assert noise_rate(biased, torch.full((10,), 2))["uniform"]["rate"] == 1
    biased.module.head.bias.data.zero_()
    assert noise_rate(biased, 40)["gaussian"]["confidence"] == pytest.approx(0.25)


def test_the_noises_are_what_they_are_called(make_target):
    seen = []

    class Watching(nn.Module):
        def forward(self, x):
            seen.append(x * 0.5 + 0.5)
            return x.mean((2, 3)) @ torch.ones(3, 4)

    spec = make_target().spec
    noise_rate(Target(Watching(), spec, "watching"), 200)
    uniform, gaussian, low = torch.cat(seen).split(200)[-3:]
    steps = [float(x.diff(dim=3).abs().mean() / x.std()) for x in (uniform, gaussian, low)]
    assert steps[2] < 0.5 * steps[0]
    assert float(gaussian.std()) < float(uniform.std())


@pytest.mark.parametrize(("labels", "says"), [(0, "at least 1, not 0"), ([7], r"labels \[7\]")])
def test_labels_that_a_judge_does_not_have(target, labels, says):
    with pytest.raises(ValueError, match=says):
        noise_rate(target, labels)
