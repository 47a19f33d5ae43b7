"""Repeat the recorded run on weights of DeepInversion in small and in large batches.

    python book/recorded/digits_deepinversion.py

It needs no data but the scans of scikit-learn.
"""

from __future__ import annotations

import torch
from torch import Tensor

import invkit as ik
from invkit.book.recording import Run, command_line, recorded_run
from invkit.metrics import accuracy, inception_score

SCALES = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)  # by which both weights are multiplied
WEIGHTS = {"tv": 0.5, "batch_norm": 1.0}
BATCHES = (20, 160)  # eightfold: as far apart as the largest scales are from the middle


@recorded_run(smoke={"seeds": 1, "steps": 1})
def batches(run: Run, *, seeds: int = 3, steps: int = 100) -> None:
    """As many images in small and in large batches, with both weights multiplied by each of seven scales."""
    data = ik.load_data("digits")

    def trained(name: str, seed: int) -> ik.Target:
        config = ik.ClassifierConfig.for_network(name, **run.trial)
        return ik.load_or_train(name, data, config, width=16, seed=seed)

    target = run.uses(trained("bn_cnn", 0), "digits, bn_cnn")
    verifier = run.uses(trained("repvgg_tiny", 1), "digits, judge")
    labels = torch.arange(max(BATCHES)) % data.spec.n_classes

    def made(scale: float, size: int, seed: int) -> Tensor:
        weights = {name: scale * weight for name, weight in WEIGHTS.items()}
        config = ik.DeepInversionConfig.for_profile("book", steps=steps, **weights)
        generator = ik.seeded(seed)  # one for all batches, so that none repeats another
        parts = [ik.deep_inversion(target, part, config, generator=generator).images for part in labels.split(size)]
        return torch.cat(parts)

    for size in BATCHES:
        for scale in SCALES:
            for seed in range(seeds):
                images = made(scale, size, seed)
                run.row(
                    f"batches of {size}, weights × {scale:g}",
                    {
                        "Inception Score": inception_score(verifier, images)[0],
                        "verifier": accuracy(verifier, images, labels)["top1"],
                    },
                )
    run.record(
        "digits_deepinversion_batches",
        title="DeepInversion of a network for digits: both weights multiplied, in small and in large batches",
        config={"weights": WEIGHTS, "scales": SCALES, "batches": BATCHES, "steps": steps},
        seeds=seeds,
        claims=("di.batch-independent",),
        note=f"{len(labels)} images for each number, made in batches of the size named, and judged together; the seed "
        "changes the noise that the images start from. The penalty compares the statistics of a batch with the "
        "network's. Inception Score of a network of another architecture, which took no part.",
    )


if __name__ == "__main__":
    command_line(batches)
