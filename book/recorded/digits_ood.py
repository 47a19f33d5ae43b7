"""Repeat the recorded run on the garbage class inside the built-in digits: photographs and shifted digits outside.

    python book/recorded/digits_ood.py

It needs no data but the scans and the photographs that come with scikit-learn.
"""

from __future__ import annotations

import torch
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.book.recording import Run, command_line, recorded_run
from invkit.data.images import quantise
from invkit.data.outliers import gaussian_noise, photo_patches, shifted
from invkit.metrics import auroc, compare_scores, confidence_gap, in_batches
from invkit.networks.classifiers import build

NETWORK = "bn_cnn"
SOURCES = {"noise only": "noise", "inverted": "inversion"}
TAIL = 0.01  # share of each set that may lie beyond the threshold
MISTAKES = 8
CLAIMS = ("ood.majority", "ood.threshold", "ood.inverted-help")


@recorded_run(smoke={"seeds": 1, "limit": 100})
def garbage(run: Run, *, seeds: int = 8, limit: int = 1200) -> None:
    """Classifiers of digits with and without a garbage class, asked about photographs and shifted digits."""
    data = ik.load_data("digits", limit=limit)
    outside = {
        "photographs": photo_patches(len(data.test), data.spec, ik.seeded(0)),
        "shifted images": shifted(data.test.images),
    }
    quick = run.trial | {"steps": 2, "inversion_steps": 1} if run.quick else {}
    config = ik.GarbageConfig.for_network(NETWORK, "book", **{"label_smoothing": 0.0} | quick)
    inversion = ik.NetworkInversionConfig.for_profile("book", **run.trial)
    rows = {"test images": data.test.per_class(1).images}
    surest = {place: torch.zeros(len(images), dtype=torch.float64) for place, images in outside.items()}

    for place, images in outside.items():
        nearest = auroc(nearness(data, data.test.images), nearness(data, images))
        run.row(f"digits inside, {place} outside, no network", {"AUROC, nearest training image": nearest})
    for seed in range(seeds):
        row(run, data, outside, "no garbage", plain(run, data, config, seed), garbage=None)
        for kind, source in SOURCES.items():
            result, _ = ik.train_with_garbage(
                build(NETWORK, ik.methods.with_garbage(data.spec), width=16, seed=seed),
                data,
                ik.GarbageConfig.for_network(NETWORK, "book", **{"label_smoothing": 0.0, "source": source} | quick),
                inversion,
                generator=ik.seeded(seed),
                device="cpu",
            )
            target = run.uses(result.target, f"digits, {kind}")
            row(run, data, outside, kind, target, garbage=data.spec.n_classes)
            run.row(f"digits inside, {kind}", refused(result, len(data.test), seed))
        if seed == 0:
            rows |= {f"garbage, {when}": images for when, images in fed(result.garbage, config).items()}
        for place, images in outside.items():  # of the classifier that was trained last, with inverted images
            surest[place] = torch.maximum(surest[place], mistaken(target, images))
    for place, confidence in surest.items():
        order = confidence.argsort(descending=True)[:MISTAKES]
        rows[f"mistakes, {place}"] = outside[place][order[confidence[order] > 0]]
    run.record(
        "digits_ood",
        title="A garbage class filled by inversion: digits inside, photographs and shifted digits outside",
        config={"garbage": config, "inversion": inversion, "quantile": TAIL},
        seeds=seeds,
        claims=CLAIMS,
        figure=show.image_rows({name: images for name, images in rows.items() if len(images)}, columns=10, scale=3.0),
        note="By seed, which changes the first weights, the order of the batches, the noise and the generator, but "
        f"none of the images that are asked about: {len(data.test)} test images of the digits, as many patches of two "
        "photographs, and the test images moved by half their width or height. A small network is trained from "
        f"scratch on {len(data.train):,} images "
        f"of {data.spec.size[0]} pixels, with as many steps where it has no garbage class. "
        f"Confidences at the {TAIL:.0%} quantile inside, of images put into a class, and the {1 - TAIL:.0%} quantile "
        "outside (0 where none is put into a class). The picture shows what the garbage was at first and what it was "
        f"fed after the first and after the last epoch, an image of each class, in the first seed; and {MISTAKES} "
        "images outside of which some seed of the classifier fed inverted images is surest, where so many are not "
        "refused. "
        "New noise and new inversions are drawn as the garbage was, after training; the classifier never saw them.",
    )


