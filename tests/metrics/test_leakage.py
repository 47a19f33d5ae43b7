"""The gap between nearest training and nearest held-out image."""

import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from invkit.core.rng import seeded
from invkit.metrics.leakage import (
    crossed_leakage,
    exchange_test,
    grouped_interval,
    mean_interval,
    measure_leakage,
    pooled_leakage,
    similarities,
)


def smooth(n, seed, size=12):
    coarse = torch.rand(n, 1, 4, 4, generator=seeded(seed))
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")


def test_copies_of_training_images_leak_and_fresh_ones_do_not():
    train, heldout, fresh = smooth(60, 0), smooth(60, 1), smooth(50, 2)
    copies = (train[:50] + 0.02 * torch.randn(50, 1, 12, 12, generator=seeded(3))).clamp(0, 1)
    found = measure_leakage(copies, train, heldout)
    assert found.leaks
    assert found.low < found.gap < found.high
    assert found.gap == pytest.approx(float((found.to_train - found.to_heldout).mean()))
    back = measure_leakage(copies, heldout, train)
    assert not back.leaks
    assert back.gap == pytest.approx(-found.gap)
    none = measure_leakage(fresh, train, heldout)
    assert abs(none.gap) < 0.1 * found.gap
    assert none.low < 0 < none.high


def test_more_training_images_are_no_leak():
    train, heldout, fresh = smooth(400, 0), smooth(40, 1), smooth(30, 2)
    plain = similarities(fresh, train).amax(1) - similarities(fresh, heldout).amax(1)
    assert float(plain.mean()) > 0.03  # what chance alone gives the larger set
    found = measure_leakage(fresh, train, heldout, repeats=40)
    assert abs(found.gap) < 0.02
    few = measure_leakage(fresh, train, heldout, count=10)
    assert few.to_train.mean() < found.to_train.mean()


def test_crossing_takes_out_what_one_set_has_over_the_other():
    near, far, fresh = smooth(40, 0), smooth(40, 1) ** 3, (smooth(30, 2), smooth(30, 3))
    assert measure_leakage(fresh[0], near, far).low > 0.02  # nothing leaks: one set lies nearer to any image
    found = crossed_leakage(fresh, (near, far))
    assert found.low < 0 < found.high
    halves = measure_leakage(fresh[0], near, far).gap, measure_leakage(fresh[1], far, near).gap
    assert found.gap == pytest.approx(sum(halves) / 2)
    assert len(found.to_train) == 60
    noisy = [(x[:30] + 0.02 * torch.randn(30, 1, 12, 12, generator=seeded(3))).clamp(0, 1) for x in (near, far)]
    assert crossed_leakage((noisy[0], noisy[1]), (near, far)).leaks
    with pytest.raises(ValueError, match="equally large, not 40 and 30"):
        crossed_leakage(fresh, (near, far[:30]))


def test_similarities_over_loops(make_target):
    images, others = smooth(3, 0), smooth(4, 1)
    found = similarities(images, others)
    for i in range(3):
        for j in range(4):
            one = structural_similarity_index_measure(images[i : i + 1], others[j : j + 1], data_range=1.0)
            assert float(found[i, j]) == pytest.approx(float(one), abs=1e-5)
    eye = make_target(channels=1, size=(12, 12))
    cosine = torch.nn.functional.cosine_similarity(eye.features(images)[:, None], eye.features(others)[None], dim=2)
    torch.testing.assert_close(similarities(images, others, eye).float(), cosine)
    assert measure_leakage(images, others, others, verifier=eye).gap == 0


def test_copies_of_an_image_make_no_interval_narrower():
    """Four near-copies of each of ten images tell no more than ten."""
    train, heldout, once = smooth(30, 0), smooth(30, 1), smooth(10, 2)
    copies, groups = once.repeat(4, 1, 1, 1), torch.arange(10).repeat(4)
    alone = measure_leakage(once, train, heldout)
    together = measure_leakage(copies, train, heldout, groups=groups)
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high))
    by_image = measure_leakage(copies, train, heldout)
    assert by_image.high - by_image.low < 0.55 * (together.high - together.low)


def coverage(intervals):
    return sum(low < 0 < high for low, high in intervals) / len(intervals)


