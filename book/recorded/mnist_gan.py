"""Repeat the recorded run of inverting generators that draw the digits of MNIST.

    INVKIT_DATA=FOLDER INVKIT_WORK=OTHER python book/recorded/mnist_gan.py

``FOLDER`` holds ``mnist.npz``. ``INVKIT_WORK`` names a folder in which the trained generators are kept, for the next
try. Each seed has a generator, an inverse and codes of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.book.recording import Run, command_line, recorded_run
from invkit.data.images import quantise
from invkit.engine.gan import GAN, load_or_train_gan
from invkit.metrics import (
    auroc,
    code_error,
    error_along,
    frechet_distance,
    in_batches,
    path_lengths,
    probabilities,
    reproject,
)
from invkit.networks.classifiers import build

GENERATOR: dict[str, Any] = {
    "batch_size": 32, "latent": 128, "width": 16, "discriminator_steps": 2, "ema": 0.995,
    "lr_generator": 1e-3, "lr_discriminator": 1e-3,
}  # fmt: skip
LINE = 11  # images on the way from one code to another
SHOWN = 10
SHOWING = 10  # directions of a code in which the image moves most


class Judges:
    """Two classifiers of other architectures, which take no part in any inversion."""

    def __init__(self, run: Run, data: ik.DataSet, learning: int) -> None:
        self.verifier = trained(run, "repvgg_tiny", data, learning, seed=1)
        self.second = trained(run, "bn_cnn", data, learning, seed=2)

    def features(self, images: Tensor) -> Tensor:
        """The verifier's features of images as a file would hold them."""
        return in_batches(self.verifier.features, quantise(images))

    def sure(self, judge: ik.Target, images: Tensor) -> Tensor:
        """How sure a judge is of each image: the probability of its most likely class."""
        return probabilities(judge, quantise(images)).amax(1)

    def quality(self, images: Tensor, to: Tensor) -> dict[str, float]:
        """Of a set of images: how sure both judges are, and the Fréchet distance of its features to others."""
        return {
            "verifier sure": float(self.sure(self.verifier, images).mean()),
            "second judge sure": float(self.sure(self.second, images).mean()),
            "Fréchet": frechet_distance(self.features(images), to),
        }


@recorded_run(
    data=True,
    smoke={
        "seeds": 1, "steps": 1, "learning": 1, "codes": 40, "inverse_steps": 2, "fine_tune_steps": 2, "asked": 20,
        "searched": 3, "search_steps": 2,
    },
)  # fmt: skip
def generators(
    run: Run, *, seeds: int = 3, first: int = 3, steps: int = 2000, learning: int = 1200, codes: int = 5000,
    inverse_steps: int = 200, fine_tune_steps: int = 600, asked: int = 1000, searched: int = 60,
    search_steps: int = 300,
) -> None:  # fmt: skip
    """Codes and images back from generators of MNIST's digits, lines between codes, repair, and real from generated."""
    data = ik.load_data("mnist", folder=run.data)
    judges = Judges(run, data, learning)
    gan_config = ik.GANConfig(**GENERATOR, steps=steps)
    rates = {"lr": 1e-3, "fine_tune_lr": 1e-3}  # better than twice as much on a generator that is not recorded
    dci_config = ik.DCIConfig.for_generator("book", steps=inverse_steps, fine_tune_steps=fine_tune_steps, **rates)
    shown: dict[str, Tensor] = {}
    chosen = range(first, first + seeds)
    for seed in chosen:
        gan = generator_of(run, data, gan_config, seed)
        target = run.uses(ik.GeneratorTarget(gan.generator), "SNGAN on MNIST")
        inverse = inverse_of(target, codes, dci_config, seed)
        z = target.spec.sample(asked, ik.seeded(seed + 10))
        x = quantise(target(z))
        z_back, x_back = reproject(target, inverse, x)
        others = target(target.spec.sample(1000, ik.seeded(seed + 60)))
        real = data.test[torch.randperm(len(data.test), generator=ik.seeded(seed))[:asked]].images

        note_quality(run, judges, real, x, data)
        whole = inverse_of(target, codes, replace(dci_config, end_to_end=True), seed)
        found = {"recovered": (z_back, x_back), "all inverses at once": reproject(target, whole, x)}
        note_recovery(run, judges, target, z, x, found, searched)
        note_guesses(run, judges, target, z, x, others)
        note_search(run, target, z[:searched], z_back[:searched], x[:searched], search_steps)
        note_lines(run, judges, target, z, z_back, x)
        repaired = note_repair(run, judges, gan, target, inverse, seed, asked)
        note_detection(run, gan, target, inverse, x, real, others)
        if seed == first:
            shown = {"generated": x[:SHOWN], "again": x_back[:SHOWN], "nearest of 1,000": nearest(x[:SHOWN], others)}
            shown |= {f"least sure, {name}": images[:SHOWN] for name, images in repaired.items()}
            _, real_again = reproject(target, inverse, real[:SHOWN])
            shown |= {"real": real[:SHOWN], "real, again": real_again}
    run.record(
        "mnist_gan",
        title="Codes and images back from generators of MNIST's digits",
        config={"generator": gan_config, "inverse": dci_config, "judges": {"steps": learning}},
        seeds=chosen,
        claims=("gan.latent", "gan.interpolation", "gan.repair", "gan.real-vs-fake"),
        figure=show.image_rows(shown, columns=SHOWN, scale=1.5),
        note=f"By seed: another generator, another inverse, other codes, each of {gan_config.latent} entries. "
        "An earlier run, after which a rule was mended, had other seeds. The "
        f"generators were trained on {len(data.train):,} images for {steps:,} steps, the inverses on {codes:,} random "
        f"codes. {asked:,} images of each kind, rounded to 8 bits, real ones of the test set. Search: {searched} "
        f"codes, {search_steps} steps. Repaired are the 5% of {asked:,} samples that the verifier is least sure "
        f"of; the second judge had no say in that. Where it shows: in the {SHOWING} directions in which the images of "
        "these codes move most. Length and largest step of a path are measured in the verifier's features.",
    )


