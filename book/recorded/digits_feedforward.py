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
from invkit import logits as lo
from invkit import metrics, show
from invkit.images import quantise
from invkit.runtime import seeded

COMMAND = "INVKIT_DATA=FOLDER python book/recorded/digits_feedforward.py"
LAYER, COMPARATOR = "head.5", "features"  # of bn_cnn: its logits, and its last grid of features
WEIGHTS = [(1.0, 0.1, 1.0), (1.0, 1.0, 1.0), (0.1, 0.1, 1.0), (1.0, 0.01, 10.0)]  # of image, feature, adversarial
ATTACK = {"radius": 0.1, "attack_steps": 2}
Scores = dict[str, dict[str, float]]
Inverse = Callable[[Tensor], Tensor]


def classifier(data: ik.DataSet, name: str, width: int, seed: int, **how: float) -> ik.Target:
    """A classifier as the chapter trains it."""
    return ik.load_or_train(name, data, ik.ClassifierConfig.for_network(name, "book", **how), width=width, seed=seed)


def baseline(
    target: ik.Target, data: ik.DataSet, seed: int, weights: tuple[float, float, float], steps: int
) -> Inverse:
    """Dosovitskiy & Brox on the same pairs; with two weights of zero, a regression."""
    image, feature, adversarial = weights
    how = ik.DeePSiMConfig.for_profile("book", steps=steps, image=image, feature=feature, adversarial=adversarial)
    made, _ = ik.deepsim(target, data.train.images, LAYER, how, generator=seeded(seed), comparator=COMPARATOR)
    return made


def judged(target: ik.Target, like: ik.Likeness, made: Tensor, answers: Tensor) -> dict[str, float]:
    """What images made from logits ``answers`` are worth."""
    eye, again = like.verifiers["verifier"], metrics.in_batches(target, quantise(made))
    real, ours = (metrics.in_batches(eye.features, images) for images in (like.real, quantise(made)))
    return {
        **{k: v for k, v in like(made).items() if k != "psnr sd"},
        "agreement": float((again.argmax(1) == answers.argmax(1)).double().mean()),
        "logits moved": lo.relative_change(answers, again),
        "Fréchet": metrics.frechet_distance(ours, real),
    }


@torch.no_grad()
def naive(target: ik.Target, data: ik.DataSet, answers: Tensor) -> dict[str, Tensor]:
    """What can be said of an image without a generator: its class's mean, and the training image of nearest logits."""
    means = torch.stack([data.train.of_class(k).images.mean(0) for k in range(data.spec.n_classes)])
    known = metrics.in_batches(target, data.train.pixels)
    return {"class mean": means[answers.argmax(1)], "nearest logits": data.train.images[lo.nearest(answers, known)]}


@torch.no_grad()
def inverted(
    target: ik.Target, inverses: dict[str, Inverse], like: ik.Likeness, draws: Tensor, answers: Tensor
) -> Scores:
    """Scores of all inverses of one target, and of one draw of ours."""
    found = {name: judged(target, like, inverse(answers).cpu(), answers) for name, inverse in inverses.items()}
    return found | {"ours, drawn": judged(target, like, draws, answers)}


@torch.no_grad()
def elsewhere(target: ik.Target, inverse: Inverse, sets: dict[str, Tensor]) -> Scores:
    """PSNR and SSIM on images of other kinds, beside the PSNR to another image of the same kind."""
    found = {}
    for name, images in sets.items():
        made = inverse(metrics.in_batches(target, images))
        found[name] = {
            "psnr": metrics.psnr(quantise(made), images),
            "ssim": metrics.ssim(quantise(made), images),
            "psnr to another": metrics.psnr(quantise(made), images.roll(1, 0)),
        }
    return found


def one_seed(data: ik.DataSet, sets: dict[str, Tensor], seed: int, steps: int, pictures: dict[str, Tensor]) -> Scores:
    """Every row of the table for one seed of the targets and of their inverses."""
    like = ik.Likeness(
        real=data.heldout.images, labels=data.heldout.labels,
        verifiers={"verifier": classifier(data, "repvgg_tiny", 16, seed + 100)},
    )  # fmt: skip
    shown = torch.cat([torch.nonzero(data.heldout.labels == k)[:1, 0] for k in range(data.spec.n_classes)])
    pictures.setdefault("held-out", like.real[shown])
    rows: Scores = {}
    for kind, name, width, how in (
        ("robust", "bn_cnn", 16, ATTACK), ("standard", "bn_cnn", 16, {}),
        ("ResNet, robust", "resnet20", 8, ATTACK), ("ResNet, standard", "resnet20", 8, {}),
    ):  # fmt: skip
        target = classifier(data, name, width, seed, **how)
        recipe = partial(ik.FeedforwardConfig.for_profile, "book", steps=steps)
        ours, _ = ik.feedforward_inversion(target, data.train.pixels, recipe(), generator=seeded(seed))
        answers = metrics.in_batches(target, like.real)
        inverses: dict[str, Inverse] = {"ours": ours}
        if name == "bn_cnn":
            chosen = WEIGHTS if kind == "robust" else WEIGHTS[:1]
            for weights in [*chosen, (1.0, 0.0, 0.0)]:
                label = "regression" if weights[1:] == (0, 0) else f"D&B {', '.join(f'{w:g}' for w in weights)}"
                inverses[label] = baseline(target, data, seed, weights, steps)
        if kind == "robust":
            blind, _ = ik.feedforward_inversion(
                target, data.train.pixels, recipe(projection=False), generator=seeded(seed)
            )
            inverses["ours without projection"] = blind
        drawn = ours.draws(answers, 1, generator=seeded(seed))[0]
        rows |= {f"{kind} / {k}": v for k, v in inverted(target, inverses, like, drawn, answers).items()}
        if name == "bn_cnn":
            rows |= {f"{kind} / {k}": judged(target, like, v, answers) for k, v in naive(target, data, answers).items()}
        right = answers.argmax(1) == like.labels
        rows[f"{kind} / ours"]["accuracy of the target"] = float(right.double().mean())
        rows |= {f"{k} / {kind}": v for k, v in elsewhere(target, ours, sets).items()}
        if seed == 0:
            with torch.no_grad():
                pictures |= {f"{kind}: {k}": inverse(answers)[shown] for k, inverse in inverses.items()}
                if name == "bn_cnn":
                    for k, images in sets.items():
                        pictures.setdefault(k, images[:10])
                        pictures[f"{k}, {kind}"] = ours(metrics.in_batches(target, images[:10]))
        print(f"seed {seed}, {kind}: {rows[f'{kind} / ours']}", flush=True)
    return rows


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
        "MNIST": ik.other_images("mnist", 300, data.spec),
        "CIFAR-10 in grey": ik.other_images(f"npz:{folder / 'cifar10_4600.npz'}", 300, data.spec),
        "digits shifted by a quarter": ik.shifted(data.heldout.images, 0.25),
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
            "299 held-out images. D&B: Dosovitskiy and Brox with its weights of image, feature and adversarial loss. "
            "The picture is of seed 0.",
            folder=given.folder,
            overwrite=True,
        )


if __name__ == "__main__":
    main()
