"""Planes, regions, clusters and sparse codes of features."""

import pytest
import torch
from torch import nn

from invkit.analysis.feature_space import FeaturePlane, cluster_counts, decision_regions, tsne
from invkit.analysis.sparse_autoencoder import (
    SparseAutoencoder,
    SparseAutoencoderConfig,
    code_overlap,
    sparse_autoencoder,
)
from invkit.core.rng import seeded
from invkit.core.target import Target


def test_the_plane_of_flat_features():
    flat = torch.randn(50, 2, generator=seeded(0)) @ torch.tensor([[3.0, 0, 0, 1], [0, 1, 0, 0]]) + 5
    plane = FeaturePlane.fit(flat)
    torch.testing.assert_close(plane.lift(plane.project(flat)), flat, atol=1e-4, rtol=0)
    torch.testing.assert_close(plane.axes @ plane.axes.T, torch.eye(2), atol=1e-5, rtol=0)
    assert sum(plane.explained) == pytest.approx(1)
    assert plane.explained[0] > plane.explained[1]
    places = torch.randn(7, 2)
    torch.testing.assert_close(plane.project(plane.lift(places)), places, atol=1e-4, rtol=0)


def test_regions_are_what_the_last_layer_says(target):
    features = torch.randn(40, 8, generator=seeded(0))
    plane = FeaturePlane.fit(features)
    regions = decision_regions(target, plane, plane.project(features), resolution=9, margin=0.2)
    assert regions.labels.shape == regions.confidence.shape == (9, 9)
    for row, column in ((0, 0), (2, 7), (8, 3)):
        place = torch.stack([regions.xs[column], regions.ys[row]])
        chances = target.head(plane.lift(place[None])).softmax(1)[0]
        assert int(regions.labels[row, column]) == int(chances.argmax())
        assert float(regions.confidence[row, column]) == pytest.approx(float(chances.max()), rel=1e-4)
    low, high = plane.project(features).amin(0), plane.project(features).amax(0)
    assert float(regions.xs[0]) == pytest.approx(float(low[0] - 0.2 * (high[0] - low[0])), rel=1e-4)
    assert float(regions.ys[-1]) == pytest.approx(float(high[1] + 0.2 * (high[1] - low[1])), rel=1e-4)


def test_clusters_of_a_class_are_counted():
    one = torch.randn(40, 2, generator=seeded(0))
    two = torch.cat([one[:20] * 0.3, one[20:] * 0.3 + 10])
    three = torch.cat([two, one[:20] * 0.3 + torch.tensor([0.0, 20.0])])
    places = torch.cat([one, two, three])
    labels = torch.tensor([3] * 40 + [5] * 40 + [6] * 60)
    assert cluster_counts(places, labels) == {3: 1, 5: 2, 6: 3}
    assert cluster_counts(places[:1], labels[:1]) == {3: 1}


def test_tsne_keeps_clusters_and_its_seed():
    features = torch.cat([torch.randn(20, 6, generator=seeded(0)), torch.randn(20, 6, generator=seeded(1)) + 20])
    places = tsne(features, perplexity=5, seed=1)
    assert torch.equal(places, tsne(features, perplexity=5, seed=1))
    gap = (places[:20].mean(0) - places[20:].mean(0)).norm()
    assert gap > places[:20].std(0).norm()
    with pytest.raises(ValueError, match="perplexity"):
        tsne(features, perplexity=40)


def atoms(n, seed, which):
    """Features made of two atoms out of those named, of a dictionary of 16 in 12 dimensions."""
    dictionary = torch.randn(16, 12, generator=seeded(0))
    generator = seeded(seed)
    picks = torch.rand(n, len(which), generator=generator).topk(2, dim=1).indices
    amounts = 1 + torch.rand(n, 2, 1, generator=generator)
    return (dictionary[torch.tensor(which)][picks] * amounts).sum(1)


def test_codes_are_sparse_and_tell_anomalies():
    known, fresh, strange = atoms(800, 1, range(8)), atoms(200, 2, range(8)), atoms(200, 3, range(8, 16))
    settings = SparseAutoencoderConfig(steps=400, codes=32, active=3, lr=0.01)
    network, result = sparse_autoencoder(known, settings, generator=seeded(0))
    assert (network.codes(fresh) > 0).sum(1).max() <= 3
    assert result.history["error"][-1] < 0.3 * result.history["error"][0]
    assert float(network.anomaly(strange).mean()) > 3 * float(network.anomaly(fresh).mean())
    use = [network.usage(x) for x in (known, fresh, strange)]
    assert code_overlap(use[0], use[1]) > code_overlap(use[0], use[2]) + 0.2
    assert code_overlap(use[0], use[0]) == 1
    again, _ = sparse_autoencoder(known, settings, generator=seeded(0))
    assert torch.equal(again.anomaly(fresh), network.anomaly(fresh))


def test_the_anomaly_by_hand():
    features = torch.randn(20, 3, generator=seeded(0)) * 5
    network = SparseAutoencoder(features, SparseAutoencoderConfig(codes=4, active=2))
    scale = features.var(0).mean().sqrt()
    gap = (network(features) - features) / scale
    torch.testing.assert_close(network.anomaly(features), gap.square().sum(1).div(3).detach())


def test_overlap_of_nothing():
    assert code_overlap(torch.zeros(3), torch.zeros(3)) == 1


def test_what_is_refused(target):
    plane = FeaturePlane.fit(torch.randn(5, 8))
    places = torch.randn(5, 2)
    with pytest.raises(ValueError, match="3 or more features"):
        FeaturePlane.fit(torch.randn(2, 8))
    with pytest.raises(ValueError, match="resolution"):
        decision_regions(target, plane, places, resolution=1)
    convolution = nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten())
    with pytest.raises(ValueError, match=r"ends in nn\.Linear, not Conv2d"):
        decision_regions(Target(convolution, target.spec), plane, places)
    with pytest.raises(ValueError, match="2 or more features"):
        sparse_autoencoder(torch.randn(1, 3))
    for change in ({"active": 0}, {"codes": 4}, {"batch_size": 0}, {"lr": 0.0}):
        with pytest.raises(ValueError, match="SparseAutoencoderConfig"):
            SparseAutoencoderConfig(**change)
