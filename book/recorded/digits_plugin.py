"""Repeat the recorded run of Plug-In Inversion on digits: architectures, stages, the prior, copies, DeepInversion.

    python book/recorded/digits_plugin.py

It needs no data but the scans of scikit-learn, and has the networks and the settings of chapter 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.book.recording import Run, command_line, recorded_run
from invkit.data.images import quantise
from invkit.metrics import Judge, baselines, central_share, low_frequency_share, saliency

ATTACK: dict[str, Any] = {"eps": 0.1, "attack_steps": 2}
ROBUST = "robust BN-CNN"
ARCHITECTURES: dict[str, tuple[str, int | None, dict[str, Any]]] = {
    "BN-CNN": ("bn_cnn", 16, {}),
    "plain CNN": ("plain_cnn", 16, {}),
    "ViT": ("vit_tiny", None, {}),
    "MLP-Mixer": ("mixer_tiny", None, {"steps": 300, "warmup": 50}),
    ROBUST: ("bn_cnn", 16, ATTACK),
}
STAGES = {
    "neither": {"zoom": False, "centering": False},
    "zoom": {"zoom": True, "centering": False},
    "centering": {"zoom": False, "centering": True},
}
WEIGHTS = (0.0, 0.03, 0.1)  # of the total variation
COPIES = (1, 2, 16)
COPIED_STEPS = 20  # of each stage, where the copies are counted


@dataclass
class Bench:
    """Networks, who judges, and one setting."""

    run: Run
    data: ik.DataSet
    labels: Tensor
    settings: ik.PlugInConfig
    judges: dict[str, ik.Target]

    def invert(self, target: ik.Target, seed: int, **changes: Any) -> Tensor:
        """Two images of each class."""
        config = replace(self.settings, **changes | ({"steps": 1} if self.run.quick else {}))
        return ik.plug_in_inversion(target, self.labels, config, generator=ik.seeded(seed)).images

    def scores(self, target: ik.Target, images: Tensor, labels: Tensor) -> dict[str, float]:
        """What judges recognise, and what zoom, centering and the shifts of colour are to change."""
        judge = Judge(target=target, verifiers=dict(self.judges), real=self.data.test.images)
        found = judge(images, labels)
        return {name: found[name] for name in ("own", *self.judges, "frechet")} | {
            "saliency in the middle": central_share(saliency(target, images, labels)),
            "coarse structure": low_frequency_share(images),
            "colours off": colours_off(images, self.data.heldout.images),
        }

    def note(self, row: str, target: ik.Target, images: Tensor, **more: float) -> None:
        """A row of scores."""
        self.run.row(row, self.scores(target, images, self.labels) | more)

    def alike(self, images: Tensor, starts: Tensor) -> dict[str, float]:
        """Cosine of the verifier's features with those of the images' own starts and of the other of their class."""
        verifier = self.judges["verifier"]
        with torch.no_grad():
            middle = verifier.features(self.data.heldout.images).mean(0)
            ours, theirs = (verifier.features(quantise(batch)) - middle for batch in (images, starts))
        half = len(starts) // 2
        own, other = (F.cosine_similarity(ours, theirs.roll(shift, 0)).mean() for shift in (0, half))
        return {"like own start": float(own), "like other start": float(other)}


def colours_off(images: Tensor, real: Tensor) -> float:
    """Distance of the channels' means and standard deviations from real ones."""
    ours, theirs = (torch.cat(torch.std_mean(batch, (0, 2, 3))) for batch in (images, real))
    return float((ours - theirs).norm())


def trained(run: Run, name: str, data: ik.DataSet, seed: int, width: int | None, **changes: Any) -> ik.Target:
    """A network for the digits, as chapter 3 trains it."""
    config = ik.ClassifierConfig.for_network(name, **changes | run.trial)
    return run.uses(ik.load_or_train(name, data, config, width=width, seed=seed), f"digits, {name}, seed {seed}")


