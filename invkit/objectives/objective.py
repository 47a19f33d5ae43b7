"""What is minimised over images, and its gradient for the whole batch, however the batch is cut up.

Terms are means of per-image values, so they add up over micro-batches and ranks by themselves; the batch-norm penalty
is put together from merged moments (see :mod:`invkit.objectives.batch_norm`). Terms see what the network sees, shifted
and flipped images; priors see the images themselves, without the borders that a shift makes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from invkit.core.device import autocast
from invkit.core.files import Stateful
from invkit.objectives.batch_norm import BatchNormPenalty, LinearForm
from invkit.objectives.moments import ImageMoments
from invkit.transforms.jitter import Jitter, apply_jitter, undo_jitter


@dataclass(frozen=True, slots=True)
class Batch:
    """What a term sees of a (micro-)batch: jittered ``images`` ``(n, C, H, W)``, ``outputs``, ``references``.

    >>> from invkit.objectives import losses
    >>> batch = Batch(images=torch.rand(2, 3, 8, 8), outputs=torch.rand(2, 4), references=torch.tensor([0, 3]))
    >>> losses.cross_entropy(batch.outputs, batch.references).shape
    torch.Size([2])
    """

    images: Tensor
    outputs: Tensor
    references: Tensor


Term = Callable[[Batch], Tensor]
"""One value per image, ``(n,)``; the loss takes the mean over the whole batch."""

Prior = Callable[[Tensor], Tensor]
"""The same of images ``(n, C, H, W)`` alone, as they are: not shifted, not flipped, not seen by any network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """``sum_t weight_t * mean_i term_t(image_i) + penalty_weight * R_feature(batch)``.

    ``network`` maps images in [0, 1] to what the terms call ``outputs``: logits, or features of a tap. ``references``
    holds one row per image, whatever the terms compare the outputs with. ``terms`` are names with a weight and a
    function of a :class:`Batch` that gives one value per image.

    Raises:
        ValueError: Where there is neither a term, nor a prior, nor a penalty.

    >>> from invkit.objectives import losses
    >>> from invkit.testing import tiny_target
    >>> objective = Objective(
    ...     network=tiny_target(),
    ...     terms={"cross_entropy": (2.0, lambda batch: losses.cross_entropy(batch.outputs, batch.references))},
    ...     references=torch.tensor([0, 3]),
    ... )
    >>> objective.names, objective.evaluate(torch.rand(2, 3, 8, 8), objective.references).shape
    (('cross_entropy',), torch.Size([1]))
    """

    network: Callable[[Tensor], Tensor]
    terms: Mapping[str, tuple[float, Term]]
    references: Tensor
    penalty: BatchNormPenalty | None = None
    penalty_weight: float = 0.0
    priors: Mapping[str, tuple[float, Prior]] = field(default_factory=dict)
    """Terms of the images themselves, with their weights."""
    depends_on: str = ""
    """What else the objective depends on, say another network's fingerprint; a checkpoint remembers it."""
    state: Stateful | None = None
    """What changes beside the images, say random shifts; a checkpoint holds its state."""

    def __post_init__(self) -> None:
        if not self.terms and not self.priors and self.penalty is None:
            raise ValueError("there is nothing to minimise: every weight of the loss is zero")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the terms, then of the priors, the penalty last."""
        return (*self.terms, *self.priors, *(("batch_norm",) if self.penalty else ()))

    def evaluate(self, images: Tensor, references: Tensor) -> Tensor:
        """Weighted sums over these images of each term, ``(n_terms,)``, with a graph to ``images``."""
        outputs = self.network(images)
        batch = Batch(images, outputs if outputs.dtype == torch.float64 else outputs.float(), references)
        sums = [weight * term(batch).sum() for weight, term in self.terms.values()]
        return torch.stack(sums) if sums else images.new_zeros(0)


class Gradient:
    """``gradient(images)`` gives the weighted terms ``(n_terms,)`` and d(total)/d(images) of the whole batch.

    Chunks of ``micro_batch`` and the batches of other ranks count as one batch.

    >>> mean = Objective(
    ...     network=lambda images: images.mean((1, 2, 3)), terms={"mean": (1.0, lambda batch: batch.outputs)},
    ...     references=torch.zeros(1),
    ... )
    >>> values, gradient = Gradient(mean)(torch.ones(1, 1, 2, 2))
    >>> values, gradient.flatten()
    (tensor([1.]), tensor([0.2500, 0.2500, 0.2500, 0.2500]))
    """

    def __init__(
        self, objective: Objective, *, micro_batch: int | None = None, bf16: bool = False, compile: bool = False
    ) -> None:
        self.objective, self.micro_batch, self.bf16 = objective, micro_batch, bf16
        self.ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        # Hooks must be there before compiling, so callers enter penalty.attached() first.
        self.evaluate = torch.compile(self._evaluate, dynamic=False) if compile else self._evaluate

    def _evaluate(self, images: Tensor, references: Tensor) -> tuple[Tensor, list[Any]]:
        with autocast(images.device, self.bf16):
            sums = self.objective.evaluate(images, references)
        return sums, self.objective.penalty.take() if self.objective.penalty else []

    @torch.no_grad()
    def _moments(self, images: Tensor) -> list[Any]:
        """The layers' moments alone: no terms, no graph."""
        assert self.objective.penalty is not None
        with autocast(images.device, self.bf16):
            self.objective.network(images)
        return self.objective.penalty.take()

    def __call__(self, images: Tensor, draw: Jitter | None = None, wrap: bool = True) -> tuple[Tensor, Tensor]:
        """Weighted terms and gradient; the network and its terms see the images moved as ``draw`` says."""
        size = self.micro_batch or len(images)
        total = self._count(images)
        if self.objective.penalty:
            self.objective.penalty.take()  # moments of other forward passes, say of a callback's, do not count
        shown = images if draw is None else apply_jitter(images, draw, wrap)
        if not self.objective.terms and not self.objective.penalty:  # priors alone: no network is needed
            values, gradient = images.new_zeros(0), torch.zeros_like(shown)
        elif size >= len(images):
            values, gradient = self._whole(shown, total) if self.ranks == 1 else self._of_rank(shown, total)
        else:
            values, gradient = self._in_chunks(shown, size, total)
        gradient = gradient if draw is None else undo_jitter(gradient, draw, wrap)
        if not self.objective.priors:
            return values, gradient
        of_priors, added = self._of_priors(images, size, total)
        terms = len(self.objective.terms)
        return torch.cat([values[:terms], of_priors, values[terms:]]), gradient + added

    def _of_priors(self, whole: Tensor, size: int, total: int) -> tuple[Tensor, Tensor]:
        """The weighted priors of the images as they are, and their gradient."""
        gradients, values = [], whole.new_zeros(len(self.objective.priors))
        for images in whole.split(size):
            leaf = images.detach().requires_grad_()
            sums = torch.stack([weight * prior(leaf).sum() for weight, prior in self.objective.priors.values()]) / total
            gradients.append(torch.autograd.grad(sums.sum(), leaf)[0])
            values = values + sums.detach()
        if self.ranks > 1:
            dist.all_reduce(values)
        return values, torch.cat(gradients)

    def _whole(self, images: Tensor, total: int) -> tuple[Tensor, Tensor]:
        leaf = images.detach().requires_grad_()
        sums, taken = self.evaluate(leaf, self.objective.references)
        values = sums / total
        if self.objective.penalty:
            batch_norm = self.objective.penalty_weight * self.objective.penalty.value(taken)
            values = torch.cat([values, batch_norm.view(1)])
        return values.detach(), torch.autograd.grad(values.sum(), leaf)[0]

    def _of_rank(self, images: Tensor, total: int) -> tuple[Tensor, Tensor]:
        """The images of this rank in one pass, whose moments are exchanged between forward and backward."""
        penalty, weight = self.objective.penalty, self.objective.penalty_weight
        leaf = images.detach().requires_grad_()
        sums, taken = self.evaluate(leaf, self.objective.references)
        values, loss = sums.detach() / total, sums.sum() / total
        if penalty:
            moments = [(i, ImageMoments(m.count, m.means.detach(), m.variances.detach())) for i, m in taken]
            batch_norm, forms = penalty.linear_forms([moments], across_ranks=True)
            loss = loss + weight * forms[0](taken)
        gradient = torch.autograd.grad(loss, leaf)[0]
        dist.all_reduce(values)
        if penalty:
            values = torch.cat([values, (weight * batch_norm).view(1)])
        return values, gradient

    def _in_chunks(self, whole: Tensor, size: int, total: int) -> tuple[Tensor, Tensor]:
        chunks = list(zip(whole.split(size), self.objective.references.split(size), strict=True))
        penalty, weight = self.objective.penalty, self.objective.penalty_weight
        forms: list[LinearForm] = []
        if penalty:
            moments = [self._moments(images) for images, _ in chunks]
            batch_norm, forms = penalty.linear_forms(moments, across_ranks=self.ranks > 1)
        # Filled chunk by chunk: a list to be joined would hold every gradient twice.
        gradient, rows = torch.empty_like(whole), 0
        values = torch.zeros(len(self.objective.terms), device=whole.device)
        for i, (images, references) in enumerate(chunks):
            leaf = images.detach().requires_grad_()
            sums, taken = self.evaluate(leaf, references)
            loss = sums.sum() / total
            loss = loss + weight * forms[i](taken) if forms else loss
            gradient[rows : rows + len(leaf)] = torch.autograd.grad(loss, leaf)[0]
            rows += len(leaf)
            values = values + sums.detach() / total
        if self.ranks > 1:
            dist.all_reduce(values)
        if penalty:
            values = torch.cat([values, (weight * batch_norm).view(1)])
        return values, gradient

    def _count(self, images: Tensor) -> int:
        if self.ranks == 1:
            return len(images)
        count = torch.tensor([len(images)], device=images.device)
        dist.all_reduce(count)
        return int(count)
