"""The published methods, one file each.

Methods that optimise images, from a frozen network to an :class:`~invkit.core.results.InversionResult`:

- :func:`deep_inversion`: labels to images with the batch-norm statistics of the training set (Yin et al. 2020).
- :func:`plug_in_inversion`: labels to images by augmentations in the place of priors (Ghiasi et al. 2021).
- :func:`class_inversion`: labels to images with an image prior alone, DeepDream's baseline (Mordvintsev et al. 2015).
- :func:`deep_dream`: images to images that a layer answers more strongly (Mordvintsev et al. 2015).
- :func:`feature_inversion`: features of a layer to images that have them (the baselines of Dong et al. 2021).

Methods that learn something, which they return with a :class:`~invkit.core.results.FitResult`:

- :func:`divide_and_conquer`: network and images to an inverse, block after block (Dong et al. 2021).
- :func:`deepsim`: network and images to a generator from features to images (Dosovitskiy & Brox 2016).
- :func:`feedforward_inversion`: network and images to a generator from logits to images (Teterwak et al. 2021).
- :func:`network_inversion`: network to a generator of images of its classes (Suhail et al. 2024).
- :func:`reconstruct`: network to a generator of images like its training set (Suhail et al. 2024, §5.3).
- :func:`train_with_garbage`: labelled images to a classifier with one more class, for what is none of them (§5.2).
- :func:`distil`: network and images to a student that learnt from both alone (Botach & Cohen 2021, §5.3).
- :func:`train_hidden`: labelled images to a network hidden among random weights (Ramanujan et al. 2020).

A new method is a file here, a line above with its names below, and a row in ``tests/methods/test_contract.py``.
"""

from invkit.methods.dci import DCI, DCIConfig, divide_and_conquer
from invkit.methods.deepdream import DeepDreamConfig, class_inversion, deep_dream
from invkit.methods.deepinversion import DeepInversionConfig, deep_inversion
from invkit.methods.deepsim import DeePSiM, DeePSiMConfig, deepsim
from invkit.methods.distillation import Distillation, DistillationConfig, distil
from invkit.methods.feature_inversion import FeatureInversionConfig, feature_inversion, layer_features
from invkit.methods.feedforward import FeedforwardConfig, FeedforwardInversion, LogitInverse, feedforward_inversion
from invkit.methods.garbage_class import GarbageConfig, GarbageResult, train_with_garbage, with_garbage
from invkit.methods.hidden import EdgePopup, HiddenConfig, load_or_train_hidden, reported_inversion, train_hidden
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
    "reported_inversion",
    "train_hidden",
    "train_with_garbage",
    "with_garbage",
]
