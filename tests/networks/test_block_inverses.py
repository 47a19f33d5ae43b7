"""Inverse modules: their shapes, what they can undo exactly, and how the whole is kept."""

import json

import pytest
import torch
from torch import nn

from invkit.core.rng import seeded
from invkit.core.spec import ImageSpec
from invkit.core.target import Target
from invkit.networks.block_inverses import ConvInverse, LinearInverse, ResidualInverse, Signs, inverse_of
from invkit.networks.classifiers import build
from invkit.networks.inverse import ChainInverse
from invkit.partition.chain import Block, partition_network


def block(inputs, outputs, **options) -> Block:
    return Block(name="it", inputs=inputs, outputs=outputs, **options)


@pytest.mark.parametrize(
    ("kind", "one"),
    [
        (ConvInverse, block((3, 16, 16), (8, 16, 16))),
        (ConvInverse, block((3, 16, 16), (8, 8, 8), signed=False)),  # a stride of 2
        (ConvInverse, block((3, 15, 15), (8, 8, 8))),  # of an odd size
        (ConvInverse, block((3, 32, 32), (8, 8, 8))),  # a stride and a pool
        (ConvInverse, block((3, 14, 14), (8, 12, 12))),  # no padding
        (ConvInverse, block((3, 10, 20), (8, 5, 5))),
        (ConvInverse, block((3, 8, 8), (8, 16, 16))),  # a block that enlarges
        (ConvInverse, block((4, 8, 8), (8, 8, 8), depth=3)),
        (ResidualInverse, block((8, 8, 8), (8, 8, 8), residual=True)),
        (ResidualInverse, block((8, 8, 8), (16, 4, 4), residual=True, depth=2)),
        (ResidualInverse, block((8, 8, 8), (32, 4, 4), residual=True, width=8)),
        (LinearInverse, block((16, 4, 4), (10,))),
        (LinearInverse, block((2048, 7, 7), (1000,))),  # a full matrix would have 100 million weights
        (LinearInverse, block((12,), (10,), signed=False)),
    ],
)
def test_shapes_and_gradients(kind, one):
    inverse = inverse_of(one)
    assert type(inverse) is kind
    y = torch.randn(2, *one.outputs, requires_grad=True)
    out = inverse(y)
    assert out.shape == (2, *one.inputs)
    out.square().sum().backward()
    assert y.grad.abs().sum() > 0
    assert all(p.grad is not None for p in inverse.parameters())
    assert sum(p.numel() for p in inverse.parameters()) < 30e6


