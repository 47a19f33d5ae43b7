"""Jitter and flips: by hand, undone, replayed, and adjoint to what is done to gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from invkit.core.rng import seeded
from invkit.transforms.jitter import Jitter, apply_jitter, draw_jitter, undo_jitter
from invkit.transforms.resize import initial_images

draws = st.builds(
    lambda n, jitter, flip, seed: draw_jitter(n, jitter, flip, seeded(seed)),
    st.integers(1, 4), st.integers(0, 12), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 1000),
)  # fmt: skip


def images_for(draw, seed=0):
    return torch.rand(len(draw.down), 3, 5, 7, dtype=torch.float64, generator=seeded(seed))


@given(draws)
def test_wrapping_is_flip_then_roll(draw):
    images = images_for(draw)
    moved = apply_jitter(images, draw)
    for n, image in enumerate(images):
        flipped = image.flip(2) if draw.flip[n] else image
        rolled = torch.roll(flipped, (int(draw.down[n]), int(draw.right[n])), dims=(1, 2))
        assert torch.equal(moved[n], rolled)


@given(draws)
def test_without_wrapping_black_comes_in(draw):
    images = images_for(draw) + 1  # no pixel is black
    moved = apply_jitter(images, draw, wrap=False)
    for n, image in enumerate(images):
        flipped = image.flip(2) if draw.flip[n] else image
        for i in range(5):
            for j in range(7):
                y, x = i - int(draw.down[n]), j - int(draw.right[n])
                expected = flipped[:, y, x] if 0 <= y < 5 and 0 <= x < 7 else torch.zeros(3).double()
                assert torch.equal(moved[n, :, i, j], expected)


@given(draws)
def test_undo_is_the_inverse(draw):
    images = images_for(draw)
    assert torch.equal(undo_jitter(apply_jitter(images, draw), draw), images)
    assert torch.equal(apply_jitter(undo_jitter(images, draw), draw), images)


@given(draws, st.booleans())
def test_undo_is_the_adjoint(draw, wrap):
    """<J x, z> = <x, J' z>: a gradient at the moved pixels becomes the gradient at the unmoved ones."""
    x, z = images_for(draw), images_for(draw, 1)
    left = (apply_jitter(x, draw, wrap) * z).sum()
    right = (x * undo_jitter(z, draw, wrap)).sum()
    torch.testing.assert_close(left, right, rtol=1e-13, atol=1e-13)
    leaf = x.clone().requires_grad_()
    by_autograd = torch.autograd.grad((apply_jitter(leaf, draw, wrap) * z).sum(), leaf)[0]
    assert torch.equal(by_autograd, undo_jitter(z, draw, wrap))


def test_draws_can_be_replayed():
    draw = draw_jitter(4, 3, 0.5, seeded(1))
    first, second = images_for(draw), images_for(draw, 1)
    both = apply_jitter(torch.cat([first, second], 1), draw)
    assert torch.equal(apply_jitter(first, draw), both[:, :3])
    assert torch.equal(apply_jitter(second, draw), both[:, 3:])
    again = draw_jitter(4, 3, 0.5, seeded(1))
    for name in ("down", "right", "flip"):
        assert torch.equal(getattr(draw, name), getattr(again, name))


@pytest.mark.parametrize("wrap", [True, False])
def test_nothing_drawn_is_nothing_done(wrap):
    draw = draw_jitter(4, 0, 0.0, seeded(1))
    images = images_for(draw)
    assert torch.equal(apply_jitter(images, draw, wrap), images)
    assert torch.equal(undo_jitter(images, draw, wrap), images)


def test_draws_are_uniform_and_each_image_has_its_own():
    draw = draw_jitter(20_000, 2, 0.25, seeded(0))
    for offsets in (draw.down, draw.right):
        values, counts = offsets.unique(return_counts=True)
        assert values.tolist() == [-2, -1, 0, 1, 2]
        assert (counts / 20_000 - 0.2).abs().max() < 0.02
    assert abs(float(draw.flip.float().mean()) - 0.25) < 0.02
    assert float((draw.down * draw.right).float().mean()) == pytest.approx(0, abs=0.06)
    assert draw_jitter(50, 0, 1.0, seeded(0)).flip.all()


def test_sequence_of_images_is_kept():
    draw = Jitter(torch.tensor([1, 0]), torch.tensor([0, -1]), torch.tensor([False, True]))
    images = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    assert torch.equal(apply_jitter(images, draw), images)


def test_layouts_and_types_are_equal():
    draw = draw_jitter(3, 2, 0.5, seeded(0))
    images = images_for(draw)
    moved = apply_jitter(images, draw, wrap=False)
    other = apply_jitter(images.contiguous(memory_format=torch.channels_last), draw, wrap=False)
    assert torch.equal(moved, other)
    assert apply_jitter(images.bfloat16(), draw, wrap=False).dtype == torch.bfloat16


def test_initial_images():
    images = initial_images(400, (3, 8, 8), seeded(0))
    assert images.shape == (400, 3, 8, 8)
    assert 0 <= images.min() < images.max() <= 1
    assert float(images.mean()) == pytest.approx(0.5, abs=1e-2)
    assert float(images.std()) == pytest.approx(0.1, abs=1e-2)
    assert torch.equal(images, initial_images(400, (3, 8, 8), seeded(0)))
