"""Network inversion (Suhail et al., 2024): one conditioned generator that learns the input space of a classifier."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from invkit.core.results import FitResult
from invkit.core.rng import default_generator, isolated_rng, seeded, spawn
from invkit.core.target import Target
from invkit.engine.fit import Callback, FitConfig, FitStep, fit
from invkit.engine.learner import Learner, detached, total
from invkit.metrics.quality import accuracy
from invkit.networks.conditional_generator import KINDS, ConditionalGenerator, Conditioning, Conditions, Kind
from invkit.networks.sampling import TrainedGenerator
from invkit.objectives import losses

_PASS = 20  # batches between two looks at the random state that a checkpoint goes back to
_GATHERED = 20  # batches that the statistics for sampling are of


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkInversionConfig(FitConfig):
    """Weights of ``L_Inv = α L_KL + β L_CE + γ L_Cosine + δ L_Ortho`` (§3.3), the generator and its training.

    The paper names the terms and leaves their weights, the optimiser and the number of steps open; the defaults are
    what reaches its working point, an inversion accuracy of over 95% (§5.1).
    """

    steps: int = 2000
    """Not given in the paper."""
    batch_size: int = 64
    """Not given; the pairwise terms compare all images of a batch."""
    lr: float = 2e-3
    """Of Adam; not given."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Of Adam; not given, usual for generators."""
    conditioning: Kind = "vector-matrix"
    """How the class is told (§3.2.4, used in §4)."""
    vector_std: float = 1.0
    """Standard deviation of the normal draw behind a vector (§3.2.2, where it is not given)."""
    latent: int = 64
    """Dimensions of the noise; not given."""
    width: int = 32
    """Channels of the generator's last hidden layer; not given."""
    dropout: float = 0.5
    """"Heavy" (§1, §3.2), in training and in sampling."""
    generators: int = 1
    """Networks that are trained side by side, independent but for the conditions; several in Fig. 2 and 5."""
    kl: float = 1.0
    """α (§3.3.2); not given."""
    cross_entropy: float = 1.0
    """β (§3.3.1); not given."""
    cosine: float = 1.0
    """γ (§3.3.3); not given, "high" for diversity (§4)."""
    orthogonality: float = 1.0
    """δ (§3.3.4); not given."""
    temperature: float = 1.0
    """Divides the classifier's logits in the KL divergence; 1 in §3.3."""

    TERMS: ClassVar[tuple[str, ...]] = ("kl", "cross_entropy", "cosine", "orthogonality")
    """Fields that are weights of the loss, in the order of its terms."""
    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {
        "ci": {"steps": 30, "width": 8, "batch_size": 32},
        "book": {"steps": 300, "width": 16, "lr": 5e-3, "dropout": 0.4, "kl": 0.3},
        "paper": {"width": 64, "batch_size": 128, "steps": 20_000},
    }

    def __post_init__(self) -> None:
        FitConfig.__post_init__(self)
        self.require_whole("batch_size", least=2)  # the pairwise terms compare images
        self.require_whole("latent", "width", "generators")
        self.require_choice("conditioning", *KINDS)
        self.require_positive("lr", "vector_std", "temperature")
        self.require_betas()
        self.require("dropout", 0 <= self.dropout < 1, "lie in [0, 1)")
        self.require_weight(*self.loss_weights())
        if not any(self.loss_weights().values()):
            raise ValueError(f"{type(self).__name__}: at least one weight of the loss must be above 0")

    def loss_weights(self) -> dict[str, float]:
        """The weight of each term of the loss.

        >>> NetworkInversionConfig(kl=0.3).loss_weights()
        {'kl': 0.3, 'cross_entropy': 1.0, 'cosine': 1.0, 'orthogonality': 1.0}
        """
        return {name: getattr(self, name) for name in self.TERMS}


