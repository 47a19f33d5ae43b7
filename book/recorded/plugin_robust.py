"""Repeat the recorded run of Plug-In Inversion on a standard and a robust network of one architecture.

    INVKIT_DATA=FOLDER python book/recorded/plugin_robust.py

A published ResNet-20 for CIFAR-10 is trained on, under attack and for as many steps without, and all three networks are
inverted alike. ``FOLDER`` holds ``weights/``, ``cifar10_4600.npz`` and ``networks.py`` with the source of one judge.
``INVKIT_WORK`` names a folder in which the networks that were trained on are kept, for the next try.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.attacks import robust_accuracy
from invkit.book.recording import Run, command_line, recorded_run
from invkit.core.config import config_hash
from invkit.metrics import accuracy

TARGET = "cifar10_resnet20"
# One judge of the standard network's family and one robust one: each may favour what is like it, and both count.
JUDGES = {"ResNet-44": "cifar10_resnet44", "robust net": "cifar10_resnet4b_robust"}
RADIUS = 4 / 255
FURTHER: dict[str, Any] = {
    "steps": 700, "warmup": 30, "lr": 1e-3, "batch_size": 64, "shift": 4, "flip": True, "label_smoothing": 0.0,
}  # fmt: skip
KINDS: dict[str, dict[str, Any] | None] = {
    "as published": None, "trained on": {}, "trained on under attack": {"eps": RADIUS, "attack_steps": 2},
}  # fmt: skip
SETTINGS: dict[str, Any] = {"steps": 50, "lr": 0.02, "ensemble": 4, "jitter": 4, "resize": "always", "bf16": True}
TRIAL = {"steps": 1, "stages": 1, "ensemble": 1, "bf16": False}


def trained_on(run: Run, data: ik.DataSet, kind: str, changes: dict[str, Any]) -> ik.Target:
    """The published network after further steps, from :attr:`Run.work` where they were taken before."""
    target = run.network(TARGET)
    config = ik.ClassifierConfig(**FURTHER | changes | run.trial)
    module = copy.deepcopy(target.module).requires_grad_(True)
    file = run.work / f"{kind.replace(' ', '_')}_{config_hash(config)}.safetensors"
    log = file.with_suffix(".json")
    if log.exists():
        run.earlier[kind] = float(json.loads(log.read_text()))
        module.load_state_dict(load_file(file))
    else:
        _, result = ik.train_classifier(module, replace(data, spec=target.spec), config, device=run.device)
        save_file({name: value.contiguous() for name, value in module.state_dict().items()}, file)
        log.write_text(json.dumps(result.seconds))
    return run.uses(ik.Target(module.eval().requires_grad_(False), target.spec), f"ResNet-20 {kind}")


@recorded_run(data=True, smoke={"seeds": 1, "train": 64, "real": 60, "attack_steps": 1})
def robust(run: Run, *, seeds: int = 3, train: int = 4000, real: int = 600, attack_steps: int = 20) -> None:
    """Train on, invert all three networks with the same settings, and count what two judges recognise."""
    data = ik.load_data(f"npz:{run.data / 'cifar10_4600.npz'}", limit=train)
    photos, truth = data.test.images[:real], data.test.labels[:real]
    verifiers = {name: run.network(file) for name, file in JUDGES.items()}
    labels = torch.arange(40) % 10
    shown: dict[str, Tensor] = {}
    for kind, changes in KINDS.items():
        target = run.network(TARGET) if changes is None else trained_on(run, data, kind, changes)
        judge = ik.Judge(target=target, verifiers=verifiers, real=photos)
        config = ik.PlugInConfig(**SETTINGS | (TRIAL if run.quick else {}))
        known = {
            "its accuracy": accuracy(target, photos, truth)["top1"],
            "under attack": robust_accuracy(target, photos[:200], truth[:200], eps=RADIUS, steps=attack_steps),
        }
        for seed in range(seeds):
            made = ik.plug_in_inversion(target, labels, config, generator=ik.seeded(seed)).images
            shown.setdefault(kind, made)
            numbers = judge(made, labels)
            run.row(kind, {name: numbers[name] for name in ("own", *JUDGES, "frechet", "tv")} | known)
    for name, verifier in verifiers.items():
        run.row("photographs", {name: accuracy(verifier, photos, truth)["top1"]})
    run.record(
        "plugin_inversion_robust",
        title="Plug-In Inversion of a ResNet-20 for CIFAR-10, trained on with attacks and without",
        config={"inversion": SETTINGS, "further training": FURTHER} | {k: c for k, c in KINDS.items() if c is not None},
        seeds=seeds,
        claims=("pii.robust",),
        figure=show.image_rows(
            shown, list(target.spec.classes), columns=10, scale=1.5,
            numbers={k: f"{sum(run.mean(k, judge) for judge in JUDGES) / len(JUDGES):.0%}" for k in shown},
            numbers_name="judges",
        ),
        note=f"{len(labels)} images of each seed, ten shown, beside them the "
        f"share recognised, averaged over both judges; the "
        "seed changes the images and not the networks. Both were trained on for "
        f"{FURTHER['steps']} steps on {len(data.train):,} images, one under attack with radius 4/255, the other "
        f"without, so that they differ only in the attack. Under attack: {attack_steps} steps of PGD with that "
        "radius, 200 test images. The settings are those of the other runs on CIFAR-10, chosen for neither. Networks "
        "ran in bfloat16 autocast; scores are of images rounded to 8 bits.",
    )  # fmt: skip


if __name__ == "__main__":
    command_line(robust)
