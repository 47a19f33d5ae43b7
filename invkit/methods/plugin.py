"""Plug-In Inversion (Ghiasi et al., 2021): augmentations in the place of priors, alike for every architecture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from invkit.core.config import config_hash, is_number, plain
from invkit.core.results import InversionResult, Step
from invkit.core.rng import spawn
from invkit.core.target import Target
from invkit.engine.image_loop import Callback, LoopConfig, optimise_images, prepare, start_images
from invkit.engine.multiscale import Size, Stage
from invkit.objectives import priors
from invkit.objectives.ensemble import Ensemble
from invkit.objectives.objective import Objective
from invkit.transforms.resize import middle, pad_with_noise, resize_images, uniform_images
from invkit.transforms.views import ColorShift, Shift, Views


@dataclass(frozen=True, slots=True, kw_only=True)
class PlugInConfig(LoopConfig):
    """The one set of hyper-parameters of the paper (§4), found on a ResNet-50 at 224 pixels and kept for all networks.

    ``micro_batch`` counts shifted copies in a forward pass; where it is set, each is run once more for its gradient.

    >>> config = PlugInConfig.for_profile("book", stages=5)
    >>> config.steps, config.stages, config.alpha, PlugInConfig().alpha
    (40, 5, 0.2, 1.0)
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
    checkpoint_every: int = 100
    """Steps between checkpoints of a stage, where a path is given."""

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {
        "ci": {"steps": 5, "stages": 3, "ensemble": 2, "jitter": 1},
        # For digits of 16 pixels, whose class is written in light on dark: larger shifts of colour cost recognition.
        "book": {
            "steps": 40, "lr": 0.03, "ensemble": 2, "jitter": 1, "wrap": False, "alpha": 0.2, "beta": 0.2,
        },
        "paper": {},
    }  # fmt: skip

    def __post_init__(self) -> None:
        LoopConfig.__post_init__(self)
        self.require_whole("stages", "redraw", "ensemble")
        self.require_weight("tv")
        for name in ("alpha", "beta"):
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple | list) else (value,)
            good = bool(numbers) and all(is_number(v) and 0 <= v < math.inf for v in numbers)
            self.require(name, good, "be one number, or one for each channel, at least 0 and finite")
        self.require_choice("resize", "auto", "always", "never")


def plug_in_inversion(
    target: Target,
    labels: Sequence[int] | Tensor,
    config: PlugInConfig | None = None,
    *,
    generator: torch.Generator | None = None,
    init: Tensor | None = None,
    views: Views | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
) -> InversionResult:
    """Optimise one image per label so that the target sees its class under many colours, from a patch to the whole.

    Minimises the mean of ``CE(f(sigma_i x - mu_i), y)`` over ``i = 1 .. e`` shifts (§3.3) with jitter, in the stages of
    §3.1. Any differentiable classifier will do. As losses under different shifts do not compare, the images are the
    last ones, not those of the lowest loss, unless a term became non-finite.

    Args:
        target: The network to invert.
        labels: Class of each image, ``(N,)``.
        config: Stages, shifts and how to optimise; the defaults are the paper's.
        generator: Source of noise, jitter and shifts; a fixed one if None.
        init: Images ``(N, C, H, W)`` in [0, 1] in the place of the first patch's noise.
        views: Draws the copies in ColorShift's place, for example :class:`~invkit.transforms.views.RandomViews`.
        callbacks: Called after each step; one that returns True ends the run.
        checkpoint: A file to resume from, to the same bits.

    Returns:
        Images ``(N, C, H, W)`` in [0, 1]; ``stages`` holds the patches after each stage, the last among them.

    Raises:
        ValueError: For labels or images that do not fit, ``alpha`` or ``beta`` that do not fit the channels, a
            checkpoint of another run, or with ``resize="never"`` a stage that the network does not take.

    >>> from invkit.testing import tiny_target
    >>> result = plug_in_inversion(tiny_target(), [0, 1], PlugInConfig.for_profile("ci", steps=2))
    >>> [tuple(patch.shape[2:]) for patch in result.stages]
    [(4, 4), (6, 6), (8, 8)]
    """
    config, generator = prepare(target, config, PlugInConfig, generator)
    labels = target.spec.check_labels(labels).to(target.device)
    sizes = stage_sizes(target.spec.size, config)
    resize = _resizes(target, sizes, config)
    ensemble = _ensemble(target, len(labels), config, spawn(generator), views, resize=resize)
    patch = _first_patch(target, len(labels), sizes[0], config, generator, init)
    objective = Objective(
        network=ensemble,
        terms={"cross_entropy": (1.0, ensemble.cross_entropy)},
        priors=priors.image_prior(config.tv, 0.0),
        references=labels,
        depends_on=f"{target.fingerprint()} {config_hash(config)} {views!r}" if checkpoint else "",
        state=ensemble,
    )

    def redraw(step: Step) -> None:
        if (step.index + 1) % config.redraw == 0:
            ensemble.redraw()

    result = optimise_images(
        objective,
        patch,
        replace(config, micro_batch=None),  # the ensemble cuts up its copies by itself
        generator=generator,
        stages=_stages(sizes, config, generator),
        pick="last",
        callbacks=[*callbacks, redraw],
        checkpoint=checkpoint,
    )
    return replace(result, images=resize_images(result.stages[-1], target.spec.size), config=plain(config))


