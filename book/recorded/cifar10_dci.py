"""Repeat the recorded runs of divide-and-conquer inversion: a published ResNet-20 for CIFAR-10, run backwards.

    INVKIT_DATA=FOLDER python book/recorded/cifar10_dci.py depth
    INVKIT_DATA=FOLDER python book/recorded/cifar10_dci.py longer
    INVKIT_DATA=FOLDER python book/recorded/cifar10_dci.py pieces
    INVKIT_DATA=FOLDER python book/recorded/cifar10_dci.py methods
    INVKIT_DATA=FOLDER python book/recorded/cifar10_dci.py rival
    INVKIT_DATA=FOLDER python book/recorded/cifar10_dci.py tuned
    INVKIT_DATA=FOLDER python book/recorded/cifar10_dci.py attacks

The first inverts test images at every block by inverses trained on synthetic, on real and on noise images; the second
trains the first of these longer, the third without one of the pieces of the method; the fourth compares other methods
at the deepest feature map; the fifth gives one of them as many steps as divide and conquer, the sixth tries as many
settings of divide and conquer; the last inverts the features of attacked images, of a standard and of a robust network.

``FOLDER`` holds ``cifar10_4600.npz`` (4,000 training and 600 test images), ``weights/`` with the networks, and
``networks.py`` with the source of the one that is not in the package. ``INVKIT_WORK`` names a folder in which synthetic
images and inverses are kept, for the next part or the next try; without it each part makes what it needs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.attacks import pgd, random_perturbation
from invkit.book.recording import Run, command_line, recorded_run
from invkit.core.config import config_hash
from invkit.data.images import quantise
from invkit.metrics import accuracy, baselines, in_batches, psnr, ssim
from invkit.networks.inverse import ChainInverse
from invkit.partition.chain import Chain, partition_network

RESNET20, RESNET44, ROBUST = "cifar10_resnet20", "cifar10_resnet44", "cifar10_resnet4b_robust"
TITLES = {RESNET20: "ResNet-20", ROBUST: "robust net"}
BATCH = 128  # synthetic images at a time: their statistics are compared with those in the batch norms
COPIES = 2  # of each training image, flipped and shifted by up to SHIFT pixels
SHIFT = 2
TRAINING: dict[str, Any] = {
    "lr": 3e-3, "fine_tune_lr": 5e-4, "restarts": 0, "batch_size": 16, "checkpoint_every": 10_000,
}  # fmt: skip
DEEPSIM: dict[str, Any] = {
    "schedule": "cosine", "batch_size": 16, "lr": 2e-3, "width": 16, "image": 1.0,
}  # fmt: skip
PIXELS: dict[str, Any] = {
    "betas": (0.5, 0.9), "schedule": "cosine", "patience": None, "match": 1.0, "l2": 0.0,
}  # fmt: skip
PENALTY = {"DeepInversion": 0.1, "DeepDream": 0.0}  # weight of the batch-norm statistics beside PIXELS
# What the rivals are tuned over, on training images; divide and conquer takes the settings of ``depth`` as they are.
PIXEL_GRID = {"tv": [0.3, 3.0, 30.0], "lr": [0.03, 0.1]}
DEEPSIM_GRID = {"features": [0.01, 0.1, 1.0], "adversarial": [1.0, 10.0]}
# Around the best of these, which lies at an edge.
WIDER_GRID = {"features": [0.001, 0.003, 0.01], "adversarial": [0.1, 1.0], "lr": [2e-3]}
DCI_GRID = {"lr": [1.5e-3, 3e-3, 6e-3], "cycle": [0.3, 1.0]}
TRIES = 6  # settings of each rival
TUNED_ON = 30  # training images
LAYER = "layer3.2"
DEPTHS = {RESNET20: (4, 7, 10), ROBUST: (1, 3, 5)}
RADII = (2 / 255, 8 / 255)
SHOWN = (0, 1, 3, 6, 7, 8)  # classes in a picture


@dataclass(frozen=True)
class Workshop:
    """What all parts share: the data, the networks, and inverses that are trained once."""

    run: Run
    data: ik.DataSet
    images: int
    synthesis: ik.DeepInversionConfig
    training: ik.DCIConfig

    @property
    def config(self) -> dict[str, Any]:
        """Settings of the inverses and of the images that they learn from."""
        amounts = {"images": self.images, "synthesis batch": BATCH, "copies": COPIES, "shift": SHIFT}
        return {"training": self.training} | amounts

    @property
    def real(self) -> int:
        """How many training images there are to learn from, of those asked for."""
        return min(self.images, len(self.data.train))

    def judges(self) -> dict[str, ik.Target]:
        """The network that is inverted, and a deeper one that has seen neither inverses nor features."""
        return {"ResNet-20": self.run.network(RESNET20), "ResNet-44": self.run.network(RESNET44)}

    def photos(self, count: int) -> tuple[Tensor, Tensor]:
        """The first test images, and their labels; in a trial as many of each class."""
        split = self.data.test.per_class(count // 10) if self.run.quick else self.data.test
        return split.images[:count], split.labels[:count]

    def source(self, name: str) -> Tensor:
        """Images of a source: made by DeepInversion, of the training set as far as it reaches, or uniform noise."""
        if name == "real":
            pool = self.data.train.images
            return pool[torch.randperm(len(pool), generator=ik.seeded(0))[: self.images]]
        if name == "noise":
            return torch.rand(self.images, *self.data.train.images.shape[1:], generator=ik.seeded(0))
        return self.run.synthetic(self.run.network(RESNET20), self.images, self.synthesis, batch_size=BATCH)

    def training_images(self, name: str) -> Tensor:
        """The images of a source, flipped and shifted."""
        return varied(self.source(name), ik.seeded(1))

    def inverses(self, chain: Chain, network: str, source: str, seed: int = 0) -> list[ChainInverse]:
        """Of each depth, as they are at the end of its own stage: later ones change them in favour of theirs.

        Trained end to end there is that of the last depth alone.
        """
        name = f"inverse_{TITLES[network].replace(' ', '_')}_{source}_{seed}"
        folder = self.run.work / f"{name}_{config_hash(self.config)}"  # parts of this script differ in amounts
        last = self.training.stages or len(chain)
        stages = [folder / f"stage_{k:02d}" for k in range(last if self.training.end_to_end else 1, last + 1)]
        log = folder / "seconds.json"
        if log.exists():
            self.run.earlier[folder.name] = float(json.loads(log.read_text()))
        else:
            images = self.training_images(source)
            _, result = ik.divide_and_conquer(
                chain, images, self.training, generator=ik.seeded(seed), checkpoint=folder
            )
            log.write_text(json.dumps(result.seconds))
        return [ChainInverse.load(stage).to(self.run.device) for stage in stages]


def workshop(run: Run, images: int, synthesis_steps: int, steps: int, fine_tune_steps: int) -> Workshop:
    """The workshop of a run, with its amounts; the images are made by DeepInversion's defaults in fewer steps.

    In bfloat16, which is fast on a GPU and on processors that have it; on others it takes many times as long.
    """
    return Workshop(
        run,
        ik.load_data(f"npz:{run.data / 'cifar10_4600.npz'}"),
        images,
        ik.DeepInversionConfig(steps=synthesis_steps, low_resolutions=((0.5, 60),), bf16=True),
        ik.DCIConfig(steps=steps, fine_tune_steps=fine_tune_steps, **TRAINING),
    )


TINY = {"images": 8, "synthesis_steps": 1, "steps": 1, "fine_tune_steps": 1, "test": 10}


@recorded_run(data=True, smoke=TINY | {"seeds": 1})
def depth(
    run: Run, *, images: int = 4000, synthesis_steps: int = 100, steps: int = 300, fine_tune_steps: int = 150,
    test: int = 600, seeds: int = 3,
) -> None:  # fmt: skip
    """Test images from the features behind every block, by inverses trained on three kinds of images."""
    shop = workshop(run, images, synthesis_steps, steps, fine_tune_steps)
    picture = depths(shop, ("synthetic",) if run.quick else ("synthetic", "real", "noise"), test, seeds)
    run.record(
        "cifar10_dci_depth",
        title="Divide-and-conquer inversion of a ResNet-20 for CIFAR-10: test images from the features of every block",
        config={"synthesis": shop.synthesis} | shop.config,
        seeds=seeds,
        claims=DEPTH_CLAIMS,
        figure=picture,
        note=f"{test} test images, none seen in training; PSNR is the mean over them, for each seed of the "
        f"training. Inverses learnt from {images:,} images that DeepInversion made from the network itself (shown), "
        f"from {shop.real:,} real training images, or from as many of uniform noise as of synthetic ones; each image "
        f"in {COPIES} flips and shifts. {AT_EVERY_DEPTH}",
    )


@recorded_run(data=True, smoke=TINY | {"seeds": 1})
def longer(
    run: Run, *, images: int = 4000, synthesis_steps: int = 100, steps: int = 600, fine_tune_steps: int = 300,
    test: int = 600, seeds: int = 3,
) -> None:  # fmt: skip
    """The same by inverses that were trained three times as long, on synthetic images alone."""
    shop = workshop(run, images, synthesis_steps, steps, fine_tune_steps)
    picture = depths(shop, ("synthetic",), test, seeds)
    run.record(
        "cifar10_dci_longer",
        title="Divide-and-conquer inversion of a ResNet-20 for CIFAR-10, trained three times as long",
        config={"synthesis": shop.synthesis} | shop.config,
        seeds=seeds,
        claims=("dci.deep", "dci.plateau", "dci.last-layers", "dci.architectures"),
        figure=picture,
        note=f"{test} test images, none seen in training; PSNR is the mean over them, for each seed of the "
        f"training. Inverses learnt from {images:,} images that DeepInversion made from the network itself, each in "
        f"{COPIES} flips and shifts, with {steps} steps of a stage and {fine_tune_steps} of its fine-tuning. "
        f"{AT_EVERY_DEPTH}",
    )


AT_EVERY_DEPTH = (
    "Each depth as it was at the end of its own stage. The ResNet-44 has seen neither the inverses nor the features. "
    "Scores are of images rounded to 8 bits. The trivial answers run no network backwards: nearest are training images."
)


def depths(shop: Workshop, sources: Sequence[str], test: int, seeds: int) -> show.Canvas:
    """Rows of scores at every depth by inverses of each source and seed, and a picture of the first source's first."""
    run, (photos, labels), judges = shop.run, shop.photos(test), shop.judges()
    chain = partition_network(judges["ResNet-20"])
    run.row("the images", {f"{name} top-1": accuracy(net, photos, labels)["top1"] for name, net in judges.items()})
    train = shop.data.train
    for name, trivial in baselines(photos, labels, train.images, train.labels).items():
        run.row(name, scores(quantise(trivial), photos, labels, judges))
    rows = {"test images": first(photos, labels)}
    for source in sources:
        for seed in range(seeds):
            for title, inverse in zip(titles(chain), shop.inverses(chain, RESNET20, source, seed), strict=True):
                rebuilt = reconstruct(chain, inverse, photos)
                run.row(f"{title}, {source}", scores(rebuilt, photos, labels, judges))
                if source == sources[0] and seed == 0:
                    rows[title] = first(rebuilt, labels)
    numbers = {title: f"{run.mean(f'{title}, {sources[0]}', 'PSNR'):.1f} dB" for title in list(rows)[1:]}
    return show.image_rows(
        rows, class_names(judges), columns=len(SHOWN), scale=1.5, numbers=numbers, numbers_name="PSNR"
    )