def of_robust(bench: Bench, target: ik.Target, seed: int) -> dict[str, Tensor]:
    """The recipe taken apart on a network; the images of the stages."""
    made = {name: bench.invert(target, seed, **switches) for name, switches in STAGES.items()}
    for name, images in made.items():
        bench.note(f"{ROBUST}, {name}", target, images)
    for tv in WEIGHTS:
        if tv:
            bench.note(f"with ColorShift, TV {tv:g}", target, bench.invert(target, seed, tv=tv))
        without = bench.invert(target, seed, tv=tv, color_shift=False)
        bench.note(f"without ColorShift, TV {tv:g}", target, without)
    for copies in COPIES:
        steps = min(bench.settings.steps, COPIED_STEPS)
        bench.note(f"ensemble of {copies}", target, bench.invert(target, seed, ensemble=copies, steps=steps))
    return made


def with_deepinversion(bench: Bench, target: ik.Target, starts: Tensor, seed: int) -> None:
    """DeepInversion from the images of Plug-In Inversion, and from noise."""
    config = ik.DeepInversionConfig.for_profile("book", steps=1 if bench.run.quick else 100)
    for row, init in {"PII, then DeepInversion": starts, "DeepInversion": None}.items():
        made = ik.deep_inversion(target, bench.labels, config, init=init, generator=ik.seeded(seed)).images
        bench.note(row, target, made, **bench.alike(made, starts))


@recorded_run(smoke={"seeds": 1})
def plugin(run: Run, *, seeds: int = 5) -> None:
    """Five networks of each seed under one setting; then the robust one, with parts of the recipe left out."""
    data = ik.load_data("digits")
    judges = {
        "verifier": trained(run, "repvgg_tiny", data, 1, 16),
        "transformer": trained(run, "vit_tiny", data, 10, None),
    }
    labels = torch.arange(data.spec.n_classes).repeat(2)
    bench = Bench(run, data, labels, ik.PlugInConfig.for_profile("book"), judges)
    real = data.heldout.per_class(2)
    shown: dict[str, Tensor] = {}
    for seed in range(seeds):
        for name, (network, width, changes) in ARCHITECTURES.items():
            target = trained(run, network, data, seed, width, **changes)
            made = bench.invert(target, seed)
            bench.note(name, target, made, **bench.alike(made, made))
            shown.setdefault(name, made[:10])
            if name == "BN-CNN":
                with_deepinversion(bench, target, made, seed)
        for name, images in of_robust(bench, target, seed).items():
            shown.setdefault(f"{ROBUST}, {name}", images[:10])
    guesses = baselines(real.images, real.labels, data.train.images, data.train.labels)
    known = {name: guesses[name] for name in ("class mean", "random training image", "noise")}
    for name, images in (known | {"held-out images": real.images}).items():
        run.row(name, bench.scores(target, images, real.labels))
    run.record(
        "digits_plugin",
        title="Plug-In Inversion on digits: five networks, and its parts on one of them",
        config={"settings": bench.settings, "robust": ATTACK},
        seeds=seeds,
        claims=(
            "pii.universal", "pii.robust", "pii.zoom", "pii.centering", "pii.both", "pii.colorshift-stable",
            "pii.ensemble", "pii.then-di",
        ),
        figure=show.image_rows(
            shown, labels[:10].tolist(), columns=10, numbers_name="verifier",
            numbers={row: f"{run.mean(row, 'verifier'):.0%}" for row in shown},
        ),
        note="Two images of each digit from each network; the seed changes the network and the noise. Own is what the "
        "inverted network reads, the verifier is a RepVGG, the transformer a further ViT, Fréchet the Fréchet distance "
        "to real digits in the verifier's features. Saliency is that of the inverted network, in the middle quarter of "
        "the area; coarse structure the share of variance in periods of eight pixels or more; colours off the distance "
        "of the channels' means and spreads from those of held-out images. Likeness is the cosine of the verifier's "
        "features with those of the image of Plug-In Inversion that DeepInversion began from, and with the other of "
        "its class. The rows on stages, the prior and copies are of the robust network, those on DeepInversion of the "
        f"BN-CNN; ensembles have {COPIED_STEPS} steps a stage. The last rows invert nothing; their own and saliency "
        "are of the last robust network.",
    )  # fmt: skip


if __name__ == "__main__":
    command_line(plugin)
