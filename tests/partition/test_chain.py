"""Cutting networks into chains: what is proposed, that it is proved, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from invkit.core.spec import ImageSpec
from invkit.core.target import Target
from invkit.networks.classifiers import build, fuse
from invkit.partition.chain import partition_network

SPEC = ImageSpec(channels=3, size=(16, 16), mean=(0.4,) * 3, std=(0.3,) * 3, classes=tuple("abcd"))


def made(module: nn.Module, name: str = "net") -> Target:
    return Target(module, SPEC, name)


def cifar(name: str) -> Target:
    return made(build(name, SPEC, width=4, seed=0), name)


def test_a_block_is_a_layer_with_its_norm_activation_and_pool():
    convolutions = [f"features.{k}" for k in (2, 5, 8, 11, 14, 17)]
    assert partition_network(cifar("bn_cnn")).names == (*convolutions, "head.3", "head.5")
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 49, 4)]
    assert partition_network(made(nn.Sequential(*layers))).names == ("2", "4")


def test_residual_blocks_are_units_and_functions_between_modules_are_seen():
    chain = partition_network(cifar("resnet20"))
    blocks = [f"layer{s}.{k}" for s in (1, 2, 3) for k in range(3)]
    assert chain.names == ("layer1.0:input", *blocks, "linear")  # the ReLU before the first block is a function
    assert [b.residual for b in chain.blocks] == [False, *[True] * 9, False]
    assert chain.blocks[0].signed is False
    assert chain.blocks[-1].inputs == (16, 4, 4)  # the global pooling belongs to the linear layer
    assert chain.blocks[-1].outputs == (4,)


def test_repvgg_is_cut_at_its_convolutions_fused_or_not():
    network = build("repvgg_tiny", SPEC, width=4, seed=0).eval()
    two = [partition_network(made(n)) for n in (network, fuse(network))]
    assert [len(chain) for chain in two] == [7, 7]
    assert two[0].names == (*(f"blocks.{k}" for k in range(6)), "linear")
    assert two[0].blocks == tuple(b for b in two[0].blocks if not b.residual)


def test_transformers_are_cut_at_their_blocks():
    assert {f"blocks.{k}" for k in range(3)} < set(partition_network(made(build("vit_tiny", SPEC, seed=0))).names)


def test_the_blocks_one_after_another_are_the_network():
    target = cifar("resnet20")
    chain = partition_network(target)
    images = torch.rand(3, *SPEC.shape)
    features = chain.read(images)
    torch.testing.assert_close(features[-1], target(images))
    for k in range(2, len(chain) + 1):
        assert torch.equal(chain.step(k, features[k - 2], torch.rand_like(images)), features[k - 1])
    assert len(chain.read(images, 2)) == 2
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in target.modules())


def test_gradients_reach_the_images_and_no_weight():
    target = cifar("bn_cnn")
    images = torch.rand(2, *SPEC.shape, requires_grad=True)
    sum(u.sum() for u in partition_network(target).read(images)).backward()
    assert images.grad.abs().sum() > 0
    assert all(p.grad is None for p in target.parameters())


def test_activations_in_place_do_not_reach_the_features():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4 * 144, 4)]
    chain = partition_network(made(nn.Sequential(*layers)), ["0", "2", "4"])
    images = torch.rand(2, *SPEC.shape)
    first = chain.read(images)[0]
    torch.testing.assert_close(first, chain.read(images, 1)[0])
    assert first.min() < 0
    assert chain.blocks[0].signed


class Growing(nn.Module):
    """Features of another shape in every call."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.calls = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), 0

    def forward(self, x):
        self.calls += 1
        return self.last(F.interpolate(self.first(x), scale_factor=1 + self.calls % 3)).mean((2, 3))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 4)

    def forward(self, x):
        return self.head(self.conv(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize(
    ("network", "cut", "says"),
    [
        ("resnet20", ["layer1.0.bn1", "linear"], r"resnet20 is not a chain: .*'linear' .*'layer1.0.bn1' alone"),
        ("resnet20", ["layer2", "layer1"], r"never reached \['layer2'\] before 'layer1'|not a chain|out of order"),
        ("resnet20", ["layer9"], r"resnet20 has no layer to cut at named \['layer9'\]"),
        ("resnet20", [], "no layer to cut at"),
        ("resnet20", ["layer1", "layer1"], r"names \['layer1'\] twice"),
        (Growing, ["last", "last"], "twice"),
        (Growing, ["last:input", "last"], "the shape at the cut 'last:input' of net changes between calls"),
        (Twice, ["conv", "head"], "'conv' of net is reached more than once"),
    ],
)
def test_what_is_refused(network, cut, says):
    torch.manual_seed(0)
    target = cifar(network) if isinstance(network, str) else made(network())
    with pytest.raises(ValueError, match=says):
        partition_network(target, cut)


def test_other_images_are_refused():
    chain = partition_network(cifar("bn_cnn"))
    with pytest.raises(ValueError, match=r"\(8, 8\) pixels; the network takes \(16, 16\)"):
        chain.read(torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"depth must lie in 1..8, the blocks of bn_cnn, not 9"):
        chain.read(torch.rand(1, 3, 16, 16), 9)
