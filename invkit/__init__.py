"""Run trained networks backwards: from labels, logits, features or weights to images."""

from invkit.adversarial import GANConfig, load_or_train_gan, train_gan
from invkit.attacks import fgsm, pgd, random_perturbation, robust_accuracy
from invkit.bn_hooks import BatchNormPenalty
from invkit.data import DataSet, Split, load_data, sample_photo
from invkit.images import ImageSpec
from invkit.judge import Judge, statistics_penalty
from invkit.likeness import Likeness
from invkit.loading import load_target
from invkit.methods.dci import DCI, DCIConfig, divide_and_conquer
from invkit.methods.deepdream import DeepDreamConfig, class_inversion, deep_dream
from invkit.methods.deepinversion import DeepInversionConfig, deep_inversion
from invkit.methods.deepsim import DeePSiM, DeePSiMConfig, deepsim
from invkit.methods.distillation import Distillation, DistillationConfig, distil
from invkit.methods.feature_inversion import FeatureInversionConfig, feature_inversion, layer_features
from invkit.methods.plugin import PlugInConfig, plug_in_inversion
from invkit.networks.inverse_chain import Inverse
from invkit.networks.inverses import inverse_of
from invkit.partition import Block, Chain, partition
from invkit.results import FitResult, InversionResult, Step
from invkit.search import grid_search
from invkit.staged import StageResult, StagesResult
from invkit.synthesis import synthesise
from invkit.target import Target
from invkit.training import ClassifierConfig, load_or_train, train_classifier

__version__ = "0.1.0"

__all__ = [
    "DCI",
    "BatchNormPenalty",
    "Block",
    "Chain",
    "ClassifierConfig",
    "DCIConfig",
    "DataSet",
    "DeePSiM",
    "DeePSiMConfig",
    "DeepDreamConfig",
    "DeepInversionConfig",
    "Distillation",
    "DistillationConfig",
    "FeatureInversionConfig",
    "FitResult",
    "GANConfig",
    "ImageSpec",
    "Inverse",
    "InversionResult",
    "Judge",
    "Likeness",
    "PlugInConfig",
    "Split",
    "StageResult",
    "StagesResult",
    "Step",
    "Target",
    "class_inversion",
    "deep_dream",
    "deep_inversion",
    "deepsim",
    "distil",
    "divide_and_conquer",
    "feature_inversion",
    "fgsm",
    "grid_search",
    "inverse_of",
    "layer_features",
    "load_data",
    "load_or_train",
    "load_or_train_gan",
    "load_target",
    "partition",
    "pgd",
    "plug_in_inversion",
    "random_perturbation",
    "robust_accuracy",
    "sample_photo",
    "statistics_penalty",
    "synthesise",
    "train_classifier",
    "train_gan",
]
