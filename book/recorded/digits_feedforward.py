"""Repeat the recorded run on inverting logits: more seeds, the baseline's weights, two architectures, other data sets.

    INVKIT_DATA=FOLDER python book/recorded/digits_feedforward.py [--seeds 3]

``FOLDER`` holds ``mnist.npz`` and ``cifar10_4600.npz``.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.core.rng import seeded

COMMAND = "INVKIT_DATA=FOLDER python book/recorded/digits_feedforward.py"
LAYER, COMPARATOR = "head.5", "features"  # of bn_cnn: its logits, and its last grid of features
WEIGHTS = [(1.0, 0.1, 1.0), (1.0, 1.0, 1.0), (0.1, 0.1, 1.0), (1.0, 0.01, 10.0)]  # of image, feature, adversarial
OURS = "this method"
ROBUST = {"eps": 0.1, "attack_steps": 2}
TARGETS: dict[str, tuple[str, int, dict[str, float]]] = {
    "robust": ("bn_cnn", 16, ROBUST),
    "standard": ("bn_cnn", 16, {}),
    "robust ResNet": ("resnet20", 8, ROBUST),
    "ResNet": ("resnet20", 8, {}),
}
Scores = dict[str, dict[str, float]]
Inverse = Callable[[Tensor], Tensor]


def classifier(data: ik.DataSet, name: str, width: int, seed: int, **how: float) -> ik.Target:
    """A classifier as the chapter trains it."""
    return ik.load_or_train(name, data, ik.ClassifierConfig.for_network(name, "book", **how), width=width, seed=seed)


def baseline(
    target: ik.Target, data: ik.DataSet, seed: int, weights: tuple[float, float, float], steps: int
) -> Inverse:
    """Dosovitskiy & Brox on the same pairs; with two weights of zero, a regression."""
    image, features, adversarial = weights
    how = ik.DeePSiMConfig.for_profile("book", steps=steps, image=image, features=features, adversarial=adversarial)
    made, _ = ik.deepsim(target, data.train.images, LAYER, how, generator=seeded(seed), comparator=COMPARATOR)
    return made


def one_seed(data: ik.DataSet, sets: dict[str, ik.Split], seed: int, steps: int, pictures: dict[str, Tensor]) -> Scores:
    """Every row of the table for one seed of the targets, their inverses and the verifier."""
    verifier = classifier(data, "repvgg_tiny", 16, seed + 100)
    shown = torch.cat([torch.nonzero(data.heldout.labels == k)[:1, 0] for k in range(data.spec.n_classes)])
    pictures.setdefault("held-out", data.heldout.images[shown])
    rows: Scores = {}
    for kind, (name, width, how) in TARGETS.items():
        target = classifier(data, name, width, seed, **how)
        recipe = partial(ik.FeedforwardConfig.for_profile, "book", steps=steps)
        ours, _ = ik.feedforward_inversion(target, data.train.pixels, recipe(), generator=seeded(seed))
        inverses: dict[str, Inverse] = {OURS: ours}
        if name == "bn_cnn":
            chosen = [*(WEIGHTS if kind == "robust" else WEIGHTS[:1]), (1.0, 0.0, 0.0)]
            inverses |= {told(w): baseline(target, data, seed, w, steps) for w in chosen}
        if kind == "robust":
            blind = recipe(projection=False)
            inverses["no projection"], _ = ik.feedforward_inversion(
                target, data.train.pixels, blind, generator=seeded(seed)
            )
        probes = {k: ik.LogitProbe(target, inverse, data.heldout, verifier) for k, inverse in inverses.items()}
        rows |= {f"{kind} / {k}": probe.scores() for k, probe in probes.items()}
        probe = probes[OURS]
        rows[f"{kind} / {OURS}, drawn"] = probe.scores(probe.draws(1, seeded(seed))[0])
        rows |= {f"{kind} / {k}": probe.scores(made) for k, made in probe.naive(data.train).items()}
        rows |= {f"{k} / {kind}": probe.elsewhere(some.images) for k, some in sets.items()}
        if seed == 0:
            pictures |= {f"{kind}: {k}": p.made[shown] for k, p in probes.items() if told(WEIGHTS[1]) not in k}
            for k, some in sets.items():
                first = some.per_class(1).images[:10]
                pictures |= {k: first, f"{k}: {kind}": probe.again(first)} if name == "bn_cnn" else {}
        print(f"seed {seed}, {kind}: {rows[f'{kind} / {OURS}']}", flush=True)
    return rows


def told(weights: tuple[float, float, float]) -> str:
    """A baseline's name."""
    return "regression" if weights[1:] == (0, 0) else f"D&B {', '.join(f'{w:g}' for w in weights)}"


def split_of(images: Tensor, labels: Tensor) -> ik.Split:
    """Float images as a split of bytes."""
    return ik.Split(pixels=(images * 255).round().byte(), labels=labels)


def other(name: str, data: ik.DataSet) -> ik.Split:
    """300 test images of another data set in the size of the digits, grey, with their labels."""
    labels = ik.load_data(name, size=data.spec.size, limit=300).test.labels
    return split_of(ik.other_images(name, 300, data.spec), labels)


def main() -> None:
    """Run all seeds, and record after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=800, help="training steps of each inverse")
    parser.add_argument("--folder", type=Path, help="where to write; by default beside the other recorded runs")
    given = parser.parse_args()
    folder, start = Path(os.environ["INVKIT_DATA"]), time.perf_counter()
    data = ik.load_data("digits")
    sets = {
        "MNIST": other("mnist", data),
        "CIFAR-10": other(f"npz:{folder / 'cifar10_4600.npz'}", data),
        "shifted": split_of(ik.shifted(data.heldout.images, 0.25), data.heldout.labels),
    }
    measured: dict[str, list[float]] = {}
    pictures: dict[str, Tensor] = {}
    for seed in range(given.seeds):
        for row, values in one_seed(data, sets, seed, given.steps, pictures).items():
            for column, value in values.items():
                measured.setdefault(f"{row}: {column}", []).append(value)
        show.record(
            "digits_feedforward",
            title="Inverting the logits of classifiers of digits",
            config={"ours": ik.FeedforwardConfig.for_profile("book", steps=given.steps), "weights of D&B": WEIGHTS},
            measured=measured,
            command=f"{COMMAND} --seeds {seed + 1}",
            seed=0,
            seconds=time.perf_counter() - start,
            device="cpu, one thread",
            figure=show.image_rows(pictures, columns=10),
            note=f"Mean and standard deviation over {seed + 1} seeds of target, inverse and verifier; "
            "299 held-out images, scores as in the chapter. D&B: Dosovitskiy and Brox, weights of image, feature and "
            "adversarial loss. The picture is of seed 0.",
            folder=given.folder,
            overwrite=True,
        )


if __name__ == "__main__":
    main()
