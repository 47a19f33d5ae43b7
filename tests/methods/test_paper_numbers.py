"""The numbers that the papers name, against what the profile ``paper`` runs with."""

import pytest

import invkit.methods
from invkit.core.config import Config
from invkit.engine.gan import GANConfig
from invkit.methods.dci import DCIConfig
from invkit.methods.deepdream import DeepDreamConfig
from invkit.methods.deepinversion import DeepInversionConfig
from invkit.methods.deepsim import DeePSiMConfig
from invkit.methods.distillation import DistillationConfig
from invkit.methods.feature_inversion import FeatureInversionConfig
from invkit.methods.feedforward import FeedforwardConfig
from invkit.methods.garbage_class import GarbageConfig
from invkit.methods.hidden import HiddenConfig
from invkit.methods.network_inversion import NetworkInversionConfig
from invkit.methods.plugin import PlugInConfig
from invkit.methods.reconstruction import ReconstructionConfig

NAMED = {
    # Botach & Cohen (2021): defaults of the options in §3.2, weights of §5.1.
    DeepInversionConfig: {
        "steps": 20_000, "jitter": 30, "tv": 8e-3, "l2": 1e-5, "batch_norm": 1e-2, "form": "norm", "normalised": True,
        "flip": 0.5, "temperature": 1.0, "lr": 0.2, "roughness": 0.0, "per_image": 0.0,
    },
    # §2.3 of the same: the share of weights of the networks that they invert.
    HiddenConfig: {"k": 30.0, "init": "signed_constant", "optimizer": "sgd"},
    # Ghiasi et al. (2021), §4: seven stages of 400 steps, Adam, cosine, shifts of up to 1, 32 copies; no prior.
    PlugInConfig: {
        "stages": 7, "steps": 400, "lr": 0.01, "betas": (0.5, 0.99), "schedule": "cosine", "alpha": 1.0, "beta": 1.0,
        "ensemble": 32, "redraw": 1, "tv": 0.0, "zoom": True, "centering": True,
    },
    # Dong et al. (2021), App. A.1: 3,000 steps of each phase, their rates, three warm restarts. For the cycle loss they
    # name the purpose of its weight, a similar magnitude, beside its value for their networks.
    DCIConfig: {
        "steps": 3000, "fine_tune_steps": 3000, "lr": 1e-3, "fine_tune_lr": 1e-4, "restarts": 3, "cycle": 1.0,
        "means": False, "fine_tune": True, "end_to_end": False,
    },
    # Their rivals (ibid.): setting 2 of Yin et al. (2020), features weighed to a similar magnitude.
    FeatureInversionConfig: {
        "steps": 20_000, "match": 1e-3, "tv": 1e-4, "l2": 1e-2, "batch_norm": 1e-2, "normalised": True, "jitter": 0,
    },
    # Dosovitskiy & Brox (2016), §3 and §4, for AlexNet; pixels there reach 255.
    DeePSiMConfig: {
        "steps": 500_000, "batch_size": 64, "lr": 2e-4, "betas": (0.9, 0.999), "image": 2e-6 * 255**2,
        "features": 0.01, "adversarial": 100.0, "pause_ratio": 0.1, "schedule": "constant",
    },
    # The generator that they invert (ibid.): SNGAN's codes.
    GANConfig: {"latent": 128},
    # Suhail & Sethi (2024), §3.2, §4: what is told of the class; heavy dropout. They name no weight of the loss.
    NetworkInversionConfig: {"conditioning": "vector-matrix", "dropout": 0.5},
    ReconstructionConfig: {"conditioning": "vector-matrix", "dropout": 0.5},
    # Teterwak et al. (2021), §3, and BigGAN, which they build on.
    FeedforwardConfig: {
        "latent": 120, "width": 96, "discriminator_steps": 2, "lr_generator": 5e-5, "lr_discriminator": 2e-4,
        "betas": (0.0, 0.999), "ema": 0.9999, "projection": True,
    },
}  # fmt: skip

# DeepDream is a blog post; the report does not say how its student learnt, Suhail & Sethi not for how long.
UNNAMED = {DeepDreamConfig, DistillationConfig, GarbageConfig}


def test_every_method_has_its_numbers_here_or_is_known_to_have_none():
    exported = {value for value in vars(invkit.methods).values() if isinstance(value, type)}
    assert {config for config in exported if issubclass(config, Config)} - NAMED.keys() == UNNAMED


@pytest.mark.parametrize(("config", "numbers"), NAMED.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_the_profile_has_the_numbers_of_its_paper(config, numbers):
    profile = config.for_profile("paper")
    assert {name: getattr(profile, name) for name in numbers} == numbers
