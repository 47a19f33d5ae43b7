"""Repeat the recorded runs of network inversion and of reconstruction on the images of MNIST.

    INVKIT_DATA=FOLDER python book/recorded/mnist_inversion.py inversion
    INVKIT_DATA=FOLDER python book/recorded/mnist_inversion.py conditionings
    INVKIT_DATA=FOLDER python book/recorded/mnist_inversion.py reconstruction
    INVKIT_DATA=FOLDER python book/recorded/mnist_inversion.py tuned
    INVKIT_DATA=FOLDER python book/recorded/mnist_inversion.py longer

``FOLDER`` holds ``mnist.npz``. Of its 60,000 training images a tenth is kept apart, so 54,000 are trained on in the
first two runs. In the third each network knows one half of the images that it is asked about, of at most 24,000 each:
without a second half, which it never saw, nobody can say whether its images are those that it was trained on. The
fourth has the setting that came out of a search, on pairs that took no part in it, and networks trained on as many
images as each class allows, about which the test images are asked instead of a second half. The fifth takes all of the
steps that the search had, on the networks of the smallest set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.book.recording import Run, command_line, recorded_run
from invkit.data.datasets import DataSet, Split
from invkit.methods.network_inversion import steps_to, until
from invkit.metrics import accuracy, diversity, in_batches, noise_rate
from invkit.networks.classifiers import build

DIGITS = 10
WEIGHTS = (0.0, 1.0, 5.0)  # of the cosine similarity
ENOUGH = 0.95  # share of samples in their class at which a conditioning counts as learnt
# Of 14 settings on one network for 10,000 images, that whose images the judge read most often; it had 1,500 steps.
FOUND: dict[str, Any] = {
    "width": 32, "lr": 2e-3, "eps": 0.6, "variation": 0.5, "cosine": 0.1, "orthogonality": 0.1,
}  # fmt: skip
APART = 3  # pairs from this number on: the search had the first network of pair 0


# --- network inversion ---


@recorded_run(data=True, smoke={"seeds": 1, "train": 80, "steps": 2, "learning": 1, "samples": 3, "test": 40})
def inversion(
    run: Run, *, seeds: int = 3, train: int = 54000, test: int = 10000, steps: int = 600, learning: int = 1200,
    samples: int = 50,
) -> None:  # fmt: skip
    """Four conditionings and three weights of the cosine similarity, of networks that read 99% of MNIST."""
    data = images_of(run, test, train)
    labels = torch.arange(DIGITS).repeat_interleave(samples)
    settings = {"steps": steps, "dropout": 0.3}
    rows = {"held-out": data.heldout.per_class(1).images}
    judge = run.uses(trained(run, "repvgg_tiny", data, learning, seed=1), "repvgg_tiny on MNIST")
    note_noise(run, judge, len(labels))
    for seed in range(seeds):
        target = run.uses(trained(run, "bn_cnn", data, learning, seed=seed), "bn_cnn on MNIST")
        run.row("target", {"test": read(target, data.test)})
        real = data.heldout.per_class(samples)
        run.row("held-out images", facts(target, judge, real.images, real.labels, data))
        noise = torch.rand(len(labels), *data.spec.shape, generator=ik.seeded(seed))
        run.row("noise", facts(target, judge, noise, labels, data))
        for kind in ik.networks.KINDS:
            config = ik.NetworkInversionConfig.for_profile("book", **settings | {"conditioning": kind})
            _, result = ik.network_inversion(target, config, generator=ik.seeded(seed), callbacks=[until(ENOUGH)])
            run.row(f"{kind}, to 95%", {"steps": float(steps_to(result, ENOUGH) or steps)})
        for weight in WEIGHTS:
            config = ik.NetworkInversionConfig.for_profile("book", **settings | {"cosine": weight})
            generator, result = ik.network_inversion(target, config, generator=ik.seeded(seed))
            images, _ = generator.sample(labels, generator=ik.seeded(seed + 9))
            own = {"inversion accuracy": result.metrics["inversion_accuracy"]}
            run.row(f"cosine {weight:g}", own | facts(target, judge, images, labels, data))
            if seed == 0:
                rows[f"cosine {weight:g}"] = images[::samples]
    run.record(
        "mnist_network_inversion",
        title="Network inversion of networks that read MNIST",
        config={"inversion": ik.NetworkInversionConfig.for_profile("book", **settings), "training steps": learning},
        seeds=seeds,
        claims=("ni.accuracy", "ni.cosine", "ni.vector-slow", "ni.unlike"),
        figure=show.image_rows(rows, columns=DIGITS, scale=1.5),
        note=f"By seed: another network and another generator. {len(data.train):,} training images of 28 pixels, all "
        f"{len(data.test):,} test images, {samples} samples of each class. A conditioning counts as learnt where over "
        f"ten batches {ENOUGH:.0%} of the samples were put into their class; {steps} steps where it never was. "
        "Distances between two images are Euclidean, in pixels, over those that the target reads; nearest: to all "
        "training images, and of the quarter of the images that the target is surest of.",
    )


@recorded_run(data=True, smoke={"seeds": 1, "train": 80, "steps": 2, "learning": 1, "samples": 3, "test": 40})
def conditionings(
    run: Run, *, seeds: int = 3, train: int = 54000, test: int = 10000, steps: int = 1000, learning: int = 1200,
    samples: int = 50,
) -> None:  # fmt: skip
    """Generators told their class in four ways, each for as many steps."""
    data = images_of(run, test, train)
    labels = torch.arange(DIGITS).repeat_interleave(samples)
    settings = {"steps": steps, "dropout": 0.3}
    rows = {"held-out": data.heldout.per_class(1).images}
    judge = run.uses(
        trained(run, "repvgg_tiny", data, learning, seed=1), "repvgg_tiny on MNIST, judge of conditionings"
    )
    for seed in range(seeds):
        target = run.uses(trained(run, "bn_cnn", data, learning, seed=seed), "bn_cnn on MNIST, told in four ways")
        for kind in ik.networks.KINDS:
            config = ik.NetworkInversionConfig.for_profile("book", **settings | {"conditioning": kind})
            generator, result = ik.network_inversion(target, config, generator=ik.seeded(seed))
            images, _ = generator.sample(labels, generator=ik.seeded(seed + 9))
            needed = {"steps to 95%": float(steps_to(result, ENOUGH) or steps)}
            own = result.metrics["inversion_accuracy"]
            run.row(kind, needed | apart(target, judge, images, labels, own=own, every=run.quick))
            rows.setdefault(kind, images[::samples])
        real = data.heldout.per_class(samples)
        run.row("held-out images", apart(target, judge, real.images, real.labels, every=run.quick))
        noise = torch.rand(len(labels), *data.spec.shape, generator=ik.seeded(seed))
        run.row("uniform noise", apart(target, judge, noise, labels, every=True))
    run.record(
        "mnist_conditioning",
        title="Network inversion on MNIST: four ways to tell the class, at equal steps",
        config={"inversion": ik.NetworkInversionConfig.for_profile("book", **settings), "training steps": learning},
        seeds=seeds,
        claims=("ni.label-poor", "ni.vector-slow"),
        figure=show.image_rows(rows, columns=DIGITS, scale=1.5),
        note=f"By seed: another network, trained on {len(data.train):,} images, and another generator, {steps:,} steps "
        f"each. steps to 95%: until over ten batches {ENOUGH:.0%} of the samples were put into their class; {steps:,} "
        "where they never were. accuracy: share of 500 fresh images that the target puts into their class. within: "
        "mean distance of two images of one class, in pixels and in the penultimate features of the target and of the "
        f"judge, a network of another architecture, over those of {len(labels)} images that the target puts into their "
        "class; of noise, to which classes were given, nothing is left out.",
    )


def apart(
    target: ik.Target, judge: ik.Target, images: Tensor, labels: Tensor, *, own: float | None = None,
    every: bool = False,
) -> dict[str, float]:  # fmt: skip
    """How far apart the images of a class are, of those that the target puts into it or of ``every`` one."""
    right = in_batches(target, images).argmax(1) == labels
    if every:
        right = torch.ones_like(right)
    kept, of = images[right], labels[right]
    views = {
        "pixels": kept.flatten(1),
        "target's features": in_batches(target.features, kept),
        "judge's features": in_batches(judge.features, kept),
    }
    columns = {} if own is None else {"accuracy": own}
    columns["judge"] = read_images(judge, images, labels)
    return columns | {f"within: {name}": diversity(view, of)["within"] for name, view in views.items()}


def facts(target: ik.Target, judge: ik.Target, images: Tensor, labels: Tensor, data: DataSet) -> dict[str, float]:
    """What one set of images shows: class, diversity, sureness and distance from the training images."""
    logits = in_batches(target, images)
    right = logits.argmax(1) == labels
    confidence = logits.softmax(1).amax(1)
    surest = confidence >= confidence.quantile(0.75)
    columns = {
        "target": float(right.double().mean()),
        "judge": read_images(judge, images, labels),
        "confidence of the surest": float(confidence[surest].mean()),
        "nearest of the surest": float(in_chunks(images[surest].flatten(1), data.train).mean()),
    }
    pixels, of = images[right].flatten(1), labels[right]
    if len(of.unique()) > 1:
        columns["within a class"] = diversity(pixels, of)["within"]
        columns["between classes"] = float(torch.cdist(pixels, pixels)[of[:, None] != of].mean())
    return columns


def in_chunks(pixels: Tensor, split: Split, size: int = 10_000) -> Tensor:
    """Distance of each row of pixels from the nearest image of a split."""
    nearest = [
        torch.cdist(pixels, split[slice(at, at + size)].images.flatten(1)).amin(1) for at in range(0, len(split), size)
    ]
    return torch.stack(nearest).amin(0)


# --- reconstruction ---


@dataclass(frozen=True)
class Pair:
    """Two networks of one size of training set: what the one has seen, the other has not."""

    seed: int
    halves: tuple[Split, Split]
    targets: tuple[ik.Target, ik.Target]


@recorded_run(
    data=True, smoke={"pairs": 1, "small": 2, "medium": 3, "large": 4, "test": 20, "steps": 2, "learning": 1, "each": 1}
)
def reconstruction(
    run: Run, *, pairs: int = 3, small: int = 100, medium: int = 1000, large: int = 2400, test: int = 10000,
    steps: int = 250, learning: int = 600, each: int = 4,
) -> None:  # fmt: skip
    """What networks give away that were trained on 1,000, 10,000 and 24,000 images, against what they never saw."""
    data = images_of(run, test)
    labels = torch.arange(DIGITS).repeat(each)
    config = ik.ReconstructionConfig.for_profile("book", steps=steps, gradient_images=4, variation=0.2)
    judge = run.uses(
        trained(run, "repvgg_tiny", data, learning, seed=1), "repvgg_tiny on MNIST, judge of reconstructions"
    )
    note_noise(run, judge, len(labels))
    rows: dict[str, Tensor] = {}
    for size in (small, medium, large):
        for seed in range(pairs):
            pair = pair_of(run, data, size, seed, learning)
            for name, draw in drawn_by(config, labels, run.quick).items():
                if name == "network inversion" and size != small:
                    continue
                images = (draw(pair, 0), draw(pair, 1))
                measure(run, name, pair, images, labels if len(images[0]) == len(labels) else None, judge)
                if seed == 0 and name in ("reconstruction", "DeepInversion"):
                    rows[f"{name}, {size * DIGITS}"] = images[0][:DIGITS]
            for name, images in controls(pair, data, each).items():
                measure(run, name, pair, images, None, judge)
            if seed == 0 and size == small:
                rows = {"trained on": pair.halves[0].per_class(1).images} | rows
    run.record(
        "mnist_reconstruction",
        title="What networks that read MNIST give away, by the size of their training set",
        config={"reconstruction": config, "training steps": learning},
        seeds=pairs,
        claims=("rec.size", "rec.conv"),
        figure=show.image_rows(rows, columns=DIGITS, scale=1.5),
        note="By pair of networks, each trained on one of two halves of which the other network saw nothing, equally "
        f"many images of each class. The 54,000 training images allow halves of {large * DIGITS:,}, no more. "
        f"{len(labels)} images of each network; seen and unseen: mean similarity (SSIM) to the nearest image of the "
        "own and of the other half; gap: their difference; features: the same gap, by the cosine of features of "
        "the judge, which has seen both halves. Target and judge: the share that they put into the class asked for.",
    )


@recorded_run(
    data=True, smoke={"pairs": 1, "small": 2, "large": 4, "whole": 5, "test": 20, "steps": 2, "learning": 1, "each": 1}
)
def tuned(
    run: Run, *, pairs: int = 3, small: int = 100, large: int = 2400, whole: int = 5400, test: int = 10000,
    steps: int = 750, learning: int = 600, each: int = 4,
) -> None:  # fmt: skip
    """Reconstruction with the setting that a search found, and from networks without a second half."""
    bench = searched(run, test, steps, learning, each, "judge of reconstructions")
    seeds = range(APART, APART + pairs)
    rows: dict[str, Tensor] = {}
    for size in (small, large):
        rows |= from_pairs(run, bench, size, seeds)
    for seed in seeds:
        images = from_all(run, bench, whole, seed)
        rows.setdefault(f"reconstruction, {len(from_each_class(bench.data.train, 0, whole))}", images[:DIGITS])
    run.record(
        "mnist_reconstruction_tuned",
        title="Reconstruction from networks that read MNIST, with the setting that a search found",
        config=bench.config,
        seeds=seeds,
        claims=("rec.size", "rec.conv"),
        figure=show.image_rows(rows, columns=DIGITS, scale=1.5),
        note=f"By pair of networks, as without a search; the pairs are others than the one that was searched on. "
        f"{steps:,} steps; the search's best had 1,500. "
        f"{len(bench.labels)} images of each network. The largest set has up to {whole:,} images of each class; it has "
        "one network for each seed and no second half: unseen is the nearest of the "
        f"{len(bench.data.test):,} test images, seen the nearest of as many training images drawn at random, as the "
        "mean of ten draws, so that most copies are not themselves among those drawn; fresh images were kept apart. "
        f"{learning} steps of 64 images show these networks about seven in ten "
        "of their set.",
    )


@recorded_run(data=True, smoke={"pairs": 1, "small": 2, "test": 20, "steps": 2, "learning": 1, "each": 1})
def longer(
    run: Run, *, pairs: int = 3, small: int = 100, test: int = 10000, steps: int = 1500, learning: int = 600,
    each: int = 4,
) -> None:  # fmt: skip
    """The setting that the search found with all of its steps, where networks know their images by heart."""
    bench = searched(run, test, steps, learning, each, "judge of longer reconstructions")
    seeds = range(APART, APART + pairs)
    rows = from_pairs(run, bench, small, seeds, " trained again")
    run.record(
        "mnist_reconstruction_longer",
        title="Reconstruction from networks that read MNIST, with all of the steps of the search",
        config=bench.config,
        seeds=seeds,
        claims=("rec.conv",),
        figure=show.image_rows(rows, columns=DIGITS, scale=1.5),
        note=f"The pairs are others than the one that was searched on. {steps:,} steps, as in the search. "
        f"{len(bench.labels)} images of each network.",
    )


@dataclass(frozen=True)
class Bench:
    """What the runs with the searched setting share."""

    data: DataSet
    labels: Tensor
    learning: int
    judge: ik.Target
    draw: Callable[[Pair, int], Tensor]
    config: dict[str, Any]


def searched(run: Run, test: int, steps: int, learning: int, each: int, judge: str) -> Bench:
    """Images, their judge by this name, and reconstruction with the setting that the search found."""
    data = images_of(run, test)
    labels = torch.arange(DIGITS).repeat(each)
    config = ik.ReconstructionConfig.for_profile("book", gradient_images=4, steps=steps, **FOUND)
    network = run.uses(trained(run, "repvgg_tiny", data, learning, seed=1), f"repvgg_tiny on MNIST, {judge}")
    draw = drawn_by(config, labels, run.quick)["reconstruction"]
    return Bench(data, labels, learning, network, draw, {"reconstruction": config, "training steps": learning})


def from_pairs(run: Run, bench: Bench, size: int, seeds: Sequence[int], again: str = "") -> dict[str, Tensor]:
    """Images of pairs of networks, with copies and fresh images; the rows of a picture of the first pair."""
    rows: dict[str, Tensor] = {}
    for seed in seeds:
        pair = pair_of(run, bench.data, size, seed, bench.learning, again)
        images = (bench.draw(pair, 0), bench.draw(pair, 1))
        measure(run, "reconstruction", pair, images, bench.labels, bench.judge)
        known = controls(pair, bench.data, len(bench.labels) // DIGITS)
        for name in ("copies", "fresh images"):
            measure(run, name, pair, known[name], None, bench.judge)
        rows.setdefault(f"trained on, {size * DIGITS}", pair.halves[0].per_class(1).images)
        rows.setdefault(f"reconstruction, {size * DIGITS}", images[0][:DIGITS])
    return rows


def from_all(run: Run, bench: Bench, size: int, seed: int) -> Tensor:
    """Images of a network trained on nearly all images, against the test images, with copies and fresh ones."""
    data, labels = bench.data, bench.labels
    half = from_each_class(data.train, 0, size)
    target = trained(run, "bn_cnn", replace(data, train=half), bench.learning, seed=seed, shift=0, label_smoothing=0.0)
    run.uses(target, f"bn_cnn on {len(half)} images of MNIST")
    run.row(f"targets, {len(half)} images", {"trained on": read(target, half), "test": read(target, data.test)})
    images = bench.draw(Pair(seed, (half, data.test), (target, target)), 0)
    each = len(labels) // DIGITS
    drawn = {
        "reconstruction": images,
        "copies": half.per_class(each).images,
        "fresh images": from_each_class(data.heldout, 0, each).images,
    }
    for name, shown in drawn.items():
        leak = ik.metrics.measure_leakage(shown, half.images, data.test.images, draws=1)
        columns = {"gap": leak.gap, "seen": float(leak.to_train.mean()), "unseen": float(leak.to_heldout.mean())}
        if name == "reconstruction":
            columns |= {"target": read_images(target, shown, labels), "judge": read_images(bench.judge, shown, labels)}
        run.row(f"{name}, {len(half)} images", columns)
    return images


def pair_of(run: Run, data: DataSet, size: int, seed: int, learning: int, again: str = "") -> Pair:
    """Two networks trained by heart: no shifts, no smoothing, as many passes as the steps give."""
    order = torch.randperm(len(data.train), generator=ik.seeded(seed))
    shuffled = data.train[order]
    halves = tuple(from_each_class(shuffled, at, at + size) for at in (0, size))
    targets = []
    for half in halves:
        part = replace(data, train=half)
        target = trained(run, "bn_cnn", part, learning, seed=seed, shift=0, label_smoothing=0.0)
        further = ", further pairs" if seed >= APART else ""
        targets.append(run.uses(target, f"bn_cnn on {size * DIGITS} images of MNIST{further}{again}"))
    reads = {
        "trained on": fmean(read(target, half) for target, half in zip(targets, halves, strict=True)),
        "test": fmean(read(target, data.test) for target in targets),
    }
    run.row(f"targets, {size * DIGITS} images", reads)
    return Pair(seed, (halves[0], halves[1]), (targets[0], targets[1]))


def drawn_by(
    config: ik.ReconstructionConfig, labels: Tensor, quick: bool
) -> dict[str, Callable[[Pair, int], Tensor]]:  # fmt: skip
    """The methods by name: each draws images of a pair's network."""
    plain = ik.NetworkInversionConfig.for_profile("book", steps=config.steps, batch_size=config.batch_size)
    deep = ik.DeepInversionConfig.for_profile("book", steps=2 if quick else 150)

    def reconstruct(pair: Pair, k: int) -> Tensor:
        made, _ = ik.reconstruct(pair.targets[k], config, generator=ik.seeded(pair.seed))
        return made.sample(labels, generator=ik.seeded(pair.seed + 1))[0]

    def invert(pair: Pair, k: int) -> Tensor:
        made, _ = ik.network_inversion(pair.targets[k], plain, generator=ik.seeded(pair.seed))
        return made.sample(labels, generator=ik.seeded(pair.seed + 1))[0]

    def deep_invert(pair: Pair, k: int) -> Tensor:
        return ik.deep_inversion(pair.targets[k], labels, deep, generator=ik.seeded(pair.seed)).images.cpu()

    return {"reconstruction": reconstruct, "network inversion": invert, "DeepInversion": deep_invert}


