"""Saliency, its share in the middle, and the share of coarse structure: by hand."""

import pytest
import torch
from torch import nn

from invkit.core.spec import ImageSpec
from invkit.core.target import Target
from invkit.metrics.content import central_share, low_frequency_share, saliency, stretch_contrast

SPEC = ImageSpec(channels=2, size=(8, 8), mean=(0.0, 0.0), std=(1.0, 1.0), classes=("a", "b"))


def test_saliency_of_a_linear_network_is_its_weights():
    linear = nn.Linear(128, 2)
    target = Target(nn.Sequential(nn.Flatten(), linear), SPEC)
    maps = saliency(target, torch.rand(3, 2, 8, 8), torch.tensor([0, 1, 1]))
    weights = linear.weight.detach().view(2, 2, 8, 8).abs().amax(1)
    torch.testing.assert_close(maps, weights[[0, 1, 1]])


def test_all_in_the_middle_and_none():
    maps = torch.zeros(1, 8, 8)
    maps[0, 3, 3] = 5
    assert central_share(maps) == 1
    assert central_share(maps.roll((3, 3), (1, 2))) == 0
    assert central_share(torch.zeros(1, 8, 8)) == 0


@pytest.mark.parametrize("maps", [torch.ones(8, 8), torch.ones(1, 3, 8), -torch.ones(1, 8, 8)])
def test_what_is_no_map_is_refused(maps):
    with pytest.raises(ValueError, match="maps must be"):
        central_share(maps)


def test_half_of_two_waves_of_equal_strength_is_coarse():
    x = 2 * torch.pi * torch.arange(16) / 16
    waves = (x.cos() + (7 * x).cos()).expand(1, 1, 16, 16)
    assert low_frequency_share(waves) == pytest.approx(0.5)
    assert low_frequency_share(waves + 3) == pytest.approx(0.5)
    assert low_frequency_share(waves, cutoff=1.0) == pytest.approx(1)
    with pytest.raises(ValueError, match="cutoff"):
        low_frequency_share(waves, cutoff=0)


def test_contrast_is_stretched_image_by_image():
    ramp = torch.linspace(0.2, 0.4, 50).view(1, 1, 5, 10)
    found = stretch_contrast(torch.cat([ramp, 2 * ramp]), tails=0.1)
    assert float(found.min()) == 0
    assert float(found.max()) == 1
    torch.testing.assert_close(found[0], found[1])
    assert int((found[0] == 0).sum()) == int((found[0] == 1).sum()) == 5
    assert torch.equal(stretch_contrast(torch.full((1, 1, 4, 4), 0.3)), torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"tails must lie in \[0, 0\.5\)"):
        stretch_contrast(ramp, tails=0.5)
