"""Repeat the recorded run of what needs no inverse, beside the inverses of a ResNet-20 for CIFAR-10.

    INVKIT_DATA=FOLDER python book/recorded/cifar10_dci_controls.py

It has the test images, attacks and judges of ``cifar10_dci.py``. ``FOLDER`` holds ``cifar10_4600.npz``, ``weights/``
and ``networks.py`` with the source of the robust network.
"""

from __future__ import annotations

import torch
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.attacks import pgd, random_perturbation
from invkit.book.recording import Run, command_line, recorded_run
from invkit.data.images import quantise
from invkit.metrics import accuracy, baselines, psnr
from invkit.partition.chain import partition_network

TITLES = {"cifar10_resnet20": "ResNet-20", "cifar10_resnet4b_robust": "robust net"}
RADII = (2 / 255, 8 / 255)
SHOWN = (0, 1, 3, 6, 7, 8)  # classes in a picture


@recorded_run(data=True, smoke={"test": 10, "attacked": 10, "attack_steps": 1})
def controls(run: Run, *, test: int = 600, attacked: int = 60, attack_steps: int = 20) -> None:
    """Training images that are looked up by features, and what judges read of attacked images as they are."""
    data = ik.load_data(f"npz:{run.data / 'cifar10_4600.npz'}", limit=100 if run.quick else None)
    photos, labels = data.test.images[:test], data.test.labels[:test]
    networks = {title: run.network(name) for name, title in TITLES.items()}
    judges = {"ResNet-44": run.network("cifar10_resnet44")} | networks
    first = torch.tensor([int((labels == k).nonzero()[0]) for k in SHOWN if (labels == k).any()])
    rows = {"test images": photos[first]}
    chain = partition_network(networks["ResNet-20"])
    for depth, name in enumerate(("conv1", *chain.names[1:]), start=1):
        near = looked_up(chain, depth, photos, labels, data.train)
        title = f"{depth} {name.removesuffix(':input')}"
        known = {f"{judge} top-1": accuracy(net, near, labels)["top1"] for judge, net in judges.items()}
        run.row(f"nearest in the features of {title}", {"PSNR": psnr(near, photos)} | known)
        rows[title] = near[first]
    few, theirs = photos[:attacked], labels[:attacked]
    for title, target in networks.items():
        for kind, pictures in changed(target, few, theirs, attack_steps).items():
            known = {f"{judge} top-1": accuracy(net, pictures, theirs)["top1"] for judge, net in judges.items()}
            run.row(f"{title}, {kind}", {"PSNR": psnr(pictures, few)} | known if kind != "clean" else known)
    numbers = {title: f"{run.mean(f'nearest in the features of {title}', 'PSNR'):.1f} dB" for title in list(rows)[1:]}
    run.record(
        "cifar10_dci_controls",
        title="Looked up and not inverted: training images nearest in the features of a ResNet-20 for CIFAR-10",
        config={"radii": RADII, "attack": {"steps": attack_steps}},
        seeds=1,
        figure=show.image_rows(
            rows, [judges["ResNet-44"].spec.classes[k] for k in SHOWN], columns=len(SHOWN), scale=1.5,
            numbers=numbers, numbers_name="PSNR",
        ),
        note=f"{len(photos)} test images; for each the one of {len(data.train):,} training images whose features "
        "behind the block are nearest in Euclidean distance: whoever has the features and such images can find it. "
        f"Below, {len(few)} test images as they are, changed at random and attacked by PGD on the network named, as in "
        "the recorded run on attacks, but not inverted. There is no chance in these numbers.",
    )  # fmt: skip


def looked_up(
    chain: ik.partition.Chain, depth: int, photos: Tensor, labels: Tensor, train: ik.Split
) -> Tensor:  # fmt: skip
    """Of each image the training image whose features behind a block are nearest."""
    found = baselines(photos, labels, train.images, train.labels, features=lambda images: chain.read(images, depth)[-1])
    return quantise(found["nearest in features"])


def changed(target: ik.Target, images: Tensor, labels: Tensor, attack_steps: int) -> dict[str, Tensor]:
    """The images as they are, changed at random, and attacked, with each of the radii."""
    changes = {"clean": images}
    for eps in RADII:
        size = f"{round(255 * eps)}/255"
        changes[f"random {size}"] = random_perturbation(images, eps, generator=ik.seeded(0))
        changes[f"PGD {size}"] = pgd(target, images, labels, eps=eps, steps=attack_steps, generator=ik.seeded(0))
    return changes


if __name__ == "__main__":
    command_line(controls)