def trained(run: Run, network: str, data: ik.DataSet, steps: int, seed: int) -> ik.Target:
    """A classifier of these images."""
    module = build(network, data.spec, width=16, seed=seed)
    config = ik.ClassifierConfig.for_network(network, **{"steps": steps} | run.trial)
    ik.train_classifier(module, data, config, seed=seed, device="cpu")
    return run.uses(ik.Target(module, data.spec, network), f"{network} on MNIST, judge of generators")


def generator_of(run: Run, data: ik.DataSet, config: ik.GANConfig, seed: int) -> GAN:
    """A GAN that is kept for the next try, with the seconds that it took."""
    start, log = run.seconds, run.work / f"mnist_gan_{config.steps}_{seed}.seconds"
    gan = load_or_train_gan(data, config, seed=seed, folder=run.work, device="cpu")
    if log.exists():
        run.earlier[log.stem] = float(log.read_text())
    else:
        log.write_text(str(run.seconds - start))
    return gan


def inverse_of(target: ik.GeneratorTarget, codes: int, config: ik.DCIConfig, seed: int) -> Callable[[Tensor], Tensor]:
    """The inverse of the whole generator, from codes of its own."""
    names = [name for name, _ in target.module.named_children()]
    chain = ik.partition.partition_network(target, names)
    z = target.spec.sample(codes, ik.seeded(seed + 20))
    inverse, _ = ik.divide_and_conquer(chain, z, config, generator=ik.seeded(seed))
    return inverse


def nearest(images: Tensor, others: Tensor) -> Tensor:
    """Of each image the nearest of other samples, by the distance of pixels."""
    return others[torch.cdist(images.flatten(1), others.flatten(1)).argmin(1)]


def note_quality(run: Run, judges: Judges, real: Tensor, generated: Tensor, data: ik.DataSet) -> None:
    """How good the generator is: real images show the best that can be expected, noise what a judge is worth."""
    to = judges.features(data.heldout.images[:2000])
    noise = torch.rand(real.shape, generator=ik.seeded(0))
    for name, images in {"real images": real, "generated images": generated, "noise": noise}.items():
        run.row(name, judges.quality(images, to))


def note_recovery(
    run: Run, judges: Judges, target: ik.GeneratorTarget, z: Tensor, x: Tensor,
    found: Mapping[str, tuple[Tensor, Tensor]], looked_at: int,
) -> None:  # fmt: skip
    """What is lost of the codes, in all and in the directions that show, and how near the new images come."""
    _, directions = ik.metrics.visible_directions(target, z[:looked_at])
    there = error_along(z[:looked_at], torch.zeros_like(z[:looked_at]), directions)[:SHOWING].sum()
    judge = judge_of(judges, x)
    for name, (codes, images) in found.items():
        lost = error_along(z[:looked_at], codes[:looked_at], directions)[:SHOWING].sum()
        columns = {"code lost": code_error(z, codes), "lost where it shows": float(lost / there)}
        run.row(name, columns | judge(images))


