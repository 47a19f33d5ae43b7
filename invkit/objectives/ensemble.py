"""A network that is shown each image under many random shifts at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from invkit.core.target import Target
from invkit.objectives import losses
from invkit.objectives.objective import Batch
from invkit.transforms.resize import resize_images
from invkit.transforms.views import Shift


class Ensemble:
    """What an objective takes for its network: images to the logits ``(N, e, K)`` of their shifted copies.

    ``draw`` makes a shift from the generator, or None for the images as they are. Images are resized to ``size`` where
    it is given. ``micro_batch`` counts copies in a forward pass.

    >>> from invkit.testing import tiny_target
    >>> from invkit.transforms.views import ColorShift
    >>> draw = lambda generator: ColorShift.draw(2, 5, 3, 0.2, 0.2, generator)
    >>> Ensemble(tiny_target(), draw, torch.Generator())(torch.rand(2, 3, 8, 8)).shape
    torch.Size([2, 5, 4])
    """

    def __init__(
        self,
        target: Target,
        draw: Callable[[torch.Generator], Shift | None],
        generator: torch.Generator,
        *,
        size: tuple[int, int] | None = None,
        micro_batch: int | None = None,
    ) -> None:
        self.target, self.draw, self.generator = target, draw, generator
        self.size, self.micro_batch = size, micro_batch
        self.redraw()

    def redraw(self) -> None:
        """Other shifts from now on."""
        self.before = self.generator.get_state()
        self.shift = self.draw(self.generator)

    def state_dict(self) -> dict[str, Any]:
        """From where the shifts in use were drawn."""
        return {"before": self.before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Draw them again."""
        self.generator.set_state(state["before"])
        self.redraw()

    def __call__(self, images: Tensor) -> Tensor:
        # Resizing averages pixels with weights that sum to one, so it may come before the shift, once for all copies.
        resized = resize_images(images, self.size) if self.size else images
        copies = self.shift(resized) if self.shift else resized
        if self.micro_batch is None or self.micro_batch >= len(copies):
            logits = self.target(copies)
        else:  # activations are not kept but computed anew, chunk by chunk, on the way back
            logits = torch.cat([self.again(chunk) for chunk in copies.split(self.micro_batch)])
        return logits.unflatten(0, (len(images), -1))

    def again(self, copies: Tensor) -> Tensor:
        """The logits, without their graph."""
        return checkpoint(self.target, copies, use_reentrant=False, preserve_rng_state=False)

    @staticmethod
    def cross_entropy(batch: Batch) -> Tensor:
        """The mean over the copies, ``(N,)``."""
        e = batch.outputs.shape[1]
        values = losses.cross_entropy(batch.outputs.flatten(0, 1), batch.references.repeat_interleave(e))
        return values.view(-1, e).mean(1)
