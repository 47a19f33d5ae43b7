"""Repeat the recorded runs on hidden networks: accuracy over shares and widths on digits, and inversions on CIFAR-10.

    python book/recorded/hidden_networks.py digits
    INVKIT_DATA=FOLDER python book/recorded/hidden_networks.py cifar10

The first needs nothing but the package; its networks are kept, as in chapter 2. For the second, ``FOLDER`` holds
``cifar10_4600.npz``, ``weights/`` and ``networks.py``, as for ``cifar10_deepinversion.py``; the networks that are
inverted are trained here, on 4,000 images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.book.recording import Run, command_line, recorded_run
from invkit.metrics.content import low_frequency_share
from invkit.metrics.quality import accuracy

SHARES, WIDTHS = (5, 10, 30, 50, 70, 90, 100), (4, 8, 16)
REFEREE = "ResNet-44"
NETWORK, WIDTH = "bn_cnn", 16
CIFAR: dict[str, Any] = {"steps": 700, "warmup": 50, "shift": 2, "flip": True}

# The weights of the report, and for the logit, which does not stop growing, more total variation.
LOOP: dict[str, Any] = {
    "lr": 0.05, "schedule": "cosine", "patience": None, "betas": (0.5, 0.9), "flip": 0.5,
    "jitter": 2, "wrap": False, "l2": 0.0, "tv": 0.0,
}  # fmt: skip
AS_REPORTED: dict[str, Any] = LOOP | {"cross_entropy": 1.0, "tv": 8e-3, "l2": 1e-5, "batch_norm": 0.0}
LOGIT: dict[str, Any] = LOOP | {"cross_entropy": 0.0, "class_logit": 1.0, "batch_norm": 0.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "as reported": AS_REPORTED,
    "statistics": AS_REPORTED | {"batch_norm": 1e-2},
    "logit": LOGIT | {"tv": 0.3},
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
            run.row(row, {"dense": read(trained, data)})
        for share in SHARES:
            config = ik.HiddenConfig.for_profile("book", k=share, **run.trial)
            scores = [read(hidden(data, config, width, seed), data) for seed in range(seeds)]
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


def hidden(data: ik.DataSet, config: ik.HiddenConfig, width: int, seed: int) -> ik.Target:
    """A network hidden in random weights, trained once and kept."""
    return ik.methods.load_or_train_hidden(NETWORK, data, config, width=width, seed=seed, device="cpu")


def read(network: ik.Target, data: ik.DataSet) -> float:
    """Accuracy on the test images."""
    return accuracy(network, data.test.images, data.test.labels)["top1"]


def networks(run: Run, data: ik.DataSet, seed: int) -> dict[str, ik.Target]:
    """One shape, trained and masked, and the masked one without statistics and with those of noise."""
    dense = ik.ClassifierConfig.for_network(NETWORK, **CIFAR | run.trial)
    masked = hidden(data, ik.HiddenConfig.for_profile("book", k=50, **CIFAR | run.trial), WIDTH, seed)
    trained = ik.load_or_train(NETWORK, data, dense, width=WIDTH, seed=seed, device="cpu")
    noise = torch.rand(200, *data.spec.shape, generator=ik.seeded(seed))
    return {
        "dense": trained,
        "hidden": masked,
        "hidden, none": ik.networks.without_statistics(masked),
        "hidden, noise": ik.networks.calibrate(masked, noise),
    }


@recorded_run(data=True, smoke={"train": 100, "steps": 1, "plug_in_steps": 1, "each": 2, "real": 20})
def cifar10(
    run: Run, *, seeds: int = 1, steps: int = 200, plug_in_steps: int = 30, train: int = 4000, each: int = 4,
    real: int = 600,
) -> None:  # fmt: skip
    """Hidden and dense networks inverted with the report's weights, with statistics, by the logit, and by PII."""
    data = ik.load_data(f"npz:{run.data / 'cifar10_4600.npz'}", limit=train)
    verifiers = {REFEREE: run.network("cifar10_resnet44"), "robust net": run.network("cifar10_resnet4b_robust")}
    labels = torch.arange(10 * each) % 10
    images: dict[str, Tensor] = {}
    for seed in range(seeds):
        for kind, network in networks(run, data, seed).items():
            run.row(f"{kind}, real test images", {"own": read(network, data)})
            judge = ik.Judge(target=network, verifiers=verifiers, real=data.test.images[:real])
            for setting, made in inverted(kind, network, labels, seed, steps, plug_in_steps).items():
                images.setdefault(f"{kind}, {setting}", made)
                scores = judge(made, labels) | {"low frequencies": low_frequency_share(made)}
                columns = ("own", *verifiers, "low frequencies")
                run.row(f"{kind}, {setting}", {column: scores[column] for column in columns})
    run.row("real images", {"low frequencies": low_frequency_share(data.heldout.per_class(4).images)})
    run.record(
        "hidden_cifar10",
        title="Inversion of a network hidden in random weights, CIFAR-10: tracked statistics, none, and those of noise",
        config={"training": CIFAR, "k": 50, "width": WIDTH, "steps": steps} | SETTINGS,
        seeds=seeds,
        figure=picture(run, images, verifiers[REFEREE].spec.classes),
        note=f"{len(labels)} images, {each} of each class; {seeds} seed(s) of networks and noise. The inverted "
        f"networks learnt from {train:,} images, the verifiers (published) on all of CIFAR-10. Scores are of images "
        "rounded to 8 bits; own is the inverted network itself. None: batch norms without statistics; noise: with "
        "those of noise.",
    )


def inverted(
    kind: str, network: ik.Target, labels: Tensor, seed: int, steps: int, plug_in_steps: int
) -> dict[str, Tensor]:
    """Images under each of the settings that the network has the statistics for, and by Plug-In Inversion."""
    images: dict[str, Tensor] = {}
    for setting, terms in SETTINGS.items():
        penalised = terms["batch_norm"] > 0
        if (penalised and kind == "hidden, none") or (not penalised and kind == "hidden, noise"):
            continue
        config = ik.DeepInversionConfig.for_profile("book", **terms, steps=steps)
        images[setting] = ik.deep_inversion(network, labels, config, generator=ik.seeded(seed)).images
    if kind != "hidden, noise":
        plug_in = ik.PlugInConfig(steps=plug_in_steps, lr=0.03, ensemble=4, jitter=4)
        images["PII"] = ik.plug_in_inversion(network, labels, plug_in, generator=ik.seeded(seed)).images
    return images


def picture(run: Run, images: Mapping[str, Tensor], classes: tuple[str, ...]) -> show.Canvas:
    """The first ten images of each setting, in few levels of each colour, for a picture of few bytes."""
    rows = {row: (made[:10] * 11).round() / 11 for row, made in images.items()}
    numbers = {row: f"{run.mean(row, REFEREE):.0%}" for row in images}
    return show.image_rows(rows, classes[:10], columns=8, scale=1.0, numbers=numbers, numbers_name=REFEREE)


if __name__ == "__main__":
    command_line(digits, cifar10)
