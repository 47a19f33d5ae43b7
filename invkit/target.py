"""A trained network to be inverted: frozen, in eval mode, with what its images look like; and how to get one."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from invkit.images import ImageSpec
from invkit.results import read_weights
from invkit.runtime import pick_device


class _Stop(Exception):
    """Ends a forward pass once every tapped layer has answered."""


class Target(nn.Module):
    """A frozen classifier together with the specification of its images.

    ``target(images)`` takes ``(N, C, H, W)`` in [0, 1], normalises, and returns logits ``(N, n_classes)``. The module
    is put into eval mode and its parameters stop asking for gradients, so that no weight gradient is ever computed; the
    module itself is kept, not copied.

    Raises ``ValueError`` if the module does not turn such images into one logit per class.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, spec: ImageSpec, name: str = "") -> None:
        super().__init__()
        self.spec = spec
        self.name = name or type(module).__name__
        self.module = module.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(spec.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(-1, 1, 1), persistent=False)
        self.to(self.device).eval()
        self._head = self._probe()

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))

    def forward(self, images: Tensor) -> Tensor:
        return self.module((images - self.mean) / self.std)

    def train(self, mode: bool = True) -> Target:
        """Refused: a target is frozen. Train its ``module`` and wrap it again."""
        if mode:
            raise ValueError(
                f"target {self.name} is frozen in eval mode; train target.module itself and wrap it in a new Target"
            )
        return super().train(False)

    def check_frozen(self) -> None:
        """Raise ``ValueError`` naming a submodule that somebody put back into train mode."""
        for name, module in self.module.named_modules():
            if module.training:
                raise ValueError(
                    f"{name or 'the network'} of target {self.name} is in train mode; call module.eval() first"
                )

    def _probe(self) -> str:
        """One black image through the network: the logits must fit, and the last layer with weights is the head."""
        order: list[str] = []
        layers = {n: m for n, m in self.module.named_modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)}
        hooks = [m.register_forward_hook(lambda *_, n=n: order.append(n)) for n, m in layers.items()]
        try:
            with torch.no_grad():
                logits = self(torch.zeros(1, *self.spec.shape, device=self.device))
        except (RuntimeError, ValueError, AssertionError) as error:
            raise ValueError(f"{self.name} does not take images of shape {self.spec.shape}: {error}") from error
        finally:
            for hook in hooks:
                hook.remove()
        if not isinstance(logits, Tensor) or tuple(logits.shape) != (1, self.spec.n_classes):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"{self.name} answers an image with {shape}; its specification names {self.spec.n_classes} classes"
            )
        return order[-1] if order else ""

    @contextmanager
    def tap(self, *names: str, inputs: bool = False) -> Iterator[Callable[[Tensor], dict[str, Tensor]]]:
        """Read the outputs (or ``inputs``) of named submodules; the forward pass ends after the last one asked for.

        Yields a function from images to ``{name: tensor}``. Hooks are removed on leaving the context. Raises
        ``ValueError`` for an unknown name or a module that the forward pass never reaches.
        """
        modules = dict(self.module.named_modules())
        unknown = [n for n in names if n not in modules]
        if unknown or not names:
            raise ValueError(f"{self.name} has no layer named {unknown}; it has {[n for n in modules if n]}")
        found: dict[str, Tensor] = {}

        def keep(name: str, tensor: Tensor) -> None:
            found[name] = tensor
            if len(found) == len(set(names)):
                raise _Stop

        def read(images: Tensor) -> dict[str, Tensor]:
            found.clear()
            try:
                self(images)
            except _Stop:
                return dict(found)
            raise ValueError(f"the forward pass of {self.name} never reached {sorted(set(names) - set(found))}")

        if inputs:
            hooks = [modules[n].register_forward_pre_hook(lambda _m, a, n=n: keep(n, a[0])) for n in names]
        else:
            hooks = [modules[n].register_forward_hook(lambda _m, _a, out, n=n: keep(n, out)) for n in names]
        try:
            yield read
        finally:
            for hook in hooks:
                hook.remove()

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features ``(N, D)``: the input of the last layer with weights, averaged over space."""
        with self.tap(self._head, inputs=True) as read:
            features = read(images)[self._head]
        return features.flatten(2).mean(2) if features.ndim > 2 else features

    def accepts(self, size: Sequence[int]) -> bool:
        """Whether the network takes images of this ``(H, W)``, found by trying."""
        try:
            with torch.no_grad():
                return (
                    self(torch.zeros(1, self.spec.channels, *size, device=self.device)).shape[-1] == self.spec.n_classes
                )
        except (RuntimeError, ValueError, AssertionError):
            return False

    def check_sizes(self, sizes: Sequence[Sequence[int]]) -> None:
        """Raise ``ValueError`` naming the first ``(H, W)`` that the network does not take."""
        for size in sizes:
            if not self.accepts(size):
                raise ValueError(
                    f"{self.name} does not take images of {tuple(size)} pixels; "
                    "use fewer octaves or low resolutions, or larger images"
                )

    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change with any weight, buffer or part of the specification."""
        digest = hashlib.sha256(json.dumps(self.spec.to_json(), sort_keys=True).encode())
        for name, tensor in sorted(self.module.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:12]


