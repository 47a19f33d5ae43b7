"""Repeat the recorded run on inverting the logits of published networks for CIFAR-10, standard and robust.

    INVKIT_DATA=FOLDER INVKIT_WORK=OTHER python book/recorded/cifar10_feedforward.py

``FOLDER`` holds ``cifar10_4600.npz``, ``cifar10_jpeg_train.zip`` (training images, a folder for each class),
``mnist.npz``, ``imagenet_photos/``, ``weights/`` with the networks, and ``networks.py`` with the source of the one that
is not in the package. ``INVKIT_WORK`` names a folder in which what was trained is kept, for the next try. What is
measured is defined in ``digits_feedforward.py`` beside this file.
"""

from __future__ import annotations

import argparse
import copy
import io
import os
import sys
import tempfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from digits_feedforward import Inverse, elsewhere, inverted, judged, naive
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

import invkit as ik
from invkit import show
from invkit.attacks import evaluating, robust_accuracy
from invkit.data import Split, to_float
from invkit.images import load_image
from invkit.metrics import accuracy, in_batches
from invkit.runtime import seeded

COMMAND = "INVKIT_DATA=FOLDER python book/recorded/cifar10_feedforward.py"
ROBUST, STANDARD, PUBLISHED = "ResNet-20, robust", "ResNet-20", "robust net"
NETWORKS = {  # where it comes from, its weights, the layer of its logits, and the one the baseline compares in
    STANDARD: ("invkit/resnet20", "cifar10_resnet20", "linear", "layer3"),
    ROBUST: ("invkit/resnet20", "cifar10_resnet20", "linear", "layer3"),  # the same, trained on under attack
    PUBLISHED: ("networks:ResNet4B", "cifar10_resnet4b_robust", "linear2", "layer2"),
    "ResNet-44": ("invkit/resnet44", "cifar10_resnet44", "linear", "layer3"),
}
HARDENING: dict[str, Any] = {
    "steps": 700, "warmup": 30, "lr": 1e-3, "batch_size": 64, "radius": 4 / 255, "attack_steps": 2, "shift": 4,
    "flip": True, "label_smoothing": 0.0,
}  # fmt: skip
OURS: dict[str, Any] = {
    "schedule": "cosine", "batch_size": 32, "latent": 32, "width": 16, "hidden": 128, "discriminator_steps": 1,
    "lr_generator": 1e-3, "lr_discriminator": 1e-3, "ema": 0.995,
}  # fmt: skip
BASELINE: dict[str, Any] = {"schedule": "cosine", "steps": 800, "batch_size": 32, "lr": 2e-3, "width": 16, "image": 1.0}
BASELINES = {  # weights of the feature and the adversarial loss beside 1 for the image
    "Dosovitskiy & Brox": {"feature": 0.01, "adversarial": 10.0},
    "regression": {"feature": 0.0, "adversarial": 0.0},
}
RADIUS = 8 / 255
JUDGED = 300


def training_images(archive: Path, classes: tuple[str, ...], each: int) -> Split:
    """The first images of each class, all classes in turn."""
    pixels, labels = [], []
    with zipfile.ZipFile(archive) as files:
        names = sorted(files.namelist())
        for label, name in enumerate(classes):
            for file in [n for n in names if n.startswith(f"{name}/")][:each]:
                pixels.append(pil_to_tensor(Image.open(io.BytesIO(files.read(file))).convert("RGB")))
                labels.append(label)
    return Split(pixels=torch.stack(pixels), labels=torch.tensor(labels))


def network(name: str, folder: Path, work: Path, data: ik.DataSet) -> ik.Target:
    """One of the published networks; the robust ResNet-20 is the standard one, trained on under attack."""
    where, weights, *_ = NETWORKS[name]
    target = ik.load_target(where, weights=folder / "weights" / f"{weights}.safetensors", device="cpu")
    if name != ROBUST:
        return target
    kept, module = work / "resnet20_robust.safetensors", copy.deepcopy(target.module).requires_grad_(True)
    if not kept.exists():
        config = ik.ClassifierConfig(**HARDENING)
        ik.train_classifier(module, replace(data, spec=target.spec), config, device="cpu")
        save_file({k: v.contiguous() for k, v in module.state_dict().items()}, kept)
    return ik.load_target(where, weights=kept, spec=folder / "weights" / f"{weights}.json", device="cpu")


def inverses(target: ik.Target, name: str, images: Tensor, work: Path, steps: int) -> dict[str, Inverse]:
    """The feed-forward inverse and the baselines, all learnt from the same images and their logits."""
    folder = work / name.replace(" ", "_").replace(",", "")
    folder.mkdir(parents=True, exist_ok=True)
    ours, result = ik.feedforward_inversion(
        target, images, ik.FeedforwardConfig(steps=steps, **OURS), generator=seeded(0), checkpoint=folder / "ours.pt"
    )
    print(f"{name}, ours: {result.seconds:.0f} s, stopped by {result.stopped}", flush=True)
    found: dict[str, Inverse] = {"ours": ours}
    for label, weights in BASELINES.items():
        config = ik.DeePSiMConfig(**BASELINE, **weights)
        found[label], result = ik.deepsim(
            target, to_float(images), NETWORKS[name][2], config, generator=seeded(0), comparator=NETWORKS[name][3],
            checkpoint=folder / f"{label}.pt",
        )  # fmt: skip
        print(f"{name}, {label}: {result.seconds:.0f} s", flush=True)
    return found


