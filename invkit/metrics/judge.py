"""Judges: one protocol for the images of every method, by label or against the images sought."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from invkit.core.spec import check_images
from invkit.core.target import Target
from invkit.data.images import quantise
from invkit.metrics.quality import accuracy, diversity, frechet_distance, in_batches, psnr, saturated_fraction, ssim
from invkit.objectives.batch_norm import BatchNormPenalty


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Scores inverted images by the inverted network, by verifiers that took no part, and against real ones.

    The first verifier's features serve for the Fréchet distance and the diversity; both depend on the number of images,
    so compare equal numbers only. Raises ``ValueError`` without a verifier, or where one is the inverted network.

    >>> from invkit.testing import tiny_target
    >>> judge = Judge(target=tiny_target(), verifiers={"other": tiny_target(seed=1)}, real=torch.rand(4, 3, 8, 8))
    >>> list(judge(torch.rand(4, 3, 8, 8), torch.tensor([0, 0, 1, 1])))
    ['own', 'other', 'frechet', 'diversity', 'penalty', 'tv', 'saturated']
    """

    target: Target
    """The network that was inverted."""
    verifiers: Mapping[str, Target]
    """Networks that took no part in the inversion, by the name of their column."""
    real: Tensor
    """Images ``(N, C, H, W)`` in [0, 1] that no network was trained on."""

    def __post_init__(self) -> None:
        if not self.verifiers:
            raise ValueError("a judge needs at least one verifier")
        if any(v is self.target for v in self.verifiers.values()):
            raise ValueError("a verifier must not be the network that was inverted")
        object.__setattr__(self, "real", check_images(self.real, "real", keep_bytes=True))

    def __call__(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        """Scores of images by their name, after rounding to 8 bits.

        Args:
            images: ``(N, C, H, W)`` in [0, 1], two or more.
            labels: The classes that they were made for, ``(N,)``.

        Returns:
            Scores by name, of which ``own`` and each verifier's are the share of images recognised, in [0, 1];
            ``frechet``: in the first verifier's features, to the real images; ``diversity``: mean distance of two
            images of a class, in the same features; ``penalty``: R_feature of the batch, nan for a network without
            statistics; ``tv``: see :func:`roughness`; ``saturated``: share of pixels at 0 or 1.
        """
        images = quantise(self.target.check(images))
        features = self._features(images)
        return {
            "own": accuracy(self.target, images, labels)["top1"],
            **{name: accuracy(verifier, images, labels)["top1"] for name, verifier in self.verifiers.items()},
            "frechet": frechet_distance(features, self._real_features),
            "diversity": diversity(features, labels)["within"],
            "penalty": statistics_penalty(self.target, images),
            "tv": roughness(images),
            "saturated": saturated_fraction(images),
        }

    def _features(self, images: Tensor) -> Tensor:
        judge_network = next(iter(self.verifiers.values()))
        judge_network.spec.check(images, keep_bytes=True)
        return in_batches(judge_network.features, images, device=judge_network.device)

    @cached_property
    def _real_features(self) -> Tensor:
        return self._features(self.real)


@torch.no_grad()
def statistics_penalty(target: Target, images: Tensor, micro_batch: int = 256) -> float:
    """R_feature of images as one batch, whatever their number; nan for a network without statistics to match.

    Args:
        target: The network with the statistics.
        images: ``(N, C, H, W)`` in [0, 1].
        micro_batch: Images of one forward pass.

    Returns:
        R_feature in the form ``norm``, at least 0; nan for a network without batch norm.

    Raises:
        ValueError: For no images, or a network that somebody put back into train mode.

    >>> from invkit.testing import tiny_target
    >>> statistics_penalty(tiny_target(batch_norm=False), torch.rand(2, 3, 8, 8))
    nan
    """
    target.check_frozen()
    images = check_images(images, dtype=target.dtype)
    try:
        penalty = BatchNormPenalty(target.module)
    except ValueError:
        return float("nan")
    chunks = []
    with penalty.attached():
        for part in images.to(target.device).split(micro_batch):
            target(part)
            chunks.append(penalty.take())
        return float(penalty.linear_forms(chunks)[0])


def roughness(images: Tensor) -> float:
    """Mean absolute difference to the right-hand plus to the lower neighbour, in units of the pixel range.

    Args:
        images: Float ``(N, C, H, W)``.

    Returns:
        The mean over all images, in [0, 2] for images in [0, 1]; an axis of a single pixel adds nothing.

    >>> roughness(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]))
    1.0
    """
    images = check_images(images)
    return float(sum(images.diff(dim=axis).abs().mean() for axis in (-1, -2) if images.shape[axis] > 1))


@dataclass(frozen=True, kw_only=True)
class PairJudge:
    """Compares recovered images, rounded to 8 bits, with the real ones that were sought.

    Raises ``ValueError`` without a verifier, and for another number of labels than images.

    >>> from invkit.testing import tiny_target
    >>> real, labels = torch.rand(2, 3, 16, 16), torch.tensor([0, 1])
    >>> judge = PairJudge(real=real, labels=labels, verifiers={"other": tiny_target(size=(16, 16))})
    >>> list(judge(real / 2))
    ['psnr', 'psnr sd', 'ssim', 'distance', 'other']
    """

    real: Tensor
    """The images sought, ``(N, C, H, W)`` in [0, 1]."""
    labels: Tensor
    """Their classes, ``(N,)``."""
    verifiers: Mapping[str, Target]
    """Networks that took part in neither the features nor the inversion, by the name of their column."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "real", check_images(self.real, "real"))
        if len(self.real) != len(self.labels):
            raise ValueError(f"there are {len(self.real)} images for {len(self.labels)} labels")
        if not self.verifiers:
            raise ValueError("a judge of pairs needs at least one verifier")

    def __call__(self, images: Tensor) -> dict[str, float]:
        """Scores of recovered images by their name.

        Args:
            images: One for each real image, ``(N, C, H, W)`` in [0, 1].

        Returns:
            Scores by name, of which ``psnr`` is the mean in dB and ``psnr sd`` its standard deviation over the images;
            ``ssim`` in [-1, 1]; ``distance``: mean Euclidean distance in the first verifier's features, in units of
            that between two real images; each verifier's name: the share of images whose class it reads.

        Raises:
            ValueError: For images of another shape than the real ones.
        """
        images = quantise(self._checked(images))
        each = self.each(images)
        return {
            "psnr": float(each.mean()),
            "psnr sd": float(each.std(correction=0)),
            "ssim": ssim(images, self.real),
            "distance": self._distance(images),
            **{name: accuracy(net, images, self.labels)["top1"] for name, net in self.verifiers.items()},
        }

    def each(self, images: Tensor) -> Tensor:
        """PSNR of each image in dB, ``(N,)``, for images ``(N, C, H, W)`` in [0, 1], one for each real one.

        >>> from invkit.testing import tiny_target
        >>> judge = PairJudge(real=torch.zeros(1, 3, 8, 8), labels=torch.tensor([0]), verifiers={"": tiny_target()})
        >>> judge.each(torch.full((1, 3, 8, 8), 0.2))
        tensor([13.9794])
        """
        pairs = zip(quantise(self._checked(images)).split(1), self.real.split(1), strict=True)
        return torch.tensor([psnr(one, other) for one, other in pairs])

    def _checked(self, images: Tensor) -> Tensor:
        images = check_images(images).cpu()
        if images.shape != self.real.shape:
            raise ValueError(f"images {tuple(images.shape)} do not match the real ones {tuple(self.real.shape)}")
        return images

    def _distance(self, images: Tensor) -> float:
        judge_network = next(iter(self.verifiers.values()))
        recovered = in_batches(judge_network.features, images, device=judge_network.device)
        real = in_batches(judge_network.features, self.real, device=judge_network.device)
        unit = torch.pdist(real).mean() if len(real) > 1 else torch.tensor(1.0)
        return float((recovered - real).norm(dim=1).mean() / unit)
