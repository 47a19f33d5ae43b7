"""A reader's own network, opened: by name or from a file, with or without weights, whatever it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from invkit.core.device import pick_device
from invkit.core.files import write_json
from invkit.core.spec import ImageSpec
from invkit.core.target import Target
from invkit.networks.classifiers import build
from invkit.networks.loading import load_module
from invkit.networks.own import beside, build_own, located, start_folder
from invkit.report.images import glance


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A network ready to be looked at, and what was found on the way."""

    target: Target
    fresh: Callable[[int], nn.Module] | None
    """Builds the same network untrained, from a seed; None where that cannot be done."""
    notes: tuple[str, ...] = ()
    """Sentences for the report."""


class LogitsOnly(nn.Module):
    """A network that answers by a tuple or a mapping, of which the logits are taken.

    >>> class Pair(nn.Module):
    ...     def forward(self, x):
    ...         return {"features": x, "logits": x.flatten(1)}
    >>> LogitsOnly(Pair(), "logits")(torch.zeros(2, 1, 1, 3)).shape
    torch.Size([2, 3])
    """

    def __init__(self, network: nn.Module, key: Any) -> None:
        super().__init__()
        self.network, self.key = network, key

    def forward(self, images: Tensor) -> Tensor:
        """The logits ``(N, K)`` for normalised images ``(N, C, H, W)``."""
        logits: Tensor = self.network(images)[self.key]
        return logits


def open_network(network: str, weights: str = "", *, spec: str = "", data: str = "", device: str = "cpu") -> Opened:
    """The network that a reader names, frozen, with what its images look like.

    Args:
        network: ``timm/NAME``, ``torchvision/NAME``, ``invkit/NAME``, or ``my_file:make_net`` for a function without
            arguments in ``my_file.py`` of the folder that one started from.
        weights: A file, safetensors or a torch file of plain tensors; empty for the published ones of timm and
            torchvision, and for a function that loads its own. ``none`` leaves them random.
        spec: A JSON file with ``input``, ``mean``, ``std`` and ``classes``; by default the one beside the weights or
            beside ``my_file.py``.
        data: A set of images, as :func:`~invkit.report.images.open_images` takes it, to fill a template from.
        device: Where the network shall be.

    Returns:
        The network, how to build it anew, and what was noticed.

    Raises:
        ValueError: Where a specification is needed: a template has been written and is named. For a network that takes
            no such images or gives no logits.
        FileNotFoundError: For a file that is not there.

    >>> opened = open_network("torchvision/mobilenet_v3_small", "none")
    >>> opened.target.spec.shape, opened.fresh is not None
    ((3, 224, 224), True)
    """
    start = start_folder()
    name = located(network, start)
    file = str(beside(weights, start)) if weights not in ("", "none") else None
    own, ours = ":" in name, name.startswith("invkit/")
    if ours and file is None and weights != "none":
        raise ValueError(f"{network} has no published weights: give weights=FILE, or weights=none for random ones")
    use: str | None = file or (None if own or weights == "none" else "pretrained")
    found = _specification(spec, file, name, start)
    if (own or ours) and found is None:
        path = _write_template(name, file, start, data)
        raise ValueError(
            f"{network} needs a specification of its images, and none was found: fill in {path}, which has been "
            "written as far as it could be known, and start again"
        )
    module, image_spec = load_module(name, weights=use, spec=found)
    module, note = _logits_only(module.eval(), image_spec, name)
    target = Target(module.to(pick_device(device)), image_spec, network)
    notes = [note] if note else []
    if use is None and not own:
        notes.append("No weights were given: they are random, and so is what is found.")
    if not all(parameter.isfinite().all() for parameter in target.parameters()):
        raise ValueError(f"{network} has weights that are NaN or infinite: give another file of weights")
    return Opened(target=target, fresh=partial(_build_anew, name, image_spec), notes=tuple(notes))


def _specification(spec: str, weights: str | None, name: str, start: Path) -> Path | None:
    """The JSON that was named, or lies beside the weights or beside the file of the network; None if there is none."""
    if spec:
        return beside(spec, start)
    places = [Path(weights).with_suffix(".json")] if weights else []
    if name.rpartition(":")[0].endswith(".py"):
        places.append(Path(name.rpartition(":")[0]).with_suffix(".json"))
    return next((path for path in places if path.is_file()), None)


def _write_template(name: str, weights: str | None, start: Path, data: str) -> Path:
    """A specification to be filled in, with what the module and the images tell."""
    own = name.rpartition(":")[0]
    stem = Path(weights) if weights else Path(own) if own.endswith(".py") else start / name.replace("/", "_")
    path = stem.with_suffix(".json")
    module = build_own(name) if ":" in name else None
    channels, classes = _guessed(module) if module is not None else (3, None)
    shape, names = glance(data) if data else ((), ())
    side: list[Any] = list(shape[-2:]) or ["HEIGHT", "WIDTH"]
    generic = [f"class {i}" for i in range(classes or 10)]
    template = {
        "input": [channels, *side],
        "mean": ["MEAN"] * channels,
        "std": ["STD"] * channels,
        # A folder may lack images of some classes; then its names are not all.
        "classes": list(names) if len(names) == (classes or len(names)) and names else generic,
    }
    if not path.exists():
        write_json(path, template)
    return path


def _guessed(module: nn.Module) -> tuple[int, int | None]:
    """Channels by the first convolution, classes by the last linear layer."""
    layers = list(module.modules())
    channels = [layer.in_channels for layer in layers if isinstance(layer, nn.Conv2d)]
    classes = [layer.out_features for layer in layers if isinstance(layer, nn.Linear)]
    return (channels[0] if channels else 3), (classes[-1] if classes else None)


@torch.no_grad()
def _logits_only(module: nn.Module, spec: ImageSpec, name: str) -> tuple[nn.Module, str]:
    """The module, wrapped where it answers by a tuple or a mapping; of any other answer the target tells."""
    try:
        answer = module(spec.normalise(torch.zeros(2, *spec.shape)))
    except (RuntimeError, ValueError, TypeError):
        return module, ""
    if isinstance(answer, Mapping):
        keys: list[Any] = list(answer)
        ordered = [key for key in ("logits", "out", "output") if key in answer] + keys
    elif isinstance(answer, tuple | list):
        ordered = list(range(len(answer)))
    else:
        return module, ""
    fits = [key for key in ordered if isinstance(answer[key], Tensor) and answer[key].shape == (2, spec.n_classes)]
    if not fits:
        kind = "mapping" if isinstance(answer, Mapping) else type(answer).__name__
        raise ValueError(f"{name} answers by a {kind} in which no entry has the shape (N, {spec.n_classes}) of logits")
    return LogitsOnly(module, fits[0]), f"The network answers by several values, of which {fits[0]!r} are its logits."


def _build_anew(name: str, spec: ImageSpec, seed: int) -> nn.Module:
    """The same network untrained."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if name.startswith("invkit/"):
            return build(name.partition("/")[2], spec, seed=seed)
        module = load_module(name, weights=None, spec=spec)[0]
        for layer in module.modules():  # a function of the reader's own may give it trained
            reset = getattr(layer, "reset_parameters", None)
            if callable(reset) and ":" in name:
                reset()
        return _logits_only(module.eval(), spec, name)[0]


__all__ = ["LogitsOnly", "Opened", "open_network", "start_folder"]
