"""Transforms of images: jitter, resizing, and the views of an ensemble."""

from invkit.transforms.jitter import Jitter, apply_jitter, draw_jitter, undo_jitter
from invkit.transforms.resize import initial_images, pad_with_noise, resize_images, uniform_images
from invkit.transforms.views import ColorShift, RandomViews

__all__ = [
    "ColorShift",
    "Jitter",
    "RandomViews",
    "apply_jitter",
    "draw_jitter",
    "initial_images",
    "pad_with_noise",
    "resize_images",
    "undo_jitter",
    "uniform_images",
]
