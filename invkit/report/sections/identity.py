"""Who a network is: its layers, its statistics, what it knows, and how far another agrees."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from invkit.data.outliers import photo_patches
from invkit.report.case import SMALL, Case, answers, share
from invkit.report.section import Section

BATCH_NORMS = nn.modules.batchnorm._BatchNorm


def identity(case: Case, seconds: float) -> Section:
    """Layers, statistics, accuracy on the images given, and agreement with the judge."""
    section = Section(name="identity", title="Who it is")
    target = case.target
    # Of a file of one's own the name will do, wherever it lies.
    name = target.name.rpartition("/")[2] if ".py:" in target.name else target.name
    weights = sum(parameter.numel() for parameter in target.parameters())
    weighted = (m for m in target.module.modules() if any(True for _ in m.parameters(recurse=False)))
    layers = Counter(type(m).__name__ for m in weighted)
    norms = sum(isinstance(m, BATCH_NORMS) and m.running_mean is not None for m in target.module.modules())
    channels, height, width = target.spec.shape
    section.table(
        "The network",
        {
            "name": {"": name},
            "weights": {"": f"{weights:,}"},
            "layers with weights": {"": ", ".join(f"{count} {name}" for name, count in layers.most_common(5))},
            "batch norms with statistics": {"": norms},
            "images": {"": f"{channels} x {height} x {width}"},
            "classes": {"": f"{target.spec.n_classes:,}"},
            "fingerprint": {"": target.fingerprint()},
        },
    )
    section.numbers |= {"weights": weights, "batch norms": norms, "classes": target.spec.n_classes}
    section.say(_on_statistics(norms))
    known = _accuracy(case, section)
    agreement = _agreement(case, section)
    section.summary = (
        f"{name} has {weights:,} weights and {target.spec.n_classes:,} classes"
        f"{known or '; without labelled images its accuracy is not known'}{agreement}."
    )
    return section


def _on_statistics(norms: int) -> str:
    if norms:
        return (
            f"Its {norms} batch norms keep means and variances of the features of its training images. They are "
            f"part of the weights file, and what DeepInversion draws images from."
        )
    return (
        "It has no batch norms with statistics, so nothing in its weights tells directly what its training images were "
        "like on average; what is drawn below comes from its answers alone."
    )


def _accuracy(case: Case, section: Section) -> str:
    rows: dict[str, dict[str, Any]] = {}
    parts: dict[str, Tensor] = {}
    for name, pictures in (("training images", case.labelled), ("held-out images", case.unseen)):
        if pictures is not None and pictures.labels is not None:
            chosen = pictures.some(2000 if max(case.spec.size) <= SMALL else 100, case.seed)
            hits = answers(case.target, chosen.images).argmax(1).eq(torch.as_tensor(chosen.labels))
            rows[name] = {"images": len(chosen), "right": share(hits)}
            parts[name] = hits
            section.numbers[f"accuracy, {name}"] = float(hits.double().mean())
    if not rows:
        return ""
    section.table("Accuracy (share of images, 95% interval)", rows)
    known = ", ".join(f"{share(hits)} of {len(hits)} {name}" for name, hits in parts.items())
    return f", and is right on {known}"


def _agreement(case: Case, section: Section) -> str:
    """How often the judge gives the same answer; on the reader's images, else on patches of two photographs."""
    if case.judge is None:
        section.say(
            "No judge was named. A second network for the same classes that took no part would tell whether the drawn "
            "images show what they should; the network's own answer to them means little, for they were made for it."
        )
        return ""
    images, what = _sample(case)
    same = answers(case.target, images).argmax(1).eq(answers(case.judge, images).argmax(1))
    section.numbers["agreement"] = float(same.double().mean())
    section.say(f"The judge, {case.judge.name}, gives the same answer to {share(same)} of {len(images)} {what}.")
    return f"; the judge agrees on {share(same)} of {len(images)} {what}"


def _sample(case: Case) -> tuple[Tensor, str]:
    most = 200 if max(case.spec.size) <= SMALL else 100
    for name, pictures in (("held-out images", case.pair.heldout), ("training images", case.pair.train)):
        if pictures is not None:
            return pictures.some(most).images, name
    generator = torch.Generator().manual_seed(case.seed)
    return photo_patches(40, case.spec, generator), "patches of photographs"
