"""From how deep an image can be brought back: images from what the layers say of them."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from invkit.core.rng import seeded
from invkit.data.images import quantise
from invkit.data.outliers import photo_patches
from invkit.methods.dci import DCIConfig, divide_and_conquer
from invkit.methods.feature_inversion import FeatureInversionConfig, feature_inversion, layer_features
from invkit.metrics.quality import in_batches, psnr
from invkit.networks.inverse import ChainInverse
from invkit.partition.chain import Chain, partition_network
from invkit.report.case import SMALL, Case
from invkit.report.section import Section, pace
from invkit.show.grids import image_rows

DEPTHS = 5
"""Depths that are inverted, evenly spread."""
LEARNT_FROM = 600
"""Images that inverses learn from."""
MARGIN = 1.0
"""PSNR in dB, above that of the best trivial answer, from which a depth counts as brought back."""
ENOUGH = 100
"""Steps of an optimisation of pixels below which a report says how few there were."""
Recovered = tuple[dict[str, Tensor], dict[str, int]]
"""Images by depth, and the steps that each took."""


def depth(case: Case, seconds: float) -> Section:
    """Images from features of several depths, by learnt inverses or, for large images, by optimising pixels."""
    section = Section(name="depth", title="From how deep can the image be brought back?")
    large = max(case.spec.size) > SMALL
    sought, known, source, others = _images(case, 4 if large else 40)
    chain = _cut(case, large)
    learnt = not large
    if learnt:
        try:
            recovered, steps = _by_inverses(case, chain, sought, known, seconds)
        except ValueError as error:  # as for the tokens of a transformer
            section.say(f"Inverses cannot be learnt: {str(error).splitlines()[0]}.")
            learnt, sought, chain = False, sought[:4], _cut(case, True)
    if not learnt:
        recovered, steps = _by_pixels(case, chain, sought, seconds)
    trivial = {
        "mean colour": quantise(sought.mean((2, 3), keepdim=True).expand_as(sought)),
        "nearest image": known[torch.cdist(sought.flatten(1), known.flatten(1)).argmin(1)],
    }
    section.say(
        f"Features of {len(sought)} {source} were turned back into images",
        f"by inverses that learnt from {len(known)} {others} (divide-and-conquer inversion): whoever does this needs "
        "the weights and such images."
        if learnt
        else "by optimising pixels until the features agree, with total variation.",
        "PSNR, the peak signal-to-noise ratio, is the mean over the images, and more is closer; the trivial answers "
        "know only each image's mean colour, or take the nearest "
        f"other image. A depth counts as brought back where it is more than {MARGIN:g} dB above the better of them.",
    )
    rows = _rows(section, chain, sought, recovered | trivial, steps)
    section.table("From the first depth to the last", rows)
    shown = {"images": sought[:6]} | {name: quantise(made[:6]) for name, made in (recovered | trivial).items()}
    numbers = {name: f"{section.numbers[f'PSNR, {name}']:.1f} dB" for name in rows}
    canvas = image_rows(shown, numbers=numbers, numbers_name="PSNR")
    section.picture(canvas, "Images, and what features give back.", lossless=not large)
    section.summary = _summary(section, list(recovered), list(trivial), len(sought), source)
    fewest = min(steps.values())
    if not learnt and fewest < ENOUGH:
        section.say(f"The time allowed {fewest} steps at the slowest depth; more would bring back more.")
        section.summary = f"{section.summary[:-1]}, in as few as {fewest} steps."
    return section


def _rows(
    section: Section, chain: Chain, sought: Tensor, answers: dict[str, Tensor], steps: dict[str, int]
) -> dict[str, dict[str, str]]:
    """PSNR of each answer, and how much is kept of an image at the depths among them."""
    sizes, values = chain_sizes(chain, sought[:2]), sought[0].numel()
    rows: dict[str, dict[str, str]] = {}
    for name, made in answers.items():
        quality = section.numbers[f"PSNR, {name}"] = psnr(quantise(made), sought)
        rows[name] = {"PSNR, dB": f"{quality:.1f}"}
        if count := sizes.get(name):
            ratio = f"{count / values:.2g}"
            rows[name] |= {
                "feature values": f"{count:,}", "feature values per pixel value": ratio, "steps": str(steps[name]),
            }  # fmt: skip
    return rows


def _images(case: Case, count: int) -> tuple[Tensor, Tensor, str, str]:
    """Images to be brought back, others that inverses learn from, and what both are: held-out ones if there are any."""
    heldout, train = case.pair.heldout, case.pair.train
    pictures = heldout if heldout is not None else train
    if pictures is not None and len(pictures) >= 8:
        order = torch.randperm(len(pictures), generator=seeded(case.seed))  # folders come class by class
        pictures = pictures[order[: LEARNT_FROM + count]]
        count = min(count, len(pictures) // 4)
        own = pictures is heldout or heldout is not None
        source = "held-out images" if own else "training images"
        if own and train is not None and len(train) >= 40:
            other, others = train, "of your training images"
        else:
            other, others = pictures[slice(count, None)], f"other {source}"
        return pictures.images[:count], other.some(LEARNT_FROM, case.seed).images, source, others
    patches = photo_patches(300, case.spec, seeded(case.seed))
    return patches[:count], patches[count:], "patches of two photographs, for want of images", "other patches"


def _cut(case: Case, large: bool) -> Chain:
    """The network cut at a few depths, the last of them its logits; where pixels are optimised, behind modules only."""
    chain = partition_network(case.target)
    names = [name for name in chain.names if not (large and name.endswith(":input"))]
    places = torch.linspace(0, len(names) - 1, min(DEPTHS, len(names))).round().long().tolist()
    return chain if len(places) == len(chain) else partition_network(case.target, [names[k] for k in places])


def chain_sizes(chain: Chain, images: Tensor) -> dict[str, int]:
    """Values of one image's features at each cut, by its title."""
    with torch.no_grad():
        features = chain.read(images)
    return {title(chain, k): maps[0].numel() for k, maps in enumerate(features)}


