"""Image files and pixels: reading, writing, rounding to 8 bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Size = tuple[int, int]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def quantise(images: Tensor) -> Tensor:
    """Round to the 256 levels of an 8-bit file: what a reader of the saved images gets back."""
    return images.clamp(0, 1).mul(255).round().div(255)


def to_pil(image: Tensor) -> Image.Image:
    """One image ``(C, H, W)`` in [0, 1], C of 1 or 3, as a PIL image of 8 bits."""
    pixels = quantise(image.detach().float().cpu()).mul(255).byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def from_pil(image: Image.Image, channels: int) -> Tensor:
    """A PIL image as ``(C, H, W)`` float in [0, 1], turned to grey or RGB."""
    if channels not in (1, 3):
        raise ValueError(f"image files hold 1 or 3 channels, not {channels}")
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels).view(*pixels.shape[:2], channels).permute(2, 0, 1).contiguous()


def load_image(path: str | Path, channels: int = 3, size: tuple[int, int] | None = None) -> Tensor:
    """Read one image file as ``(1, C, H, W)`` in [0, 1]; ``size`` crops the centre to that shape and resizes.

    Raises ``FileNotFoundError`` or ``ValueError`` naming the file.
    """
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except FileNotFoundError:
        raise FileNotFoundError(f"no image at {path}") from None
    except OSError as error:
        raise ValueError(f"{path} is not a readable image: {error}") from None
    if size is not None:
        scale = min(image.width / size[1], image.height / size[0])
        width, height = round(size[1] * scale), round(size[0] * scale)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height)).resize((size[1], size[0]), Image.Resampling.LANCZOS)
    return from_pil(image, channels).unsqueeze(0)


def fit_pixels(pixels: Tensor, size: Size | None) -> Tensor:
    """Crop the centre of uint8 ``(..., H, W)`` to the shape of ``size`` and resize it, bilinear with
    antialiasing.
    """
    height, width = pixels.shape[-2:]
    if size is None or (height, width) == size:
        return pixels
    scale = min(height / size[0], width / size[1])
    crop = [max(1, round(side * scale)) for side in size]
    top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
    centre = pixels[..., top : top + crop[0], left : left + crop[1]]
    batch = centre if centre.ndim == 4 else centre[None]
    return F.interpolate(batch, size, mode="bilinear", antialias=True).view(*pixels.shape[:-2], *size)


def file_reader(paths: list[Path], channels: int | None) -> Callable[[Sequence[int], Size | None], Tensor]:
    def read(indices: Sequence[int], size: Size | None) -> Tensor:
        chosen = [paths[i] for i in indices]
        with ThreadPoolExecutor() as pool:
            images = list(pool.map(lambda path: fit_pixels(_decode(path, channels), size), chosen))
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


def _decode(path: Path, channels: int | None) -> Tensor:
    try:
        with Image.open(path) as file:
            file.load()
            image = file.copy()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a readable image: {error}") from None
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion would clip instead of scaling
        image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).round().astype(np.uint8))
    mode = {1: "L", 3: "RGB", None: "L" if image.mode in ("L", "1", "LA") else "RGB"}[channels]
    return to_tensor(image.convert(mode))


def to_tensor(image: Image.Image) -> Tensor:
    """A PIL image as uint8 ``(C, H, W)``."""
    pixels = np.array(image, dtype=np.uint8)
    return torch.from_numpy(pixels).view(*pixels.shape[:2], -1).permute(2, 0, 1)
