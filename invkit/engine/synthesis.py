"""Large sets of inverted images: batch by batch to disk, by one process or many, and on from there after anything."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from invkit.core.config import config_hash, plain
from invkit.core.device import progress
from invkit.core.files import atomic_path, read_json, remove_unfinished, write_json
from invkit.core.results import InversionResult
from invkit.core.rng import seeded
from invkit.core.target import Target
from invkit.data.images import to_pil
from invkit.engine.sharing import LEASE, Shares, worker

Invert = Callable[[Tensor, torch.Generator], InversionResult]
"""Labels ``(n,)`` and a generator to images of these labels."""


def synthesise(
    target: Target,
    n_images: int,
    folder: str | Path,
    invert: Invert,
    *,
    batch_size: int = 64,
    classes: Sequence[int] | None = None,
    seed: int = 0,
    config: Any = None,
    lease: float = LEASE,
    longest: float | None = None,
) -> Path:
    """Invert ``n_images`` images, classes in turn, into ``folder``; return the path of their image folder.

    ``folder`` gets ``images/<index>_<class>/<batch>_<k>.png``, a record of each batch under ``batches/`` (written when
    all its images are), and ``manifest.json``; ``load_data(f"folder:{path}")`` reads the images. A call with the same
    arguments after a crash keeps every finished batch, makes the missing ones, and those of which a file was deleted,
    and removes what was left half-written; the images are those of an uninterrupted run, bit for bit.

    Several processes share the batches out when each makes the same call: the ranks of ``torchrun``, the tasks of a
    SLURM array, or any others that see the folder. No two make the same batch, the images are those that one process
    makes, and each returns when all of them are there. A worker that is lost costs its one batch, which another makes.
    Each batch is one worker's own: for one batch over several ranks see :func:`~invkit.engine.sharing.joined_ranks`.

    Args:
        target: The network whose classes are inverted.
        n_images: How many images in all.
        folder: Where they go; files that are none of this function's are left alone.
        invert: Makes one batch from labels and a generator, e.g. ``lambda y, g: deep_inversion(target, y, config,
            generator=g)``. Each batch has a generator of its own, so batches do not depend on each other.
        batch_size: Images of one batch.
        classes: Indices of the classes, all if None.
        seed: From which the batches' generators follow.
        config: Whatever the images depend on beside the above; compared when a run goes on.
        lease: Seconds without a sign of life after which a worker on another machine is taken for lost.
        longest: Seconds that a batch may take; a worker that takes longer hangs, and its process is ended. None waits
            for ever.

    Returns:
        The path of ``folder/images``, with one folder per class.

    Raises:
        ValueError: Where the folder holds another synthesis or a damaged record, naming it.
        RuntimeError: Where a batch became non-finite, or the process has joined a group of ranks.
        OSError: Where the disk is full or not writable. Finished batches stay in each case.

    >>> import tempfile
    >>> from invkit.methods.deepinversion import DeepInversionConfig, deep_inversion
    >>> from invkit.testing import tiny_target
    >>> target, config = tiny_target(), DeepInversionConfig(steps=1)
    >>> invert = lambda y, g: deep_inversion(target, y, config, generator=g)
    >>> images = synthesise(target, 6, tempfile.mkdtemp(), invert, batch_size=4, config=config)
    >>> len(list(images.glob("0000_class-0/*.png")))
    2
    """
    folder = Path(folder)
    chosen = target.spec.check_labels(list(classes) if classes is not None else list(range(target.spec.n_classes)))
    if n_images < 1 or batch_size < 1:
        raise ValueError(f"n_images and batch_size must be >= 1, not {n_images} and {batch_size}")
    if target.spec.channels not in (1, 3):
        raise ValueError(f"image files hold 1 or 3 channels; {target.name} takes {target.spec.channels}")
    if dist.is_available() and dist.is_initialized():
        raise RuntimeError(
            "synthesise shares its batches out by itself: call it before init_process_group, or each batch would mix "
            "with those of other ranks"
        )
    shares = Shares(folder / "claims", lease=lease, longest=longest)
    labels = chosen.repeat(-(-n_images // len(chosen)))[:n_images].split(batch_size)
    about = {
        "target": target.name, "fingerprint": target.fingerprint(), "n_images": n_images, "batch_size": batch_size,
        "classes": [target.spec.classes[int(i)] for i in chosen], "seed": seed, "config": plain(config),
    }  # fmt: skip
    _claim(folder, about)
    batches = [_Batch(folder, target, number, part) for number, part in enumerate(labels)]
    _make_missing(batches, shares, invert, seed)
    shares.clear()
    return _finish(folder, about, batches)


def _make_missing(batches: Sequence[_Batch], shares: Shares, invert: Invert, seed: int) -> None:
    """Make what is missing and nobody else makes, until all batches are there."""
    missing = [batch for batch in batches if not batch.is_finished()]
    for batch in missing:
        batch.path.unlink(missing_ok=True)  # the record of a batch of which an image is gone
    index, count = worker()
    # Each worker begins with its own share, and then helps the others with theirs.
    missing.sort(key=lambda batch: ((batch.number - index) % count, batch.number))
    done = len(batches) - len(missing)
    bar = progress(range(len(batches)), len(batches), "synthesising", initial=done)
    while missing:
        others = []
        for batch in missing:
            lease = None if batch.path.exists() else shares.take(batch.number)
            if lease is not None:
                with lease:
                    if not batch.path.exists():  # another worker may have finished it in this moment
                        batch.make(invert, seed)
            if not batch.path.exists():
                others.append(batch)
        bar.update(len(missing) - len(others))
        missing = others
        if missing:
            time.sleep(shares.pause)
    bar.close()


def _claim(folder: Path, about: dict[str, Any]) -> None:
    """Write what the folder holds, or make sure that it is the same; tidy up after a killed run."""
    path = folder / "synthesis.json"
    if not path.exists():
        write_json(path, about)
    else:
        record = read_json(path, "record of a synthesis", advice="; choose another folder")
        wanted = json.loads(json.dumps(plain(about)))
        differing = sorted(name for name in wanted if record.get(name) != wanted[name])
        if differing:
            raise ValueError(
                f"{folder} holds another synthesis (different: {', '.join(differing)}); choose another folder"
            )
    remove_unfinished(folder, below=True)


_WHOLE = ("steps", "patience", "callback")  # how an inversion may end whose images are kept


class _Batch:
    """The images of some labels: where they go, and the record that is written once they are there."""

    def __init__(self, folder: Path, target: Target, number: int, labels: Tensor) -> None:
        self.folder, self.number, self.labels = folder, number, labels
        self.path = folder / "batches" / f"{number:05d}.json"
        names = [f"{label:04d}_{_safe(target.spec.classes[label])}" for label in labels.tolist()]
        self.files = [f"{name}/{number:05d}_{k:04d}.png" for k, name in enumerate(names)]

    def record(self) -> dict[str, Any]:
        """What :meth:`make` wrote; ``ValueError`` where it is damaged."""
        advice = "; delete it to make the batch anew"
        record = read_json(self.path, "record of a batch", advice=advice)
        if record.get("files") != self.files or record.get("labels") != self.labels.tolist():
            raise ValueError(f"{self.path} is not the record of batch {self.number}{advice}")
        return record

    def is_finished(self) -> bool:
        """Whether the record is there, and every image too: somebody may have deleted one."""
        images = [self.folder / "images" / file for file in self.record()["files"]] if self.path.exists() else []
        return bool(images) and all(image.is_file() and image.stat().st_size > 0 for image in images)

    def make(self, invert: Invert, seed: int) -> None:
        """Invert the labels, write the images and then the record."""
        result = invert(self.labels, seeded(int(config_hash([seed, self.number]), 16)))
        if len(result.images) != len(self.labels):
            raise ValueError(f"invert made {len(result.images)} images for {len(self.labels)} labels")
        if result.stopped == "interrupted":  # a batch that was cut short is not a finished batch
            raise KeyboardInterrupt
        if not result.images.isfinite().all() or result.stopped not in _WHOLE:
            reason = result.reason or result.stopped
            raise RuntimeError(
                f"batch {self.number} was not kept: {reason}; the batches finished before it are in {self.folder}"
            )
        if self.path.exists():  # this worker was taken for lost, and another made the same images
            return
        for file, image in zip(self.files, result.images, strict=True):
            with atomic_path(self.folder / "images" / file) as temporary:
                to_pil(image).save(temporary)
        loss = {name: values[-1] for name, values in result.history.items() if values}
        record = {"files": self.files, "labels": self.labels, "seconds": result.seconds, "stopped": result.stopped}
        write_json(self.path, record | {"loss": loss})


def _finish(folder: Path, about: dict[str, Any], batches: Sequence[_Batch]) -> Path:
    """Gather the records of the batches into one manifest."""
    records = [batch.record() for batch in batches]
    rows = []
    for record in records:
        rows += [{"file": file, "label": label} for file, label in zip(record["files"], record["labels"], strict=True)]
    seconds = sum(record.get("seconds", 0.0) for record in records)
    write_json(folder / "manifest.json", about | {"seconds": seconds, "images": rows})
    return folder / "images"


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)[:40]
