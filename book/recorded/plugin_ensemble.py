"""Repeat the recorded sweep of the ensemble's size in Plug-In Inversion, on digits, from 1 to 64 copies.

    python book/recorded/plugin_ensemble.py

It needs nothing but the package: the networks are trained as in chapter 3, or taken from where that kept them.
"""

from __future__ import annotations

import torch

import invkit as ik
from invkit.book.recording import Run, command_line, recorded_run
from invkit.data.images import quantise
from invkit.metrics.quality import accuracy

SIZES = (1, 2, 4, 8, 16, 32, 64)


def network(run: Run, name: str, seed: int = 0, **attack: float) -> ik.Target:
    """Chapter 3's network of this name, 16 channels wide."""
    config = ik.ClassifierConfig.for_network(name, **attack, **run.trial)
    return ik.load_or_train(name, ik.load_data("digits"), config=config, width=16, seed=seed)


@recorded_run(smoke={"steps": 1, "seeds": 1, "largest": 2})
def sweep(run: Run, *, steps: int = 20, seeds: int = 3, largest: int = 64) -> None:
    """Invert the robust network with one ensemble after another, and let the verifier read."""
    labels = torch.arange(10).repeat(2)
    target, verifier = network(run, "bn_cnn", eps=0.1, attack_steps=2), network(run, "repvgg_tiny", 1)
    for size in SIZES:
        if size > largest:
            break
        config = ik.PlugInConfig.for_profile("book", ensemble=size, steps=steps)
        for seed in range(seeds):
            images = ik.plug_in_inversion(target, labels, config, generator=ik.seeded(seed)).images
            run.row(f"{size} copies", {"recognised": accuracy(verifier, quantise(images), labels)["top1"]})
    run.record(
        "plugin_ensemble",
        title="Plug-In Inversion of the robust digit network: size of the ensemble",
        config=ik.PlugInConfig.for_profile("book", steps=steps),
        seeds=seeds,
        note="20 images, two of each class; share that the verifier reads, mean and standard deviation over "
        f"{seeds} seeds. Steps in each of seven stages: {steps}; all other settings as in the chapter.",
    )


if __name__ == "__main__":
    command_line(sweep)
