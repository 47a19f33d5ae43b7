"""Data sets by name, held in memory as bytes, handed out as float images in [0, 1]."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from invkit.core.rng import seeded
from invkit.core.spec import ImageSpec
from invkit.data.batching import batches, to_float
from invkit.data.images import Size, checked_size, fit_pixels
from invkit.data.sources import STANDARD, RawSplit, Source, digits, from_torchvision, image_folder, npz

__all__ = ["DataSet", "Split", "batches", "channel_statistics", "load_data", "sample_photo", "to_float"]

DEFAULT_SIZE: dict[str, Size] = {"digits": (16, 16), "celeba": (64, 64), "imagenet-val": (224, 224)}
NAMES = ("digits", *STANDARD, "folder:PATH", "npz:PATH")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Some labelled images; ``split[rows]`` are some of them.

    >>> split = Split(pixels=torch.zeros(6, 1, 8, 8, dtype=torch.uint8), labels=torch.arange(6) % 2)
    >>> len(split), len(split[:4]), split[-1].labels
    (6, 4, tensor([1]))
    """

    pixels: Tensor
    """uint8 ``(N, C, H, W)`` on the CPU."""
    labels: Tensor
    """Class indices, int64 ``(N,)`` on the CPU."""

    def __post_init__(self) -> None:
        if len(self.pixels) != len(self.labels):
            raise ValueError(f"a split needs a label per image, not {len(self.labels)} for {len(self.pixels)}")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int | slice | Tensor) -> Split:
        if isinstance(index, int):
            index = torch.tensor([index])
        return Split(pixels=self.pixels[index], labels=self.labels[index])

    @property
    def images(self) -> Tensor:
        """All images as float ``(N, C, H, W)`` in [0, 1]: four times the memory of ``pixels``; slice first if large."""
        return to_float(self.pixels)

    def of_class(self, label: int) -> Split:
        """The images of one class.

        >>> Split(pixels=torch.zeros(3, 1, 8, 8), labels=torch.tensor([0, 1, 0])).of_class(0).labels
        tensor([0, 0])
        """
        return self[torch.nonzero(self.labels == label)[:, 0]]

    def per_class(self, count: int) -> Split:
        """The first ``count`` images of each class, class by class; fewer where a class has fewer.

        >>> Split(pixels=torch.zeros(3, 1, 8, 8), labels=torch.tensor([1, 1, 0])).per_class(1).labels
        tensor([0, 1])
        """
        if count < 0:
            raise ValueError(f"count must be at least 0, not {count}")
        rows = [torch.nonzero(self.labels == label)[:count, 0] for label in self.labels.unique()]
        return self[torch.cat(rows)] if rows else self


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DataSet:
    """A data set in three disjoint splits.

    >>> data = load_data("digits", limit=20)
    >>> data.spec.n_classes, data.train.images.shape
    (10, torch.Size([20, 1, 16, 16]))
    """

    name: str
    spec: ImageSpec
    """Shape, mean, std and class names."""
    train: Split
    test: Split
    heldout: Split
    """For what must have seen neither of the others."""


