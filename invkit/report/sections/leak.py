"""Does a network give its training images away? Membership, reconstructions, and a control that must be found."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from invkit.core.rng import seeded
from invkit.core.target import Target
from invkit.data.datasets import Split
from invkit.metrics.leakage import Leakage, exchange_test, mean_interval, measure_leakage, similarities
from invkit.metrics.membership import Membership, measure_membership, membership_scores
from invkit.report.case import SMALL, Case, batch_for
from invkit.report.images import Pictures
from invkit.report.section import Section
from invkit.show.grids import image_rows
from invkit.transforms.resize import resize_images

REFERENCES = 4
"""Networks that are trained anew on halves of the images."""
CANARIES = 20
"""Images of noise with a label by chance, planted among the training images of these networks."""
TESTS = 3
"""Ways to find a leak: the level of each is divided by their number, so that together they err in 5% of cases."""
LEVEL = 1 - 0.05 / TESTS
FEWEST = 10
"""Images of each kind below which nothing is said."""


def leak(case: Case, seconds: float) -> Section:
    """Members against images that are none, drawn images against both, and the same for networks trained anew."""
    section = Section(name="leak", title="Does it leak its training images?")
    train, heldout = case.pair.train, case.pair.heldout
    if train is None or heldout is None or min(len(train), len(heldout)) < FEWEST:
        section.skipped = (
            f"this needs {FEWEST} or more training images and as many of the same origin that the network never saw; "
            f"there are {len(train) if train is not None else 0} and {len(heldout) if heldout is not None else 0}"
        )
        return section
    references = (
        _references(case, 0.8 * seconds, section) if case.labelled is not None and case.unseen is not None else {}
    )
    found = {
        "membership": _membership(case, train, heldout, section),
        "calibrated membership": _calibrated(case, references, train, heldout, section),
        "drawn images": _drawn(case, train, heldout, section),
    }
    flags = [name for name, leaks in found.items() if leaks]
    section.numbers["leaks"] = float(bool(flags))
    section.say(
        f"Three tests look for a leak, each at a level of {100 * (1 - LEVEL):.1f}%, so that a network that leaks "
        f"nothing is called leaking in one of twenty cases at most."
    )
    control = _control(case, section)
    member = section.numbers["membership AUROC"]
    interval = f"[{section.numbers['membership low']:.2f}, {section.numbers['membership high']:.2f}]"
    verdict = f"It leaks, by {len(flags)} of {TESTS} tests ({', '.join(flags)})" if flags else "No leak was found"
    section.summary = (
        f"{verdict}: its answers tell {len(train)} training images from {len(heldout)} held-out ones with an AUROC of "
        f"{member:.2f} {interval}{control}."
    )
    return section


def _scores(network: Target, pictures: Pictures) -> Tensor:
    images = pictures.images
    if tuple(images.shape[-2:]) != network.spec.size:
        images = resize_images(images, network.spec.size)
    return membership_scores(network, images, pictures.labels, batch_size=batch_for(images))


def _membership(case: Case, train: Pictures, heldout: Pictures, section: Section) -> bool:
    if train.labels is None or heldout.labels is None:  # both are scored alike
        train, heldout = replace(train, labels=None), replace(heldout, labels=None)
    measured = measure_membership(_scores(case.target, train), _scores(case.target, heldout))
    section.numbers |= {
        "membership AUROC": measured.auroc, "membership low": measured.low, "membership high": measured.high,
        "membership p": measured.p, "membership caught": measured.caught,
    }  # fmt: skip
    section.table("Members against others, this network", {"its answers": _row(measured)})
    return measured.p <= 1 - LEVEL


def _row(measured: Membership) -> dict[str, str]:
    # A hundredth of fewer than a hundred others is none of them.
    caught = "members above every held-out image" if measured.others < 100 else "members caught at 1% false alarms"
    return {
        "AUROC": f"{measured.auroc:.2f} [{measured.low:.2f}, {measured.high:.2f}]",
        "p": f"{measured.p:.2g}",
        caught: f"{100 * measured.caught:.0f}%",
    }


def _references(case: Case, seconds: float, section: Section) -> dict[str, Tensor]:
    """Networks trained on halves of all images, with canaries: the mean scores of images they did not see."""
    labelled, unseen = case.labelled, case.unseen
    assert labelled is not None  # the caller looks
    assert unseen is not None
    both = Pictures(
        pixels=torch.cat([labelled.pixels, unseen.pixels]),
        labels=torch.cat([labelled.labels, unseen.labels]),  # type: ignore[list-item]
    )
    whole = case.small(both)
    sums, counts = torch.zeros(len(both), dtype=torch.float64), torch.zeros(len(both), dtype=torch.float64)
    areas, caught, sure, rows = [], [], [], {}
    count = 2 if case.least else REFERENCES
    for k in range(count):
        # Each image is in half of the networks: of every two, one sees what the other does not.
        order = torch.randperm(len(both), generator=seeded(case.seed + k // 2))
        halves = order.chunk(2)
        inside, outside = halves[k % 2], halves[1 - k % 2]
        own, planted, fresh = whole[inside], _canaries(case, 2 * k), _canaries(case, 2 * k + 1)
        mixed = Split(pixels=torch.cat([own.pixels, planted.pixels]), labels=torch.cat([own.labels, planted.labels]))
        network = case.train(mixed, seconds / count, case.seed + k)
        scores = membership_scores(network, whole.images, whole.labels)
        sums[outside] += scores[outside]
        counts[outside] += 1
        members = measure_membership(scores[inside], scores[outside])
        asked = [membership_scores(network, part.images, part.labels) for part in (planted, fresh)]
        canaries = measure_membership(*asked)
        areas.append(members.auroc)
        caught.append(canaries.auroc)
        sure.append(canaries.leaks)
        rows[f"network {k + 1}"] = {
            "its half of the images": _row(members)["AUROC"],
            "planted canaries": _row(canaries)["AUROC"],
        }
    for name, values in (("networks trained anew", areas), ("canaries", caught)):
        low, high = mean_interval(values)
        section.numbers |= {f"{name} AUROC": sum(values) / len(values), f"{name} low": low, f"{name} high": high}
    section.numbers["networks whose canaries are found"] = sum(sure) / len(sure)
    section.numbers["networks trained anew"] = count
    section.table(f"AUROC of members: {count} times {_shape(case)}, each trained on half of your images", rows)
    return {"mean": sums / counts.clamp_min(1), "seen": counts}


def _canaries(case: Case, seed: int) -> Split:
    """Noise of a quarter of the resolution with random labels."""
    generator, spec = seeded(1000 + seed), case.small_spec
    coarse = torch.rand(CANARIES, spec.channels, *(max(2, side // 4) for side in spec.size), generator=generator)
    pixels = (resize_images(coarse, spec.size).clamp(0, 1) * 255).round().byte()
    return Split(pixels=pixels, labels=torch.randint(spec.n_classes, (CANARIES,), generator=generator))


def _calibrated(
    case: Case, references: dict[str, Tensor], train: Pictures, heldout: Pictures, section: Section
) -> bool:
    """Scores less those of networks that did not see the image: an easy image is no sign of a member."""
    if not references or train is not case.labelled or heldout is not case.unseen:
        return False
    mean, seen = references["mean"], references["seen"] > 0
    own = torch.cat([_scores(case.target, train), _scores(case.target, heldout)]) - mean
    inside = torch.arange(len(own)) < len(train)
    if min(int((inside & seen).sum()), int((~inside & seen).sum())) < 2:
        return False
    measured = measure_membership(own[inside & seen], own[~inside & seen])
    section.numbers |= {"calibrated AUROC": measured.auroc, "calibrated p": measured.p}
    heading = "Members against others, calibrated: minus the mean answer of networks that did not see the image"
    section.table(heading, {"its answers": _row(measured)})
    return measured.p <= 1 - LEVEL


def _drawn(case: Case, train: Pictures, heldout: Pictures, section: Section) -> bool:
    """Whether images drawn from the weights are nearer to training images than to held-out ones."""
    drawn = {name: _reduced(images) for name, images in case.drawn.items()}
    if not drawn:
        section.say("No images were drawn from the weights, so none could be compared with training images.")
        return False
    count = min(len(train), len(heldout), 400)
    near, far = (_reduced(pictures.some(count, case.seed).images) for pictures in (train, heldout))
    if min(near.shape[-2:]) < 11:
        section.say("Images below 11 pixels are too small to be compared by their structure.")
        return False
    groups = case.labels if len(case.labels.unique()) > 1 else None
    rows, parts, chances = {}, {}, {}
    for name, images in drawn.items():
        part = measure_leakage(images, near, far, groups=groups)
        parts[name], chances[name] = part, exchange_test(images, near, far, generator=seeded(case.seed))
        rows[name] = {
            "gap": f"{part.gap:+.3f} [{part.low:+.3f}, {part.high:+.3f}]",
            "p": f"{chances[name]:.2g}",
            "nearest training image": f"{float(part.to_train.mean()):.3f}",
            "nearest held-out image": f"{float(part.to_heldout.mean()):.3f}",
        }
        section.numbers |= {f"gap, {name}": part.gap, f"gap p, {name}": chances[name]}
    section.table("Similarity (SSIM) of drawn images to the nearest of equally many images of each kind", rows)
    best = max(parts, key=lambda name: parts[name].gap)
    _show_nearest(section, best, drawn[best], near, far, parts[best])
    return min(chances.values()) * len(chances) <= 1 - LEVEL


def _reduced(images: Tensor) -> Tensor:
    """Images of at most ``SMALL`` pixels, for comparison by structure."""
    if max(images.shape[-2:]) <= SMALL:
        return images
    return resize_images(images, (SMALL, SMALL)).clamp(0, 1)


def _show_nearest(section: Section, name: str, drawn: Tensor, near: Tensor, far: Tensor, part: Leakage) -> None:
    order = (part.to_train - part.to_heldout).argsort(descending=True)[:6]
    chosen = drawn[order]
    rows = {
        "drawn": chosen,
        "nearest training image": near[similarities(chosen, near).argmax(1)],
        "nearest held-out image": far[similarities(chosen, far).argmax(1)],
    }
    over_all = f"over all of them it is {part.gap:+.3f}"
    section.picture(
        image_rows(rows), f"{name}: the {len(order)} of {len(drawn)} images with the largest gap; {over_all}."
    )


def _control(case: Case, section: Section) -> str:
    """What the networks trained anew say of the measurement itself."""
    if "canaries AUROC" not in section.numbers:
        section.say(
            "Without labels for twenty or more images of each kind no network could be trained anew, so there is no "
            "control that the measurement finds what is there."
        )
        return ", without a control"
    canaries, low = section.numbers["canaries AUROC"], section.numbers["canaries low"]
    works = low > 0.5 and section.numbers["networks whose canaries are found"] > 0.5
    section.say(
        f"As a control, {CANARIES} images of noise with random labels were planted among the training images of the "
        f"networks trained anew; they were told from others like them with an AUROC of {canaries:.2f}, interval over "
        f"networks [{low:.2f}, {min(1, section.numbers['canaries high']):.2f}].",
        "So the tests of membership find what was learnt by heart; that of drawn images has no such control."
        if works
        else "So the measurement cannot be relied on here: what it does not find may be there all the same.",
    )
    anew = section.numbers["networks trained anew AUROC"]
    ends = f"[{section.numbers['networks trained anew low']:.2f}, {section.numbers['networks trained anew high']:.2f}]"
    section.say(
        f"Networks trained anew on half of the images each tell their own half with {anew:.2f} {ends}, the "
        f"interval over networks: {_shape(case)}, trained by this package's recipe, gives away about as much about "
        "such images."
    )
    count, found = int(section.numbers["networks trained anew"]), "were" if works else "were not"
    return f"; in {count} networks trained anew as a control, planted canaries {found} found (AUROC {canaries:.2f})"


def _shape(case: Case) -> str:
    return "a network of this shape" if case.same_shape else "a small convolutional network"
