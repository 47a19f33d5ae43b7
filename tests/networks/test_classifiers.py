"""Classifiers: shapes, the option-A shortcut by hand, fusing, seeds, published weights."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from invkit.core.spec import ImageSpec
from invkit.core.target import Target
from invkit.networks.classifiers import ResidualBlock, build, fuse, names, patch_size
from invkit.networks.loading import load_target

DATA = Path(os.environ.get("INVKIT_DATA", ""))


def spec(channels: int = 1, size: tuple[int, int] = (16, 16), classes: int = 3) -> ImageSpec:
    return ImageSpec(
        channels=channels,
        size=size,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        classes=tuple("abcdefghij"[:classes]),
    )


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (3, (16, 16)), (1, (28, 28)), (3, (12, 20))])
def test_logits_gradients_and_features(name: str, channels: int, size: tuple[int, int]) -> None:
    net = build(name, spec(channels, size), seed=0)
    assert net.training
    net(torch.rand(2, channels, *size)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    target = Target(net, spec(channels, size))
    images = torch.rand(2, channels, *size)
    assert target(images).shape == (2, 3)
    last = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]
    torch.testing.assert_close(last(target.features(images)), target(images))


@pytest.mark.parametrize("name", names())
def test_width_sets_the_size_and_seed_the_weights(name: str) -> None:
    count = [sum(p.numel() for p in build(name, spec(), width=w).parameters()) for w in (8, 16)]
    assert count[0] < count[1]
    before = torch.get_rng_state()
    one, same, other = (build(name, spec(), width=8, seed=s) for s in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    pairs = list(zip(one.parameters(), same.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)


def test_batch_norm_is_there_or_not() -> None:
    norms = {n: sum(isinstance(m, nn.BatchNorm2d) for m in build(n, spec(), width=8).modules()) for n in names()}
    assert norms["bn_cnn"] == 6
    assert norms["plain_cnn"] == 0
    assert norms["vit_tiny"] == norms["mixer_tiny"] == 0
    assert [norms[f"resnet{d}"] for d in (20, 32, 44, 56)] == [19, 31, 43, 55]  # every layer but the last


def test_option_a_shortcut_by_hand() -> None:
    block = ResidualBlock(2, 4, stride=2).eval()
    nn.init.zeros_(block.conv2.weight)  # the residual branch is silent: what remains is relu(shortcut)
    x = torch.rand(1, 2, 4, 4)
    expected = torch.zeros(1, 4, 2, 2)
    expected[:, 1:3] = x[:, :, ::2, ::2]
    torch.testing.assert_close(block(x), expected)


def test_fused_repvgg_gives_equal_outputs_and_leaves_the_original() -> None:
    net = build("repvgg_tiny", spec(3), width=8, seed=0)
    for _ in range(3):  # running statistics other than (0, 1)
        net(torch.randn(16, 3, 16, 16) * 2 + 1)
    net = net.double()
    plain = fuse(net)
    assert net.training
    assert not plain.training
    assert not any(isinstance(m, nn.BatchNorm2d) for m in plain.modules())
    assert sum(isinstance(m, nn.Conv2d) for m in plain.modules()) == 6
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(plain(images), net.eval()(images), rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="no parallel branches"):
        fuse(build("bn_cnn", spec()))


def test_patch_divides_both_sides() -> None:
    for size in ((8, 8), (16, 16), (28, 28), (30, 45), (31, 31)):
        assert all(side % patch_size(size) == 0 for side in size)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"no network 'resnet21'.*bn_cnn.*mixer_tiny"):
        build("resnet21", spec())
    with pytest.raises(ValueError, match="at least 8x8"):
        build("bn_cnn", spec(size=(7, 16)))
    with pytest.raises(ValueError, match="width"):
        build("bn_cnn", spec(), width=0)
    with pytest.raises(ValueError, match="dropout"):
        build("resnet20", spec(), dropout=0.1)
    with pytest.raises(ValueError, match="dropout"):
        build("bn_cnn", spec(), dropout=1.0)


@pytest.mark.skipif(
    not (DATA / "weights" / "cifar10_resnet20.safetensors").is_file(),
    reason="INVKIT_DATA has no CIFAR-10 weights",
)
@pytest.mark.parametrize(("name", "least"), [("resnet20", 0.90), ("resnet44", 0.92)])
def test_published_cifar_weights_reach_their_accuracy(name: str, least: float) -> None:
    weights = DATA / "weights" / f"cifar10_{name}.safetensors"
    target = load_target(f"invkit/{name}", weights=weights)
    assert target.spec.classes == tuple(json.loads(weights.with_suffix(".json").read_text())["classes"])
    with np.load(DATA / "cifar10_4600.npz") as file:
        images = torch.from_numpy(file["test_images"][:400]).permute(0, 3, 1, 2).float() / 255
        labels = torch.from_numpy(file["test_labels"][:400]).long()
    with torch.no_grad():
        assert (target(images).argmax(1) == labels).double().mean() >= least
