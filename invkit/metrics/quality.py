"""How good images are: judged by a verifier, by statistics of features, and against the originals.

Scores that lean on somebody's published network (FID, LPIPS) keep its name only when that very network is
used; the Fréchet distance in the features of a network of one's own is called just that."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from invkit.core.spec import ImageSpec, check_floats, check_images
from invkit.data.batching import to_float

Network = Callable[[Tensor], Tensor]


class MissingWeightsError(OSError):
    """The published network behind a score cannot be had on this machine; the score is unknown, not zero."""


@contextmanager
def evaluating(network: Network) -> Iterator[None]:
    """``network`` in eval mode if it is an ``nn.Module``; each submodule gets its own mode back in the end.

    >>> network = nn.Dropout()
    >>> with evaluating(network):
    ...     network.training
    False
    >>> network.training
    True
    """
    modes = [(m, m.training) for m in network.modules()] if isinstance(network, nn.Module) else []
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def in_batches(network: Network, images: Tensor, batch_size: int = 256, device: torch.device | None = None) -> Tensor:
    """Outputs of ``network`` for images, computed batch by batch in eval mode, on the CPU.

    Args:
        network: A :class:`~invkit.core.target.Target`, a method of one such as ``target.features``, or any function of
            images in [0, 1]. A module gets its modes back, and its running statistics stay as they are.
        images: ``(N, C, H, W)``, uint8 or float in [0, 1]; only a batch at a time becomes float.
        batch_size: Images of one batch.
        device: Where the batches go; the network's own if it names one.

    Returns:
        Outputs ``(N, ...)`` on the CPU, of the network's own type, without a graph.

    Raises:
        ValueError: For no images, and images that are not of the network's channels and size.

    >>> from invkit.testing import tiny_target
    >>> target = tiny_target()
    >>> in_batches(target.features, torch.zeros(5, 3, 8, 8), batch_size=2).shape
    torch.Size([5, 8])
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    owner = getattr(network, "__self__", network)  # of a method, what it belongs to
    spec = getattr(owner, "spec", None)
    if isinstance(spec, ImageSpec):
        images = spec.check(images, dtype=getattr(owner, "dtype", None), keep_bytes=True)
    else:
        images = check_images(images, keep_bytes=True)
    device = device or getattr(owner, "device", None)
    outputs = []
    with evaluating(owner):
        for part in images.split(batch_size):
            outputs.append(network(to_float(part.to(device) if device else part)).cpu())
    return torch.cat(outputs)


def accuracy(
    verifier: Network,
    images: Tensor,
    labels: Tensor | Sequence[int],
    topk: Sequence[int] = (1, 5),
    *,
    batch_size: int = 256,
    device: torch.device | None = None,
) -> dict[str, float]:
    """Share of images whose label is among the verifier's k most likely classes: ``{"top1": …, "top5": …}`` in [0, 1].

    Args:
        verifier: See :func:`in_batches`.
        images: ``(N, C, H, W)``, uint8 or float in [0, 1].
        labels: Class indices ``(N,)``.
        topk: The numbers k; one beyond the number of classes counts as all of them.
        batch_size: Images of one batch.
        device: Where the batches go; the verifier's own if it names one.

    Returns:
        By ``top`` and the number k, the share of images, in [0, 1].

    Raises:
        ValueError: For labels that are no class indices, out of range or of another number than the images.

    >>> accuracy(lambda x: x.flatten(1), torch.tensor([[0.9, 0.1], [0.2, 0.3]]).view(2, 2, 1, 1), [0, 0])
    {'top1': 0.5, 'top5': 1.0}
    """
    images, indices = check_images(images, keep_bytes=True), class_indices(labels)
    if len(indices) != len(images):
        raise ValueError(f"there are {len(images)} images but {len(indices)} labels")
    if not topk or min(topk) < 1:
        raise ValueError(f"topk needs numbers of at least 1, not {tuple(topk)}")
    logits = in_batches(verifier, images, batch_size, device)
    classes = logits.shape[1]
    if indices.min() < 0 or indices.max() >= classes:
        raise ValueError(
            f"labels go from {int(indices.min())} to {int(indices.max())}; the verifier knows 0..{classes - 1}"
        )
    hits = logits.topk(min(max(topk), classes), dim=1).indices == indices[:, None]
    return {f"top{k}": float(hits[:, :k].any(1).double().mean()) for k in topk}


def class_indices(labels: Tensor | Sequence[int]) -> Tensor:
    """Labels as int64 ``(N,)`` on the CPU; ``ValueError`` where they are no whole numbers in a row.

    >>> class_indices([2, 0])
    tensor([2, 0])
    """
    try:
        indices = torch.as_tensor(labels).cpu()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"labels must be class indices (N,), not {type(labels).__name__}") from None
    if indices.numel() and (indices.ndim != 1 or indices.is_floating_point() or indices.dtype == torch.bool):
        raise ValueError(f"labels must be class indices (N,), not {indices.dtype} {tuple(indices.shape)}")
    return indices.long()


