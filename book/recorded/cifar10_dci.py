"""Repeat the recorded runs of divide-and-conquer inversion: a published ResNet-20 for CIFAR-10, run backwards.

    INVKIT_DATA=FOLDER python book/recorded/cifar10_dci.py depth
    INVKIT_DATA=FOLDER python book/recorded/cifar10_dci.py methods
    INVKIT_DATA=FOLDER python book/recorded/cifar10_dci.py attacks

The first inverts test images at every block by inverses trained on synthetic, on real and on noise images; the second
compares other methods at the deepest feature map; the third inverts the features of attacked images, of a standard and
of a robust network.

``FOLDER`` holds ``cifar10_4600.npz`` (4,000 training and 600 test images), ``weights/`` with the networks, and
``networks.py`` with the source of the one that is not in the package. ``INVKIT_WORK`` names a folder in which synthetic
images and inverses are kept, for the next part or the next try; without it each part makes what it needs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.core.rng import seeded
from invkit.data.images import quantise
from invkit.metrics.quality import accuracy, in_batches, ssim
from invkit.networks.inverse import ChainInverse
from invkit.partition.chain import Chain, partition_network

COMMAND = "INVKIT_DATA=FOLDER python book/recorded/cifar10_dci.py"
NAMES = {
    "ResNet-20": ("invkit/resnet20", "cifar10_resnet20"),
    "ResNet-44": ("invkit/resnet44", "cifar10_resnet44"),
    "robust net": ("networks:ResNet4B", "cifar10_resnet4b_robust"),
}
SYNTHESIS: dict[str, Any] = {
    "lr": 0.05, "schedule": "cosine", "patience": None, "betas": (0.5, 0.9), "flip": 0.5, "jitter": 4, "wrap": False,
    "cross_entropy": 50.0, "tv": 0.3, "l2": 0.0, "batch_norm": 1.0, "low_resolutions": ((16, 300),),
}  # fmt: skip
BATCH = 128  # synthetic images at a time: their statistics are compared with those in the batch norms
COPIES = 4  # of each training image, flipped and shifted by up to SHIFT pixels
SHIFT = 2
CONTRAST, COLOUR = 0.3, 0.2  # how far copies are recoloured, where they are
TRAINING: dict[str, Any] = {
    "lr": 3e-3, "fine_tune_lr": 5e-4, "restarts": 0, "batch_size": 16, "checkpoint_every": 10_000,
}  # fmt: skip
DEEPSIM: dict[str, Any] = {
    "steps": 600, "schedule": "cosine", "batch_size": 16, "lr": 2e-3, "width": 16,
    "image": 1.0, "batch_norm": 0.01, "adversarial": 10.0,
}  # fmt: skip
PIXELS: dict[str, dict[str, Any]] = {
    name: {
        "steps": 300, "lr": 0.05, "betas": (0.5, 0.9), "schedule": "cosine", "patience": None,
        "match": 1.0, "tv": 3.0, "l2": 0.0, "batch_norm": batch_norm,
    }
    for name, batch_norm in {"DeepInversion": 0.1, "DeepDream": 0.0}.items()
}  # fmt: skip
COMPARED = 60  # test images in the second and third part
DEPTHS = {"ResNet-20": (4, 7, 10), "robust net": (1, 3, 5)}
RADII = (2 / 255, 8 / 255)
ATTACK: dict[str, Any] = {"steps": 20}
SHOWN = (0, 1, 3, 6, 7, 8)  # classes in a picture


@dataclass(frozen=True)
class Run:
    """What all parts share: the data, where things are kept, and how much is made."""

    data: ik.DataSet
    folder: Path
    work: Path
    device: str
    count: int
    synthesis_steps: int
    steps: int
    fine_tune_steps: int
    earlier: dict[str, float] = field(default_factory=dict)
    """Seconds that went into what an earlier run made and this one reads."""

    def network(self, name: str) -> ik.Target:
        """One with its published weights."""
        where, file = NAMES[name]
        return ik.load_target(where, weights=self.folder / "weights" / f"{file}.safetensors", device=self.device)

    @property
    def test(self) -> tuple[Tensor, Tensor]:
        """All test images in [0, 1], and their labels."""
        return self.data.test.images, self.data.test.labels

    @property
    def synthesis(self) -> ik.DeepInversionConfig:
        """How the synthetic images are made."""
        return ik.DeepInversionConfig(steps=self.synthesis_steps, **SYNTHESIS)

    @property
    def training(self) -> ik.DCIConfig:
        """How the inverses are trained."""
        return ik.DCIConfig(steps=self.steps, fine_tune_steps=self.fine_tune_steps, **TRAINING)

    def images(self, source: str) -> Tensor:
        """As many of each source: made by DeepInversion, drawn from the training set, or uniform noise."""
        if source == "real":
            pool = self.data.train.images
            return pool[torch.randperm(len(pool), generator=seeded(0))[: self.count]]
        if source == "noise":
            return torch.rand(self.count, *self.data.train.images.shape[1:], generator=seeded(0))
        target, config, folder = self.network("ResNet-20"), self.synthesis, self.work / "synthetic"
        if (folder / "manifest.json").exists():
            self.earlier["synthetic"] = float(json.loads((folder / "manifest.json").read_text())["seconds"])
        where = ik.synthesise(
            target, self.count, folder, batch_size=BATCH, config=config,
            invert=lambda labels, generator: ik.deep_inversion(target, labels, config, generator=generator),
        )  # fmt: skip
        made = ik.load_data(f"folder:{where}")
        return torch.cat([part.images for part in (made.train, made.test, made.heldout)])

    def training_images(self, source: str) -> Tensor:
        """The images of a source, flipped and shifted; ``recoloured`` are the synthetic ones in other colours, too."""
        again = source == "recoloured"
        return varied(self.images("synthetic" if again else source), seeded(1), recolour=again)

    def inverses(self, chain: Chain, name: str, source: str) -> list[ChainInverse]:
        """Of each depth, as they are at the end of its own stage: later ones change them in favour of theirs."""
        folder = self.work / f"inverse_{name.replace(' ', '_')}_{source}"
        stages = [folder / f"stage_{k:02d}" for k in range(1, len(chain) + 1)]
        kept = folder / "seconds.json"
        if kept.exists():
            self.earlier[folder.name] = float(json.loads(kept.read_text()))
        else:
            images = self.training_images(source)
            _, result = ik.divide_and_conquer(chain, images, self.training, generator=seeded(0), checkpoint=folder)
            print(f"{name}, {source}: {result.seconds:.0f} s", flush=True)
            kept.write_text(json.dumps(result.seconds))
        return [ChainInverse.load(stage).to(self.device) for stage in stages]


def varied(images: Tensor, generator: torch.Generator, *, recolour: bool = False) -> Tensor:
    """Each image, and ``COPIES - 1`` copies of it, flipped at random and shifted with reflected borders.

    Copies are recoloured by another contrast, ``exp(N(0, CONTRAST))`` times its own, and other means of the channels,
    ``N(0, COLOUR)`` from its own.
    """
    made, size = [images], images.shape[-1]
    for _ in range(COPIES - 1):
        wide = F.pad(images, (SHIFT,) * 4, mode="reflect")
        places = torch.randint(2 * SHIFT + 1, (len(images), 2), generator=generator).tolist()
        moved = torch.stack([image[:, y : y + size, x : x + size] for image, (y, x) in zip(wide, places, strict=True)])
        flip = torch.rand(len(images), generator=generator) < 0.5
        moved = torch.where(flip[:, None, None, None], moved.flip(3), moved)
        if recolour:
            contrast = (CONTRAST * torch.randn(len(images), 1, 1, 1, generator=generator)).exp()
            means = moved.mean((2, 3), keepdim=True)
            drawn = COLOUR * torch.randn(len(images), images.shape[1], 1, 1, generator=generator)
            moved = ((moved - means) * contrast + means + drawn).clamp(0, 1)
        made.append(moved)
    return torch.cat(made)


@torch.no_grad()
def reconstruct(chain: Chain, inverse: ChainInverse, images: Tensor) -> Tensor:
    """Images from their features at the depth of ``inverse``, after rounding to 8 bits."""
    depth = len(inverse)
    return quantise(in_batches(lambda x: inverse(chain.read(x, depth)[-1]), images, 100, chain.target.device))


def psnrs(made: Tensor, images: Tensor) -> list[float]:
    """Of each image, in dB."""
    return [float(v) for v in -10 * (made - images).square().flatten(1).mean(1).clamp_min(1e-10).log10()]


def scores(
    made: Tensor, images: Tensor, labels: Tensor, networks: Mapping[str, ik.Target]
) -> dict[str, float | list[float]]:
    """PSNR of each image, SSIM, and the share of images whose class each network knows."""
    known = {f"{name} top-1": accuracy(network, made, labels)["top1"] for name, network in networks.items()}
    return {"PSNR": psnrs(made, images), "SSIM": ssim(made, images), **known}


def flat(images: Tensor) -> Tensor:
    """Each image as its own mean colour: of all images of one colour the nearest to it."""
    return quantise(images.mean((2, 3), keepdim=True).expand_as(images))


def table(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """``row: column`` names for a recorded table."""
    return {f"{row}: {column}": value for row, found in rows.items() for column, value in found.items()}


def first(images: Tensor, labels: Tensor) -> Tensor:
    """What is shown: the first image of each of some classes, in 32 levels of a colour, for a picture of few bytes."""
    return images[[labels.tolist().index(label) for label in SHOWN]].mul(31).round().div(31)


def told(found: Mapping[str, Any]) -> str:
    """Scores in a line of a log."""
    values = {k: sum(v) / len(v) if isinstance(v, list) else v for k, v in found.items()}
    return ", ".join(f"{k} {v:.3g}" for k, v in values.items())


def titles(chain: Chain) -> list[str]:
    """A name for each depth: the first convolution, the residual blocks, the logits."""
    return [f"{k} {name.removesuffix(':input')}" for k, name in enumerate(("conv1", *chain.names[1:]), start=1)]


def depth(run: Run) -> None:
    """Test images from the features behind every block, by inverses trained on three kinds of images."""
    start, (images, labels) = time.perf_counter(), run.test
    target, verifier = run.network("ResNet-20"), run.network("ResNet-44")
    chain, judges = partition_network(target), {"ResNet-20": target, "ResNet-44": verifier}
    found = {
        "the images": {f"{name} top-1": accuracy(net, images, labels)["top1"] for name, net in judges.items()},
        "their mean colours": scores(flat(images), images, labels, judges),
    }
    rows, shown = {"test images": first(images, labels)}, {}
    for source in ("synthetic", "recoloured", "real", "noise"):
        for title, inverse in zip(titles(chain), run.inverses(chain, "ResNet-20", source), strict=True):
            made = reconstruct(chain, inverse, images)
            row = found[f"{title}, {source}"] = scores(made, images, labels, judges)
            print(f"{title}, {source}: {told(row)}", flush=True)
            if source == "synthetic":
                rows[title], shown[title] = first(made, labels), f"{sum(row['PSNR']) / len(made):.1f} dB"
    figure = show.image_rows(
        rows, [target.spec.classes[y] for y in SHOWN], columns=len(SHOWN), scale=1.5,
        numbers=shown, numbers_name="PSNR",
    )  # fmt: skip
    show.record(
        "cifar10_dci_depth",
        title="Divide-and-conquer inversion of a ResNet-20 for CIFAR-10: test images from the features of every block",
        config={"synthesis": run.synthesis, "training": run.training, **amounts(run)},
        measured=table(found),
        command=f"{COMMAND} depth{options(run)}",
        seed=0,
        seconds=time.perf_counter() - start + sum(run.earlier.values()),
        device=run.device,
        figure=figure,
        note=f"{len(images)} test images, none seen in training; PSNR is mean and standard deviation over them. "
        f"Inverses learnt from {run.count:,} images that DeepInversion made from the network itself (shown), from the "
        "same with other colours and contrasts, from as many real training images, or from as many of uniform noise, "
        f"each image in {COPIES} flips and shifts; one seed. Each depth as it was at the end of its own stage. The "
        "ResNet-44 has seen neither the inverses nor the features. Scores are of images rounded to 8 bits.",
        overwrite=True,
    )


def apart(made: Tensor, images: Tensor, network: ik.Target) -> float:
    """Distance in features, as LPIPS before its learnt weights: at the ends of the three stages, of unit length."""
    names = ("layer1", "layer2", "layer3")

    def features(x: Tensor) -> Tensor:
        with network.tap(*names) as read:
            found = read(x)
        return torch.cat([F.normalize(found[n]).flatten(1) / found[n][0, 0].numel() ** 0.5 for n in names], 1)

    with torch.no_grad():
        a, b = (in_batches(features, x, 100, network.device) for x in (made, images))
    return float((a - b).square().sum(1).mean()) / len(names)


def methods(run: Run) -> None:
    """The deepest feature map inverted by networks and by optimisation of pixels."""
    start = time.perf_counter()
    target, verifier = run.network("ResNet-20"), run.network("ResNet-44")
    chain, judges = partition_network(target), {"ResNet-20": target, "ResNet-44": verifier}
    layer, depth = "layer3.2", chain.names.index("layer3.2") + 1
    images, labels = (part[:COMPARED] for part in run.test)
    features = ik.layer_features(target, images, layer)
    made: dict[str, Tensor] = {}
    seconds: dict[str, float] = {}
    for source in ("synthetic", "recoloured", "real"):
        inverse = run.inverses(chain, "ResNet-20", source)[depth - 1]
        name = f"DCI, {source} images"
        made[name], seconds[name] = timed(inverse, features)
        if source == "recoloured":
            continue
        generator, result = ik.deepsim(
            target, run.training_images(source), layer, ik.DeePSiMConfig(**DEEPSIM), generator=seeded(0)
        )
        print(f"DeePSiM, {source}: {result.seconds:.0f} s", flush=True)
        name = f"DeePSiM, {source} images"
        made[name], seconds[name] = timed(generator, features)
    for name, settings in PIXELS.items():
        config = ik.FeatureInversionConfig(**settings)
        made[name], seconds[name] = timed(
            lambda f, config=config: ik.feature_inversion(target, f, layer, config, generator=seeded(0)).images,
            features,
        )
    made["their mean colours"] = flat(images)
    found: dict[str, dict[str, Any]] = {}
    for name, pictures in made.items():
        pictures = quantise(pictures)
        again = ik.layer_features(target, pictures, layer)
        found[name] = scores(pictures, images, labels, judges) | {
            "distance in ResNet-44": apart(pictures, images, verifier),
            "feature error": float((again - features).norm() / features.norm()),
        }
        if name in seconds:
            found[name]["seconds per image"] = seconds[name] / len(images)
        print(f"{name}: {told(found[name])}", flush=True)
    figure = show.image_rows(
        {"test images": first(images, labels)} | {name: first(made[name], labels) for name in seconds},
        [target.spec.classes[y] for y in SHOWN], columns=len(SHOWN), scale=2.0,
        numbers={name: f"{sum(found[name]['PSNR']) / len(images):.1f} dB" for name in seconds}, numbers_name="PSNR",
    )  # fmt: skip
    show.record(
        "cifar10_dci_methods",
        title="The last feature map of a ResNet-20 for CIFAR-10 inverted: divide and conquer and other methods",
        config={"training": run.training, "DeePSiM": DEEPSIM, **PIXELS, **amounts(run)},
        measured=table(found),
        command=f"{COMMAND} methods{options(run)}",
        seed=0,
        seconds=time.perf_counter() - start + sum(run.earlier.values()),
        device=run.device,
        figure=figure,
        note=f"{len(images)} test images from the 64 × 8 × 8 features behind the last residual block ({layer}); PSNR "
        "is mean and standard deviation over them, one seed. DCI and DeePSiM learnt from the same images, named in the "
        "row (recoloured: the synthetic ones with other colours and contrasts too); DeepInversion and DeepDream change "
        f"pixels until the features agree, {PIXELS['DeepDream']['steps']} steps for all images together. Weights of "
        "the losses of these three were chosen in a few tries on training images. Seconds are wall time on a shared "
        "machine, of inversion alone, without training. Distance in ResNet-44: mean squared distance of its features "
        "at the ends of three stages, each position of unit length (LPIPS without learnt weights). Feature error: "
        "distance of the features of the result from those given, over their norm.",
        overwrite=True,
    )


def timed(invert: Callable[[Tensor], Tensor], features: Tensor) -> tuple[Tensor, float]:
    """Images of these features, and how long it took."""
    start = time.perf_counter()
    made = invert(features)
    return made.clamp(0, 1), time.perf_counter() - start


def attacks(run: Run) -> None:
    """Inversions of attacked and of randomly changed images, for a standard and for a robust network."""
    start, verifier = time.perf_counter(), run.network("ResNet-44")
    images, labels = (part[:COMPARED] for part in run.test)
    found: dict[str, dict[str, Any]] = {}
    rows = {"test images": first(images, labels)}
    for name, depths in DEPTHS.items():
        target = run.network(name)
        chain = partition_network(target)
        inverses, names = run.inverses(chain, name, "real"), titles(chain)
        changed = {"clean": images}
        for eps in RADII:
            told_radius = f"{round(255 * eps)}/255"
            changed[f"random {told_radius}"] = ik.random_perturbation(images, eps, generator=seeded(0))
            changed[f"PGD {told_radius}"] = ik.pgd(target, images, labels, eps=eps, **ATTACK, generator=seeded(0))
        for depth in depths:
            with torch.no_grad():
                clean = chain.read(images, depth)[-1]
            for kind, pictures in changed.items():
                with torch.no_grad():
                    moved = float((chain.read(pictures, depth)[-1] - clean).norm() / clean.norm())
                made = reconstruct(chain, inverses[depth - 1], pictures)
                row = found[f"{name} {names[depth - 1]}, {kind}"] = {
                    "PSNR to the test image": psnrs(made, images),
                    "PSNR to what was inverted": psnrs(made, pictures),
                    "change of the features": moved,
                    "its top-1 on what was inverted": accuracy(target, pictures, labels)["top1"],
                    "ResNet-44 top-1 on the inversion": accuracy(verifier, made, labels)["top1"],
                }
                print(f"{name} {names[depth - 1]}, {kind}: {told(row)}", flush=True)
                if depth == depths[-1] and kind in ("clean", "random 8/255", "PGD 8/255"):
                    rows[f"{name}, {kind}"] = first(made, labels)
    labelled = [verifier.spec.classes[y] for y in SHOWN]
    figure = show.image_rows(rows, labelled, columns=len(SHOWN), scale=2.0)
    show.record(
        "cifar10_dci_attacks",
        title="Attacked and randomly changed images after inversion, of a standard and of a robust network",
        config={"training": run.training, "radii": RADII, "attack": ATTACK, **amounts(run)},
        measured=table(found),
        command=f"{COMMAND} attacks{options(run)}",
        seed=0,
        seconds=time.perf_counter() - start + sum(run.earlier.values()),
        device=run.device,
        figure=figure,
        note=f"{len(images)} test images; PSNR is mean and standard deviation over them, one seed. Both networks' "
        f"inverses learnt from the same {run.count:,} real training images (the robust network has no batch norms to "
        "make images from). Attacks by PGD on the network itself, within the radius in the maximum norm; random "
        "changes have this size in every pixel and channel. Change of the features: distance from those of the test "
        "images, over their norm, at the depth named. The networks are not of one shape: behind the named blocks the "
        "ResNet-20 has 16,384, 8,192 and 4,096 features, the robust net 4,096, 2,048 and 512. Shown: the last depth of "
        "each, 8/255.",
        overwrite=True,
    )


def amounts(run: Run) -> dict[str, Any]:
    """What the settings do not say."""
    return {
        "images": run.count,
        "synthesis batch": BATCH,
        "copies": COPIES,
        "shift": SHIFT,
        "contrast": CONTRAST,
        "colour": COLOUR,
    }


def options(run: Run) -> str:
    """Of the command that repeats a run."""
    return (
        f" --images {run.count} --synthesis-steps {run.synthesis_steps} --steps {run.steps}"
        f" --fine-tune-steps {run.fine_tune_steps}"
    )


def main() -> None:
    """Read the command line and run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"depth": depth, "methods": methods, "attacks": attacks}
    parser.add_argument("part", choices=tuple(parts))
    parser.add_argument("--images", type=int, default=384, help="training images of each kind")
    parser.add_argument("--synthesis-steps", type=int, default=400, help="steps of DeepInversion at full resolution")
    parser.add_argument("--steps", type=int, default=200, help="training steps of each new inverse")
    parser.add_argument(
        "--fine-tune-steps", type=int, default=100, help="steps of all inverses together, at each depth"
    )
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    folder = Path(os.environ["INVKIT_DATA"])
    sys.path.insert(0, str(folder))
    with tempfile.TemporaryDirectory() as work:
        run = Run(
            data=ik.load_data(f"npz:{folder / 'cifar10_4600.npz'}"), folder=folder,
            work=Path(os.environ.get("INVKIT_WORK", work)), device=given.device, count=given.images,
            synthesis_steps=given.synthesis_steps, steps=given.steps, fine_tune_steps=given.fine_tune_steps,
        )  # fmt: skip
        parts[given.part](run)


if __name__ == "__main__":
    main()
