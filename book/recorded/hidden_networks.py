"""Repeat the recorded runs on hidden networks: accuracy over shares and widths on digits, and inversions on CIFAR-10.

    python book/recorded/hidden_networks.py digits
    INVKIT_DATA=FOLDER python book/recorded/hidden_networks.py cifar10

The first needs nothing but the package; its networks are kept, as in chapter 2. For the second, ``FOLDER`` holds
``cifar10_4600.npz``, ``weights/`` and ``networks.py``, as for ``cifar10_deepinversion.py``; the networks that are
inverted are trained here, on 3,600 images, with the settings that chapter 2 calls those of the report's code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.book.recording import Run, command_line, recorded_run
from invkit.metrics.content import low_frequency_share
from invkit.metrics.quality import accuracy

SHARES, WIDTHS = (5, 10, 30, 50, 70, 90, 100), (4, 8, 16)
NETWORK, WIDTH = "bn_cnn", 16
CIFAR: dict[str, Any] = {"steps": 700, "warmup": 50, "shift": 2, "flip": True}
CIFAR_SHARES, INVERTED = (30, 50, 70), 50
# A random mask learns nothing but running statistics, for which fewer steps are enough.
RANDOM: dict[str, Any] = {"lr": 1e-9, "steps": 150}

WITHOUT: dict[str, Any] = {"batch_norm": 0.0}
# By row: the network, whether it has statistics, and what is otherwise than in `reported_inversion`.
INVERSIONS: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "hidden: nowhere": ("hidden", False, WITHOUT),
    "dense: nowhere": ("dense", False, WITHOUT),
    "hidden: in network": ("hidden", True, WITHOUT),
    "dense: in network": ("dense", True, WITHOUT),
    "hidden: in loss": ("hidden", True, {}),
    "dense: in loss": ("dense", True, {}),
    "nowhere, logit": ("hidden", False, WITHOUT | {"cross_entropy": 0.0, "class_logit": 1.0}),
    "nowhere, T = 30": ("hidden", False, WITHOUT | {"cross_entropy": 30.0, "temperature": 30.0}),
    "nowhere, grey start": ("hidden", False, WITHOUT | {"loud": False}),
}


@recorded_run(smoke={"seeds": 1})
def digits(run: Run, *, seeds: int = 3) -> None:
    """Accuracy on real test images, of hidden networks of each width that keep k percent, and of dense ones."""
    data = ik.load_data("digits")
    dense = ik.ClassifierConfig.for_network(NETWORK, **run.trial)
    curves: dict[str, list[list[float]]] = {}
    for width in WIDTHS:
        row = f"width {width}"
        curves[row] = []
        for seed in range(seeds):
            trained = ik.load_or_train(NETWORK, data, dense, width=width, seed=seed, device="cpu")
            run.row(row, {"dense": read(trained, data.test)})
        for share in SHARES:
            scores = [read(hidden(run, data, width, seed, k=share), data.test) for seed in range(seeds)]
            run.row(row, {f"k {share}": scores})
            curves[row].append(scores)
    lines = {row: torch.tensor(scores).T for row, scores in curves.items()}
    figure = show.curve_with_spread(SHARES, lines, xlabel="weights kept, %", ylabel="accuracy on test images")
    run.record(
        "hidden_digits",
        title="Accuracy of hidden networks on digits: share of weights kept, and width",
        config=ik.HiddenConfig.for_profile("book", **run.trial),
        seeds=seeds,
        figure=figure,
        note=f"299 test images, mean and standard deviation over {seeds} seeds of weights, scores and batches. With "
        "k = 100 nothing is left out, so nothing is learnt but the running statistics of batch norms.",
    )


def hidden(run: Run, data: ik.DataSet, width: int, seed: int, **changes: Any) -> ik.Target:
    """A network hidden in random weights, trained once and kept."""
    config = ik.HiddenConfig.for_profile("book", **changes | run.trial)
    return ik.methods.load_or_train_hidden(NETWORK, data, config, width=width, seed=seed, device="cpu")


def read(network: ik.Target, split: ik.Split) -> float:
    """The share of images that a network reads."""
    return accuracy(network, split.images, split.labels)["top1"]


def best_share(heldout: Mapping[int, Sequence[float]], seed: int) -> int:
    """The share of weights with which the network of this seed reads most held-out images, some being left out."""
    return max((share for share in heldout if share < 100), key=lambda share: heldout[share][seed])


@recorded_run(data=True, smoke={"seeds": 1, "train": 100, "steps": 1, "each": 2})
def cifar10(run: Run, *, seeds: int = 3, steps: int = 400, train: int = 4000, each: int = 4) -> None:
    """Hidden and dense networks read photographs, and are inverted with the settings of the report's code."""
    data = ik.load_data(f"npz:{run.data / 'cifar10_4600.npz'}", limit=train)
    judges = {"ResNet-44": run.network("cifar10_resnet44"), "robust net": run.network("cifar10_resnet4b_robust")}
    labels = torch.arange(10 * each) % 10
    pictures: dict[str, Tensor] = {"real images": real_images(data, each, 0)}
    for seed in range(seeds):
        networks = trained(run, data, seed)
        controls = {"real images": real_images(data, each, seed), "pure noise": noise(data, len(labels), seed)}
        for row, made in controls.items():
            run.row(row, judged(judges, made, labels))
        for row, (kind, tracked, changes) in INVERSIONS.items():
            network = networks[kind] if tracked else ik.networks.without_statistics(networks[kind])
            config = ik.methods.reported_inversion(len(labels), steps=steps, **changes)
            made = ik.deep_inversion(network, labels, config, generator=ik.seeded(seed)).images
            own = accuracy(network, ik.data.quantise(made), labels)["top1"]
            run.row(row, judged(judges, made, labels) | {"own": own})
            pictures.setdefault(row, made)
    run.record(
        "hidden_cifar10",
        title="Networks hidden in random weights, CIFAR-10: what they read, and their inversion as in the report",
        config={"training": CIFAR, "width": WIDTH, "k inverted": INVERTED, "steps": steps}
        | {row: changes for row, (_, _, changes) in INVERSIONS.items()},
        seeds=seeds,
        figure=picture(run, pictures, data.spec.classes),
        claims=("hid.subnetwork", "hid.noise", "hid.why-statistics", "hid.why-cross-entropy"),
        note=f"{seeds} seeds of networks and noise, {len(labels)} images each, {each} of each class. The inverted "
        f"networks learnt from {len(data.train):,} images, the judges (published) from all of CIFAR-10. Accuracy: on "
        f"{len(data.test)} test images, among them the real ones that are judged. Hidden, random masks: at the share "
        f"of weights chosen, for each seed, on {len(data.heldout)} held-out images; the one inverted keeps "
        f"{INVERTED}%. Scores are of images rounded to 8 bits; own is the inverted network, recognised the mean of "
        "the two judges. Statistics: in the loss, in the network alone, or nowhere.",
    )