def load_data(
    name: str,
    *,
    size: int | Size | None = None,
    channels: int | None = None,
    limit: int | None = None,
    folder: str | Path | None = None,
    download: bool = False,
    seed: int = 0,
) -> DataSet:
    """Load a data set by its name.

    A set that comes in one piece is divided by ``seed``, class by class, 4 : 1 : 1; a set without a held-out part gives
    up a tenth of its training images for it. Mean and std are the usual ones of known sets, else those of the training
    images.

    Args:
        name: ``digits``, ``mnist``, ``fashion-mnist``, ``svhn``, ``cifar10``, ``celeba``, ``imagenet-val``,
            ``folder:PATH`` (one folder per class, maybe below ``train/`` and ``test/``) or ``npz:PATH`` (MedMNIST's
            keys).
        size: Pixels, or ``(H, W)``: the centre is cropped to this shape and resized (digits come at 16x16 unless told
            otherwise).
        channels: Turns the images of a folder to grey (1) or RGB (3).
        limit: Keeps at most so many images of each split, the classes balanced.
        folder: Where torchvision's sets lie (else ``$INVKIT_DATA``, else ``~/.cache/invkit``).
        download: Fetch a set of torchvision's that is not there.
        seed: Of the division and of the choice of ``limit``.

    Returns:
        The data set, its images as bytes on the CPU, with shape, mean, std and class names in ``spec``.

    Raises:
        ValueError: For an unknown name, options that make no sense or unusable contents, naming the file.
        FileNotFoundError: For what is not there.

    >>> data = load_data("digits", size=8, limit=30)
    >>> [len(split) for split in (data.train, data.test, data.heldout)]
    [30, 30, 30]
    """
    if not isinstance(name, str):
        raise ValueError(f"name must be text such as 'digits' or 'folder:PATH', not a {type(name).__name__}")
    if limit is not None and not (isinstance(limit, int) and limit >= 1):
        raise ValueError(f"limit must be a whole number of at least 1, not {limit!r}")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 or 3, not {channels!r}")
    shape = checked_size(size) or DEFAULT_SIZE.get(name)
    root = Path(folder or os.environ.get("INVKIT_DATA") or Path.home() / ".cache" / "invkit").expanduser()
    source = _source(name, root, channels, download)
    generator = seeded(seed)
    pieces = {k: _read(*v, limit, shape, generator) for k, v in _divide(source, generator).items()}
    spec = _spec(name, source, pieces)
    return DataSet(name=name, spec=spec, **pieces)


