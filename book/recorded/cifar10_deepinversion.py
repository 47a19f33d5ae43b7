"""Repeat the recorded run ``cifar10_deepinversion``: DeepInversion of a published ResNet-20, judged by others.

    INVKIT_DATA=FOLDER python book/recorded/cifar10_deepinversion.py [--steps 2000]

``FOLDER`` holds ``cifar10_4600.npz`` (4,000 training and 600 test images), ``weights/`` with the networks, and
``networks.py`` with the source of the one that is not in the package.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import invkit as ik
from invkit.runtime import seeded

NAME = "cifar10_deepinversion"
COMMON = {"lr": 0.05, "betas": (0.5, 0.9), "flip": 0.5, "l2": 0.0}
TERMS = {
    "cross-entropy": {"cross_entropy": 1.0, "tv": 0.0, "feature": 0.0},
    "+ image prior": {"tv": 0.2, "feature": 0.0},
    "+ statistics": {"tv": 0.2, "feature": 1.0, "jitter": 2},
    "+ shifts of training": {"tv": 0.2, "feature": 1.0, "jitter": 4, "wrap": False},
}


def networks(folder: Path, device: torch.device) -> tuple[ik.Target, dict[str, ik.Target]]:
    """The target, and two verifiers: a deeper one of its family, and a robust one without batch norm."""
    sys.path.insert(0, str(folder))
    weights = folder / "weights"
    target = ik.load_target("invkit/resnet20", weights=weights / "cifar10_resnet20.safetensors", device=device)
    deeper = ik.load_target("invkit/resnet44", weights=weights / "cifar10_resnet44.safetensors", device=device)
    robust = ik.load_target("networks:ResNet4B", weights=weights / "cifar10_resnet4b_robust.safetensors", device=device)
    return target, {"ResNet-44": deeper, "robust, no BN": robust}


def ablation(target: ik.Target, judge: ik.Judge, labels: torch.Tensor, steps: int) -> dict[str, ik.InversionResult]:
    """The same noise under one more term at a time, and the last once more as part of a batch three times as large."""
    results = {}
    for name, changes in TERMS.items():
        config = ik.DeepInversionConfig(steps=steps, **COMMON | changes)
        results[name] = ik.deep_inversion(target, labels, config, generator=seeded(0))
    config = ik.DeepInversionConfig(steps=steps, micro_batch=len(labels), **COMMON | TERMS["+ shifts of training"])
    wide = ik.deep_inversion(target, labels.repeat(3), config, generator=seeded(0))
    results["+ batch of three times"] = wide
    for name, result in results.items():
        print(name, {k: round(v, 3) for k, v in judge(result.images[: len(labels)], labels).items()}, flush=True)
    return results
