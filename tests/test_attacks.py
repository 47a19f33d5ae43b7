"""Attacks: by hand, within the ball, stronger than chance, and reproducible."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from invkit.attacks import fgsm, pgd, random_perturbation, robust_accuracy
from invkit.core.rng import seeded
from invkit.core.target import Target

WEIGHT = torch.tensor([[1.0, -2.0, 0.0], [-1.0, 1.0, 0.5]])


def linear(images: Tensor) -> Tensor:
    """Logits ``W x`` of images with three values; pixel 2 weighs little."""
    return images.flatten(1) @ WEIGHT.to(images.dtype).T


def some(count: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images of the tiny target's shape, black and white among them, and labels."""
    images = (1.4 * torch.rand(count, 3, 8, 8, generator=seeded(seed)) - 0.2).clamp(0, 1)
    return images, torch.randint(4, (count,), generator=seeded(seed + 1))


def sizes(change: Tensor, norm: str) -> Tensor:
    return change.flatten(1).norm(p=torch.inf if norm == "Linf" else 2, dim=1)


def losses(network: Any, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return F.cross_entropy(network(images), labels, reduction="none")


def test_steps_on_a_linear_network_by_hand() -> None:
    image, label = torch.tensor([0.5, 0.5, 0.05]).view(1, 1, 1, 3), torch.tensor([0])
    # dCE/dx = p_1 (w_1 - w_0), along (-2, 3, 0.5) whatever p_1 is.
    options: dict[str, Any] = {"eps": 0.1, "random_start": False}
    one = pgd(linear, image, label, step_size=0.04, steps=1, **options)
    assert torch.allclose(one.flatten(), torch.tensor([0.46, 0.54, 0.09]))
    three = pgd(linear, image, label, step_size=0.04, steps=3, **options)  # 0.12, cut off at the border
    assert torch.allclose(three.flatten(), torch.tensor([0.4, 0.6, 0.15]))
    there = pgd(linear, image, label, step_size=0.04, steps=3, targeted=True, **options)  # and cut off at black
    assert torch.allclose(there.flatten(), torch.tensor([0.6, 0.4, 0.0]))
    assert torch.equal(fgsm(linear, image, label, eps=0.1), pgd(linear, image, label, step_size=0.1, **options))
    unit = torch.tensor([-2.0, 3.0, 0.5]) / 13.25**0.5
    for steps, length in ((1, 0.04), (2, 0.08), (3, 0.1)):
        attacked = pgd(linear, image, label, step_size=0.04, steps=steps, norm="L2", **options)
        assert torch.allclose(attacked.flatten(), image.flatten() + length * unit, atol=1e-6)


def test_every_step_follows_the_gradient_of_a_network_by_hand(target: Target) -> None:
    images, labels = some()
    expected = images
    for _ in range(5):
        leaf = expected.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(target(leaf), labels, reduction="sum"), leaf)
        expected = torch.clamp(expected + 0.03 * gradient.sign(), images - 0.1, images + 0.1).clamp(0, 1)
    attacked = pgd(target, images, labels, eps=0.1, step_size=0.03, steps=5, random_start=False)
    assert torch.allclose(attacked, expected, atol=1e-6)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@given(seed=st.integers(0, 99), eps=st.floats(0, 2), steps=st.integers(1, 3), start=st.booleans())
def test_results_lie_in_the_ball_and_in_range(norm: Any, seed: int, eps: float, steps: int, start: bool) -> None:
    images = torch.rand(4, 1, 1, 3, generator=seeded(seed)).round(decimals=1)
    labels = torch.tensor([0, 1, 1, 0])
    step = {"eps": eps, "norm": norm}
    attacked = [
        pgd(linear, images, labels, steps=steps, random_start=start, generator=seeded(seed), **step),
        fgsm(linear, images, labels, **step),
        random_perturbation(images, eps, norm, seeded(seed)),
    ]
    for result in attacked:
        assert result.shape == images.shape
        assert 0 <= result.min() <= result.max() <= 1
        assert sizes(result - images, norm).max() <= eps + 1e-6


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.03), ("L2", 0.3)])
def test_attacks_do_what_noise_of_the_same_size_does_not(target: Target, norm: Any, eps: float) -> None:
    images, labels = some(12)
    before = losses(target, images, labels)
    noisy = losses(target, random_perturbation(images, eps, norm), labels)
    once = losses(target, fgsm(target, images, labels, eps=eps, norm=norm), labels)
    often = losses(target, pgd(target, images, labels, eps=eps, norm=norm), labels)
    towards = losses(target, pgd(target, images, labels, eps=eps, norm=norm, targeted=True), labels)
    assert (once > before).all()
    assert (often > before).all()
    assert (towards < before).all()
    assert often.mean() >= once.mean() - 1e-3
    assert (often - before).mean() > 3 * (noisy - before).mean().abs()


