"""Run trained networks backwards: from labels, logits, features or weights to images."""

from invkit.adversarial import GANConfig, load_or_train_gan, train_gan
from invkit.attacks import fgsm, pgd, random_perturbation, robust_accuracy
from invkit.bn_hooks import BatchNormPenalty
from invkit.calibration import calibrate, forget
from invkit.data import DataSet, Split, load_data, sample_photo
from invkit.images import ImageSpec
from invkit.judge import Judge, statistics_penalty
from invkit.latents import LatentSpec
from invkit.leaks import Leakage, leakage
from invkit.likeness import Likeness
from invkit.loading import load_target
from invkit.masks import apply_masks, load_masks, masks_of, save_masks
from invkit.methods.dci import DCI, DCIConfig, divide_and_conquer
from invkit.methods.deepdream import DeepDreamConfig, class_inversion, deep_dream
from invkit.methods.deepinversion import DeepInversionConfig, deep_inversion
from invkit.methods.deepsim import DeePSiM, DeePSiMConfig, deepsim
from invkit.methods.distillation import Distillation, DistillationConfig, distil
from invkit.methods.feature_inversion import FeatureInversionConfig, feature_inversion, layer_features
from invkit.methods.feedforward import FeedforwardConfig, FeedforwardInversion, LogitInverse, feedforward_inversion
from invkit.methods.hidden import EdgePopup, HiddenConfig, load_or_train_hidden, train_hidden
from invkit.methods.interpret import (
    FeaturePlane,
    SparseAutoencoder,
    SparseAutoencoderConfig,
    cluster_counts,
    decision_regions,
    sparse_autoencoder,
    tsne,
)
from invkit.methods.network_inversion import NetworkInversion, NetworkInversionConfig, network_inversion
from invkit.methods.ood import GarbageConfig, GarbageResult, train_with_garbage, with_garbage
from invkit.methods.plugin import PlugInConfig, plug_in_inversion
from invkit.methods.reconstruction import Reconstruction, ReconstructionConfig, reconstruct
from invkit.networks.generators import Conditioning
from invkit.networks.inverse_chain import Inverse
from invkit.networks.inverses import inverse_of
from invkit.networks.sampling import TrainedGenerator
from invkit.ood_scores import compare_scores, confidence_gap
from invkit.ood_sets import gaussian_noise, other_images, photo_patches, shifted
from invkit.partition import Block, Chain, partition
from invkit.probe import LogitProbe
from invkit.results import FitResult, InversionResult, Step
from invkit.search import grid_search
from invkit.staged import StageResult, StagesResult
from invkit.synthesis import synthesise
from invkit.target import GeneratorTarget, Target
from invkit.training import ClassifierConfig, load_or_train, train_classifier

__version__ = "0.1.0"

__all__ = [
    "DCI",
    "BatchNormPenalty",
    "Block",
    "Chain",
    "ClassifierConfig",
    "Conditioning",
    "DCIConfig",
    "DataSet",
    "DeePSiM",
    "DeePSiMConfig",
    "DeepDreamConfig",
    "DeepInversionConfig",
    "Distillation",
    "DistillationConfig",
    "EdgePopup",
    "FeatureInversionConfig",
    "FeaturePlane",
    "FeedforwardConfig",
    "FeedforwardInversion",
    "FitResult",
    "GANConfig",
    "GarbageConfig",
    "GarbageResult",
    "GeneratorTarget",
    "HiddenConfig",
    "ImageSpec",
    "Inverse",
    "InversionResult",
    "Judge",
    "LatentSpec",
    "Leakage",
    "Likeness",
    "LogitInverse",
    "LogitProbe",
    "NetworkInversion",
    "NetworkInversionConfig",
    "PlugInConfig",
    "Reconstruction",
    "ReconstructionConfig",
    "SparseAutoencoder",
    "SparseAutoencoderConfig",
    "Split",
    "StageResult",
    "StagesResult",
    "Step",
    "Target",
    "TrainedGenerator",
    "apply_masks",
    "calibrate",
    "class_inversion",
    "cluster_counts",
    "compare_scores",
    "confidence_gap",
    "decision_regions",
    "deep_dream",
    "deep_inversion",
    "deepsim",
    "distil",
    "divide_and_conquer",
    "feature_inversion",
    "feedforward_inversion",
    "fgsm",
    "forget",
    "gaussian_noise",
    "grid_search",
    "inverse_of",
    "layer_features",
    "leakage",
    "load_data",
    "load_masks",
    "load_or_train",
    "load_or_train_gan",
    "load_or_train_hidden",
    "load_target",
    "masks_of",
    "network_inversion",
    "other_images",
    "partition",
    "pgd",
    "photo_patches",
    "plug_in_inversion",
    "random_perturbation",
    "reconstruct",
    "robust_accuracy",
    "sample_photo",
    "save_masks",
    "shifted",
    "sparse_autoencoder",
    "statistics_penalty",
    "synthesise",
    "train_classifier",
    "train_gan",
    "train_hidden",
    "train_with_garbage",
    "tsne",
    "with_garbage",
]
