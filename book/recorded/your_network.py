"""Repeat the recorded run of chapter 10: how often the report finds a leak that is there, and one that is not.

    python book/recorded/your_network.py

It needs nothing but the package.
"""

from __future__ import annotations

import warnings
from functools import partial

import torch

import invkit as ik
from invkit.book.recording import Run, command_line, recorded_run
from invkit.report import Case, Pair, Pictures, Report

NETWORK, WIDTH = "bn_cnn", 8


@recorded_run(smoke={"networks": 2, "steps": 2, "minutes": 0.01})
def controls(run: Run, *, networks: int = 10, count: int = 20, steps: int = 150, minutes: float = 0.1) -> None:
    """Networks that learnt a few images by heart, each asked about its own images and about others."""
    digits = ik.load_data("digits")
    # In the order of the file come digits of one hand after the other: neighbours are no strangers.
    shuffled = digits.train[torch.randperm(len(digits.train), generator=ik.seeded(0))]
    config = ik.ClassifierConfig(
        **{"steps": steps, "warmup": 0, "shift": 0, "label_smoothing": 0.0, "batch_size": count}
    )
    for seed in range(networks):
        # Images of its own for each network: with the same for all, one unlucky choice would count ten times.
        piece = shuffled[100 * seed : 100 * (seed + 1)]
        learnt, never, heldout = piece[:count], piece[count : 2 * count], piece[2 * count :]
        module = ik.networks.build(NETWORK, digits.spec, width=WIDTH, seed=seed)
        data = ik.DataSet(name="few", spec=digits.spec, train=learnt, test=heldout, heldout=heldout)
        target, _ = ik.train_classifier(module, data, config, seed=seed, device="cpu")
        for row, claimed in {"its own images": learnt, "images that it never saw": never}.items():
            run.row(row, asked(run.uses(target, NETWORK), claimed, heldout, minutes, run.quick))
    run.record(
        "your_network_controls",
        title=f"Is a leak found? {networks} networks that learnt {count} digits by heart, asked about these and others",
        config={"training": config, "minutes": minutes, "width": WIDTH},
        seeds=networks,
        note=f"Each network and each set is drawn anew. Called a leak: by any of the three tests, each at a level of "
        f"1.7%, so at most one in twenty of the second row is to be expected. {count} images against 60 held out.",
    )


def asked(target: ik.Target, claimed: ik.Split, heldout: ik.Split, minutes: float, quick: bool) -> dict[str, float]:
    """What the section on leaks says of images that are claimed to have been trained on."""
    pair = Pair(
        train=Pictures(pixels=claimed.pixels, labels=claimed.labels),
        heldout=Pictures(pixels=heldout.pixels, labels=heldout.labels),
    )
    fresh = partial(build, target.spec)
    case = Case(target=target, pair=pair, fresh=fresh, classes=tuple(range(10)), least=quick)
    report = Report(case=case, minutes=minutes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # stages too small for this network
        report.ask("drawn")
        numbers = report.ask("leak").numbers
    return {
        "called a leak": numbers["leaks"],
        "AUROC": numbers["membership AUROC"],
        "p": numbers["membership p"],
        "AUROC of canaries": numbers["canaries AUROC"],
    }


def build(spec: ik.ImageSpec, seed: int) -> torch.nn.Module:
    """The same network untrained."""
    return ik.networks.build(NETWORK, spec, width=WIDTH, seed=seed)


if __name__ == "__main__":
    command_line(controls)
