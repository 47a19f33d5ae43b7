"""Images from files: what a source of data is made of, and the source that reads a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from invkit.images import SUFFIXES

Size = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSplit:
    """Labels ``(N,)`` and a function from indices and a size (or None) to pixels, uint8 ``(n, C, H, W)``."""

    labels: Tensor
    read: Callable[[Sequence[int], Size | None], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The splits that a source has (of train, test, heldout), the class names and the usual mean and std, if
    any.
    """

    splits: dict[str, RawSplit]
    classes: tuple[str, ...]
    stats: tuple[tuple[float, ...], tuple[float, ...]] | None = None


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


def image_folder(root: Path, channels: int | None = None) -> Source:
    """One folder per class, ``root/CLASS/*.png``, or the same below ``root/train``, ``root/test`` and maybe
    ``root/val``.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            f"there is no folder {root}; give folder:PATH the path of a folder with one folder per class"
        )
    parts = {"train": root / "train", "test": root / "test", "heldout": root / "val"}
    found = {name: path for name, path in parts.items() if path.is_dir()} if parts["train"].is_dir() else {"all": root}
    if "heldout" in found and "test" not in found:
        found["test"] = found.pop("heldout")
    classes: tuple[str, ...] = ()
    splits = {}
    for name, path in found.items():
        files = {c.name: _images_below(c) for c in sorted(path.iterdir()) if c.is_dir() and not c.name.startswith(".")}
        files = {c: paths for c, paths in files.items() if paths}
        if not files:
            raise ValueError(f"no images in {path}: one folder per class with {', '.join(SUFFIXES)} files is needed")
        classes = classes or tuple(files)
        unknown = sorted(set(files) - set(classes))
        if unknown:
            raise ValueError(f"{path} has classes that {found.get('train', root)} lacks: {', '.join(unknown)}")
        labels = torch.tensor([classes.index(c) for c, paths in files.items() for _ in paths])
        splits[name] = RawSplit(
            labels=labels, read=_file_reader([p for paths in files.values() for p in paths], channels)
        )
    return Source(splits=splits, classes=classes)


def _images_below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def _file_reader(paths: list[Path], channels: int | None) -> Callable[[Sequence[int], Size | None], Tensor]:
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
