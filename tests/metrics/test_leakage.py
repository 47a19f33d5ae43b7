"""The gap between nearest training and nearest held-out image."""

import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from invkit.core.rng import seeded
from invkit.metrics.leakage import crossed_leakage, measure_leakage, similarities


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
    for bad in ({"level": 1.0}, {"draws": 0}, {"repeats": 0}):
        with pytest.raises(ValueError, match=r"level.*draws.*repeats"):
            measure_leakage(some, some, some, **bad)
