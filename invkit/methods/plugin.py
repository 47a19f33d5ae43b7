"""Plug-In Inversion (Ghiasi et al., 2021): augmentations in the place of priors, alike for every architecture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from invkit import losses, priors
from invkit.augment import ColorShift, pad_with_noise, resize_images, uniform_images
from invkit.objective import Batch, Objective
from invkit.optimize import Callback, LoopConfig, optimise_images
from invkit.results import InversionResult, Step
from invkit.runtime import default_generator, plain, spawn
from invkit.target import Target

Size = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlugInConfig(LoopConfig):
    """The one set of hyper-parameters of the paper (§4), found on a ResNet-50 at 224 pixels and kept for all networks.

    ``micro_batch`` counts shifted copies in a forward pass; where it is set, each is run once more for its gradient.
    """

    steps: int = 400
    """Steps in each stage (§4)."""
    lr: float = 0.01
    """§4; made anew at each stage, as Adam is."""
    betas: tuple[float, float] = (0.5, 0.99)
    """§4."""
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    """§4."""
    jitter: int = 32
    """The paper jitters without giving a number (§4); 32 is that of the code published with it, at 224 pixels."""
    stages: int = 7
    """Patches of 2, 3, ... of ``stages + 1`` parts of the size, the last being whole (§4: 7)."""
    zoom: bool = True
    """Up-sample the patch at the beginning of a stage (§3.1)."""
    centering: bool = True
    """Pad the patch with fresh noise (§3.1); together with zoom it is up-sampled half-way first."""
    color_shift: bool = True
    """Shift colours (§3.2); without it all copies would be the same, so one is made."""
    alpha: float | tuple[float, ...] = 1.0
    """Largest offset, of all or of each channel, in units of the pixel range [0, 1] (§4)."""
    beta: float | tuple[float, ...] = 1.0
    """Largest logarithm of the scale, of all or of each channel (§4)."""
    redraw: int = 1
    """Steps after which the shifts are drawn anew (§4: at each step)."""
    ensemble: int = 32
    """Shifts of each image in a step (§3.3, §4: e)."""
    tv: float = 0.0
    """Total variation; the method does without (§3.2)."""
    resize: Literal["auto", "always", "never"] = "auto"
    """Whether patches are resized to the network's size; ``auto`` does so if it refuses the size of any stage."""

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {
        "ci": {"steps": 5, "stages": 3, "ensemble": 2, "jitter": 1},
        # The best of twelve settings on 20 digits of 16 pixels, one seed: a beginning, not a search.
        "book": {"steps": 100, "lr": 0.03, "ensemble": 8, "jitter": 2, "alpha": 0.2, "beta": 0.2},
        "paper": {},
    }

    def __post_init__(self) -> None:
        LoopConfig.__post_init__(self)
        for name in ("stages", "redraw", "ensemble"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"PlugInConfig: {name} must be a whole number >= 1, not {value!r}")
        for name in ("alpha", "beta"):
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple | list) else (value,)
            if not numbers or not all(0 <= v < math.inf for v in numbers):
                raise ValueError(f"PlugInConfig: {name} must be >= 0 and finite, not {value!r}")
        if not 0 <= self.tv < math.inf:
            raise ValueError(f"PlugInConfig: the weight tv must be >= 0 and finite, not {self.tv}")
        if self.resize not in ("auto", "always", "never"):
            raise ValueError(f"PlugInConfig: resize must be auto, always or never, not {self.resize!r}")
        if self.low_resolutions:
            raise ValueError("PlugInConfig: stages already go from small to large; leave low_resolutions empty")


def plug_in_inversion(
    target: Target,
    labels: Sequence[int] | Tensor,
    config: PlugInConfig | None = None,
    *,
    generator: torch.Generator | None = None,
    init: Tensor | None = None,
    callbacks: Sequence[Callback] = (),
) -> InversionResult:
    """Optimise one image per label so that the target sees its class under many colours, from a patch to the whole.

    Minimises the mean of ``CE(f(sigma_i x - mu_i), y)`` over ``i = 1 .. e`` shifts (§3.3) with jitter, in the stages of
    §3.1. Any differentiable classifier will do. ``init`` ``(N, C, H, W)`` in [0, 1] replaces the first patch's noise.

    ``result.stages`` holds the images after each stage, the last among them. As losses under different shifts do not
    compare, the images are the last ones, not those of the lowest loss, unless a term became non-finite.

    Raises ``ValueError`` for labels or images that do not fit, ``alpha`` or ``beta`` that do not fit the channels, or
    with ``resize="never"`` a stage that the network does not take.
    """
    config, generator = config or PlugInConfig(), generator or default_generator()
    target.check_frozen()
    seed = generator.initial_seed()
    labels = target.spec.check_labels(labels).to(target.device)
    sizes = stage_sizes(target.spec.size, config)
    whole = None if init is None else target.spec.check(init, "init")
    if whole is not None and len(whole) != len(labels):
        raise ValueError(f"init has {len(whole)} images for {len(labels)} labels")
    ensemble = _Ensemble(target, len(labels), config, spawn(generator), resize=_resizes(target, sizes, config))
    terms = {"cross_entropy": (1.0, ensemble.cross_entropy)} | priors.weighted(config.tv, 0.0)
    objective = Objective(network=ensemble, terms=terms, labels=labels)
    patch = _first_patch(whole, len(labels), (target.spec.channels, *sizes[0]), config, generator).to(target.device)
    results: list[InversionResult] = []
    for stage, size in enumerate(sizes):
        if results:
            patch = next_patch(patch, size, config, generator)
        watch = _Watch(stage, sum(len(r.history["total"]) for r in results), callbacks, ensemble)
        loop = replace(config, micro_batch=None)  # the ensemble cuts up its copies by itself
        result = optimise_images(objective, patch, loop, generator=generator, callbacks=[watch])
        finite = result.stopped in ("steps", "patience", "callback", "interrupted")
        if finite and watch.images is not None:
            patch = watch.images.detach().contiguous()
            result = replace(result, images=patch.cpu(), best_step=len(result.history["total"]))
        results.append(result)
        if result.stopped not in ("steps", "patience"):
            break
    return _join(results, target.spec.size, config, seed)


