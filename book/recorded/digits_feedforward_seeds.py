"""Repeat the recorded runs of chapter 9 on digits with three seeds: inverses, rivals, and what is asked of them.

    python book/recorded/digits_feedforward_seeds.py

It needs no data but the digits and the photographs that come with scikit-learn. Networks, inverses and settings are
those of the chapter; all inverses take as many steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.analysis.logit_probe import LogitProbe
from invkit.attacks import random_perturbation, robust_accuracy
from invkit.book.recording import Run, command_line, recorded_run

LAYER, COMPARATOR = "head.5", "features"  # of bn_cnn: its logits, and its last grid of features
EPS = 0.1
KINDS: dict[str, dict[str, Any]] = {"robust": {"eps": EPS, "attack_steps": 2}, "standard": {}}
# Weights of image, features and adversary.
BASELINES: dict[str, tuple[float, float, float]] = {
    "D&B 1, 0.1, 1": (1.0, 0.1, 1.0),
    "D&B 1, 1, 1": (1.0, 1.0, 1.0),
    "D&B 1, 0.01, 10": (1.0, 0.01, 10.0),
    "regression": (1.0, 0.0, 0.0),
}
GUESSES = ("mean colour", "nearest in pixels", "random training image", "noise")
GROUPS = 200  # random groups, as large as those of wrong answers
STOPS = torch.linspace(0, 1, 9)[1:-1]  # on the way from one image's logits to another's


@dataclass
class Laboratory:
    """The digits, the networks, and what is measured of their inverses."""

    run: Run
    data: ik.DataSet
    heldout: ik.Split
    settings: ik.FeedforwardConfig
    verifier: ik.Target = field(init=False)
    shown: Tensor = field(init=False)
    pictures: dict[str, Tensor] = field(default_factory=dict)
    uses: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        labels, classes = self.heldout.labels, range(self.data.spec.n_classes)
        self.verifier = self.classifier("repvgg_tiny", 1)
        self.shown = torch.cat([torch.nonzero(labels == k)[:1, 0] for k in classes])
        self.pictures["held-out"] = self.heldout.images[self.shown]

    def classifier(self, name: str, seed: int, **changes: Any) -> ik.Target:
        """A classifier of digits, as the chapter trains it."""
        config = ik.ClassifierConfig.for_network(name, "book", **changes | self.run.trial)
        network = ik.load_or_train(name, self.data, config, width=16, seed=seed, device="cpu")
        return self.run.uses(network, f"digits, {name}{' robust' if changes else ''}, of chapter 9")

    def probe(self, target: ik.Target, seed: int, **changes: Any) -> LogitProbe:
        """The chapter's inverse of a network's logits."""
        config = replace(self.settings, **changes)
        inverse, _ = ik.feedforward_inversion(target, self.data.train.pixels, config, generator=ik.seeded(seed))
        return LogitProbe(target, inverse, self.heldout, self.verifier)

    def rivals(self, ours: LogitProbe, seed: int) -> dict[str, Tensor]:
        """What other ways back make of the same logits."""
        made, settings = {}, self.settings
        for name, (image, features, adversarial) in BASELINES.items():
            config = ik.DeePSiMConfig.for_profile(
                "book", steps=settings.steps, batch_size=settings.batch_size, width=settings.width,
                image=image, features=features, adversarial=adversarial,
            )  # fmt: skip
            inverse, _ = ik.deepsim(
                ours.target, self.data.train.images, LAYER, config, comparator=COMPARATOR, generator=ik.seeded(seed)
            )
            with torch.no_grad():
                made[name] = inverse(ours.logits)
        blind = self.probe(ours.target, seed, projection=False, steps=max(1, settings.steps // 3))
        return made | {"no projection": blind.reconstructions}

    def one_seed(self, kind: str, seed: int) -> LogitProbe:
        """The rows of one network, and what is asked of its inverse."""
        ours = self.probe(self.classifier("bn_cnn", seed, **KINDS[kind]), seed)
        made = {"inverse": ours.reconstructions, "drawn": ours.draws(1, ik.seeded(0))[0]}
        if kind == "robust":
            made |= self.rivals(ours, seed)
        for name, images in made.items():
            self.run.row(f"{kind}: {name}", ours.scores(images))
            if seed == 0:
                self.pictures[f"{kind}: {name}"] = images[self.shown]
        for name, images in ours.baselines(self.data.train).items():
            self.run.row(f"{kind}: {name}", ours.scores(images))
        for use, number in used(self.data, self.heldout, ours, self.shown).items():
            self.uses.setdefault(use, {}).setdefault(kind, []).append(number)
        return ours


@recorded_run(smoke={"seeds": 1, "steps": 3, "count": 3})
def inverses(run: Run, *, seeds: int = 3, steps: int = 240, count: int = 0) -> None:
    """Inverses of robust and standard logits, their rivals, and what is measured; 0 counts all images of a class."""
    data, settings = ik.load_data("digits"), ik.FeedforwardConfig.for_profile("book", steps=steps)
    heldout = data.heldout.per_class(count) if count else data.heldout
    laboratory = Laboratory(run, data, heldout, settings)
    probes = [laboratory.one_seed(kind, seed) for seed in range(seeds) for kind in KINDS]
    guesses = ik.metrics.baselines(heldout.images, heldout.labels, data.train.images, data.train.labels)
    for name in GUESSES:
        run.row(name, probes[0].scores(guesses[name]))
    config = {"ours": settings, "robust": KINDS["robust"]}
    note = (
        f"{len(heldout)} held-out digits; each seed has a robust and a standard network and inverses of its own, of "
        f"{steps} steps on {len(data.train):,} training images. One verifier, and the noise that is drawn, serve all."
    )
    run.record(
        "digits_feedforward_seeds",
        title="Digits from the ten logits of robust and standard networks, all inverses with as many steps",
        config=config | {"D&B": BASELINES},
        seeds=seeds,
        claims=("ff.rich", "ff.robust", "ff.one-loss", "ff.consistent"),
        figure=show.image_rows(laboratory.pictures, columns=10),
        note=f"{note} Inverse: noise of zero; drawn: noise drawn once. D&B: Dosovitskiy and Brox, weights of image, "
        "feature and adversarial loss. Without the projection: a third of the steps. The last four rows look at no "
        "logits; in them `agreement` and `logits` are of the first robust network. The picture is of seed 0.",
    )
    run.record(
        "digits_feedforward_uses",
        title="What the inverses of logits tell of networks for digits",
        config=config,
        seeds=seeds,
        claims=("ff.invariance", "ff.manipulation", "ff.misclassified", "ff.attacked", "ff.ood"),
        measured=laboratory.uses,
        note=f"{note} Accuracy under attack: ten steps of PGD on 100 images; attacks and random changes: by at most "
        f"{EPS:g} a pixel; images moved: in the verifier's features, in units of the distance between two images. "
        f"Right and wrong answers: of {len(data.test) + len(heldout)} test and held-out images; apart: by how much "
        f"their mean distances in the verifier's features differ, and those of {GROUPS} random groups of the same "
        "sizes. Other noise: from one draw to another; borrowed: the change of another image. Logits are moved by half "
        "the distance between those of two images. A third digit: read in mixtures of two images' logits.",
    )


def used(data: ik.DataSet, heldout: ik.Split, probe: LogitProbe, shown: Tensor) -> dict[str, float]:
    """What an inverse does with other logits: changed images', wrongly classified ones', other data's, moved ones."""
    real, labels = heldout.images, heldout.labels
    numbers = {
        "accuracy": float((~probe.misclassified()).double().mean()),
        "accuracy under attack": robust_accuracy(probe.target, real[:100], labels[:100], eps=EPS, steps=10),
    }
    changes = {
        "attacked": probe.attacked(EPS, ik.seeded(0)),
        "changed at random": random_perturbation(real, EPS, generator=ik.seeded(0)),
    }
    for change, images in changes.items():
        after = probe.under_change(images)
        numbers[f"{change}, image moved"] = after["distance"]
        numbers[f"{change}, read rightly"] = after["verifier"]
    numbers |= answers(data.test, heldout, probe)
    others = {
        "shifted images": ik.data.shifted(real, 0.25),
        "images upside down": real.flip(2),
        "photographs": ik.data.photo_patches(len(real), data.spec, ik.seeded(0)),
    }
    for source, images in others.items():
        there = probe.on_other_images(images)
        numbers[f"{source}, psnr"] = there["psnr"]
        numbers[f"{source}, psnr to another"] = there["psnr to another"]
    noise = probe.under_noise(ik.seeded(0))
    for column in ("images", "images, borrowed", "logits", "logits, borrowed"):
        numbers[f"other noise, {column}"] = noise[column]
    for move, gain in probe.sensitivity(0.5, ik.seeded(0)).items():
        numbers[f"{move}, image per logit change"] = gain
    return numbers | {"mixed, a third digit": third_digit(probe, shown)}