def _source(name: str, root: Path, channels: int | None, download: bool) -> Source:
    kind, _, path = name.partition(":")
    if kind in ("folder", "npz") and path:
        place = Path(path).expanduser()
        place = place if place.exists() or place.is_absolute() else root / place if (root / place).exists() else place
        return npz(place) if kind == "npz" else image_folder(place, channels)
    if name == "digits":
        return digits()
    if name not in STANDARD:
        raise ValueError(f"there is no data set {name!r}; known are {', '.join(NAMES)}")
    if (root / f"{name}.npz").is_file():
        source = npz(root / f"{name}.npz")
        return Source(splits=source.splits, classes=source.classes, stats=STANDARD[name])
    try:
        return from_torchvision(name, root, download)
    except (RuntimeError, OSError) as error:
        state = "could not be downloaded" if download else "is not there"
        fetch = "" if download or name == "imagenet-val" else ", pass download=True"
        raise FileNotFoundError(
            f"the data set {name} {state}: looked in {root} ({_first_line(error)}). Put it there in "
            f"torchvision's layout or as {name}.npz, name another folder by folder= or INVKIT_DATA{fetch}, "
            "or use the built-in 'digits'"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")


def _divide(source: Source, generator: torch.Generator) -> dict[str, tuple[RawSplit, Tensor]]:
    """Three disjoint parts: name to (split to read from, indices)."""
    parts = {k: (raw, torch.arange(len(raw.labels))) for k, raw in source.splits.items()}
    if "all" in parts:
        raw, _ = parts.pop("all")
        rest, test = _stratified(raw.labels, 1 / 6, generator)
        train, heldout = _stratified(raw.labels[rest], 1 / 5, generator)
        return {"train": (raw, rest[train]), "test": (raw, test), "heldout": (raw, rest[heldout])}
    for missing, share in (("test", 1 / 6), ("heldout", 1 / 10)):
        if missing not in parts:
            raw, indices = parts["train"]
            rest, taken = _stratified(raw.labels[indices], share, generator)
            parts["train"], parts[missing] = (raw, indices[rest]), (raw, indices[taken])
    return parts


def _stratified(labels: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices of two parts, each class divided alike; the second holds about ``share`` of it. Both are
    sorted.
    """
    taken = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = torch.nonzero(labels == label)[:, 0]
        order = torch.randperm(len(members), generator=generator)
        taken[members[order[: round(len(members) * share)]]] = True
    return torch.nonzero(~taken)[:, 0], torch.nonzero(taken)[:, 0]


def _read(raw: RawSplit, indices: Tensor, limit: int | None, size: Size | None, generator: torch.Generator) -> Split:
    if limit is not None and limit < len(indices):
        indices = indices[_balanced(raw.labels[indices], limit, generator)]
    if len(indices) == 0:  # a class with very few images gives nothing to the smaller parts
        return Split(pixels=raw.read([0], size)[:0], labels=raw.labels[:0].long())
    return Split(pixels=raw.read(indices.tolist(), size), labels=raw.labels[indices].long())


def _balanced(labels: Tensor, limit: int, generator: torch.Generator) -> Tensor:
    """``limit`` indices: each class's members in random order, dealt round after round."""
    rank = torch.empty(len(labels))
    for label in labels.unique():
        members = torch.nonzero(labels == label)[:, 0]
        rank[members] = torch.randperm(len(members), generator=generator).float()
    return torch.argsort(rank, stable=True)[:limit].sort().values


def _spec(name: str, source: Source, pieces: dict[str, Split]) -> ImageSpec:
    train = pieces["train"]
    if len(train) == 0:
        raise ValueError(f"{name} has no training images")
    shape: tuple[int, int, int] = tuple(train.pixels.shape[1:])  # type: ignore[assignment]
    for part, split in pieces.items():
        if len(split) and tuple(split.pixels.shape[1:]) != shape:
            raise ValueError(
                f"{name}: {part} images are {tuple(split.pixels.shape[1:])}, training images {shape} "
                "(channels, height, width); pass size= (and channels= for a folder) for one shape"
            )
    mean, std = source.stats or channel_statistics(train.pixels)
    return ImageSpec(channels=shape[0], size=shape[1:], mean=mean, std=std, classes=source.classes)


def channel_statistics(pixels: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 ``(N, C, H, W)``, on the scale of [0, 1].

    Args:
        pixels: uint8 ``(N, C, H, W)``, at least one.

    Returns:
        The means and the standard deviations, C numbers each, rounded to 6 digits; a standard deviation is at least
        1/255, so that constant channels can be divided by it.

    Raises:
        ValueError: For other types and no pixels.

    >>> channel_statistics(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1))
    ((0.5,), (0.5,))
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.numel() == 0:
        raise ValueError(f"pixels must be uint8 (N, C, H, W), not {pixels.dtype} {tuple(pixels.shape)}")
    levels = torch.arange(256, dtype=torch.float64) / 255
    share = torch.stack([torch.bincount(c.reshape(-1), minlength=256) for c in pixels.unbind(1)]).double()
    share /= share.sum(1, keepdim=True)
    mean = share @ levels
    std = (share * (levels - mean[:, None]) ** 2).sum(1).sqrt().clamp(min=1 / 255)  # a constant channel stays finite
    return tuple(round(v, 6) for v in mean.tolist()), tuple(round(v, 6) for v in std.tolist())


def sample_photo(name: str = "flower", *, size: int = 96, channels: int = 3) -> Tensor:
    """One of the two photographs that come with scikit-learn, ``(1, C, size, size)`` in [0, 1].

    Args:
        name: ``china`` or ``flower``.
        size: Pixels on each side; the centre is cropped to a square.
        channels: 3, or 1 for the mean of the three.

    Returns:
        The photograph, float ``(1, channels, size, size)`` in [0, 1].

    Raises:
        ValueError: For another name, size or number of channels.

    >>> sample_photo("china", size=8, channels=1).shape
    torch.Size([1, 1, 8, 8])
    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, not {channels!r}")
    if name not in ("china", "flower"):
        raise ValueError(f"scikit-learn ships the photographs china and flower, not {name!r}")
    from sklearn.datasets import load_sample_image

    pixels = torch.from_numpy(load_sample_image(f"{name}.jpg").copy()).permute(2, 0, 1)[None]
    photo = to_float(fit_pixels(pixels, checked_size(size)))
    return photo if channels == 3 else photo.mean(1, keepdim=True)
