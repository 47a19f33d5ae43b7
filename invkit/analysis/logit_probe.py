"""What an inverse of a classifier's logits tells of the classifier: the measurements of Teterwak et al. (2021, §1)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from invkit.analysis.logits import moves, nearest, relative_change
from invkit.attacks import pgd
from invkit.core.target import Target
from invkit.data.datasets import Split
from invkit.data.images import quantise
from invkit.metrics.judge import PairJudge
from invkit.metrics.quality import accuracy, frechet_distance, in_batches, psnr, ssim


class LogitInverter(Protocol):
    """Turns logits ``(N, K)`` into images ``(N, C, H, W)``; ``draws`` does so ``count`` times, with other noise."""

    def __call__(self, logits: Tensor, /) -> Tensor: ...

    def draws(self, logits: Tensor, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """``(count, N, C, H, W)``."""
        ...


class LogitProbe:
    """An inverse of a network's logits, asked about labelled images that neither has seen.

    All distances are relative: the mean change, in units of the mean distance between two of the images, in pixels, in
    the target's logits or in the verifier's features.

    Args:
        target: The network whose logits are inverted.
        inverse: From logits ``(N, K)`` to images ``(N, C, H, W)``; one that takes noise has ``draws`` too.
        split: The images.
        verifier: A network that judges and took part in nothing.

    >>> from invkit.testing import tiny_target
    >>> split = Split(pixels=(255 * torch.rand(4, 3, 16, 16)).byte(), labels=torch.arange(4))
    >>> grey = lambda logits: logits.sigmoid().mean(1).view(-1, 1, 1, 1).expand(-1, 3, 16, 16)
    >>> probe = LogitProbe(tiny_target(size=(16, 16)), grey, split, tiny_target(size=(16, 16), seed=1))
    >>> probe.reconstructions.shape
    torch.Size([4, 3, 16, 16])
    >>> list(probe.scores())
    ['psnr', 'ssim', 'distance', 'verifier', 'agreement', 'logits', 'Fréchet']
    """

    def __init__(
        self, target: Target, inverse: LogitInverter | Callable[[Tensor], Tensor], split: Split, verifier: Target
    ) -> None:
        self.target, self.inverse, self.verifier = target, inverse, verifier
        self.real, self.labels = split.images, split.labels
        self.pair_judge = PairJudge(real=self.real, labels=self.labels, verifiers={"verifier": verifier})
        self.logits = self.target_logits(self.real)

    @cached_property
    def reconstructions(self) -> Tensor:
        """What the inverse makes of the images' logits, ``(N, C, H, W)``."""
        return self.invert(self.logits)

    def target_logits(self, images: Tensor) -> Tensor:
        """The target's logits ``(N, K)`` for images rounded to 8 bits."""
        return in_batches(self.target, quantise(images))

    @torch.no_grad()
    def invert(self, logits: Tensor) -> Tensor:
        """Images of logits ``(N, K)``, on the CPU."""
        return self.inverse(logits.to(self.target.device)).cpu()

    def reconstruct(self, images: Tensor) -> Tensor:
        """What comes back of other images ``(N, C, H, W)``, by way of their logits."""
        return self.invert(self.target_logits(images))

    def draws(self, count: int, generator: torch.Generator, rows: Tensor | slice = slice(None)) -> Tensor:
        """Images of the same logits with other noise.

        Args:
            count: How many for each image.
            generator: Of the noise.
            rows: Which of the images.

        Returns:
            ``(count, N, C, H, W)``.

        Raises:
            ValueError: For an inverse that takes no noise.
        """
        if not hasattr(self.inverse, "draws"):
            raise ValueError("this inverse takes no noise: one image is all that it makes of a logit vector")
        images: Tensor = self.inverse.draws(self.logits[rows].to(self.target.device), count, generator=generator)
        return images.cpu()

    def verifier_features(self, images: Tensor) -> Tensor:
        """The verifier's features ``(N, D)`` of images rounded to 8 bits."""
        return in_batches(self.verifier.features, quantise(images), device=self.verifier.device)

    def scores(self, images: Tensor | None = None) -> dict[str, float]:
        """How good recovered images are.

        Args:
            images: One for each real image, ``(N, C, H, W)``; the inverse's reconstructions if None.

        Returns:
            ``psnr`` in dB, ``ssim``, ``distance`` and ``verifier`` as :class:`~invkit.metrics.judge.PairJudge` has
            them; ``agreement``: the share of images that the target puts where it put the real one; ``logits``: how far
            its logits moved; ``Fréchet``: the distance of the two sets in the verifier's features.
        """
        images = self.reconstructions if images is None else images
        by_pair, logits = self.pair_judge(images), self.target_logits(images)
        return {
            **{name: by_pair[name] for name in ("psnr", "ssim", "distance", "verifier")},
            "agreement": float((logits.argmax(1) == self.logits.argmax(1)).double().mean()),
            "logits": relative_change(self.logits, logits),
            "Fréchet": frechet_distance(self.verifier_features(images), self.verifier_features(self.real)),
        }

    def baselines(self, known: Split) -> dict[str, Tensor]:
        """Guesses ``(N, C, H, W)`` that need no inverse, from known images: the one of the nearest logits, and the mean
        of the class that the target answers.
        """
        means = torch.stack([known.of_class(k).images.mean(0) for k in range(self.logits.shape[1])])
        near = nearest(self.logits, self.target_logits(known.images))
        return {"nearest logits": known.images[near], "class mean": means[self.logits.argmax(1)]}

    def under_noise(self, generator: torch.Generator) -> dict[str, float]:
        """How far images and logits move from one draw to the next (section 3).

        The control borrows the change of another image's draws: as large, but not this image's to ignore. ``ratio`` is
        that of the logits' moves, by the own change and by the borrowed one.
        """
        first, second = self.draws(2, generator)
        borrowed = (first + (second - first).roll(1, 0)).clamp(0, 1)
        start = self.target_logits(first)
        own = relative_change(start, self.target_logits(second), self.logits)
        other = relative_change(start, self.target_logits(borrowed), self.logits)
        return {
            "images": relative_change(first, second, self.real),
            "logits": own,
            "images, borrowed": relative_change(first, borrowed, self.real),
            "logits, borrowed": other,
            "ratio": own / max(other, 1e-12),
        }

    def moved_images(
        self, amount: float, generator: torch.Generator, rows: Tensor | slice = slice(None)
    ) -> dict[str, Tensor]:
        """Images of moved logits ``(N, C, H, W)``, by the name of the move.

        Args:
            amount: How far the logits move, see :func:`~invkit.analysis.logits.moves`.
            generator: Of the random move.
            rows: Which of the images.
        """
        moved = moves(self.logits[rows], amount, generator=generator)
        return {move: self.invert(logits) for move, logits in moved.items()}

    def sensitivity(self, amount: float, generator: torch.Generator) -> dict[str, float]:
        """Change of the images per change of the logits, by the name of the move; 1 where two images differ as much as
        their logits do.

        Args:
            amount: How far the logits move, above 0, see :func:`~invkit.analysis.logits.moves`.
            generator: Of the random move.
        """
        moved = self.moved_images(amount, generator)
        return {
            move: relative_change(self.reconstructions, images, self.real) / amount for move, images in moved.items()
        }

    def attacked(self, eps: float, generator: torch.Generator) -> Tensor:
        """The images after PGD against the target within ``eps`` (L∞), see :func:`invkit.attacks.pgd`."""
        images = self.real.to(self.target.device)
        return pgd(self.target, images, self.labels, eps=eps, generator=generator).cpu()

    def with_images(self, split: Split) -> LogitProbe:
        """The same inverse, asked about other images."""
        return LogitProbe(self.target, self.inverse, split, self.verifier)

    def under_change(self, changed: Tensor) -> dict[str, float]:
        """What becomes of the reconstructions when the target is shown changed images.

        Args:
            changed: One in the place of each real image, ``(N, C, H, W)``.

        Returns:
            ``distance``: how far the reconstructions moved in the verifier's features; ``psnr`` to the real image;
            ``verifier`` and ``verifier, changed``: the share of reconstructions and of changed images that it reads
            rightly.
        """
        images = quantise(self.reconstruct(changed))
        before, after = self.verifier_features(self.reconstructions), self.verifier_features(images)
        return {
            "distance": relative_change(before, after, self.verifier_features(self.real)),
            "psnr": psnr(images, self.real),
            "verifier": accuracy(self.verifier, images, self.labels)["top1"],
            "verifier, changed": accuracy(self.verifier, quantise(changed), self.labels)["top1"],
        }

    def on_other_images(self, images: Tensor) -> dict[str, float]:
        """PSNR and SSIM of what comes back of images of another kind ``(N, C, H, W)``, and its PSNR to the next image
        of the batch, which is what can be had without looking at the image.
        """
        reconstructions = quantise(self.reconstruct(images))
        return {
            "psnr": psnr(reconstructions, images),
            "ssim": ssim(reconstructions, images),
            "psnr to another": psnr(reconstructions, images.roll(1, 0)),
        }

    def misclassified(self) -> Tensor:
        """Which of the images the target classifies wrongly, boolean ``(N,)``."""
        return self.logits.argmax(1) != self.labels

    def by_answer(self) -> dict[str, dict[str, float]]:
        """Scores of rightly and of wrongly classified images apart; a group without images is left out.

        ``true class`` and ``answered class``: the share of reconstructions that the verifier reads so.
        """
        classes = in_batches(self.verifier, quantise(self.reconstructions)).argmax(1)
        real, recovered = self.verifier_features(self.real), self.verifier_features(self.reconstructions)
        answer, each_psnr = self.logits.argmax(1), self.pair_judge.each(self.reconstructions)
        rows = {}
        for name, part in (("right", ~self.misclassified()), ("wrong", self.misclassified())):
            if part.any():
                rows[name] = {
                    "images": int(part.sum()),
                    "psnr": float(each_psnr[part].mean()),
                    "distance": relative_change(real[part], recovered[part], real),
                    "true class": float((classes == self.labels)[part].double().mean()),
                    "answered class": float((classes == answer)[part].double().mean()),
                }
        return rows
