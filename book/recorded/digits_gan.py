"""Repeat the recorded run of chapter 5's generator of digits, inverted block by block and all at once.

    python book/recorded/digits_gan.py

It needs no data but the scans of scikit-learn. Generator, judges, codes and settings are those of the chapter. There is
one generator; each seed has an inverse of its own, codes that it learns from, and samples that are repaired.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
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
    frechet_distance,
    interpolate_codes,
    path_lengths,
    probabilities,
    psnr,
    reproject,
)
from invkit.metrics.quality import in_batches
from invkit.partition.chain import Chain, partition_network

LATENT = 8  # entries of a code
LINE = 11  # images on the way from one code to another
SHOWN = 10
FARTHEST, HALVINGS = 8.0, 20  # of the search for a step that moves the image as far
Encoder = Callable[[Tensor], Tensor]


@dataclass
class Subject:
    """The generator, two judges that take no part in any inversion, and the codes and images that are asked about."""

    run: Run
    data: ik.DataSet
    gan: GAN
    asked: int
    target: ik.GeneratorTarget = field(init=False)
    verifier: ik.Target = field(init=False)
    second: ik.Target = field(init=False)
    z: Tensor = field(init=False)
    x: Tensor = field(init=False)
    others: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.target = self.run.uses(ik.GeneratorTarget(self.gan.generator), "SNGAN on digits")
        self.verifier, self.second = self.judge("repvgg_tiny", 1), self.judge("bn_cnn", 2)
        self.z = self.target.spec.sample(self.asked, ik.seeded(10))
        self.x = self.target(self.z)
        self.others = self.target(self.target.spec.sample(1000, ik.seeded(60)))

    def judge(self, name: str, seed: int) -> ik.Target:
        """A classifier of the digits, as the chapter trains it."""
        config = ik.ClassifierConfig.for_network(name, "book", **self.run.trial)
        network = ik.load_or_train(name, self.data, config, width=16, seed=seed, device="cpu")
        return self.run.uses(network, f"digits, {name}, judge of generators")

    def features(self, images: Tensor) -> Tensor:
        """The verifier's features of images as a file would hold them."""
        return in_batches(self.verifier.features, quantise(images))

    def sure(self, judge: ik.Target, images: Tensor) -> Tensor:
        """How sure a judge is of each image: the probability of its most likely class."""
        return probabilities(judge, quantise(images)).amax(1)

    def nearest(self, images: Tensor) -> Tensor:
        """Of each image the nearest of a thousand other samples, by the distance of pixels."""
        return self.others[torch.cdist(images.flatten(1), self.others.flatten(1)).argmin(1)]

    def pairs(self) -> ik.PairJudge:
        """A judge of the images made again, by distance and by the class that the verifier reads in the first ones."""
        labels = self.verifier(self.x).argmax(1)
        return ik.PairJudge(real=quantise(self.x), labels=labels, verifiers={"same class": self.verifier})


@recorded_run(smoke={"seeds": 1, "codes": 64, "asked": 20, "picked": 5})
def generator(run: Run, *, seeds: int = 3, codes: int = 4096, asked: int = 500, picked: int = 50) -> None:
    """Codes and images back from one generator of digits by three inverses, lines, repair, and real from generated."""
    data, preset = ik.load_data("digits"), "ci" if run.quick else "book"
    gan_config = ik.GANConfig.for_profile(preset, latent=LATENT)
    dci_config = ik.DCIConfig.for_generator(preset, **{} if run.quick else {"fine_tune_steps": 240})
    subject = Subject(run, data, load_or_train_gan(data, gan_config, seed=0, device="cpu"), asked)
    target = subject.target
    chain = partition_network(target, [name for name, _ in target.module.named_children()])
    shown: dict[str, Tensor] = {"generated": subject.x[:SHOWN]}

    note_quality(subject)
    note_guesses(subject)
    for seed in range(seeds):
        inverse = inverted(subject, chain, codes, seed, "recovered", dci_config)
        whole = inverted(subject, chain, codes, seed, "all inverses at once", dci_config, end_to_end=True)
        z_back, x_back = reproject(target, inverse, subject.x)
        note_line(subject, "recovered codes", path(target, z_back))
        repaired = note_repair(subject, inverse, seed, picked)
        note_detection(subject, inverse)
        if seed == 0:
            shown |= {"block by block": x_back[:SHOWN], "all at once": reproject(target, whole, subject.x[:SHOWN])[1]}
            shown |= {name.replace("as they were", "least sure"): images[:SHOWN] for name, images in repaired.items()}
    run.record(
        "digits_gan",
        title="Codes and images back from a generator of digits",
        config={"generator": gan_config, "inverse": dci_config},
        seeds=seeds,
        claims=("gan.latent", "gan.interpolation", "gan.repair", "gan.real-vs-fake"),
        figure=show.image_rows(shown, columns=SHOWN),
        note=f"One generator with codes of {LATENT} entries; by seed, another inverse that learnt from {codes:,} other "
        f"codes, and other samples that are repaired. Codes behind a block are recovered at the end of its stage. All "
        f"inverses at once take as many steps as all stages together. {asked} images are made again. Repaired are the "
        f"5% of {20 * picked:,} samples that the verifier is least sure of; the second judge had no say in that. A "
        "random step is as long as the inversion's, in the space of codes; a matched step goes the "
        "same way until the image has changed as much, by the L2 distance. Beside them stand as many samples picked at "
        f"random. AUROC: {len(data.heldout)} held-out digits against as many samples, rounded to 8 bits. Length and "
        "largest step of a path are measured in the verifier's features. A number without a spread is the same for all "
        "seeds.",
    )