def probabilities(network: Network, images: Tensor, batch_size: int = 256) -> Tensor:
    """Softmax of the network's logits for images, ``(N, classes)`` in float64; see :func:`in_batches`.

    Args:
        network: See :func:`in_batches`; it gives logits ``(N, classes)``.
        images: ``(N, C, H, W)``, uint8 or float in [0, 1].
        batch_size: Images of one batch.

    Returns:
        Probabilities ``(N, classes)`` in float64 on the CPU; rows sum to 1.

    >>> probabilities(lambda x: x.flatten(1), torch.zeros(1, 2, 1, 1))
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    return in_batches(network, images, batch_size).double().softmax(1)


def inception_score(source: Tensor | Network, images: Tensor | None = None, *, splits: int = 1) -> tuple[float, float]:
    """Mean and standard deviation over ``splits`` of ``exp(mean_x KL(p(y|x) || p(y)))`` (Salimans et al. 2016, §4).

    It lies between 1 (all alike, or all undecided) and the number of classes (each sure, all classes alike). It is the
    published score only where the network is Inception v3.

    Args:
        source: Probabilities ``(N, classes)``, or a network to judge ``images``.
        images: ``(N, C, H, W)`` in [0, 1], for a network.
        splits: Equal parts that are scored each by itself.

    Returns:
        Mean and standard deviation over the parts, the mean between 1 and the number of classes; the standard deviation
        of one part is 0.

    Raises:
        ValueError: For rows that do not sum to 1, a network without images, or more splits than images.

    >>> round(inception_score(torch.eye(4))[0], 6)
    4.0
    """
    if isinstance(source, Tensor):
        chances = source.double()
    elif images is not None:
        chances = probabilities(source, images)
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
    """Squared Fréchet distance of the Gaussians fitted to two sets of features.

    ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))`` (Heusel et al. 2017, eq. 6). With ``C = X^T X`` of
    the centred and scaled features, the trace of the root is the sum of the singular values of ``X_a X_b^T``:
    nothing is inverted, no root of a near-singular matrix is taken, and fewer images than dimensions do no
    harm. Call it the Fréchet distance in the features of the network that made them; it is the FID only for
    Inception's. It shrinks as N grows: compare at equal N.

    Args:
        features_a: ``(N, D)``, N of 2 or more.
        features_b: ``(M, D)``, M of 2 or more.

    Returns:
        The squared distance, at least 0, in squared units of the features; 0 for equal means and covariances.

    Raises:
        ValueError: For other shapes and values that are not finite.

    >>> features = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 1.0]])
    >>> round(frechet_distance(features, features + 2), 6)
    8.0
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
    """Fréchet Inception Distance of two sets of RGB images in [0, 1], through torchmetrics and its Inception v3.

    Args:
        images_a: ``(N, 3, H, W)``, uint8 or float in [0, 1].
        images_b: ``(M, 3, H, W)``.
        batch_size: Images of one batch.

    Returns:
        The FID, at least 0; 0 for sets of equal statistics.

    Raises:
        ValueError: For images that are not RGB.
        MissingWeightsError: Where torch-fidelity or Inception's weights cannot be had.

    >>> fid(torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 8))
    Traceback (most recent call last):
    ValueError: the FID is defined for RGB images; for others take frechet_distance in a network's features
    """
    images_a = check_images(images_a, "images_a", keep_bytes=True)
    images_b = check_images(images_b, "images_b", keep_bytes=True)
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


@torch.no_grad()
def lpips_distance(images_a: Tensor, images_b: Tensor, *, backbone: str = "alex", batch_size: int = 64) -> Tensor:
    """Learned perceptual distance of each pair of images (Zhang et al. 2018), ``(N,)``, through the package ``lpips``.

    Args:
        images_a: ``(N, C, H, W)`` in [0, 1], grey or RGB.
        images_b: As many, of the same shape.
        backbone: ``alex``, ``vgg`` or ``squeeze``.
        batch_size: Pairs of one batch.

    Returns:
        Distances ``(N,)`` on the CPU, at least 0; 0 for equal images.

    Raises:
        ValueError: For other shapes, and another backbone.
        MissingWeightsError: Where the backbone cannot be had.

    >>> lpips_distance(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), backbone="resnet")
    Traceback (most recent call last):
    ValueError: backbone must be alex, vgg or squeeze, not 'resnet'
    """
    images_a, images_b = _checked_pair(images_a, images_b)
    if backbone not in ("alex", "vgg", "squeeze"):
        raise ValueError(f"backbone must be alex, vgg or squeeze, not {backbone!r}")
    import lpips

    try:
        metric = lpips.LPIPS(net=backbone, verbose=False)
    except Exception as error:  # urllib, SSL, hash and pickle errors of the download
        raise MissingWeightsError(_absent("LPIPS", f"the weights of its backbone {backbone}", error)) from error
    distances = []
    for a, b in zip(images_a.split(batch_size), images_b.split(batch_size), strict=True):
        distances.append(metric(_rgb(a), _rgb(b), normalize=True).flatten().cpu())
    return torch.cat(distances)


