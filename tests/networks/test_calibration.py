"""Batch-norm statistics gathered anew: by hand, in batches, and for networks that kept none."""

import pytest
import torch

from invkit.core.rng import seeded
from invkit.core.target import Target
from invkit.metrics.judge import statistics_penalty
from invkit.networks.batch_norm import calibrate, without_statistics
from invkit.networks.masked import draw_untrained


def test_the_statistics_are_those_of_the_images(target):
    images = torch.rand(40, 3, 8, 8, generator=seeded(0))
    before = target.fingerprint()
    found = calibrate(target, images)
    first = target.module.conv1(target.spec.normalise(images))
    torch.testing.assert_close(found.module.bn1.running_mean, first.mean((0, 2, 3)))
    torch.testing.assert_close(found.module.bn1.running_var, first.var((0, 2, 3)))
    # The second batch norm meets what the first gives with the statistics of these images.
    second = found.module.conv2(torch.tanh(found.module.bn1(first)))
    torch.testing.assert_close(found.module.bn2.running_mean, second.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    assert statistics_penalty(found, images) < 0.01 * statistics_penalty(target, images)
    assert target.fingerprint() == before
    assert found.module.bn1.momentum == target.module.bn1.momentum
    found.check_frozen()


def test_batches_are_averaged_and_a_rest_is_left_out(target):
    images = torch.rand(25, 3, 8, 8, generator=seeded(0))
    found = calibrate(target, images, batch_size=10)
    parts = [target.module.conv1(target.spec.normalise(part)) for part in images[:20].split(10)]
    by_hand = torch.stack([part.var((0, 2, 3)) for part in parts]).mean(0)
    torch.testing.assert_close(found.module.bn1.running_var, by_hand)


def test_batch_norms_that_kept_none_do_so_from_then_on(target):
    bare = Target(draw_untrained(target.module, statistics=False, generator=seeded(0)), target.spec)
    images = torch.rand(32, 3, 8, 8, generator=seeded(0))
    with pytest.raises(ValueError, match="tracks no running statistics"):
        statistics_penalty_or_raise(bare, images)
    found = calibrate(bare, images)
    assert found.module.bn1.track_running_stats
    torch.testing.assert_close(found(images), bare(images), rtol=0.05, atol=0.02)  # unbiased against biased variance
    torch.testing.assert_close(found(images)[:3], found(images[:3]))
    assert bare.module.bn1.running_mean is None


def statistics_penalty_or_raise(target, images):
    from invkit.objectives.batch_norm import BatchNormPenalty

    return BatchNormPenalty(target.module).value([])


def test_what_is_forgotten_can_be_gathered_again(target):
    images = torch.rand(32, 3, 8, 8, generator=seeded(0))
    bare = without_statistics(target)
    x = target.module.conv1(target.spec.normalise(images))
    by_hand = (x - x.mean((0, 2, 3), keepdim=True)) / x.var((0, 2, 3), correction=0, keepdim=True).add(1e-5).sqrt()
    layer = target.module.bn1
    by_hand = by_hand * layer.weight.view(1, -1, 1, 1) + layer.bias.view(1, -1, 1, 1)
    with bare.tap("bn1") as read:
        torch.testing.assert_close(read(images)["bn1"], by_hand, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(bare(images)[:3], bare(images[:3]), atol=1e-3)
    assert calibrate(bare, images).fingerprint() == calibrate(target, images).fingerprint()
    assert target.module.bn1.running_mean is not None


def test_what_is_refused(target, make_target):
    with pytest.raises(ValueError, match="needs batch norms, it has 0"):
        calibrate(make_target(batch_norm=False), torch.rand(8, 3, 8, 8))
    with pytest.raises(ValueError, match="not 1"):
        calibrate(target, torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match="1 channels"):
        calibrate(target, torch.rand(8, 1, 8, 8))
    with pytest.raises(ValueError, match="no batch norm"):
        without_statistics(make_target(batch_norm=False))
