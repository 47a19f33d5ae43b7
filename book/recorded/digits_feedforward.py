"""Repeat the recorded run on inverting logits: more seeds, the baseline's weights, two architectures, other data sets.

    INVKIT_DATA=FOLDER python book/recorded/digits_feedforward.py

``FOLDER`` holds ``mnist.npz`` and ``cifar10_4600.npz``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.book.recording import Run, command_line, recorded_run

LAYER, COMPARATOR = "head.5", "features"  # of bn_cnn: its logits, and its last grid of features
Weights = tuple[float, float, float]
WEIGHTS: list[Weights] = [(1.0, 0.1, 1.0), (1.0, 1.0, 1.0), (0.1, 0.1, 1.0), (1.0, 0.01, 10.0)]
REGRESSION = (1.0, 0.0, 0.0)  # image, features, adversarial
OURS = "this method"
ATTACK = {"eps": 0.1, "attack_steps": 2}
TARGETS: dict[str, tuple[str, int, dict[str, float]]] = {
    "robust": ("bn_cnn", 16, ATTACK),
    "standard": ("bn_cnn", 16, {}),
    "robust ResNet": ("resnet20", 8, ATTACK),
    "ResNet": ("resnet20", 8, {}),
}
Inverse = Callable[[Tensor], Tensor]


@dataclass
class Laboratory:
    """The digits, images of other kinds, and what is shown of seed 0."""

    run: Run
    steps: int
    data: ik.DataSet
    others: dict[str, ik.Split]
    pictures: dict[str, Tensor] = field(default_factory=dict)

    def classifier(self, name: str, width: int, seed: int, **attack: float) -> ik.Target:
        """A classifier as the chapter trains it."""
        config = ik.ClassifierConfig.for_network(name, **attack, **self.run.trial)
        return ik.load_or_train(name, self.data, config, width=width, seed=seed)

    def ours(self, target: ik.Target, seed: int, **changes: Any) -> Inverse:
        """The feedforward inverse of a target's logits."""
        config = ik.FeedforwardConfig.for_profile("book", steps=self.steps, **changes)
        inverse, _ = ik.feedforward_inversion(target, self.data.train.pixels, config, generator=ik.seeded(seed))
        return inverse

    def baseline(self, target: ik.Target, seed: int, weights: Weights) -> Inverse:
        """Dosovitskiy & Brox on the same pairs; with two weights of zero, a regression."""
        image, features, adversarial = weights
        config = ik.DeePSiMConfig.for_profile(
            "book", steps=self.steps, image=image, features=features, adversarial=adversarial
        )
        images, generator = self.data.train.images, ik.seeded(seed)
        inverse, _ = ik.deepsim(target, images, LAYER, config, generator=generator, comparator=COMPARATOR)
        return inverse

    def inverses(self, kind: str, target: ik.Target, seed: int) -> dict[str, Inverse]:
        """All inverses of a target: the robust one's with all weights, and without projection."""
        inverses = {OURS: self.ours(target, seed)}
        if TARGETS[kind][0] == "bn_cnn":
            for weights in [*(WEIGHTS if kind == "robust" else WEIGHTS[:1]), REGRESSION]:
                inverses[label(weights)] = self.baseline(target, seed, weights)
        if kind == "robust":
            inverses["no projection"] = self.ours(target, seed, projection=False)
        return inverses


@recorded_run(data=True, smoke={"seeds": 1, "steps": 1, "count": 40})
def logits(run: Run, *, seeds: int = 3, steps: int = 800, count: int = 300) -> None:
    """Run all seeds, and record after each."""
    data = ik.load_data("digits")
    others = {
        "MNIST": other("mnist", data, count),
        "CIFAR-10": other(f"npz:{run.data / 'cifar10_4600.npz'}", data, count),
        "shifted": split_of(ik.data.shifted(data.heldout.images, 0.25), data.heldout.labels),
    }
    laboratory = Laboratory(run, steps, data, others)
    for seed in range(seeds):
        one_seed(run, laboratory, seed)
        run.record(
            "digits_feedforward",
            title="Inverting the logits of classifiers of digits",
            config={"ours": ik.FeedforwardConfig.for_profile("book", steps=steps), "weights of D&B": WEIGHTS},
            seeds=seed + 1,
            figure=show.image_rows(laboratory.pictures, columns=10),
            note=f"Mean and standard deviation over {seed + 1} seeds of target, inverse and verifier; "
            "299 held-out images, scores as in the chapter. D&B: Dosovitskiy and Brox, weights of image, feature and "
            "adversarial loss. The picture is of seed 0.",
        )


def one_seed(run: Run, laboratory: Laboratory, seed: int) -> None:
    """Every row of the table for one seed of the targets, their inverses and the verifier."""
    heldout = laboratory.data.heldout.per_class(3) if run.quick else laboratory.data.heldout
    pictures = laboratory.pictures
    verifier = laboratory.classifier("repvgg_tiny", 16, seed + 100)
    shown = torch.cat([torch.nonzero(heldout.labels == k)[:1, 0] for k in range(laboratory.data.spec.n_classes)])
    pictures.setdefault("held-out", heldout.images[shown])
    for kind, (name, width, attack) in TARGETS.items():
        target = laboratory.classifier(name, width, seed, **attack)
        inverses = laboratory.inverses(kind, target, seed)
        probes = {k: ik.analysis.LogitProbe(target, inverse, heldout, verifier) for k, inverse in inverses.items()}
        for method, probe in probes.items():
            run.row(f"{kind} / {method}", probe.scores())
        ours = probes[OURS]
        run.row(f"{kind} / {OURS}, drawn", ours.scores(ours.draws(1, ik.seeded(seed))[0]))
        for guess, images in ours.baselines(laboratory.data.train).items():
            run.row(f"{kind} / {guess}", ours.scores(images))
        for source, split in laboratory.others.items():
            run.row(f"{source} / {kind}", ours.on_other_images(split.images))
        if seed > 0:
            continue
        for method, probe in probes.items():
            if method != label(WEIGHTS[1]):
                pictures[f"{kind}: {method}"] = probe.reconstructions[shown]
        if name == "bn_cnn":
            for source, split in laboratory.others.items():
                pictures[source] = split.per_class(1).images[:10]
                pictures[f"{source}: {kind}"] = ours.reconstruct(pictures[source])


def label(weights: Weights) -> str:
    """A baseline's name."""
    return "regression" if weights == REGRESSION else f"D&B {', '.join(f'{w:g}' for w in weights)}"


def split_of(images: Tensor, labels: Tensor) -> ik.Split:
    """Float images as a split of bytes."""
    return ik.Split(pixels=(images * 255).round().byte(), labels=labels)


def other(name: str, data: ik.DataSet, count: int) -> ik.Split:
    """So many test images of another data set in the size of the digits, grey, with their labels."""
    labels = ik.load_data(name, size=data.spec.size, limit=count).test.labels
    return split_of(ik.data.other_images(name, count, data.spec), labels)


if __name__ == "__main__":
    command_line(logits)
