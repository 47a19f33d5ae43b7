"""Generators taken apart and run backwards: shapes, a linear one undone, training, resuming, refusals."""

import functools

import pytest
import torch
from torch import nn

from invkit.core.rng import seeded
from invkit.core.spec import ImageSpec, LatentSpec
from invkit.core.target import GeneratorTarget
from invkit.methods.dci import DCI, DCIConfig, divide_and_conquer
from invkit.metrics.latent import (
    code_error,
    error_along,
    interpolate_codes,
    path_lengths,
    refine_codes,
    reproject,
    visible_directions,
)
from invkit.networks.block_inverses import CodeInverse, ConvInverse, ResidualInverse, inverse_of
from invkit.networks.gan import GANGenerator
from invkit.networks.inverse import ChainInverse
from invkit.partition.chain import Block, partition_network
from invkit.partition.feature_store import FeatureStore

QUICK = DCIConfig(
    steps=6, fine_tune_steps=4, restarts=1, batch_size=4, lr=4e-3, means=True, checkpoint_every=2, log_every=2
)


def generator_of(size=16, channels=1, latent=6, width=2):
    spec = ImageSpec(
        channels=channels, size=(size, size), mean=(0.5,) * channels, std=(0.5,) * channels, classes=("a",)
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GANGenerator.build(spec, latent=latent, width=width)


def names_of(generator):
    return [name for name, _ in generator.named_children()]


@pytest.fixture(scope="module")
def chain():
    generator = generator_of()
    return partition_network(GeneratorTarget(generator), names_of(generator))


@pytest.fixture(scope="module")
def codes(chain):
    return chain.target.spec.sample(48, seeded(0))


def same(one, two):
    one, two = one.state_dict(), two.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


# ---- codes as inputs


@pytest.mark.parametrize(("size", "channels"), [(16, 1), (28, 3), (32, 3)])
def test_the_shapes_of_all_blocks_and_their_inverses(size, channels):
    generator = generator_of(size, channels)
    chain = partition_network(GeneratorTarget(generator), names_of(generator))
    assert chain.blocks[0].inputs == (6,)
    assert chain.blocks[-1].outputs == (channels, size, size)
    kinds = [CodeInverse, *[ResidualInverse] * (len(chain) - 2), ConvInverse]
    inverse, codes = ChainInverse.untrained(chain, len(chain), seeded(0)), torch.randn(3, 6, generator=seeded(1))
    for block, features, back, kind in zip(chain.blocks, chain.read(codes), inverse.blocks, kinds, strict=True):
        assert isinstance(back, kind)
        assert features.shape == (3, *block.outputs)
        assert back(features).shape == (3, *block.inputs)
    assert inverse(features).shape == (3, 6)


def test_the_default_cut_is_found_by_trying():
    chain = partition_network(GeneratorTarget(generator_of()))
    assert chain.names == ("linear.1", "block1", "output.conv:input", "output.conv")


def test_codes_are_not_cut_to_the_range_of_pixels(chain):
    inverse = ChainInverse.untrained(chain, 1, seeded(0))
    inverse.blocks[0].shift_out.fill_(7.0)
    assert inverse(torch.zeros(2, *chain.blocks[0].outputs)).mean() > 5


def test_an_enlarging_block_is_undone_without_loss_of_pixels():
    inverse = inverse_of(Block(name="it", inputs=(2, 4, 4), outputs=(3, 8, 8)))
    y = torch.zeros(1, 3, 8, 8)
    where = []
    for pixel in range(4):
        y.zero_()[0, 0, 2 + pixel // 2, 2 + pixel % 2] = 1
        where.append(inverse.shrink(inverse.open(y)).nonzero().tolist())
    assert len({str(w) for w in where}) == 4  # four pixels of one place stay apart
    assert all(w[0][2:] == [1, 1] for w in where)


def test_a_store_of_codes(chain, codes):
    store = FeatureStore(chain, codes, batch_size=16)
    z, *features = store.batch(torch.tensor([5, 1]))
    assert torch.equal(z, codes[[5, 1]])
    torch.testing.assert_close(features[-1], chain.target(z))


# ---- training


def test_the_means_of_each_term(chain, codes):
    inverse = ChainInverse.untrained(chain, 2, seeded(0))
    u1, u2 = (f.detach() for f in chain.read(codes, 2))
    back1 = inverse.blocks[1](u2)
    back0 = inverse.blocks[0](back1)
    terms = DCI(chain, inverse, 2, QUICK, alpha=0.5).losses([codes, *chain.read(codes)])
    torch.testing.assert_close(terms["layer"], (u1 - back1).abs().mean())
    torch.testing.assert_close(terms["image"], (codes - back0).abs().mean())
    apart = [(u - v).abs().mean() for u, v in zip(chain.read(codes), chain.read(back0), strict=True)]
    torch.testing.assert_close(terms["cycle"], 0.5 * sum(apart))


class Linear(nn.Module):
    """Two linear steps from a code to an image, the second one enlarging."""

    latent = 4

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 8 * 16), nn.Unflatten(1, (8, 4, 4)))
        self.second = nn.ConvTranspose2d(8, 1, 2, stride=2)

    def forward(self, z):
        return self.second(self.first(z))