def _rgb(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def psnr(images_a: Tensor, images_b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB: ``-10 log10 MSE`` of each image, averaged; inf for equal ones.

    Args:
        images_a: ``(N, C, H, W)`` in [0, 1].
        images_b: As many, of the same shape.

    Returns:
        The mean PSNR in dB; at least 0 for images in [0, 1].

    Raises:
        ValueError: For other shapes.

    >>> round(psnr(torch.zeros(2, 1, 4, 4), torch.full((2, 1, 4, 4), 0.1)), 3)
    20.0
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio  # imported where needed: it takes a second

    images_a, images_b = _checked_pair(images_a, images_b)
    return float(
        peak_signal_noise_ratio(images_a, images_b, data_range=1.0, reduction="elementwise_mean", dim=(1, 2, 3))
    )


def ssim(images_a: Tensor, images_b: Tensor) -> float:
    """Mean structural similarity (Wang et al. 2004), in [-1, 1]; 1 for equal images.

    Args:
        images_a: ``(N, C, H, W)`` in [0, 1], at least 11 pixels wide and high.
        images_b: As many, of the same shape.

    Returns:
        The mean over the pairs, in [-1, 1].

    Raises:
        ValueError: For other shapes and smaller images.

    >>> image = torch.eye(12).view(1, 1, 12, 12)
    >>> round(ssim(image, image), 6)
    1.0
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    images_a, images_b = _checked_pair(images_a, images_b)
    if min(images_a.shape[-2:]) < 11:
        raise ValueError(f"SSIM's window is 11 pixels wide; the images are {tuple(images_a.shape[-2:])}")
    value = structural_similarity_index_measure(images_a, images_b, data_range=1.0)
    return float(value[0] if isinstance(value, tuple) else value)


def _checked_pair(images_a: Tensor, images_b: Tensor) -> tuple[Tensor, Tensor]:
    images_a, images_b = check_images(images_a, "images_a"), check_images(images_b, "images_b")
    if images_a.shape != images_b.shape:
        raise ValueError(
            f"equal shapes (N, C, H, W) are needed, not {tuple(images_a.shape)} and {tuple(images_b.shape)}"
        )
    return images_a, images_b


def diversity(features: Tensor, labels: Tensor | None = None) -> dict[str, float]:
    """Mean Euclidean distance of two different features: over ``all``, and with labels ``within`` classes.

    ``within`` is the mean over the classes that have two images or more, each class counted alike; near 0 the images of
    a class are copies of each other.

    Args:
        features: ``(N, D)``, two or more.
        labels: Classes ``(N,)``.

    Returns:
        ``all``, and with labels ``within``, both in units of the features; ``within`` is nan where no class has two
        images.

    Raises:
        ValueError: For fewer than two features, or another number of labels.

    >>> diversity(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    {'all': 5.0}
    """
    flat = features.detach().double().flatten(1)
    if len(flat) < 2:
        raise ValueError(f"diversity needs at least 2 features, not {len(flat)}")
    exactly = len(flat) <= 512  # the fast way, by products, loses digits between near-equal features
    mode = "donot_use_mm_for_euclid_dist" if exactly else "use_mm_for_euclid_dist"
    distances = torch.cdist(flat, flat, compute_mode=mode)
    means = {"all": _mean_off_diagonal(distances)}
    if labels is not None:
        if len(labels) != len(flat):
            raise ValueError(f"there are {len(flat)} features but {len(labels)} labels")
        groups = [torch.nonzero(labels == label)[:, 0] for label in labels.unique()]
        values = [_mean_off_diagonal(distances[group][:, group]) for group in groups if len(group) > 1]
        means["within"] = sum(values) / len(values) if values else math.nan
    return means


def _mean_off_diagonal(distances: Tensor) -> float:
    count = len(distances)
    return float((distances.sum() - distances.diagonal().sum()) / (count * (count - 1)))


def saturated_fraction(images: Tensor, margin: float = 0.5 / 255) -> float:
    """Share of values at black or white: high where a method fights the pixel range.

    Args:
        images: In [0, 1], of any shape.
        margin: How near to 0 or 1 counts.

    Returns:
        The share, in [0, 1].

    >>> saturated_fraction(torch.tensor([0.0, 0.5, 1.0, 0.25]))
    0.5
    """
    images = check_floats(images, "images")
    images = check_floats(images, "images")
    return float(((images <= margin) | (images >= 1 - margin)).double().mean())
