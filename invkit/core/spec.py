"""What goes into a network: images of a shape, scale and classes, or latent codes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def check_images(
    images: Any,
    what: str = "images",
    *,
    dtype: torch.dtype | None = None,
    keep_bytes: bool = False,
    wanted: Sequence[int] | None = None,
) -> Tensor:
    """Images as a finite float tensor ``(N, C, H, W)`` without a graph: what is harmless is converted.

    Arrays and lists become tensors, bytes are divided by 255, and half precision becomes float32; what fits already is
    returned as it is. The one place that checks images which come from outside: every public function calls it.

    Args:
        images: A tensor, an array, a list of numbers, or a list of images ``(C, H, W)``.
        what: The argument's name, for the message.
        dtype: Of the answer; None keeps a tensor of float64 as it is.
        keep_bytes: Leave a uint8 tensor as it is, for functions that turn it into floats batch by batch.
        wanted: Channels, height and width, for the message.

    Raises:
        ValueError: Naming ``what``, what it is and what is wanted, for anything else, no images, or values that are not
            finite.

    >>> check_images(torch.tensor([[[[0, 255]]]], dtype=torch.uint8))
    tensor([[[[0., 1.]]]])
    >>> check_images(torch.rand(3, 8, 8))
    Traceback (most recent call last):
    ValueError: images must be a float tensor (N, C, H, W), not torch.float32 of shape (3, 8, 8)
    """
    shape = ", ".join(str(side) for side in wanted) if wanted else "C, H, W"
    sentence = f"a float tensor (N, {shape})"
    if keep_bytes and isinstance(images, Tensor) and images.dtype == torch.uint8:
        tensor = images
    else:
        tensor = as_floats(images, what, sentence, dtype)
    if tensor.ndim != 4 or tensor.numel() == 0:
        raise ValueError(f"{what} must be {sentence}, not {describe(tensor)}")
    return _finite(tensor, what)


def check_floats(values: Any, what: str = "values", wanted: str = "a float tensor") -> Tensor:
    """Values of any shape as a finite float tensor without a graph, converted as :func:`check_images` does.

    Raises:
        ValueError: Naming ``what``, what it is and what is ``wanted``.

    >>> check_floats([0.5, 1.0])
    tensor([0.5000, 1.0000])
    """
    tensor = as_floats(values, what, wanted, None)
    if tensor.numel() == 0:
        raise ValueError(f"{what} must be {wanted}, not {describe(tensor)}")
    return _finite(tensor, what)


def check_rank(images: Any, what: str = "images") -> None:
    """Raise ``ValueError`` unless ``images`` are a float tensor ``(N, C, H, W)``; their values are not looked at.

    For what runs at every step of an optimisation, inside a graph, where :func:`check_images` would cost time.

    >>> check_rank(torch.rand(1, 3, 8, 8))
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"{what} must be a float tensor (N, C, H, W), not {describe(images)}")


def as_floats(values: Any, what: str, wanted: str = "a float tensor", dtype: torch.dtype | None = None) -> Tensor:
    """A float tensor without a graph, its values not looked at; ``dtype`` None is float32 but for tensors of float64.

    Raises:
        ValueError: Naming ``what``, what it is and what is ``wanted``.

    >>> as_floats(torch.tensor([255], dtype=torch.uint8), "pixels")
    tensor([1.])
    """
    tensor = values if isinstance(values, Tensor) else _as_tensor(values)
    if tensor is None or not (tensor.is_floating_point() or tensor.dtype == torch.uint8):
        raise ValueError(f"{what} must be {wanted}, not {describe(values if tensor is None else tensor)}")
    if tensor.dtype == torch.uint8:
        return tensor.to(dtype or torch.float32) / 255
    wide = tensor.dtype == torch.float64 and isinstance(values, Tensor)
    return tensor.detach().to(dtype or (torch.float64 if wide else torch.float32))


def _as_tensor(values: Any) -> Tensor | None:
    """A tensor of an array, or of a list of numbers or tensors; None where there is no such thing."""
    try:
        if isinstance(values, list | tuple) and values and all(isinstance(value, Tensor) for value in values):
            return torch.stack(list(values))
        # A copy: an array may be read-only or run backwards, which torch does not take.
        return torch.from_numpy(np.array(values))
    except (TypeError, ValueError, RuntimeError):
        return None


def describe(values: Any) -> str:
    """What ``values`` are, for a message: type and shape of a tensor, else the name of the class.

    >>> describe(torch.zeros(2, 3)), describe(None)
    ('torch.float32 of shape (2, 3)', 'None')
    """
    if isinstance(values, Tensor):
        return f"{values.dtype} of shape {tuple(values.shape)}"
    return "None" if values is None else f"a {type(values).__name__}"


