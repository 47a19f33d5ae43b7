"""Adam on images at one scale is Adam; at many, coarse forms move together and a resumed run goes on to the bit."""

import copy

import pytest
import torch
import torch.nn.functional as F

from invkit.engine.image_adam import ImageAdam, scales_of
from invkit.engine.image_loop import LoopConfig
from invkit.engine.multiscale import low_resolution_stages


def test_one_scale_is_adam():
    start, target = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    images, plain = start.clone(), start.clone().requires_grad_()
    ours, theirs = ImageAdam(images, 0.05, (0.5, 0.9)), torch.optim.Adam([plain], lr=0.05, betas=(0.5, 0.9))
    for _ in range(5):
        ours.step(images - target)
        plain.grad = plain.detach() - target
        theirs.step()
    assert torch.equal(images, plain.detach())


def test_what_is_common_to_a_neighbourhood_moves_faster():
    def moved(gradient):
        images = torch.zeros(1, 1, 16, 16)
        ImageAdam(images, 0.01, (0.5, 0.9), scales=3).step(gradient)
        return images.abs().mean()

    even = torch.ones(1, 1, 16, 16)
    board = even - 2 * ((torch.arange(16)[:, None] + torch.arange(16)) % 2)
    assert moved(even) == pytest.approx(0.03, rel=1e-3)
    assert moved(board) == pytest.approx(0.01, rel=1e-3)


def test_it_finds_the_minimum():
    target = torch.rand(2, 3, 17, 13)
    images = torch.full_like(target, 0.5)
    adam = ImageAdam(images, 0.02, (0.5, 0.9), scales_of((17, 13)))
    for k in range(300):
        adam.lr = 0.02 * (1 - k / 300)
        adam.step(images - target)
    torch.testing.assert_close(images, target, rtol=0, atol=2e-3)


def test_state_goes_on_to_the_bit():
    target = torch.rand(1, 3, 16, 16)
    images = torch.zeros_like(target)
    adam = ImageAdam(images, 0.02, (0.5, 0.9), scales=3)
    adam.step(images - target)
    other = images.clone()
    again = ImageAdam(other, 0.02, (0.5, 0.9), scales=3)
    again.load_state_dict(copy.deepcopy(adam.state_dict()))
    for one, moved in ((adam, images), (again, other)):
        one.step(moved - target)
    assert torch.equal(images, other)


def test_shares_of_the_size_become_pixels():
    config = LoopConfig(steps=7, jitter=0.125, wrap=None)
    plan = low_resolution_stages(((0.25, 3), (0.5, 5)), (224, 160), 7)
    assert [(stage.size, stage.steps) for stage in plan] == [((56, 40), 3), ((112, 80), 5), ((224, 160), 7)]
    assert [config.offset(s) for s in ((32, 32), (224, 160))] == [4, 20]
    assert [config.wraps(s) for s in ((32, 32), (224, 224))] == [False, True]
    assert [stage.size for stage in low_resolution_stages(((16, 2),), (32, 32), 7)] == [(16, 16), (32, 32)]
    assert LoopConfig(jitter=3).offset((32, 32)) == 3


@pytest.mark.parametrize("bad", [{"jitter": 1.5}, {"jitter": -0.1}, {"scales": 0}, {"plateau_factor": 1.0}])
def test_bad_shares(bad):
    with pytest.raises(ValueError, match=r"jitter|scales|plateau_factor"):
        LoopConfig(**bad)


@pytest.mark.parametrize("size", [(32, 32), (56, 56), (20, 29)])
def test_a_step_is_adam_on_block_means_enlarged_bilinearly(size):
    generator = torch.Generator().manual_seed(0)
    start, gradient = torch.rand(2, 3, *size, generator=generator), torch.randn(2, 3, *size, generator=generator)
    moved = start.clone()
    ImageAdam(moved, 0.02, (0.5, 0.9), scales_of(size)).step(gradient.clone())
    by_hand = start.clone()
    sides = [(size[0] >> k, size[1] >> k) for k in range(1, scales_of(size))]
    moves = [torch.zeros(2, 3, *side) for side in sides]
    adam = torch.optim.Adam([by_hand, *moves], lr=0.02, betas=(0.5, 0.9))
    by_hand.grad = gradient
    for move in moves:
        move.grad = F.interpolate(gradient, size=move.shape[-2:], mode="area")
    adam.step()
    for move in moves:
        by_hand += F.interpolate(move, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(moved, by_hand)
