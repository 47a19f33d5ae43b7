"""Repeat the recorded runs of network inversion on digits: ways to tell the class, and weights of the cosine.

    python book/recorded/digits_network_inversion.py conditionings
    python book/recorded/digits_network_inversion.py cosine

They need no data but the scans of scikit-learn, and have the networks and the settings of chapter 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.book.recording import Run, command_line, recorded_run
from invkit.data.datasets import DataSet
from invkit.engine.fit import Callback, FitResult, FitStep
from invkit.methods.network_inversion import steps_to, until
from invkit.metrics import diversity, in_batches

ENOUGH = 0.95  # share of samples in their class at which a conditioning counts as learnt
WEIGHTS = (0.0, 5.0)  # of the cosine similarity
SHOWN = 3  # images of each class at each weight
DROPOUT = 0.3
SMOKE = {"seeds": 1, "samples": 3, "steps": 2}
DISTANCES = (
    "accuracy: share of 500 fresh images that the target puts into their class. within: mean distance of two images "
    "of one class, in pixels and in the penultimate features of the target and of a verifier of another architecture; "
    "between: of two images of different classes. Both are over those images that the target puts into their class, of "
)


@dataclass(frozen=True)
class Bench:
    """Classifiers of the digits, and the images that are asked of a generator."""

    run: Run
    data: DataSet
    verifier: ik.Target
    labels: Tensor

    def target(self, seed: int) -> ik.Target:
        """The network that a seed inverts."""
        return trained(self.run, self.data, "bn_cnn", seed)

    def invert(
        self, target: ik.Target, config: ik.NetworkInversionConfig, seed: int, stops: Sequence[Callback] = ()
    ) -> tuple[Tensor, FitResult]:  # fmt: skip
        """Images of a generator for a network, from the same noise and conditions for each generator."""
        generator, result = ik.network_inversion(target, config, generator=ik.seeded(seed), callbacks=stops)
        images, _ = generator.sample(self.labels, generator=ik.seeded(9))
        return images, result

    def apart(self, target: ik.Target, images: Tensor, labels: Tensor) -> dict[str, float]:
        """Mean distances of two images of a class, and of two of different classes."""
        pixels = images.flatten(1)
        views = {
            "pixels": pixels,
            "target's features": in_batches(target.features, images),
            "verifier's features": in_batches(self.verifier.features, images),
        }
        columns = {f"within: {name}": diversity(view, labels)["within"] for name, view in views.items()}
        differ = labels[:, None] != labels
        return columns | {"between: pixels": float(torch.cdist(pixels, pixels)[differ].mean())}

    def scores(self, target: ik.Target, images: Tensor, result: FitResult) -> dict[str, float]:
        """How many images are of their class, and how far apart these are."""
        right = in_batches(target, images).argmax(1) == self.labels
        if self.run.quick:  # after a few steps hardly an image is
            right = torch.ones_like(right)
        accuracy = {"accuracy": result.metrics["inversion_accuracy"]}
        return accuracy | self.apart(target, images[right], self.labels[right])


@recorded_run(smoke=SMOKE)
def conditionings(run: Run, *, seeds: int = 3, steps: int = 200, limit: int = 150, samples: int = 40) -> None:
    """Four ways to tell a generator the class, each until 95% of its images are of it."""
    bench = bench_of(run, samples)
    noise = torch.rand(len(bench.labels), *bench.data.spec.shape, generator=ik.seeded(0))
    heldout, classes = bench.data.heldout, bench.data.spec.n_classes
    shown: dict[str, Tensor] = {}

    def out_of_steps(step: FitStep) -> bool:
        return step.index + 1 >= limit

    for seed in range(seeds):
        target = bench.target(seed)
        for kind in ik.networks.KINDS:
            config = settings(steps, conditioning=kind)
            images, result = bench.invert(target, config, seed, [until(ENOUGH), out_of_steps])
            needed = {"steps to 95%": float(steps_to(result, ENOUGH) or limit)}
            run.row(kind, needed | bench.scores(target, images, result))
            shown.setdefault(kind, images[::samples])
        run.row("held-out images", bench.apart(target, heldout.images, heldout.labels))
        run.row("uniform noise", bench.apart(target, noise, bench.labels))
    run.record(
        "digits_conditioning",
        title="Network inversion on digits: four ways to tell the class",
        config={"inversion": settings(steps), "limit": limit},
        seeds=seeds,
        claims=("ni.label-poor", "ni.vector-slow"),
        figure=show.image_rows(shown, range(classes), columns=classes),
        note="By seed: another network and another generator. A generator is trained until over ten batches "
        f"{ENOUGH:.0%} of its images were put into their class, or for {limit} steps, which is then the number that "
        f"stands here. {DISTANCES}{len(bench.labels)}. The last two rows invert nothing, and nothing is left out of "
        "them: real images, and noise to which classes were given. The picture shows an image of each class, seed 0.",
    )


@recorded_run(smoke=SMOKE)
def cosine(run: Run, *, seeds: int = 3, steps: int = 100, samples: int = 40) -> None:
    """Generators without the cosine similarity in their loss, and with a weight of 5."""
    bench = bench_of(run, samples)
    classes = bench.data.spec.n_classes
    shown: dict[str, Tensor] = {}
    for seed in range(seeds):
        target = bench.target(seed)
        for weight in WEIGHTS:
            images, result = bench.invert(target, settings(steps, cosine=weight), seed)
            run.row(f"cosine {weight:g}", bench.scores(target, images, result))
            if seed == 0:
                shown |= {f"γ = {weight:g}, no. {k + 1}": images[k::samples] for k in range(SHOWN)}
    run.record(
        "digits_cosine",
        title="Network inversion on digits: two weights of the cosine similarity",
        config={"inversion": settings(steps), "weights": WEIGHTS},
        seeds=seeds,
        claims=("ni.cosine",),
        figure=show.image_rows(shown, range(classes), columns=classes),
        note=f"By seed: another network and another generator, {steps} steps each, told the class by vector and "
        f"matrix. {DISTANCES}{len(bench.labels)}. The picture shows {SHOWN} images of each class at each weight "
        "(γ), first seed, from the same noise and conditions.",
    )


def bench_of(run: Run, samples: int) -> Bench:
    """The digits, the verifier, and how many images are asked of each class."""
    data = ik.load_data("digits")
    labels = torch.arange(data.spec.n_classes).repeat_interleave(samples)
    return Bench(run, data, trained(run, data, "repvgg_tiny", 1), labels)


def trained(run: Run, data: DataSet, name: str, seed: int) -> ik.Target:
    """A classifier, as the chapter trains it."""
    config = ik.ClassifierConfig.for_network(name, "book", **run.trial)
    network = ik.load_or_train(name, data, config, width=16, seed=seed, device="cpu")
    return run.uses(network, f"digits, {name}")


def settings(steps: int, **changes: Any) -> ik.NetworkInversionConfig:
    """What all generators of a record share, and in what one differs."""
    return ik.NetworkInversionConfig.for_profile("book", dropout=DROPOUT, steps=steps, **changes)


if __name__ == "__main__":
    command_line(conditionings, cosine)
