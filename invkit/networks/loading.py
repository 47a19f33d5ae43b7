"""How to get a target: by name from torchvision, timm or this package, or from a file of your own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from invkit.core.device import pick_device
from invkit.core.files import read_weights
from invkit.core.spec import ImageSpec
from invkit.core.target import Target
from invkit.networks.classifiers import build
from invkit.networks.own import build_own


def load_target(
    name: str,
    *,
    weights: str | Path | None = "pretrained",
    spec: ImageSpec | str | Path | None = None,
    device: str | torch.device = "cpu",
) -> Target:
    """Build a network by name and wrap it as a :class:`Target`.

    Args:
        name: ``torchvision/NAME``, ``timm/NAME``, ``invkit/NAME``, or ``package.module:function`` or
            ``path/to/file.py:function`` for a function that builds your own.
        weights: A file (safetensors, or a torch file of plain tensors), ``"pretrained"`` for what torchvision or timm
            publish, or None for random weights.
        spec: An :class:`ImageSpec` or a JSON file; by default the JSON beside the weights, else what the library says
            of the network.
        device: Where it shall be; ``auto`` takes a GPU where there is one.

    Returns:
        The network, frozen in eval mode.

    Raises:
        ValueError: For an unknown name or weights that do not fit.
        FileNotFoundError: For a missing file.
        OSError: Where published weights cannot be had.

    >>> spec = ImageSpec(channels=1, size=(16, 16), mean=(0.5,), std=(0.5,), classes=("cat", "dog"))
    >>> load_target("invkit/resnet20", weights=None, spec=spec).name
    'invkit/resnet20'
    """
    module, image_spec = load_module(name, weights=weights, spec=spec)
    return Target(module.to(pick_device(str(device))), image_spec, name)


def load_module(
    name: str, *, weights: str | Path | None = "pretrained", spec: ImageSpec | str | Path | None = None
) -> tuple[nn.Module, ImageSpec]:
    """The network of :func:`load_target` before it is frozen and checked, and what its images look like.

    Args:
        name: As for :func:`load_target`, as are ``weights`` and ``spec``.
        weights: See there.
        spec: See there.

    Returns:
        The module with its weights, on the CPU, and the specification of its images.

    Raises:
        ValueError: As :func:`load_target`, which has the other errors too.

    >>> spec = ImageSpec(channels=1, size=(16, 16), mean=(0.5,), std=(0.5,), classes=("cat", "dog"))
    >>> load_module("invkit/resnet20", weights=None, spec=spec)[1].n_classes
    2
    """
    if not isinstance(name, str):
        raise ValueError(f"name must be text such as 'timm/resnet18', not a {type(name).__name__}")
    family, _, short = name.partition("/")
    image_spec = _read_spec(spec, weights)
    if family == "torchvision" and short:
        module, image_spec = _torchvision(short, weights, image_spec)
    elif family == "timm" and short:
        module, image_spec = _timm(short, weights, image_spec)
    elif family == "invkit" and short:
        image_spec = _required(image_spec, name)
        module = build(short, image_spec)
    elif ":" in name:
        image_spec = _required(image_spec, name)
        module = build_own(name)
    else:
        raise ValueError(
            f"unknown target {name!r}; use torchvision/NAME, timm/NAME, invkit/NAME, package.module:function or "
            "path/to/file.py:function"
        )
    if weights not in (None, "pretrained"):
        load_weights(module, weights)
    elif weights == "pretrained" and family not in ("torchvision", "timm"):
        raise ValueError(f"{name} has no published weights; give weights=FILE, or weights=None for random ones")
    return module, image_spec


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Load a state dict from a file into a network, strictly.

    Args:
        module: Gets the weights, in place.
        path: A file of safetensors, or a torch file of plain tensors; names that all begin with ``module.``, as
            ``DataParallel`` saves them, lose it.

    Raises:
        ValueError: Listing the first names or shapes that do not fit.
        FileNotFoundError: For a missing file.

    >>> import tempfile
    >>> from invkit.core.files import save_tensors
    >>> path, module = Path(tempfile.mkdtemp()) / "x.safetensors", nn.Linear(2, 1)
    >>> save_tensors(path, {"weight": torch.ones(1, 2), "bias": torch.zeros(1)})
    >>> load_weights(module, path)
    >>> module.weight.tolist()
    [[1.0, 1.0]]
    """
    state = read_weights(path)
    own = module.state_dict()
    if state and all(name.startswith("module.") for name in state) and not any(n.startswith("module.") for n in own):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}  # saved from DataParallel
    # Frameworks before batch counting saved no num_batches_tracked; it plays no part in eval mode.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    extra = [k for k in state if k not in own]
    shapes = [
        f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    if missing or extra or shapes:
        raise ValueError(
            f"{path} does not fit {type(module).__name__}: "
            f"missing {missing[:3]}, unknown {extra[:3]}, shapes {shapes[:3]}"
        )
    module.load_state_dict(state, strict=False)


def _read_spec(spec: ImageSpec | str | Path | None, weights: str | Path | None) -> ImageSpec | None:
    if isinstance(spec, ImageSpec):
        return spec
    beside = Path(weights).with_suffix(".json") if weights not in (None, "pretrained") else None
    path = Path(spec) if spec is not None else beside
    if path is None or (spec is None and not path.is_file()):
        return None
    try:
        return ImageSpec.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise FileNotFoundError(f"no image specification at {path}") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def _required(spec: ImageSpec | None, name: str) -> ImageSpec:
    if spec is None:
        raise ValueError(
            f"{name} needs an image specification: pass spec=, "
            "or put a JSON with input, mean, std, classes beside the weights"
        )
    return spec


def _published(name: str, build: Callable[[], nn.Module]) -> nn.Module:
    """Run ``build``, which may download; turn any failure of that into one sentence."""
    try:
        return build()
    except Exception as error:  # hubs raise their own, urllib's and requests' errors
        raise OSError(
            f"the published weights of {name} cannot be had ({type(error).__name__}): no network? "
            "Give weights=FILE with a state dict, or weights=None for random weights"
        ) from error


def _torchvision(name: str, weights: Any, spec: ImageSpec | None) -> tuple[nn.Module, ImageSpec]:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise ValueError(
            f"torchvision has no classifier {name!r}; see torchvision.models.list_models(module=torchvision.models)"
        )
    default: Any = models.get_model_weights(name).DEFAULT
    if spec is None:
        preset = default.transforms()
        spec = ImageSpec(
            channels=len(preset.mean),
            size=(preset.crop_size[0],) * 2,
            mean=preset.mean,
            std=preset.std,
            classes=default.meta["categories"],
        )
    if weights != "pretrained":
        return models.get_model(name, weights=None, num_classes=spec.n_classes), spec
    # Published Inception weights would normalise once more inside the network; Target is the one who does.
    options: dict[str, Any] = {"transform_input": False} if name in ("inception_v3", "googlenet") else {}
    return _published(f"torchvision/{name}", lambda: models.get_model(name, weights=default, **options)), spec


def _timm(name: str, weights: Any, spec: ImageSpec | None) -> tuple[nn.Module, ImageSpec]:
    import timm

    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise ValueError(f"timm has no network {name!r}; near names: {close}")
    if weights == "pretrained":
        module = _published(f"timm/{name}", lambda: _from_hub(name))
    else:
        options: dict[str, Any] = {"num_classes": spec.n_classes} if spec else {}
        module = timm.create_model(name, pretrained=False, **options)
    if spec is None:
        config: Any = module.pretrained_cfg
        channels, *size = config["input_size"]
        names = _imagenet_names(config["num_classes"])
        spec = ImageSpec(channels=channels, size=tuple(size), mean=config["mean"], std=config["std"], classes=names)
    return module, spec


def _from_hub(name: str) -> nn.Module:
    """timm's network with its published weights, from the cache or the hub."""
    import timm
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    config: Any = timm.get_pretrained_cfg(name)
    hub, files = config.hf_hub_id, ("model.safetensors", "pytorch_model.bin")
    if hub and not any(isinstance(try_to_load_from_cache(hub, file), str) for file in files):
        # Asked once beforehand: where there is no network, the download itself would try again for a minute.
        with contextlib.suppress(HfHubHTTPError, EntryNotFoundError):  # an answer, be it a refusal: see the download
            get_hf_file_metadata(hf_hub_url(hub, files[0]), timeout=5)
    return timm.create_model(name, pretrained=True)


def _imagenet_names(n: int) -> tuple[str, ...]:
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    return tuple(_IMAGENET_CATEGORIES) if n == 1000 else tuple(f"class {i}" for i in range(n))
