"""Who gives no generator gets the same answer each time, and the global random numbers stay where they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import invkit as ik
from invkit import analysis, attacks, data, metrics, networks
from invkit.networks.classifiers import build
from invkit.networks.masked import draw_untrained
from invkit.partition.chain import partition_network
from invkit.testing import quadrants_target, tiny_target

IMAGES = torch.rand(12, 3, 8, 8, generator=ik.seeded(0))
LABELS = torch.arange(12) % 4
FEATURES = torch.randn(40, 5, generator=ik.seeded(1))
DIGITS = data.load_data("digits", size=8, limit=24)
LARGER = data.load_data("digits", limit=24)


def student(channels: int = 3, size: int = 8, classes: int = 4) -> nn.Module:
    """A network with dropout, whose training draws random numbers of its own; always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(channels * size * size, classes))


def weights(thing: Any) -> list[Tensor]:
    module = getattr(thing, "module", thing)
    return list(module.state_dict().values())


def images_of(inverter: Any) -> Tensor:
    return inverter([0, 1, 2, 3])


def leakage(found: Any) -> list[float]:
    return [found.gap, found.low, found.high]


def network_inversion() -> Tensor:
    config = ik.NetworkInversionConfig(steps=2, batch_size=4, width=4)
    return images_of(ik.network_inversion(tiny_target(), config)[0])


def reconstruct() -> Tensor:
    return images_of(
        ik.reconstruct(tiny_target(), ik.ReconstructionConfig(steps=2, batch_size=4, gradient_images=2, width=4))[0]
    )


def garbage() -> list[Tensor]:
    module = student(1, 16, 11)
    config = ik.GarbageConfig(steps=4, warmup=1, batch_size=8, noise=20, per_class=2, inversion_steps=2)
    inversion = ik.NetworkInversionConfig(steps=2, batch_size=4, width=4)
    result, _ = ik.train_with_garbage(module, LARGER, config, inversion, device="cpu")
    return [*weights(module), result.garbage]


def feedforward() -> list[Tensor]:
    config = ik.FeedforwardConfig(steps=2, batch_size=4, width=4, discriminator_steps=1)
    inverse, _ = ik.feedforward_inversion(tiny_target(), IMAGES, config)
    return [inverse(FEATURES[:3, :4]), inverse.draws(FEATURES[:3, :4], 2)]


def divide() -> list[Tensor]:
    config = ik.DCIConfig(steps=2, fine_tune_steps=2, restarts=0, batch_size=4, stages=1)
    return weights(ik.divide_and_conquer(partition_network(tiny_target()), IMAGES, config)[0])


def hidden() -> list[Tensor]:
    module = build("bn_cnn", DIGITS.spec, width=2, seed=0)
    return weights(ik.train_hidden(module, DIGITS, ik.HiddenConfig(steps=2, warmup=1, batch_size=8), device="cpu")[0])


def classifier() -> list[Tensor]:
    module, config = student(1, 8, 10), ik.ClassifierConfig(steps=3, warmup=1, batch_size=8)
    ik.train_classifier(module, DIGITS, config, device="cpu")
    return weights(module)


def gan() -> list[Tensor]:
    config = ik.GANConfig(steps=2, width=4, latent=4, batch_size=4, discriminator_steps=1)
    return weights(ik.train_gan(LARGER, config, device="cpu")[0].generator)


