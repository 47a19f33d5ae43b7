"""Repeat the recorded runs of chapter 2 on digits: hidden and dense networks, inverted by the report's text and code.

    python book/recorded/digits_hidden_inversion.py text
    python book/recorded/digits_hidden_inversion.py code

They need no data but the scans of scikit-learn, and have the networks, the judges and the settings of chapter 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor

import invkit as ik
from invkit.book.recording import Run, command_line, recorded_run
from invkit.metrics import accuracy, baselines, low_frequency_share, stretch_contrast
from invkit.networks import calibrate, without_statistics

NETWORK, WIDTH, INVERTED, SHARES = "bn_cnn", 16, 50, (30, 50)
# A random mask learns nothing but running statistics, for which fewer steps are enough.
RANDOM: dict[str, Any] = {"lr": 1e-9, "steps": 60, "warmup": 0}
JUDGES: dict[str, tuple[str, int | None]] = {
    "verifier": ("repvgg_tiny", 16),
    "transformer": ("vit_tiny", None),
    "twin": ("plain_cnn", 16),
}
TEXT = {"cross_entropy": 1.0, "tv": 8e-3, "l2": 1e-5, "batch_norm": 1e-2}
WITHOUT: dict[str, Any] = {"batch_norm": 0.0}
# By row: the network, whether it has statistics, and what is otherwise than in `reported_inversion`.
CODE: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "hidden: nowhere": ("hidden", False, WITHOUT),
    "dense: nowhere": ("dense", False, WITHOUT),
    "hidden: in network": ("hidden", True, WITHOUT),
    "hidden: in loss": ("hidden", True, {}),
    "nowhere, grey start": ("hidden", False, WITHOUT | {"loud": False}),
    "nowhere, TV 8e-3": ("hidden", False, WITHOUT | {"tv": 8e-3}),
    "nowhere, logit": ("hidden", False, WITHOUT | {"cross_entropy": 0.0, "class_logit": 1.0}),
    "nowhere, T = 30": ("hidden", False, WITHOUT | {"cross_entropy": 30.0, "temperature": 30.0}),
}


class Setting(NamedTuple):
    """The digits, who judges, and the classes of the images that are made."""

    run: Run
    data: ik.DataSet
    judges: Mapping[str, ik.Target]
    labels: Tensor

    @property
    def real(self) -> Tensor:
        """Images that no network has seen, one for each label."""
        classes = range(self.data.spec.n_classes)
        of_class = [self.data.heldout.of_class(label).images for label in classes]
        each = len(self.labels) // len(of_class)
        return torch.stack([images[:each] for images in of_class], 1).flatten(0, 1)

    def recognised(self, judge: str, images: Tensor) -> float:
        """The share of images that a judge recognises."""
        return accuracy(self.judges[judge], ik.data.quantise(images), self.labels)["top1"]

    def row(self, name: str, images: Tensor, **more: float) -> None:
        """What the judges recognise of images as a file holds them, and how coarse and how pale these are."""
        scores = {judge: self.recognised(judge, images) for judge in self.judges}
        both = fmean((scores["verifier"], scores["transformer"]))
        seen = {"both": both, "low frequencies": low_frequency_share(images), "contrast": float(images.std())}
        self.run.row(name, more | scores | seen)


def setting(run: Run, *judging: str) -> Setting:
    """The data and the judges as the chapter has them."""
    data = ik.load_data("digits")
    judges = {judge: dense(run, data, 1, *JUDGES[judge]) for judge in judging}
    for judge, network in judges.items():
        run.uses(network, f"digits, {judge} of chapter 2")
    return Setting(run, data, judges, torch.arange(data.spec.n_classes).repeat(2))


def dense(run: Run, data: ik.DataSet, seed: int, name: str = NETWORK, width: int | None = WIDTH) -> ik.Target:
    """A trained network."""
    return ik.load_or_train(name, data, ik.ClassifierConfig.for_network(name, **run.trial), width=width, seed=seed)


def hidden(run: Run, data: ik.DataSet, seed: int, **changes: Any) -> ik.Target:
    """A network hidden in random weights."""
    config = ik.HiddenConfig.for_profile("book", **changes | run.trial)
    return ik.methods.load_or_train_hidden(NETWORK, data, config, width=WIDTH, seed=seed)


def both_kinds(here: Setting, seed: int) -> dict[str, ik.Target]:
    """The networks of one seed that are inverted."""
    run, data = here.run, here.data
    networks = {"dense": dense(run, data, seed), "hidden": hidden(run, data, seed, k=INVERTED)}
    for kind, network in networks.items():
        run.uses(network, f"digits, {kind} of chapter 2")
    return networks


def read(network: ik.Target, split: ik.Split) -> float:
    """The share of images that a network recognises."""
    return accuracy(network, split.images, split.labels)["top1"]


@recorded_run(smoke={"seeds": 1, "steps": 1})
def text(run: Run, *, seeds: int = 3, steps: int = 100) -> None:
    """What the networks read, and their inversion with the loss of the report's text and by Plug-In Inversion."""
    here = setting(run, "verifier", "transformer")
    data = here.data
    in_loss = ik.DeepInversionConfig.for_profile("book", steps=steps, **TEXT)
    in_network = replace(in_loss, batch_norm=0.0)
    plug_in = ik.PlugInConfig.for_profile("book", steps=1 if run.quick else 20)
    for seed in range(seeds):
        networks = both_kinds(here, seed)
        bare = {kind: without_statistics(network) for kind, network in networks.items()}
        what_they_read(here, networks, seed)
        for kind, network in networks.items():
            invert(here, f"{kind}: in loss", network, in_loss, seed)
            invert(here, f"{kind}: in network", network, in_network, seed)
            invert(here, f"{kind}: nowhere", bare[kind], in_network, seed)
        without = {f"{kind}: nowhere": bare[kind] for kind in ("hidden", "dense")}
        plugged = {}
        for place, network in ({"hidden: in network": networks["hidden"]} | without).items():
            plugged[place] = ik.plug_in_inversion(network, here.labels, plug_in, generator=ik.seeded(seed)).images
            here.row(f"Plug-In, {place}", plugged[place])
        for source, images in sources(data, plugged["hidden: nowhere"], seed).items():
            network = calibrate(bare["hidden"], images)
            run.row(f"statistics of {source}", {"own accuracy": read(network, data.test)})
            invert(here, f"statistics of {source}", network, in_loss, seed)
    guesses = baselines(here.real, here.labels, data.train.images, data.train.labels)
    here.row("class mean", guesses["class mean"])
    here.row("real images", here.real)
    run.record(
        "digits_hidden_text",
        title="Networks hidden in random weights, digits: what they read, and inversions with the loss of the text",
        config={"settings": in_loss, "Plug-In": plug_in, "k inverted": INVERTED},
        seeds=seeds,
        claims=("hid.subnetwork",),
        note=f"{seeds} seeds of networks and noise, {len(here.labels)} images each. Accuracy: on {len(data.test)} test "
        "images. Hidden, random masks: at the share of weights (k, in percent) chosen, for each seed, on "
        f"{len(data.heldout)} held-out images; the one inverted keeps {INVERTED}%. Statistics: in the loss, in the "
        "network alone, or nowhere; statistics of noise, of synthetic images (Plug-In Inversion of the same network "
        "without statistics) and of real ones were gathered anew, and are in the loss; own accuracy: of the network "
        "with them, on the test images. The judges are of other architectures, a small convolutional network and a "
        "transformer; both is their mean, stretched: once each image's contrast is stretched. low frequencies: share "
        "of the variance; contrast: standard deviation of the pixels. The last two rows invert nothing.",
    )


