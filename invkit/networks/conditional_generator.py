"""A generator of images from noise and a condition, which encodes the class in one of four forms (Suhail et al., §3.2).

- ``label``: an embedding learnt of the label (§3.2.1)
- ``vector``: the softmax of a normal draw, whose argmax is the label (§3.2.2)
- ``matrix``: N x N zeros but for one row and one column, joined at N x N pixels; no condition before (§3.2.3)
- ``vector-matrix``: the vector at the start, the matrix of its argmax at N x N pixels (§3.2.4)"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invkit.core.config import Config
from invkit.core.spec import ImageSpec

Kind = Literal["label", "vector", "matrix", "vector-matrix"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Layer = tuple[int, int, int]  # kernel, stride, padding of a transposed convolution along one axis
Up = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]  # the same along both axes


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """The inputs of a generator: noise ``latent`` ``(n, L)``, ``labels`` ``(n,)`` and ``vectors`` ``(n, N)``, which are
    distributions over the classes with the label as their argmax.
    """

    latent: Tensor
    labels: Tensor
    vectors: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Conditions:
        """The same on ``device``."""
        return Conditions(latent=self.latent.to(device), labels=self.labels.to(device), vectors=self.vectors.to(device))


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditioning(Config):
    """Draws conditions of one kind for a classifier.

    >>> drawn = Conditioning(kind="vector", classes=4).draw(3, torch.Generator().manual_seed(0))
    >>> bool((drawn.vectors.argmax(1) == drawn.labels).all())
    True
    """

    kind: Kind = "vector-matrix"
    """How the class is encoded."""
    classes: int
    """Of the classifier."""
    latent: int = 64
    """Dimensions of the noise."""
    vector_std: float = 1.0
    """Standard deviation of the normal draw: with a larger one vectors are sharper and their argmax is easier to read.
    """
    hot: bool = False
    """Whether vectors are hot, as reconstruction wants them (§5.3); those of ``label`` and ``matrix``, which encode the
    label alone, always are.
    """
    only: tuple[int, ...] | None = None
    """The classes to be drawn; None draws all of them."""

    def __post_init__(self) -> None:
        self.require_choice("kind", *KINDS)
        self.require_whole("classes", least=2)
        self.require_whole("latent")
        self.require_positive("vector_std")
        if self.only is not None:
            known = bool(self.only) and set(self.only) <= set(range(self.classes))
            self.require("only", known, f"name classes of 0..{self.classes - 1}")

    def draw(self, count: int, generator: torch.Generator, labels: Tensor | Sequence[int] | None = None) -> Conditions:
        """Random conditions.

        A vector for a label is a draw whose largest entry has changed places with the label's: entries are
        exchangeable, so it is distributed as a draw whose argmax happened to be the label.

        Args:
            count: How many.
            generator: Source of noise, vectors and classes.
            labels: ``(count,)``; None draws classes uniformly.

        Raises:
            ValueError: For labels that are not classes, or not ``count`` of them.

        >>> Conditioning(classes=4).draw(2, torch.Generator(), labels=[3, 1]).labels
        tensor([3, 1])
        """
        scores = self.vector_std * torch.randn(count, self.classes, generator=generator)
        latent = torch.randn(count, self.latent, generator=generator)
        classes = scores.argmax(1) if labels is None else torch.as_tensor(labels).long()
        if labels is None and self.only is not None:
            classes = torch.tensor(self.only)[torch.randint(len(self.only), (count,), generator=generator)]
        if classes.shape != (count,) or (count and not 0 <= int(classes.min()) <= int(classes.max()) < self.classes):
            raise ValueError(f"labels must be {count} of 0..{self.classes - 1}, not {classes.tolist()}")
        if self.hot or self.kind in ("label", "matrix"):
            vectors = F.one_hot(classes, self.classes).float()
        else:
            vectors = _swap(scores, scores.argmax(1), classes).softmax(1)
        return Conditions(latent=latent, labels=classes, vectors=vectors)


def _swap(rows: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """``rows`` ``(n, N)`` with the entries of the columns ``here`` and ``there`` ``(n,)`` exchanged."""
    a, b = (rows.gather(1, index[:, None]) for index in (here, there))
    return rows.scatter(1, here[:, None], b).scatter(1, there[:, None], a)


def condition_matrix(labels: Tensor, classes: int) -> Tensor:
    """Ones in the label's row and column, zeros elsewhere (§3.2.3).

    Args:
        labels: ``(n,)``.
        classes: N.

    Returns:
        ``(n, 1, N, N)``.

    >>> int(condition_matrix(torch.tensor([2]), 4).sum())
    7
    """
    hot = F.one_hot(labels, classes).bool()
    return (hot[:, :, None] | hot[:, None, :]).float()[:, None]


class Dropout(nn.Dropout):
    """:class:`torch.nn.Dropout`, with four decisions from each 64-bit random number on a CPU.

    There PyTorch draws a number for each element, one after the other, which took a fifth of the time of a training
    step of the conditioned generator. The mask comes from the same global random state; ``p`` is rounded to a
    multiple of ``2 ** -16``, and what is kept is scaled by exactly its inverse share, so that the mean stays.

    >>> Dropout(0.25).eval()(torch.ones(2))
    tensor([1., 1.])
    >>> dropped = Dropout(0.25)(torch.ones(64, 64))
    >>> dropped.unique()
    tensor([0.0000, 1.3333])
    """

    def forward(self, x: Tensor) -> Tensor:
        """``x`` with a share ``p`` of its values set to zero in train mode, and as it is in eval mode."""
        dropped = round(self.p * 2**16)
        if not self.training or x.device.type != "cpu" or not 0 < dropped < 2**16:
            return super().forward(x)
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        keep = words.view(torch.int16)[: x.numel()] >= dropped - 2**15
        # Laid out in memory as the input is: which value meets which number does not matter.
        mask = keep.to(x.dtype).mul_(2**16 / (2**16 - dropped)).as_strided(x.shape, torch.empty_like(x).stride())
        return x * mask


class ConditionalGenerator(nn.Module):
    """Noise and a condition to images ``(n, C, H, W)``: transposed convolutions, batch norm, heavy dropout (§3.2, §4).

    It grows from 1 x 1 to N x N pixels and on to ``spec.size``, whatever that is. The images lie in [0, 1] by a
    sigmoid; where not ``bounded`` they are what the last layer gives, for a penalty to bring into range (§5.3).

    Args:
        spec: Of the images.
        conditioning: Of its inputs.
        width: Channels of the last hidden layer.
        dropout: Probability after each layer.
        bounded: Whether a sigmoid keeps the images in [0, 1].

    Raises:
        ValueError: For images smaller than the N x N of a matrix, or than 4 pixels.

    >>> from invkit.testing import quadrants_target
    >>> generator = ConditionalGenerator(quadrants_target().spec, Conditioning(classes=4), width=4)
    >>> generator(generator.conditioning.draw(2, torch.Generator())).shape
    torch.Size([2, 1, 12, 12])
    """

    def __init__(
        self, spec: ImageSpec, conditioning: Conditioning, *, width: int = 32, dropout: float = 0.5,
        bounded: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        _check_reach(spec, conditioning)
        self.spec, self.conditioning, self.bounded = spec, conditioning, bounded
        classes, kind = conditioning.classes, conditioning.kind
        self.with_matrix = kind in ("matrix", "vector-matrix")
        self.embedding = nn.Embedding(classes, classes) if kind == "label" else None
        inputs = conditioning.latent + (0 if kind == "matrix" else classes)
        grid = min(classes, *spec.size)  # the conditionings differ in what they tell, not in the network around it
        first = _first(grid)
        early = [((first, first), (1, 1), (0, 0)), *_between((first, first), (grid, grid))]
        late = _between((grid, grid), spec.size) or [((3, 3), (1, 1), (1, 1))]
        before = [inputs, 4 * width, *[2 * width] * (len(early) - 1)]
        after = [before[-1] + self.with_matrix, *[2 * width] * (len(late) - 1), width]
        self.early = nn.Sequential(*_stack(before, early, dropout))
        self.late = nn.Sequential(*_stack(after, late, dropout), nn.ConvTranspose2d(width, spec.channels, 3, padding=1))

    def forward(self, conditions: Conditions) -> Tensor:
        """Images ``(n, C, H, W)`` for conditions of this generator's conditioning."""
        vectors = conditions.vectors * self.conditioning.classes  # of mean 1: they must not drown in the noise beside
        if self.embedding is not None:
            vectors = self.embedding(conditions.labels)
        parts = [conditions.latent] if self.conditioning.kind == "matrix" else [conditions.latent, vectors]
        x = self.early(torch.cat(parts, 1)[:, :, None, None])
        if self.with_matrix:
            x = torch.cat([x, condition_matrix(conditions.labels, self.conditioning.classes).to(x)], 1)
        x = self.late(x)
        return x.sigmoid() if self.bounded else x

    def sampling(self) -> ConditionalGenerator:
        """Put into the mode for sampling: stored statistics in batch norm, dropout on, as in training (§3.2)."""
        self.eval()
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.train()
        return self


