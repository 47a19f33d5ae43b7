"""Images that are none of the training set's: noise, patches of photographs, other data, its own out of place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from invkit.core.rng import default_generator
from invkit.core.spec import ImageSpec, check_images
from invkit.data.datasets import load_data, sample_photo


def gaussian_noise(count: int, spec: ImageSpec, generator: torch.Generator | None = None) -> Tensor:
    """Noise of the training images' mean and standard deviation per channel, ``(count, C, H, W)`` in [0, 1].

    Args:
        count: How many images.
        spec: Whose shape, mean and std.
        generator: Of the noise; a fixed one if None.

    Returns:
        float32 ``(count, C, H, W)`` in [0, 1]; what lies outside is clamped.

    >>> spec = ImageSpec(channels=1, size=(4, 4), mean=(0.5,), std=(0.1,), classes=("a",))
    >>> gaussian_noise(2, spec).shape
    torch.Size([2, 1, 4, 4])
    """
    noise = torch.randn(_checked(count), *spec.shape, generator=generator or default_generator())
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (spec.mean, spec.std))
    return (mean + std * noise).clamp(0, 1)


def photo_patches(count: int, spec: ImageSpec, generator: torch.Generator | None = None, *, side: int = 48) -> Tensor:
    """Random patches of the two photographs that come with scikit-learn, in turn: ``(count, C, H, W)`` in [0, 1].

    Args:
        count: How many images.
        spec: Whose size and channels.
        generator: Of the places; a fixed one if None.
        side: Pixels of a patch on each side, before it is resized.

    Returns:
        float32 ``(count, C, H, W)`` in [0, 1], from china and flower in turn.

    Raises:
        ValueError: For channels other than 1 or 3 and for patches larger than the photographs.

    >>> spec = ImageSpec(channels=3, size=(4, 4), mean=(0.5,) * 3, std=(0.1,) * 3, classes=("a",))
    >>> photo_patches(2, spec).shape
    torch.Size([2, 3, 4, 4])
    """
    if spec.channels not in (1, 3):
        raise ValueError(f"photographs have 1 or 3 channels, not {spec.channels}")
    whole = 420
    if not 1 <= side <= whole:
        raise ValueError(f"a patch is 1 to {whole} pixels wide, not {side}")
    photos = [sample_photo(name, size=whole, channels=spec.channels)[0] for name in ("china", "flower")]
    corners = torch.randint(whole - side + 1, (_checked(count), 2), generator=generator or default_generator()).tolist()
    cut = [photos[k % 2][:, y : y + side, x : x + side] for k, (y, x) in enumerate(corners)]
    patches = torch.stack(cut) if cut else torch.zeros(0, spec.channels, side, side)
    return F.interpolate(patches, spec.size, mode="bilinear", antialias=True).clamp(0, 1)


def other_images(name: str, count: int, spec: ImageSpec, *, download: bool = False) -> Tensor:
    """Test images of another data set in a network's size and channels, ``(N, C, H, W)`` in [0, 1].

    Grey is the mean of the three channels, colour is grey three times over.

    Args:
        name: See :func:`invkit.data.datasets.load_data`.
        count: At most so many images, the classes balanced.
        spec: Whose size and channels.
        download: Fetch a set of torchvision's that is not there.

    Returns:
        float32 ``(N, C, H, W)`` in [0, 1] on the CPU, N at most ``count``.

    Raises:
        ValueError: For other changes of channels, naming the data set, and as ``load_data``.
        FileNotFoundError: For what is not there.

    >>> spec = ImageSpec(channels=3, size=(4, 4), mean=(0.5,) * 3, std=(0.1,) * 3, classes=("a",))
    >>> other_images("digits", 5, spec).shape
    torch.Size([5, 3, 4, 4])
    """
    data = load_data(name, size=spec.size, limit=count, download=download)
    images = data.test.images
    if data.spec.channels == spec.channels:
        return images
    if {data.spec.channels, spec.channels} != {1, 3}:
        raise ValueError(f"{name} has images of {data.spec.channels} channels; the network takes {spec.channels}")
    return images.mean(1, keepdim=True) if spec.channels == 1 else images.expand(-1, 3, -1, -1)


def shifted(images: Tensor, fraction: float = 0.5) -> Tensor:
    """Images moved along one axis, in turn left, right, up and down: half a digit at ``fraction`` 0.5.

    What leaves on one side is lost and black enters on the other.

    Args:
        images: ``(N, C, H, W)``.
        fraction: Of their size, in [0, 1].

    Returns:
        Images of the same shape; the first moves left, the second right, the third up, the fourth down, and so on.

    Raises:
        ValueError: For another fraction.

    >>> shifted(torch.tensor([[[[1.0, 2.0]]]]))
    tensor([[[[2., 0.]]]])
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"the fraction of the size to shift by must lie in [0, 1], not {fraction}")
    images = check_images(images)
    moved = torch.zeros_like(images)
    height, width = images.shape[2:]
    dy, dx = round(fraction * height), round(fraction * width)
    moved[0::4, :, :, : width - dx] = images[0::4, :, :, dx:]
    moved[1::4, :, :, dx:] = images[1::4, :, :, : width - dx]
    moved[2::4, :, : height - dy] = images[2::4, :, dy:]
    moved[3::4, :, dy:] = images[3::4, :, : height - dy]
    return moved


def _checked(count: int) -> int:
    if not (isinstance(count, int) and count >= 0):
        raise ValueError(f"count must be a whole number of at least 0, not {count!r}")
    return count
