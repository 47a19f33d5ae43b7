"""What it takes for each class, and where a network puts what is none of them."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from invkit.core.rng import seeded
from invkit.core.target import Target
from invkit.core.trial import in_trial
from invkit.data.outliers import photo_patches
from invkit.report.case import Case, answers
from invkit.report.section import Section, listed, pace
from invkit.show.spread import bar_with_spread
from invkit.transforms.resize import resize_images

SURE = 0.9
"""Probability from which an answer counts as sure."""


def classes(case: Case, seconds: float) -> Section:
    """Confidence in garbage, and how little turns grey into each class."""
    section = Section(name="classes", title="What it takes for each class, and for garbage")
    kind, sure = _sureness(case, section)
    section.say(
        "A classifier must name one of its classes, whatever it sees. A network that is sure of noise will be sure "
        "of a broken camera too; a class for garbage, or a threshold on its confidence, is meant for these."
    )
    section.summary = (
        f"At worst ({kind}) it is more than {100 * SURE:.0f}% sure of {100 * sure:.0f}% of images that show "
        "none of its classes."
    )
    section.summary += _from_grey(case, seconds, section)
    return section


def _sureness(case: Case, section: Section) -> tuple[str, float]:
    """The table of answers to garbage and to images; the kind of garbage that it is surest of, and of which share."""
    names, rows, worst = case.spec.classes, {}, ("", 0.0)
    for kind, images in garbage(case).items():
        probabilities = answers(case.target, images)
        confidence, best = probabilities.max(1)
        common = int(best.bincount(minlength=len(names)).argmax())
        sure = float((confidence > SURE).double().mean())
        rows[kind] = {  # what the summary quotes comes first: a phone shows no more
            f"surer than {100 * SURE:.0f}%": f"{100 * sure:.0f}%",
            "mean confidence": f"{float(confidence.mean()):.2f}",
            "class most often": names[common],
            "its share": f"{100 * float((best == common).double().mean()):.0f}%",
            "images": len(images),
        }
        section.numbers[f"sure of {kind}"] = sure
        if kind not in ("training images", "held-out images") and sure >= worst[1]:
            worst = (kind, sure)
    section.table("What it answers, to images of no class and to yours", rows)
    return worst


def _from_grey(case: Case, seconds: float, section: Section) -> str:
    """How far grey must move to become each class: bars, and a sentence for the summary, empty if it becomes none."""
    names = case.spec.classes
    walk = partial(distance_from_grey, case.target, torch.tensor(case.classes))
    steps = 3 if case.least else pace(walk, seconds, least=20, most=60)
    distance = walk(steps)
    reached, missing = distance.isfinite(), " (not reached)"
    per_pixel = distance / torch.tensor(case.spec.shape, dtype=torch.float32).prod().sqrt()
    section.numbers["classes reached from grey"] = float(reached.double().mean())
    out = [names[c] for c, there in zip(case.classes, reached.tolist(), strict=True) if not there]
    if out:
        section.say(f"Within {steps} steps grey did not become {listed([quoted(name) for name in out])}.")
    if not reached.any():
        return ""
    bars = {
        names[c] + missing * bool(d.isinf()): 255 * float(d) if d.isfinite() else 0.0
        for c, d in zip(case.classes, per_pixel, strict=True)
    }
    canvas = bar_with_spread(bars, ylabel="change per pixel, of 255 levels")
    canvas.alt = canvas.alt.replace(f"{missing} 0 ± 0", missing)  # it has no bar, rather than one of no length
    far = "How far the pixels of a grey image move, in the root mean square"
    section.picture(canvas, f"{far}, until the network is {100 * SURE:.0f}% sure of a class.")
    change = 255 * float(per_pixel[reached].median())
    return (
        f" Grey becomes {int(reached.sum())} of {len(case.classes)} classes, by a median change of {change:.0f} of "
        f"255 levels per pixel; the nearest is {quoted(names[case.classes[int(distance.argmin())]])}."
    )


def quoted(name: str) -> str:
    """The name of a class, told from a number.

    >>> quoted("8")
    '“8”'
    """
    return f"“{name}”"


def garbage(case: Case, count: int = 100) -> dict[str, Tensor]:
    """Images of no class, and the reader's own for comparison: ``(N, C, H, W)`` in [0, 1] by kind."""
    generator, spec = seeded(case.seed), case.spec
    count = count if max(spec.size) <= 64 else count // 4
    small = [max(1, side // 8) for side in spec.size]
    kinds = {
        "uniform noise": torch.rand(count, *spec.shape, generator=generator),
        "clouds": resize_images(torch.rand(count, spec.channels, *small, generator=generator), spec.size),
        "flat colours": torch.rand(count, spec.channels, 1, 1, generator=generator).expand(-1, -1, *spec.size),
        "patches of photographs": photo_patches(count, spec, generator),
    }
    for name, pictures in (("training images", case.pair.train), ("held-out images", case.pair.heldout)):
        if pictures is not None:
            images = pictures.some(count, case.seed).images
            kinds[name] = images
            kinds[f"scrambled {name}"] = scrambled(images, generator)
    return kinds


def scrambled(images: Tensor, generator: torch.Generator, parts: int = 4) -> Tensor:
    """Images ``(N, C, H, W)`` cut into parts that are put together in another order, each image in its own.

    >>> images = torch.rand(2, 1, 8, 8)
    >>> mixed = scrambled(images, torch.Generator())
    >>> torch.equal(mixed.flatten(1).sort().values, images.flatten(1).sort().values)
    True
    """
    height, width = (side // parts * parts for side in images.shape[-2:])
    if not (height and width):
        return images
    images = images[..., :height, :width]
    tiles = images.unfold(2, height // parts, height // parts).unfold(3, width // parts, width // parts)
    tiles = tiles.flatten(2, 3)
    order = torch.rand(len(images), parts * parts, generator=generator).argsort(1)
    tiles = torch.stack([tile[:, row] for tile, row in zip(tiles, order, strict=True)]).unflatten(2, (parts, parts))
    return tiles.permute(0, 1, 2, 4, 3, 5).reshape(images.shape)


def distance_from_grey(target: Target, labels: Tensor, steps: int, size: float = 0.005) -> Tensor:
    """How far, in the Euclidean norm, grey moves until a class is sure: ``(N,)``, infinite where it never is.

    Each step goes along the gradient of the class's cross-entropy, by ``size`` for each pixel on average, and stays
    within [0, 1].

    >>> from invkit.testing import quadrants_target
    >>> bool(distance_from_grey(quadrants_target(), torch.tensor([0]), 200).isfinite())
    True
    """
    grey = torch.full((len(labels), *target.spec.shape), 0.5, device=target.device, dtype=target.dtype)
    images, length = grey.clone(), size * grey[0].numel() ** 0.5
    distance = torch.full((len(labels),), torch.inf)
    for _ in range(in_trial(steps)):
        images.requires_grad_(True)
        logits = target(images)
        loss = torch.nn.functional.cross_entropy(logits, labels.to(target.device), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, images)
        with torch.no_grad():
            sure = logits.softmax(1).gather(1, labels[:, None].to(target.device))[:, 0] > SURE
            moved = (images - grey).flatten(1).norm(dim=1).cpu()
            distance = torch.where(sure.cpu() & distance.isinf(), moved, distance)
            norm = gradient.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
            images = (images - length * gradient / norm).clamp(0, 1)
    return distance
