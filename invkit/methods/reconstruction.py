"""Training-like data from a classifier's weights by network inversion (Suhail et al., §5.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, vmap

from invkit.core.results import FitResult
from invkit.core.rng import default_generator
from invkit.core.target import Target
from invkit.engine import fit
from invkit.methods.network_inversion import (
    NetworkInversion,
    NetworkInversionConfig,
    make_generators,
    train_generators,
)
from invkit.networks.conditional_generator import Conditions
from invkit.networks.sampling import TrainedGenerator
from invkit.objectives import losses, priors

# Found on digits of 16 pixels. A sigmoid, in place of the pixel term, gives images nearer to real ones.
_DIGITS: dict[str, Any] = {
    "steps": 200, "width": 16, "lr": 5e-3, "dropout": 0.3, "kl": 0.3, "cosine": 0.3, "orthogonality": 0.3,
    "eps": 0.3, "variation": 0.05, "pixel": 0.0, "gradient": 0.01,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconstructionConfig(NetworkInversionConfig):
    """Weights of ``L_Recon = L_Inv + α' L_KL^pert + β' L_CE^pert + η1 L_Var + η2 L_Pix + η3 L_Grad`` (§5.3).

    The paper gives no values; the defaults were found on digits. A weight of zero leaves its term out.

    >>> ReconstructionConfig(pixel=0.5).loss_weights()["pixel"]
    0.5
    """

    kl_perturbed: float = 1.0
    """α' (§5.3)."""
    cross_entropy_perturbed: float = 1.0
    """β' (§5.3)."""
    eps: float = 0.1
    """Of the L∞ perturbation, uniform in ±eps per pixel (§5.3; its size and kind are not given)."""
    variation: float = 0.01
    """η1, of the squared differences of neighbours (§5.3, L_Var)."""
    pixel: float = 0.1
    """η2, of values outside [0, 1] (§5.3, L_Pix); the generator's output is unbounded for it."""
    gradient: float = 0.01
    """η3, of the norm of an image's gradient with respect to the classifier's weights (§5.3, L_Grad)."""
    gradient_images: int = 8
    """Images of a batch whose gradient is taken: it costs the most of all terms."""

    TERMS: ClassVar[tuple[str, ...]] = (
        *NetworkInversionConfig.TERMS, "kl_perturbed", "cross_entropy_perturbed", "variation", "pixel", "gradient",
    )  # fmt: skip
    PROFILES: ClassVar[dict[str, dict[str, Any]]] = {
        "ci": _DIGITS | {"steps": 20, "width": 8, "batch_size": 16, "gradient_images": 4},
        "book": _DIGITS,
        "paper": {"width": 64, "batch_size": 128, "steps": 20_000},
    }

    def __post_init__(self) -> None:
        NetworkInversionConfig.__post_init__(self)
        self.require("eps", 0 <= self.eps < 1, "lie in [0, 1)")
        fits = 1 <= self.gradient_images <= self.batch_size
        self.require("gradient_images", fits, f"lie in 1..batch_size ({self.batch_size})")


class Reconstruction(NetworkInversion):
    """The generators' training by ``L_Recon`` (§5.3): ``L_Inv`` and what sets training images apart.

    >>> from invkit.testing import quadrants_target
    >>> target, config = quadrants_target(), ReconstructionConfig(width=2, latent=4, gradient_images=2)
    >>> networks = make_generators(target, config, torch.Generator(), hot=True)
    >>> learner = Reconstruction(target, networks, config)
    >>> terms = learner.step(networks[0].conditioning.draw(4, torch.Generator()))
    >>> set(config.loss_weights()) <= set(terms)
    True
    """

    config: ReconstructionConfig

    def terms(self, images: Tensor, conditions: Conditions) -> dict[str, Tensor]:
        """As in network inversion, with the terms that steer towards training-like images."""
        terms, loss_weights = super().terms(images, conditions), self.config.loss_weights()
        terms |= self._perturbed(images, conditions)
        image_terms: dict[str, Callable[[], Tensor]] = {
            "variation": lambda: priors.squared_variation(images).mean(),
            "pixel": lambda: priors.out_of_range(images).mean(),
            "gradient": lambda: self._gradient(images, conditions.labels),
        }
        return terms | {name: loss_weights[name] * term() for name, term in image_terms.items() if loss_weights[name]}

    def _perturbed(self, images: Tensor, conditions: Conditions) -> dict[str, Tensor]:
        if not (self.config.kl_perturbed or self.config.cross_entropy_perturbed):
            return {}
        # From the global numbers that the fit loop seeds, as dropout's are.
        noise = torch.empty_like(images).uniform_(-self.config.eps, self.config.eps)
        logits = self.target(images + noise)
        kl = losses.kl_divergence(logits, conditions.vectors, self.config.temperature).mean()
        entropy = losses.cross_entropy(logits, conditions.labels).mean()
        return self.weighted({"kl_perturbed": kl, "cross_entropy_perturbed": entropy})

    def _gradient(self, images: Tensor, labels: Tensor) -> Tensor:
        count = self.config.gradient_images
        return gradient_norm(self.target, images[:count], labels[:count]).mean()


def gradient_norm(target: Target, images: Tensor, labels: Tensor) -> Tensor:
    """``||∇_θ CE(f_θ(I), y)||_2`` ``(N,)`` of each image, over all weights θ of the classifier (§5.3, L_Grad).

    It can be differentiated once more, with respect to the images ``(N, C, H, W)``.

    >>> from invkit.testing import tiny_target
    >>> gradient_norm(tiny_target(), torch.rand(2, 3, 8, 8), torch.tensor([0, 3])).shape
    torch.Size([2])
    """
    parameters = {name: p.detach() for name, p in target.module.named_parameters()}

    def loss(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(target.module, parameters, (target.spec.normalise(image[None]),))
        return F.cross_entropy(logits, label[None])

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, images, labels)
    squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()]).sum(0)
    # The root's slope at zero is infinite, and the images of a sure network come near it.
    return (squares + torch.finfo(squares.dtype).eps ** 2).sqrt()


def reconstruct(
    target: Target,
    config: ReconstructionConfig | None = None,
    *,
    generator: torch.Generator | None = None,
    callbacks: Sequence[fit.Callback] = (),
    checkpoint: str | Path | None = None,
) -> tuple[TrainedGenerator, FitResult]:
    """Train generators, conditioned on hot vectors, whose images share properties of training images (§5.3, Fig. 4).

    Metrics and errors are those of :func:`invkit.methods.network_inversion.network_inversion`.

    Args:
        target: The frozen classifier.
        config: Weights of the loss, the generators and their training.
        generator: Source of all randomness.
        callbacks: Called after each step; one that returns True stops the run.
        checkpoint: A file to resume from.

    Returns:
        The generators, ready for sampling, on the CPU, and how the training went.

    >>> from invkit.testing import quadrants_target
    >>> config = ReconstructionConfig(steps=2, width=2, latent=4, batch_size=4, gradient_images=2)
    >>> inverse, result = reconstruct(quadrants_target(), config)
    >>> inverse([0, 3, 3]).shape, result.stopped
    (torch.Size([3, 1, 12, 12]), 'steps')
    """
    config, generator = config or ReconstructionConfig(), generator or default_generator()
    networks = make_generators(target, config, generator, hot=True, bounded=not config.pixel)
    return train_generators(Reconstruction(target, networks, config), generator, callbacks, checkpoint)