DEPTH_CLAIMS = ("dci.shallow", "dci.deep", "dci.plateau", "dci.last-layers", "dci.synthetic-data", "dci.architectures")


@recorded_run(data=True, smoke=TINY | {"seeds": 1})
def pieces(
    run: Run, *, images: int = 4000, synthesis_steps: int = 100, steps: int = 300, fine_tune_steps: int = 150,
    test: int = 600, seeds: int = 3,
) -> None:  # fmt: skip
    """Test images from three depths by inverses that learnt with one piece of the method left out, at equal steps."""
    shop = workshop(run, images, synthesis_steps, steps, fine_tune_steps)
    photos, labels = shop.photos(test)
    judges = shop.judges()
    chain = partition_network(judges["ResNet-20"])
    names, last = titles(chain), DEPTHS[RESNET20][-1]
    kinds = {
        "all of it": shop.training,
        "no cycle loss": replace(shop.training, cycle=0.0),
        "no fine-tuning": shop.training.without_fine_tuning(last),
        "end to end": replace(shop.training, end_to_end=True, stages=last),
    }
    shown = {"test images": first(photos, labels)}
    for seed in range(seeds):
        for kind, training in kinds.items():
            inverses = replace(shop, training=training).inverses(chain, RESNET20, "synthetic", seed)
            for inverse in inverses:
                if (depth := len(inverse)) in DEPTHS[RESNET20]:
                    rebuilt = reconstruct(chain, inverse, photos)
                    run.row(f"{names[depth - 1]}, {kind}", scores(rebuilt, photos, labels, judges))
                    if seed == 0 and depth == last:
                        shown[kind] = first(rebuilt, labels)
    numbers = {kind: f"{run.mean(f'{names[last - 1]}, {kind}', 'PSNR'):.1f} dB" for kind in kinds}
    run.record(
        "cifar10_dci_pieces",
        title="Divide-and-conquer inversion of a ResNet-20 for CIFAR-10 with a piece left out",
        config={"synthesis": shop.synthesis, "without": kinds} | shop.config,
        seeds=seeds,
        claims=("dci.staged", "dci.cycle", "dci.fine-tune"),
        figure=show.image_rows(
            shown, class_names(judges), columns=len(SHOWN), scale=2.0, numbers=numbers, numbers_name="PSNR"
        ),
        note=f"{test} test images, none seen in training; PSNR is the mean over them, for each seed of the training. "
        f"All learnt from the same {images:,} synthetic images, each in {COPIES} flips and shifts. Without "
        f"fine-tuning each stage has as many steps more; end to end all inverses down to {names[last - 1]} (shown) are "
        "trained at once by the image and the cycle loss alone, for as many steps as those stages together, so there "
        "is none of another depth. The ResNet-44 has seen neither the inverses nor the features.",
    )


