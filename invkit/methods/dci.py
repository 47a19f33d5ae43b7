"""Divide-and-conquer inversion (Dong et al., 2021): learning to run a classifier backwards, block after block."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from invkit.core.config import Config, config_hash, plain
from invkit.core.rng import default_generator
from invkit.core.target import FrozenNetwork
from invkit.engine.fit import Callback, FitConfig
from invkit.engine.learner import Learner, detached, total
from invkit.engine.stages import StageFolder, StagesResult
from invkit.networks.block_inverses import BlockInverse
from invkit.networks.inverse import ChainInverse
from invkit.partition.chain import Chain, partition_network
from invkit.partition.feature_store import FeatureStore

Phase = Literal["train", "fine_tune"]


# Found on digits of 16 pixels: few steps want large ones, and more is gained by steps than by larger batches.
_DIGITS: dict[str, Any] = {
    "steps": 50, "fine_tune_steps": 30, "lr": 4e-3, "fine_tune_lr": 5e-4, "restarts": 0, "batch_size": 16,
}  # fmt: skip
# Found on a generator of such digits: the last inverse, from the picture, needs most of the steps.
_GENERATOR: dict[str, Any] = {
    "steps": 100, "fine_tune_steps": 400, "lr": 4e-3, "fine_tune_lr": 4e-3, "restarts": 0, "batch_size": 32,
    "means": True,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class DCIConfig(Config):
    """How the inverses are trained. The defaults are the paper's, for 5,000 images of 224 pixels (App. A.1).

    >>> DCIConfig.for_profile("paper").schedule("train", 1).period
    750
    """

    steps: int = 3000
    """Steps on ``F_k^-1`` alone (App. A.1)."""
    fine_tune_steps: int = 3000
    """Steps on ``F_1^-1 ... F_k^-1`` together, from the second stage on (§3.3, App. A.1)."""
    lr: float = 1e-3
    """Of Adam, for the first phase (App. A.1)."""
    fine_tune_lr: float = 1e-4
    """Of Adam, for the second (App. A.1)."""
    restarts: int = 3
    """Warm restarts of the cosine in each phase (App. A.1)."""
    batch_size: int = 32
    """Images per step; the paper does not say."""
    alpha: float | None = None
    """Weight of the cycle loss (eq. 4). None measures it at the start of each stage; see ``cycle``."""
    means: bool = False
    """Each term the mean over its own values, not the paper's sums: for generators, where a feature map has hundreds of
    times as many values as a code, whose own error would hardly count.
    """
    cycle: float = 1.0
    """Size of the weighted cycle loss, in units of the mean of the two others, where alpha is measured: the paper
    sets alpha = 1e-7 "to ensure it has similar magnitude as other loss terms" (App. A.1). 0 leaves the loss out.
    """
    stages: int | None = None
    """How many blocks are inverted; None inverts all. The cycle loss looks at all of the cut in any case (eq. 3)."""
    fine_tune: bool = True
    """Without: each inverse is trained once and stays (the ablation of §3.3). :meth:`without_fine_tuning` leaves it the
    same number of steps."""
    end_to_end: bool = False
    """All inverses at once, by image and cycle loss alone, for as many steps as the stages together (§3.1)."""
    cache: bool = True
    """Compute the features of the images once; else in every step."""
    cache_bytes: int = 2 << 30
    """Beyond so many bytes the cache lies on disk."""
    log_every: int = 100
    """Steps between looks at the terms on the host; see :class:`invkit.engine.fit.FitConfig`."""
    checkpoint_every: int = 500
    """Steps between checkpoints within a stage."""

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {
        "ci": _DIGITS | {"steps": 8, "fine_tune_steps": 4},
        "book": _DIGITS,
        "paper": {},
    }

    def __post_init__(self) -> None:
        self.require_whole("batch_size", "log_every", "checkpoint_every")
        self.require_whole("restarts", "cache_bytes", least=0)
        self.require_positive("lr", "fine_tune_lr")
        self.require_weight("cycle")
        for field in ("steps", "fine_tune_steps"):
            self.require_whole(field)
            self.require(field, getattr(self, field) > self.restarts, f"be more than the restarts ({self.restarts})")
        if self.alpha is not None:
            self.require_weight("alpha")
        if self.stages is not None:
            self.require_whole("stages")

    @classmethod
    def for_generator(cls, profile: str, **overrides: Any) -> Self:
        """The config of a profile for inverting a generator: ``means``, and more fine-tuning. ``paper`` keeps the
        paper's steps.

        >>> DCIConfig.for_generator("book").means
        True
        """
        changes = {"ci": _GENERATOR | {"steps": 8, "fine_tune_steps": 4}, "book": _GENERATOR, "paper": {"means": True}}
        return cls.for_profile(profile, **changes.get(profile, {}) | overrides)

    def phases(self, k: int) -> tuple[Phase, ...]:
        """Those of stage k: there is nothing to fine-tune in the first (§3.3).

        >>> DCIConfig().phases(1), DCIConfig().phases(2)
        (('train',), ('train', 'fine_tune'))
        """
        return ("train", "fine_tune") if k > 1 and self.fine_tune and not self.end_to_end else ("train",)

    def total_steps(self, depth: int) -> int:
        """Steps of all stages up to ``depth``.

        >>> DCIConfig(steps=50, fine_tune_steps=30).total_steps(4)
        290
        """
        return depth * self.steps + (depth - 1) * self.fine_tune_steps * self.fine_tune

    def without_fine_tuning(self, depth: int) -> Self:
        """The ablation of §3.3 at equal steps: those of fine-tuning go to the training of each inverse alone.

        Args:
            depth: How many blocks are inverted, at least 1.

        Returns:
            A config without fine-tuning whose :meth:`total_steps` are this one's, to less than a step for each stage.

        >>> alone = DCIConfig(steps=50, fine_tune_steps=30).without_fine_tuning(4)
        >>> alone.fine_tune, alone.steps, alone.total_steps(4)
        (False, 72, 288)
        """
        return replace(self, steps=max(round(self.total_steps(depth) / depth), 1), fine_tune=False)

    def schedule(self, phase: Phase, depth: int) -> FitConfig:
        """Steps and learning rates of a phase; end to end, one phase takes the steps of all stages up to ``depth``."""
        steps = self.steps if phase == "train" else self.fine_tune_steps
        if self.end_to_end:
            steps = self.total_steps(depth)
        period = -(-steps // (self.restarts + 1))
        return FitConfig(
            steps=steps, schedule="restarts", period=period, log_every=self.log_every,
            checkpoint_every=self.checkpoint_every,
        )  # fmt: skip


class DCI(Learner[Sequence[Tensor]]):
    """One phase of stage k: ``L_k = L_layer + L_img + alpha L_cyc`` (eq. 4) by Adam, for :func:`invkit.engine.fit.fit`.

    A batch is ``[x, F_1(x), ..., F_1:L(x)]``, as a :class:`invkit.partition.feature_store.FeatureStore` gives it: the
    target itself runs on the reconstructions alone. In the phase ``train`` only ``F_k^-1`` learns, in ``fine_tune``
    all up to it.

    >>> from invkit.testing import tiny_target
    >>> chain, images = partition_network(tiny_target()), torch.rand(4, 3, 8, 8)
    >>> learner = DCI(chain, ChainInverse.untrained(chain, 1, torch.Generator()), 1, DCIConfig(), alpha=0.1)
    >>> sorted(learner.step([images, *chain.read(images)]))
    ['cycle', 'image', 'layer', 'total']
    """

    STATE: ClassVar[tuple[str, ...]] = ("learning", "optimizers", "alpha")

    def __init__(
        self, chain: Chain, inverse: ChainInverse, depth: int, config: DCIConfig, *,
        phase: Phase = "train", alpha: float | None = None,
    ) -> None:  # fmt: skip
        self.chain, self.inverse, self.depth, self.config, self.alpha = chain, inverse, depth, config, alpha or 0.0
        self.device = chain.target.device
        whole = phase == "fine_tune" or config.end_to_end
        inverse.requires_grad_(False)
        self.learning = inverse.blocks[0 if whole else depth - 1 : depth].requires_grad_(True)
        rate = config.fine_tune_lr if phase == "fine_tune" else config.lr
        self.optimizers = (torch.optim.Adam(self.learning.parameters(), rate, fused=True),)

    def step(self, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        """One step; returns the weighted terms and their total."""
        terms = self.losses([part.to(self.device, non_blocking=True) for part in batch])
        return detached(terms) | {"total": self.minimise(total(terms))}

    def losses(self, features: Sequence[Tensor], alpha: float | None = None) -> dict[str, Tensor]:
        """The terms of eq. 4, weighted: sums of absolute differences, as in the paper, all divided by the number of
        values of the images.

        - ``layer`` (eq. 1): ``|u_k - F_k^-1(F_k(u_k))|`` with ``u_k = F_1:k-1(x)``
        - ``image`` (eq. 2): ``|x - x'|`` with ``x' = F_1:k^-1(F_1:k(x))``
        - ``cycle`` (eq. 3): ``alpha sum_l |F_1:l(x) - F_1:l(x')|``

        With ``config.means`` each norm is divided by the number of its own values instead.

        Args:
            features: ``[x, F_1(x), ..., F_1:L(x)]``.
            alpha: Weight of the cycle loss; None takes the learner's.
        """
        alpha = self.alpha if alpha is None else alpha
        count = features[0].numel()

        def distance(a: Tensor, b: Tensor) -> Tensor:
            return F.l1_loss(a, b, reduction="sum") / (a.numel() if self.config.means else count)

        inverted = self.inverse.walk(features[self.depth], self.depth)
        terms = {"image": distance(features[0], inverted[-1])}
        if not self.config.end_to_end:
            terms["layer"] = distance(features[self.depth - 1], inverted[0])
        if alpha:
            of_inverted = self.chain.read(inverted[-1])
            distances = [distance(u, v) for u, v in zip(features[1:], of_inverted, strict=True)]
            terms["cycle"] = torch.stack(distances).sum() * alpha
        return terms

    @torch.no_grad()
    def prepare(self, features: Sequence[Tensor]) -> float:
        """At the start of a stage: set the scales of the new inverses, and alpha, measured where the config leaves it
        open; returns alpha.
        """
        features = [part.to(self.device) for part in features]
        for k, block in enumerate(self.learning, start=self.depth - len(self.learning)):
            if isinstance(block, BlockInverse):
                block.measure(features[k + 1], features[k])
        config = self.config
        self.alpha = config.alpha or 0.0
        if config.alpha is None and config.cycle:
            sizes = self.losses(features, alpha=1.0)
            cycle = float(sizes.pop("cycle"))
            others = sum(float(size) for size in sizes.values()) / len(sizes)
            self.alpha = config.cycle * others / cycle if cycle else 0.0
        return self.alpha

    @property
    def loss_weights(self) -> dict[str, float]:
        """Those that were measured."""
        return {"cycle": self.alpha}


Evaluate = Callable[[ChainInverse, int], Mapping[str, float]]
"""Scores of an inverse at a depth, asked for at the end of each stage."""


def divide_and_conquer(
    target: FrozenNetwork | Chain,
    images: Any,
    config: DCIConfig | None = None,
    *,
    generator: torch.Generator | None = None,
    evaluate: Evaluate | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
    scratch: str | Path | None = None,
) -> tuple[ChainInverse, StagesResult]:
    """Learn to run a network backwards; return the inverse of each depth, frozen, and how the stages went.

    Block after block, from the first: train ``F_k^-1``, then fine-tune ``F_1^-1 ... F_k^-1`` (§3.3). Fine-tuning
    changes the earlier inverses in favour of the present depth, so a shallower depth is at its best at the end of its
    own stage: score it there by ``evaluate``, or load ``checkpoint/stage_03`` by
    :meth:`invkit.networks.inverse.ChainInverse.load`.

    Args:
        target: A network, or a :class:`invkit.partition.chain.Chain` that
            :func:`invkit.partition.chain.partition_network` made of one.
        images: What a :class:`invkit.partition.feature_store.FeatureStore` takes: a tensor, an array mapped from disk,
            a data set read lazily. Synthetic ones in the paper (§3.4), real ones as a control.
        config: How the inverses are trained.
        generator: Source of all randomness.
        evaluate: Scores of an inverse at a depth, taken at the end of each stage.
        callbacks: Called after each step; one that returns True stops the run.
        checkpoint: A folder: a finished stage is kept there, an unfinished one goes on from its last checkpoint, to the
            same bits.
        scratch: Where a cache that is too large for memory goes.

    Returns:
        The inverses, called ``inverse(features, depth=k)``, and how each stage went.

    Raises:
        ValueError: For images or a cut that do not fit, and for a folder of another run.
        DivergedError: Naming the stage that diverged.
        OSError: Where there is no room.

    >>> from invkit.testing import tiny_target
    >>> target, images = tiny_target(), torch.rand(8, 3, 8, 8)
    >>> config = DCIConfig(steps=2, fine_tune_steps=2, restarts=0, batch_size=4)
    >>> inverse, result = divide_and_conquer(target, images, config)
    >>> inverse(target(images)).shape, [stage.name for stage in result.stages]
    (torch.Size([8, 3, 8, 8]), ['conv2:input', 'bn2', 'head'])
    """
    start, config, generator = time.perf_counter(), config or DCIConfig(), generator or default_generator()
    chain = target if isinstance(target, Chain) else partition_network(target)
    chain.target.check_frozen()
    depth = chain.check_depth(len(chain) if config.stages is None else config.stages)
    with FeatureStore(
        chain, images, batch_size=config.batch_size, cache=config.cache, limit=config.cache_bytes, folder=scratch
    ) as store:
        folder = StageFolder(checkpoint, _about(chain, config, store, generator))
        seed, inverse = generator.initial_seed(), ChainInverse.untrained(chain, depth, generator)
        done = folder.restore(inverse, generator)
        for k in range(len(done) + 1, depth + 1) if not config.end_to_end else [depth] * (not done):
            learners = _learners(chain, inverse, k, config, store, generator)
            stage = folder.run(k, chain.names[k - 1], learners, store.batches, generator=generator, callbacks=callbacks)
            if evaluate is not None and stage.stopped == "steps":
                with torch.no_grad():
                    stage = replace(stage, metrics=dict(evaluate(inverse, k)))
            done.append(stage)
            if done[-1].stopped != "steps":
                break
            folder.keep(done, inverse, generator)
    return inverse.requires_grad_(False).eval(), StagesResult(
        stages=tuple(done), seconds=time.perf_counter() - start, device=str(chain.target.device),
        stopped=done[-1].stopped, reason=done[-1].reason, config=plain(config), seed=seed,
    )  # fmt: skip


def _learners(
    chain: Chain, inverse: ChainInverse, k: int, config: DCIConfig, store: FeatureStore, generator: torch.Generator
) -> Iterator[tuple[Phase, DCI, FitConfig]]:
    """For ``F_k^-1``, then for all up to it; alpha is measured once, on the first images of a random order."""
    alpha: float | None = None
    for phase in config.phases(k):
        learner = DCI(chain, inverse, k, config, phase=phase, alpha=alpha)
        if alpha is None:
            alpha = learner.prepare(store.batch(torch.randperm(len(store), generator=generator)[: store.size]))
        yield phase, learner, config.schedule(phase, k)


def _about(chain: Chain, config: DCIConfig, store: FeatureStore, generator: torch.Generator) -> dict[str, Any]:
    """What the bits of a run depend on; where features lie and how often something is written is left out."""
    without_effect = ("cache", "cache_bytes", "log_every", "checkpoint_every")
    return {
        "target": f"{chain.target.name} ({chain.target.fingerprint()})", "cut": list(chain.names),
        "config": {k: v for k, v in plain(config).items() if k not in without_effect}, "images": store.digest(),
        "seed": generator.initial_seed(), "generator": config_hash(generator.get_state()),
    }  # fmt: skip
