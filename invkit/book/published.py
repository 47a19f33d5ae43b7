"""Networks and images that recorded runs read: published weights, in the folder that ``INVKIT_DATA`` names."""

from __future__ import annotations

import io
import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from invkit.core.target import Target
from invkit.data.datasets import Split
from invkit.networks.loading import load_target

NETWORKS = {
    "cifar10_resnet20": "invkit/resnet20",
    "cifar10_resnet44": "invkit/resnet44",
    "cifar10_resnet4b_robust": "networks:ResNet4B",
    "imagenet_tinydarknet": "networks:tiny_darknet",
    "imagenet_squeezenet1_0": "torchvision/squeezenet1_0",
    "imagenet_efficientnet_lite0": "timm/tf_efficientnet_lite0",
    "imagenet_efficientnet_lite2": "timm/tf_efficientnet_lite2",
}
"""Networks with published weights, and what :func:`~invkit.networks.loading.load_target` builds each from.

The names are those of the files in ``weights/`` of the folder of data; ``networks`` is the module in that folder.
"""


def data_folder() -> Path:
    """The folder of real data and weights, named by the environment variable ``INVKIT_DATA``.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If the variable is not set, or names no folder.
    """
    name = os.environ.get("INVKIT_DATA", "")
    if not name or not Path(name).is_dir():
        raise FileNotFoundError(f"INVKIT_DATA must name the folder of data and weights, not {name!r}")
    return Path(name)


def published(name: str, *, device: str = "cpu", folder: Path | None = None) -> Target:
    """One of :data:`NETWORKS` with its published weights, frozen.

    Args:
        name: Name of its weights file, as in ``"cifar10_resnet20"``.
        device: Where it runs.
        folder: The folder of data and weights; by default :func:`data_folder`.

    Returns:
        The frozen network, normalising as the JSON beside its weights says.

    Raises:
        ValueError: For a name that is not in the table.
        FileNotFoundError: If there are no such weights.

    >>> published("cifar10_resnet21")
    Traceback (most recent call last):
    ValueError: name must be one of cifar10_resnet20, ..., not 'cifar10_resnet21'
    """
    if name not in NETWORKS:
        raise ValueError(f"name must be one of {', '.join(NETWORKS)}, not {name!r}")
    folder = folder or data_folder()
    if str(folder) not in sys.path:  # networks.py lies there
        sys.path.append(str(folder))
    return load_target(NETWORKS[name], weights=folder / "weights" / f"{name}.safetensors", device=device)


def zipped_images(archive: Path, classes: Sequence[str], each: int) -> Split:
    """The first images of each class from an archive that has a folder for each, as ``cifar10_jpeg_train.zip``.

    >>> import tempfile
    >>> archive = Path(tempfile.mkdtemp(), "two.zip")
    >>> with zipfile.ZipFile(archive, "w") as files:
    ...     for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
    ...         with files.open(name, "w") as file:
    ...             Image.new("RGB", (4, 4)).save(file, "png")
    >>> zipped_images(archive, ("cat", "dog"), 1).labels
    tensor([0, 1])
    """
    pixels, labels = [], []
    with zipfile.ZipFile(archive) as files:
        names = sorted(files.namelist())
        for label, name in enumerate(classes):
            for file in [n for n in names if n.startswith(f"{name}/")][:each]:
                pixels.append(pil_to_tensor(Image.open(io.BytesIO(files.read(file))).convert("RGB")))
                labels.append(label)
    return Split(pixels=torch.stack(pixels), labels=torch.tensor(labels))