@recorded_run(data=True, smoke=TINY | {"deepsim_steps": 1, "pixel_steps": 1, "tuning_steps": 1, "seeds": 1})
def methods(
    run: Run, *, images: int = 4000, synthesis_steps: int = 100, steps: int = 300, fine_tune_steps: int = 150,
    test: int = 60, deepsim_steps: int = 600, pixel_steps: int = 1000, tuning_steps: int = 300, seeds: int = 3,
) -> None:  # fmt: skip
    """The deepest feature map inverted by networks and by optimisation of pixels."""
    shop = workshop(run, images, synthesis_steps, steps, fine_tune_steps)
    judges = shop.judges()
    target = judges["ResNet-20"]
    chain = partition_network(target)
    photos, labels = shop.photos(test)
    features = ik.methods.layer_features(target, photos, LAYER)
    tuned = tuned_rivals(shop, target, features, min(deepsim_steps, tuning_steps), min(pixel_steps, tuning_steps))
    deepsim = ik.DeePSiMConfig(**DEEPSIM | tuned.pop("DeePSiM"), steps=deepsim_steps)
    pixels = {
        name: ik.FeatureInversionConfig(**PIXELS | settings, steps=pixel_steps, batch_norm=PENALTY[name])
        for name, settings in tuned.items()
    }
    shown = {"test images": first(photos, labels)}

    def score(name: str, pictures: Tensor, more: Mapping[str, float]) -> None:
        pictures = quantise(pictures)
        again = ik.methods.layer_features(target, pictures, LAYER)
        run.row(name, scores(pictures, photos, labels, judges) | more | {
            "distance in ResNet-44": feature_distance(pictures, photos, judges["ResNet-44"]),
            "feature error": float((again - features).norm() / features.norm()),
        })  # fmt: skip

    def invert(name: str, inverse: Callable[[Tensor], Tensor]) -> None:
        start = time.perf_counter()
        pictures = inverse(features).clamp(0, 1)
        score(name, pictures, {"seconds per image": (time.perf_counter() - start) / len(photos)})
        shown.setdefault(name, first(pictures, labels))

    for seed in range(seeds):
        for source in ("synthetic", "real"):
            inverses = shop.inverses(chain, RESNET20, source, seed)
            invert(f"DCI, {source} images", inverses[chain.names.index(LAYER)])
            learnt, _ = ik.deepsim(target, shop.training_images(source), LAYER, deepsim, generator=ik.seeded(seed))
            invert(f"DeePSiM, {source} images", learnt)
        for name, config in pixels.items():
            invert(
                name,
                lambda f, c=config, k=seed: ik.feature_inversion(target, f, LAYER, c, generator=ik.seeded(k)).images,
            )
    train = shop.data.train
    for name, trivial in baselines(photos, labels, train.images, train.labels).items():
        score(name, trivial, {})
    run.record(
        "cifar10_dci_methods",
        title="The last feature map of a ResNet-20 for CIFAR-10 inverted: divide and conquer and other methods",
        config=shop.config | {"DeePSiM": deepsim} | pixels,
        seeds=seeds,
        claims=("dci.one-pass", "dci.beats-optimisation", "dci.beats-deepsim"),
        figure=sheet(run, shown, judges),
        note=f"{len(photos)} test images from the 64 × 8 × 8 features behind the last residual block ({LAYER}); PSNR "
        "is the mean over them, for each seed of training or of the start. DCI and DeePSiM learnt from the same "
        "images, named in the row; DeepInversion and DeepDream change pixels until the features agree, "
        f"{pixel_steps:,} steps for all images together. Each of these three has the best of "
        f"{TRIES} settings by PSNR on {TUNED_ON} training images; divide and conquer was tried with one. "
        "Seconds are wall time on a shared machine, of inversion alone, without training. Distance "
        "in ResNet-44: mean squared distance of its features at the ends of three stages, each position of unit length "
        "(LPIPS without learnt weights). Feature error: distance of the features of the result from those given, over "
        "their norm.",
    )  # fmt: skip


