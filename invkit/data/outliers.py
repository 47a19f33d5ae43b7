"""Images that are none of the training set's: noise, patches of photographs, other data, its own out of place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from invkit.core.spec import ImageSpec, check_images
from invkit.data.datasets import load_data, sample_photo


def gaussian_noise(count: int, spec: ImageSpec, generator: torch.Generator) -> Tensor:
    """``(count, C, H, W)`` of the training images' mean and standard deviation per channel, clamped to [0, 1]."""
    noise = torch.randn(count, *spec.shape, generator=generator)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (spec.mean, spec.std))
    return (mean + std * noise).clamp(0, 1)


def photo_patches(count: int, spec: ImageSpec, generator: torch.Generator, *, side: int = 48) -> Tensor:
    """Random patches, ``side`` pixels wide, of the two photographs that come with scikit-learn, in turn: resized,
    ``(count, C, H, W)`` in [0, 1].

    Raises ``ValueError`` for channels other than 1 or 3 and for patches larger than the photographs.
    """
    if spec.channels not in (1, 3):
        raise ValueError(f"photographs have 1 or 3 channels, not {spec.channels}")
    whole = 420
    if not 1 <= side <= whole:
        raise ValueError(f"a patch is 1 to {whole} pixels wide, not {side}")
    photos = [sample_photo(name, size=whole, channels=spec.channels)[0] for name in ("china", "flower")]
    corners = torch.randint(whole - side + 1, (count, 2), generator=generator).tolist()
    cut = [photos[k % 2][:, y : y + side, x : x + side] for k, (y, x) in enumerate(corners)]
    patches = torch.stack(cut) if cut else torch.zeros(0, spec.channels, side, side)
    return F.interpolate(patches, spec.size, mode="bilinear", antialias=True).clamp(0, 1)


def other_images(name: str, count: int, spec: ImageSpec, *, download: bool = False) -> Tensor:
    """At most ``count`` test images of the data set ``name``, its classes balanced, ``(N, C, H, W)`` in [0, 1] in the
    size and channels of ``spec``: grey is the mean of the three channels, colour is grey three times over.

    Raises as :func:`invkit.data.datasets.load_data`; ``ValueError``, naming the data set, for other changes of
    channels.
    """
    data = load_data(name, size=spec.size, limit=count, download=download)
    images = data.test.images
    if data.spec.channels == spec.channels:
        return images
    if {data.spec.channels, spec.channels} != {1, 3}:
        raise ValueError(f"{name} has images of {data.spec.channels} channels; the network takes {spec.channels}")
    return images.mean(1, keepdim=True) if spec.channels == 1 else images.expand(-1, 3, -1, -1)


def shifted(images: Tensor, fraction: float = 0.5) -> Tensor:
    """Images ``(N, C, H, W)`` moved by ``fraction`` of their size along one axis, in turn left, right, up and down.

    What leaves on one side is lost and black enters on the other: half a digit at ``fraction`` 0.5.
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
