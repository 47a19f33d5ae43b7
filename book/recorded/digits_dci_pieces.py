"""Repeat the recorded run of what each piece of divide and conquer is worth, on digits.

    python book/recorded/digits_dci_pieces.py

It needs no data but the scans of scikit-learn, and has the target, the images and the settings of chapter 4.
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

DEPTHS = (2, 4)  # beside the last convolution
ROBUST: dict[str, Any] = {"eps": 0.1, "attack_steps": 2}


def trained(run: Run, name: str, data: ik.DataSet, seed: int = 0, **changes: Any) -> ik.Target:
    """A network for the digits, as the chapter trains it."""
    config = ik.ClassifierConfig.for_network(name, **changes | run.trial)
    network = ik.load_or_train(name, data, config, width=16, seed=seed)
    return run.uses(network, f"digits, {name}{' robust' if changes else ''}")


def drawn(run: Run, target: ik.Target, seed: int) -> Tensor:
    """Images that DeepInversion makes of a network."""
    count, steps = (20, 1) if run.quick else (240, 100)
    config = ik.DeepInversionConfig.for_profile("book", steps=steps, micro_batch=500)
    labels = torch.arange(count) % target.spec.n_classes
    return ik.deep_inversion(target, labels, config, generator=ik.seeded(seed)).images


@recorded_run(smoke={"seeds": 1, "count": 10})
def pieces(run: Run, *, seeds: int = 3, count: int = 100) -> None:
    """Held-out images from three depths: pieces left out, other training images, and a robust network."""
    data = ik.load_data("digits")
    target, verifier = trained(run, "bn_cnn", data), trained(run, "repvgg_tiny", data, 1)
    robust = trained(run, "bn_cnn", data, **ROBUST)
    chain = partition_network(target)
    last = max(k for k, block in enumerate(chain.blocks, 1) if len(block.outputs) == 3)
    depths = (*DEPTHS, last)
    real, labels = data.heldout.images[:count], data.heldout.labels[:count]
    judge = PairJudge(real=real, labels=labels, verifiers={"verifier": verifier})
    preset = "ci" if run.quick else "book"
    trial = {"steps": 1, "fine_tune_steps": 1} if run.quick else {}
    alone = ik.DCIConfig.for_profile(preset).without_fine_tuning(last)
    shown = {"held-out": real[:10]}

    def invert(row: str, chain: Chain, images: Tensor, seed: int, **changes: Any) -> None:
        found: dict[int, Tensor] = {}

        def evaluate(inverse: ik.networks.ChainInverse, depth: int) -> dict[str, float]:
            features = chain.read(real.to(chain.target.device), depth)[-1]
            found[depth] = inverse(features, depth=depth).cpu()
            return {}

        config = ik.DCIConfig.for_profile(preset, stages=last, **changes | trial)
        ik.divide_and_conquer(chain, images, config, evaluate=evaluate, generator=ik.seeded(seed))
        numbers = {f"depth {k}": judge(found[k])["psnr"] for k in depths if k in found}
        run.row(row, numbers | {"verifier": judge(found[last])["verifier"]})
        shown.setdefault(row, found[last][:10])

    for seed in range(seeds):
        made = drawn(run, target, seed)
        invert("all of it", chain, made, seed)
        invert("no cycle loss", chain, made, seed, cycle=0.0)
        invert("no fine-tuning", chain, made, seed, fine_tune=False, steps=alone.steps)
        invert("end to end", chain, made, seed, end_to_end=True)
        order = torch.randperm(len(data.train), generator=ik.seeded(seed))
        invert("learnt from real images", chain, data.train.images[order[: len(made)]], seed)
        invert("learnt from noise", chain, torch.rand(made.shape, generator=ik.seeded(seed)), seed)
        invert("robust network", partition_network(robust), drawn(run, robust, seed), seed)
    for name, guess in baselines(
        real, labels, data.train.images, data.train.labels,
        features=lambda images: ik.methods.layer_features(target, images, chain.names[last - 1]),
    ).items():  # fmt: skip
        scores = judge(guess)
        run.row(name, {f"depth {last}": scores["psnr"], "verifier": scores["verifier"]})
    for name, network in {"all of it": target, "robust network": robust}.items():
        known = accuracy(network, data.heldout.images, data.heldout.labels)["top1"]
        print(f"{name}: the network recognises {known:.1%} of the held-out images", flush=True)
    run.record(
        "digits_dci_pieces",
        title="Divide and conquer on digits: a piece left out, other images to learn from, a robust network",
        config={"settings": ik.DCIConfig.for_profile(preset, stages=last), "robust": ROBUST},
        seeds=seeds,
        claims=("dci.staged", "dci.cycle", "dci.fine-tune", "dci.synthetic-data"),
        figure=show.image_rows(
            shown, columns=10, numbers={row: f"{run.mean(row, f'depth {last}'):.1f}" for row in run.measured},
            numbers_name="PSNR",
        ),
        note=f"{len(real)} held-out images; PSNR in dB from three depths, each at the end of its stage, and what "
        "a network of another architecture recognises of the images from the last convolution (shown). The seed "
        "changes the inverses and the images that they learn from, 240 of each kind. Without a piece there are as many "
        "steps; end to end all inverses are trained at once, by the image and the cycle loss alone, so there is none "
        "of another depth. The robust network is of the same architecture and learnt under attacks of up to 0.1; its "
        "inverses learnt from images drawn from it. The last rows invert nothing.",
    )  # fmt: skip


if __name__ == "__main__":
    command_line(pieces)
