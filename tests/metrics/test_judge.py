"""The judge's scores, and the naive penalty that everything is compared with."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from invkit.core.device import saved_bytes
from invkit.core.spec import ImageSpec
from invkit.core.target import Target
from invkit.data.datasets import sample_photo
from invkit.data.images import quantise
from invkit.metrics.judge import Judge, roughness, statistics_penalty
from invkit.objectives.hooked_penalty import hooked_penalty
from invkit.show.tables import table

SPEC = ImageSpec(channels=2, size=(8, 8), mean=(0.4, 0.5), std=(0.2, 0.3), classes=("a", "b", "c"))


def network(norm: bool = True, seed: int = 0) -> Target:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4) if norm else nn.Identity(), nn.ReLU()]
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(144, 3))
    if norm:
        module[1].running_mean.normal_()
        module[1].running_var.uniform_(0.5, 2)
    return Target(module, SPEC)


def test_the_penalty_of_images_does_not_depend_on_chunks_and_is_the_naive_one():
    target, images = network(), torch.rand(11, 2, 8, 8)
    whole = statistics_penalty(target, images)
    for chunk in (1, 4, 11):
        assert statistics_penalty(target, images, micro_batch=chunk) == pytest.approx(whole, rel=1e-5)
    for keep in ("features", "statistics", "nothing"):
        assert float(hooked_penalty(target, images, keep=keep)) == pytest.approx(whole, rel=1e-5)
    with pytest.raises(ValueError, match="keep"):
        hooked_penalty(target, images, keep="everything")
    assert not target.module[1]._forward_pre_hooks, "hooks are gone"


def test_a_network_without_statistics_has_no_penalty():
    assert math.isnan(statistics_penalty(network(norm=False), torch.rand(3, 2, 8, 8)))


def test_the_judge_by_hand():
    target, verifier, real = network(), network(seed=1), torch.rand(30, 2, 8, 8)
    judge = Judge(target=target, verifiers={"other": verifier}, real=real)
    images, labels = torch.rand(30, 2, 8, 8), torch.arange(30) % 3
    scores = judge(images, labels)
    kept = quantise(images)
    assert scores["own"] == pytest.approx(float((target(kept).argmax(1) == labels).float().mean()))
    assert scores["other"] == pytest.approx(float((verifier(kept).argmax(1) == labels).float().mean()))
    assert judge(real, labels)["frechet"] < 0.01 < scores["frechet"], "real images are judged as they were rounded"
    assert judge(images / 100, labels)["frechet"] > scores["frechet"], "almost black images are further away"


def test_a_verifier_that_took_part_is_refused():
    target = network()
    with pytest.raises(ValueError, match="must not be the network"):
        Judge(target=target, verifiers={"self": target}, real=torch.rand(2, 2, 8, 8))
    with pytest.raises(ValueError, match="at least one"):
        Judge(target=target, verifiers={}, real=torch.rand(2, 2, 8, 8))


def test_roughness_by_hand():
    ramp = torch.arange(4.0).expand(1, 1, 4, 4) / 4
    assert roughness(ramp) == pytest.approx(0.25)
    assert roughness(torch.full((2, 3, 5, 5), 0.3)) == 0


def test_roughness_of_images_one_pixel_high_or_wide():
    """They have neighbours along one axis only, or none."""
    ramp = torch.arange(4.0).view(1, 1, 1, 4) / 4
    assert roughness(ramp) == roughness(ramp.mT) == pytest.approx(0.25)
    assert roughness(ramp[..., :1]) == 0


def test_saved_bytes_counts_each_storage_once():
    x = torch.rand(1000, requires_grad=True)
    # exp keeps its result, which the product keeps again; the product also keeps x.
    assert saved_bytes(lambda: x.exp() * x) == 2 * x.untyped_storage().nbytes()
    assert saved_bytes(lambda: x.detach().exp()) == 0


def test_photographs():
    photo = sample_photo("china", size=40, channels=1)
    assert photo.shape == (1, 1, 40, 40)
    assert 0 <= photo.min() < 0.3 < 0.7 < photo.max() <= 1
    with pytest.raises(ValueError, match="china and flower"):
        sample_photo("cat")


def test_tables_show_numbers_and_names():
    html = table({"first": {"score": 0.12345}, "second": {"score": float("nan")}}).to_html()
    assert "0.123" in html
    assert "first" in html
    assert "nan" not in html
    with pytest.raises(ValueError, match="no rows"):
        table({})


def test_the_judge_hands_images_to_the_verifiers_device():
    """Features are read on the verifier's device, whatever the images' is."""
    judge = Judge(target=network(), verifiers={"other": network(seed=1)}, real=torch.rand(4, 2, 8, 8))
    seen = []
    judge.verifiers["other"].features = lambda images: seen.append(images.device) or images.flatten(1)
    judge._features(torch.rand(4, 2, 8, 8))
    assert seen == [judge.verifiers["other"].device]
    with pytest.raises(ValueError, match="channels"):
        judge._features(torch.rand(4, 3, 8, 8))


def test_no_images_and_networks_in_train_mode_are_refused():
    target = network()
    with pytest.raises(ValueError, match="images"):
        statistics_penalty(target, torch.rand(0, 2, 8, 8))
    target.module[1].train()
    with pytest.raises(ValueError, match="train mode"):
        statistics_penalty(target, torch.rand(2, 2, 8, 8))
