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
from invkit.data.images import Size, fit_pixels
from invkit.data.sources import STANDARD, RawSplit, Source, digits, from_torchvision, image_folder, npz

__all__ = ["DataSet", "Split", "batches", "channel_statistics", "load_data", "sample_photo", "to_float"]

DEFAULT_SIZE: dict[str, Size] = {"digits": (16, 16), "celeba": (64, 64), "imagenet-val": (224, 224)}
NAMES = ("digits", *STANDARD, "folder:PATH", "npz:PATH")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Some labelled images: ``pixels`` uint8 ``(N, C, H, W)``, ``labels`` int64 ``(N,)``, both on the CPU."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> Split:
        return Split(pixels=self.pixels[index], labels=self.labels[index])

    @property
    def images(self) -> Tensor:
        """All images as float in [0, 1], ``(N, C, H, W)``: four times the memory of ``pixels``; slice first
        if large.
        """
        return to_float(self.pixels)

    def of_class(self, label: int) -> Split:
        """The images of one class."""
        return self[torch.nonzero(self.labels == label)[:, 0]]

    def per_class(self, count: int) -> Split:
        """The first ``count`` images of each class, class by class; fewer where a class has fewer."""
        rows = [torch.nonzero(self.labels == label)[:count, 0] for label in self.labels.unique()]
        return self[torch.cat(rows)] if rows else self


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DataSet:
    """A data set in three disjoint splits: ``train``, ``test``, and ``heldout`` for what must have seen
    neither.
    """

    name: str
    spec: ImageSpec
    train: Split
    test: Split
    heldout: Split


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
    """Load a data set: ``digits``, ``mnist``, ``fashion-mnist``, ``svhn``, ``cifar10``, ``celeba``,
    ``imagenet-val``, ``folder:PATH`` (one folder per class, maybe below ``train/`` and ``test/``) or
    ``npz:PATH`` (MedMNIST's keys).

    ``size`` resizes (digits come at 16x16 unless told otherwise); ``channels`` turns the images of a folder
    to grey (1) or RGB (3); ``limit`` keeps at most so many images of each split, the classes balanced;
    ``folder`` is where torchvision's sets lie (else ``$INVKIT_DATA``, else ``~/.cache/invkit``), and they are
    fetched only with ``download=True``. A set that comes in one piece is divided by ``seed``, class by class,
    4 : 1 : 1; a set without a held-out part gives up a tenth of its training images for it. Mean and std are
    the usual ones of known sets, else those of the training images.

    Raises ``ValueError`` for an unknown name or unusable contents and ``FileNotFoundError`` for what is not
    there.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 or 3, not {channels}")
    wanted = (size, size) if isinstance(size, int) else size or DEFAULT_SIZE.get(name)
    if wanted is not None and (len(wanted) != 2 or min(wanted) < 1):
        raise ValueError(f"size must be a positive number of pixels or (height, width), not {size}")
    root = Path(folder or os.environ.get("INVKIT_DATA") or Path.home() / ".cache" / "invkit").expanduser()
    source = _source(name, root, channels, download)
    generator = seeded(seed)
    pieces = {k: _read(*v, limit, wanted, generator) for k, v in _divide(source, generator).items()}
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
        found = npz(root / f"{name}.npz")
        return Source(splits=found.splits, classes=found.classes, stats=STANDARD[name])
    try:
        return from_torchvision(name, root, download)
    except (RuntimeError, OSError) as error:
        how = "could not be downloaded" if download else "is not there"
        fetch = "" if download or name == "imagenet-val" else ", pass download=True"
        raise FileNotFoundError(
            f"the data set {name} {how}: looked in {root} ({_first_line(error)}). Put it there in "
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
    """Mean and standard deviation of each channel of uint8 ``(N, C, H, W)``, on the scale of [0, 1]."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    share = torch.stack([torch.bincount(c.reshape(-1), minlength=256) for c in pixels.unbind(1)]).double()
    share /= share.sum(1, keepdim=True)
    mean = share @ levels
    std = (share * (levels - mean[:, None]) ** 2).sum(1).sqrt().clamp(min=1 / 255)  # a constant channel stays finite
    return tuple(round(v, 6) for v in mean.tolist()), tuple(round(v, 6) for v in std.tolist())


def sample_photo(name: str = "flower", *, size: int = 96, channels: int = 3) -> Tensor:
    """One of the two photographs that come with scikit-learn (``china``, ``flower``), ``(1, C, size, size)`` in [0, 1].

    The centre is cropped to a square; one channel is the mean of the three. Raises ``ValueError`` for another name.
    """
    if name not in ("china", "flower"):
        raise ValueError(f"scikit-learn ships the photographs china and flower, not {name!r}")
    from sklearn.datasets import load_sample_image

    pixels = torch.from_numpy(load_sample_image(f"{name}.jpg").copy()).permute(2, 0, 1)[None]
    photo = to_float(fit_pixels(pixels, (size, size)))
    return photo if channels == 3 else photo.mean(1, keepdim=True)