@pytest.mark.parametrize(
    "one",
    [
        block((3, 16, 16), (8, 4, 4)),  # two strides at once
        block((3, 15, 15), (8, 8, 8)),
        block((4, 16, 16), (8, 8, 8), residual=True),
        block((4, 16, 16), (8, 8, 8), residual=True, width=4),
    ],
)
def test_an_untrained_inverse_shows_no_grid(one):
    """All pixels that come out of one begin alike, and each can be learnt by itself."""
    inverse, s = inverse_of(one), -(-one.inputs[1] // one.outputs[1])
    with torch.no_grad():
        out = inverse.net(torch.rand(2, *one.outputs))
    enlarged = out[..., ::s, ::s].repeat_interleave(s, 2).repeat_interleave(s, 3)
    torch.testing.assert_close(out, enlarged[..., : one.inputs[1], : one.inputs[2]])
    assert out.std() > 0.01
    last = inverse.direct if isinstance(inverse, ConvInverse) else inverse.exit[0]
    inverse(torch.rand(2, *one.outputs)).square().mul(torch.rand(2, *one.inputs)).sum().backward()
    places = last.weight.grad.unflatten(0, (one.inputs[0], -1))
    assert float((places[:, 1:] - places[:, :1]).abs().max()) > 0


def test_what_cannot_be_undone_is_named():
    with pytest.raises(
        ValueError, match=r"no inverse for the block that ends at 'it', from \(3, 16, 16\) to \(17, 64\)"
    ):
        inverse_of(block((3, 16, 16), (17, 64)))


def test_signs_let_a_matrix_undo_a_leaky_relu():
    y = torch.randn(50, 3)
    undo = torch.cat((torch.eye(3), -10 * torch.eye(3)), 1)
    torch.testing.assert_close(Signs()(nn.functional.leaky_relu(y, 0.1)) @ undo.T, y)


def fitted(one: Block, forward: nn.Module, steps: int, u) -> float:
    """Mean absolute error of an inverse of ``forward``, relative to the inputs' own."""
    torch.manual_seed(0)
    inverse = inverse_of(one)
    with torch.no_grad():
        y = forward(u)
        inverse.measure(y, u)
    adam = torch.optim.Adam(inverse.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        adam.zero_grad()
        loss = (inverse(y) - u).abs().mean()
        loss.backward()
        adam.step()
        schedule.step()
    return float(loss.detach() / (u - u.mean()).abs().mean())


def test_an_invertible_linear_block_is_inverted():
    torch.manual_seed(1)
    rotation = nn.Conv2d(4, 4, 1)
    nn.init.orthogonal_(rotation.weight.view(4, 4))
    space_to_depth = nn.Sequential(nn.PixelUnshuffle(2), rotation)
    assert fitted(block((1, 8, 8), (4, 4, 4)), space_to_depth, 1200, torch.rand(8, 1, 8, 8)) < 0.02
    linear = nn.Linear(6, 6)
    nn.init.orthogonal_(linear.weight)
    assert fitted(block((6,), (6,)), linear, 1200, torch.randn(64, 6)) < 0.02


def test_scales_are_read_off_a_batch_and_dead_channels_do_no_harm():
    inverse = inverse_of(block((2, 4, 4), (3, 4, 4)))
    y, u = torch.randn(8, 3, 4, 4) * 100, torch.randn(8, 2, 4, 4) + 5
    y[:, 1] = 0
    inverse.measure(y, u)
    torch.testing.assert_close(inverse.shift_out.flatten(), u.mean((0, 2, 3)))
    torch.testing.assert_close(inverse.scale_out.flatten(), u.std((0, 2, 3), correction=0))
    torch.testing.assert_close(inverse.scale_in.flatten()[0], y[:, 0].square().mean().sqrt())
    assert inverse.scale_in.min() > 0.1
    out = inverse(y)
    assert out.isfinite().all()
    torch.testing.assert_close(inverse(y[:2]), out[:2])  # an image's inverse does not depend on its company


def test_a_residual_inverse_starts_from_what_it_is_given():
    inverse = inverse_of(block((4, 8, 8), (4, 8, 8), residual=True))
    y = torch.rand(2, 4, 8, 8)
    torch.testing.assert_close(inverse(y), y)


@pytest.fixture(scope="module")
def chain():
    spec = ImageSpec(channels=3, size=(16, 16), mean=(0.4,) * 3, std=(0.3,) * 3, classes=tuple("abcd"))
    return partition_network(Target(build("resnet20", spec, width=4, seed=0), spec, "resnet20"))


def test_the_whole_inverts_at_every_depth(chain):
    inverse = ChainInverse.untrained(chain, len(chain), seeded(0))
    features = chain.read(torch.rand(2, 3, 16, 16))
    for depth, feature in enumerate(features, start=1):
        images = inverse(feature, depth=depth)
        assert images.shape == (2, 3, 16, 16)
        assert 0 <= images.min() <= images.max() <= 1
    assert torch.equal(inverse(features[-1], seeded(0)), inverse(features[-1], depth=len(chain)))
    assert len(inverse.walk(features[4], 5)) == 5


def test_wrong_features_are_refused(chain):
    inverse = ChainInverse.untrained(chain, 5, seeded(0))
    with pytest.raises(ValueError, match=r"depth 5 \('layer2.0'\) have the shape \(8, 8, 8\), not \(4, 16, 16\)"):
        inverse(torch.rand(1, 4, 16, 16))
    for depth in (0, 6):
        with pytest.raises(ValueError, match=rf"depth must lie in 1..5, the blocks that are inverted, not {depth}"):
            inverse(torch.rand(1, 8, 8, 8), depth=depth)
    with pytest.raises(TypeError, match="depth=3"):
        inverse(torch.rand(1, 8, 8, 8), 3)  # the second place is the generator's, as in every inverse


def test_seed_and_global_state(chain):
    before = torch.get_rng_state()
    one, two, other = (ChainInverse.untrained(chain, 3, seeded(s)).state_dict() for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert any(not torch.equal(one[k], other[k]) for k in one)


def test_saved_and_loaded(chain, tmp_path):
    inverse = ChainInverse.untrained(chain, 5, seeded(0))
    features = chain.read(torch.rand(2, 3, 16, 16), 5)
    again = ChainInverse.load(inverse.save(tmp_path / "whole"))
    torch.testing.assert_close(again(features[4]), inverse(features[4]))
    assert (again.target, again.fingerprint) == ("resnet20", chain.target.fingerprint())
    assert not any(p.requires_grad for p in again.parameters())
    part = ChainInverse.load(inverse.save(tmp_path / "part", 2))
    torch.testing.assert_close(part(features[1]), inverse(features[1], depth=2))
    with pytest.raises(FileNotFoundError, match=r"no inverse in .*none"):
        ChainInverse.load(tmp_path / "none")
    record = json.loads((tmp_path / "part/inverse.json").read_text())
    record["parts"].pop()
    (tmp_path / "part/inverse.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"part.inverse.json is not the record of an inverse"):
        ChainInverse.load(tmp_path / "part")
