"""A reader's own images, opened: with or without labels, in one piece or divided, whatever cannot be read left out."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from invkit.core.rng import seeded
from invkit.core.spec import ImageSpec
from invkit.data.batching import to_float
from invkit.data.datasets import Split, load_data
from invkit.data.images import SUFFIXES, fit_pixels, read_pixels
from invkit.data.sources import npz


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pictures:
    """Images of one origin, in the shape that a network takes.

    >>> pictures = Pictures(pixels=torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
    >>> len(pictures), pictures.labels is None
    (4, True)
    """

    pixels: Tensor
    """uint8 ``(N, C, H, W)``."""
    labels: Tensor | None = None
    """Classes of the network, int64 ``(N,)``; None where they are not known."""
    classes: tuple[str, ...] = ()
    """Names of their classes where they have any, in order."""
    notes: tuple[str, ...] = ()
    """Sentences on what was left out."""

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: Tensor | slice) -> Pictures:
        return replace(self, pixels=self.pixels[rows], labels=None if self.labels is None else self.labels[rows])

    @property
    def images(self) -> Tensor:
        """As float ``(N, C, H, W)`` in [0, 1]."""
        return to_float(self.pixels)

    def some(self, most: int, seed: int = 0) -> Pictures:
        """At most so many of them, drawn at random.

        >>> len(Pictures(pixels=torch.zeros(4, 1, 8, 8, dtype=torch.uint8)).some(3))
        3
        """
        if len(self) <= most:
            return self
        return self[torch.randperm(len(self), generator=seeded(seed))[:most]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What a network was trained on, and images of the same origin that it never saw."""

    train: Pictures | None = None
    heldout: Pictures | None = None


def open_images(data: str, heldout: str, spec: ImageSpec, *, most: int = 2000, seed: int = 0) -> Pair:
    """The images that a reader names, in the shape of a network's.

    Args:
        data: ``folder:PATH``, ``npz:PATH`` or a known set such as ``digits``. Below ``train/`` and ``test/`` of a
            folder, and in an ``npz`` with both parts, lie training and held-out images; what comes in one piece are
            training images. A folder may hold a folder for each class, or images without labels. Empty for none.
        heldout: Likewise, of images that were not trained on. A set with both parts gives its test part.
        spec: The network's images.
        most: Of each kind, drawn at random.
        seed: Of the choice.

    Returns:
        Both kinds, as far as they are there.

    Raises:
        ValueError: For a set that is unknown, or of which nothing can be read.
        FileNotFoundError: For a path that is not there.

    >>> spec = ImageSpec(channels=1, size=(8, 8), mean=(0.5,), std=(0.5,), classes=range(10))
    >>> pair = open_images("digits", "", spec, most=50)
    >>> pair.train.pixels.shape, len(pair.heldout)
    (torch.Size([50, 1, 8, 8]), 50)
    """
    own = _parts(data, spec) if data else {}
    other = _parts(heldout, spec) if heldout else {}
    train = own.get("train")
    unseen = other.get("test") or other.get("train") or own.get("test")
    return Pair(
        train=None if train is None else train.some(most, seed),
        heldout=None if unseen is None else unseen.some(most, seed),
    )


def glance(data: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Shape ``(C, H, W)`` of the first image of a set, and the names of its classes; for a template to fill in.

    >>> glance("digits")
    ((1, 16, 16), ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9'))
    """
    kind, _, path = data.partition(":")
    if kind == "folder":
        folders = _class_folders(_folder_parts(Path(path).expanduser())["train"])
        files = next(iter(folders.values()))
        return tuple(read_pixels(files[0]).shape), tuple(name for name in folders if name)
    loaded = load_data(data, limit=1000)
    return loaded.spec.shape, loaded.spec.classes


def _parts(name: str, spec: ImageSpec) -> dict[str, Pictures]:
    kind, _, path = name.partition(":")
    if kind == "folder" and path:
        parts = _folder_parts(Path(path).expanduser())
        return {part: _read_folder(folder, spec) for part, folder in parts.items()}
    if kind == "npz" and path:
        source = npz(Path(path).expanduser())
        splits = {part: split.read(range(len(split.labels)), spec.size) for part, split in source.splits.items()}
        return {
            part: _labelled(_channels(pixels, spec), source.splits[part].labels, source.classes, spec)
            for part, pixels in splits.items()
        }
    data = load_data(name, size=spec.size)
    pieces: dict[str, Split] = {"train": data.train, "test": data.test}
    return {
        part: _labelled(_channels(split.pixels, spec), split.labels, data.spec.classes, spec)
        for part, split in pieces.items()
    }


def _folder_parts(root: Path) -> dict[str, Path]:
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}; give folder:PATH the path of a folder with images")
    if not (root / "train").is_dir():
        return {"train": root}
    unseen = next((root / part for part in ("test", "val", "heldout") if (root / part).is_dir()), None)
    return {"train": root / "train"} | ({"test": unseen} if unseen else {})


def _class_folders(root: Path) -> dict[str, list[Path]]:
    """Image files by class; those that lie in the folder itself, of no class, by the empty name."""

    def files(folder: Path, below: bool) -> list[Path]:
        found = folder.rglob("*") if below else folder.glob("*")
        return sorted(p for p in found if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))

    folders = {f.name: files(f, True) for f in sorted(root.iterdir()) if f.is_dir() and not f.name.startswith(".")}
    folders = {name: found for name, found in folders.items() if found} or {"": files(root, False)}
    if not any(folders.values()):
        raise ValueError(f"no images in {root}: files that end in {', '.join(SUFFIXES)} are needed")
    return folders


def _read_folder(root: Path, spec: ImageSpec) -> Pictures:
    """Every image that can be read."""
    folders = _class_folders(root)
    files = [(name, path) for name, paths in folders.items() for path in paths]

    def read(path: Path) -> Tensor | None:
        try:
            return fit_pixels(read_pixels(path, spec.channels), spec.size)
        except ValueError:
            return None

    with ThreadPoolExecutor() as pool:
        images = list(pool.map(read, (path for _, path in files)))
    good = [(name, image) for (name, _), image in zip(files, images, strict=True) if image is not None]
    bad = [path.name for (_, path), image in zip(files, images, strict=True) if image is None]
    if not good:
        raise ValueError(f"none of the {len(files)} images in {root} can be read")
    names = tuple(folders)
    labels = torch.tensor([names.index(name) for name, _ in good])
    pictures = _labelled(torch.stack([image for _, image in good]), labels, () if names == ("",) else names, spec)
    if bad:
        pictures = replace(
            pictures,
            notes=(*pictures.notes, f"{len(bad)} of {len(files)} files are no readable images: {_listed(bad)}."),
        )
    return pictures


def _labelled(pixels: Tensor, labels: Tensor, names: Sequence[str], spec: ImageSpec) -> Pictures:
    """Images with the network's own labels, where the names of the classes tell which they are."""
    names = tuple(names)
    if not names:
        return Pictures(pixels=pixels, notes=("The images have no folders of classes, so no labels.",))
    places = _places(names, spec.classes)
    if places is None:
        known = set(map(_plain, spec.classes))
        unknown = [name for name in names if _plain(name) not in known]
        note = f"Labels were left out: {_listed(unknown)} are not among the {spec.n_classes} classes of the network."
        return Pictures(pixels=pixels, classes=names, notes=(note,))
    return Pictures(pixels=pixels, labels=torch.tensor(places)[labels], classes=names)


def _places(names: Sequence[str], classes: Sequence[str]) -> list[int] | None:
    """The place of each name among the classes: by the name itself, by a number, or, for unnamed classes, in order."""
    plain = [_plain(name) for name in classes]
    if all(_plain(name) in plain for name in names):
        return [plain.index(_plain(name)) for name in names]
    if all(name.isdecimal() and int(name) < len(classes) for name in names):
        return [int(name) for name in names]
    unnamed = all(name.startswith("class ") or name.isdecimal() for name in classes)
    return list(range(len(names))) if unnamed and len(names) == len(classes) else None


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", " ").replace("-", " ")


def _listed(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def _channels(pixels: Tensor, spec: ImageSpec) -> Tensor:
    """Grey made three times, or colour turned grey, where the network wants the other."""
    if pixels.shape[1] == spec.channels:
        return pixels
    if spec.channels == 1:
        return pixels.float().mean(1, keepdim=True).round().byte()
    if pixels.shape[1] == 1:
        return pixels.expand(-1, spec.channels, -1, -1).contiguous()
    raise ValueError(f"images of {pixels.shape[1]} channels do not fit a network that takes {spec.channels}")