def trained(run: Run, data: ik.DataSet, seed: int) -> dict[str, ik.Target]:
    """The dense and the hidden network to invert, after rows on what these, others and random masks read."""
    config = ik.ClassifierConfig.for_network(NETWORK, **CIFAR | run.trial)
    dense = ik.load_or_train(NETWORK, data, config, width=WIDTH, seed=seed, device="cpu")
    run.row("dense", {"accuracy": read(dense, data.test)})
    found = {share: hidden(run, data, WIDTH, seed, k=share, **CIFAR) for share in CIFAR_SHARES}
    for share, network in found.items():
        scores = {"accuracy": read(network, data.test), "held-out": read(network, data.heldout)}
        run.row(f"hidden, k {share}", scores)
    share = best_share({share: [read(network, data.heldout)] for share, network in found.items()}, 0)
    run.row("hidden", {"accuracy": read(found[share], data.test), "k chosen": share})
    random = hidden(run, data, WIDTH, seed, k=share, **CIFAR | RANDOM)
    run.row("random masks", {"accuracy": read(random, data.test)})
    run.uses(dense, "bn_cnn, CIFAR-10")
    run.uses(found[INVERTED], "hidden bn_cnn, CIFAR-10")
    return {"dense": dense, "hidden": found[INVERTED]}


def real_images(data: ik.DataSet, each: int, seed: int) -> Tensor:
    """Photographs that no network has learnt, the classes in turn; others for each of the first seeds."""
    of_class = [data.test.of_class(label).images for label in range(data.spec.n_classes)]
    rows = [images.roll(-seed * each, 0)[:each] for images in of_class]
    return torch.stack(rows, 1).flatten(0, 1)


def noise(data: ik.DataSet, count: int, seed: int) -> Tensor:
    """Uniform noise, which is of no class."""
    return torch.rand(count, *data.spec.shape, generator=ik.seeded(seed))


def judged(judges: Mapping[str, ik.Target], images: Tensor, labels: Tensor) -> dict[str, float]:
    """What the judges read in images as a file holds them, and how coarse these are."""
    saved = ik.data.quantise(images)
    scores = {name: accuracy(judge, saved, labels)["top1"] for name, judge in judges.items()}
    recognised = fmean(scores.values())
    return scores | {"recognised": recognised, "low frequencies": low_frequency_share(images)}


def picture(run: Run, images: Mapping[str, Tensor], classes: tuple[str, ...]) -> show.Canvas:
    """The first ten images of each row, in few levels of each colour, for a picture of few bytes."""
    rows = {row: (made[:10] * 15).round() / 15 for row, made in images.items()}
    numbers = {row: f"{run.mean(row, 'recognised'):.0%}" for row in images}
    return show.image_rows(rows, classes[:10], columns=10, numbers=numbers, numbers_name="recognised")


if __name__ == "__main__":
    command_line(digits, cifar10)