def inverted(
    subject: Subject, chain: Chain, count: int, seed: int, row: str, config: ik.DCIConfig, **changes: Any
) -> Encoder:
    """The inverse of the whole generator from codes of its own, and what is lost of codes at the end of each stage."""
    features = [part.detach() for part in chain.read(subject.z)]

    def evaluate(inverse: ik.networks.ChainInverse, depth: int) -> dict[str, float]:
        return {"code lost": code_error(subject.z, inverse(features[depth - 1], depth=depth))}

    z = subject.target.spec.sample(count, ik.seeded(20 + seed))
    inverse, log = ik.divide_and_conquer(
        chain, z, replace(config, **changes), evaluate=evaluate, generator=ik.seeded(seed)
    )
    if not changes:
        for name, stage in zip(chain.names, log.stages, strict=True):
            subject.run.row(f"behind {name}", {"code lost": stage.metrics["code lost"]})
    _, again = reproject(subject.target, inverse, subject.x)
    subject.run.row(row, {"code lost": log.stages[-1].metrics["code lost"]} | subject.pairs()(again))
    return inverse


def path(target: ik.GeneratorTarget, codes: Tensor) -> list[Tensor]:
    """Images on straight lines from the codes of the first half to those of the second."""
    half = len(codes) // 2
    return [target(point) for point in interpolate_codes(codes[:half], codes[half : 2 * half], LINE)]


def note_quality(subject: Subject) -> None:
    """How good the generator is, beside held-out images, and what a judge's confidence is worth, by noise."""
    real = subject.data.heldout.images
    count = min(len(real), len(subject.x))
    to = subject.features(subject.data.test.images)
    noise = torch.rand(subject.x.shape, generator=ik.seeded(0))
    for name, images in {"held-out images": real, "generated images": subject.x, "noise": noise}.items():
        part = images[:count]
        quality = {
            "verifier sure": float(subject.sure(subject.verifier, part).mean()),
            "second judge sure": float(subject.sure(subject.second, part).mean()),
            "Fréchet": frechet_distance(subject.features(part), to),
        }
        subject.run.row(name, quality)


def note_guesses(subject: Subject) -> None:
    """What needs no inverse: other samples, the ways between true codes and between images, and rivals in detection."""
    run, target, x = subject.run, subject.target, subject.x
    judge, half = subject.pairs(), len(x) // 2
    run.row("nearest of 1,000 samples", judge(subject.nearest(x)))
    run.row("another sample", judge(target(subject.z.roll(1, 0))))
    note_line(subject, "true codes", path(target, subject.z))
    note_line(subject, "images, mixed", list(interpolate_codes(x[:half], x[half : 2 * half], LINE)))
    real, generated = real_and_generated(subject)
    of_zero = target(torch.zeros(1, LATENT))
    rivals: dict[str, Callable[[Tensor], Tensor]] = {
        "error of the nearest sample": lambda images: error(images, subject.nearest(images)),
        "error of the code zero": lambda images: error(images, of_zero),
        "discriminator": lambda images: subject.gan.discriminator(images).flatten(),
    }
    for name, score in rivals.items():
        run.row(name, {"AUROC": auroc(score(real), score(generated))})