def test_a_linear_generator_is_inverted_almost_exactly():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        target = GeneratorTarget(Linear())
    config = DCIConfig(
        steps=200, fine_tune_steps=400, restarts=0, batch_size=32, lr=1e-2, fine_tune_lr=4e-3, means=True
    )
    inverse, _ = divide_and_conquer(
        partition_network(target, ["first", "second"]), target.spec.sample(256, seeded(0)), config, generator=seeded(1)
    )
    fresh = target.spec.sample(64, seeded(2))
    found, again = reproject(target, inverse, target(fresh))
    assert code_error(fresh, found) < 2e-3
    assert float((again - target(fresh)).abs().max()) < 0.2 * float(target(fresh).std())


def test_training_brings_the_codes_nearer():
    generator = generator_of(latent=3, width=4)
    chain = partition_network(GeneratorTarget(generator), names_of(generator))
    codes, fresh = (chain.target.spec.sample(n, seeded(n)) for n in (256, 64))
    before = ChainInverse.untrained(chain, 4, seeded(0))
    config = DCIConfig.for_generator("book", steps=30, fine_tune_steps=60)
    after, how = divide_and_conquer(chain, codes, config, generator=seeded(0))
    errors = [code_error(fresh, reproject(chain.target, e, chain.target(fresh))[0]) for e in (before, after)]
    assert errors[1] < 0.9 * errors[0]
    assert [stage.depth for stage in how.stages] == [1, 2, 3, 4]


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [3, 8, 22])
def test_resuming_gives_the_same_bits(chain, codes, tmp_path, at):
    run = functools.partial(divide_and_conquer, chain, codes[:12], QUICK)
    whole, _ = run(generator=seeded(3))
    calls = 0

    def kill(step):
        nonlocal calls
        calls += 1
        if calls == at + 1:
            raise Killed

    with pytest.raises(Killed):
        run(generator=seeded(3), checkpoint=tmp_path, callbacks=[kill])
    again, _ = run(generator=seeded(3), checkpoint=tmp_path)
    assert same(whole, again)
    assert same(ChainInverse.load(tmp_path / "stage_04"), whole)


# ---- what recovered codes are worth


def test_visible_directions_by_hand():
    class Stretch(nn.Module):
        def forward(self, z):
            return (z * torch.tensor([3.0, 0.5])).view(-1, 1, 1, 2)

    target, codes = GeneratorTarget(Stretch(), LatentSpec(2)), torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    values, directions = visible_directions(target, codes)
    torch.testing.assert_close(values, torch.tensor([[3.0, 0.5]] * 2))
    torch.testing.assert_close(directions.abs(), torch.eye(2).expand(2, 2, 2))
    found = codes * torch.tensor([1.0, 0.5])
    torch.testing.assert_close(error_along(codes, found, directions), torch.tensor([0.0, 1.25 / 6]))
    assert code_error(codes, found) == pytest.approx(1.25 / 6)
    again = refine_codes(target, found, target(codes), steps=200)
    assert code_error(codes, again) < 1e-4


def test_ways_between_codes_by_hand():
    way = interpolate_codes(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]), 6)
    length, largest = path_lengths(way)
    torch.testing.assert_close(length, torch.tensor([5.0]))
    torch.testing.assert_close(largest, torch.tensor([0.2]))
    jump = torch.tensor([0.0, 0.0, 2.0, 2.0]).view(4, 1, 1)
    assert path_lengths(jump)[1].item() == 1


# ---- refusals


def test_errors_in_one_sentence(chain, codes):
    with pytest.raises(ValueError, match="codes have 5 entries; the generator takes 6"):
        chain.read(torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"codes must be a float tensor \(N, 6\), not .* \(2, 1, 16, 16\)"):
        chain.read(torch.zeros(2, 1, 16, 16))
    with pytest.raises(ValueError, match="codes must be finite"):
        divide_and_conquer(chain, codes * torch.inf, QUICK)
    with pytest.raises(ValueError, match="at least one entry, not 0"):
        LatentSpec(0)
    with pytest.raises(ValueError, match=r"does not name its latent; pass LatentSpec\(size\)"):
        GeneratorTarget(nn.Linear(4, 2), name="bare")
    with pytest.raises(ValueError, match=r"answers a code with \(1, 2\), not with an image"):
        GeneratorTarget(nn.Linear(4, 2), LatentSpec(4))
    with pytest.raises(ValueError, match="does not take codes of 3 entries"):
        GeneratorTarget(generator_of(), LatentSpec(3))
    with pytest.raises(ValueError, match="frozen in eval mode"):
        chain.target.train()
    with pytest.raises(ValueError, match="one shape are needed"):
        code_error(codes, codes[:2])
    with pytest.raises(ValueError, match="there are 48 codes for 2 images"):
        refine_codes(chain.target, codes, torch.zeros(2, 1, 16, 16))
    with pytest.raises(ValueError, match="two steps and equal shapes"):
        interpolate_codes(codes, codes, 1)


def test_fingerprints_differ():
    one, two = GeneratorTarget(generator_of()), GeneratorTarget(generator_of(width=3))
    assert one.fingerprint() == GeneratorTarget(generator_of()).fingerprint() != two.fingerprint()
