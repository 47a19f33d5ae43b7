"""Features of many images at the cuts of a target: computed once, in memory or mapped from disk."""

from __future__ import annotations

import atexit
import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invkit.core.device import progress
from invkit.core.spec import ImageSpec, describe
from invkit.data.batching import to_float
from invkit.partition.chain import Chain


class FeatureStore:
    """Images of any rows of a set, and their features at each cut: ``[x, F_1(x), ..., F_1:L(x)]``.

    Cached features and those computed when they are read have the same bits.

    Args:
        chain: The target and its cuts.
        images: A tensor or array ``(N, C, H, W)``, uint8 or float in [0, 1] (an array may be mapped from disk), or
            anything with a length whose items are images or pairs that begin with one, read when they are needed; the
            inputs of a generator are latent codes ``(N, D)`` instead.
        batch_size: Rows of a batch.
        cache: Compute the features of all images at once and keep them until the store is closed; else compute them
            when they are read.
        limit: Bytes up to which the cache lies in memory; beyond, it lies in files.
        folder: Below it those files get a temporary folder; None takes the system's.

    Raises:
        ValueError: For images that are not the target's.
        OSError: Where the disk has no room.

    >>> from invkit.partition.chain import partition_network
    >>> from invkit.testing import tiny_target
    >>> with FeatureStore(partition_network(tiny_target()), torch.rand(6, 3, 8, 8), batch_size=4) as store:
    ...     [tuple(features.shape) for features in store.batch(torch.tensor([5, 0]))]
    [(2, 3, 8, 8), (2, 4, 8, 8), (2, 8, 4, 4), (2, 4)]
    """

    def __init__(
        self, chain: Chain, images: Any, *, batch_size: int, cache: bool = True, limit: int = 2 << 30,
        folder: str | Path | None = None,
    ) -> None:  # fmt: skip
        if isinstance(images, Tensor) and isinstance(chain.target.spec, ImageSpec):
            images = chain.target.spec.check(images, keep_bytes=True)
        if not hasattr(images, "__len__") or isinstance(images, str):
            raise ValueError(f"images must be a tensor, an array or a data set of images, not {describe(images)}")
        if len(images) == 0 or batch_size < 1:
            raise ValueError(f"features need images and a batch size >= 1, not {len(images)} and {batch_size}")
        self.chain, self.images, self.size = chain, images, min(batch_size, len(images))
        self._check()
        self.cached: list[Tensor] | None = None
        self._scratch: Path | None = None
        if cache:
            shapes = [block.outputs for block in chain.blocks]
            needed = 4 * len(images) * sum(math.prod(shape) for shape in shapes)
            mapped = self._scratch = _scratch(folder, needed) if needed > limit else None
            self.cached = [_allocate((len(images), *_last(s)), mapped, k) for k, s in enumerate(shapes)]
            self._fill(self.cached)

    def __len__(self) -> int:
        return len(self.images)

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back memory and disk."""
        self.cached = None
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def pixels(self, rows: Tensor) -> Tensor:
        """Images of these rows, float in [0, 1]."""
        if isinstance(self.images, Tensor):
            return to_float(self.images[rows])
        if isinstance(self.images, np.ndarray):
            return to_float(torch.from_numpy(self.images[rows.numpy()]))
        items = (self.images[int(row)] for row in rows)
        return to_float(torch.stack([torch.as_tensor(i[0] if isinstance(i, tuple | list) else i) for i in items]))

    def batch(self, rows: Tensor) -> list[Tensor]:
        """``[x, F_1(x), ..., F_1:L(x)]`` of these rows, on the CPU where cached, else where the target is."""
        images = self.pixels(rows)
        if self.cached is not None:
            return [images, *(_first(feature.index_select(0, rows)) for feature in self.cached)]
        images = images.to(self.chain.target.device)
        with torch.no_grad():
            return [images, *(_first(_rows(feature)) for feature in self.chain.read(images))]

    def batches(self, generator: torch.Generator) -> Iterator[list[Tensor]]:
        """One pass in an order drawn from ``generator``; what does not fill a batch is left for another pass."""
        order = torch.randperm(len(self), generator=generator)
        for start in range(0, len(order) - self.size + 1, self.size):
            yield self.batch(order[start : start + self.size])

    def digest(self) -> str:
        """Twelve hexadecimal digits that change with the number of images or with those of sixteen rows."""
        rows = torch.linspace(0, len(self) - 1, min(16, len(self))).long()
        return hashlib.sha256(str(len(self)).encode() + self.pixels(rows).cpu().numpy().tobytes()).hexdigest()[:12]

    def _check(self) -> None:
        spec = self.chain.target.spec
        spec.check_range(spec.check(self.pixels(torch.arange(self.size))))

    @torch.no_grad()
    def _fill(self, cached: Sequence[Tensor]) -> None:
        # Batches of one size: another size might be computed by other kernels, to other bits.
        starts = [*range(0, len(self) - self.size, self.size), len(self) - self.size]
        device = self.chain.target.device
        for start in progress(starts, desc="features"):
            rows = torch.arange(start, start + self.size)
            for store, feature in zip(cached, self.chain.read(self.pixels(rows).to(device)), strict=True):
                store[start : start + self.size] = _rows(feature).cpu()


# Maps lie channels last: that is how the inverses, and so the reconstructions' features, come out.
def _last(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[1:], shape[0]) if len(shape) == 3 else shape


def _rows(feature: Tensor) -> Tensor:
    return (feature.permute(0, 2, 3, 1) if feature.ndim == 4 else feature).contiguous()


def _first(rows: Tensor) -> Tensor:
    return rows.permute(0, 3, 1, 2) if rows.ndim == 4 else rows


def _scratch(folder: str | Path | None, needed: int) -> Path:
    """A temporary folder on a disk with room for ``needed`` bytes."""
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.gettempdir() if folder is None else folder)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OSError(
            f"the features take {needed / 1e9:.1f} GB and {place} has {free / 1e9:.1f} GB left: "
            "name another folder, use fewer images, or do not cache"
        )
    path = Path(tempfile.mkdtemp(prefix="features-", dir=place))
    atexit.register(shutil.rmtree, path, ignore_errors=True)  # where a run ends before it closes its store
    return path


def _allocate(shape: tuple[int, ...], folder: Path | None, index: int) -> Tensor:
    if folder is None:
        return torch.empty(shape)
    name, count = folder / f"{index:02d}.bin", math.prod(shape)
    with open(name, "wb") as file:  # room is taken now: a mapped file that cannot grow ends the process
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, 4 * count)
        else:
            file.truncate(4 * count)
    return torch.from_file(str(name), shared=True, size=count).view(shape)
