"""How good images are: judged by a verifier, by statistics of features, and against the originals.

Scores that lean on somebody's published network (FID, LPIPS) keep its name only when that very network is
used; the Fréchet distance in the features of a network of one's own is called just that."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from invkit.core.spec import ImageSpec
from invkit.data.batching import to_float

Network = Callable[[Tensor], Tensor]


class MissingWeightsError(OSError):
    """The published network behind a score cannot be had on this machine; the score is unknown, not zero."""


@torch.no_grad()
def in_batches(network: Network, images: Tensor, batch_size: int = 256, device: torch.device | None = None) -> Tensor:
    """Outputs of ``network`` for images ``(N, C, H, W)``, uint8 or float in [0, 1], computed batch by batch,
    on the CPU.
    """
    if len(images) == 0:
        raise ValueError("there are no images to judge")
    spec = getattr(network, "spec", None)
    if isinstance(spec, ImageSpec):
        spec.check(to_float(images[:1]))
    place = device or getattr(network, "device", None)
    return torch.cat([network(to_float(part.to(place) if place else part)).cpu() for part in images.split(batch_size)])


def accuracy(
    verifier: Network,
    images: Tensor,
    labels: Tensor | Sequence[int],
    topk: Sequence[int] = (1, 5),
    *,
    batch_size: int = 256,
    device: torch.device | None = None,
) -> dict[str, float]:
    """Share of images whose label is among the verifier's k most likely classes: ``{"top1": …, "top5": …}``
    in [0, 1].

    A k beyond the number of classes counts as all of them. Raises ``ValueError`` for labels out of range or
    of another number than the images.
    """
    wanted = torch.as_tensor(labels).cpu().long()
    if len(wanted) != len(images):
        raise ValueError(f"there are {len(images)} images but {len(wanted)} labels")
    if not topk or min(topk) < 1:
        raise ValueError(f"topk needs numbers of at least 1, not {tuple(topk)}")
    logits = in_batches(verifier, images, batch_size, device)
    classes = logits.shape[1]
    if wanted.min() < 0 or wanted.max() >= classes:
        raise ValueError(
            f"labels go from {int(wanted.min())} to {int(wanted.max())}; the verifier knows 0..{classes - 1}"
        )
    ranked = logits.topk(min(max(topk), classes), dim=1).indices == wanted[:, None]
    return {f"top{k}": float(ranked[:, :k].any(1).double().mean()) for k in topk}


def probabilities(network: Network, images: Tensor, batch_size: int = 256) -> Tensor:
    """Softmax of the network's logits, ``(N, classes)`` in float64."""
    return in_batches(network, images, batch_size).double().softmax(1)


def inception_score(given: Tensor | Network, images: Tensor | None = None, *, splits: int = 1) -> tuple[float, float]:
    """Mean and standard deviation over ``splits`` of ``exp(mean_x KL(p(y|x) || p(y)))`` (Salimans et al.
    2016, section 4).

    ``given`` are probabilities ``(N, classes)``, or a network to judge ``images``. It lies between 1 (all
    alike, or all undecided) and the number of classes (each sure, all classes alike). It is the published
    score only where the network is Inception v3.
    """
    if isinstance(given, Tensor):
        chances = given.double()
    elif images is not None:
        chances = probabilities(given, images)
    else:
        raise ValueError("a network needs images to judge; pass images=")
    if chances.ndim != 2 or not torch.allclose(
        chances.sum(1), torch.ones(len(chances), dtype=torch.float64), atol=1e-3
    ):
        raise ValueError(f"probabilities (N, classes) whose rows sum to 1 are needed, not {tuple(chances.shape)}")
    if not 1 <= splits <= len(chances):
        raise ValueError(f"splits must lie between 1 and the number of images ({len(chances)}), not {splits}")
    scores = torch.stack([_exp_mean_divergence(part) for part in chances.tensor_split(splits)])
    return float(scores.mean()), float(scores.std(correction=0))