def plain(run: Run, data: ik.DataSet, config: ik.GarbageConfig, seed: int) -> ik.Target:
    """The network without a garbage class, after as many steps."""
    settings = ik.ClassifierConfig.for_network(
        NETWORK, "book", steps=config.steps, warmup=config.warmup, label_smoothing=0.0
    )
    trained = ik.load_or_train(NETWORK, data, settings, width=16, seed=seed, device="cpu")
    return run.uses(trained, "digits, no garbage")


def nearness(data: ik.DataSet, images: Tensor) -> Tensor:
    """Minus the distance to the nearest training image, in pixels."""
    return -torch.cdist(images.flatten(1), data.train.images.flatten(1)).amin(1)


def row(
    run: Run, data: ik.DataSet, outside: dict[str, Tensor], kind: str, network: ik.Target, garbage: int | None
) -> None:
    """Every number of one classifier, for one seed: inside once, and for each set outside."""
    inside, labels = data.test.images, data.test.labels
    logits = in_batches(network, inside)
    answers = logits.argmax(1)
    own = {"accuracy": float((answers == labels).double().mean())}
    if garbage is not None:
        own["kept"] = float((answers != garbage).double().mean())
    run.row(f"digits inside, {kind}", own)
    for place, images in outside.items():
        gap = confidence_gap(logits, in_batches(network, images), garbage, quantile=TAIL)
        columns = {"in garbage": gap.rejected} if garbage is not None else {}
        columns |= {"low inside": gap.lowest_inside, "high outside": gap.highest_outside, "violating": gap.violating}
        scores = compare_scores(network, data.train, inside, images, garbage=garbage is not None)
        columns |= {f"AUROC, {score}": numbers["auroc"] for score, numbers in scores.items() if score != "energy"}
        run.row(f"digits inside, {place} outside, {kind}", columns)


def mistaken(target: ik.Target, images: Tensor) -> Tensor:
    """How sure the classifier is of the digit that it takes an image for; 0 of what goes to the garbage."""
    confidence, answers = in_batches(target, images).double().softmax(1).max(1)
    return confidence.where(answers < target.spec.n_classes - 1, 0.0)


def refused(result: ik.methods.GarbageResult, count: int, seed: int) -> dict[str, float]:
    """How much of what it was taught to refuse the classifier does refuse, in new draws that it never saw."""
    target, generator = result.target, ik.seeded(1000 + seed)
    garbage = target.spec.n_classes - 1
    draws = {"new noise in garbage": gaussian_noise(count, target.spec, generator)}
    if result.inverter is not None:
        labels = torch.arange(count) % garbage
        draws["new inversions in garbage"] = result.inverter.sample(labels, generator=generator)[0]
    answers = {name: in_batches(target, quantise(images)).argmax(1) for name, images in draws.items()}
    return {name: float((answer == garbage).double().mean()) for name, answer in answers.items()}


def fed(garbage: Tensor, config: ik.GarbageConfig) -> dict[str, Tensor]:
    """Noise of the start, and one image of each class as added after the first and after the last epoch."""
    first = slice(config.noise, config.noise + 10 * config.per_class, config.per_class)
    last = slice(len(garbage) - 10 * config.per_class, None, config.per_class)
    return {"at first": garbage[:10], "first epoch": garbage[first], "last epoch": garbage[last]}


if __name__ == "__main__":
    command_line(garbage)