def _check_reach(spec: ImageSpec, conditioning: Conditioning) -> None:
    classes, side = conditioning.classes, min(spec.size)
    if classes != spec.n_classes:
        raise ValueError(f"the generator is conditioned on {classes} classes, the images have {spec.n_classes}")
    least = max(4, classes if conditioning.kind in ("matrix", "vector-matrix") else 0)
    if side < least:
        raise ValueError(
            f"the generator cannot reach {spec.size[0]}x{spec.size[1]} pixels by {conditioning.kind} conditioning of "
            f"{classes} classes, which needs at least {least}x{least}"
        )


def _stack(channels: list[int], ups: list[Up], dropout: float) -> list[nn.Module]:
    """Transposed convolution, batch norm, leaky ReLU and dropout for each step between two numbers of channels."""
    layers: list[nn.Module] = []
    for inner, outer, (kernel, stride, padding) in zip(channels, channels[1:], ups):
        grow = nn.ConvTranspose2d(inner, outer, kernel, stride, padding, bias=False)
        layers += [grow, nn.BatchNorm2d(outer), nn.LeakyReLU(0.2), Dropout(dropout)]
    return layers


def _first(side: int) -> int:
    """Pixels of the first feature map on the way to ``side``."""
    while side > 6:
        side = (side + 1) // 2
    return side


def _between(start: tuple[int, int], end: tuple[int, int]) -> list[Up]:
    """Kernels, strides and paddings of the layers between two sizes (H, W), the axes side by side."""
    axes = itertools.zip_longest(*(_axis(a, b) for a, b in zip(start, end)), fillvalue=(3, 1, 1))
    return [((a[0], b[0]), (a[1], b[1]), (a[2], b[2])) for a, b in axes]


def _axis(start: int, end: int) -> list[Layer]:
    """Layers from ``start`` to ``end`` pixels: small steps up to a size from which doubling leads there.

    >>> _axis(10, 32)  # 10, 13, 16, 32
    [(4, 1, 0), (4, 1, 0), (4, 2, 1)]
    """
    doublings: list[Layer] = []
    while (end + 1) // 2 >= start and end > start:
        doublings.insert(0, (4 - end % 2, 2, 1))
        end = (end + 1) // 2
    steps = math.ceil((end - start) / 4)
    sizes = [start + round(k * (end - start) / max(steps, 1)) for k in range(steps + 1)]
    return [(b - a + 1, 1, 0) for a, b in itertools.pairwise(sizes)] + doublings