class NetworkInversion(Learner[Conditions]):
    """The generators' training: images for drawn conditions, the frozen classifier's answer, ``L_Inv`` (§3.3).

    >>> from invkit.testing import quadrants_target
    >>> target, config = quadrants_target(), NetworkInversionConfig(width=2, latent=4)
    >>> networks = make_generators(target, config, torch.Generator())
    >>> learner = NetworkInversion(target, networks, config)
    >>> list(learner.step(networks[0].conditioning.draw(4, torch.Generator())))
    ['kl', 'cross_entropy', 'cosine', 'orthogonality', 'total', 'accuracy']
    """

    STATE: ClassVar[tuple[str, ...]] = ("networks", "optimizers")

    def __init__(
        self, target: Target, networks: Sequence[ConditionalGenerator], config: NetworkInversionConfig
    ) -> None:
        target.check_frozen()
        self.target, self.config, self.device = target, config, target.device
        self.networks = torch.nn.ModuleList(n.to(self.device).train().requires_grad_(True) for n in networks)
        self.optimizers = (torch.optim.Adam(self.networks.parameters(), lr=config.lr, betas=config.betas),)

    def step(self, batch: Conditions) -> dict[str, Tensor]:
        """One step on ``batch``; returns the weighted terms, their ``total`` and the batch's inversion ``accuracy``."""
        batch = batch.to(self.device)
        by_network = [self.terms(network(batch), batch) for network in self.networks]
        terms = {name: torch.stack([terms[name] for terms in by_network]).mean() for name in by_network[0]}
        accuracy = terms.pop("accuracy")
        return detached(terms) | {"total": self.minimise(total(terms)), "accuracy": accuracy}

    def terms(self, images: Tensor, conditions: Conditions) -> dict[str, Tensor]:
        """Weighted terms of the loss for images ``(n, C, H, W)`` made for the ``conditions``, and ``accuracy``, the
        fraction of them that the classifier puts where they belong.
        """
        logits, features = self.target.with_features(images)
        loss_weights, terms = self.config.loss_weights(), {}
        if loss_weights["kl"]:
            terms["kl"] = losses.kl_divergence(logits, conditions.vectors, self.config.temperature).mean()
        if loss_weights["cross_entropy"]:
            terms["cross_entropy"] = losses.cross_entropy(logits, conditions.labels).mean()
        if loss_weights["cosine"] or loss_weights["orthogonality"]:
            cosines = losses.cosine_matrix(features)
            terms["cosine"] = losses.pairwise_cosine(cosines)
            terms["orthogonality"] = losses.gram_orthogonality(cosines)
        return self.weighted(terms) | {"accuracy": (logits.argmax(1) == conditions.labels).float().mean()}

    def weighted(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The terms times their weights; a weight of zero leaves its term out."""
        loss_weights = self.config.loss_weights()
        return {name: loss_weights[name] * term for name, term in terms.items() if loss_weights[name]}

    def trained(self) -> TrainedGenerator:
        """The generators as they now are, ready for sampling, on the CPU."""
        return TrainedGenerator([network.cpu() for network in self.networks])  # type: ignore[misc]


def network_inversion(
    target: Target,
    config: NetworkInversionConfig | None = None,
    *,
    generator: torch.Generator | None = None,
    only: Sequence[int] | None = None,
    init: TrainedGenerator | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
) -> tuple[TrainedGenerator, FitResult]:
    """Train generators whose images the target classifies as they were conditioned (§3.3, Fig. 1).

    The result's metric ``inversion_accuracy`` is the fraction of 500 fresh images classified as conditioned (§5.1).
    Stops and raises as :func:`invkit.engine.fit.fit`.

    Args:
        target: The frozen classifier.
        config: Weights of the loss, the generators and their training.
        generator: Source of all randomness.
        only: The classes to be conditioned on; None takes all.
        init: A generator to go on from: its networks are trained further in place, conditioned as they are.
        callbacks: Called after each step; one that returns True stops the run.
        checkpoint: A file to resume from.

    Returns:
        The generators, ready for sampling, on the CPU, and how the training went.

    Raises:
        ValueError: For a size that the generator cannot reach, or an ``init`` for other images or classes.

    >>> from invkit.testing import quadrants_target
    >>> config = NetworkInversionConfig(steps=2, width=2, latent=4, batch_size=4)
    >>> inverse, result = network_inversion(quadrants_target(), config)
    >>> inverse([0, 3, 3]).shape, result.stopped
    (torch.Size([3, 1, 12, 12]), 'steps')
    """
    config, generator = config or NetworkInversionConfig(), generator or default_generator()
    networks = make_generators(target, config, generator, only) if init is None else _fitting(init, target)
    learner = NetworkInversion(target, networks, config)
    return train_generators(learner, generator, callbacks, checkpoint)


def train_generators(
    learner: NetworkInversion, generator: torch.Generator, callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
) -> tuple[TrainedGenerator, FitResult]:  # fmt: skip
    """Train a learner by the fit loop; arguments and results are those of :func:`network_inversion`."""
    networks: list[ConditionalGenerator] = list(learner.networks)  # type: ignore[arg-type]
    seed, gathered = spawn(generator).initial_seed(), False

    def evaluate() -> dict[str, float]:
        nonlocal gathered
        try:
            gather_statistics(networks, learner.config.batch_size, seeded(seed + 1))
            gathered = True
            fresh = seeded(seed)  # the same draws at each evaluation
            images, labels = TrainedGenerator(networks).sample(500, generator=fresh)
            return {"inversion_accuracy": accuracy(learner.target, images, labels)["top1"]}
        finally:
            learner.networks.train().requires_grad_(True)

    batches = partial(_conditions, networks[0].conditioning, learner.config.batch_size)
    result = fit(
        learner, batches, learner.config, generator=generator, callbacks=callbacks, checkpoint=checkpoint,
        evaluate=evaluate, desc="inverting the network",
    )  # fmt: skip
    if not gathered or result.stopped == "diverged":  # a run from its last file evaluates nothing
        gather_statistics(networks, learner.config.batch_size, seeded(seed + 1))
    return learner.trained(), result


def gather_statistics(networks: Sequence[ConditionalGenerator], batch_size: int, generator: torch.Generator) -> None:
    """Put means and variances over twenty fresh batches into the generators' batch norms, for sampling.

    The running averages of training are of weights that have moved on since; after few steps they are off by so much
    that images miss their class. Networks in training stay so, others are left in evaluation mode.

    >>> from invkit.networks.conditional_generator import Conditioning
    >>> from invkit.testing import quadrants_target
    >>> network = ConditionalGenerator(quadrants_target().spec, Conditioning(classes=4), width=2)
    >>> gather_statistics([network], 4, seeded(0))
    >>> int(network.early[1].num_batches_tracked)
    20
    """
    for network in networks:
        device = next(network.parameters()).device
        batches = [network.conditioning.draw(batch_size, generator) for _ in range(_GATHERED)]
        with isolated_rng(generator, device):  # dropout knows no generator
            update_bn(batches, network, device)


def make_generators(
    target: Target, config: NetworkInversionConfig, generator: torch.Generator, only: Sequence[int] | None = None, *,
    hot: bool = False, bounded: bool = True,
) -> list[ConditionalGenerator]:  # fmt: skip
    """Fresh generators for the target's images and classes; the weights follow from ``generator`` alone."""
    chosen = None if only is None else tuple(target.spec.check_labels(only).tolist())
    conditioning = Conditioning(
        kind=config.conditioning,
        classes=target.spec.n_classes,
        latent=config.latent,
        vector_std=config.vector_std,
        hot=hot,
        only=chosen,
    )
    with isolated_rng(generator):
        return [
            ConditionalGenerator(target.spec, conditioning, width=config.width, dropout=config.dropout, bounded=bounded)
            for _ in range(config.generators)
        ]


def steps_to(result: FitResult, accuracy: float = 0.95, window: int = 10) -> int | None:
    """The first step after which ``window`` batches in a row had a mean inversion accuracy of ``accuracy`` or more.

    >>> history = {"accuracy": (0.2, 0.9, 1.0, 1.0)}
    >>> run = {"metrics": {}, "steps": 4, "seconds": 0.1, "device": "cpu", "stopped": "steps", "config": {}}
    >>> steps_to(FitResult(history=history, **run), window=2)
    3
    """
    values = torch.tensor(result.history["accuracy"])
    if len(values) < window:
        return None
    reached = values.unfold(0, window, 1).mean(1) >= accuracy
    return int(reached.float().argmax()) + window if bool(reached.any()) else None


def until(accuracy: float = 0.95, window: int = 10) -> Callback:
    """A callback that ends a run once the last ``window`` batches had ``accuracy`` or more on average,
    so that generators can be compared at equal accuracy. Take a new one for each run.

    >>> from invkit.engine.fit import FitStep
    >>> callback = until(0.9, window=2)
    >>> [callback(FitStep(index=i, values={"accuracy": a})) for i, a in enumerate((0.5, 1.0, 1.0))]
    [False, False, True]
    """
    recent: deque[float] = deque(maxlen=window)

    def stop(step: FitStep) -> bool:
        recent.append(step.losses()["accuracy"])
        return len(recent) == window and sum(recent) / window >= accuracy

    return stop


def _fitting(init: TrainedGenerator, target: Target) -> list[ConditionalGenerator]:
    if init.conditioning.classes != target.spec.n_classes:
        raise ValueError(
            f"the generator is conditioned on {init.conditioning.classes} classes, the classifier knows "
            f"{target.spec.n_classes}"
        )
    if init.spec.shape != target.spec.shape:
        raise ValueError(
            f"the generator makes images of shape {init.spec.shape}, the classifier takes {target.spec.shape}"
        )
    return list(init.networks)


def _conditions(conditioning: Conditioning, size: int, generator: torch.Generator) -> Iterator[Conditions]:
    return (conditioning.draw(size, generator) for _ in range(_PASS))
