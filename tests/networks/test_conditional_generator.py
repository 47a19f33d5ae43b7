"""The conditioned generator: what it is told, the sizes it reaches, what it refuses."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from invkit.core.rng import seeded
from invkit.core.spec import ImageSpec
from invkit.networks.conditional_generator import (
    KINDS,
    ConditionalGenerator,
    Conditioning,
    _axis,
    condition_matrix,
)


def spec(size=(16, 16), channels=1, classes=10):
    names = tuple(f"c{i}" for i in range(classes))
    return ImageSpec(channels=channels, size=size, mean=(0.5,) * channels, std=(0.25,) * channels, classes=names)


def make(kind="vector-matrix", size=(16, 16), channels=1, classes=10, **options):
    given = spec(size, channels, classes)
    return ConditionalGenerator(given, Conditioning(kind=kind, classes=classes, latent=8), width=4, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("size", "channels", "classes"),
    [((16, 16), 1, 10), ((28, 28), 1, 10), ((32, 32), 3, 10), ((7, 7), 3, 2), ((17, 23), 3, 5), ((32, 32), 3, 32)],
)
def test_every_size_is_reached(kind, size, channels, classes):
    network = make(kind, size, channels, classes)
    images = network(network.conditioning.draw(3, seeded(0)))
    assert images.shape == (3, channels, *size)
    assert 0 <= images.min() <= images.max() <= 1


@given(st.integers(1, 60), st.integers(0, 200))
def test_the_plan_between_two_sizes(start, more):
    side = start
    for kernel, stride, padding in _axis(start, start + more):
        assert (stride, padding) in {(1, 0), (2, 1)}
        assert kernel <= 5
        side = (side - 1) * stride - 2 * padding + kernel
    assert side == start + more


def test_a_matrix_by_hand():
    rows = condition_matrix(torch.tensor([1]), 3)[0, 0]
    assert rows.tolist() == [[0, 1, 0], [1, 1, 1], [0, 1, 0]]


@pytest.mark.parametrize("kind", KINDS)
def test_conditions_are_distributions_whose_argmax_is_the_label(kind):
    drawn = Conditioning(kind=kind, classes=7, latent=5).draw(200, seeded(0))
    torch.testing.assert_close(drawn.vectors.sum(1), torch.ones(200))
    assert torch.equal(drawn.vectors.argmax(1), drawn.labels)
    assert drawn.latent.shape == (200, 5)
    assert drawn.labels.unique().tolist() == list(range(7))
    assert bool((drawn.vectors.max(1).values == 1).all()) == (kind in ("label", "matrix"))


def test_given_labels_keep_the_distribution_of_the_vectors():
    how = Conditioning(kind="vector", classes=4)
    labels = torch.arange(4).repeat(2000)
    asked, free = how.draw(8000, seeded(0), labels), how.draw(8000, seeded(1))
    assert torch.equal(asked.labels, labels)
    assert torch.equal(asked.vectors.argmax(1), labels)
    a, b = (x.vectors.sort(1).values.mean(0) for x in (asked, free))
    torch.testing.assert_close(a, b, atol=0.005, rtol=0)
    # the other entries are alike: no trace of where the largest one was drawn
    others = asked.vectors[labels == 2][:, [0, 1, 3]].mean(0)
    assert float(others.max() - others.min()) < 0.02


def test_hot_vectors_and_chosen_classes():
    drawn = Conditioning(classes=5, hot=True, only=(1, 4)).draw(100, seeded(0))
    assert drawn.labels.unique().tolist() == [1, 4]
    assert drawn.vectors.unique().tolist() == [0, 1]


def test_a_larger_spread_gives_sharper_vectors():
    flat, sharp = (Conditioning(classes=5, vector_std=s).draw(100, seeded(0)) for s in (1.0, 4.0))
    assert torch.equal(flat.labels, sharp.labels)
    assert sharp.vectors.amax(1).mean() > flat.vectors.amax(1).mean() + 0.3


def test_the_condition_reaches_the_images():
    for kind in KINDS:
        network = make(kind, dropout=0.0).eval()
        a, b = (network(network.conditioning.draw(1, seeded(0), [label])) for label in (0, 1))
        assert (a - b).abs().max() > 1e-6, kind


def test_dropout_stays_on_when_sampling_and_batch_norm_is_fixed():
    network = make().sampling()
    asked = network.conditioning.draw(2, seeded(0))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    assert not torch.equal(network(asked), network(asked))
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_unbounded_images_leave_the_range():
    network = make(bounded=False, dropout=0.0)
    assert network(network.conditioning.draw(32, seeded(0))).min() < 0


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"cannot reach 8x8 pixels by vector-matrix conditioning.* at least 10x10"):
        make(size=(8, 8))
    with pytest.raises(ValueError, match=r"cannot reach 3x3 pixels by vector conditioning.* at least 4x4"):
        make("vector", size=(3, 3))
    with pytest.raises(ValueError, match="conditioned on 7 classes, the images have 10"):
        ConditionalGenerator(spec(), Conditioning(classes=7))
    make("vector", size=(8, 8))
    for bad, says in (
        ({"kind": "matrices", "classes": 3}, "kind"),
        ({"classes": 1}, "classes .*at least 2"),
        ({"classes": 3, "latent": 0}, "latent"),
        ({"classes": 3, "vector_std": 0.0}, "vector_std"),
        ({"classes": 3, "only": (3,)}, r"0\.\.2"),
    ):
        with pytest.raises(ValueError, match=says):
            Conditioning(**bad)
    for labels in ([0], [0, 3]):
        with pytest.raises(ValueError, match="labels"):
            Conditioning(classes=3).draw(2, seeded(0), labels)
