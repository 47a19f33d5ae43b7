"""Image files and pixels: reading, writing, rounding to 8 bits.

One way from a file to pixels serves single images and whole folders: decoded to 8 bits, the centre cropped to the shape
wanted, resized bilinearly with antialiasing.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from invkit.core.spec import check_floats, describe
from invkit.data.batching import to_float

Size = tuple[int, int]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def quantise(images: Tensor) -> Tensor:
    """Images in [0, 1] rounded to the 256 levels of an 8-bit file: what a reader of the saved images gets back.

    Args:
        images: Float, of any shape; values outside [0, 1] are clamped.

    Returns:
        Images of the same shape, multiples of 1/255 in [0, 1].

    >>> quantise(torch.tensor([0.5, 2.0])) * 255
    tensor([128., 255.])
    """
    return check_floats(images, "images").clamp(0, 1).mul(255).round().div(255)


def to_pil(image: Tensor) -> Image.Image:
    """One image ``(C, H, W)`` in [0, 1], C of 1 or 3, as a PIL image of 8 bits.

    Args:
        image: Float ``(C, H, W)``; values outside [0, 1] are clamped.

    Returns:
        A picture of W x H pixels, grey (mode ``L``) or RGB.

    Raises:
        ValueError: For another shape or a tensor of integers.

    >>> to_pil(torch.ones(1, 8, 16)).size
    (16, 8)
    """
    from torchvision.transforms.v2 import functional as vision  # imported where it is needed: it takes seconds

    wanted = "a float tensor (C, H, W) of 1 or 3 channels"
    image = check_floats(image, "image", wanted)
    if image.ndim != 3 or len(image) not in (1, 3):
        raise ValueError(f"image must be {wanted}, not {describe(image)}")
    pixels = image.float().cpu().clamp(0, 1).mul(255).round().byte()
    picture: Image.Image = vision.to_pil_image(pixels)
    return picture


def from_pil(image: Image.Image, channels: int) -> Tensor:
    """A PIL image as ``(C, H, W)`` float in [0, 1], turned to grey (1 channel) or RGB (3).

    Args:
        image: A picture of any mode; 16 bits are scaled to 8.
        channels: 1 for grey, 3 for RGB.

    Returns:
        float32 ``(channels, H, W)``, multiples of 1/255 in [0, 1].

    Raises:
        ValueError: For another number of channels.

    >>> from_pil(Image.new("RGB", (16, 8), "white"), channels=1).shape
    torch.Size([1, 8, 16])
    """
    return to_float(to_pixels(image, channels)).contiguous()


def to_pixels(image: Image.Image, channels: int | None = None) -> Tensor:
    """A PIL image as uint8 ``(C, H, W)``, in grey (1 channel), RGB (3), or whichever of the two it is in (None).

    >>> to_pixels(Image.new("L", (2, 1), 7)).tolist()
    [[[7, 7]]]
    """
    from torchvision.transforms.v2 import functional as vision

    if not isinstance(image, Image.Image):
        raise ValueError(f"image must be a PIL image, not a {type(image).__name__}")
    if channels not in (1, 3, None):
        raise ValueError(f"image files hold 1 or 3 channels, not {channels}")
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion would clip instead of scaling
        image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).round().astype(np.uint8))
    if channels is None:
        channels = 1 if image.mode in ("L", "1", "LA") else 3
    pixels: Tensor = vision.pil_to_tensor(image.convert("L" if channels == 1 else "RGB"))
    return pixels


def checked_size(size: int | Sequence[int] | None) -> Size | None:
    """``(height, width)`` of a number of pixels, of such a pair, or None; ``ValueError`` for anything else.

    >>> checked_size(8), checked_size([8, 6])
    ((8, 8), (8, 6))
    """
    if size is None:
        return None
    try:
        sides = tuple(operator.index(side) for side in (size if isinstance(size, Sequence) else (size, size)))
    except TypeError:
        sides = ()
    if len(sides) != 2 or min(sides) < 1 or isinstance(size, bool):
        raise ValueError(f"size must be a number of pixels or (height, width), at least 1, not {size!r}")
    return sides[0], sides[1]


def load_image(path: str | Path, channels: int = 3, size: int | Size | None = None) -> Tensor:
    """Read one image file as ``(1, C, H, W)`` in [0, 1], in the pixels that ``load_data("folder:...")`` would give.

    Args:
        path: The file.
        channels: 1 for grey, 3 for RGB.
        size: ``(H, W)``, or one number for both: the centre is cropped to this shape and resized, bilinear with
            antialiasing; None keeps the image as it is.

    Returns:
        float32 ``(1, channels, H, W)``, multiples of 1/255 in [0, 1].

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where it is no readable image, or for sizes below 1, naming the file or the size.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "grey.png"
    >>> to_pil(torch.full((1, 8, 16), 0.2)).save(path)
    >>> load_image(path, channels=1, size=(2, 2))
    tensor([[[[0.2000, 0.2000],
              [0.2000, 0.2000]]]])
    """
    return to_float(fit_pixels(read_pixels(Path(path), channels), checked_size(size)))[None].contiguous()


def read_pixels(path: Path, channels: int | None = None) -> Tensor:
    """The pixels of an image file, see :func:`to_pixels`; ``FileNotFoundError`` or ``ValueError`` naming the file."""
    try:
        with Image.open(path) as file:
            file.load()
            image = file.copy()
    except FileNotFoundError:
        raise FileNotFoundError(f"no image at {path}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a readable image: {error}") from None
    return to_pixels(image, channels)


def fit_pixels(pixels: Tensor, size: Size | None) -> Tensor:
    """Crop the centre of uint8 ``(..., H, W)`` to the shape of ``size`` and resize it, bilinear with antialiasing.

    >>> fit_pixels(torch.full((1, 9, 20), 7, dtype=torch.uint8), (3, 3)).unique()
    tensor([7], dtype=torch.uint8)
    """
    height, width = pixels.shape[-2:]
    if size is None or (height, width) == tuple(size):
        return pixels
    from torchvision.transforms.v2 import functional as vision

    scale = min(height / size[0], width / size[1])
    crop = [max(1, round(side * scale)) for side in size]
    top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
    fitted: Tensor = vision.resized_crop(pixels, top, left, *crop, list(size), antialias=True)
    return fitted


def file_reader(paths: list[Path], channels: int | None) -> Callable[[Sequence[int], Size | None], Tensor]:
    """A function from indices of ``paths`` and a size (or None) to pixels, uint8 ``(n, C, H, W)``.

    It raises ``ValueError`` naming two files where they differ in channels or, without a size, in shape.
    """

    def read(indices: Sequence[int], size: Size | None) -> Tensor:
        chosen = [paths[i] for i in indices]
        with ThreadPoolExecutor() as pool:
            images = list(pool.map(lambda path: fit_pixels(read_pixels(path, channels), size), chosen))
        for path, image in zip(chosen, images, strict=True):
            if len(image) != len(images[0]):
                raise ValueError(
                    f"{chosen[0]} has {len(images[0])} channels but {path} has {len(image)}; "
                    "pass channels=1 or channels=3 to convert them all"
                )
            if image.shape != images[0].shape:
                raise ValueError(
                    f"{chosen[0]} is {tuple(images[0].shape[1:])} but {path} {tuple(image.shape[1:])}; "
                    "pass size= to bring them to one size"
                )
        return torch.stack(images)

    return read
