"""Metrics against values found by hand, their invariants, and what they say of an absent network."""

import math
import sys
from typing import Any
from urllib.error import URLError

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from invkit.core.rng import seeded
from invkit.core.spec import ImageSpec
from invkit.core.target import Target
from invkit.metrics import quality
from invkit.metrics.quality import (
    MissingWeightsError,
    accuracy,
    diversity,
    frechet_distance,
    in_batches,
    inception_score,
    probabilities,
    psnr,
    saturated_fraction,
    ssim,
)


def as_logits(images: Tensor) -> Tensor:
    return images.flatten(1)


def test_accuracy_by_hand() -> None:
    images = torch.tensor([[9.0, 5, 1], [5, 9, 1], [1, 5, 9], [9, 5, 1]]).view(4, 3, 1, 1)
    labels = [0, 0, 0, 0]
    assert accuracy(as_logits, images, labels, topk=(1, 2)) == {"top1": 0.5, "top2": 0.75}
    assert accuracy(as_logits, images, labels, batch_size=3) == {
        "top1": 0.5,
        "top5": 1.0,
    }  # five of three classes
    assert accuracy(as_logits, images.byte(), torch.tensor(labels))["top1"] == 0.5  # bytes are scaled, order stays


@pytest.mark.parametrize(
    ("labels", "topk", "says"),
    [
        ([0, 0], (1,), "3 images but 2 labels"),
        ([0, 1, 3], (1,), r"verifier knows 0\.\.2"),
        ([0, 0, 0], (0,), "topk"),
        ([0.0, 1.0, 1.0], (1,), "labels must be class indices"),
        ([True, False, True], (1,), "labels must be class indices"),
        ([[0], [1], [2]], (1,), "labels must be class indices"),
        ("abc", (1,), "labels must be class indices"),
        (None, (1,), "labels must be class indices"),
    ],
)
def test_accuracy_errors(labels: Any, topk: tuple[int, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        accuracy(as_logits, torch.rand(3, 3, 1, 1), labels, topk)
    with pytest.raises(ValueError, match="images must"):
        accuracy(as_logits, torch.rand(0, 3, 1, 1), [])


def test_a_target_names_the_size_it_takes() -> None:
    spec = ImageSpec(channels=1, size=(4, 4), mean=(0.5,), std=(0.5,), classes=("a", "b"))
    target = Target(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)), spec)
    assert 0 <= accuracy(target, torch.rand(3, 1, 4, 4), [0, 1, 0])["top1"] <= 1
    with pytest.raises(ValueError, match=r"\(5, 4\) pixels; the network takes \(4, 4\)"):
        accuracy(target, torch.rand(3, 1, 5, 4), [0, 1, 0])


def test_a_network_in_train_mode_is_judged_in_eval_mode_and_left_alone() -> None:
    network = torch.nn.Sequential(
        torch.nn.BatchNorm2d(3), torch.nn.Dropout(), torch.nn.Flatten(), torch.nn.Linear(48, 2)
    )
    network[2].eval()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.rand(6, 3, 4, 4, generator=seeded(0))
    logits = in_batches(network, images, batch_size=4)
    assert torch.equal(logits, in_batches(network, images, batch_size=4))
    assert 0 <= accuracy(network, images, [0] * 6)["top1"] <= 1
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    assert [module.training for module in network] == [True, True, False, True]
    torch.testing.assert_close(logits, network.eval()(images).detach())


def test_inception_score_by_hand() -> None:
    assert inception_score(torch.eye(10).repeat(3, 1)) == pytest.approx((10, 0))
    assert inception_score(torch.full((8, 4), 0.25), splits=2) == pytest.approx((1, 0))
    assert inception_score(torch.eye(4)[[1, 1, 1]]) == pytest.approx((1, 0))
    two = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    by_hand = math.exp(0.5 * (math.log(1 / 0.75) + 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)))
    assert inception_score(two)[0] == pytest.approx(by_hand)
    mixed = torch.cat((torch.eye(2), torch.eye(2)[[0, 0]]))
    assert inception_score(mixed, splits=2) == pytest.approx((1.5, 0.5))
    images = 60 * torch.eye(3).view(3, 3, 1, 1)
    assert inception_score(as_logits, images)[0] == pytest.approx(3)
    torch.testing.assert_close(probabilities(as_logits, images), torch.eye(3, dtype=torch.float64))


def test_inception_score_errors() -> None:
    with pytest.raises(ValueError, match="rows sum to 1"):
        inception_score(torch.ones(3, 3))
    with pytest.raises(ValueError, match="splits"):
        inception_score(torch.eye(3), splits=4)
    with pytest.raises(ValueError, match="images"):
        inception_score(as_logits)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 30), c=st.integers(2, 8), seed=st.integers(0, 99))
def test_inception_score_lies_between_one_and_the_number_of_classes(n: int, c: int, seed: int) -> None:
    chances = (4 * torch.randn(n, c, generator=seeded(seed))).softmax(1)
    assert 1 - 1e-6 <= inception_score(chances)[0] <= c + 1e-6


def whitened(n: int, d: int) -> Tensor:
    """Samples with mean exactly 0 and covariance exactly 1."""
    x = torch.randn(n, d, generator=seeded(n), dtype=torch.float64)
    x = x - x.mean(0)
    return torch.linalg.qr(x).Q * math.sqrt(n - 1)


