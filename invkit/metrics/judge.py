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
    """Scores inverted images by the inverted ``target``, by ``verifiers`` that took no part, and against real ones.

    ``real`` ``(N, C, H, W)`` are images that no network was trained on. The first verifier's features serve for the
    Fréchet distance and the diversity; both depend on the number of images, so compare equal numbers only.
    """

    target: Target
    verifiers: Mapping[str, Target]
    real: Tensor

    def __post_init__(self) -> None:
        if not self.verifiers:
            raise ValueError("a judge needs at least one verifier")
        if any(v is self.target for v in self.verifiers.values()):
            raise ValueError("a verifier must not be the network that was inverted")
        object.__setattr__(self, "real", check_images(self.real, "real", keep_bytes=True))

    def __call__(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        """Scores of ``images`` ``(N, C, H, W)`` made for ``labels`` ``(N,)``, after rounding to 8 bits.

        ``own`` and each verifier's name: share of images recognised, in [0, 1]; ``frechet``: in the first verifier's
        features, to the real images; ``diversity``: mean distance of two images of a class, in the same features;
        ``penalty``: R_feature of the batch, nan for a network without statistics; ``tv``: see :func:`roughness`;
        ``saturated``: share of pixels at 0 or 1.
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
    """R_feature of ``images`` as one batch, whatever their number; nan for a network without statistics to match.

    Raises ``ValueError`` for no images, or a network that somebody put back into train mode.
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

    >>> roughness(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]))
    1.0
    """
    images = check_images(images)
    return float(images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean())


@dataclass(frozen=True, kw_only=True)
class PairJudge:
    """Compares recovered images with the ``real`` ones ``(N, C, H, W)`` in [0, 1] of classes ``labels`` ``(N,)``.

    ``verifiers`` took part in neither the features nor the inversion. Recovered images are rounded to 8 bits first.
    """

    real: Tensor
    labels: Tensor
    verifiers: Mapping[str, Target]

    def __post_init__(self) -> None:
        object.__setattr__(self, "real", check_images(self.real, "real"))
        if len(self.real) != len(self.labels):
            raise ValueError(f"there are {len(self.real)} images for {len(self.labels)} labels")
        if not self.verifiers:
            raise ValueError("likeness needs at least one verifier")

    def __call__(self, images: Tensor) -> dict[str, float]:
        """Scores of ``images``, one for each real one.

        ``psnr`` in dB, its mean, and ``psnr sd`` over the images; ``ssim`` in [-1, 1]; ``distance``: mean Euclidean
        distance in the first verifier's features, in units of that between two real images; each verifier's name: the
        share of images whose class it reads.
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
        """PSNR of each image in dB, ``(N,)``."""
        pairs = zip(quantise(self._checked(images)).split(1), self.real.split(1), strict=True)
        return torch.tensor([psnr(one, other) for one, other in pairs])

    def _checked(self, images: Tensor) -> Tensor:
        images = check_images(images).cpu()
        if images.shape != self.real.shape:
            raise ValueError(f"images {tuple(images.shape)} do not match the real ones {tuple(self.real.shape)}")
        return images

    def _distance(self, images: Tensor) -> float:
        judge_network = next(iter(self.verifiers.values()))
        ours, theirs = (
            in_batches(judge_network.features, some, device=judge_network.device) for some in (images, self.real)
        )
        usual = torch.pdist(theirs).mean() if len(theirs) > 1 else torch.tensor(1.0)
        return float((ours - theirs).norm(dim=1).mean() / usual)