def stage_sizes(size: Size, config: PlugInConfig) -> list[Size]:
    """Patch sizes of the stages; without zoom and centering every stage works on the whole image.

    >>> [h for h, _ in stage_sizes((224, 224), PlugInConfig())]
    [56, 84, 112, 140, 168, 196, 224]
    """
    if not (config.zoom or config.centering):
        return [size] * config.stages
    parts = config.stages + 1
    height, width = ([max(1, round(s * k / parts)) for k in range(2, parts + 1)] for s in size)
    return list(zip(height, width, strict=True))


def next_patch(patch: Tensor, size: Size, config: PlugInConfig, generator: torch.Generator) -> Tensor:
    """The start of a stage of ``size``: the last stage's ``patch`` up-sampled (zoom), padded (centering), or both."""
    old = (patch.shape[-2], patch.shape[-1])
    if config.zoom:
        inner = ((old[0] + size[0]) // 2, (old[1] + size[1]) // 2) if config.centering else size
        patch = resize_images(patch, inner)
    return pad_with_noise(patch, size, generator) if tuple(patch.shape[-2:]) != size else patch


class _Ensemble:
    """What the objective takes for its network: images to the logits ``(N, e, K)`` of their shifted copies."""

    def __init__(
        self, target: Target, n: int, config: PlugInConfig, generator: torch.Generator, *, resize: bool
    ) -> None:
        self.target, self.n, self.config, self.generator = target, n, config, generator
        self.size = target.spec.size if resize else None
        self.shift = self.draw()

    def draw(self) -> ColorShift | None:
        if not (c := self.config).color_shift:
            return None
        return ColorShift.draw(self.n, c.ensemble, self.target.spec.channels, c.alpha, c.beta, self.generator)

    def __call__(self, images: Tensor) -> Tensor:
        # Resizing averages pixels with weights that sum to one, so it may come before the shift, once for all copies.
        resized = resize_images(images, self.size) if self.size else images
        copies = self.shift(resized) if self.shift else resized
        size = self.config.micro_batch
        if size is None or size >= len(copies):
            logits = self.target(copies)
        else:  # activations are not kept but computed anew, chunk by chunk, on the way back
            logits = torch.cat([self.again(chunk) for chunk in copies.split(size)])
        return logits.unflatten(0, (len(images), -1))

    def again(self, copies: Tensor) -> Tensor:
        """The logits, without their graph."""
        return checkpoint(self.target, copies, use_reentrant=False, preserve_rng_state=False)

    @staticmethod
    def cross_entropy(batch: Batch) -> Tensor:
        """The mean over the copies, ``(N,)``."""
        e = batch.outputs.shape[1]
        return losses.cross_entropy(batch.outputs.flatten(0, 1), batch.labels.repeat_interleave(e)).view(-1, e).mean(1)


class _Watch:
    """The callback of a stage: counts steps over all stages for the caller's callbacks, then redraws the shifts."""

    def __init__(self, stage: int, before: int, callbacks: Sequence[Callback], ensemble: _Ensemble) -> None:
        self.stage, self.before, self.callbacks, self.ensemble = stage, before, callbacks, ensemble
        self.images: Tensor | None = None

    def __call__(self, step: Step) -> bool:
        self.images = step.images  # live: after the stage, its last images
        step = replace(step, index=self.before + step.index, stage=self.stage)
        answers = [callback(step) for callback in self.callbacks]
        if (step.index + 1) % self.ensemble.config.redraw == 0:
            self.ensemble.shift = self.ensemble.draw()
        return any(answer is True for answer in answers)


def _resizes(target: Target, sizes: Sequence[Size], config: PlugInConfig) -> bool:
    """Whether patches are resized; ``ValueError`` names a stage that the network does not take and that may not be."""
    if config.resize == "always":
        return True
    refused = next(((i, s) for i, s in enumerate(sizes) if s != target.spec.size and not target.accepts(s)), None)
    if refused and config.resize == "never":
        raise ValueError(
            f"stage {refused[0] + 1} of {len(sizes)} is a patch of {refused[1]} pixels, which {target.name} does not "
            "take; use fewer stages or let patches be resized"
        )
    return refused is not None


def _first_patch(
    init: Tensor | None, n: int, shape: tuple[int, int, int], config: PlugInConfig, generator: torch.Generator
) -> Tensor:
    """Noise; or the given images, made small where the patch is to be zoomed, or else their middle."""
    if init is None:
        return uniform_images(n, shape, generator)
    _, h, w = shape
    if config.zoom:
        return resize_images(init, (h, w))
    top, left = (init.shape[-2] - h) // 2, (init.shape[-1] - w) // 2
    return init[..., top : top + h, left : left + w].clone()


def _join(results: Sequence[InversionResult], size: Size, config: PlugInConfig, seed: int) -> InversionResult:
    """One record of all stages."""
    last, before = results[-1], sum(len(r.history["total"]) for r in results[:-1])
    return replace(
        last,
        images=resize_images(last.images, size),
        history={name: tuple(v for r in results for v in r.history[name]) for name in last.history},
        best_step=before + last.best_step,
        config=plain(config),
        seed=seed,
        seconds=sum(r.seconds for r in results),
        stages=tuple(r.images for r in results),
    )
