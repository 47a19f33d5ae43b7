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
    """An inverse of ``target``'s logits, asked about labelled images that neither has seen.

    ``split`` holds these images; ``verifier`` judges and took part in nothing. All distances are relative: the mean
    change, in units of the mean distance between two of the images, in pixels, in the target's logits or in the
    verifier's features.
    """

    def __init__(
        self, target: Target, inverse: LogitInverter | Callable[[Tensor], Tensor], split: Split, verifier: Target
    ) -> None:
        self.target, self.inverse, self.verifier = target, inverse, verifier
        self.real, self.labels = split.images, split.labels
        self.like = PairJudge(real=self.real, labels=self.labels, verifiers={"verifier": verifier})
        self.logits = self.answers(self.real)

    @cached_property
    def made(self) -> Tensor:
        """What the inverse draws from the logits of the images, ``(N, C, H, W)``."""
        return self.draw(self.logits)

    def answers(self, images: Tensor) -> Tensor:
        """The target's logits ``(N, K)`` for images rounded to 8 bits."""
        return in_batches(self.target, quantise(images))

    @torch.no_grad()
    def draw(self, logits: Tensor) -> Tensor:
        """Images of logits ``(N, K)``, on the CPU."""
        return self.inverse(logits.to(self.target.device)).cpu()

    def again(self, images: Tensor) -> Tensor:
        """What comes back of other images, by way of their logits."""
        return self.draw(self.answers(images))

    def draws(self, count: int, generator: torch.Generator, rows: Tensor | slice = slice(None)) -> Tensor:
        """``(count, N, C, H, W)``: images of the same logits with other noise."""
        if not hasattr(self.inverse, "draws"):
            raise ValueError("this inverse takes no noise: one image is all that it makes of a logit vector")
        drawn: Tensor = self.inverse.draws(self.logits[rows].to(self.target.device), count, generator=generator)
        return drawn.cpu()

    def seen(self, images: Tensor) -> Tensor:
        """The verifier's features ``(N, D)`` of images rounded to 8 bits."""
        return in_batches(self.verifier.features, quantise(images), device=self.verifier.device)

    def scores(self, made: Tensor | None = None) -> dict[str, float]:
        """How good ``made`` (by default the inverse's images) are, one for each real image.

        ``psnr`` in dB, ``ssim``, ``distance`` and ``verifier`` as :class:`~invkit.metrics.judge.PairJudge` has them;
        ``agreement``: the share of images that the target puts where it put the real one; ``logits``: how far its
        logits moved; ``Fréchet``: the distance of the two sets in the verifier's features.
        """
        made = self.made if made is None else made
        found, again = self.like(made), self.answers(made)
        return {
            **{name: found[name] for name in ("psnr", "ssim", "distance", "verifier")},
            "agreement": float((again.argmax(1) == self.logits.argmax(1)).double().mean()),
            "logits": relative_change(self.logits, again),
            "Fréchet": frechet_distance(self.seen(made), self.seen(self.real)),
        }

    def naive(self, known: Split) -> dict[str, Tensor]:
        """Guesses that need no inverse, from ``known`` images: that of the nearest logits, and the mean of the class
        that the target answers.
        """
        means = torch.stack([known.of_class(k).images.mean(0) for k in range(self.logits.shape[1])])
        near = nearest(self.logits, self.answers(known.images))
        return {"nearest logits": known.images[near], "class mean": means[self.logits.argmax(1)]}

    def under_noise(self, generator: torch.Generator) -> dict[str, float]:
        """How far images and logits move from one draw to the next (section 3).

        The control borrows the change of another image's draws: as large, but not this image's to ignore. ``ratio`` is
        that of the logits' moves, by the own change and by the borrowed one.
        """
        first, second = self.draws(2, generator)
        borrowed = (first + (second - first).roll(1, 0)).clamp(0, 1)
        start = self.answers(first)
        own = relative_change(start, self.answers(second), self.logits)
        other = relative_change(start, self.answers(borrowed), self.logits)
        return {
            "images": relative_change(first, second, self.real),
            "logits": own,
            "images, borrowed": relative_change(first, borrowed, self.real),
            "logits, borrowed": other,
            "ratio": own / max(other, 1e-12),
        }

    def moved(self, amount: float, generator: torch.Generator, rows: Tensor | slice = slice(None)) -> dict[str, Tensor]:
        """Images of logits that were moved by ``amount``, for each of :func:`~invkit.analysis.logits.moves`."""
        return {how: self.draw(z) for how, z in moves(self.logits[rows], amount, generator=generator).items()}

    def gains(self, amount: float, generator: torch.Generator) -> dict[str, float]:
        """Image change per change of the logits, by ``amount`` > 0, see :func:`~invkit.analysis.logits.moves`."""
        made = self.moved(amount, generator)
        return {how: relative_change(self.made, images, self.real) / amount for how, images in made.items()}

    def attacked(self, eps: float, generator: torch.Generator) -> Tensor:
        """The images after PGD against the target within ``eps`` (L∞), see :func:`invkit.attacks.pgd`."""
        images = self.real.to(self.target.device)
        return pgd(self.target, images, self.labels, eps=eps, generator=generator).cpu()

    def on(self, split: Split) -> LogitProbe:
        """The same inverse, asked about other images."""
        return LogitProbe(self.target, self.inverse, split, self.verifier)

    def after(self, changed: Tensor) -> dict[str, float]:
        """What becomes of the images drawn, when the target is shown ``changed`` ones in the place of the real ones.

        ``distance``: how far the drawn images moved in the verifier's features; ``psnr`` to the real image;
        ``verifier`` and ``verifier, changed``: the share of drawn and of changed images that it reads rightly.
        """
        again = quantise(self.again(changed))
        return {
            "distance": relative_change(self.seen(self.made), self.seen(again), self.seen(self.real)),
            "psnr": psnr(again, self.real),
            "verifier": accuracy(self.verifier, again, self.labels)["top1"],
            "verifier, changed": accuracy(self.verifier, quantise(changed), self.labels)["top1"],
        }

    def elsewhere(self, images: Tensor) -> dict[str, float]:
        """PSNR and SSIM of what comes back of images of another kind, and its PSNR to the next image of the batch,
        which is what can be had without looking at the image.
        """
        again = quantise(self.again(images))
        return {
            "psnr": psnr(again, images),
            "ssim": ssim(again, images),
            "psnr to another": psnr(again, images.roll(1, 0)),
        }

    def wrong(self) -> Tensor:
        """Which of the images the target classifies wrongly, boolean ``(N,)``."""
        return self.logits.argmax(1) != self.labels

    def by_answer(self) -> dict[str, dict[str, float]]:
        """Rightly and wrongly classified images apart; a group without images is left out.

        ``true class`` and ``answered class``: the share of drawn images that the verifier reads so.
        """
        read, moved = in_batches(self.verifier, quantise(self.made)).argmax(1), {}
        real, made, answer = self.seen(self.real), self.seen(self.made), self.logits.argmax(1)
        for name, part in (("right", ~self.wrong()), ("wrong", self.wrong())):
            if part.any():
                moved[name] = {
                    "images": int(part.sum()),
                    "psnr": float(self.like.each(self.made)[part].mean()),
                    "distance": relative_change(real[part], made[part], real),
                    "true class": float((read == self.labels)[part].double().mean()),
                    "answered class": float((read == answer)[part].double().mean()),
                }
        return moved
