"""The published methods, one file each."""

from invkit.methods.dci import DCI, DCIConfig, divide_and_conquer
from invkit.methods.deepdream import DeepDreamConfig, class_inversion, deep_dream
from invkit.methods.deepinversion import DeepInversionConfig, deep_inversion
from invkit.methods.deepsim import DeePSiM, DeePSiMConfig, deepsim
from invkit.methods.distillation import Distillation, DistillationConfig, distil
from invkit.methods.feature_inversion import FeatureInversionConfig, feature_inversion, layer_features
from invkit.methods.feedforward import FeedforwardConfig, FeedforwardInversion, LogitInverse, feedforward_inversion
from invkit.methods.garbage_class import GarbageConfig, GarbageResult, train_with_garbage, with_garbage
from invkit.methods.hidden import EdgePopup, HiddenConfig, load_or_train_hidden, train_hidden
from invkit.methods.network_inversion import NetworkInversion, NetworkInversionConfig, network_inversion
from invkit.methods.plugin import PlugInConfig, plug_in_inversion
from invkit.methods.reconstruction import Reconstruction, ReconstructionConfig, reconstruct

__all__ = [
    "DCI",
    "DCIConfig",
    "DeePSiM",
    "DeePSiMConfig",
    "DeepDreamConfig",
    "DeepInversionConfig",
    "Distillation",
    "DistillationConfig",
    "EdgePopup",
    "FeatureInversionConfig",
    "FeedforwardConfig",
    "FeedforwardInversion",
    "GarbageConfig",
    "GarbageResult",
    "HiddenConfig",
    "LogitInverse",
    "NetworkInversion",
    "NetworkInversionConfig",
    "PlugInConfig",
    "Reconstruction",
    "ReconstructionConfig",
    "class_inversion",
    "deep_dream",
    "deep_inversion",
    "deepsim",
    "distil",
    "divide_and_conquer",
    "feature_inversion",
    "feedforward_inversion",
    "layer_features",
    "load_or_train_hidden",
    "network_inversion",
    "plug_in_inversion",
    "reconstruct",
    "train_hidden",
    "train_with_garbage",
    "with_garbage",
]