def controls(pair: Pair, data: DataSet, each: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Images that show what the measure can say: copies, means of the classes, fresh images and noise."""
    fresh = data.test[torch.randperm(len(data.test), generator=ik.seeded(pair.seed))]
    rng = ik.seeded(pair.seed)
    shape = (DIGITS * each, *data.spec.shape)
    return {
        "copies": both(lambda k: pair.halves[k].per_class(each).images),
        "class means of the own half": both(lambda k: class_means(pair.halves[k])),
        "fresh images": both(lambda k: from_each_class(fresh, k * each, (k + 1) * each).images),
        "noise": both(lambda k: torch.rand(shape, generator=rng)),
    }


def measure(
    run: Run, name: str, pair: Pair, images: tuple[Tensor, Tensor], labels: Tensor | None, judge: ik.Target
) -> None:  # fmt: skip
    """The gap of one pair's images, and whether their class can be read."""
    sets = (pair.halves[0].images, pair.halves[1].images)
    leak = ik.metrics.crossed_leakage(images, sets, draws=1)
    features = ik.metrics.crossed_leakage(images, sets, verifier=judge, draws=1)
    columns = {"gap": leak.gap, "seen": float(leak.to_train.mean()), "unseen": float(leak.to_heldout.mean())}
    columns["features"] = features.gap
    if labels is not None:
        reads = [read_images(target, x, labels) for target, x in zip(pair.targets, images, strict=True)]
        columns |= {"target": sum(reads) / 2, "judge": read_images(judge, torch.cat(images), labels.repeat(2))}
    run.row(f"{name}, {len(sets[0])} images", columns)


def both(make: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
    """The same for both networks of a pair."""
    return make(0), make(1)


def class_means(split: Split) -> Tensor:
    """Mean image of each class."""
    return torch.stack([split.images[split.labels == c].mean(0) for c in range(DIGITS)])


def from_each_class(split: Split, first: int, last: int) -> Split:
    """Images number ``first`` to ``last`` of each class, class by class."""
    return split[torch.cat([torch.nonzero(split.labels == c)[first:last, 0] for c in range(DIGITS)])]


# --- both ---


def images_of(run: Run, test: int, train: int | None = None) -> DataSet:
    """MNIST, with no more training and test images than asked for."""
    data = ik.load_data("mnist", folder=run.data, limit=train)
    return replace(data, test=data.test.per_class(test // DIGITS) if test < len(data.test) else data.test)


def trained(run: Run, network: str, data: DataSet, steps: int, seed: int, **settings: Any) -> ik.Target:
    """A classifier of these images."""
    changed: Mapping[str, Any] = {"steps": steps} | settings | run.trial
    module = build(network, data.spec, width=16, seed=seed)
    ik.train_classifier(module, data, ik.ClassifierConfig.for_network(network, **changed), seed=seed, device="cpu")
    return ik.Target(module, data.spec, network)


def note_noise(run: Run, judge: ik.Target, count: int) -> None:
    """What the judge takes noise for."""
    for kind, numbers in noise_rate(judge, count).items():
        run.row(f"judge, {kind}", numbers)


def read(target: ik.Target, split: Split) -> float:
    """Share of a split's images that a network puts into their class."""
    return read_images(target, split.images, split.labels)


def read_images(target: ik.Target, images: Tensor, labels: Tensor) -> float:
    """Share of images that a network puts into their class."""
    return float(accuracy(target, images, labels)["top1"])


if __name__ == "__main__":
    command_line(inversion, conditionings, reconstruction, tuned, longer)