def test_intervals_of_correlated_values_hold_what_they_promise():
    """Ten classes with an effect of their own, four values of each; the true mean is 0."""
    groups, generator = torch.arange(10).repeat_interleave(4), seeded(0)
    by_value, by_group = [], []
    for _ in range(300):
        values = torch.randn(10, generator=generator)[groups] + 0.3 * torch.randn(40, generator=generator)
        by_value.append(grouped_interval(values, draws=400))
        by_group.append(grouped_interval(values, groups, draws=400))
    assert coverage(by_value) < 0.75
    assert 0.91 <= coverage(by_group) <= 0.985


def test_a_class_of_both_networks_is_drawn_for_both_at_once():
    """What one network has more of a class and the other less cancels in each class, and so in the interval."""
    near, far = smooth(40, 0), smooth(40, 1) ** 3
    images = smooth(40, 2)
    groups = torch.arange(20).repeat(2)
    crossed = crossed_leakage((images, images), (near, far), groups=(groups, groups))
    assert crossed.gap == pytest.approx(0, abs=1e-6)
    assert crossed.high - crossed.low < 1e-6
    separate = crossed_leakage((images, images), (near, far))
    assert separate.high - separate.low > 0.01


def test_networks_are_the_unit_of_a_statement_about_networks():
    parts = [measure_leakage(smooth(20, 10 + k), smooth(30, 2 * k), smooth(30, 2 * k + 1)) for k in range(4)]
    pooled = pooled_leakage(parts)
    gaps = torch.tensor([part.gap for part in parts])
    assert pooled.gap == pytest.approx(float(gaps.mean()))
    assert pooled.high - pooled.gap == pytest.approx(3.1824 * float(gaps.std()) / 2, rel=1e-3)  # t at 3 degrees
    assert len(pooled.to_train) == 80
    with pytest.raises(ValueError, match="parts must be two or more"):
        pooled_leakage(parts[:1])


def test_a_seed_gives_the_same_interval():
    args = smooth(10, 0), smooth(30, 1), smooth(20, 2)
    first, second, other = (measure_leakage(*args, generator=seeded(s)) for s in (0, 0, 1))
    assert (first.low, first.high) == (second.low, second.high) != (other.low, other.high)


def test_what_is_refused():
    some = smooth(3, 0)
    with pytest.raises(ValueError, match="images must be two or more, not 1"):
        measure_leakage(some[:1], some, some)
    with pytest.raises(ValueError, match="train must be"):
        measure_leakage(some, some[:0], some)
    with pytest.raises(ValueError, match="one shape"):
        measure_leakage(some, some, smooth(3, 0, 14))
    with pytest.raises(ValueError, match="11 pixels"):
        measure_leakage(smooth(3, 0, 8), smooth(3, 0, 8), smooth(3, 0, 8))
    with pytest.raises(ValueError, match=r"count must lie in 1\.\.3.*not 4"):
        measure_leakage(some, some, some, count=4)
    with pytest.raises(ValueError, match=r"groups must be one whole number for each of 3 images, not \(2,\)"):
        measure_leakage(some, some, some, groups=[0, 1])
    with pytest.raises(ValueError, match="groups must be two or more different ones, not 1"):
        measure_leakage(some, some, some, groups=[7, 7, 7])
    for bad in ({"level": 1.0}, {"draws": 0}, {"repeats": 0}):
        with pytest.raises(ValueError, match=r"level.*draws.*repeats"):
            measure_leakage(some, some, some, **bad)


def test_exchanged_sets_find_a_copy_and_call_chance_chance():
    generator = seeded(0)
    train, heldout = torch.rand(2, 10, 1, 12, 12, generator=generator)
    near = (train + 0.1 * torch.rand(10, 1, 12, 12, generator=generator)).clamp(0, 1)
    assert exchange_test(near, train, heldout) <= 0.002
    values = []
    for _ in range(40):
        one, two, images = torch.rand(3, 6, 1, 12, 12, generator=generator)
        values.append(exchange_test(images, one, two, draws=99, generator=generator))
    assert 0.3 < sum(values) / len(values) < 0.7, "uniform where there is nothing to find"
    assert sum(value <= 0.05 for value in values) <= 5


def test_exchanging_wants_sets_of_one_size():
    images = torch.rand(4, 1, 12, 12)
    with pytest.raises(ValueError, match="equally large"):
        exchange_test(images, images, images[:3])
    with pytest.raises(ValueError, match="draws"):
        exchange_test(images, images, images, draws=0)


def test_the_interval_of_a_mean_by_hand():
    low, high = mean_interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    with pytest.raises(ValueError, match="two or more"):
        mean_interval([1.0])
