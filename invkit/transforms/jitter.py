"""Random shifts and flips: drawn apart from being applied, so that they can be replayed and undone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from invkit.core.spec import check_rank


@dataclass(frozen=True, slots=True)
class Jitter:
    """For each of ``N`` images: offsets ``down`` and ``right`` in pixels, and whether it is flipped, each ``(N,)``.

    >>> Jitter(torch.tensor([1]), torch.tensor([0]), torch.tensor([False])).on(torch.device("cpu"))
    (tensor([[1]]), tensor([[0]]), tensor([[False]]))
    """

    down: Tensor
    right: Tensor
    flip: Tensor

    def on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """The three as columns ``(N, 1)`` on ``device``, without waiting for it."""
        down, right, flip = (t[:, None].to(device, non_blocking=True) for t in (self.down, self.right, self.flip))
        return down, right, flip


def draw_jitter(n: int, jitter: int, flip: float, generator: torch.Generator, together: bool = False) -> Jitter:
    """Offsets uniform in -jitter..jitter and flips with probability ``flip``, for each of ``n`` images or all alike.

    Args:
        n: Images, at least 1.
        jitter: Largest offset in pixels, a whole number of at least 0.
        flip: Probability of a horizontal flip, in [0, 1].
        generator: Source of the draws, a CPU generator.
        together: One draw for all images.

    Returns:
        The offsets and flips, on the CPU.

    >>> draw = draw_jitter(2, 3, 0.5, torch.Generator().manual_seed(0))
    >>> draw.down.shape, int(draw.right.abs().max()) <= 3
    (torch.Size([2]), True)
    """
    drawn = 1 if together else n
    down, right = torch.randint(-jitter, jitter + 1, (2, drawn), generator=generator)
    flipped = torch.rand(drawn, generator=generator) < flip
    return Jitter(down.expand(n), right.expand(n), flipped.expand(n))


def apply_jitter(images: Tensor, draw: Jitter, wrap: bool = True) -> Tensor:
    """Flip, then shift ``images`` ``(N, C, H, W)``; what leaves on one side comes back on the other, or is black.

    Black borders are what random cropping with padding, the usual training augmentation of small images, shows.

    Args:
        images: ``(N, C, H, W)``.
        draw: As :func:`draw_jitter` gives it for N images.
        wrap: Whether what leaves comes back on the other side; black comes in otherwise.

    Returns:
        Moved images of the same shape, with a graph to ``images``.

    Raises:
        ValueError: For another number of images than the jitter was drawn for.

    >>> one_down = Jitter(torch.tensor([1]), torch.tensor([0]), torch.tensor([False]))
    >>> apply_jitter(torch.tensor([[[[1.0], [2.0]]]]), one_down, wrap=False).flatten()
    tensor([0., 1.])
    """
    check_rank(images)
    if len(images) != len(draw.flip):
        raise ValueError(f"the jitter was drawn for {len(draw.flip)} images, not {len(images)}")
    down, right, flip = draw.on(images.device)
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) - down
    columns = torch.arange(width, device=images.device) - right
    return _gather(images, rows, torch.where(flip, width - 1 - columns, columns), wrap)


def undo_jitter(images: Tensor, draw: Jitter, wrap: bool = True) -> Tensor:
    """Inverse (where nothing was lost), and for a gradient the adjoint, of :func:`apply_jitter`.

    Args:
        images: ``(N, C, H, W)``, moved images or a gradient with respect to them.
        draw: The draw they were moved by.
        wrap: As they were moved.

    Returns:
        Images of the same shape, moved back; with ``wrap`` false, what had left stays black.

    >>> images = torch.rand(2, 3, 8, 8)
    >>> draw = draw_jitter(2, 3, 0.5, torch.Generator())
    >>> torch.equal(undo_jitter(apply_jitter(images, draw), draw), images)
    True
    """
    check_rank(images)
    down, right, flip = draw.on(images.device)
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) + down
    columns = torch.arange(width, device=images.device)
    return _gather(images, rows, torch.where(flip, width - 1 - columns, columns) + right, wrap)


def _gather(images: Tensor, rows: Tensor, columns: Tensor, wrap: bool) -> Tensor:
    """``out[n, :, i, j] = images[n, :, rows[n, i], columns[n, j]]``, modulo the size or zero outside."""
    height, width = images.shape[-2:]
    which = torch.arange(len(images), device=images.device)[:, None, None]
    moved = images[which, :, rows.remainder(height)[:, :, None], columns.remainder(width)[:, None, :]]
    if not wrap:
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
        moved = moved * inside[..., None].to(images.dtype)
    return moved.permute(0, 3, 1, 2)  # a channels-last view
