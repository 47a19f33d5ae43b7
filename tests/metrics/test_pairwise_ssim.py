"""SSIM of all pairs against torchmetrics, which takes one pair at a time."""

import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from invkit.core.rng import seeded
from invkit.metrics import pairwise_ssim as room
from invkit.metrics.pairwise_ssim import pairwise_ssim


def smooth(n, channels, height, width, seed):
    noise = torch.rand(n, channels, height, width, generator=seeded(seed))
    return (noise + noise.roll(1, 2) + noise.roll(1, 3)) / 3


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 11, 11), (1, 16, 16), (3, 20, 13)])
def test_as_torchmetrics_for_one_pair(channels, height, width, monkeypatch):
    monkeypatch.setattr(room, "_CHUNK", 2)  # the last chunk is smaller
    images, others = smooth(3, channels, height, width, 0), smooth(5, channels, height, width, 1)
    others[0], others[1] = images[1], 0.5  # a copy, and an image without variance
    found = pairwise_ssim(images, others)
    assert found.dtype == torch.float64
    assert found.shape == (3, 5)
    for i, image in enumerate(images.double()):
        for j, other in enumerate(others.double()):
            one = structural_similarity_index_measure(image[None], other[None], data_range=1.0)
            assert float(found[i, j]) == pytest.approx(float(one), abs=1e-6)
    assert float(found[1, 0]) == pytest.approx(1, abs=1e-6)


def test_a_change_of_light_costs_less_than_another_image():
    image, another = smooth(2, 1, 16, 16, 3).split(1)
    brighter, other = pairwise_ssim(image, torch.cat([image + 0.05, another]))[0]
    assert 1 > brighter > other


def test_what_is_refused():
    image = torch.rand(1, 1, 12, 12)
    with pytest.raises(ValueError, match="one shape"):
        pairwise_ssim(image, image.repeat(1, 3, 1, 1))
    with pytest.raises(ValueError, match="11 pixels"):
        pairwise_ssim(image[..., :10], image[..., :10])
