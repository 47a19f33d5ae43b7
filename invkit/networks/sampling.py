"""Images from generators that have been trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from invkit.core.rng import default_generator, isolated_rng
from invkit.networks.conditional_generator import ConditionalGenerator, Conditions


class TrainedGenerator:
    """One or several generators after training: labels to images of these classes, with dropout on (§3.2).

    >>> from invkit.networks.conditional_generator import Conditioning
    >>> from invkit.testing import quadrants_target
    >>> spec = quadrants_target().spec
    >>> inverse = TrainedGenerator([ConditionalGenerator(spec, Conditioning(classes=4), width=4)])
    >>> inverse([0, 3, 3], torch.Generator()).shape
    torch.Size([3, 1, 12, 12])
    """

    def __init__(self, networks: Sequence[ConditionalGenerator]) -> None:
        self.networks = tuple(network.requires_grad_(False).sampling() for network in networks)
        self.spec, self.conditioning = self.networks[0].spec, self.networks[0].conditioning

    def __call__(self, labels: Tensor | Sequence[int], generator: torch.Generator | None = None) -> Tensor:
        """One image for each of ``labels`` ``(N,)``: ``(N, C, H, W)`` in [0, 1] on the CPU.

        ``generator`` is the source of noise and dropout; None always draws the same.
        """
        return self.sample(labels, generator=generator or default_generator())[0]

    @torch.no_grad()
    def sample(
        self, labels: Tensor | Sequence[int] | int, *, generator: torch.Generator, which: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images in [0, 1] on the CPU, and their labels.

        Args:
            labels: The class of each image, or a number of images whose classes are drawn.
            generator: Source of classes, noise and dropout.
            which: The network that makes all; None lets them take turns.

        Returns:
            Images ``(N, C, H, W)`` and labels ``(N,)``.

        >>> from invkit.networks.conditional_generator import Conditioning
        >>> from invkit.testing import quadrants_target
        >>> spec = quadrants_target().spec
        >>> inverse = TrainedGenerator([ConditionalGenerator(spec, Conditioning(classes=4), width=4)])
        >>> images, labels = inverse.sample(5, generator=torch.Generator())
        >>> len(images), len(labels)
        (5, 5)
        """
        count = labels if isinstance(labels, int) else len(labels)
        conditions = self.conditioning.draw(count, generator, None if isinstance(labels, int) else labels)
        turn = torch.arange(count) % len(self.networks) if which is None else torch.full((count,), which)
        images = torch.empty(count, *self.spec.shape)
        device = next(self.networks[0].parameters()).device
        with isolated_rng(generator, device):  # dropout knows no generator
            for index, network in enumerate(self.networks):
                rows = torch.nonzero(turn == index)[:, 0]
                for part in rows.split(256):
                    images[part] = network(_rows(conditions, part).to(device)).clamp(0, 1).cpu()
        return images, conditions.labels


def _rows(conditions: Conditions, rows: Tensor) -> Conditions:
    parts = (conditions.latent, conditions.labels, conditions.vectors)
    latent, labels, vectors = (part[rows] for part in parts)
    return Conditions(latent=latent, labels=labels, vectors=vectors)
