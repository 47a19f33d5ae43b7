"""One protocol for the images of every method: the same networks, the same numbers, on what a saved file holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from invkit.bn_hooks import BatchNormPenalty
from invkit.images import quantise
from invkit.metrics import accuracy, diversity, frechet_distance, in_batches, saturated_fraction
from invkit.target import Target


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

    def __call__(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        """Scores of ``images`` ``(N, C, H, W)`` made for ``labels`` ``(N,)``, after rounding to 8 bits.

        ``own`` and each verifier's name: share of images recognised, in [0, 1]; ``frechet``: in the first verifier's
        features, to the real images; ``diversity``: mean distance of two images of a class, in the same features;
        ``penalty``: R_feature of the batch, nan for a network without statistics; ``tv``: see :func:`roughness`;
        ``saturated``: share of pixels at 0 or 1.
        """
        images = quantise(images)
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
        eye = next(iter(self.verifiers.values()))
        eye.spec.check(images)
        return in_batches(eye.features, images, device=eye.device)

    @cached_property
    def _real_features(self) -> Tensor:
        return self._features(self.real)


@torch.no_grad()
def statistics_penalty(target: Target, images: Tensor, micro_batch: int = 256) -> float:
    """R_feature of ``images`` as one batch, whatever their number; nan for a network without statistics to match.

    Raises ``ValueError`` for no images, or a network that somebody put back into train mode.
    """
    target.check_frozen()
    if len(images) == 0:
        raise ValueError("there are no images whose statistics could be compared")
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
    return float(images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean())
