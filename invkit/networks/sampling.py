"""Images from generators that have been trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from invkit.core.rng import isolated_rng
from invkit.networks.conditional_generator import ConditionalGenerator, Conditions


class TrainedGenerator:
    """One or several generators after training: images of asked-for classes, with dropout on (§3.2)."""

    def __init__(self, networks: Sequence[ConditionalGenerator]) -> None:
        self.networks = tuple(network.requires_grad_(False).sampling() for network in networks)
        self.spec, self.conditioning = self.networks[0].spec, self.networks[0].conditioning

    @torch.no_grad()
    def sample(
        self, labels: Tensor | Sequence[int] | int, *, generator: torch.Generator, which: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images ``(n, C, H, W)`` in [0, 1] on the CPU and their labels ``(n,)``: one for each of ``labels``, or that
        many of drawn classes. The networks take turns, or the one named ``which`` makes all.
        """
        count = labels if isinstance(labels, int) else len(labels)
        asked = self.conditioning.draw(count, generator, None if isinstance(labels, int) else labels)
        turn = torch.arange(count) % len(self.networks) if which is None else torch.full((count,), which)
        images = torch.empty(count, *self.spec.shape)
        device = next(self.networks[0].parameters()).device
        with isolated_rng(generator, device):  # dropout knows no generator
            for index, network in enumerate(self.networks):
                rows = torch.nonzero(turn == index)[:, 0]
                for part in rows.split(256):
                    images[part] = network(_rows(asked, part).to(device)).clamp(0, 1).cpu()
        return images, asked.labels


def _rows(conditions: Conditions, rows: Tensor) -> Conditions:
    parts = (conditions.latent, conditions.labels, conditions.vectors)
    latent, labels, vectors = (part[rows] for part in parts)
    return Conditions(latent=latent, labels=labels, vectors=vectors)
