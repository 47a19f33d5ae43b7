"""Repeat the recorded runs on hidden networks: accuracy over shares and widths on digits, and inversions on CIFAR-10.

    python book/recorded/hidden_networks.py digits
    INVKIT_DATA=FOLDER python book/recorded/hidden_networks.py cifar10

The first needs nothing but the package; its networks are kept, as in chapter 2. For the second, ``FOLDER`` holds
``cifar10_4600.npz``, ``weights/`` and ``networks.py``, as for ``cifar10_deepinversion.py``; the networks that are
inverted are trained here, on 4,000 images.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.core.rng import seeded
from invkit.metrics.content import low_frequency_share
from invkit.metrics.quality import accuracy

COMMAND = "python book/recorded/hidden_networks.py"
SHARES, WIDTHS, SEEDS = (5, 10, 30, 50, 70, 90, 100), (4, 8, 16), 3
REFEREE = "ResNet-44"
NETWORK, WIDTH = "bn_cnn", 16
CIFAR: dict[str, Any] = {"steps": 700, "warmup": 50, "shift": 2, "flip": True}

# The weights of the report, and for the logit, which does not stop growing, more total variation.
LOOP: dict[str, Any] = {
    "steps": 200, "lr": 0.05, "schedule": "cosine", "patience": None, "betas": (0.5, 0.9), "flip": 0.5,
    "jitter": 2, "wrap": False, "l2": 0.0,
}  # fmt: skip
AS_REPORTED: dict[str, Any] = LOOP | {"cross_entropy": 1.0, "tv": 8e-3, "l2": 1e-5, "batch_norm": 0.0}
LOGIT: dict[str, Any] = LOOP | {"cross_entropy": 0.0, "class_logit": 1.0, "batch_norm": 0.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "as reported": AS_REPORTED,
    "statistics": AS_REPORTED | {"batch_norm": 1e-2},
    "logit": LOGIT | {"tv": 0.3},
}


def digits() -> None:
    """Accuracy on real test images, of hidden networks of each width that keep k percent, and of dense ones."""
    data, start = ik.load_data("digits"), time.perf_counter()
    found: dict[str, list[float]] = {}
    for width in WIDTHS:
        dense = [ik.load_or_train(NETWORK, data, width=width, seed=k, device="cpu") for k in range(SEEDS)]
        found[f"width {width}: dense"] = [read(net, data) for net in dense]
        for share in SHARES:
            config = ik.HiddenConfig.for_profile("book", k=share)
            nets = [
                ik.load_or_train_hidden(NETWORK, data, config, width=width, seed=k, device="cpu") for k in range(SEEDS)
            ]
            found[f"width {width}: k {share}"] = [read(net, data) for net in nets]
        print(width, {name: f"{fmean(v):.3f}" for name, v in found.items() if f"{width}:" in name}, flush=True)
    curves = {
        f"width {width}": torch.tensor([found[f"width {width}: k {share}"] for share in SHARES]).T for width in WIDTHS
    }
    figure = show.curve_with_spread(SHARES, curves, xlabel="weights kept, %", ylabel="accuracy on test images")
    show.record(
        "hidden_digits",
        title="Accuracy of hidden networks on digits: share of weights kept, and width",
        config=ik.HiddenConfig.for_profile("book"),
        measured=found,
        command=f"{COMMAND} digits",
        seed=0,
        seconds=time.perf_counter() - start,
        device="cpu",
        figure=figure,
        note=f"299 test images, mean and standard deviation over {SEEDS} seeds of weights, scores and batches. With "
        "k = 100 nothing is left out, so nothing is learnt but the running statistics of batch norms.",
        overwrite=True,
    )


def read(net: ik.Target, data: ik.DataSet) -> float:
    """Accuracy on the test images."""
    return accuracy(net, data.test.images, data.test.labels)["top1"]


def networks(data: ik.DataSet, seed: int) -> dict[str, ik.Target]:
    """One shape, trained and masked, and the masked one without statistics and with those of noise."""
    dense = ik.ClassifierConfig.for_network(NETWORK, "book", **CIFAR)
    masked = ik.HiddenConfig.for_profile("book", k=50, **CIFAR)
    hidden = ik.load_or_train_hidden(NETWORK, data, masked, width=WIDTH, seed=seed, device="cpu")
    trained = ik.load_or_train(NETWORK, data, dense, width=WIDTH, seed=seed, device="cpu")
    return {"dense": trained, "hidden": hidden, "hidden, none": ik.forget(hidden)} | {
        "hidden, noise": ik.calibrate(hidden, torch.rand(200, *data.spec.shape, generator=seeded(seed)))
    }


def verifiers(folder: Path) -> dict[str, ik.Target]:
    """A published ResNet-44, and a published robust network without batch norm."""
    sys.path.insert(0, str(folder))
    names = {REFEREE: ("invkit/resnet44", "resnet44"), "robust net": ("networks:ResNet4B", "resnet4b_robust")}
    init = folder / "init"
    return {
        name: ik.load_target(where, init=init / f"cifar10_{file}.safetensors") for name, (where, file) in names.items()
    }


def cifar10(folder: Path, seeds: int) -> None:
    """Hidden and dense networks inverted with the report's weights, with statistics, by the logit, and by PII."""
    data, start = ik.load_data(f"npz:{folder / 'cifar10_4600.npz'}"), time.perf_counter()
    referees, labels = verifiers(folder), torch.arange(40) % 10
    images: dict[str, Tensor] = {}
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        for kind, net in networks(data, seed).items():
            found.setdefault(f"{kind}, real test images: own", []).append(read(net, data))
            for name, made in inverted(kind, net, labels, seed).items():
                images.setdefault(f"{kind}: {name}", made)
                judge = ik.Judge(target=net, verifiers=referees, real=data.test.images)
                scores = judge(made, labels) | {"low frequencies": low_frequency_share(made)}
                for column in ("own", *referees, "frechet", "low frequencies", "tv"):
                    found.setdefault(f"{kind}, {name}: {column}", []).append(scores[column])
                print(kind, name, {k: round(v, 2) for k, v in scores.items()}, flush=True)
    genuine = data.heldout.per_class(4).images
    found["real images: low frequencies"] = [low_frequency_share(genuine)]
    save_cifar10(images, found, referees[REFEREE].spec.classes, seeds, time.perf_counter() - start)