def note_guesses(
    run: Run, judges: Judges, target: ik.GeneratorTarget, z: Tensor, x: Tensor, others: Tensor
) -> None:  # fmt: skip
    """How near images come that need no inverse."""
    judge = judge_of(judges, x)
    run.row("nearest of 1,000 samples", judge(nearest(x, others)))
    run.row("another sample", judge(target(z.roll(1, 0))))


def judge_of(judges: Judges, x: Tensor) -> ik.PairJudge:
    """A judge of images made again, by distance and by the class that the verifier reads in the first ones."""
    return ik.PairJudge(real=x, labels=judges.verifier(x).argmax(1), verifiers={"same class": judges.verifier})


def note_search(run: Run, target: ik.GeneratorTarget, z: Tensor, z_back: Tensor, x: Tensor, steps: int) -> None:
    """Where gradient descent on the code arrives, from the recovered code and from zero."""
    for name, start in {"recovered code": z_back, "code zero": torch.zeros_like(z)}.items():
        codes = ik.metrics.refine_codes(target, start, x, steps=steps)
        scores = {"code lost": code_error(z, codes), "psnr": ik.metrics.psnr(target(codes), x)}
        run.row(f"search from the {name}", scores)


def note_lines(
    run: Run, judges: Judges, target: ik.GeneratorTarget, z: Tensor, z_back: Tensor, x: Tensor
) -> None:  # fmt: skip
    """Straight lines between two true codes, two recovered ones, and two images."""
    half = len(z) // 2

    def line(of: Tensor) -> Tensor:
        return ik.metrics.interpolate_codes(of[:half], of[half : 2 * half], LINE)

    ways = {
        "between true codes": [target(point) for point in line(z)],
        "between recovered codes": [target(point) for point in line(z_back)],
        "between images, mixed": list(line(x)),
    }
    for name, images in ways.items():
        length, largest = path_lengths(torch.stack([judges.features(pictures) for pictures in images]))
        half_way = judges.sure(judges.verifier, images[LINE // 2])
        columns = {"length": length, "largest step": largest, "sure half-way": half_way}
        run.row(name, {column: float(values.mean()) for column, values in columns.items()})


def note_repair(
    run: Run, judges: Judges, gan: GAN, target: ik.GeneratorTarget, inverse: Callable[[Tensor], Tensor], seed: int,
    asked: int,
) -> dict[str, Tensor]:  # fmt: skip
    """What becomes of the samples that the verifier is least sure of, by inversion and by a step of the same length."""
    pool = target.spec.sample(asked, ik.seeded(seed + 30))
    code = pool[judges.sure(judges.verifier, target(pool)).argsort()[: max(1, asked // 20)]]
    found, _ = reproject(target, inverse, target(code))
    length = (found - code).norm(dim=1, keepdim=True)
    step = target.spec.sample(len(code), ik.seeded(seed + 40))
    step = step / step.norm(dim=1, keepdim=True) * length
    longer = found.norm(dim=1, keepdim=True) / code.norm(dim=1, keepdim=True)
    codes = {"as they were": code, "inverted": found, "random step": code + step, "scaled code": code * longer}
    images = {name: target(changed) for name, changed in codes.items()}
    before = images["as they were"]
    for name, pictures in images.items():
        columns = {
            "verifier sure": float(judges.sure(judges.verifier, pictures).mean()),
            "second judge sure": float(judges.sure(judges.second, pictures).mean()),
            "discriminator": float(gan.discriminator(quantise(pictures)).mean()),
        }
        if name != "as they were":
            columns["psnr to before"] = ik.metrics.psnr(pictures, before)
        run.row(f"least sure, {name}", columns)
    return images


def note_detection(
    run: Run, gan: GAN, target: ik.GeneratorTarget, inverse: Callable[[Tensor], Tensor], generated: Tensor,
    real: Tensor, others: Tensor,
) -> None:  # fmt: skip
    """How well the error of the image that comes back tells real images from generated ones, and three rivals."""
    of_zero = target(torch.zeros(1, target.spec.size))

    def error(again: Callable[[Tensor], Tensor]) -> float:
        scores = [(images - again(images)).square().mean((1, 2, 3)) for images in (real, generated)]
        return auroc(*scores)

    rivals = {
        "error after inversion": error(lambda images: reproject(target, inverse, images)[1]),
        "error of the nearest sample": error(lambda images: nearest(images, others)),
        "error of the code zero": error(lambda images: of_zero),
        "discriminator": auroc(*(in_batches(gan.discriminator, images).flatten() for images in (real, generated))),
    }
    for name, number in rivals.items():
        run.row(name, {"AUROC": number})


if __name__ == "__main__":
    command_line(generators)
