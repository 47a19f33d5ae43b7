"""Classifiers for small images, built by name; they take *normalised* images and return logits.

- ``bn_cnn``: convolutions, batch norm, leaky ReLU, dropout, fully connected head (Suhail et al., section 4)
- ``plain_cnn``: the same without batch norm
- ``resnet20``, ``32``, ``44``, ``56``: CIFAR ResNets with "option A" shortcuts (He et al. 2016, section 4.2)
- ``repvgg_tiny``: a plain stack of 3x3 convolutions, trained with parallel branches that :func:`fuse` merges
- ``vit_tiny``, ``mixer_tiny``: a small vision transformer and a small MLP-Mixer, from timm

In all of them the last layer is one ``nn.Linear`` whose input are the penultimate features.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invkit.core.rng import isolated_rng
from invkit.core.spec import ImageSpec
from invkit.networks.own import build_own, located

MIN_SIZE = 8


def build(
    name: str,
    spec: ImageSpec,
    *,
    width: int | None = None,
    dropout: float | None = None,
    seed: int | None = None,
) -> nn.Module:
    """Build the classifier ``name`` for images of ``spec``, with fresh weights and in train mode.

    Args:
        name: One of :func:`names`, or ``my_file:make_net`` for a function of your own without arguments, see
            :func:`~invkit.networks.own.build_own`.
        spec: Of the images.
        width: Channels after the first layer (the embedding for ``vit_tiny`` and ``mixer_tiny``).
        dropout: Probability in front of the last layer, for the networks that have one.
        seed: The weights follow from it alone, and the global random state stays as it was; None draws from that.

    Returns:
        A network from normalised images ``(N, C, H, W)`` to logits ``(N, n_classes)``.

    Raises:
        ValueError: For an unknown name, an image smaller than 8 pixels, or an option that the network does not have.

    >>> import torch
    >>> spec = ImageSpec(channels=1, size=(16, 16), mean=(0.5,), std=(0.5,), classes=("cat", "dog"))
    >>> build("resnet20", spec, width=4, seed=0)(torch.zeros(3, 1, 16, 16)).shape
    torch.Size([3, 2])
    """
    if ":" in name:
        if width is not None or dropout is not None:
            raise ValueError(f"width and dropout are options of the package's networks, not of {name}")
        with nullcontext() if seed is None else isolated_rng(seed):
            return _fitting(build_own(located(name)), spec, name)
    if name not in _BUILDERS:
        raise ValueError(f"there is no network {name!r}; known are {', '.join(names())} and my_file:make_net")
    if min(spec.size) < MIN_SIZE:
        raise ValueError(
            f"{name} needs images of at least {MIN_SIZE}x{MIN_SIZE} pixels, not {spec.size[0]}x{spec.size[1]}"
        )
    if width is not None and width < 1:
        raise ValueError(f"width must be at least 1, not {width}")
    if dropout is not None and not (name in _WITH_DROPOUT and 0 <= dropout < 1):
        raise ValueError(f"dropout in [0, 1) is an option of {', '.join(_WITH_DROPOUT)}; got {name} with {dropout}")
    options = {k: v for k, v in (("width", width), ("dropout", dropout)) if v is not None}
    with nullcontext() if seed is None else isolated_rng(seed):
        return _BUILDERS[name](spec, **options)


def _fitting(module: nn.Module, spec: ImageSpec, name: str) -> nn.Module:
    """The module, if it turns such images into one logit for each class."""
    module.eval()
    try:
        with torch.no_grad():
            logits = module(torch.zeros(2, *spec.shape))
    except (RuntimeError, ValueError, TypeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{name} takes no images of shape {spec.shape}: {reason}") from error
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (2, spec.n_classes):
        raise ValueError(f"{name} must give logits (N, {spec.n_classes}) for images of shape {spec.shape}")
    return module.train()


def names() -> tuple[str, ...]:
    """The names that :func:`build` knows.

    Returns:
        The names.

    >>> "bn_cnn" in names()
    True
    """
    return tuple(_BUILDERS)


class ConvNet(nn.Module):
    """Three stages of two 3x3 convolutions, halving the size and doubling the channels, and a fully connected
    head.

    ``batch_norm=False`` leaves the normalisation out. Features of 4x4 pixels or fewer go into the head.
    """

    def __init__(self, spec: ImageSpec, width: int = 32, dropout: float = 0.3, batch_norm: bool = True):
        super().__init__()
        layers: list[nn.Module] = []
        channels = spec.channels
        for stage in range(3):
            for stride in (1 if stage == 0 else 2, 1):
                layers += _conv(channels, width << stage, stride, batch_norm)
                channels = width << stage
        grid = tuple(min(4, math.ceil(side / 4)) for side in spec.size)
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(grid))
        hidden = 4 * width
        self.head = nn.Sequential(
            nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels * math.prod(grid), hidden),
            nn.LeakyReLU(0.1), nn.Dropout(dropout), nn.Linear(hidden, spec.n_classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images to logits."""
        return self.head(self.features(x))