def _finite(tensor: Tensor, what: str) -> Tensor:
    if tensor.is_floating_point() and not tensor.isfinite().all():
        bad = int((~tensor.isfinite()).sum())
        raise ValueError(f"{what} must be finite, but hold {bad} values that are NaN or infinite")
    return tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec:
    """Shape, normalisation and classes of a network's images; the one owner of mean and standard deviation.

    Outside a network, images are float tensors ``(N, channels, H, W)`` in [0, 1]; ``normalise`` turns them into
    what the network was trained on, ``(x - mean) / std`` per channel. Numbers may be NumPy's and names anything that
    can be written, as ``classes=range(10)``; they become Python's own numbers and strings.

    >>> spec = ImageSpec(channels=1, size=(8, 8), mean=(0.5,), std=(0.25,), classes=("a", "b"))
    >>> float(spec.normalise(torch.ones(1, 1, 8, 8)).max())
    2.0
    """

    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("size", "mean", "std", "classes"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Iterable):
                raise ValueError(f"{name} must be a sequence, not {value!r}")
            object.__setattr__(self, name, tuple(value.tolist() if isinstance(value, Tensor | np.ndarray) else value))
        sides = (self.channels, *self.size)
        if len(sides) != 3 or not all(isinstance(side, Integral) and side >= 1 for side in sides):
            raise ValueError(
                f"an image needs whole numbers of channels >= 1 and a size (H, W) >= 1, not {self.channels!r} and "
                f"{self.size}"
            )
        if not all(isinstance(value, Real) for value in (*self.mean, *self.std)):
            raise ValueError(f"mean and std must be numbers, not {self.mean} and {self.std}")
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"mean and std need one value per channel ({self.channels}), not {self.mean} and {self.std}"
            )
        if not all(0 < s < math.inf for s in self.std):
            raise ValueError(f"std must be positive and finite, not {self.std}")
        if not all(math.isfinite(m) for m in self.mean):
            raise ValueError(f"mean must be finite, not {self.mean}")
        if len(self.classes) < 1:
            raise ValueError("an ImageSpec needs at least one class name")
        self._use_plain_types()

    def _use_plain_types(self) -> None:
        """Numbers of NumPy cannot be written as JSON, and a number as a class name would not come back from it."""
        object.__setattr__(self, "channels", int(self.channels))
        object.__setattr__(self, "size", tuple(int(side) for side in self.size))
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        object.__setattr__(self, "classes", tuple(str(name) for name in self.classes))

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(channels, H, W)``."""
        return (self.channels, *self.size)

    def normalise(self, images: Tensor) -> Tensor:
        """``(x - mean) / std`` per channel, for ``(N, C, H, W)`` in [0, 1].

        >>> spec = ImageSpec(channels=1, size=(8, 8), mean=(0.5,), std=(0.25,), classes=("a", "b"))
        >>> spec.normalise(torch.zeros(1, 1, 8, 8)).unique()
        tensor([-2.])
        """
        mean, std = (
            torch.tensor(v, dtype=images.dtype, device=images.device).view(-1, 1, 1) for v in (self.mean, self.std)
        )
        return (images - mean) / std

    def check(
        self, images: Any, what: str = "images", *, dtype: torch.dtype | None = torch.float32, keep_bytes: bool = False
    ) -> Tensor:
        """``images`` as the network takes them, see :func:`check_images`; they must have its channels and size.

        Raises:
            ValueError: Naming ``what``, what it is and what is wanted.

        >>> spec = ImageSpec(channels=1, size=(8, 8), mean=(0.5,), std=(0.25,), classes=("a", "b"))
        >>> spec.check(torch.ones(2, 1, 8, 8).byte() * 255).mean()
        tensor(1.)
        >>> spec.check(torch.ones(2, 3, 8, 8), "init")
        Traceback (most recent call last):
        ValueError: init have 3 channels; the network takes 1
        """
        images = check_images(images, what, dtype=dtype, keep_bytes=keep_bytes, wanted=self.shape)
        if images.shape[1] != self.channels:
            raise ValueError(f"{what} have {images.shape[1]} channels; the network takes {self.channels}")
        if tuple(images.shape[2:]) != self.size:
            raise ValueError(f"{what} are {tuple(images.shape[2:])} pixels; the network takes {self.size}")
        return images

    def check_range(self, images: Tensor) -> Tensor:
        """``images`` if they lie in [0, 1]; else ``ValueError``, which says where they lie.

        >>> spec = ImageSpec(channels=1, size=(8, 8), mean=(0.5,), std=(0.25,), classes=("a", "b"))
        >>> spec.check_range(torch.full((1, 1, 8, 8), 255.0))
        Traceback (most recent call last):
        ValueError: images must lie in [0, 1], not 255..255; the target normalises them itself
        """
        low, high = float(images.min()), float(images.max())
        if not (low >= -1e-3 and high <= 1 + 1e-3):
            raise ValueError(f"images must lie in [0, 1], not {low:.3g}..{high:.3g}; the target normalises them itself")
        return images

    def probe(self, generator: torch.Generator) -> Tensor:
        """Two images ``(2, C, H, W)`` that deep layers tell apart: fine noise and coarse noise.

        >>> spec = ImageSpec(channels=1, size=(8, 8), mean=(0.5,), std=(0.25,), classes=("a", "b"))
        >>> spec.probe(torch.Generator()).shape
        torch.Size([2, 1, 8, 8])
        """
        fine = torch.rand(1, *self.shape, generator=generator)
        coarse = F.interpolate(torch.rand(1, self.channels, 3, 3, generator=generator), self.size, mode="bilinear")
        return torch.cat((fine, coarse))

    def check_labels(self, labels: Tensor | Sequence[int]) -> Tensor:
        """Labels as an int64 tensor ``(N,)`` in ``range(n_classes)``; else ``ValueError``.

        >>> spec = ImageSpec(channels=1, size=(8, 8), mean=(0.5,), std=(0.25,), classes=("a", "b"))
        >>> spec.check_labels([1, 0])
        tensor([1, 0])
        """
        try:
            indices = torch.as_tensor(labels)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"labels must be a non-empty list of class indices, not {labels!r}") from None
        if indices.ndim != 1 or indices.numel() == 0 or indices.is_floating_point() or indices.dtype == torch.bool:
            raise ValueError(f"labels must be a non-empty list of class indices, not {labels!r}")
        bad = sorted({int(v) for v in indices if not 0 <= v < self.n_classes})
        if bad:
            raise ValueError(f"labels {bad} are outside the network's classes 0..{self.n_classes - 1}")
        return indices.long()

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary, as it lies beside a weights file.

        >>> spec = ImageSpec(channels=1, size=(8, 8), mean=(0.5,), std=(0.25,), classes=("a", "b"))
        >>> spec.to_json()
        {'input': [1, 8, 8], 'mean': [0.5], 'std': [0.25], 'classes': ['a', 'b']}
        """
        return {
            "input": list(self.shape),
            "mean": list(self.mean),
            "std": list(self.std),
            "classes": list(self.classes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ImageSpec:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: Naming the keys that are missing.

        >>> ImageSpec.from_json({"input": [1, 8, 8], "mean": [0.5], "std": [0.25], "classes": ["a", "b"]}).n_classes
        2
        """
        missing = [k for k in ("input", "mean", "std", "classes") if k not in data]
        if missing:
            raise ValueError(f"an image specification needs the keys input, mean, std, classes; missing: {missing}")
        channels, *size = data["input"]
        return cls(channels=channels, size=tuple(size), mean=data["mean"], std=data["std"], classes=data["classes"])


@dataclass(frozen=True, slots=True)
class LatentSpec:
    """Codes ``(N, size)``, standard normal and not normalised.

    >>> LatentSpec(16).shape
    (16,)
    """

    size: int
    """Entries of a code."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"a latent code needs at least one entry, not {self.size}")

    @property
    def shape(self) -> tuple[int]:
        """``(size,)``."""
        return (self.size,)

    def normalise(self, codes: Tensor) -> Tensor:
        """The codes themselves."""
        return codes

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """``(count, size)`` standard normal codes, on the CPU.

        >>> LatentSpec(16).sample(3, torch.Generator()).shape
        torch.Size([3, 16])
        """
        return torch.randn(count, self.size, generator=generator)

    def probe(self, generator: torch.Generator) -> Tensor:
        """Two codes that deep layers tell apart."""
        return self.sample(2, generator)

    def check(self, codes: Any, what: str = "codes", *, dtype: torch.dtype | None = torch.float32) -> Tensor:
        """``codes`` as floats ``(N, size)`` without a graph, from a tensor, an array or lists.

        Raises:
            ValueError: Naming ``what``, what it is and what is wanted.

        >>> LatentSpec(2).check([[0.5, -1.0]])
        tensor([[ 0.5000, -1.0000]])
        """
        wanted = f"a float tensor (N, {self.size})"
        floats = as_floats(codes, what, wanted, dtype)
        if floats.ndim != 2:
            raise ValueError(f"{what} must be {wanted}, not {describe(floats)}")
        if floats.shape[1] != self.size:
            raise ValueError(f"{what} have {floats.shape[1]} entries; the generator takes {self.size}")
        return _finite(floats, what)

    def check_range(self, codes: Tensor) -> Tensor:
        """``codes`` if they are finite; else ``ValueError``."""
        if not codes.isfinite().all():
            raise ValueError("codes hold values that are not finite")
        return codes

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return {"latent": self.size}
