"""Repeat the recorded run of chapter 4's comparison on digits, with as many settings tried for each method.

    python book/recorded/digits_dci.py

It needs no data but the scans of scikit-learn. Settings are sought on test images, the numbers are of held-out ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.analysis.grid import Grid
from invkit.book.recording import Run, command_line, recorded_run
from invkit.metrics import PairJudge, baselines, psnr

PIXEL_GRID: Grid = {"tv": [0.03, 0.1, 0.3], "lr": [0.1, 0.3]}
DEEPSIM_GRID: Grid = {"features": [0.03, 0.1, 0.3], "adversarial": [0.3, 1.0]}
DCI_GRID: Grid = {"lr": [2e-3, 4e-3, 8e-3], "cycle": [0.3, 1.0]}
PENALTY = {"DeepDream": 0.0, "DeepInversion": 0.1}  # weight of the batch-norm statistics
TRIES = 6
TUNED_ON = 30
SOUGHT = 100  # seed of the tuning, so that none is evaluated


@dataclass
class Bench:
    """A network for digits, the layer that is inverted, and images that the learned methods learn from."""

    run: Run
    target: ik.Target
    layer: str
    depth: int
    synthetic: dict[int, Tensor] = field(default_factory=dict)

    def images(self, seed: int) -> Tensor:
        """Images drawn from the network, as the chapter draws them."""
        if seed not in self.synthetic:
            count, steps = (20, 1) if self.run.quick else (240, 100)
            config = ik.DeepInversionConfig.for_profile("book", steps=steps, micro_batch=500)
            labels = torch.arange(count) % self.target.spec.n_classes
            drawn = ik.deep_inversion(self.target, labels, config, generator=ik.seeded(seed))
            self.synthetic[seed] = drawn.images
        return self.synthetic[seed]

    def pixels(self, name: str, features: Tensor, seed: int, settings: dict[str, Any]) -> Tensor:
        """Pixels changed until the features fit."""
        config = ik.FeatureInversionConfig.for_profile(
            "ci" if self.run.quick else "book", batch_norm=PENALTY[name], **settings
        )
        return ik.feature_inversion(self.target, features, self.layer, config, generator=ik.seeded(seed)).images

    def learn(self, name: str, seed: int, settings: dict[str, Any]) -> Callable[[Tensor], Tensor]:
        """A network that inverts, taught by images that were drawn with the same seed."""
        preset = "ci" if self.run.quick else "book"
        if name == "DeePSiM":
            config = ik.DeePSiMConfig.for_profile(preset, **settings)
            return ik.deepsim(self.target, self.images(seed), self.layer, config, generator=ik.seeded(seed))[0]
        chain = ik.partition.partition_network(self.target)
        dci = ik.DCIConfig.for_profile(preset, stages=self.depth, **settings)
        inverse, _ = ik.divide_and_conquer(chain, self.images(seed), dci, generator=ik.seeded(seed))
        return partial(inverse, depth=self.depth)


def sought(bench: Bench, images: Tensor, evaluated: Tensor) -> dict[str, dict[str, Any]]:
    """The settings of each method that come nearest to some test images."""

    def optimised(name: str, given: Tensor, generator: torch.Generator, **settings: Any) -> Tensor:
        return bench.pixels(name, given, SOUGHT, settings)

    def learnt(name: str, given: Tensor, generator: torch.Generator, **settings: Any) -> Tensor:
        return bench.learn(name, SOUGHT, settings)(given).clamp(0, 1)

    tuned = ik.analysis.tune(
        {
            "DeepDream": (partial(optimised, "DeepDream"), PIXEL_GRID),
            "DeepInversion": (partial(optimised, "DeepInversion"), PIXEL_GRID),
            "DeePSiM": (partial(learnt, "DeePSiM"), DEEPSIM_GRID),
            "DCI": (partial(learnt, "DCI"), DCI_GRID),
        },
        ik.methods.layer_features(bench.target, images, bench.layer),
        lambda made: {"PSNR": psnr(made, images)},
        "PSNR",
        tries=1 if bench.run.quick else TRIES,
        evaluation=evaluated,
    )
    return {name: dict(best.settings) for name, best in tuned.items()}


@recorded_run(smoke={"seeds": 1, "count": 10})
def methods(run: Run, *, seeds: int = 3, count: int = 100) -> None:
    """The last feature map of a network for digits, inverted by four methods with six settings tried for each."""
    data = ik.load_data("digits")
    networks = {
        name: ik.load_or_train(
            name, data, ik.ClassifierConfig.for_network(name, **run.trial), width=16, seed=seed
        )
        for name, seed in {"bn_cnn": 0, "repvgg_tiny": 1}.items()
    }  # fmt: skip
    target, verifier = (
        run.uses(networks["bn_cnn"], "digits, bn_cnn"),
        run.uses(networks["repvgg_tiny"], "digits, judge"),
    )
    chain = ik.partition.partition_network(target)
    depth = max(k for k, block in enumerate(chain.blocks, 1) if len(block.outputs) == 3)
    bench = Bench(run, target, chain.names[depth - 1], depth)
    real, labels = data.heldout.images[:count], data.heldout.labels[:count]
    features = ik.methods.layer_features(target, real, bench.layer)
    settings = sought(bench, data.test.per_class(TUNED_ON // 10).images, features)
    judge = PairJudge(real=real, labels=labels, verifiers={"verifier": verifier})
    shown = {"held-out": real[:10]}

    def score(name: str, images: Tensor, more: dict[str, float]) -> None:
        scores = judge(images)
        run.row(name, {"PSNR": scores["psnr"], "SSIM": scores["ssim"], "verifier": scores["verifier"]} | more)
        shown.setdefault(name, images[:10])

    for seed in range(seeds):
        for name, chosen in settings.items():
            start = time.process_time()
            if name in PENALTY:
                images, training = bench.pixels(name, features, seed, chosen), 0.0
            else:
                bench.images(seed)
                start = time.process_time()
                inverse = bench.learn(name, seed, chosen)
                training, start = time.process_time() - start, time.process_time()
                images = inverse(features).clamp(0, 1)
            spent = time.process_time() - start
            score(name, images, {"ms per image": 1000 * spent / len(real), "seconds of training": training})
    train = data.train
    guesses = baselines(
        real, labels, train.images, train.labels,
        features=lambda images: ik.methods.layer_features(target, images, bench.layer),
    )  # fmt: skip
    for name, images in guesses.items():
        score(name, images, {})
    run.record(
        "digits_dci",
        title="The last feature map of a network for digits inverted by four methods, six settings tried for each",
        config={
            "tried": {"DeepDream, DeepInversion": PIXEL_GRID, "DeePSiM": DEEPSIM_GRID, "DCI": DCI_GRID},
            "chosen": settings,
        },
        seeds=seeds,
        claims=("dci.one-pass", "dci.beats-optimisation", "dci.beats-deepsim"),
        figure=show.image_rows(
            shown, columns=10, numbers={name: f"{run.mean(name, 'PSNR'):.1f}" for name in run.measured},
            numbers_name="PSNR",
        ),
        note=f"{len(real)} held-out images from the features behind the last convolution ({bench.layer}); the seed "
        f"changes what is drawn, trained and started from, not the network. Each method has the best of {TRIES} "
        f"settings by PSNR on {TUNED_ON} test images, in one further seed. Time is the processor's; synthesis of "
        "images to learn from, which both learned methods need, is not counted.",
    )  # fmt: skip


if __name__ == "__main__":
    command_line(methods)