def _conv(inner: int, outer: int, stride: int, batch_norm: bool) -> list[nn.Module]:
    norm: list[nn.Module] = [nn.BatchNorm2d(outer)] if batch_norm else []
    return [nn.Conv2d(inner, outer, 3, stride, 1, bias=not batch_norm), *norm, nn.LeakyReLU(0.1)]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm; the shortcut subsamples and pads with zeros (option A)."""

    def __init__(self, inner: int, outer: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.stride = stride
        # The new channels are split evenly before and after the old ones, as in the published weights.
        self.padding = ((outer - inner) // 2, outer - inner - (outer - inner) // 2)

    def forward(self, x: Tensor) -> Tensor:
        """``relu(F(x) + shortcut(x))``."""
        shortcut = x
        if self.stride > 1 or any(self.padding):
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.padding))
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + shortcut)


class CifarResNet(nn.Module):
    """The ResNet of 6n + 2 layers for small images: three stages of n blocks, widths w, 2w, 4w (w = 16 in the
    paper).
    """

    def __init__(self, spec: ImageSpec, blocks: int, width: int = 16):
        super().__init__()
        self.conv1 = nn.Conv2d(spec.channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks, stride=1)
        self.layer2 = _stage(width, 2 * width, blocks, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, blocks, stride=2)
        self.linear = nn.Linear(4 * width, spec.n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images to logits."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.linear(out.mean((2, 3)))


def _stage(inner: int, outer: int, blocks: int, stride: int) -> nn.Sequential:
    first = ResidualBlock(inner, outer, stride)
    return nn.Sequential(first, *(ResidualBlock(outer, outer, 1) for _ in range(blocks - 1)))


class RepVGG(nn.Module):
    """A plain network of 3x3 convolutions; while training, each runs beside a 1x1 and an identity branch.

    Ding et al., *RepVGG: Making VGG-style ConvNets Great Again*, 2021, section 3.2.
    """

    def __init__(self, spec: ImageSpec, width: int = 32, dropout: float = 0.1):
        from timm.models.byobnet import RepVggBlock  # timm is imported where it is needed: it takes seconds

        super().__init__()
        plan = [(width, 1), (width, 1), (2 * width, 2), (2 * width, 1), (4 * width, 2), (4 * width, 1)]
        inputs = [spec.channels, *(outer for outer, _ in plan)]
        self.blocks = nn.Sequential(
            *(RepVggBlock(inner, outer, stride=stride) for inner, (outer, stride) in zip(inputs, plan, strict=False))
        )
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(4 * width, spec.n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images to logits."""
        return self.linear(self.dropout(self.blocks(x).mean((2, 3))))


def fuse(network: nn.Module) -> nn.Module:
    """A copy of a RepVGG-style network in which each block is one 3x3 convolution; in eval mode, outputs are equal.

    The branches are linear in eval mode: batch norm is folded into each, 1x1 and identity kernels are padded to 3x3,
    and the kernels add up (Ding et al. 2021, section 3.3). Works for timm's re-parameterisable networks as well.

    Raises:
        ValueError: Where there is nothing to merge.

    >>> import torch
    >>> spec = ImageSpec(channels=1, size=(8, 8), mean=(0.5,), std=(0.5,), classes=("cat", "dog"))
    >>> network, images = build("repvgg_tiny", spec, width=4, seed=0).eval(), torch.rand(2, 1, 8, 8)
    >>> torch.allclose(fuse(network)(images), network(images), atol=1e-5)
    True
    """
    if not any(hasattr(module, "reparameterize") for module in network.modules()):
        raise ValueError(
            f"{type(network).__name__} has no parallel branches to merge; fuse() is for RepVGG-style networks"
        )
    from timm.utils.model import reparameterize_model

    return reparameterize_model(copy.deepcopy(network).eval(), inplace=True)


def patch_size(size: tuple[int, int]) -> int:
    """The patch that cuts an image into about 4x4 to 8x8 tokens: the largest divisor of both sides up to a
    quarter.

    >>> patch_size((16, 16)), patch_size((32, 32)), patch_size((28, 28))
    (4, 8, 7)
    """
    side = math.gcd(*size)
    return max(p for p in range(1, max(1, min(size) // 4) + 1) if side % p == 0)


def _vit(spec: ImageSpec, width: int = 64, dropout: float = 0.0) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    heads = max(h for h in (4, 3, 2, 1) if width % h == 0)
    return VisionTransformer(
        img_size=spec.size, patch_size=patch_size(spec.size), in_chans=spec.channels,
        num_classes=spec.n_classes, embed_dim=width, depth=4, num_heads=heads, mlp_ratio=2.0,
        drop_rate=dropout,
    )  # fmt: skip


def _mixer(spec: ImageSpec, width: int = 64, dropout: float = 0.0) -> nn.Module:
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(
        img_size=spec.size,  # type: ignore[arg-type]  # a pair is taken as well
        patch_size=patch_size(spec.size), in_chans=spec.channels, num_classes=spec.n_classes,
        embed_dim=width, num_blocks=4, drop_rate=dropout,
    )  # fmt: skip


_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "bn_cnn": ConvNet,
    "plain_cnn": partial(ConvNet, batch_norm=False),
    **{f"resnet{6 * n + 2}": partial(CifarResNet, blocks=n) for n in (3, 5, 7, 9)},
    "repvgg_tiny": RepVGG,
    "vit_tiny": _vit,
    "mixer_tiny": _mixer,
}
_WITH_DROPOUT = ("bn_cnn", "plain_cnn", "repvgg_tiny", "vit_tiny", "mixer_tiny")
