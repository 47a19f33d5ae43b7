"""Repeat the recorded sweep of the ensemble's size in Plug-In Inversion, on digits, from 1 to 64 copies.

    python book/recorded/plugin_ensemble.py

It needs nothing but the package: the networks are trained as in chapter 3, or taken from where that kept them.
"""

from __future__ import annotations

import time

import torch

import invkit as ik
from invkit import show
from invkit.core.rng import seeded
from invkit.data.images import quantise
from invkit.metrics.quality import accuracy

SIZES, SEEDS, STEPS = (1, 2, 4, 8, 16, 32, 64), 3, 20


def network(name: str, seed: int = 0, **how: float) -> ik.Target:
    """Chapter 3's network of this name, 16 channels wide."""
    config = ik.ClassifierConfig.for_network(name, "book", **how)
    return ik.load_or_train(name, ik.load_data("digits"), config=config, width=16, seed=seed)


def main() -> None:
    """Invert the robust network with one ensemble after another, and let the verifier read."""
    start, labels = time.perf_counter(), torch.arange(10).repeat(2)
    target, verifier = network("bn_cnn", eps=0.1, attack_steps=2), network("repvgg_tiny", 1)
    found: dict[str, list[float]] = {}
    for e in SIZES:
        config = ik.PlugInConfig.for_profile("book", ensemble=e, steps=STEPS)
        made = [ik.plug_in_inversion(target, labels, config, generator=seeded(k)).images for k in range(SEEDS)]
        scores = [accuracy(verifier, quantise(images), labels)["top1"] for images in made]
        found |= {f"{e} copies: recognised": scores}
        print(e, scores, flush=True)
    show.record(
        "plugin_ensemble",
        title="Plug-In Inversion of the robust digit network: size of the ensemble",
        config=ik.PlugInConfig.for_profile("book", steps=STEPS),
        measured=found,
        command="python book/recorded/plugin_ensemble.py",
        seed=0,
        seconds=time.perf_counter() - start,
        device="cpu",
        note="20 images, two of each class; share that the verifier reads, mean and standard deviation over three "
        "seeds. Steps in each of seven stages: 20; all other settings as in the chapter.",
        overwrite=True,
    )


if __name__ == "__main__":
    main()
