"""Where data come from: built-in digits, torchvision, npz files, folders of images."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invkit.data.images import SUFFIXES, Size, file_reader, fit_pixels, to_pixels


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


def image_folder(root: Path, channels: int | None = None) -> Source:
    """One folder per class, ``root/CLASS/*.png``, or the same below ``root/train``, ``root/test`` and maybe
    ``root/val``.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            f"there is no folder {root}; give folder:PATH the path of a folder with one folder per class"
        )
    parts = {"train": root / "train", "test": root / "test", "heldout": root / "val"}
    folders = {"all": root}
    if parts["train"].is_dir():
        folders = {name: path for name, path in parts.items() if path.is_dir()}
    if "heldout" in folders and "test" not in folders:
        folders["test"] = folders.pop("heldout")
    classes: tuple[str, ...] = ()
    splits = {}
    for name, path in folders.items():
        files = {c.name: _images_below(c) for c in sorted(path.iterdir()) if c.is_dir() and not c.name.startswith(".")}
        files = {c: paths for c, paths in files.items() if paths}
        if not files:
            raise ValueError(f"no images in {path}: one folder per class with {', '.join(SUFFIXES)} files is needed")
        classes = classes or tuple(files)
        unknown = sorted(set(files) - set(classes))
        if unknown:
            raise ValueError(f"{path} has classes that {folders.get('train', root)} lacks: {', '.join(unknown)}")
        labels = torch.tensor([classes.index(c) for c, paths in files.items() for _ in paths])
        splits[name] = RawSplit(
            labels=labels, read=file_reader([p for paths in files.values() for p in paths], channels)
        )
    return Source(splits=splits, classes=classes)


def _images_below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
STANDARD = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion-mnist": ((0.2860,), (0.3530,)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "celeba": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet-val": IMAGENET,
}
DIGITS = tuple("0123456789")
MOST_CLASSES = 1_000_000  # more are numbers of another kind, taken for labels


def from_arrays(pixels: Tensor, labels: Tensor) -> RawSplit:
    """A split that lies in memory: uint8 ``(N, C, H, W)`` and int64 ``(N,)``."""

    def read(indices: Sequence[int], size: Size | None) -> Tensor:
        whole = list(indices) == list(range(len(pixels)))  # spares a copy of a large set
        chosen = pixels if whole else pixels[list(indices)]
        return torch.cat([fit_pixels(part, size) for part in chosen.split(4096)])

    return RawSplit(labels=labels.long(), read=read)


def digits() -> Source:
    """The 1,797 handwritten digits that come with scikit-learn: 8x8 scans of 17 grey levels.

    They are enlarged to the size asked for, 16 pixels in most chapters, and hold no more detail then than before.
    """
    from sklearn.datasets import load_digits  # imported where it is needed: it takes a second

    bunch = load_digits()
    pixels = torch.from_numpy(np.round(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
    return Source(splits={"all": from_arrays(pixels, torch.from_numpy(bunch.target))}, classes=DIGITS)


def npz(path: Path) -> Source:
    """An ``.npz`` with MedMNIST's keys: ``train_images``, ``train_labels``, ``test_images``, ``test_labels``,
    maybe ``val_*``.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; give npz:PATH the path of an existing .npz file")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (
        ValueError,
        OSError,
        EOFError,
        TypeError,
        zipfile.BadZipFile,
    ) as error:  # TypeError: a single array
        hint = (
            "it holds pickled objects, which can run code; save plain arrays"
            if "allow_pickle" in str(error)
            else str(error)
        )
        raise ValueError(f"{path} could not be read as an .npz file of arrays: {hint}") from None
    missing = [k for k in ("train_images", "train_labels", "test_images", "test_labels") if k not in arrays]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; it has {', '.join(arrays) or 'nothing'}")
    parts = {"train": "train", "test": "test"} | (
        {"heldout": "val"} if {"val_images", "val_labels"} <= set(arrays) else {}
    )
    splits = {s: _npz_split(arrays, k, path) for s, k in parts.items()}
    n_classes = int(splits["train"].labels.max()) + 1
    for split, key in parts.items():
        bad = sorted({int(v) for v in splits[split].labels.unique() if not 0 <= v < n_classes})
        if bad:
            raise ValueError(
                f"{path}: {key}_labels has {bad}, outside of the training labels' range 0..{n_classes - 1}"
            )
    return Source(splits=splits, classes=tuple(str(i) for i in range(n_classes)))


def _npz_split(arrays: dict[str, np.ndarray], key: str, path: Path) -> RawSplit:
    images, labels = arrays[f"{key}_images"], arrays[f"{key}_labels"]
    shape = images.shape
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(f"{path}: {key}_images must be (N, H, W), (N, H, W, 1) or (N, H, W, 3), not {shape}")
    if len(images) == 0 or labels.size != len(images):
        raise ValueError(f"{path}: {key}_images has {len(images)} images but {key}_labels {labels.size} labels")
    if images.size == 0:
        raise ValueError(f"{path}: {key}_images has images without pixels, its shape is {shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{path}: {key}_labels must be integers, not {labels.dtype}")
    if labels.max() > MOST_CLASSES:
        raise ValueError(f"{path}: {key}_labels go up to {labels.max()}; they must count the classes from 0")
    if np.issubdtype(images.dtype, np.floating) and images.min() >= 0 and images.max() <= 1:
        images = np.round(images * 255).astype(np.uint8)
    if images.dtype != np.uint8:
        raise ValueError(f"{path}: {key}_images must be uint8, or floats in [0, 1]; they are {images.dtype}")
    return from_arrays(
        torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels.reshape(-1).astype(np.int64))
    )


def from_torchvision(name: str, root: Path, download: bool) -> Source:
    """A set that torchvision knows, from ``root``; raises what torchvision raises when it is not there."""
    import torchvision  # imported where it is needed: it takes seconds

    sets: dict[str, Callable[[], dict[str, Any]]] = {
        "mnist": lambda: _pair(torchvision.datasets.MNIST, "train", root, download),
        "fashion-mnist": lambda: _pair(torchvision.datasets.FashionMNIST, "train", root, download),
        "cifar10": lambda: _pair(torchvision.datasets.CIFAR10, "train", root, download),
        "svhn": lambda: _pair(torchvision.datasets.SVHN, "split", root, download),
        "celeba": lambda: _celeba(root, download),
        "imagenet-val": lambda: {"all": torchvision.datasets.ImageNet(root, split="val")},
    }
    pieces = sets[name]()
    first = next(iter(pieces.values()))
    names = [c[0] if isinstance(c, tuple) else c for c in getattr(first, "classes", DIGITS)]
    classes = ("not smiling", "smiling") if name == "celeba" else tuple(names)
    return Source(splits={k: _torchvision_split(v) for k, v in pieces.items()}, classes=classes, stats=STANDARD[name])


def _pair(kind: Callable[..., Any], key: str, root: Path, download: bool) -> dict[str, Any]:
    train, test = (True, False) if key == "train" else ("train", "test")
    return {
        "train": kind(root, download=download, **{key: train}),
        "test": kind(root, download=download, **{key: test}),
    }


def _celeba(root: Path, download: bool) -> dict[str, Any]:
    from torchvision.datasets import CelebA

    parts = {"train": "train", "test": "test", "heldout": "valid"}
    return {k: CelebA(root, split=v, target_type="attr", download=download) for k, v in parts.items()}


def _torchvision_split(data: Any) -> RawSplit:
    if hasattr(data, "attr"):  # CelebA: forty attributes, of which one makes the label
        labels = data.attr[:, data.attr_names.index("Smiling")]
    else:
        labels = torch.as_tensor(np.asarray(data.targets if hasattr(data, "targets") else data.labels))
    if hasattr(data, "data"):
        pixels = torch.as_tensor(np.asarray(data.data))
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels
        return from_arrays(pixels if pixels.shape[1] in (1, 3) else pixels.permute(0, 3, 1, 2), labels)

    def read(indices: Sequence[int], size: Size | None) -> Tensor:
        return torch.stack([fit_pixels(to_pixels(data[i][0], 3), size) for i in indices])

    return RawSplit(labels=labels, read=read)