def test_frechet_distance_of_known_gaussians() -> None:
    x = whitened(50, 3)
    scale, shift = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([3.0, 0.0, 4.0]).double()
    assert frechet_distance(x, x + shift) == pytest.approx(25)
    assert frechet_distance(x, x * scale) == pytest.approx(0 + 1 + 4)  # sum of (s_a - s_b)^2 for commuting covariances
    mixing = torch.tensor([[2.0, 1, 0], [0, 1, 1], [0, 0, 1]]).double()
    covariance = mixing.T @ mixing
    root = torch.linalg.eigvalsh(covariance).sqrt().sum()  # tr (1 * C)^(1/2)
    assert frechet_distance(x, x @ mixing) == pytest.approx(float(3 + covariance.trace() - 2 * root))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 12), m=st.integers(2, 12), d=st.integers(1, 20), seed=st.integers(0, 99))
def test_frechet_distance_invariants(n: int, m: int, d: int, seed: int) -> None:
    g = seeded(seed)
    a, b = torch.randn(n, d, generator=g), 2 * torch.randn(m, d, generator=g) + 1
    rotation = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64)).Q
    there = frechet_distance(a, b)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)  # fewer samples than dimensions as well
    assert there == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert there == pytest.approx(frechet_distance(a.double() @ rotation, b.double() @ rotation), rel=1e-6)
    assert there >= float((a.double().mean(0) - b.double().mean(0)).square().sum()) - 1e-9


def test_frechet_distance_errors() -> None:
    with pytest.raises(ValueError, match="of one D"):
        frechet_distance(torch.rand(5, 3), torch.rand(5, 4))
    with pytest.raises(ValueError, match="two or more"):
        frechet_distance(torch.rand(1, 3), torch.rand(5, 3))
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(torch.full((3, 2), math.nan), torch.rand(5, 2))


def test_psnr_and_ssim_by_hand() -> None:
    black = torch.zeros(2, 3, 16, 16)
    images = torch.stack((torch.full((3, 16, 16), 0.1), torch.full((3, 16, 16), 0.01)))
    assert psnr(black, images) == pytest.approx((20 + 40) / 2, abs=1e-3)
    assert psnr(images, images) == math.inf
    photo = torch.rand(2, 1, 16, 16, generator=seeded(0))
    assert ssim(photo, photo) == pytest.approx(1)
    assert ssim(photo, 1 - photo) < 0
    flat = ssim(torch.full((1, 1, 16, 16), 0.2).double(), torch.full((1, 1, 16, 16), 0.6).double())
    assert flat == pytest.approx((2 * 0.2 * 0.6 + 1e-4) / (0.04 + 0.36 + 1e-4), rel=1e-4)  # only the means differ
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(photo[..., :8, :8], photo[..., :8, :8])
    with pytest.raises(ValueError, match="equal shapes"):
        psnr(photo, images)


def test_diversity_by_hand() -> None:
    points = torch.tensor([[0.0, 0], [3, 4], [0, 0], [0, 1]])
    found = diversity(points, torch.tensor([0, 0, 1, 1]))
    assert found["within"] == pytest.approx((5 + 1) / 2)
    pairs = [5, 0, 1, 5, math.sqrt(18), 1]
    assert found["all"] == pytest.approx(sum(pairs) / 6)
    copies = torch.full((600, 7), 0.3)
    assert diversity(copies)["all"] == pytest.approx(0, abs=1e-6)
    assert math.isnan(diversity(points, torch.arange(4))["within"])
    with pytest.raises(ValueError, match="at least 2"):
        diversity(points[:1])
    with pytest.raises(ValueError, match="4 features but 3 labels"):
        diversity(points, torch.arange(3))


def test_saturated_fraction_by_hand() -> None:
    assert saturated_fraction(torch.tensor([0.0, 0.5, 1.0, 0.999])) == 0.75


def offline(*_: Any, **__: Any) -> None:
    raise URLError("no route to host")


def test_absent_networks_say_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    images = torch.rand(2, 3, 64, 64)
    with pytest.raises(MissingWeightsError, match="LPIPS needs the weights of its backbone alex"):
        quality.lpips_distance(images, images)
    pytest.importorskip("torch_fidelity")
    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", offline)
    with pytest.raises(MissingWeightsError, match="FID needs Inception v3's weights"):
        quality.fid(images, images)


def test_absent_package_and_wrong_images(monkeypatch: pytest.MonkeyPatch) -> None:
    grey, colour = torch.rand(2, 1, 64, 64), torch.rand(2, 3, 64, 64)
    with pytest.raises(ValueError, match="RGB"):
        quality.fid(grey, grey)
    with pytest.raises(ValueError, match="backbone"):
        quality.lpips_distance(colour, colour, backbone="resnet")
    monkeypatch.setattr("torchmetrics.image.fid._TORCH_FIDELITY_AVAILABLE", False)
    with pytest.raises(MissingWeightsError, match="torch-fidelity"):
        quality.fid(colour, colour)


def test_lpips_of_grey_and_colour_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stub:
        def __init__(self, **_: Any) -> None: ...

        def __call__(self, a: Tensor, b: Tensor, normalize: bool) -> Tensor:
            assert normalize
            assert a.shape[1] == b.shape[1] == 3
            return (a - b).abs().mean((1, 2, 3), keepdim=True)

    monkeypatch.setitem(sys.modules, "lpips", type(sys)("lpips"))
    sys.modules["lpips"].LPIPS = Stub  # type: ignore[attr-defined]
    for channels in (1, 3):
        black, white = torch.zeros(3, channels, 8, 8), torch.ones(3, channels, 8, 8)
        assert quality.lpips_distance(black, white, batch_size=2).tolist() == [1, 1, 1]
