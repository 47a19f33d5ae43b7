"""Images that are none of the training set's."""

import numpy as np
import pytest
import torch

from invkit.core.rng import seeded
from invkit.core.spec import ImageSpec
from invkit.data.outliers import gaussian_noise, other_images, photo_patches, shifted


def spec(channels=1):
    stats = {"mean": (0.5,) * channels, "std": (0.1,) * channels}
    return ImageSpec(channels=channels, size=(16, 16), classes=("a", "b"), **stats)


def test_noise_has_the_training_statistics():
    noise = gaussian_noise(200, spec(3), seeded(0))
    assert noise.shape == (200, 3, 16, 16)
    assert float(noise.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(noise.std()) == pytest.approx(0.1, abs=0.01)
    assert torch.equal(noise, gaussian_noise(200, spec(3), seeded(0)))


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_are_photographs(channels):
    patches = photo_patches(40, spec(channels), seeded(0))
    assert patches.shape == (40, channels, 16, 16)
    assert 0 <= patches.min() <= patches.max() <= 1
    neighbours = (patches[..., 1:] - patches[..., :-1]).abs().mean()
    assert neighbours < 0.6 * (patches - patches.roll(1, 0)).abs().mean()  # smoother within than between
    assert torch.equal(patches, photo_patches(40, spec(channels), seeded(0)))
    assert not torch.equal(patches, photo_patches(40, spec(channels), seeded(1)))
    assert len(photo_patches(0, spec(channels), seeded(0))) == 0


def test_shifts_by_hand():
    images = torch.arange(1.0, 17.0).view(1, 1, 4, 4).repeat(4, 1, 1, 1)
    left, right, up, down = shifted(images, 0.25)[:, 0]
    assert left[0].tolist() == [2, 3, 4, 0]
    assert right[0].tolist() == [0, 1, 2, 3]
    assert up[:, 0].tolist() == [5, 9, 13, 0]
    assert down[:, 0].tolist() == [0, 1, 5, 9]
    assert torch.equal(shifted(images, 0.0), images)
    assert float(shifted(images, 1.0).abs().max()) == 0


def test_another_data_set_in_size_and_channels(tmp_path):
    grey = other_images("digits", 20, spec())
    assert grey.shape == (20, 1, 16, 16)
    colour = other_images("digits", 20, spec(3))
    assert torch.equal(colour, grey.expand(-1, 3, -1, -1))
    pixels = np.zeros((12, 8, 8, 3), np.uint8) + np.uint8([0, 51, 102])
    part = {"images": pixels, "labels": np.arange(12) % 2}
    np.savez(tmp_path / "x.npz", **{f"{split}_{k}": v for split in ("train", "test") for k, v in part.items()})
    mean = other_images(f"npz:{tmp_path / 'x.npz'}", 5, spec())
    torch.testing.assert_close(mean, torch.full_like(mean, 0.2))
    assert mean.shape[1:] == (1, 16, 16)
    with pytest.raises(ValueError, match="digits has images of 1 channels; the network takes 2"):
        other_images("digits", 5, spec(2))


def test_what_is_refused():
    with pytest.raises(ValueError, match="1 or 3 channels, not 2"):
        photo_patches(1, spec(2), seeded(0))
    with pytest.raises(ValueError, match="1 to 420 pixels wide, not 500"):
        photo_patches(1, spec(), seeded(0), side=500)
    for outliers in (gaussian_noise, photo_patches):
        for count in (-1, 2.5, "3"):
            with pytest.raises(ValueError, match="count must be"):
                outliers(count, spec(), seeded(0))
    with pytest.raises(ValueError, match="fraction"):
        shifted(torch.zeros(1, 1, 4, 4), 1.5)
