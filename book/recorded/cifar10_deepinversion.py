"""Repeat the recorded runs on CIFAR-10: DeepInversion of a published ResNet-20, judged by others.

    INVKIT_DATA=FOLDER python book/recorded/cifar10_deepinversion.py images [--steps 600]
    INVKIT_DATA=FOLDER python book/recorded/cifar10_deepinversion.py student [--images 640]

``FOLDER`` holds ``cifar10_4600.npz`` (4,000 training and 600 test images), ``weights/`` with the networks, and
``networks.py`` with the source of the one that is not in the package.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import invkit as ik
from invkit import show
from invkit.core.rng import seeded
from invkit.metrics.quality import accuracy
from invkit.networks.classifiers import build

COMMAND = "INVKIT_DATA=FOLDER python book/recorded/cifar10_deepinversion.py"
COMMON: dict[str, Any] = {
    "lr": 0.05, "schedule": "cosine", "patience": None, "betas": (0.5, 0.9), "flip": 0.5,
    "cross_entropy": 50.0, "tv": 0.3, "l2": 0.0, "batch_norm": 1.0,
    "low_resolutions": ((16, 300),),
}  # fmt: skip
WRAPPED = COMMON | {"jitter": 2}
SHIFTED = COMMON | {"jitter": 4, "wrap": False}
TERMS = {
    "cross-entropy": WRAPPED | {"tv": 0.0, "batch_norm": 0.0},
    "+ image prior": WRAPPED | {"batch_norm": 0.0},
    "+ statistics": WRAPPED,
    "shifted as in training": SHIFTED,
}


def networks(folder: Path, device: str) -> tuple[ik.Target, dict[str, ik.Target]]:
    """The target, and two verifiers: a deeper one of its family, and a robust one without batch norm."""
    sys.path.insert(0, str(folder))
    names = {"resnet20": "invkit/resnet20", "resnet44": "invkit/resnet44", "resnet4b_robust": "networks:ResNet4B"}
    target, deeper, robust = (
        ik.load_target(name, weights=folder / "weights" / f"cifar10_{file}.safetensors", device=device)
        for file, name in names.items()
    )
    return target, {"ResNet-44": deeper, "robust net": robust}


def images(data: ik.DataSet, folder: Path, device: str, steps: int) -> None:
    """The same noise under one term more at a time, over seeds; then the last config on three times as many."""
    target, verifiers = networks(folder, device)
    judge = ik.Judge(target=target, verifiers=verifiers, real=data.test.images)
    labels, start = torch.arange(60) % 10, time.perf_counter()
    rows: dict[str, list[torch.Tensor]] = {}
    for name, terms in TERMS.items():
        config = ik.DeepInversionConfig(steps=steps, **terms)
        rows[name] = [ik.deep_inversion(target, labels, config, generator=seeded(k)).images for k in range(3)]
        print(name, [judge(made, labels) for made in rows[name]], flush=True)
    config = ik.DeepInversionConfig(steps=steps, micro_batch=60, **SHIFTED)
    wide = ik.deep_inversion(target, labels.repeat(3), config, generator=seeded(0)).images
    rows["in a batch of 180"] = list(wide.split(60))
    genuine = data.heldout.per_class(18)
    order = torch.arange(180).view(10, 18).T.flatten()  # class by class, to one image of each class in turn
    rows["real images"] = list(genuine.images[order].split(60))
    scores = {name: [judge(made, labels) for made in batches] for name, batches in rows.items()}
    columns = ("own", "ResNet-44", "robust net", "frechet", "diversity", "penalty", "tv")
    means = {name: sum(row["ResNet-44"] for row in found) / 3 for name, found in scores.items()}
    figure = show.image_rows(
        {name: batches[0] for name, batches in rows.items()},
        [target.spec.classes[int(y)] for y in labels[:10]],
        columns=10,
        numbers={name: f"{mean:.0%}" for name, mean in means.items()},
        numbers_name="ResNet-44",
    )
    show.record(
        "cifar10_deepinversion",
        title="DeepInversion of a ResNet-20 for CIFAR-10: 60 images, one more term at a time",
        config={name: terms | {"steps": steps} for name, terms in TERMS.items()}
        | {"in a batch of 180": SHIFTED | {"steps": steps, "micro_batch": 60}},
        measured={f"{name}: {c}": [row[c] for row in found] for name, found in scores.items() for c in columns},
        command=f"{COMMAND} images --steps {steps}",
        seed=0,
        seconds=time.perf_counter() - start,
        device=device,
        figure=figure,
        note="Mean and standard deviation over three seeds (the thirds of the batch of 180, three samples of real "
        "images). Scores as in the chapter, after rounding to 8 bits; Fréchet distance in ResNet-44's features.",
        overwrite=True,
    )


def student(data: ik.DataSet, folder: Path, device: str, count: int, steps: int) -> None:
    """A fresh ResNet-20 taught on synthetic images only, and on as many real ones, tested on real images."""
    target, _ = networks(folder, device)
    start, config = time.perf_counter(), ik.DeepInversionConfig(steps=steps, **SHIFTED)
    with tempfile.TemporaryDirectory() as work:
        where = ik.synthesise(
            target, count, Path(os.environ.get("INVKIT_WORK", work), "synthetic"), batch_size=64, config=config,
            invert=lambda labels, generator: ik.deep_inversion(target, labels, config, generator=generator),
        )  # fmt: skip
        made = ik.load_data(f"folder:{where}")
        synthetic = torch.cat([part.images for part in (made.train, made.test, made.heldout)])
    genuine = data.train.images[torch.randperm(len(data.train), generator=seeded(0))[:count]]
    measured: dict[str, Any] = {"teacher": accuracy(target, data.test.images, data.test.labels)["top1"]}
    for name, pictures in {"synthetic": synthetic, "real": genuine}.items():
        for share in (count // 4, count):
            chosen = pictures[torch.randperm(len(pictures), generator=seeded(1))[:share]]
            network = build("resnet20", target.spec, seed=0)
            how = ik.DistillationConfig(steps=1200, shift=4, flip=True)
            with torch.no_grad():
                answers = torch.cat([target(part).argmax(1) for part in chosen.split(256)])
            taught, _ = ik.distil(target, network, chosen, answers, how, generator=seeded(0))
            found = accuracy(taught, data.test.images, data.test.labels)["top1"]
            measured[f"student of {share} {name} images"] = found
            print(name, share, found, flush=True)
    show.record(
        "cifar10_student",
        title="A ResNet-20 taught without data: accuracy on 600 real test images of CIFAR-10",
        config={"inversion": config, "distillation": how},
        measured=measured,
        command=f"{COMMAND} student --images {count} --steps {steps}",
        seed=0,
        seconds=time.perf_counter() - start,
        device=device,
        note="Students start from the same random weights and take 1,200 steps with the teacher's soft answers.",
        overwrite=True,
    )


def main() -> None:
    """Read the command line and run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("images", "student"))
    parser.add_argument("--steps", type=int, default=600, help="inversion steps at full resolution")
    parser.add_argument("--images", type=int, default=640, help="synthetic images for the student")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    folder = Path(os.environ["INVKIT_DATA"])
    data = ik.load_data(f"npz:{folder / 'cifar10_4600.npz'}")
    if given.part == "images":
        images(data, folder, given.device, given.steps)
    else:
        student(data, folder, given.device, given.images, given.steps)


if __name__ == "__main__":
    main()