def inverted(kind: str, net: ik.Target, labels: Tensor, seed: int) -> dict[str, Tensor]:
    """Images under each of the settings that the network has the statistics for, and by Plug-In Inversion."""
    tracked, found = kind != "hidden, none", {}
    for name, terms in SETTINGS.items():
        if (tracked or not terms["batch_norm"]) and (terms["batch_norm"] or "noise" not in kind):
            config = ik.DeepInversionConfig(**terms)
            found[name] = ik.deep_inversion(net, labels, config, generator=seeded(seed)).images
    if "noise" in kind:
        return found
    plug = ik.PlugInConfig(steps=30, lr=0.03, ensemble=4, jitter=4)
    found["PII"] = ik.plug_in_inversion(net, labels, plug, generator=seeded(seed)).images
    return found


def save_cifar10(
    images: Mapping[str, Tensor], found: Mapping[str, Any], classes: Sequence[str], seeds: int, seconds: float
) -> None:
    """Write the record, with the first ten images of each setting."""
    told = {row: f"{fmean(found[row.replace(': ', ', ') + ': ' + REFEREE]):.0%}" for row in images}
    # Few levels, for a picture of few bytes.
    rows = {row: (made[:10] * 11).round() / 11 for row, made in images.items()}
    figure = show.image_rows(rows, classes[:10], columns=8, scale=1.0, numbers=told, numbers_name=REFEREE)
    measured = {n: v for n, v in found.items() if n.split(": ")[1].split(",")[0] not in ("frechet", "tv")}
    show.record(
        "hidden_cifar10",
        title="Inversion of a network hidden in random weights, CIFAR-10: tracked statistics, none, and those of noise",
        config={"training": CIFAR, "k": 50, "width": WIDTH} | SETTINGS,
        measured=measured,
        command=f"INVKIT_DATA=FOLDER {COMMAND} cifar10 --seeds {seeds}",
        seed=0,
        seconds=seconds,
        device="cpu",
        figure=figure,
        note=f"40 images, four of each class; {seeds} seed(s) of networks and noise. The inverted networks learnt from "
        "4,000 images, the verifiers (published) on all of CIFAR-10. Scores are of images rounded to 8 bits; own "
        "is the inverted network itself. None: batch norms without statistics; noise: with those of noise.",
        overwrite=True,
    )


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["digits", "cifar10"])
    parser.add_argument("--seeds", type=int, default=1, help="seeds of the run on CIFAR-10")
    options = parser.parse_args()
    if options.part == "digits":
        return digits()
    if not os.environ.get("INVKIT_DATA"):
        parser.error("INVKIT_DATA must name the folder of data and weights")
    return cifar10(Path(os.environ["INVKIT_DATA"]), options.seeds)


if __name__ == "__main__":
    main()
