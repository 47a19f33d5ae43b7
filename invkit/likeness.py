"""How like images recovered from features are to those that the features were of: the same numbers for every method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from invkit.images import quantise
from invkit.metrics import accuracy, in_batches, psnr, ssim
from invkit.target import Target


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """Compares recovered images with the ``real`` ones ``(N, C, H, W)`` in [0, 1] of classes ``labels`` ``(N,)``.

    ``verifiers`` took part in neither the features nor the inversion. Recovered images are rounded to 8 bits first.
    """

    real: Tensor
    labels: Tensor
    verifiers: Mapping[str, Target]

    def __post_init__(self) -> None:
        if len(self.real) != len(self.labels) or len(self.real) == 0:
            raise ValueError(f"there are {len(self.real)} images for {len(self.labels)} labels")
        if not self.verifiers:
            raise ValueError("likeness needs at least one verifier")

    def __call__(self, made: Tensor) -> dict[str, float]:
        """Scores of ``made``, one image for each real one.

        ``psnr`` in dB, its mean, and ``psnr sd`` over the images; ``ssim`` in [-1, 1]; ``distance``: mean Euclidean
        distance in the first verifier's features, in units of that between two real images; each verifier's name: the
        share of images whose class it reads.
        """
        made, each = quantise(made.cpu()), self.each(made)
        return {
            "psnr": float(each.mean()),
            "psnr sd": float(each.std(correction=0)),
            "ssim": ssim(made, self.real),
            "distance": self._distance(made),
            **{name: accuracy(net, made, self.labels)["top1"] for name, net in self.verifiers.items()},
        }

    def each(self, made: Tensor) -> Tensor:
        """PSNR of each image in dB, ``(N,)``."""
        if made.shape != self.real.shape:
            raise ValueError(
                f"recovered images {tuple(made.shape)} do not match the real ones {tuple(self.real.shape)}"
            )
        pairs = zip(quantise(made.cpu()).split(1), self.real.split(1), strict=True)
        return torch.tensor([psnr(one, other) for one, other in pairs])

    def _distance(self, made: Tensor) -> float:
        eye = next(iter(self.verifiers.values()))
        ours, theirs = (in_batches(eye.features, images, device=eye.device) for images in (made, self.real))
        usual = torch.pdist(theirs).mean() if len(theirs) > 1 else torch.tensor(1.0)
        return float((ours - theirs).norm(dim=1).mean() / usual)
