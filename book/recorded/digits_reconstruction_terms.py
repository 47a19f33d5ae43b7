"""Repeat the recorded run of what each term of the reconstruction loss is worth, on digits.

    python book/recorded/digits_reconstruction_terms.py

It needs no data but the scans of scikit-learn, and has the networks and the settings of chapter 8.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.book.recording import Run, command_line, recorded_run
from invkit.data.datasets import DataSet, Split
from invkit.methods.network_inversion import make_generators, train_generators

WHOLE, SOFT = "all terms", "soft conditions"
VARIANTS: dict[str, dict[str, float]] = {  # by name, the weights that are zero
    WHOLE: {},
    SOFT: {},
    "no perturbation": {"kl_perturbed": 0.0, "cross_entropy_perturbed": 0.0},
    "no gradient": {"gradient": 0.0},
    "no smoothness": {"variation": 0.0},
}
SETTINGS: dict[str, Any] = {"batch_size": 32, "lr": 1e-2, "gradient_images": 4, "variation": 0.2}


@recorded_run(smoke={"pairs": 1, "steps": 1, "learning": 1, "each": 1})
def terms(
    run: Run, *, first: int = 3, pairs: int = 20, known: int = 2, steps: int = 45, learning: int = 150, each: int = 4
) -> None:
    """One group of terms taken away at a time, for pairs of networks that each know a few images of every class."""
    data = ik.load_data("digits")
    classes = data.spec.n_classes
    labels = torch.arange(each * classes) % classes
    config = ik.ReconstructionConfig.for_profile("book", steps=steps, **SETTINGS)
    shown: dict[str, Tensor] = {}
    seeds = range(first, first + pairs)  # by pairs 0 to 2 it was seen that three cannot tell
    for seed in seeds:
        halves = two_sets(data, known, seed)
        targets = [by_heart(run, data, half, learning, seed) for half in halves]
        for name, changes in VARIANTS.items():
            settings = replace(config, **changes)
            images = [drawn(target, settings, labels, seed, soft=name == SOFT) for target in targets]
            leak = ik.metrics.crossed_leakage((images[0], images[1]), (halves[0].images, halves[1].images), draws=1)
            nearest = {"seen": float(leak.to_train.mean()), "unseen": float(leak.to_heldout.mean())}
            run.row(name, {"gap": leak.gap} | nearest)
            shown.setdefault(name, images[0][:classes])
    gaps = {name: f"{run.mean(name, 'gap'):z.3f}".replace("-", "\N{MINUS SIGN}") for name in shown}
    run.record(
        "digits_reconstruction_terms",
        title="Reconstruction on digits: a group of terms taken away",
        config={"reconstruction": config, "training steps": learning},
        seeds=seeds,
        claims=("rec.terms",),
        figure=show.image_rows(shown, range(classes), columns=classes, numbers=gaps, numbers_name="gap"),
        note=f"By pair of networks: each was trained on {known * classes} images, {known} of each class, that the "
        f"other never saw, in {learning} steps without shifts and label smoothing. The seed changes the images, the "
        f"networks and the generators. {len(labels)} images of each network, all generators given the same noise; "
        "seen and unseen: mean similarity (SSIM) to the nearest image of the own and of the other set; gap: their "
        "difference, mean of both networks. The conditions are one-hot except in the row on soft ones; otherwise a row "
        "says which weights are zero. A sigmoid keeps the range of pixels in every row. The picture shows an image of "
        "each class from the first network of the first pair, and the mean gap.",
    )  # fmt: skip


def two_sets(data: DataSet, known: int, seed: int) -> tuple[Split, Split]:
    """Equally many images of each class, twice, with no image in both."""
    order = torch.randperm(len(data.train), generator=ik.seeded(seed))
    both = data.train[order].per_class(2 * known)
    places = torch.arange(len(both)).view(-1, 2, known)
    return both[places[:, 0].flatten()], both[places[:, 1].flatten()]


def by_heart(run: Run, data: DataSet, known: Split, steps: int, seed: int) -> ik.Target:
    """A network that has seen nothing but these images, each as it is."""
    settings: dict[str, Any] = {"shift": 0, "label_smoothing": 0.0, "batch_size": min(64, len(known)), "steps": steps}
    config = ik.ClassifierConfig.for_network("bn_cnn", **settings | run.trial)
    network = ik.load_or_train("bn_cnn", replace(data, train=known), config, width=16, seed=seed, device="cpu")
    return run.uses(network, f"bn_cnn on {len(known)} digits")


def drawn(target: ik.Target, config: ik.ReconstructionConfig, labels: Tensor, seed: int, *, soft: bool) -> Tensor:
    """Images of a generator that was trained against a network, by hot conditions or by soft ones."""
    rng = ik.seeded(seed)
    if soft:
        networks = make_generators(target, config, rng, bounded=not config.pixel)
        generator, _ = train_generators(ik.methods.Reconstruction(target, networks, config), rng)
    else:
        generator, _ = ik.reconstruct(target, config, generator=rng)
    images, _ = generator.sample(labels, generator=ik.seeded(1))  # the same noise for all
    return images


if __name__ == "__main__":
    command_line(terms)
