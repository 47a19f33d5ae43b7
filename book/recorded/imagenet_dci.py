"""Repeat the recorded run of divide-and-conquer inversion at 224 pixels: Tiny Darknet for ImageNet, run backwards.

    INVKIT_DATA=FOLDER python book/recorded/imagenet_dci.py depth
    INVKIT_DATA=FOLDER python book/recorded/imagenet_dci.py pictures

Inverses learn from crops of photographs, or of images that DeepInversion made from the network itself, and are judged
on photographs that none of them saw. ``FOLDER`` holds ``imagenet_photos/``, which may not be shown, ``weights/`` and
``networks.py``; the pictures are of photographs that come with scikit-learn and matplotlib. ``INVKIT_WORK`` names a
folder in which synthetic images and inverses are kept for the next try, and for the other run.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor
from torchvision.transforms import v2

import invkit as ik
from invkit import show
from invkit.book.recording import Run, command_line, recorded_run
from invkit.core.rng import isolated_rng
from invkit.data.images import load_image, quantise
from invkit.metrics import accuracy, baselines, in_batches, psnr, ssim
from invkit.networks.inverse import ChainInverse
from invkit.partition.chain import Chain, partition_network
from invkit.transforms import resize_images

NETWORK = "imagenet_tinydarknet"
JUDGES = {"SqueezeNet": "imagenet_squeezenet1_0", "Lite2": "imagenet_efficientnet_lite2"}
CROP = 96  # pixels: convolutions learn on crops what they do to whole images
CROPS = 1024  # of the training images of either source
LEARNT = 100  # of the photographs; the others are the test
BATCH = 32  # synthetic images at a time: their statistics are compared with those in the batch norms
TRAINING: dict[str, Any] = {
    "lr": 3e-3, "fine_tune_lr": 5e-4, "restarts": 0, "batch_size": 16, "checkpoint_every": 10_000,
}  # fmt: skip
SQUARES = {  # left, top and side in pixels, of photographs that may be shown
    "temple": ("china", 120, 20, 400),
    "roofs": ("china", 300, 180, 224),
    "flower": ("flower", 110, 0, 427),
    "petals": ("flower", 240, 110, 224),
    "portrait": ("grace_hopper", 60, 20, 400),
}  # fmt: skip


@recorded_run(
    data=True,
    smoke={"images": 2, "synthesis_steps": 1, "steps": 1, "fine_tune_steps": 1, "stages": 2, "test": 2, "seeds": 1},
)
def depth(
    run: Run, *, images: int = 64, synthesis_steps: int = 150, steps: int = 120, fine_tune_steps: int = 60,
    stages: int = 7, test: int = 43, seeds: int = 3,
) -> None:  # fmt: skip
    """Photographs from the features behind each of the first blocks, by inverses trained on two kinds of images."""
    target, judges = run.network(NETWORK), {title: run.network(file) for title, file in JUDGES.items()}
    photos, labels = photographs(run, target)
    learnt, sought, truth = photos[:LEARNT], photos[LEARNT:][:test], labels[LEARNT:][:test]
    synthesis, training = configs(synthesis_steps, steps, fine_tune_steps, stages)
    sources = {"synthetic": run.synthetic(target, images, synthesis, folder="synthetic_224", batch_size=BATCH)}
    if not run.quick:
        sources["real"] = learnt
    narrow, wide = chains(target)

    def known(pictures: Tensor) -> dict[str, float]:
        return {
            f"{title} top-5": accuracy(judge, resize_images(pictures, judge.spec.size), truth, batch_size=16)["top5"]
            for title, judge in judges.items()
        }

    def score(name: str, pictures: Tensor) -> None:
        pictures = quantise(pictures)
        run.row(name, {"PSNR": psnr(pictures, sought), "SSIM": ssim(pictures, sought)} | known(pictures))

    run.row("the photographs", known(sought))
    one_class = torch.zeros(len(sought), dtype=torch.long), torch.zeros(len(learnt), dtype=torch.long)
    trivial = baselines(sought, one_class[0], learnt, one_class[1])
    for name, title in TRIVIAL.items():
        score(title, trivial[name])
    for source, pictures in sources.items():
        for seed in range(seeds):
            crops = crops_of(pictures, 16 if run.quick else CROPS, ik.seeded(seed))
            for k, inverse in enumerate(inverses(run, narrow, wide, crops, training, source, seed), start=1):
                rebuilt = in_batches(lambda x, i=inverse, d=k: i(wide.read(x, d)[-1]), sought, 8, run.device)
                score(f"{title_of(wide, k)}, {source}", rebuilt)
    run.record(
        "imagenet_dci",
        title="Divide-and-conquer inversion of Tiny Darknet at 224 pixels: photographs from the features of its blocks",
        config={
            "synthesis": synthesis, "training": training, "images": images, "crops": CROPS, "crop": CROP,
            "photographs learnt": LEARNT,
        },
        seeds=seeds,
        claims=("dci.shallow",),
        note=f"{len(sought)} photographs that no inverse saw; PSNR is the mean over them, for each seed of training. "
        "Behind the name of each block stands how many numbers it keeps for each value of the image. Inverses learnt "
        f"from {CROPS:,} crops of {CROP} pixels of {images} images that DeepInversion made from the network itself, "
        f"or of {LEARNT} photographs, and run on whole images. Each depth as it was at the end of its own "
        "stage. The trivial answers run no network backwards: the mean photograph and the nearest are of those "
        f"{LEARNT}. The judges saw neither inverses nor features. Scores are of images rounded to 8 bits.",
    )  # fmt: skip


@recorded_run(data=True, smoke={"images": 2, "synthesis_steps": 1, "steps": 1, "fine_tune_steps": 1, "stages": 2})
def pictures(
    run: Run, *, images: int = 64, synthesis_steps: int = 150, steps: int = 120, fine_tune_steps: int = 60,
    stages: int = 7,
) -> None:  # fmt: skip
    """Photographs of no data set, and what the first inverses make of their features."""
    target = run.network(NETWORK)
    synthesis, training = configs(synthesis_steps, steps, fine_tune_steps, stages)
    drawn = run.synthetic(target, images, synthesis, folder="synthetic_224", batch_size=BATCH)
    narrow, wide = chains(target)
    crops = crops_of(drawn, 16 if run.quick else CROPS, ik.seeded(0))
    sought = torch.cat([square(*where, side=target.spec.size[0]) for where in SQUARES.values()])
    shown = {"photographs": sought}
    for k, inverse in enumerate(inverses(run, narrow, wide, crops, training, "synthetic", 0), start=1):
        shown[title_of(wide, k)] = quantise(inverse(wide.read(sought, k)[-1]))
        for name, rebuilt, photo in zip(SQUARES, shown[title_of(wide, k)], sought, strict=True):
            run.row(title_of(wide, k), {name: psnr(rebuilt[None], photo[None])})
    run.record(
        "imagenet_dci_pictures",
        title="Five photographs, and what comes back from the features of Tiny Darknet's first convolutions",
        config={"synthesis": synthesis, "training": training, "images": images, "crops": CROPS, "crop": CROP},
        seeds=1,
        photographs=True,
        figure=show.image_rows(
            {name: resize_images(made.clamp(0, 1), (112, 112)) for name, made in shown.items()},
            list(SQUARES),
            columns=len(SQUARES),
            scale=1.0,
        ),
        note="PSNR in dB of each photograph. Behind the name of each depth stands how many numbers it keeps for each "
        "value of the image. The inverses saw nothing but images that DeepInversion made from the network. "
        "Photographs: china.jpg and flower.jpg of scikit-learn, by danielbuechele and vultilion (CC BY 2.0), and the "
        "portrait of Grace Hopper of matplotlib, by the US Navy (public domain).",
    )


def configs(
    synthesis_steps: int, steps: int, fine_tune_steps: int, stages: int
) -> tuple[ik.DeepInversionConfig, ik.DCIConfig]:
    """How images are drawn from the network, and how inverses are trained."""
    synthesis = ik.DeepInversionConfig(steps=synthesis_steps, low_resolutions=((0.5, synthesis_steps),))
    return synthesis, ik.DCIConfig(steps=steps, fine_tune_steps=fine_tune_steps, stages=stages, **TRAINING)


def chains(target: ik.Target) -> tuple[Chain, Chain]:
    """The network in blocks, for crops and for whole images."""
    small = ik.Target(target.module, replace(target.spec, size=(CROP, CROP)), target.name)
    return partition_network(small), partition_network(target)


def square(name: str, left: int, top: int, width: int, *, side: int) -> Tensor:
    """A square of a photograph that comes with a library, ``(1, 3, side, side)``."""
    if name == "grace_hopper":
        pixels = np.array(Image.open(Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg"))
    else:
        pixels = load_sample_image(f"{name}.jpg")
    part = torch.tensor(pixels[top : top + width, left : left + width]).permute(2, 0, 1)[None] / 255
    return resize_images(part, (side, side)).clamp(0, 1)


TRIVIAL = {
    "mean colour": "mean colour", "class mean": "mean photograph", "nearest in pixels": "nearest photograph",
    "noise": "noise",
}  # fmt: skip


def photographs(run: Run, target: ik.Target) -> tuple[Tensor, Tensor]:
    """All photographs in an order of chance, and their labels."""
    files = sorted((run.data / "imagenet_photos").glob("*.jpg"))
    order = torch.randperm(len(files), generator=ik.seeded(0)).tolist()
    names = [files[k].stem.partition("_")[2].replace("_", " ") for k in order]
    pictures = torch.cat([load_image(files[k], size=target.spec.size) for k in order])
    return pictures, torch.tensor([target.spec.classes.index(name) for name in names])


def crops_of(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random crops of the images in turn, at half to full resolution, flipped at random."""
    crop = v2.Compose([v2.RandomResizedCrop(CROP, scale=(0.18, 0.75), ratio=(1, 1)), v2.RandomHorizontalFlip()])
    with isolated_rng(generator):
        return torch.stack([crop(images[k % len(images)]) for k in range(count)]).clamp(0, 1)


def inverses(
    run: Run, narrow: Chain, wide: Chain, crops: Tensor, training: ik.DCIConfig, source: str, seed: int
) -> list[ChainInverse]:
    """Of each depth, as they are at the end of its own stage, on whole images."""
    folder = run.work / f"inverse_{NETWORK}_{source}_{seed}"
    ik.divide_and_conquer(narrow, crops, training, generator=ik.seeded(seed), checkpoint=folder)
    found = []
    for k in range(1, (training.stages or len(wide)) + 1):
        inverse = ChainInverse(wide.blocks[:k], target=wide.target.name, fingerprint=wide.target.fingerprint())
        inverse.restore(folder / f"stage_{k:02d}", k)
        found.append(inverse.requires_grad_(False).eval().to(run.device))
    return found


def title_of(chain: Chain, k: int) -> str:
    """A name for a depth: how many convolutions deep, and the numbers that are left of each value of the image."""
    block = chain.blocks[k - 1]
    share = math.prod(block.outputs) / math.prod(chain.target.spec.shape)
    return f"{k} convolution{'s' * (k > 1)}, {share:.2f}"


if __name__ == "__main__":
    command_line(depth, pictures)
