"""Repeat the recorded run on the garbage class: MNIST against CIFAR-10 in grey, and the other way round.

    INVKIT_DATA=FOLDER python book/recorded/mnist_ood.py [--steps 380] [--seeds 2]

``FOLDER`` holds ``mnist.npz`` and ``cifar10_4600.npz`` (4,000 training and 600 test images).
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

import torch

import invkit as ik
from invkit import show
from invkit.core.rng import seeded
from invkit.data.datasets import channel_statistics
from invkit.metrics.quality import in_batches
from invkit.networks.classifiers import build

COMMAND = "INVKIT_DATA=FOLDER python book/recorded/mnist_ood.py"
SIZE, TRAIN, TEST = 28, 3000, 600
GARBAGE = {"noise only": "noise", "inverted": "inversion"}


def grey(data: ik.DataSet, name: str) -> ik.DataSet:
    """The same images with one channel, at most 600 of them for testing, the classes balanced."""
    splits = {
        part: replace(split, pixels=split.pixels.float().mean(1, keepdim=True).round().byte())
        for part, split in (("train", data.train), ("test", data.test.per_class(TEST // 10)), ("heldout", data.heldout))
    }
    mean, std = channel_statistics(splits["train"].pixels)
    return replace(data, name=name, spec=replace(data.spec, channels=1, mean=mean, std=std), **splits)


def trained(data: ik.DataSet, steps: int, seed: int) -> dict[str, tuple[ik.Target, torch.Tensor | None]]:
    """The three classifiers of the chapter, and what the garbage class of two of them holds."""
    recipe = ik.ClassifierConfig.for_profile("book", steps=steps)
    module = build("bn_cnn", data.spec, width=16, seed=seed)
    ik.train_classifier(module, data, recipe, seed=seed, device="cpu")
    found: dict[str, tuple[ik.Target, torch.Tensor | None]] = {"no garbage": (ik.Target(module, data.spec), None)}
    for name, source in GARBAGE.items():
        how = garbage_config(source, steps)
        module = build("bn_cnn", ik.with_garbage(data.spec), width=16, seed=seed)
        inversion = ik.NetworkInversionConfig.for_profile("book")
        run = ik.train_with_garbage(module, data, how, inversion, generator=seeded(seed), device="cpu")
        found[name] = (run.target, run.garbage)
    return found


def garbage_config(source: str, steps: int) -> ik.GarbageConfig:
    """A tenth as much noise as training images, and a twelfth of them added after each epoch."""
    return ik.GarbageConfig.for_profile("book", steps=steps, noise=300, per_class=25, source=source)


def measure(
    nets: dict[str, tuple[ik.Target, torch.Tensor | None]], data: ik.DataSet, outside: torch.Tensor
) -> dict[str, float]:
    """Every number of the run for one direction and one seed."""
    inside, labels, found = data.test.images, data.test.labels, {}
    for name, (net, garbage) in nets.items():
        logits = in_batches(net, inside)
        found[f"{name}: accuracy"] = float((logits.argmax(1) == labels).double().mean())
        scores = ik.compare_scores(net, data.train, inside, outside, garbage=garbage is not None)
        found |= {f"{name}: AUROC, {score}": row["auroc"] for score, row in scores.items() if score != "energy"}
        gap = ik.confidence_gap(logits, in_batches(net, outside), None if garbage is None else data.spec.n_classes)
        if garbage is not None:
            found[f"{name}: share in garbage"] = gap.rejected
        found |= {f"{name}: lowest inside": gap.lowest_inside, f"{name}: highest outside": gap.highest_outside}
        found[f"{name}: violating"] = gap.violating
    return found


def main() -> None:
    """Run both directions and record them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=380, help="training steps of each classifier")
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    folder, start = Path(os.environ["INVKIT_DATA"]), time.perf_counter()
    sets = {
        "MNIST": grey(ik.load_data("mnist", folder=folder, limit=TRAIN), "MNIST"),
        "CIFAR-10": grey(ik.load_data(f"npz:{folder / 'cifar10_4600.npz'}", size=SIZE, limit=TRAIN), "CIFAR-10"),
    }
    measured: dict[str, list[float]] = {}
    rows = {}
    for (name, data), other in zip(sets.items(), reversed(sets.values()), strict=True):
        for seed in range(given.seeds):
            nets = trained(data, given.steps, seed)
            for key, value in measure(nets, data, other.test.images).items():
                measured.setdefault(f"{name} inside, {key}", []).append(value)
                print(f"{name}, seed {seed}: {key} {value:.3f}", flush=True)
            if seed == 0:
                garbage = nets["inverted"][1]
                assert garbage is not None
                rows[f"{name}: test images"] = data.test.per_class(1).images
                rows |= {f"{name}: garbage, {at} epoch": garbage[part] for at, part in _ends(garbage)}
    figure = show.image_rows(rows, columns=10)
    show.record(
        "mnist_ood",
        title="A garbage class filled by inversion: MNIST against CIFAR-10 in grey, and the other way round",
        config={"garbage": garbage_config("inversion", given.steps), "training images": TRAIN, "size": SIZE},
        measured=measured,
        command=f"{COMMAND} --steps {given.steps} --seeds {given.seeds}",
        seed=0,
        seconds=time.perf_counter() - start,
        device="cpu",
        figure=figure,
        note=f"Mean and standard deviation over {given.seeds} seeds; 28 pixels, grey, {TEST} test images of each. "
        "The picture shows one image of each class that the garbage was fed after the first and after the last epoch.",
        overwrite=True,
    )


def _ends(garbage: torch.Tensor) -> list[tuple[str, slice]]:
    """One image of each class, as added after the first and after the last epoch."""
    return [("first", slice(300, 550, 25)), ("last", slice(len(garbage) - 250, None, 25))]


if __name__ == "__main__":
    main()
