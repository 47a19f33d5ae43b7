"""Training images from the weights of a network with one hidden layer."""

from __future__ import annotations

import pytest
import torch

import invkit as ik
from invkit.analysis.weight_equation import HiddenLayer, solve_for_images, train_to_the_end, unexplained

Y = torch.tensor([1.0, -1.0])


def pair(seed: int = 0, size: int = 25) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images of few bright pixels, and what is subtracted from them."""
    images = (torch.rand(2, size, generator=ik.seeded(seed)) > 0.6).float()
    return images, torch.full((size,), 0.4)


def db(found: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return -10 * (found[:, None] - images).square().mean(2).min(0).values.log10()


@pytest.fixture(scope="module")
def trained() -> HiddenLayer:
    images, mean = pair()
    return train_to_the_end(images - mean, Y, generator=ik.seeded(1))


def test_what_is_left_is_the_weights_less_the_gradients_that_autograd_takes():
    rng = ik.seeded(3)
    parts = [torch.randn(*size, generator=rng).requires_grad_() for size in ((5, 4), (5,), (5,))]
    x, y, shares = torch.randn(3, 4, generator=rng), torch.tensor([1.0, -1.0, 1.0]), torch.rand(3, generator=rng)
    network = HiddenLayer(*parts)
    before = (x @ parts[0].T + parts[1]).detach()
    assert float(before.abs().min()) > 0.05, "away from the kinks, where the smoothed derivative is the true one"
    gradients = torch.autograd.grad((shares * y * network(x)).sum(), parts)
    for left, gradient, part in zip(unexplained(network, x, y, shares), gradients, parts, strict=True):
        torch.testing.assert_close(left, gradient - part, atol=1e-4, rtol=1e-4)


def test_training_to_the_end_leaves_hardly_any_loss(trained):
    images, mean = pair()
    assert float((Y * trained(images - mean)).min()) > 5


def test_the_training_images_come_back_and_others_do_not(trained):
    images, mean = pair()
    solved = solve_for_images(trained, mean, generator=ik.seeded(6))
    assert solved.images.shape == (6, 25)
    assert solved.unexplained < 0.1
    others, _ = pair(7)
    assert float(db(solved.images, images).min()) > float(db(solved.images, others).max()) + 15


def test_a_network_that_learnt_nothing_explains_nothing():
    images, mean = pair()
    rng = ik.seeded(2)
    fresh = HiddenLayer(torch.randn(60, 25, generator=rng), torch.zeros(60), torch.randn(60, generator=rng))
    solved = solve_for_images(fresh, mean, steps=500, generator=ik.seeded(5))
    assert solved.unexplained > 0.6
    assert float(db(solved.images, images).max()) < 10


def test_the_same_seed_gives_the_same_images(trained):
    _, mean = pair()
    first, second = (solve_for_images(trained, mean, steps=20, generator=ik.seeded(5)) for _ in range(2))
    assert torch.equal(first.images, second.images)
    third = solve_for_images(trained, mean, steps=20, generator=ik.seeded(6))
    assert not torch.equal(first.images, third.images)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (torch.zeros(2, 3, 3), Y, "x should be (N, D)"),
        (torch.zeros(3, 4), Y, "y (N,)"),
        (torch.zeros(2, 4), torch.tensor([0.0, 1.0]), "y should be 1 or -1, but holds [0.0, 1.0]"),
    ],
)
def test_other_shapes_and_classes_are_refused(x, y, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace(")", r"\)").replace("[", r"\[")):
        train_to_the_end(x, y)


def test_a_mean_of_another_length_is_refused(trained):
    with pytest.raises(ValueError, match=r"mean should be \(25,\), not \(24,\)"):
        solve_for_images(trained, torch.zeros(24))


@pytest.mark.parametrize("size", [float("inf"), float("nan")])
def test_images_that_are_not_finite_are_refused(size):
    images, mean = pair()
    with pytest.raises(ValueError, match="of the order of 1, but reaches"):
        train_to_the_end(size * (images - mean), Y, steps=100, generator=ik.seeded(1))


def test_no_candidates_are_refused(trained):
    with pytest.raises(ValueError, match="candidates should be at least 1, not 0"):
        solve_for_images(trained, torch.zeros(25), candidates=0)
