"""Scores of belonging, and how well they tell two sets apart, by hand."""

import math

import pytest
import torch

from invkit.core.rng import seeded
from invkit.data.datasets import Split
from invkit.metrics.ood import (
    Mahalanobis,
    auroc,
    compare_scores,
    confidence_gap,
    energy,
    fpr_at_tpr,
    max_softmax,
    not_garbage,
)


def logits_of(*rows):
    return torch.tensor(rows, dtype=torch.float64).log()


def test_scores_by_hand():
    logits = logits_of([0.6, 0.3, 0.1], [0.1, 0.2, 0.7])
    assert max_softmax(logits).tolist() == pytest.approx([0.6, 0.7])
    assert max_softmax(logits, classes=2).tolist() == pytest.approx([0.6, 0.2])
    assert not_garbage(logits).tolist() == pytest.approx([0.9, 0.3])
    assert not_garbage(logits, garbage=0).tolist() == pytest.approx([0.4, 0.9])
    assert energy(logits + 2).tolist() == pytest.approx([2.0, 2.0])
    assert energy(logits, classes=2).tolist() == pytest.approx([math.log(0.9), math.log(0.3)])
    hot = energy(logits, temperature=2.0)[0]
    assert float(hot) == pytest.approx(2 * math.log(sum(math.sqrt(p) for p in (0.6, 0.3, 0.1))))


def test_a_sure_network_does_not_round_to_one():
    assert float(not_garbage(torch.tensor([[0.0, 0.0, 30.0]]))) > 0


def test_mahalanobis_of_a_round_cloud_is_the_squared_distance():
    cloud = torch.randn(4000, 3, generator=seeded(0), dtype=torch.float64)
    labels = torch.arange(4000) % 2
    features = cloud + torch.where(labels == 1, 10.0, 0.0)[:, None]
    score = Mahalanobis.fit(features, labels + 4)
    found = score(torch.tensor([[0.0, 0, 0], [10, 10, 10], [10, 10, 13]], dtype=torch.float64))
    assert found.tolist() == pytest.approx([0, 0, -9], abs=0.6)
    stretched = Mahalanobis.fit(features * torch.tensor([1.0, 1.0, 5.0]), labels)
    wide = stretched(torch.tensor([[10.0, 10, 65]], dtype=torch.float64))
    assert float(wide) == pytest.approx(float(found[2]), rel=0.1)  # units do not matter


def test_mahalanobis_with_fewer_images_than_dimensions():
    features = torch.randn(10, 40, generator=seeded(0))
    assert Mahalanobis.fit(features, torch.arange(10) % 2)(features).isfinite().all()
    with pytest.raises(ValueError, match="a label for each"):
        Mahalanobis.fit(features, torch.zeros(9))


def test_auroc_over_pairs():
    inside, outside = torch.randn(30, generator=seeded(0)) + 1, torch.randn(20, generator=seeded(1)) * 100
    outside[:3] = inside[:3]
    pairs = [(a, b) for a in inside.tolist() for b in outside.tolist()]
    by_hand = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
    assert auroc(inside, outside) == pytest.approx(by_hand)
    assert auroc(-inside, -outside) == pytest.approx(1 - by_hand)
    assert auroc(outside + 1000, inside) == 1
    tiny = torch.tensor([1 - 1e-12, 1 - 1e-13], dtype=torch.float64)  # no digit is lost
    assert auroc(tiny[1:], tiny[:1]) == 1


def test_fpr_by_hand():
    inside = torch.arange(1, 21).float()  # the threshold that keeps 19 of 20 is 2
    outside = torch.tensor([0.0, 1.0, 1.5, 2.0, 30.0])
    assert fpr_at_tpr(inside, outside) == pytest.approx(2 / 5)
    assert fpr_at_tpr(inside, outside, tpr=1.0) == pytest.approx(4 / 5)
    assert fpr_at_tpr(inside, inside - 100) == 0


