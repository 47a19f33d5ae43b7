"""Edge-popup (Ramanujan et al., 2020): find a network hidden among random weights, none of which ever changes.

Botach & Cohen, §3.2: each weight gets a score; a layer uses those weights whose scores are in its top k %, and the
scores are learnt by SGD:

1. ``I_v = sum_u w_uv Z_u h(s_uv)``, h(s) being 1 for the top k % of the layer and 0 for the others;
2. ``s_uv <- s_uv - alpha · dL/dI_v · Z_u · w_uv``, the gradient straight through h.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from invkit.core.config import plain
from invkit.core.device import pick_device
from invkit.core.results import FitResult
from invkit.core.rng import seeded, spawn
from invkit.core.spec import ImageSpec
from invkit.core.target import Target
from invkit.data.datasets import DataSet
from invkit.engine.cache import cache_path
from invkit.engine.classifier import ClassifierConfig, ClassifierLearner, load_or_fit_target
from invkit.engine.fit import Callback, epochs, fit
from invkit.methods.deepinversion import DeepInversionConfig
from invkit.metrics.quality import accuracy
from invkit.networks.classifiers import build
from invkit.networks.masked import ScoredWeight, draw_untrained, maskable, masks_of, score_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenConfig(ClassifierConfig):
    """What is drawn, what is kept, and how scores are learnt; schedule and augmentation are those of a classifier.

    >>> HiddenConfig(k=50).optimizer
    'sgd'
    """

    k: float = 30.0
    """Percent of each layer's weights that are kept, in (0, 100] (§2.3: 30)."""
    init: Literal["signed_constant", "kaiming_normal"] = "signed_constant"
    """The draw: ± sqrt(2 / fan_in), or normal with that standard deviation (Ramanujan et al., §4.3)."""
    scaled: bool = False
    """Divide the variance of the draw by the share that is kept (Ramanujan et al., §4.3): without batch norm, signals
    die out otherwise.
    """
    absolute: bool = False
    """Rank by \\|s\\|, as the code published with the paper does; its equations rank by s."""
    statistics: bool = True
    """Whether batch norms track running statistics. Botach & Cohen (§5.4) say that hidden networks have none; the
    configurations published with edge-popup track them.
    """
    optimizer: Literal["adamw", "sgd"] = "sgd"
    """§3.2; without Nesterov's form."""
    lr: float = 0.1
    """Ramanujan et al., §4.1."""
    weight_decay: float = 1e-4
    """Of the scores (Ramanujan et al., §4.1)."""
    momentum: float = 0.9
    """Ramanujan et al., §4.1."""

    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {
        "ci": {"steps": 60, "warmup": 10, "lr": 1.0},
        # Small networks on small images learn in few steps, which must then be large.
        "book": {"lr": 1.0},
        # Botach & Cohen take published masks and give no numbers: those of Ramanujan et al. for CIFAR-10, 100 epochs.
        "paper": {
            "steps": 39_000, "warmup": 0, "batch_size": 128, "label_smoothing": 0.0, "clip_norm": None,
            "checkpoint_every": 4000,
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        ClassifierConfig.__post_init__(self)
        object.__setattr__(self, "k", float(self.k))  # 50 and 50.0 are kept under one name
        self.require("k", 0 < self.k <= 100, "be a percentage in (0, 100]")
        self.require_choice("init", "signed_constant", "kaiming_normal")

    def draw(self, module: nn.Module, generator: torch.Generator) -> nn.Module:
        """The untrained network that ``generator`` gives, by :func:`invkit.networks.masked.draw_untrained`."""
        kept_fraction = self.k / 100 if self.scaled else 1.0
        return draw_untrained(
            module, init=self.init, kept_fraction=kept_fraction, statistics=self.statistics, generator=spawn(generator)
        )


# Botach & Cohen's script for a hidden network (their Figure 3), which is not the setting of their other experiments.
_REPORTED: dict[str, Any] = {
    "steps": 20_000, "lr": 0.05, "betas": (0.9, 0.999), "schedule": "constant", "patience": None, "jitter": 30 / 224,
    "flip": 0.0, "cross_entropy": 1.0, "l2": 0.0, "batch_norm": 5e-3,
}  # fmt: skip


def reported_inversion(n_images: int, **overrides: Any) -> DeepInversionConfig:
    """DeepInversion as Botach & Cohen ran it on a hidden network, by the code published with the report.

    Noise of full amplitude to start from, steps and priors in units of normalised pixels, one roll of up to 30 of 224
    pixels for the whole batch, and a total variation of weight 5e-4, not the 8e-3 of the report's text. There R_TV is
    the norm of the *batch* over its size N, which for images of one R_TV each is R_TV over the root of N: the weight
    here is ``5e-4 / sqrt(N)``. The code has the term of the statistics, with 5e-3; its batch norms track them.

    Args:
        n_images: N, the images that are inverted together (there: 50).
        overrides: Fields of the config that are to differ: ``steps``, or ``batch_norm=0`` without the statistics.

    Returns:
        The config for :func:`~invkit.methods.deepinversion.deep_inversion`.

    Raises:
        ValueError: For fewer than one image, or a field that does not fit.

    >>> config = reported_inversion(25, steps=100)
    >>> config.tv, config.lr, config.loud, config.normalised
    (0.0001, 0.05, True, True)
    """
    if n_images < 1:
        raise ValueError(f"n_images must be at least 1, not {n_images}")
    return DeepInversionConfig.paper(**_REPORTED | {"tv": 5e-4 / math.sqrt(n_images)} | overrides)


class EdgePopup(ClassifierLearner):
    """Learns scores alone: ``min_s CE(network(x; w h(s)), y)``, w staying as it was drawn, bit for bit.

    ``module`` is any network of linear and convolutional layers, such as takes normalised images; it is copied, and
    only its shape counts. Where it has other parameters, these stay as they are in it (see
    :func:`invkit.networks.masked.draw_untrained`). Raises ``ValueError`` if it has no layer to mask.

    >>> from invkit.testing import tiny_target
    >>> target = tiny_target()
    >>> learner = EdgePopup(target.module, target.spec, HiddenConfig(k=50), generator=torch.Generator())
    >>> terms = learner.step((torch.rand(4, 3, 8, 8), torch.arange(4)))
    >>> {name: float(mask.float().mean()) for name, mask in learner.masks().items()}
    {'conv1': 0.5, 'conv2': 0.5, 'head': 0.5}
    """

    config: HiddenConfig

    def __init__(
        self,
        module: nn.Module,
        spec: ImageSpec,
        config: HiddenConfig,
        *,
        generator: torch.Generator,
        device: torch.device | None = None,
    ) -> None:
        drawn = config.draw(module, generator)
        self.drawn = copy.deepcopy(drawn).eval()
        """The network as it was drawn, before any mask, on the CPU."""
        score_weights(drawn, config.k, spawn(generator), absolute=config.absolute)
        super().__init__(drawn, spec, config, generator=generator, device=device or torch.device("cpu"))
        self.module.requires_grad_(False)
        self.scores = [m.scores.requires_grad_() for m in self.module.modules() if isinstance(m, ScoredWeight)]
        lr, decay = config.lr, config.weight_decay
        sgd = config.optimizer == "sgd"
        self.optimizers = (
            torch.optim.SGD(self.scores, lr=lr, momentum=config.momentum, weight_decay=decay)
            if sgd
            else torch.optim.AdamW(self.scores, lr=lr, weight_decay=decay),
        )

    def masks(self) -> dict[str, Tensor]:
        """Which weights are used now: bool, by the layer's name."""
        return masks_of(self.module)

    def network(self) -> nn.Module:
        """The hidden network as it now stands: an ordinary module on the CPU in eval mode, without scores."""
        state = {name: value for name, value in self.module.state_dict().items() if "parametrizations." not in name}
        masked = {f"{name}.weight".lstrip("."): layer.weight.detach() for name, layer in maskable(self.module).items()}
        network = copy.deepcopy(self.drawn)
        network.load_state_dict(state | masked)
        return network


def train_hidden(
    module: nn.Module,
    data: DataSet,
    config: HiddenConfig | None = None,
    *,
    seed: int = 0,
    device: str = "auto",
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
) -> tuple[Target, FitResult]:
    """Find a network hidden in a random one of ``module``'s shape, by learning masks; return it frozen, and how it
    went.

    The module itself stays as it is. The target's weights are those drawn, or zero:
    ``invkit.networks.masked.masks_of(target.module)`` gives the masks. Same seed, same masks on the CPU. Without
    tracked statistics (``config.statistics``) its outputs depend on the batch. The result's metrics are ``test_top1``
    and ``test_top5`` on ``data.test``. Stops and raises as :func:`invkit.engine.fit.fit`.

    Args:
        module: Any network of linear and convolutional layers that takes normalised images.
        data: ``data.train`` is learnt, ``data.test`` scores the end.
        config: What is drawn, what is kept, and how scores are learnt.
        seed: Of the draw, the scores, order and augmentation.
        device: Where to train; ``auto`` takes a GPU where there is one.
        callbacks: Called after each step; one that returns True stops the run.
        checkpoint: A file to resume from.

    Returns:
        The hidden network, without scores, and how the training went.

    Raises:
        ValueError: For a module without a layer to mask.

    >>> from invkit.data.datasets import load_data
    >>> data = load_data("digits", size=8, limit=40)
    >>> module = build("bn_cnn", data.spec, width=2, seed=0)
    >>> target, result = train_hidden(module, data, HiddenConfig(steps=2, warmup=0, k=50), device="cpu")
    >>> target(data.test.images[:3]).shape, result.stopped
    (torch.Size([3, 10]), 'steps')
    """
    config, generator = config or HiddenConfig(), seeded(seed)
    learner = EdgePopup(module, data.spec, config, generator=generator, device=pick_device(device))

    def evaluate() -> dict[str, float]:
        scores = accuracy(Target(learner.network(), data.spec), data.test.pixels, data.test.labels)
        return {f"test_{name}": value for name, value in scores.items()}

    result = fit(
        learner, epochs(data.train.pixels, data.train.labels, config.batch_size), config, generator=generator,
        callbacks=callbacks, checkpoint=checkpoint, evaluate=evaluate if len(data.test) else None,
        desc=f"mask {type(module).__name__}",
    )  # fmt: skip
    return Target(learner.network(), data.spec, f"hidden {type(module).__name__}"), result


def load_or_train_hidden(
    network: str,
    data: DataSet,
    config: HiddenConfig | None = None,
    *,
    width: int | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    device: str = "auto",
    callbacks: Sequence[Callback] = (),
) -> Target:
    """The network hidden in an untrained one, sought once and then found again, as
    :func:`invkit.engine.classifier.load_or_train` does with trained ones.

    Args:
        network: A name of :func:`invkit.networks.classifiers.build`.
        data: What to learn masks on.
        config: What is drawn, what is kept, and how scores are learnt.
        width: As there.
        seed: As for :func:`train_hidden`.
        folder: As there.
        device: Where to train.
        callbacks: As there.

    Returns:
        The hidden network, frozen, called ``hidden/NETWORK``.

    Raises:
        KeyboardInterrupt: Where the training was interrupted; it goes on from its checkpoint next time.
        DivergedError: Where it diverged.
        OSError: Where the folder cannot be written.

    >>> import tempfile
    >>> from invkit.data.datasets import load_data
    >>> data, config = load_data("digits", size=8, limit=40), HiddenConfig(steps=2, warmup=0)
    >>> load_or_train_hidden("bn_cnn", data, config, width=2, folder=tempfile.mkdtemp()).name
    'hidden/bn_cnn'
    """
    config = config or HiddenConfig()
    settings = {"width": width, "config": plain(config), "seed": seed, "learnt": "masks"}
    path = cache_path(network, data, settings, folder)
    untrained = build(network, data.spec, width=width, seed=seed)
    module = config.draw(untrained, seeded(seed)).eval()

    def train(unfinished: Path) -> FitResult:
        options: dict[str, Any] = {"seed": seed, "device": device, "callbacks": callbacks, "checkpoint": unfinished}
        hidden, result = train_hidden(untrained, data, config, **options)
        module.load_state_dict(hidden.module.state_dict())
        return result

    return load_or_fit_target(module, path, train, data, f"hidden {network}", f"hidden/{network}", config.lr)
