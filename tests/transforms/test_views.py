"""Copies under random transforms: replayable, differentiable, in order."""

import pytest
import torch
from torchvision.transforms import v2

from invkit.core.rng import seeded
from invkit.transforms.views import RandomViews

IMAGES = torch.rand(3, 1, 8, 8, generator=seeded(0))


def test_the_same_draw_gives_the_same_copies_again():
    shift = RandomViews(v2.RandomAffine(30))(3, 4, seeded(1))
    assert torch.equal(shift(IMAGES), shift(IMAGES))
    other = RandomViews(v2.RandomAffine(30))(3, 4, seeded(2))
    assert not torch.equal(shift(IMAGES), other(IMAGES))


def test_the_global_random_numbers_stay_as_they_were():
    before = torch.random.get_rng_state()
    RandomViews(v2.RandomAffine(30))(3, 2, seeded(1))(IMAGES)
    assert torch.equal(before, torch.random.get_rng_state())


def test_copies_of_an_image_stand_next_to_each_other_and_differ():
    copies = RandomViews(v2.GaussianNoise(sigma=0.01))(3, 2, seeded(1))(IMAGES)
    torch.testing.assert_close(copies, IMAGES.repeat_interleave(2, 0), atol=0.08, rtol=0)
    assert not torch.equal(copies[0], copies[1])


def test_a_network_in_bfloat16_sees_the_same_copies():
    images = torch.rand(2, 3, 32, 32, generator=seeded(0))
    shift = RandomViews(v2.RandomAffine(20, scale=(1.0, 1.5)))(2, 2, seeded(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = shift(images)
    assert torch.equal(rounded, shift(images))


def test_gradients_reach_the_images():
    leaf = IMAGES.clone().requires_grad_()
    RandomViews(v2.GaussianBlur(3, 1.0))(3, 2, seeded(1))(leaf).sum().backward()
    torch.testing.assert_close(leaf.grad.mean(), torch.tensor(2.0), atol=0.2, rtol=0)


@pytest.mark.parametrize(
    ("transform", "images", "words"),
    [(v2.Resize(4), IMAGES, "keep the shape"), (v2.GaussianBlur(3), IMAGES[:2], "for 3 images, not 2")],
)
def test_what_does_not_fit_is_refused(transform, images, words):
    with pytest.raises(ValueError, match=words):
        RandomViews(transform)(3, 2, seeded(1))(images)