def _stages(sizes: Sequence[Size], config: PlugInConfig, generator: torch.Generator) -> list[Stage]:
    """The stages of §3.1; the first begins with the patch as it is."""
    first = Stage(size=sizes[0], steps=config.steps, start=lambda patch: patch)
    others = [
        Stage(size=size, steps=config.steps, start=partial(next_patch, size=size, config=config, generator=generator))
        for size in sizes[1:]
    ]
    return [first, *others]


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
    """The start of a stage of ``size``: the last stage's ``patch`` up-sampled (zoom), padded (centering), or both.

    Both share the growth in halves. All sides are padded alike, so that what the patch shows stays in the middle: where
    half the growth is odd, one stage pads less and another more.

    >>> next_patch(torch.rand(2, 3, 4, 4), (6, 6), PlugInConfig(), torch.Generator()).shape
    torch.Size([2, 3, 6, 6])
    """
    old = (patch.shape[-2], patch.shape[-1])
    if config.zoom:
        margins = [_margin(o, s) if config.centering else 0 for o, s in zip(old, size, strict=True)]
        patch = resize_images(patch, (size[0] - 2 * margins[0], size[1] - 2 * margins[1]))
    return pad_with_noise(patch, size, generator) if tuple(patch.shape[-2:]) != size else patch


def _margin(old: int, new: int) -> int:
    """Pixels of noise on each side: a quarter of the growth, counted so that roundings do not add up over stages."""
    return min(new // 4 - old // 4, (new - old) // 2)


def _ensemble(
    target: Target,
    n: int,
    config: PlugInConfig,
    generator: torch.Generator,
    views: Views | None = None,
    *,
    resize: bool,
) -> Ensemble:
    """The target under ``config.ensemble`` shifts of each of ``n`` images."""
    c, channels = config, target.spec.channels

    def draw(generator: torch.Generator) -> Shift | None:
        if views is not None:
            return views(n, c.ensemble, generator)
        return ColorShift.draw(n, c.ensemble, channels, c.alpha, c.beta, generator) if c.color_shift else None

    return Ensemble(target, draw, generator, size=target.spec.size if resize else None, micro_batch=c.micro_batch)


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
    target: Target, n: int, size: Size, config: PlugInConfig, generator: torch.Generator, init: Tensor | None
) -> Tensor:
    """Noise; or the given images, made small where the patch is to be zoomed, or else their middle."""
    if init is None:
        return uniform_images(n, (target.spec.channels, *size), generator).to(target.device, target.dtype)
    whole, (h, w) = start_images(target, n, init, generator), size
    if config.zoom:
        return resize_images(whole, size)
    top, left = middle(h, whole.shape[-2]), middle(w, whole.shape[-1])
    return whole[..., top : top + h, left : left + w].clone()
