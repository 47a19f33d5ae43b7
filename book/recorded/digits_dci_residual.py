"""Repeat the recorded run of divide and conquer through a residual network, on digits.

    python book/recorded/digits_dci_residual.py

It needs no data but the scans of scikit-learn.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import invkit as ik
from invkit import show
from invkit.book.recording import Run, command_line, recorded_run
from invkit.metrics import PairJudge, accuracy, baselines
from invkit.partition.chain import Chain, partition_network

SYNTHETIC = 240  # images that the inverses learn from; as many real ones for comparison


def trained(run: Run, name: str, data: ik.DataSet, width: int, seed: int = 0) -> ik.Target:
    """A network for the digits."""
    config = ik.ClassifierConfig.for_network(name, **run.trial)
    return run.uses(ik.load_or_train(name, data, config, width=width, seed=seed), f"digits, {name}")


def drawn(run: Run, target: ik.Target, seed: int) -> Tensor:
    """Images that DeepInversion makes of a network, as chapter 4 draws them."""
    count, steps = (20, 1) if run.quick else (SYNTHETIC, 100)
    config = ik.DeepInversionConfig.for_profile("book", steps=steps, micro_batch=500)
    labels = torch.arange(count) % target.spec.n_classes
    return ik.deep_inversion(target, labels, config, generator=ik.seeded(seed)).images


def inverted(chain: Chain, real: Tensor, images: Tensor, seed: int, config: ik.DCIConfig) -> dict[int, Tensor]:
    """Real images from each depth, as at the end of its own stage, by inverses that learn from ``images``."""
    found: dict[int, Tensor] = {}

    def evaluate(inverse: ik.networks.ChainInverse, depth: int) -> dict[str, float]:
        features = chain.read(real.to(chain.target.device), depth)[-1]
        found[depth] = inverse(features, depth=depth).cpu()
        return {}

    ik.divide_and_conquer(chain, images, config, evaluate=evaluate, generator=ik.seeded(seed))
    return found


@recorded_run(smoke={"seeds": 1, "count": 10})
def residual(run: Run, *, seeds: int = 3, count: int = 100) -> None:
    """Held-out images from behind each residual block but the last, by inverses that learnt from two kinds of image."""
    data = ik.load_data("digits")
    target, verifier = trained(run, "resnet20", data, 8), trained(run, "repvgg_tiny", data, 16, 1)
    chain = partition_network(target)
    last = max(k for k, block in enumerate(chain.blocks, 1) if len(block.outputs) == 3) - 1
    names = {k: f"{k} {block.name}" for k, block in enumerate(chain.blocks[:last], 1)}
    real, labels = data.heldout.images[:count], data.heldout.labels[:count]
    judge = PairJudge(real=real, labels=labels, verifiers={"verifier": verifier})
    trial: dict[str, Any] = {"steps": 1, "fine_tune_steps": 1} if run.quick else {}
    config = ik.DCIConfig.for_profile("ci" if run.quick else "book", stages=last, **trial)
    shown = {"held-out": real[:10]}
    for seed in range(seeds):
        made = drawn(run, target, seed)
        order = torch.randperm(len(data.train), generator=ik.seeded(seed))[: len(made)]
        for kind, images in {"synthetic": made, "real": data.train.images[order]}.items():
            found = inverted(chain, real, images, seed, config)
            for k, name in names.items():
                scores = judge(found[k])
                run.row(f"{name}, {kind}", {"PSNR": scores["psnr"], "verifier": scores["verifier"]})
                if kind == "synthetic":
                    shown.setdefault(f"{name}, {kind}", found[k][:10])
            shown.setdefault(f"{names[last]}, {kind}", found[last][:10])
    for name, guess in baselines(
        real, labels, data.train.images, data.train.labels,
        features=lambda images: chain.read(images.to(target.device), last)[-1].cpu(),
    ).items():  # fmt: skip
        scores = judge(guess)
        run.row(name, {"PSNR": scores["psnr"], "verifier": scores["verifier"]})
    known = accuracy(target, data.heldout.images, data.heldout.labels)["top1"]
    print(f"the network recognises {known:.1%} of the held-out images", flush=True)
    run.record(
        "digits_dci_residual",
        title="A residual network for digits, inverted block by block",
        config={"settings": config, "images": len(made)},
        seeds=seeds,
        claims=("dci.architectures", "dci.plateau"),
        figure=show.image_rows(
            shown, columns=10, numbers={row: f"{run.mean(row, 'PSNR'):.1f}" for row in shown if row in run.measured},
            numbers_name="PSNR",
        ),
        note=f"{len(real)} held-out images; PSNR in dB from behind each cut, at the end of its stage, and what a "
        "network of another architecture recognises. The network is a ResNet-20 of half the usual width. The seed "
        f"changes the inverses and the {len(made)} images that they learn from, drawn from the network by "
        "DeepInversion (synthetic) or taken from the training images (real). The last rows invert nothing; the nearest "
        f"in features are those of the last cut, {names[last].partition(' ')[2]}.",
    )  # fmt: skip


if __name__ == "__main__":
    command_line(residual)