def answers(test: ik.Split, heldout: ik.Split, probe: LogitProbe) -> dict[str, float]:
    """Right and wrong answers to test and held-out images, and how far apart their distances are."""
    pixels, labels = torch.cat([test.pixels, heldout.pixels]), torch.cat([test.labels, heldout.labels])
    wide, numbers = probe.with_images(ik.Split(pixels=pixels, labels=labels)), {}
    for answer, row in wide.by_answer().items():
        for column in ("images", "psnr", "distance", "true class", "answered class"):
            numbers[f"{answer} answers, {column}"] = row[column]
    real, recovered = wide.verifier_features(wide.real), wide.verifier_features(wide.reconstructions)
    far, wrong = (recovered - real).flatten(1).norm(dim=1) / torch.pdist(real).mean(), wide.misclassified()
    generator, apart = ik.seeded(0), [0.0]
    if wrong.any():
        groups = [wrong[torch.randperm(len(wrong), generator=generator)] for _ in range(GROUPS)]
        apart = [float((far[group].mean() - far[~group].mean()).abs()) for group in (wrong, *groups)]
    return numbers | {"right and wrong, apart": apart[0], "random groups, apart": sum(apart[1:]) / GROUPS}


@torch.no_grad()
def third_digit(probe: LogitProbe, shown: Tensor) -> float:
    """The share of mixtures of two images' logits in which the verifier reads neither of their digits."""
    third = []
    for i, j in torch.combinations(shown).tolist():
        start, end = probe.logits[[i]], probe.logits[[j]]
        inner = torch.cat([ik.analysis.logits.mix(start, end, float(share)) for share in STOPS])
        read = probe.verifier(probe.invert(inner)).argmax(1)
        third.append((read != probe.labels[i]) & (read != probe.labels[j]))
    return float(torch.cat(third).double().mean())


if __name__ == "__main__":
    command_line(inverses)