def test_the_threshold_by_hand():
    inside = logits_of([0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8])  # the last is lost to garbage
    outside = logits_of([0.1, 0.1, 0.8], [0.6, 0.2, 0.2], [0.75, 0.05, 0.2], [0.0001, 0.0001, 0.9998])
    gap = confidence_gap(inside, outside, garbage=2)
    assert gap.lowest_inside == pytest.approx(0.7)
    assert gap.highest_outside == pytest.approx(0.75)
    assert gap.margin == pytest.approx(-0.05)
    assert (gap.violating, gap.rejected) == (0.25, 0.5)
    assert confidence_gap(inside, outside, garbage=-1) == gap
    clear = confidence_gap(inside, outside[:1], garbage=2)
    assert (clear.highest_outside, clear.violating, clear.rejected) == (0, 0, 1)
    plain = confidence_gap(inside, outside)
    assert (plain.violating, plain.rejected) == (1 - 0.25, 0)


def test_a_share_of_each_set_may_lie_beyond_the_threshold():
    inside = torch.stack([torch.tensor([p, 1 - p]).log() for p in torch.linspace(0.6, 1 - 1e-6, 11)])
    gap = confidence_gap(inside, inside, quantile=0.1)  # the second lowest and the second highest of eleven
    assert (gap.lowest_inside, gap.highest_outside) == (pytest.approx(0.64, abs=1e-5), pytest.approx(0.96, abs=1e-5))
    assert gap.violating == pytest.approx(10 / 11)
    with pytest.raises(ValueError, match="quantile"):
        confidence_gap(inside, inside, quantile=0.5)


def test_scores_over_torchmetrics():
    from torchmetrics.functional.classification import binary_auroc, binary_roc

    for seed in range(5):
        inside, outside = (torch.randint(0, 30, (n,), generator=seeded(seed + n)) / 30 for n in (60, 45))
        scores, truth = torch.cat([inside + 0.1, outside]) / 2, torch.arange(105) < 60
        assert auroc(scores[:60], scores[60:]) == pytest.approx(float(binary_auroc(scores, truth.long())))
        false, true, _ = binary_roc(scores, truth.long())
        for tpr in (0.5, 0.95, 1.0):
            assert fpr_at_tpr(scores[:60], scores[60:], tpr) == pytest.approx(float(false[true >= tpr][0]))


def test_a_network_in_train_mode_is_refused_and_left_alone(target):
    target.module.train()
    state = {name: value.clone() for name, value in target.module.state_dict().items()}
    images = torch.rand(4, 3, 8, 8)
    with pytest.raises(ValueError, match="train mode"):
        compare_scores(target, Split(pixels=(255 * images).byte(), labels=torch.arange(4)), images, images)
    assert all(torch.equal(state[name], value) for name, value in target.module.state_dict().items())
    assert target.module.training


def test_what_is_refused():
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match=r"scores .* not finite"):
            auroc(torch.ones(3), torch.tensor([bad]))
    for tpr in (0, 1.5):
        with pytest.raises(ValueError, match="tpr"):
            fpr_at_tpr(torch.ones(3), torch.zeros(2), tpr=tpr)
    with pytest.raises(ValueError, match="temperature"):
        energy(torch.ones(3, 2), temperature=0)
    for score in (max_softmax, energy, not_garbage):
        with pytest.raises(ValueError, match=r"logits \(N, K\)"):
            score(torch.ones(3))
    for bad in (torch.zeros(0), torch.zeros(2, 2)):
        with pytest.raises(ValueError, match=r"scores \(N,\) and \(M,\)"):
            auroc(torch.ones(3), bad)
    with pytest.raises(ValueError, match="no image of the distribution"):
        confidence_gap(logits_of([0.1, 0.9]), logits_of([0.1, 0.9]), garbage=1)


def test_all_scores_of_two_sets(quadrants):
    noise = torch.rand(40, 1, 12, 12, generator=seeded(0)) * 0.2
    inside = noise.clone()
    inside[0::2, :, :6, :6] += 0.8
    inside[1::2, :, 6:, 6:] += 0.8
    train = Split(pixels=inside, labels=torch.tensor([0, 3] * 20))
    found = compare_scores(quadrants, train, inside, noise)
    assert set(found) == {"max softmax", "energy", "Mahalanobis"}
    assert all(row == {"auroc": 1.0, "fpr95": 0.0} for row in found.values())
    last = compare_scores(quadrants, train, inside[0::2], inside[1::2], garbage=True)
    assert last["not garbage"] == last["max softmax"] == {"auroc": 1.0, "fpr95": 0.0}
    with pytest.raises(ValueError, match="images outside the distribution have 3 channels; the network takes 1"):
        compare_scores(quadrants, train, inside, torch.rand(2, 3, 12, 12))
