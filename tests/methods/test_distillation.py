"""A student that sees the teacher's answers and nothing else."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms import v2

from invkit.core.rng import seeded
from invkit.methods.distillation import Distillation, DistillationConfig, distil
from invkit.testing import tiny_target
from invkit.transforms import RandomViews


def student(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))


def images_for(target, n=96):
    images = torch.rand(n, 3, 8, 8, generator=seeded(0))
    with torch.no_grad():
        return images, target(images).argmax(1)


def test_the_loss_by_hand(target):
    images, labels = images_for(target, 8)
    config = DistillationConfig(temperature=3.0, hard=0.5)
    learner = Distillation(target, student(), config, generator=seeded(0))
    logits = torch.randn(8, 4, generator=seeded(1))
    terms = learner.losses(images, labels, logits)
    p, q = (target(images) / 3).softmax(1), (logits / 3).softmax(1)
    by_hand = 9 * (p * (p.log() - q.log())).sum(1).mean()
    torch.testing.assert_close(terms["distillation"], by_hand)
    torch.testing.assert_close(terms["cross_entropy"], 0.5 * F.cross_entropy(logits, labels))
    soft = Distillation(target, student(), DistillationConfig(), generator=seeded(0))
    assert set(soft.losses(images, labels, logits)) == {"distillation"}
    same = soft.losses(images, labels, target(images))
    assert float(same["distillation"]) == pytest.approx(0, abs=1e-5)


def test_a_student_learns_from_the_teacher_alone(target):
    images, labels = images_for(target)
    wrong = torch.zeros_like(labels)  # with hard=0 the labels play no part
    config = DistillationConfig(steps=150, warmup=10, batch_size=32, shift=0)
    before = target.fingerprint()
    pupil, result = distil(target, student(), images, wrong, config, generator=seeded(0))
    assert result.stopped == "steps"
    losses = result.history["distillation"]
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])
    with torch.no_grad():
        gap = F.kl_div(pupil(images).log_softmax(1), target(images).softmax(1), reduction="batchmean")
        start = F.kl_div(target.module(images).mul(0).log_softmax(1), target(images).softmax(1), reduction="batchmean")
    assert gap < start
    assert not pupil.module.training
    assert not any(p.requires_grad for p in pupil.parameters())
    assert target.fingerprint() == before
    assert not any(p.requires_grad or p.grad is not None for p in target.parameters())


def test_mixtures_are_of_two_images_of_the_batch_and_answered_by_both(target):
    images, labels = torch.eye(8)[:, None, :, None].expand(8, 3, 8, 8).contiguous(), torch.zeros(8, dtype=torch.long)
    learner = Distillation(target, student(), DistillationConfig(shift=0, mix=0.5), generator=seeded(0))
    mixed = learner.augment(images)
    shares = mixed[:, 0, :, 0]  # of each image in each mixture
    torch.testing.assert_close(shares.sum(1), torch.ones(8))
    own = shares.diagonal()
    assert bool((own >= 0.5).all())
    assert 0.5 < float(own.mean()) < 0.9
    assert bool(((shares > 0).sum(1) <= 2).all())
    heard = []
    target.module.register_forward_hook(lambda module, inputs, output: heard.append(inputs[0].clone()))
    learner.module.register_forward_hook(lambda module, inputs, output: heard.append(inputs[0].clone()))
    learner.step((images, labels))
    torch.testing.assert_close(*heard)
    assert not torch.allclose(heard[0], target.spec.normalise(images))


def test_views_are_drawn_for_both_and_do_not_touch_what_is_drawn_elsewhere(target):
    images, labels = images_for(target, 8)
    half = RandomViews(v2.Lambda(lambda image: image * torch.rand(())))
    config = DistillationConfig(steps=2, warmup=0)
    plain, seen = (Distillation(target, student(), config, generator=seeded(0), views=views) for views in (None, half))
    before = torch.random.get_rng_state()
    shifted, viewed = plain.augment(images), seen.augment(images)
    assert torch.equal(before, torch.random.get_rng_state())
    ratios = viewed.flatten(1).sum(1) / shifted.flatten(1).sum(1)
    assert len(set(ratios.tolist())) == 8
    assert bool(((ratios > 0) & (ratios < 1)).all())
    pupil, again, other = (
        distil(target, student(), images, labels, config, views=views)[0] for views in (half, half, None)
    )
    assert pupil.fingerprint() == again.fingerprint() != other.fingerprint()


def test_bfloat16_is_near_and_not_the_same(target):
    images, labels = images_for(target, 32)
    terms = [
        Distillation(target, student(), DistillationConfig(bf16=bf16), generator=seeded(0)).step((images, labels))
        for bf16 in (False, True)
    ]
    loss, rounded = (float(term["distillation"]) for term in terms)
    assert loss != rounded
    assert rounded == pytest.approx(loss, rel=0.05)


def test_a_rest_of_one_image_does_not_stop_batch_norm(target):
    images, labels = images_for(target, 17)
    config = DistillationConfig(steps=4, warmup=1, batch_size=16)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    assert distil(target, flat, images, labels, config)[1].stopped == "steps"


def test_a_checkpoint_is_that_of_one_teacher_and_one_set_of_views(target, tmp_path):
    (images, labels), path = images_for(target, 8), tmp_path / "student.pt"
    config = DistillationConfig(steps=2, warmup=0)

    def teach(teacher=target, views=None):
        return distil(teacher, student(), images, labels, config, views=views, checkpoint=path)[1].steps

    def flipped(image):
        return image.flip(2)

    assert teach(views=RandomViews(flipped)) == 2
    assert teach(views=RandomViews(flipped)) == 2  # read, not taught again
    for others in ({"views": None}, {"views": RandomViews(v2.RandomInvert(1.0))}, {"teacher": tiny_target(seed=5)}):
        with pytest.raises(ValueError, match="other networks"):
            teach(**{"views": RandomViews(flipped)} | others)


def test_what_is_refused(target):
    images, labels = images_for(target, 8)
    for bad, says in (
        ((images[:, :1], labels), "1 channels"),
        ((images[:, :, :4], labels), "pixels"),
        ((images, labels[:5]), r"8.*5|5.*8"),
        ((images, labels + 4), "outside"),
    ):
        with pytest.raises(ValueError, match=says):
            distil(target, student(), *bad, DistillationConfig(steps=2, warmup=1))
    for change in ({"temperature": 0.0}, {"hard": -1.0}, {"mix": 1.5}, {"hard": 0.5, "mix": 0.5}):
        with pytest.raises(ValueError, match=next(iter(change))):
            DistillationConfig(**change)
    target.module.bn1.train()
    with pytest.raises(ValueError, match="train mode"):
        distil(target, student(), images, labels, DistillationConfig(steps=2, warmup=1))


def test_a_student_that_diverges_is_named(target):
    images, labels = images_for(target, 32)
    config = DistillationConfig(steps=60, warmup=0, lr=1e30, clip_norm=None, optimizer="sgd", log_every=5)
    with pytest.warns(UserWarning, match="diverged"):
        trained, result = distil(target, student(), images, labels, config)
    assert result.stopped == "diverged"
    assert "'distillation'" in result.reason
    assert all(p.isfinite().all() for p in trained.parameters())