def note_line(subject: Subject, name: str, images: list[Tensor]) -> None:
    """The length of a path, its largest step, and how sure the verifier is in the middle."""
    length, largest = path_lengths(torch.stack([subject.features(pictures) for pictures in images]))
    half_way = subject.sure(subject.verifier, images[LINE // 2])
    columns = {"length": length, "largest step": largest, "sure half-way": half_way}
    subject.run.row(f"between {name}", {column: float(values.mean()) for column, values in columns.items()})


def real_and_generated(subject: Subject) -> tuple[Tensor, Tensor]:
    """Held-out images, and as many samples rounded to 8 bits."""
    real = subject.data.heldout.images
    return real, quantise(subject.target(subject.target.spec.sample(len(real), ik.seeded(50))))


def error(images: Tensor, others: Tensor) -> Tensor:
    """Mean squared error of each image."""
    return (images - others).square().mean((1, 2, 3))


def note_detection(subject: Subject, inverse: Encoder) -> None:
    """How well the error of the second image tells real from generated, and how near it comes, in dB."""
    real, generated = real_and_generated(subject)
    sets = {"generated": generated, "held-out": real, "training": subject.data.train.images[: len(real)]}
    again = {name: reproject(subject.target, inverse, images)[1] for name, images in sets.items()}
    errors = [error(sets[name], again[name]) for name in ("held-out", "generated")]
    subject.run.row("error after inversion", {"AUROC": auroc(*errors)})
    for name, images in sets.items():
        nearest = psnr(subject.nearest(images), images)
        subject.run.row(f"{name}, again", {"psnr": psnr(again[name], images), "psnr of nearest": nearest})


def note_repair(subject: Subject, inverse: Encoder, seed: int, picked: int) -> dict[str, Tensor]:
    """What becomes of the samples that the verifier is least sure of, and of samples picked at random."""
    target = subject.target
    pool = target.spec.sample(20 * picked, ik.seeded(30 + seed))
    least_sure = subject.sure(subject.verifier, target(pool)).argsort()[:picked]
    images: dict[str, Tensor] = {}
    for group, code in {"picked at random": pool[:picked], "least sure": pool[least_sure]}.items():
        images = {name: target(new) for name, new in changed(target, inverse, code, seed).items()}
        before = images["as they were"]
        for name, pictures in images.items():
            columns = {
                "verifier sure": float(subject.sure(subject.verifier, pictures).mean()),
                "second judge sure": float(subject.sure(subject.second, pictures).mean()),
                "discriminator": float(subject.gan.discriminator(quantise(pictures)).mean()),
            }
            if name != "as they were":
                columns["psnr to before"] = psnr(pictures, before)
            subject.run.row(f"{group}, {name}", columns)
    return images


def changed(target: ik.GeneratorTarget, inverse: Encoder, code: Tensor, seed: int) -> dict[str, Tensor]:
    """Codes after inversion, and after other changes of the same size."""
    found, _ = reproject(target, inverse, target(code))
    step = target.spec.sample(len(code), ik.seeded(40 + seed))
    direction = step / step.norm(dim=1, keepdim=True)
    return {
        "as they were": code,
        "inverted": found,
        "random step": code + (found - code).norm(dim=1, keepdim=True) * direction,
        "matched step": moved_as_far(target, code, direction, found),
        "scaled code": code * found.norm(dim=1, keepdim=True) / code.norm(dim=1, keepdim=True),
    }


def moved_as_far(target: ik.GeneratorTarget, code: Tensor, direction: Tensor, other: Tensor) -> Tensor:
    """Codes along a direction whose images lie as far away as those of other codes, by halving."""
    before = target(code)

    def moved(codes: Tensor) -> Tensor:
        return (target(codes) - before).flatten(1).norm(dim=1, keepdim=True)

    aim, near, far = moved(other), torch.zeros(len(code), 1), torch.full((len(code), 1), FARTHEST)
    for _ in range(HALVINGS):
        middle = (near + far) / 2
        short = moved(code + middle * direction) < aim
        near, far = middle.where(short, near), far.where(short, middle)
    return code + far * direction


if __name__ == "__main__":
    command_line(generator)