def _exp_mean_divergence(chances: Tensor) -> Tensor:
    marginal = chances.mean(0, keepdim=True)
    return (torch.xlogy(chances, chances) - torch.xlogy(chances, marginal)).sum(1).mean().exp()


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two sets of features, ``(N, D)`` and ``(M, D)``.

    ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))`` (Heusel et al. 2017, eq. 6). With ``C = X^T X`` of
    the centred and scaled features, the trace of the root is the sum of the singular values of ``X_a X_b^T``:
    nothing is inverted, no root of a near-singular matrix is taken, and fewer images than dimensions do no
    harm. Call it the Fréchet distance in the features of the network that made them; it is the FID only for
    Inception's. It shrinks as N grows: compare at equal N.
    """
    a, b = (f.detach().double().flatten(1) for f in (features_a, features_b))
    if a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"two or more features (N, D) of one D are needed, not {tuple(a.shape)} and {tuple(b.shape)}")
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ValueError("features hold values that are not finite")
    gap = (a.mean(0) - b.mean(0)).square().sum()
    a, b = ((f - f.mean(0)) / math.sqrt(len(f) - 1) for f in (a, b))
    a, b = _triangle(a), _triangle(b)
    root = torch.linalg.svdvals(a @ b.T).sum()
    return max(0.0, float(gap + a.square().sum() + b.square().sum() - 2 * root))


def _triangle(x: Tensor) -> Tensor:
    # x^T x is unchanged when x is replaced by the R of its QR decomposition, which has at most D rows.
    return torch.linalg.qr(x, mode="r").R if len(x) > x.shape[1] else x


def fid(images_a: Tensor, images_b: Tensor, *, batch_size: int = 64) -> float:
    """Fréchet Inception Distance between two sets of RGB images in [0, 1], through torchmetrics and its
    Inception v3.

    Raises :class:`MissingWeightsError` where torch-fidelity or Inception's weights cannot be had.
    """
    if images_a.shape[1] != 3 or images_b.shape[1] != 3:
        raise ValueError("the FID is defined for RGB images; for others take frechet_distance in a network's features")
    from torchmetrics.image.fid import FrechetInceptionDistance

    try:
        metric = FrechetInceptionDistance(feature=2048, normalize=True)
    except ModuleNotFoundError as error:
        raise MissingWeightsError("the FID needs the package torch-fidelity: pip install torch-fidelity") from error
    except Exception as error:  # urllib, SSL, hash and pickle errors of the download
        raise MissingWeightsError(_absent("the FID", "Inception v3's weights", error)) from error
    for images, real in ((images_a, True), (images_b, False)):
        for part in images.split(batch_size):
            metric.update(to_float(part), real=real)
    return float(metric.compute())


def _absent(score: str, what: str, error: Exception) -> str:
    folder = torch.hub.get_dir()
    return f"{score} needs {what}, which are not in {folder} and cannot be downloaded ({error!r})"


def lpips_distance(images_a: Tensor, images_b: Tensor, *, backbone: str = "alex", batch_size: int = 64) -> Tensor:
    """Learned perceptual distance of each pair of images (Zhang et al. 2018), ``(N,)``, through the package
    ``lpips``.

    Raises :class:`MissingWeightsError` where the backbone (``alex``, ``vgg``, ``squeeze``) cannot be had.
    """
    _check_pair(images_a, images_b)
    if backbone not in ("alex", "vgg", "squeeze"):
        raise ValueError(f"backbone must be alex, vgg or squeeze, not {backbone!r}")
    import lpips

    try:
        metric = lpips.LPIPS(net=backbone, verbose=False)
    except Exception as error:  # urllib, SSL, hash and pickle errors of the download
        raise MissingWeightsError(_absent("LPIPS", f"the weights of its backbone {backbone}", error)) from error
    return in_batches(
        lambda pair: metric(*_rgb(pair), normalize=True).flatten(),
        torch.stack((images_a, images_b), 1),
        batch_size,
    )


def _rgb(pairs: Tensor) -> Iterator[Tensor]:
    return (side.expand(-1, 3, -1, -1) if side.shape[1] == 1 else side for side in pairs.unbind(1))


def psnr(images_a: Tensor, images_b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB for images in [0, 1]: ``-10 log10 MSE`` of each image, averaged; inf
    for equal ones.
    """
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
    )  # imported where needed: it takes a second

    _check_pair(images_a, images_b)
    return float(
        peak_signal_noise_ratio(images_a, images_b, data_range=1.0, reduction="elementwise_mean", dim=(1, 2, 3))
    )


def ssim(images_a: Tensor, images_b: Tensor) -> float:
    """Mean structural similarity (Wang et al. 2004) for images in [0, 1], at least 11 pixels wide; 1 for
    equal ones.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    _check_pair(images_a, images_b)
    if min(images_a.shape[-2:]) < 11:
        raise ValueError(f"SSIM's window is 11 pixels wide; the images are {tuple(images_a.shape[-2:])}")
    value = structural_similarity_index_measure(images_a, images_b, data_range=1.0)
    return float(value[0] if isinstance(value, tuple) else value)


def _check_pair(images_a: Tensor, images_b: Tensor) -> None:
    if images_a.shape != images_b.shape or images_a.ndim != 4 or len(images_a) == 0:
        raise ValueError(
            f"equal shapes (N, C, H, W) are needed, not {tuple(images_a.shape)} and {tuple(images_b.shape)}"
        )


def diversity(features: Tensor, labels: Tensor | None = None) -> dict[str, float]:
    """Mean Euclidean distance of two different features, ``(N, D)``: ``all``, and with labels ``within``
    classes.

    ``within`` is the mean over the classes that have two images or more, each class counted alike; near 0 the
    images of a class are copies of each other.
    """
    flat = features.detach().double().flatten(1)
    if len(flat) < 2:
        raise ValueError(f"diversity needs at least 2 features, not {len(flat)}")
    distances = torch.cdist(
        flat,
        flat,
        compute_mode="donot_use_mm_for_euclid_dist" if len(flat) <= 512 else "use_mm_for_euclid_dist",
    )
    found = {"all": _mean_off_diagonal(distances)}
    if labels is not None:
        if len(labels) != len(flat):
            raise ValueError(f"there are {len(flat)} features but {len(labels)} labels")
        groups = [torch.nonzero(labels == label)[:, 0] for label in labels.unique()]
        values = [_mean_off_diagonal(distances[g][:, g]) for g in groups if len(g) > 1]
        found["within"] = sum(values) / len(values) if values else math.nan
    return found


def _mean_off_diagonal(distances: Tensor) -> float:
    count = len(distances)
    return float((distances.sum() - distances.diagonal().sum()) / (count * (count - 1)))


def saturated_fraction(images: Tensor, margin: float = 0.5 / 255) -> float:
    """Share of values at black or white, within ``margin`` of 0 or 1: high where a method fights the pixel
    range.
    """
    return float(((images <= margin) | (images >= 1 - margin)).double().mean())
