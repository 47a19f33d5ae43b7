"""Repeat the recorded runs on work without data: ranges of a network of few bits, statistics of a pruned one.

    INVKIT_DATA=FOLDER python book/recorded/work_without_data.py int8
    INVKIT_DATA=FOLDER python book/recorded/work_without_data.py pruned

``FOLDER`` holds ``imagenet_photos/``, ``cifar10_4600.npz`` and ``weights/`` with the networks.
"""

from __future__ import annotations

import torch
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.book.recording import Run, command_line, recorded_run
from invkit.data.images import load_image
from invkit.networks import calibrate, move_statistics, prune_weights, quantise_network

BITS = (8, 6, 5, 4)
SHARES = (0.5, 0.7, 0.8, 0.9)


def photographs(run: Run, network: ik.Target) -> tuple[Tensor, Tensor]:
    """All real photographs with their labels, in an order that mixes the classes."""
    files = sorted((run.data / "imagenet_photos").glob("*.jpg"))
    files = [files[i] for i in torch.randperm(len(files), generator=ik.seeded(0)).tolist()]
    names = [file.stem.partition("_")[2].replace("_", " ") for file in files]
    labels = torch.tensor([network.spec.classes.index(name) for name in names])
    return torch.cat([load_image(file, size=network.spec.size) for file in files]), labels


def accuracy(network: ik.Target, images: Tensor, labels: Tensor) -> float:
    """Share of the images that the network gives their label."""
    with torch.no_grad():
        answers = torch.cat([network(part).argmax(1).cpu() for part in images.split(16)])
    return float((answers == labels).float().mean())


@recorded_run(data=True, smoke={"images": 2, "steps": 1, "coarse_steps": 1, "seeds": 1, "tested": 4})
def int8(
    run: Run, *, images: int = 16, steps: int = 60, coarse_steps: int = 40, seeds: int = 3, tested: int = 95
) -> None:
    """EfficientNet-Lite0 with inputs of few bits: their ranges from inverted images, noise or photographs."""
    target = run.network("imagenet_efficientnet_lite0")
    photos, truth = photographs(run, target)
    test, labels = photos[-tested:], truth[-tested:]
    run.row("32 bits", {"top-1": accuracy(target, test, labels)})
    config = ik.DeepInversionConfig(steps=steps, low_resolutions=((0.5, coarse_steps),), micro_batch=8)
    shown: dict[str, Tensor] = {}
    for seed in range(seeds):
        generator = ik.seeded(seed)
        classes = torch.randperm(target.spec.n_classes, generator=generator)[:images]
        sets = {
            "inverted images": ik.deep_inversion(target, classes, config, generator=generator).images,
            "noise": torch.rand(images, *target.spec.shape, generator=generator),
            "real photographs": photos[seed * images :][:images],
        }
        if not shown:
            shown = {name: sets[name][:8] for name in ("inverted images", "noise")}  # photographs stay where they are
        for name, pictures in sets.items():
            scores = {}
            for bits in BITS[:1] if run.quick else BITS:
                scores[f"top-1, {bits} bits"] = accuracy(quantise_network(target, pictures, bits=bits), test, labels)
            run.row(name, scores)
    figure = show.image_rows(shown, columns=8, scale=68 / target.spec.size[0], pixelated=False)
    run.record(
        "work_without_data_int8",
        title=f"EfficientNet-Lite0 quantised: top-1 on {len(test)} real photographs, ranges from {images} images each",
        config={"inversion": config, "bits of inputs": BITS, "bits of weights": 8},
        seeds=seeds,
        figure=figure,
        photographs=True,
        note="Weights of 8 bits by channel, inputs of every convolution and linear layer at the number of bits "
        "given. Each seed "
        "takes ranges from images of its own, and the photographs that give ranges are not among those tested.",
    )


@recorded_run(data=True, smoke={"images": 20, "steps": 1, "test": 20, "seeds": 1})
def pruned(run: Run, *, images: int = 200, steps: int = 200, test: int = 600, seeds: int = 3) -> None:
    """ResNet-20 for CIFAR-10 pruned by magnitude: as it is, and with statistics from images of several origins."""
    data = ik.load_data(f"npz:{run.data / 'cifar10_4600.npz'}")
    target = run.network("cifar10_resnet20")
    real = data.train.images[torch.randperm(len(data.train), generator=ik.seeded(0))]
    photos, labels = data.test.images[:test], data.test.labels[:test]
    run.row("whole network", {"test accuracy": accuracy(target, photos, labels)})
    networks = {share: prune_weights(target, share) for share in SHARES}
    run.row(
        "statistics as stored", {f"{share:.0%} pruned": accuracy(n, photos, labels) for share, n in networks.items()}
    )
    config = ik.DeepInversionConfig(steps=steps, low_resolutions=((0.5, steps // 2 or 1),))
    classes = torch.arange(images) % target.spec.n_classes
    for seed in range(seeds):
        generator = ik.seeded(seed)
        sets = {
            "inverted images": ik.deep_inversion(target, classes, config, generator=generator).images,
            "noise": torch.rand(images, *target.spec.shape, generator=generator),
            "real images": real[seed * images :][:images],
        }
        for name, pictures in sets.items():
            anew, moved = {}, {}
            for share, network in networks.items():
                anew[f"{share:.0%} pruned"] = accuracy(calibrate(network, pictures), photos, labels)
                moved[f"{share:.0%} pruned"] = accuracy(move_statistics(network, target, pictures), photos, labels)
            run.row(f"gathered anew from {name}", anew)
            run.row(f"moved by {name}", moved)
    run.record(
        "work_without_data_pruned",
        title=f"ResNet-20 pruned: accuracy on {len(photos)} real test images, statistics from {images} images each",
        config={"inversion": config, "shares": SHARES},
        seeds=seeds,
        note="All weights ranked by magnitude, none trained after. Statistics as stored, gathered anew, or moved.",
    )


if __name__ == "__main__":
    command_line(int8, pruned)