def attacked(target: ik.Target, inverse: Inverse, like: ik.Likeness) -> dict[str, dict[str, float]]:
    """Images made from the logits of test images under attack, and under a random change of the same size."""
    with evaluating(target.module):
        changed = {
            "attacked": ik.pgd(target, like.real, like.labels, radius=RADIUS, steps=20, generator=seeded(0)),
            "changed at random": ik.random_perturbation(like.real, RADIUS, generator=seeded(0)),
        }
    rows = {}
    with torch.no_grad():
        clean = inverse(in_batches(target, like.real))
        for kind, images in changed.items():
            answers = in_batches(target, images)
            made = inverse(answers)
            rows[kind] = judged(target, like, made, answers) | {
                "accuracy of the target": float((answers.argmax(1) == like.labels).double().mean()),
                "PSNR to the clean one": float(replace(like, real=clean).each(made).mean()),
            }
    return rows


def main() -> None:
    """Train what is not there yet, measure, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="training steps of our inverses")
    parser.add_argument("--each", type=int, default=2000, help="training images of each class")
    given = parser.parse_args()
    folder, start = Path(os.environ["INVKIT_DATA"]), time.perf_counter()
    work = Path(os.environ.get("INVKIT_WORK") or tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(folder))
    data = ik.load_data(f"npz:{folder / 'cifar10_4600.npz'}")
    eye = network("ResNet-44", folder, work, data)
    pool = training_images(folder / "cifar10_jpeg_train.zip", eye.spec.classes, given.each)
    learnt = replace(data, spec=eye.spec, train=pool)
    test = data.test.per_class(JUDGED // 10)
    like = ik.Likeness(real=test.images, labels=test.labels, verifiers={"verifier": eye})
    photos = sorted((folder / "imagenet_photos").glob("*.jpg"))
    sets = {
        "MNIST": ik.other_images("mnist", JUDGED, eye.spec),
        "photographs": torch.cat([load_image(photo, size=eye.spec.size) for photo in photos]),
    }
    shown = torch.arange(0, len(test), JUDGED // 10)
    measured: dict[str, float] = {}
    pictures = {"test images": like.real[shown]}
    for name in (STANDARD, ROBUST, PUBLISHED):
        target = network(name, folder, work, data)
        answers = in_batches(target, like.real)
        made = inverses(target, name, pool.pixels, work, given.steps)
        drawn = made["ours"].draws(answers, 1, generator=seeded(0))[0]  # type: ignore[attr-defined]
        rows = inverted(target, made, like, drawn, answers)
        rows |= {k: judged(target, like, v, answers) for k, v in naive(target, learnt, answers).items()}
        right, each = answers.argmax(1) == like.labels, like.each(made["ours"](answers))
        rows["ours"] |= {
            "accuracy of the target": accuracy(target, like.real, like.labels)["top1"],
            "accuracy under attack": robust_accuracy(target, like.real, like.labels, radius=4 / 255),
            "PSNR, rightly classified": float(each[right].mean()),
            "PSNR, wrongly classified": float(each[~right].mean()),
        }
        rows |= attacked(target, made["ours"], like) | elsewhere(target, made["ours"], sets)
        measured |= {f"{name} / {row}: {column}": v for row, found in rows.items() for column, v in found.items()}
        with torch.no_grad():
            pictures |= {f"{name}: {label}": inverse(answers)[shown] for label, inverse in made.items()}
        print(f"{name}: {rows['ours']}", flush=True)
    show.record(
        "cifar10_feedforward",
        title="Test images of CIFAR-10 from the ten logits of standard and robust networks",
        config={
            "ours": {"steps": given.steps, **OURS},
            "baselines": BASELINE | BASELINES,
            "robust ResNet-20": HARDENING,
        },
        measured=measured,
        command=f"{COMMAND} --steps {given.steps} --each {given.each}",
        seed=0,
        seconds=time.perf_counter() - start,
        device="cpu, one thread",
        figure=show.image_rows(
            {k: v.mul(31).round().div(31) for k, v in pictures.items()}, list(eye.spec.classes), columns=10, scale=1.5
        ),
        note=f"{len(test)} test images, which no inverse and no network was trained on; one seed. Inverses learnt from "
        f"{len(pool):,} training images, stored as JPEG, and their logits. The verifier is a ResNet-44. ResNet-20, "
        "robust: the published ResNet-20 trained on for 700 steps under attack with radius 4/255; robust net: "
        "published, another architecture without batch norm. Attacks: 20 steps of PGD with radius 8/255; accuracy "
        "under attack: the same with 4/255.",
        overwrite=True,
    )


if __name__ == "__main__":
    main()
