"""What everything stands on: specifications, targets, results, random generators, devices and files."""

from invkit.core.config import Config, config_hash, plain
from invkit.core.device import autocast, pick_device, progress, saved_bytes
from invkit.core.files import atomic_path, read_weights, write_json
from invkit.core.hooks import Hooks, StopForward
from invkit.core.results import DivergedError, FitResult, InversionResult, Step
from invkit.core.rng import default_generator, seeded, spawn
from invkit.core.spec import ImageSpec, LatentSpec, check_images
from invkit.core.target import FrozenNetwork, GeneratorTarget, Target

__all__ = [
    "Config",
    "DivergedError",
    "FitResult",
    "FrozenNetwork",
    "GeneratorTarget",
    "Hooks",
    "ImageSpec",
    "InversionResult",
    "LatentSpec",
    "Step",
    "StopForward",
    "Target",
    "atomic_path",
    "autocast",
    "check_images",
    "config_hash",
    "default_generator",
    "pick_device",
    "plain",
    "progress",
    "read_weights",
    "saved_bytes",
    "seeded",
    "spawn",
    "write_json",
]