CASES: dict[str, Callable[[], Any]] = {
    # images
    "deep_inversion": lambda: ik.deep_inversion(tiny_target(), [0, 1], ik.DeepInversionConfig(steps=2)).images,
    "class_inversion": lambda: ik.class_inversion(tiny_target(), [0, 1], ik.DeepDreamConfig(steps=2)).images,
    "deep_dream": lambda: (
        ik.deep_dream(tiny_target(), IMAGES[:2], "conv2", ik.DeepDreamConfig(steps=2, octaves=1, jitter=1)).images
    ),
    "plug_in_inversion": lambda: (
        ik.plug_in_inversion(tiny_target(), [0, 1], ik.PlugInConfig.for_profile("ci", steps=2)).images
    ),
    "feature_inversion": lambda: (
        ik.feature_inversion(
            tiny_target(), IMAGES[:2, :1].expand(-1, 4, -1, -1), "conv1", ik.FeatureInversionConfig(steps=2, match=1.0)
        ).images
    ),
    # what learns
    "distil": lambda: weights(
        ik.distil(tiny_target(), student(), IMAGES, LABELS, ik.DistillationConfig(steps=3, warmup=1, batch_size=4))[0]
    ),
    "deepsim": lambda: weights(
        ik.deepsim(tiny_target(), IMAGES, "conv2", ik.DeePSiMConfig(steps=2, batch_size=4, width=4))[0]
    ),
    "feedforward_inversion": feedforward,
    "divide_and_conquer": divide,
    "network_inversion": network_inversion,
    "reconstruct": reconstruct,
    "train_with_garbage": garbage,
    "train_hidden": hidden,
    "train_classifier": classifier,
    "train_gan": gan,
    "sparse_autoencoder": lambda: weights(
        analysis.sparse_autoencoder(FEATURES, ik.SparseAutoencoderConfig(steps=3, codes=8, active=2))[0]
    ),
    # measures and attacks
    "tsne": lambda: analysis.tsne(FEATURES, perplexity=5),
    "cluster_counts": lambda: list(analysis.cluster_counts(FEATURES, LABELS.repeat(4)[:40]).values()),
    "FeaturePlane.fit": lambda: analysis.FeaturePlane.fit(FEATURES).axes,
    "perturb": lambda: analysis.logits.perturb(FEATURES, 1.0),
    "moves": lambda: analysis.logits.moves(FEATURES, 0.5)["perturbed"],
    "baselines": lambda: list(metrics.baselines(IMAGES[:4], LABELS[:4], IMAGES[4:], LABELS[4:]).values()),
    "noise_rate": lambda: [list(row.values()) for row in metrics.noise_rate(tiny_target(), 8).values()],
    "measure_leakage": lambda: leakage(
        metrics.measure_leakage(IMAGES[:4], IMAGES[4:6], IMAGES[6:], verifier=tiny_target())
    ),
    "crossed_leakage": lambda: leakage(
        metrics.crossed_leakage((IMAGES[:3], IMAGES[3:6]), (IMAGES[6:9], IMAGES[9:]), verifier=tiny_target())
    ),
    "pgd": lambda: attacks.pgd(tiny_target(), IMAGES, LABELS, eps=0.1, steps=2),
    "robust_accuracy": lambda: attacks.robust_accuracy(tiny_target(), IMAGES, LABELS, eps=0.02, steps=2),
    "random_perturbation": lambda: attacks.random_perturbation(IMAGES, 0.1),
    # data and networks
    "load_data": lambda: data.load_data("digits", limit=10).train.pixels,
    "gaussian_noise": lambda: data.gaussian_noise(2, tiny_target().spec),
    "photo_patches": lambda: data.photo_patches(2, tiny_target().spec),
    "calibrate": lambda: weights(networks.calibrate(tiny_target(), IMAGES)),
    "build": lambda: weights(build("bn_cnn", DIGITS.spec, width=2, seed=0)),
    "draw_untrained": lambda: weights(draw_untrained(student(), generator=ik.seeded(0))),
    "tiny_target": lambda: weights(tiny_target()),
    "quadrants_target": lambda: weights(quadrants_target()),
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other))
    return torch.equal(one, other) if isinstance(one, Tensor) else one == other


@pytest.mark.parametrize("call", CASES.values(), ids=CASES)
def test_the_same_each_time_and_nobody_elses_numbers_move(call: Callable[[], Any]) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    first = call()
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()  # type: ignore[index]
    torch.manual_seed(2)
    np.random.seed(2)
    assert same(call(), first)
