"""Run trained networks backwards: from labels, logits, features or weights to images.

A :class:`Target` is a frozen network with what its images look like; a method turns it and what is to be inverted into
images:

>>> import invkit as ik
>>> from invkit.testing import tiny_target  # or ik.load_target("timm/resnet18.a1_in1k")
>>> result = ik.deep_inversion(tiny_target(), [0, 1, 2], ik.DeepInversionConfig.for_profile("ci"))
>>> result.images.shape
torch.Size([3, 3, 8, 8])

The names here are those that most programs need. The rest stands in the rooms: ``ik.metrics.psnr``,
``ik.data.photo_patches``, ``ik.networks.build``. Figures (``invkit.show``) and the book's own tools (``invkit.book``)
are imported by their names.
"""

from invkit import analysis, attacks, core, data, engine, methods, metrics, networks, objectives, partition, transforms
from invkit.analysis.compare import Comparison, compare
from invkit.analysis.sparse_autoencoder import SparseAutoencoderConfig
from invkit.core.results import FitResult, InversionResult, Step
from invkit.core.rng import seeded
from invkit.core.spec import ImageSpec, LatentSpec
from invkit.core.target import GeneratorTarget, Target
from invkit.data.datasets import DataSet, Split, load_data
from invkit.engine.classifier import ClassifierConfig, load_or_train, train_classifier
from invkit.engine.gan import GANConfig, train_gan
from invkit.engine.synthesis import synthesise
from invkit.methods.dci import DCIConfig, divide_and_conquer
from invkit.methods.deepdream import DeepDreamConfig, class_inversion, deep_dream
from invkit.methods.deepinversion import DeepInversionConfig, deep_inversion
from invkit.methods.deepsim import DeePSiMConfig, deepsim
from invkit.methods.distillation import DistillationConfig, distil
from invkit.methods.feature_inversion import FeatureInversionConfig, feature_inversion
from invkit.methods.feedforward import FeedforwardConfig, feedforward_inversion
from invkit.methods.garbage_class import GarbageConfig, train_with_garbage
from invkit.methods.hidden import HiddenConfig, train_hidden
from invkit.methods.network_inversion import NetworkInversionConfig, network_inversion
from invkit.methods.plugin import PlugInConfig, plug_in_inversion
from invkit.methods.reconstruction import ReconstructionConfig, reconstruct
from invkit.metrics.judge import Judge, PairJudge
from invkit.networks.loading import load_target
from invkit.objectives.batch_norm import BatchNormPenalty

__version__ = "0.1.0"

__all__ = [
    "BatchNormPenalty",
    "ClassifierConfig",
    "Comparison",
    "DCIConfig",
    "DataSet",
    "DeePSiMConfig",
    "DeepDreamConfig",
    "DeepInversionConfig",
    "DistillationConfig",
    "FeatureInversionConfig",
    "FeedforwardConfig",
    "FitResult",
    "GANConfig",
    "GarbageConfig",
    "GeneratorTarget",
    "HiddenConfig",
    "ImageSpec",
    "InversionResult",
    "Judge",
    "LatentSpec",
    "NetworkInversionConfig",
    "PairJudge",
    "PlugInConfig",
    "ReconstructionConfig",
    "SparseAutoencoderConfig",
    "Split",
    "Step",
    "Target",
    "analysis",
    "attacks",
    "class_inversion",
    "compare",
    "core",
    "data",
    "deep_dream",
    "deep_inversion",
    "deepsim",
    "distil",
    "divide_and_conquer",
    "engine",
    "feature_inversion",
    "feedforward_inversion",
    "load_data",
    "load_or_train",
    "load_target",
    "methods",
    "metrics",
    "network_inversion",
    "networks",
    "objectives",
    "partition",
    "plug_in_inversion",
    "reconstruct",
    "seeded",
    "synthesise",
    "train_classifier",
    "train_gan",
    "train_hidden",
    "train_with_garbage",
    "transforms",
]