@pytest.mark.parametrize(("norm", "size"), [("Linf", 0.1), ("L2", 0.1)])
def test_the_control_has_the_whole_size(norm: Any, size: float) -> None:
    grey = torch.full((5, 1, 4, 4), 0.5)
    change = random_perturbation(grey, size, norm, seeded(3)) - grey
    assert torch.allclose(sizes(change, norm), torch.full((5,), size))
    if norm == "Linf":
        assert torch.allclose(change.abs(), torch.full_like(change, size))
    assert abs(float(change.mean())) < 0.5 * float(change.std())


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_same_seed_same_bits_and_the_global_state_is_left_alone(target: Target, norm: Any) -> None:
    images, labels = some()
    before = torch.get_rng_state()
    one, two, other = (pgd(target, images, labels, eps=0.1, steps=2, norm=norm, generator=seeded(s)) for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(pgd(target, images, labels, eps=0.0, norm=norm), images)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_sure_network_is_attacked_all_the_same(norm: Any) -> None:
    # The gradient is about 1e-22 here, its square is zero in float32.
    image, label = torch.tensor([1.0, 0.0, 0.5]).view(1, 1, 1, 3), torch.tensor([0])
    moved = pgd(lambda x: 25 * linear(x), image, label, eps=0.1, steps=1, norm=norm, random_start=False) - image
    assert sizes(moved, norm) == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_modes_weights_statistics_and_gradients_are_left_alone(norm: Any) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 4))
    network[1].eval()
    network[0].weight.grad = torch.ones_like(network[0].weight)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    images, labels = some()
    copy = images.clone()
    with torch.no_grad():  # an attack makes the gradients that it needs
        attacked = pgd(network, images, labels, eps=0.1, steps=2, norm=norm)
    assert [module.training for module in network] == [True, False, True, True, True]
    assert network.training
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    assert torch.equal(network[0].weight.grad, torch.ones_like(network[0].weight))
    assert network[4].weight.grad is None
    assert all(p.requires_grad for p in network.parameters())
    assert torch.equal(images, copy)
    assert not any(tensor.requires_grad for tensor in (images, attacked))


def test_an_image_is_attacked_as_if_it_were_alone(target: Target) -> None:
    images, labels = some()
    together = pgd(target, images, labels, eps=0.1, random_start=False)
    alone = pgd(target, images[:1], labels[:1], eps=0.1, random_start=False)
    assert torch.allclose(together[:1], alone, atol=1e-5)


def test_robust_accuracy_by_hand(target: Target) -> None:
    # Margins w_0 - w_1 of (2, -3, -0.5): 0.6 and 0.1 in favour of class 0; a radius takes 5.5 times as much.
    images = torch.tensor([[0.8, 0.3, 0.2], [0.55, 0.3, 0.2], [0.2, 0.8, 0.2]]).view(3, 1, 1, 3)
    labels = [0, 0, 0]
    shares = [robust_accuracy(linear, images, labels, eps=r, batch_size=2) for r in (0.0, 0.01, 0.05, 0.15)]
    assert shares == pytest.approx([2 / 3, 2 / 3, 1 / 3, 0])
    pixels, some_labels = (255 * some()[0]).byte(), some()[1]
    assert 0 <= robust_accuracy(target, pixels, some_labels, eps=0.01, steps=2) <= 1


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"eps": -0.1}, "eps must be at least 0"),
        ({"eps": float("nan")}, "eps must be at least 0"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"step_size": 0.0}, "step_size must be positive"),
        ({"norm": "L1"}, "norm must be Linf or L2, not 'L1'"),
        ({"labels": torch.tensor([0, 4])}, r"labels go from 0 to 4; the network knows 0\.\.3"),
        ({"labels": torch.tensor([-1, 0])}, "labels go from -1"),
        ({"labels": torch.tensor([1])}, "labels must be 2 class indices"),
        ({"labels": torch.tensor([0.0, 1.0])}, r"labels must be class indices \(N,\), not torch.float32"),
        ({"labels": torch.tensor([True, False])}, r"labels must be class indices \(N,\), not torch.bool"),
        ({"labels": None}, r"labels must be class indices \(N,\), not NoneType"),
        ({"images": torch.full((2, 3, 8, 8), 1.5)}, r"images must lie in \[0, 1\]"),
        ({"images": torch.full((2, 3, 8, 8), torch.nan)}, "images .*finite"),
        ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.int64)}, "images must be"),
        ({"images": None}, "images must be"),
        ({"images": torch.zeros(2, 3, 9, 9)}, "pixels; the network takes"),
        ({"images": torch.zeros(0, 3, 8, 8)}, "images must be a float tensor"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(target: Target, wrong: dict[str, Any], match: str) -> None:
    arguments = {"images": torch.zeros(2, 3, 8, 8), "labels": torch.tensor([0, 1]), "eps": 0.1} | wrong
    with pytest.raises(ValueError, match=match):
        pgd(target, **arguments)


def test_the_others_refuse_bad_input_as_well(target: Target) -> None:
    images, labels = some()
    with pytest.raises(ValueError, match="eps must be at least 0"):
        fgsm(target, images, labels, eps=-1.0)
    with pytest.raises(ValueError, match="norm must be Linf or L2"):
        random_perturbation(images, 0.1, "L3")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
        random_perturbation(images - 1, 0.1)
    with pytest.raises(ValueError, match="6 images but 5 labels"):
        robust_accuracy(target, images, labels[:5], eps=0.1)
    with pytest.raises(ValueError, match="images must"):
        robust_accuracy(target, images[:0], labels[:0], eps=0.1)
