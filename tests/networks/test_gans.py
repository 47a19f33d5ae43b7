"""GANs: blocks, hinge losses and steps by hand, training on digits, resuming to the same bits."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from invkit.core.results import DivergedError
from invkit.core.rng import seeded
from invkit.core.spec import ImageSpec
from invkit.data.datasets import load_data
from invkit.engine.gan import GANConfig, GANLearner, load_or_train_gan, train_gan
from invkit.networks.gan import ConditionalBatchNorm2d, Discriminator, GANGenerator, GeneratorBlock
from invkit.objectives.losses import hinge_discriminator, hinge_generator

TINY = GANConfig.for_profile("ci", steps=6, checkpoint_every=2)


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", limit=80)


def spec_of(size=16, channels=1):
    size = (size, size) if isinstance(size, int) else size
    return ImageSpec(channels=channels, size=size, mean=(0.5,) * channels, std=(0.5,) * channels, classes=("a", "b"))


def networks(spec, seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GANGenerator.build(spec, latent=6, width=4, **options), Discriminator(spec, width=4)


def learner_on(data, seed=0, **change):
    config = GANConfig.for_profile("ci", latent=6, **change)
    return GANLearner(*networks(data.spec), config, draws=seeded(seed))


def batch_of(data, size=16):
    return data.train.images[:size], data.train.labels[:size]


# ---- networks


@pytest.mark.parametrize(("size", "grid", "blocks"), [(16, 4, 2), (28, 7, 2), (32, 4, 3), (128, 4, 5)])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_and_ranges(size, grid, blocks, channels):
    spec = spec_of(size, channels)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator, discriminator = GANGenerator.build(spec, latent=6, width=1), Discriminator(spec, width=1)
    images = generator(torch.randn(2, 6, generator=seeded(0)))
    assert images.shape == (2, channels, size, size)
    assert 0 < images.min() < images.max() < 1
    assert discriminator(images).shape == (2,)
    names = ["linear", *(f"block{i + 1}" for i in range(blocks)), "output"]
    assert [name for name, _ in generator.named_children()] == names
    assert generator.linear(torch.zeros(1, 6)).shape[2:] == (grid, grid)
    assert generator.latent == 6


def test_the_published_widths_at_128_pixels():
    with torch.device("meta"):
        generator = GANGenerator.build(spec_of(128, 3))
    assert [generator.linear[0].out_features // 16] == [1024]
    blocks = [block for block in generator if isinstance(block, GeneratorBlock)]
    assert [block.conv1.out_channels for block in blocks] == [1024, 512, 256, 128, 64]
    # Dong et al., section 4.2: 17 layers, one fully connected, one last convolution, three in each of five blocks.
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in generator.modules()) == 17


def test_a_generator_is_the_chain_of_its_blocks():
    generator, _ = networks(spec_of())
    generator.eval()
    x = z = torch.randn(3, 6, generator=seeded(0))
    for _, block in generator.named_children():
        x = block(x)
    assert torch.equal(generator(z), x)
    torch.testing.assert_close(generator[2:](generator[:2](z)), x)


def test_a_generator_block_by_hand():
    block = GeneratorBlock(2, 3).eval()
    x = torch.randn(2, 2, 4, 4, generator=seeded(0))
    up = partial(F.interpolate, scale_factor=2, mode="nearest")
    out = block.conv2(F.relu(block.norm2(block.conv1(up(F.relu(block.norm1(x)))))))
    torch.testing.assert_close(block(x), out + block.shortcut(up(x)))


def test_sizes_that_no_generator_gives():
    for size in (9, (16, 9), 6, 18):
        with pytest.raises(ValueError, match="take 8, 16, 32, 64 or 128"):
            GANGenerator.build(spec_of(size))


def test_spectral_norms_are_one():
    _, discriminator = networks(spec_of())
    for _ in range(30):
        discriminator(torch.rand(2, 1, 16, 16))
    layers = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 3 + 3 + 2 + 1
    for layer in layers:
        assert float(torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).detach()) == pytest.approx(1, abs=0.02)


def test_conditional_batch_norm_starts_plain_and_then_follows_the_condition():
    norm, x = ConditionalBatchNorm2d(3, 5), torch.randn(4, 3, 2, 2, generator=seeded(0))
    condition = torch.randn(4, 5, generator=seeded(1))
    torch.testing.assert_close(norm(x, condition), nn.BatchNorm2d(3)(x))
    nn.init.constant_(norm.gamma[2].weight, 0.5)
    nn.init.constant_(norm.beta[2].bias, -1.0)
    hidden = (condition @ norm.gamma[0].weight.T + norm.gamma[0].bias).clamp(min=0)  # two layers, a ReLU between
    scale = 1 + 0.5 * hidden.sum(1).view(-1, 1, 1, 1)
    torch.testing.assert_close(norm(x, condition), scale * nn.BatchNorm2d(3)(x) - 1)


def test_the_conditional_gan_fits_together():
    spec, condition = spec_of(), torch.randn(4, 5, generator=seeded(1))
    generator, _ = networks(spec, norm=partial(ConditionalBatchNorm2d, condition=5))
    z = torch.randn(4, 6, generator=seeded(0))
    nn.init.normal_(generator.block1.norm1.gamma[2].weight)
    assert not torch.allclose(generator(z, condition), generator(z, condition.flip(0)))
    discriminator = Discriminator(spec, width=4, condition=5).eval()
    images = generator(z, condition)
    zero, there, back = (discriminator(images, c) for c in (0 * condition, condition, -condition))
    torch.testing.assert_close(there - zero, zero - back)  # the projection is linear in the condition
    assert not torch.allclose(there, zero)
    with pytest.raises(ValueError, match="needs the condition"):
        discriminator(images)


# ---- losses and steps


def test_hinge_losses_by_hand():
    real, fake = torch.tensor([3.0, 1.0, 0.25, -2.0]), torch.tensor([-3.0, -1.0, 0.25, 2.0])
    assert hinge_discriminator(real, fake).tolist() == [0, 0, 2, 6]
    assert hinge_generator(fake).tolist() == [3, 1, -0.25, -2]
    leaf = real.clone().requires_grad_()
    hinge_discriminator(leaf, fake).sum().backward()
    assert leaf.grad[[0, 2, 3]].tolist() == [0, -1, -1]  # what is told apart by the margin teaches nothing more


def test_a_step_by_hand(digits):
    learner = learner_on(digits, ema=0.0)
    generator, discriminator = (copy.deepcopy(n) for n in (learner.generator, learner.discriminator))
    draws = torch.Generator()
    draws.set_state(learner.draws.get_state())
    images, _ = batch_of(digits)
    terms = learner.step(batch_of(digits))
    adams = [torch.optim.Adam(n.parameters(), lr=2e-4, betas=(0.0, 0.9)) for n in (generator, discriminator)]
    fake = generator(torch.randn(16, 6, generator=draws)).detach()
    real_scores, fake_scores = discriminator(torch.cat((images, fake))).chunk(2)
    loss = F.relu(1 - real_scores).mean() + F.relu(1 + fake_scores).mean()
    loss.backward()
    adams[1].step()
    torch.testing.assert_close(terms["discriminator"], loss.detach())
    loss = -discriminator(generator(torch.randn(16, 6, generator=draws))).mean()
    loss.backward()
    adams[0].step()
    torch.testing.assert_close(terms["generator"], loss.detach())
    for ours, by_hand in ((learner.generator, generator), (learner.average, generator)):
        for a, b in zip(ours.state_dict().values(), by_hand.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("size", [28, 32])
def test_a_step_on_colour_images(size):
    spec = spec_of(size, channels=3)
    learner = GANLearner(*networks(spec), GANConfig.for_profile("ci", latent=6, shift=1), draws=seeded(0))
    before = learner.generator.block1.conv1.weight.detach().clone()
    terms = learner.step((torch.rand(8, 3, size, size, generator=seeded(0)), torch.zeros(8)))
    assert all(term.isfinite() for term in terms.values())
    assert not torch.equal(learner.generator.block1.conv1.weight, before)


def test_the_discriminator_steps_more_often_each_on_images_of_its_own(digits):
    learner, seen = learner_on(digits, discriminator_steps=4), []
    learner.discriminator.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    learner.step(batch_of(digits, 16))
    assert [len(images) for images in seen] == [8, 8, 8, 8, 4]  # real and generated; then the generator's
    real = torch.cat([images[:4] for images in seen[:4]])
    assert torch.equal(real, batch_of(digits, 16)[0])
    steps = [int(o.state_dict()["state"][0]["step"]) for o in learner.optimizers]
    assert steps == [1, 4]


def test_the_average_forgets_its_start_and_follows_slowly(digits):
    learner = learner_on(digits, ema=0.5)
    before = learner.average.linear[0].weight.clone()
    learner.step(batch_of(digits))
    decay = 2 / 11  # (1 + t) / (10 + t) at t = 1
    expected = decay * before + (1 - decay) * learner.generator.linear[0].weight.detach()
    torch.testing.assert_close(learner.average.linear[0].weight, expected)


def test_shifts_are_the_same_kind_for_real_and_generated_and_let_gradients_through(digits):
    learner, images = learner_on(digits, shift=2), torch.rand(8, 1, 16, 16, requires_grad=True)
    shifted = learner.augment(images)
    assert not torch.equal(shifted, images)
    shifted.sum().backward()
    assert 0 < float(images.grad.mean()) < 1  # what left the picture has no say
    assert torch.equal(learner_on(digits).augment(images), images)


def test_each_loss_falls_when_the_other_network_stands_still(digits):
    learner = learner_on(digits, lr_discriminator=2e-3, lr_generator=2e-3)
    images, _ = batch_of(digits, 32)
    losses = [float(learner.discriminate(images)) for _ in range(30)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    losses = [float(learner.generate(32)) for _ in range(30)]
    assert sum(losses[-5:]) < sum(losses[:5]) - 0.5
    assert all(p.requires_grad for p in learner.discriminator.parameters())


# ---- training


def test_same_seed_same_bits_and_what_is_returned(digits):
    before = torch.get_rng_state()
    first, again, other = (train_gan(digits, TINY, seed=s, device="cpu") for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    z = torch.randn(5, TINY.latent, generator=seeded(0))
    (generator, discriminator), result = first
    assert torch.equal(generator(z), again[0].generator(z))
    assert not torch.equal(generator(z), other[0].generator(z))
    assert not any(m.training for n in (generator, discriminator) for m in n.modules())
    assert not any(p.requires_grad for n in (generator, discriminator) for p in n.parameters())
    assert (result.stopped, set(result.history)) == ("steps", {"discriminator", "generator"})


@pytest.mark.parametrize("stop_after", [3, 4])
def test_a_killed_run_resumes_to_the_same_bits(digits, tmp_path, stop_after):
    config = GANConfig.for_profile("ci", steps=7, checkpoint_every=2, discriminator_steps=2, batch_size=8, shift=1)

    def kill(step):
        if step.index + 1 == stop_after:
            raise RuntimeError("killed")

    path = tmp_path / "run.checkpoint"
    with pytest.raises(RuntimeError, match="killed"):
        train_gan(digits, config, device="cpu", callbacks=[kill], checkpoint=path)
    resumed = train_gan(digits, config, seed=5, device="cpu", checkpoint=path)
    whole = train_gan(digits, config, device="cpu")
    for a, b in zip(resumed[0], whole[0], strict=True):
        assert all(torch.equal(v, w) for v, w in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert resumed[1].history == whole[1].history


def test_networks_are_kept_and_found(digits, tmp_path):
    calls = []
    options = {"folder": tmp_path, "device": "cpu", "callbacks": [lambda step: calls.append(step.index)]}
    first, again = (load_or_train_gan(digits, TINY, **options) for _ in range(2))
    assert len(calls) == TINY.steps
    z = torch.randn(5, TINY.latent, generator=seeded(0))
    assert torch.equal(first[0](z), again[0](z))
    assert torch.equal(first[1](first[0](z)), again[1](again[0](z)))
    load_or_train_gan(digits, TINY, seed=1, **options)
    assert len(calls) == 2 * TINY.steps
    assert {p.suffix for p in tmp_path.iterdir()} == {".safetensors", ".json", ".lock"}


def test_a_gan_that_diverges_is_named_and_not_kept(digits, tmp_path):
    config = GANConfig.for_profile("ci", lr_generator=1e38, lr_discriminator=1e38)
    with pytest.raises(DivergedError, match=r"sngan on digits did not train: the term .* smaller learning rates"):
        load_or_train_gan(digits, config, folder=tmp_path, device="cpu")
    assert not list(tmp_path.glob("*.safetensors"))


def test_images_come_closer_to_digits(digits):
    """A short run: the mean and the spread of generated pixels come nearer to the real ones'."""
    config = GANConfig.for_profile("book", steps=60, width=8, batch_size=16)
    start, real = networks(digits.spec)[0], digits.train.images

    def gap(generator):
        with torch.no_grad():
            images = generator.train()(torch.randn(200, generator.latent, generator=seeded(0)))
        return float((images.mean(0) - real.mean(0)).square().mean() + (images.std(0) - real.std(0)).square().mean())

    assert gap(train_gan(digits, config, device="cpu")[0].generator) < 0.5 * gap(start)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0), ("batch_size", 1), ("latent", 0), ("width", 0), ("discriminator_steps", 0), ("lr_generator", 0),
        ("lr_discriminator", -1.0), ("betas", (0.5, 1.0)), ("ema", 1.0), ("shift", -1), ("schedule", "linear"),
    ],
)  # fmt: skip
def test_configs_refuse_nonsense(field, value):
    with pytest.raises(ValueError, match=field):
        GANConfig(**{field: value})


def test_profiles():
    paper, book, ci = (GANConfig.for_profile(p) for p in ("paper", "book", "ci"))
    assert paper == GANConfig()
    assert (paper.betas, paper.lr_generator, paper.lr_discriminator) == ((0.0, 0.9), 2e-4, 2e-4)
    assert ci.steps < book.steps < paper.steps
