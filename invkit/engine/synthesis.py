"""Large sets of inverted images: batch by batch to disk, and on from there after any interruption."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invkit.core.config import config_hash, plain
from invkit.core.device import progress
from invkit.core.files import atomic_path, write_json
from invkit.core.results import InversionResult
from invkit.core.rng import seeded
from invkit.core.target import Target
from invkit.data.images import to_pil

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
) -> Path:
    """Invert ``n_images`` images, classes in turn, into ``folder``; return the path of their image folder.

    ``invert(labels, generator)`` makes one batch, e.g. ``lambda y, g: deep_inversion(target, y, config, generator=g)``;
    batch ``b`` draws from a generator of its own, so batches do not depend on each other. ``folder`` gets
    ``images/<index>_<class>/<batch>_<k>.png``, a record of each batch under ``batches/`` (written when all its images
    are), and ``manifest.json``. A call with the same arguments after a crash keeps every finished batch and makes the
    missing ones; ``config`` is whatever the images depend on, compared then.

    ``load_data(f"folder:{path}")`` reads the images. Raises ``ValueError`` where the folder holds another synthesis,
    ``RuntimeError`` where a batch became non-finite, ``OSError`` where the disk is full or not writable; finished
    batches stay in each case.
    """
    folder = Path(folder)
    chosen = target.spec.check_labels(list(classes) if classes is not None else list(range(target.spec.n_classes)))
    if n_images < 1 or batch_size < 1:
        raise ValueError(f"n_images and batch_size must be >= 1, not {n_images} and {batch_size}")
    if target.spec.channels not in (1, 3):
        raise ValueError(f"image files hold 1 or 3 channels; {target.name} takes {target.spec.channels}")
    labels = chosen.repeat(-(-n_images // len(chosen)))[:n_images].split(batch_size)
    about = {
        "target": target.name, "fingerprint": target.fingerprint(), "n_images": n_images, "batch_size": batch_size,
        "classes": [target.spec.classes[int(i)] for i in chosen], "seed": seed, "config": plain(config),
    }  # fmt: skip
    _claim(folder, about)
    for batch in progress(range(len(labels)), len(labels), "synthesising"):
        record = folder / "batches" / f"{batch:05d}.json"
        if not record.exists():
            _one_batch(target, folder, record, batch, labels[batch], invert, seed)
    return _finish(folder, about)


def _claim(folder: Path, about: dict[str, Any]) -> None:
    """Write what the folder holds, or make sure that it is the same."""
    path = folder / "synthesis.json"
    if not path.exists():
        write_json(path, about)
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    differing = sorted(k for k in about if found.get(k) != json.loads(json.dumps(plain(about[k]))))
    if differing:
        raise ValueError(f"{folder} holds another synthesis (different: {', '.join(differing)}); choose another folder")


def _one_batch(
    target: Target, folder: Path, record: Path, batch: int, labels: Tensor, invert: Invert, seed: int
) -> None:
    generator = seeded(int(config_hash([seed, batch]), 16))
    result = invert(labels, generator)
    if len(result.images) != len(labels):
        raise ValueError(f"invert made {len(result.images)} images for {len(labels)} labels")
    if not result.images.isfinite().all() or result.stopped.startswith("the term"):
        raise RuntimeError(
            f"batch {batch} was not kept: {result.stopped}; the {batch} batches before it are in {folder}"
        )
    if result.stopped == "interrupted":  # a batch that was cut short is not a finished batch
        raise KeyboardInterrupt
    names = []
    for k, (image, label) in enumerate(zip(result.images, labels.tolist(), strict=True)):
        name = f"{label:04d}_{_safe(target.spec.classes[label])}/{batch:05d}_{k:04d}.png"
        with atomic_path(folder / "images" / name) as temporary:
            to_pil(image).save(temporary)
        names.append(name)
    write_json(record, {"files": names, "labels": labels, "seconds": result.seconds, "stopped": result.stopped,
                        "loss": {k: v[-1] for k, v in result.history.items() if v}})  # fmt: skip


def _finish(folder: Path, about: dict[str, Any]) -> Path:
    """Gather the records of the batches into one manifest."""
    for unfinished in (folder / "images").rglob(".*"):  # what a kill left; other readers might take it for an image
        unfinished.unlink(missing_ok=True)
    records = [json.loads(p.read_text(encoding="utf-8")) for p in sorted((folder / "batches").glob("*.json"))]
    rows = [{"file": f, "label": y} for r in records for f, y in zip(r["files"], r["labels"], strict=True)]
    seconds = sum(r["seconds"] for r in records)
    write_json(folder / "manifest.json", about | {"seconds": seconds, "images": rows})
    return folder / "images"


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)[:40]
