"""What can be drawn from the weights alone: images of some classes by three methods, read by others."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from invkit.core.results import DivergedError
from invkit.core.rng import seeded
from invkit.data.images import quantise
from invkit.metrics.judge import roughness
from invkit.objectives.batch_norm import BatchNormPenalty
from invkit.report.case import SMALL, Case, answers, share
from invkit.report.contestants import MOST_FOR_GENERATORS, draw_by_colours, draw_by_generator, draw_by_statistics
from invkit.report.section import Section, pace
from invkit.show.grids import image_rows

Draw = Callable[[Case, float], Tensor]


def drawn(case: Case, seconds: float) -> Section:
    """Images by each method that the network allows, and what networks see in them."""
    section = Section(name="drawn", title="What can be drawn from the weights alone")
    ways, reasons = possible(case)
    parts = {name: weight for name, (weight, _) in ways.items()}
    names = [case.spec.classes[label] for label in case.classes]
    section.say(
        f"No image was used here: each method got the weights, and {len(case.classes)} of the classes, and drew "
        f"{len(case.labels)} images, equally many of each class.",
        *reasons,
    )
    rows, shown = {}, {}
    large = max(case.spec.size) > SMALL
    columns = 5 if large else 10  # large ones are shown large
    for name, (weight, draw) in ways.items():
        images = _attempt(case, section, name, draw, seconds * weight / sum(parts.values()))
        if images is None:
            continue
        section.images[name] = (images * 255).round().byte()
        shown[name] = images[: min(columns, len(case.classes))]
        rows[name] = read(case, images, section, name)
    if not rows:
        section.skipped = "no method could draw anything"
        return section
    noise = torch.rand(100, *case.spec.shape, generator=seeded(case.seed))
    rows["noise"] = read(case, noise, section, "noise", torch.arange(100) % len(names))
    section.table("Share of the images read as the class that was asked for (95% interval)", rows)
    if "own, blurred" in next(iter(rows.values())):
        section.say(
            "There is no judge, so the network reads its own images after a blur: a fine pattern that only it can see "
            "does not survive one. That they look like anything to others is not shown by it."
        )
    numbers = {name: str(row[_reader(case)]).split(" [")[0] for name, row in rows.items() if name in shown}
    heads = names[: len(next(iter(shown.values())))]
    canvas = image_rows(shown, heads, columns=columns, numbers=numbers, numbers_name=_reader(case))
    first = f"the first {len(heads)} of {len(case.labels)} images of each method, one of each class"
    section.picture(canvas, f"Drawn from the weights alone: {first}.", lossless=not large)
    section.summary = _summary(case, section, rows)
    return section


def _attempt(case: Case, section: Section, name: str, draw: Draw, seconds: float) -> Tensor | None:
    """What a method draws; where it cannot, the report says why."""
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            images = quantise(draw(case, seconds))
    except (ValueError, RuntimeError, ArithmeticError, DivergedError) as error:
        section.say(f"{name} is left out: {str(error).splitlines()[0]}.")
        return None
    _pass_on(case, told, section, name)
    return images


def _pass_on(case: Case, told: list[warnings.WarningMessage], section: Section, name: str) -> None:
    """What a method warns of this network is a sentence of the report; other warnings stay what they are."""
    own = case.target.name
    said = []
    for warning in told:
        text = str(warning.message)
        if own and text.startswith(own):
            said.append(f"{name}: the network{text.removeprefix(own)}.")
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if said:
        section.say(*dict.fromkeys(said))


def possible(case: Case) -> tuple[dict[str, tuple[float, Draw]], list[str]]:
    """The methods that this network allows, with their part of the time; and why the others are left out."""
    ways: dict[str, tuple[float, Draw]] = {}
    reasons = []
    try:
        BatchNormPenalty(case.target.module)
        ways["DeepInversion"] = 0.5, by_statistics
    except ValueError as error:
        reasons.append(f"DeepInversion is left out: {str(error).split(';')[0]}.")
    ways["Plug-In Inversion"] = 0.3, by_colours
    if max(case.spec.size) <= SMALL and 2 <= case.spec.n_classes <= MOST_FOR_GENERATORS:
        ways["Network Inversion"] = 0.2, by_generator
    else:
        reasons.append(
            f"Network Inversion is left out: its generator is trained here for images up to {SMALL} pixels and "
            f"{MOST_FOR_GENERATORS} classes."
        )
    return ways, reasons


def by_statistics(case: Case, seconds: float) -> Tensor:
    """DeepInversion with its defaults, in fewer steps where time is short."""
    return _paced(case, draw_by_statistics, seconds, least=30, most=400)


def by_colours(case: Case, seconds: float) -> Tensor:
    """Plug-In Inversion with a little total variation and few shifts of colour."""
    return _paced(case, draw_by_colours, seconds, least=5, most=100, trial=1)


def by_generator(case: Case, seconds: float) -> Tensor:
    """Network Inversion: a generator of all classes, of which those asked for are drawn."""
    return _paced(case, draw_by_generator, seconds, least=50, most=600)


def _paced(
    case: Case, method: Callable[..., Tensor], seconds: float, *, least: int, most: int, trial: int = 3
) -> Tensor:
    def run(steps: int) -> Tensor:
        return method(case.target, case.labels, steps, seeded(case.seed))

    return run(2 if case.least else pace(run, seconds, least=least, most=most, trial=trial))


def read(case: Case, images: Tensor, section: Section, name: str, labels: Tensor | None = None) -> dict[str, str]:
    """What the network, a judge and a blur make of images, as a row of the table."""
    labels = case.labels if labels is None else torch.tensor(case.classes)[labels]
    hits = {"own": answers(case.target, images).argmax(1) == labels}
    if case.judge is not None:
        hits[_reader(case)] = answers(case.judge, images).argmax(1) == labels
    else:
        hits[_reader(case)] = answers(case.target, blurred(images)).argmax(1) == labels
    section.numbers |= {f"{name}, {who}": float(hit.double().mean()) for who, hit in hits.items()}
    return {who: share(hit) for who, hit in hits.items()} | {"roughness": f"{roughness(images):.3f}"}


def _reader(case: Case) -> str:
    """Who decides: the judge, or the network itself after a blur."""
    return "judge" if case.judge is not None else "own, blurred"


def blurred(images: Tensor) -> Tensor:
    """Images ``(N, C, H, W)`` without what is finer than about two pixels."""
    from torchvision.transforms.v2.functional import gaussian_blur

    soft: Tensor = gaussian_blur(images, [5, 5], [1.0, 1.0])
    return soft


def _summary(case: Case, section: Section, rows: dict[str, dict[str, str]]) -> str:
    who = _reader(case)
    best = max((name for name in rows if name != "noise"), key=partial(_score, section, who))
    reader = "the judge reads" if case.judge is not None else "after a blur the network itself still reads"
    caution = "" if case.judge is not None else ", which no independent judge has confirmed"
    return (
        f"From the weights alone {best} draws images of which {reader} {rows[best][who]} as the class that was "
        f"asked for (noise: {rows['noise'][who].split(' [')[0]}){caution}."
    )


def _score(section: Section, who: str, name: str) -> float:
    return section.numbers[f"{name}, {who}"]