def invert(here: Setting, row: str, network: ik.Target, config: ik.DeepInversionConfig, seed: int) -> None:
    """A row of one inversion, and what the verifier recognises once the contrast is stretched."""
    made = ik.deep_inversion(network, here.labels, config, generator=ik.seeded(seed)).images
    here.row(row, made, **{"verifier, stretched": here.recognised("verifier", stretch_contrast(made))})


def what_they_read(here: Setting, networks: Mapping[str, ik.Target], seed: int) -> None:
    """Accuracy on test images, of hidden networks and random masks at the share that is best on held-out images."""
    run, data = here.run, here.data
    run.row("dense", {"accuracy": read(networks["dense"], data.test)})
    found = {share: hidden(run, data, seed, k=share) for share in SHARES}
    share = max(found, key=lambda share: read(found[share], data.heldout))
    run.row("hidden", {"accuracy": read(found[share], data.test), "k chosen": share})
    run.row("random masks", {"accuracy": read(hidden(run, data, seed, k=share, **RANDOM), data.test)})


def sources(data: ik.DataSet, synthetic: Tensor, seed: int) -> dict[str, Tensor]:
    """Images that statistics are gathered from."""
    order = torch.randperm(len(data.train), generator=ik.seeded(seed))
    return {
        "noise": torch.rand(200, *data.spec.shape, generator=ik.seeded(seed)),
        "synthetic images": synthetic,
        "real images": data.train[order[:200]].images,
    }


@recorded_run(smoke={"seeds": 1, "steps": 1})
def code(run: Run, *, seeds: int = 3, steps: int = 250) -> None:
    """Hidden and dense networks inverted with the settings of the report's code, by place of the statistics."""
    here = setting(run, *JUDGES)
    for seed in range(seeds):
        networks = both_kinds(here, seed)
        for row, (kind, tracked, changes) in CODE.items():
            network = networks[kind] if tracked else without_statistics(networks[kind])
            config = ik.methods.reported_inversion(len(here.labels), steps=steps, **changes)
            here.row(row, ik.deep_inversion(network, here.labels, config, generator=ik.seeded(seed)).images)
        here.row("pure noise", torch.rand(len(here.labels), *here.data.spec.shape, generator=ik.seeded(seed)))
    here.row("real images", here.real)
    run.record(
        "digits_hidden_code",
        title="Networks hidden in random weights, digits: inversions with the settings of the report's code",
        config={"steps": steps, "k": INVERTED} | {row: changes for row, (_, _, changes) in CODE.items()},
        seeds=seeds,
        claims=("hid.noise", "hid.why-statistics", "hid.why-cross-entropy"),
        note=f"{seeds} seeds of networks and noise, {len(here.labels)} images each. Statistics: in the loss, in the "
        "network alone, or nowhere; then, of the hidden network without statistics, a grey start, a heavier total "
        "variation for each image, and other objectives. Judges are of other architectures (the twin is the inverted "
        "one's without batch norm, and no judge), both is the mean of verifier and transformer. low frequencies: "
        "share of the variance; contrast: standard deviation of the pixels.",
    )


if __name__ == "__main__":
    command_line(text, code)
