"""Networks to train and to load: classifiers, generators, inverses of blocks, masked networks."""

from invkit.networks.batch_norm import calibrate, without_statistics
from invkit.networks.block_inverses import inverse_of
from invkit.networks.classifiers import build, names
from invkit.networks.compressed import move_statistics, prune_weights, quantise_network
from invkit.networks.conditional_generator import KINDS, ConditionalGenerator, Conditioning, condition_matrix
from invkit.networks.gan import Discriminator, GANGenerator
from invkit.networks.inverse import ChainInverse
from invkit.networks.loading import load_target, load_weights
from invkit.networks.masked import StraightThroughMask, apply_masks, draw_untrained, load_masks, masks_of, save_masks
from invkit.networks.sampling import TrainedGenerator
from invkit.networks.upconv import UpConvGenerator

__all__ = [
    "KINDS",
    "ChainInverse",
    "ConditionalGenerator",
    "Conditioning",
    "Discriminator",
    "GANGenerator",
    "StraightThroughMask",
    "TrainedGenerator",
    "UpConvGenerator",
    "apply_masks",
    "build",
    "calibrate",
    "condition_matrix",
    "draw_untrained",
    "inverse_of",
    "load_masks",
    "load_target",
    "load_weights",
    "masks_of",
    "move_statistics",
    "names",
    "prune_weights",
    "quantise_network",
    "save_masks",
    "without_statistics",
]