def title(chain: Chain, k: int) -> str:
    """A name for a depth: where it is, and what stands there."""
    name = chain.names[k].removesuffix(":input")
    kind = type(chain.target.module.get_submodule(name)).__name__
    where = "before" if chain.names[k].endswith(":input") else "behind"
    return f"{k + 1}: {where} {name} ({kind})"


def _by_inverses(case: Case, chain: Chain, sought: Tensor, known: Tensor, seconds: float) -> Recovered:
    """Divide-and-conquer inversion; each depth as it was at the end of its own stage."""
    recovered: dict[str, Tensor] = {}

    def evaluate(inverse: ChainInverse, depth: int) -> dict[str, float]:
        made = _recover(chain, inverse, sought, depth)
        recovered[title(chain, depth - 1)] = made
        return {"psnr": psnr(made, sought)}

    def run(steps: int) -> None:
        config = DCIConfig(
            steps=max(2, steps),
            fine_tune_steps=max(2, steps // 2),
            lr=3e-3,
            fine_tune_lr=5e-4,
            restarts=0,
            batch_size=16,
        )
        divide_and_conquer(chain, known, config, generator=seeded(case.seed), evaluate=evaluate)

    steps = 2 if case.least else pace(run, seconds, least=20, most=300)
    run(steps)
    return recovered, dict.fromkeys(recovered, steps)


@torch.no_grad()
def _recover(chain: Chain, inverse: ChainInverse, images: Tensor, depth: int) -> Tensor:
    return in_batches(lambda x: inverse(chain.read(x, depth)[-1], depth=depth), images, device=chain.target.device)


def _by_pixels(case: Case, chain: Chain, sought: Tensor, seconds: float) -> Recovered:
    """Optimisation of pixels for each depth in turn."""
    recovered, taken = {}, {}
    for k, name in enumerate(chain.names):
        features = layer_features(case.target, sought, name)
        invert = partial(_pixels, case, features, name)
        steps = 2 if case.least else pace(invert, seconds / len(chain), least=20, most=300)
        recovered[title(chain, k)], taken[title(chain, k)] = invert(steps), steps
    return recovered, taken


def _pixels(case: Case, features: Tensor, layer: str, steps: int) -> Tensor:
    config = FeatureInversionConfig(
        steps=steps,
        lr=0.05,
        betas=(0.5, 0.9),
        schedule="cosine",
        patience=None,
        match=None,
        tv=0.3,
        l2=0.0,
        batch_norm=0.0,
    )
    return feature_inversion(case.target, features, layer, config, generator=seeded(case.seed)).images


def _summary(section: Section, depths: list[str], trivial: list[str], count: int, source: str) -> str:
    floor = max(section.numbers[f"PSNR, {name}"] for name in trivial)
    back = [name for name in depths if section.numbers[f"PSNR, {name}"] > floor + MARGIN]
    section.numbers["depths that go back"] = len(back)
    if not back:
        return (
            f"None of {len(depths)} depths gives its images back better than a trivial answer does ({floor:.1f} dB, "
            f"{count} {source})."
        )
    deepest = back[-1]
    return (
        f"Images come back from {len(back)} of {len(depths)} depths, the last of them "
        f"{deepest.partition(': ')[2]}: {section.numbers[f'PSNR, {deepest}']:.1f} dB, where the best trivial answer "
        f"has {floor:.1f} dB ({count} {source})."
    )
