"""Reconstruction: each term by hand, the gradient of a gradient, and what it refuses."""

import pytest
import torch
import torch.nn.functional as F

from invkit.core.rng import seeded
from invkit.methods.network_inversion import make_generators
from invkit.methods.reconstruction import Reconstruction, ReconstructionConfig, gradient_norm, reconstruct
from invkit.objectives import priors

SMALL = {"steps": 4, "batch_size": 8, "width": 4, "latent": 8, "log_every": 2, "gradient_images": 3}


def config(**change):
    return ReconstructionConfig(**SMALL | change)


def learner_of(target, **change):
    settings = config(**change)
    return Reconstruction(target, make_generators(target, settings, seeded(0), hot=True, bounded=False), settings)


def test_the_terms_by_hand(target):
    loss_weights = {
        "kl_perturbed": 2.0,
        "cross_entropy_perturbed": 3.0,
        "variation": 0.5,
        "pixel": 0.7,
        "gradient": 4.0,
    }
    learner = learner_of(target, **loss_weights, eps=0.2)
    asked = learner.networks[0].conditioning.draw(8, seeded(1))
    images = torch.randn(8, 3, 8, 8, generator=seeded(2))
    torch.manual_seed(5)
    terms = learner.terms(images, asked)
    torch.manual_seed(5)
    logits = target(images + torch.empty_like(images).uniform_(-0.2, 0.2))
    entropy = F.cross_entropy(logits, asked.labels)
    torch.testing.assert_close(terms["cross_entropy_perturbed"], 3 * entropy)
    torch.testing.assert_close(terms["kl_perturbed"], 2 * entropy)  # the vectors are hot
    torch.testing.assert_close(terms["variation"], 0.5 * priors.squared_variation(images).mean())
    torch.testing.assert_close(terms["pixel"], 0.7 * priors.out_of_range(images).mean())
    torch.testing.assert_close(terms["gradient"], 4 * gradient_norm(target, images[:3], asked.labels[:3]).mean())
    assert {"kl", "cross_entropy", "cosine", "orthogonality", "accuracy"} <= set(terms)
    assert "gradient" not in learner_of(target, gradient=0.0, kl_perturbed=0.0).terms(images, asked)
    bare = learner_of(target, **dict.fromkeys(loss_weights, 0.0)).terms(images, asked)
    assert set(bare) == {"kl", "cross_entropy", "cosine", "orthogonality", "accuracy"}


def test_the_gradient_norm_of_each_image_by_hand(target):
    images, labels = torch.rand(3, 3, 8, 8, generator=seeded(0)), torch.tensor([2, 0, 1])
    found = gradient_norm(target, images, labels)
    target.module.requires_grad_(True)
    for image, label, value in zip(images, labels, found, strict=True):
        loss = F.cross_entropy(target(image[None]), label[None])
        gradients = torch.autograd.grad(loss, list(target.module.parameters()))
        by_hand = sum(float(g.square().sum()) for g in gradients) ** 0.5
        assert float(value) == pytest.approx(by_hand, rel=1e-4)
    target.module.requires_grad_(False)


def test_the_gradient_of_the_gradient_norm(make_target):
    target = make_target(dtype=torch.float64, channels=1, classes=3, width=2)
    images = torch.rand(2, 1, 8, 8, dtype=torch.float64, generator=seeded(0)).requires_grad_()
    labels = torch.tensor([0, 2])
    assert torch.autograd.gradcheck(lambda x: gradient_norm(target, x, labels), images)
    assert not any(p.requires_grad for p in target.parameters())


def test_it_reconstructs_and_repeats(quadrants):
    settings = config(steps=120, batch_size=32, dropout=0.1, lr=0.01)
    made, result = reconstruct(quadrants, settings, generator=seeded(0))
    assert result.stopped == "steps"
    assert result.metrics["inversion_accuracy"] > 0.9
    totals = result.history["total"]
    assert sum(totals[-20:]) < 0.7 * sum(totals[:20])
    images, _ = made.sample(20, generator=seeded(1))
    assert 0 <= images.min() <= images.max() <= 1
    assert not made.networks[0].bounded
    few = config(gradient=0.0)
    again = [reconstruct(quadrants, few, generator=seeded(0))[0].sample(3, generator=seeded(1))[0] for _ in range(2)]
    assert torch.equal(*again)


def test_without_the_pixel_term_the_output_is_bounded(quadrants):
    made, _ = reconstruct(quadrants, config(pixel=0.0, steps=1), generator=seeded(0))
    assert made.networks[0].bounded


def test_what_is_refused():
    for change in ({"eps": 1.0}, {"gradient_images": 9}, {"gradient_images": 0}, {"variation": -1.0}):
        with pytest.raises(ValueError, match=rf"ReconstructionConfig: {next(iter(change))} must"):
            config(**change)
    for profile in ("ci", "book", "paper"):
        assert ReconstructionConfig.for_profile(profile).loss_weights()["gradient"] > 0