def best_of(shop: Workshop, target: ik.Target, methods: Mapping[str, Any], evaluated: Tensor) -> Mapping[str, Any]:
    """The settings of each method that come nearest to some training images, in one further seed."""
    sought = shop.data.train.per_class(TUNED_ON // 10).images
    return ik.analysis.tune(
        methods,
        ik.methods.layer_features(target, sought, LAYER),
        lambda made: {"PSNR": psnr(quantise(made), sought)},
        "PSNR",
        tries=1 if shop.run.quick else TRIES,
        evaluation=evaluated,
        seeds=(100,),
    )


def tuned_rivals(
    shop: Workshop, target: ik.Target, evaluated: Tensor, deepsim_steps: int, pixel_steps: int
) -> dict[str, dict[str, Any]]:
    """The settings of each rival that come nearest to some training images, in fewer steps than are judged later."""
    made = shop.training_images("synthetic")

    def by_generator(given: Tensor, generator: torch.Generator, **settings: Any) -> Tensor:
        config = ik.DeePSiMConfig(**DEEPSIM | settings, steps=deepsim_steps)
        return ik.deepsim(target, made, LAYER, config, generator=generator)[0](given).clamp(0, 1)

    def by_pixels(penalty: float, given: Tensor, generator: torch.Generator, **settings: Any) -> Tensor:
        config = ik.FeatureInversionConfig(**PIXELS | settings, steps=pixel_steps, batch_norm=penalty)
        return ik.feature_inversion(target, given, LAYER, config, generator=generator).images

    rivals: dict[str, Any] = {name: (partial(by_pixels, weight), PIXEL_GRID) for name, weight in PENALTY.items()}
    tuned = best_of(shop, target, rivals | {"DeePSiM": (by_generator, DEEPSIM_GRID)}, evaluated)
    return {name: dict(best.settings) for name, best in tuned.items()}


@recorded_run(data=True, smoke={"images": 8, "test": 10, "steps": 2, "tuning_steps": 1, "seeds": 1})
def rival(
    run: Run, *, images: int = 4000, test: int = 60, steps: int = 2900, tuning_steps: int = 600, seeds: int = 3,
) -> None:  # fmt: skip
    """DeePSiM with as many steps as all stages of divide and conquer have, on the same real images."""
    shop = workshop(run, images, 1, 1, 1)
    judges = shop.judges()
    target = judges["ResNet-20"]
    photos, labels = shop.photos(test)
    features = ik.methods.layer_features(target, photos, LAYER)
    learnt_from = shop.training_images("real")

    def learn(given: Tensor, generator: torch.Generator, steps: int = tuning_steps, **settings: Any) -> Tensor:
        config = ik.DeePSiMConfig(**DEEPSIM | settings, steps=steps)
        return ik.deepsim(target, learnt_from, LAYER, config, generator=generator)[0](given).clamp(0, 1)

    best = best_of(shop, target, {"DeePSiM": (learn, WIDER_GRID)}, features)["DeePSiM"]
    print(best.rows, flush=True)
    shown = {"test images": first(photos, labels)}
    for seed in range(seeds):
        for count in (tuning_steps, steps):
            made = quantise(learn(features, ik.seeded(seed), count, **best.settings))
            row = f"DeePSiM, real images, {count:,} steps"
            distance = feature_distance(made, photos, judges["ResNet-44"])
            run.row(row, scores(made, photos, labels, judges) | {"distance in ResNet-44": distance})
            shown.setdefault(row, first(made, labels))
    run.record(
        "cifar10_dci_rival",
        title="The last feature map of a ResNet-20 for CIFAR-10 inverted by DeePSiM in as many steps",
        config={"DeePSiM": DEEPSIM | best.settings, "tried": WIDER_GRID, "images": images, "copies": COPIES},
        seeds=seeds,
        claims=("dci.beats-deepsim",),
        figure=sheet(run, shown, judges),
        note=f"{len(photos)} test images from the features behind the last residual block ({LAYER}), the same as in "
        f"the comparison of methods; learnt from the same {shop.real:,} real training images, each in {COPIES} flips "
        f"and shifts, {DEEPSIM['batch_size']} at a time. The best of {TRIES} settings by PSNR on {TUNED_ON} training "
        f"images, after {tuning_steps:,} steps in one further seed. Divide and conquer has 2,900 steps in that run, "
        "of which those of the early stages train small parts.",
    )  # fmt: skip


@recorded_run(
    data=True, smoke={"images": 8, "test": 10, "steps": 1, "fine_tune_steps": 1, "tuning_steps": 1, "seeds": 1}
)
def tuned(
    run: Run, *, images: int = 4000, test: int = 60, steps: int = 200, fine_tune_steps: int = 100,
    tuning_steps: int = 60, seeds: int = 3,
) -> None:  # fmt: skip
    """Divide and conquer at the best of as many settings as its rivals have, on the same real images."""
    shop = workshop(run, images, 1, steps, fine_tune_steps)
    judges = shop.judges()
    chain = partition_network(judges["ResNet-20"])
    depth = chain.names.index(LAYER) + 1
    photos, labels = shop.photos(test)
    features = features_at(chain, photos, depth)
    learnt_from = shop.training_images("real")

    def learn(
        given: Tensor, generator: torch.Generator, share: float = tuning_steps / steps, **settings: Any
    ) -> Tensor:
        amounts = {"steps": round(share * steps), "fine_tune_steps": max(1, round(share * fine_tune_steps))}
        config = ik.DCIConfig(**TRAINING | amounts | settings, stages=depth)
        inverse, _ = ik.divide_and_conquer(chain, learnt_from, config, generator=generator)
        return inverse(given, depth=depth).clamp(0, 1)

    best = best_of(shop, judges["ResNet-20"], {"DCI": (learn, DCI_GRID)}, features)["DCI"]
    print(best.rows, flush=True)
    shown = {"test images": first(photos, labels)}
    for seed in range(seeds):
        made = quantise(learn(features, ik.seeded(seed), 1.0, **best.settings))
        distance = feature_distance(made, photos, judges["ResNet-44"])
        run.row("DCI, real images", scores(made, photos, labels, judges) | {"distance in ResNet-44": distance})
        shown.setdefault("DCI, real images", first(made, labels))
    run.record(
        "cifar10_dci_tuned",
        title="The last feature map of a ResNet-20 for CIFAR-10 inverted by divide and conquer at its best settings",
        config={"training": shop.training, "best": best.settings, "tried": DCI_GRID, "images": images},
        seeds=seeds,
        claims=("dci.beats-deepsim",),
        figure=sheet(run, shown, judges),
        note=f"{len(photos)} test images from the features behind the last residual block ({LAYER}), the same as in "
        f"the comparison of methods; learnt from the same {shop.real:,} real training images. The best of {TRIES} "
        f"settings by PSNR on {TUNED_ON} training images, after {tuning_steps} + "
        f"{round(tuning_steps / steps * fine_tune_steps)} steps a stage in one further seed; the result has {steps} + "
        f"{fine_tune_steps}.",
    )  # fmt: skip


@recorded_run(
    data=True, smoke={"images": 8, "steps": 1, "fine_tune_steps": 1, "test": 10, "attack_steps": 1, "seeds": 1}
)
def attacks(
    run: Run, *, images: int = 384, steps: int = 200, fine_tune_steps: int = 100, test: int = 60,
    attack_steps: int = 20, seeds: int = 3,
) -> None:  # fmt: skip
    """Inversions of attacked and of randomly changed images, for a standard and for a robust network."""
    shop = workshop(run, images, 1, steps, fine_tune_steps)
    verifier = run.network(RESNET44)
    photos, labels = shop.photos(test)
    rows = {"test images": first(photos, labels)}
    for (name, depths), other in zip(DEPTHS.items(), reversed(DEPTHS), strict=True):
        target, unlike = run.network(name), run.network(other)
        chain = partition_network(target)
        changes = changed(target, photos, labels, attack_steps)
        for seed in range(seeds):
            inverses = shop.inverses(chain, name, "real", seed)
            for depth, (kind, pictures) in product(depths, changes.items()):
                rebuilt = reconstruct(chain, inverses[depth - 1], pictures)
                clean, there = (features_at(chain, x, depth) for x in (photos, pictures))
                run.row(
                    f"{TITLES[name]} {titles(chain)[depth - 1]}, {kind}",
                    {
                        "PSNR to the test image": psnr(rebuilt, photos),
                        "PSNR to what was inverted": psnr(rebuilt, pictures),
                        "change of the features": float((there - clean).norm() / clean.norm()),
                        "its top-1 on what was inverted": accuracy(target, pictures, labels)["top1"],
                        "ResNet-44 top-1 on the inversion": accuracy(verifier, rebuilt, labels)["top1"],
                        "the other net's top-1 on the inversion": accuracy(unlike, rebuilt, labels)["top1"],
                    },
                )
                if seed == 0 and depth == depths[-1] and kind in ("clean", "random 8/255", "PGD 8/255"):
                    rows[f"{TITLES[name]}, {kind}"] = first(rebuilt, labels)
    run.record(
        "cifar10_dci_attacks",
        title="Attacked and randomly changed images after inversion, of a standard and of a robust network",
        config=shop.config | {"radii": RADII, "attack": {"steps": attack_steps}},
        seeds=seeds,
        claims=("dci.adversarial",),
        figure=show.image_rows(rows, class_names({"": verifier}), columns=len(SHOWN), scale=2.0),
        note=f"{len(photos)} test images; PSNR is the mean over them, for each seed of the training. Both networks' "
        f"inverses learnt from the same {shop.real:,} real training images (the robust network has no batch norms to "
        "make images from). Attacks by PGD on the network itself, within the radius in the maximum norm; random "
        "changes have this size in every pixel and channel. Change of the features: distance from those of the test "
        "images, over their norm, at the depth named. The two networks differ in shape: behind the named blocks the "
        "ResNet-20 has 16,384, 8,192 and 4,096 features, the robust net 4,096, 2,048 and 512. The other net is "
        "the one of the two that was not inverted. Shown: the last depth of each, 8/255.",
    )


def changed(target: ik.Target, images: Tensor, labels: Tensor, attack_steps: int) -> dict[str, Tensor]:
    """The images as they are, changed at random, and attacked, with each of the radii."""
    changes = {"clean": images}
    for eps in RADII:
        size = f"{round(255 * eps)}/255"
        changes[f"random {size}"] = random_perturbation(images, eps, generator=ik.seeded(0))
        changes[f"PGD {size}"] = pgd(target, images, labels, eps=eps, steps=attack_steps, generator=ik.seeded(0))
    return changes


def varied(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image, and ``COPIES - 1`` copies of it, flipped at random and shifted with reflected borders."""
    copies, size = [images], images.shape[-1]
    for _ in range(COPIES - 1):
        wide = F.pad(images, (SHIFT,) * 4, mode="reflect")
        places = torch.randint(2 * SHIFT + 1, (len(images), 2), generator=generator).tolist()
        moved = torch.stack([image[:, y : y + size, x : x + size] for image, (y, x) in zip(wide, places, strict=True)])
        flip = torch.rand(len(images), generator=generator) < 0.5
        moved = torch.where(flip[:, None, None, None], moved.flip(3), moved)
        copies.append(moved)
    return torch.cat(copies)


@torch.no_grad()
def features_at(chain: Chain, images: Tensor, depth: int) -> Tensor:
    """Features of images behind the block at this depth."""
    return chain.read(images, depth)[-1]


@torch.no_grad()
def reconstruct(chain: Chain, inverse: ChainInverse, images: Tensor) -> Tensor:
    """Images from their features at the depth of ``inverse``, after rounding to 8 bits."""
    depth = len(inverse)
    return quantise(in_batches(lambda x: inverse(chain.read(x, depth)[-1]), images, 100, chain.target.device))


def scores(rebuilt: Tensor, images: Tensor, labels: Tensor, networks: Mapping[str, ik.Target]) -> dict[str, float]:
    """PSNR (mean over the images), SSIM, and the share of images whose class each network knows."""
    known = {f"{name} top-1": accuracy(network, rebuilt, labels)["top1"] for name, network in networks.items()}
    return {"PSNR": psnr(rebuilt, images), "SSIM": ssim(rebuilt, images), **known}


def feature_distance(rebuilt: Tensor, images: Tensor, network: ik.Target) -> float:
    """Distance in features, as LPIPS before its learnt weights: at the ends of the three stages, of unit length."""
    names = ("layer1", "layer2", "layer3")

    def features(x: Tensor) -> Tensor:
        with network.tap(*names) as read:
            maps = read(x)
        return torch.cat([F.normalize(maps[n]).flatten(1) / maps[n][0, 0].numel() ** 0.5 for n in names], 1)

    with torch.no_grad():
        a, b = (in_batches(features, x, 100, network.device) for x in (rebuilt, images))
    return float((a - b).square().sum(1).mean()) / len(names)


def first(images: Tensor, labels: Tensor) -> Tensor:
    """What is shown: the first image of each of some classes, in 32 levels of a colour, for a picture of few bytes."""
    return images[[labels.tolist().index(label) for label in SHOWN]].mul(31).round().div(31)


def sheet(run: Run, shown: Mapping[str, Tensor], judges: Mapping[str, ik.Target]) -> show.Canvas:
    """Rows of images, with the PSNR of those that were measured."""
    numbers = {name: f"{run.mean(name, 'PSNR'):.1f} dB" for name in shown if name in run.measured}
    return show.image_rows(
        shown, class_names(judges), columns=len(SHOWN), scale=2.0, numbers=numbers, numbers_name="PSNR"
    )


def titles(chain: Chain) -> list[str]:
    """A name for each depth: the first convolution, the residual blocks, the logits."""
    return [f"{k} {name.removesuffix(':input')}" for k, name in enumerate(("conv1", *chain.names[1:]), start=1)]


def class_names(networks: Mapping[str, ik.Target]) -> list[str]:
    """Names of the classes that are shown."""
    classes = next(iter(networks.values())).spec.classes
    return [classes[label] for label in SHOWN]


if __name__ == "__main__":
    command_line(depth, longer, pieces, methods, rival, tuned, attacks)
