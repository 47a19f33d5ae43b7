"""Data sets, image files, batches, and images from outside a data set."""

from invkit.data.batching import batches, to_float
from invkit.data.datasets import DataSet, Split, channel_statistics, load_data, sample_photo
from invkit.data.images import from_pil, load_image, quantise, to_pil
from invkit.data.outliers import gaussian_noise, other_images, photo_patches, shifted

__all__ = [
    "DataSet",
    "Split",
    "batches",
    "channel_statistics",
    "from_pil",
    "gaussian_noise",
    "load_data",
    "load_image",
    "other_images",
    "photo_patches",
    "quantise",
    "sample_photo",
    "shifted",
    "to_float",
    "to_pil",
]