def load_target(
    name: str,
    *,
    weights: str | Path | None = "pretrained",
    spec: ImageSpec | str | Path | None = None,
    device: str | torch.device = "cpu",
) -> Target:
    """Build a network by name and wrap it as a :class:`Target`.

    ``name`` is ``torchvision/NAME``, ``timm/NAME``, ``invkit/NAME`` or ``package.module:function`` for a function that
    builds your own. ``weights`` is a file (safetensors, or a torch file of plain tensors), ``"pretrained"`` for what
    torchvision or timm publish, or ``None`` for random weights. ``spec`` is an :class:`ImageSpec` or a JSON file; by
    default the JSON beside the weights, else what the library says of the network.

    Raises ``ValueError`` for an unknown name or weights that do not fit, ``FileNotFoundError`` for a missing file, and
    ``OSError`` where published weights cannot be had.
    """
    family, _, short = name.partition("/")
    given = _read_spec(spec, weights)
    if family == "torchvision" and short:
        module, spec_ = _torchvision(short, weights, given)
    elif family == "timm" and short:
        module, spec_ = _timm(short, weights, given)
    elif family == "invkit" and short:
        from invkit.networks.classifiers import (
            build,
        )  # a part of the same floor; kept local so that target stands alone

        spec_ = _required(given, name)
        module = build(short, spec_)
    elif ":" in name:
        spec_ = _required(given, name)
        module = _own(name)
    else:
        raise ValueError(
            f"unknown target {name!r}; use torchvision/NAME, timm/NAME, invkit/NAME or package.module:function"
        )
    if weights not in (None, "pretrained"):
        load_weights(module, weights)
    elif weights == "pretrained" and family not in ("torchvision", "timm"):
        raise ValueError(f"{name} has no published weights; give weights=FILE, or weights=None for random ones")
    return Target(module.to(pick_device(str(device))), spec_, name)


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Load a state dict strictly; ``ValueError`` lists the first names or shapes that do not fit."""
    state = read_weights(path)
    own = module.state_dict()
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


def _own(name: str) -> nn.Module:
    module, _, function = name.partition(":")
    try:
        built = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(f"cannot build {name!r}: {error}; the folder of {module} must be on PYTHONPATH") from error
    if not isinstance(built, nn.Module):
        raise ValueError(f"{name} built a {type(built).__name__}, not a torch.nn.Module")
    return built


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
        module = _published(f"timm/{name}", lambda: timm.create_model(name, pretrained=True))
    else:
        options: dict[str, Any] = {"num_classes": spec.n_classes} if spec else {}
        module = timm.create_model(name, pretrained=False, **options)
    if spec is None:
        config: Any = module.pretrained_cfg
        channels, *size = config["input_size"]
        names = _imagenet_names(config["num_classes"])
        spec = ImageSpec(channels=channels, size=tuple(size), mean=config["mean"], std=config["std"], classes=names)
    return module, spec


def _imagenet_names(n: int) -> tuple[str, ...]:
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    return tuple(_IMAGENET_CATEGORIES) if n == 1000 else tuple(f"class {i}" for i in range(n))
