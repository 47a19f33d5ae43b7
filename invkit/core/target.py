"""A trained network to be inverted: frozen, in eval mode, with what its images or codes look like."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from invkit.core.hooks import Hooks, StopForward
from invkit.core.spec import ImageSpec, LatentSpec


def _kind(value: Any) -> str:
    return f"the class {value.__name__}; make one" if isinstance(value, type) else f"a {type(value).__name__}"


def _reason(error: Exception) -> str:
    """The first line of an error, or its kind where it says nothing."""
    lines = str(error).splitlines()
    kind = type(error).__name__
    return lines[0] if lines and isinstance(error, RuntimeError | ValueError) else f"{kind} {lines[0] if lines else ''}"


class FrozenNetwork(nn.Module):
    """A network in eval mode whose parameters ask for no gradients, with what goes into it.

    The module itself is kept, not copied. See :class:`Target` and :class:`GeneratorTarget`.
    """

    spec: ImageSpec | LatentSpec
    _spec_class: ClassVar[type] = object

    def __init__(self, module: nn.Module, spec: ImageSpec | LatentSpec, name: str = "") -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise TypeError(f"module must be a torch.nn.Module, not {_kind(module)}")
        if not isinstance(spec, self._spec_class):
            raise TypeError(f"spec must be an {self._spec_class.__name__}, not {_kind(spec)}")
        self.spec = spec
        self.name = name or type(module).__name__
        for where, parameter in module.named_parameters():
            if isinstance(parameter, nn.parameter.UninitializedParameter) or parameter.is_meta:
                raise ValueError(
                    f"{where} of {self.name} has no values yet; load its weights, or run it once if it is lazy"
                )
            parameter.requires_grad_(False)  # one by one: a scripted module does not take them all at once
        self.module = module.eval()

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Of the first parameter that is a float, and so of what goes into the network."""
        return next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)

    def check(self, inputs: Any, what: str = "") -> Tensor:
        """``inputs``, images or codes, as the network takes them, see :meth:`ImageSpec.check`, in its own precision.

        Raises:
            ValueError: Naming ``what``, what it is and what is wanted.

        >>> from invkit.testing import tiny_target
        >>> tiny_target().check(torch.zeros(2, 3, 8, 8, dtype=torch.float64)).dtype
        torch.float32
        """
        kind = "images" if isinstance(self.spec, ImageSpec) else "codes"
        return self.spec.check(inputs, what or kind, dtype=self.dtype)

    def train(self, mode: bool = True) -> Self:
        """Refused: a target is frozen. Train its ``module`` and wrap it again."""
        if mode:
            raise ValueError(
                f"target {self.name} is frozen in eval mode; train target.module itself and wrap it in a new target"
            )
        return super().train(False)

    def check_frozen(self) -> None:
        """Raise ``ValueError`` naming a submodule that somebody put back into train mode.

        >>> from invkit.testing import tiny_target
        >>> target = tiny_target()
        >>> _ = target.module.bn1.train()
        >>> target.check_frozen()
        Traceback (most recent call last):
        ValueError: bn1 of target tiny is in train mode; call module.eval() first
        """
        for name, module in self.module.named_modules():
            if module.training:
                raise ValueError(
                    f"{name or 'the network'} of target {self.name} is in train mode; call module.eval() first"
                )

    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change with any weight, buffer or part of the specification.

        >>> from invkit.testing import tiny_target
        >>> tiny_target(seed=0).fingerprint() == tiny_target(seed=1).fingerprint()
        False
        """
        digest = hashlib.sha256(json.dumps(self.spec.to_json(), sort_keys=True).encode())
        for name, tensor in sorted(self.module.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:12]


class Target(FrozenNetwork):
    """A frozen classifier together with the specification of its images.

    ``target(images)`` takes ``(N, C, H, W)`` in [0, 1], normalises, and returns logits ``(N, n_classes)``. The module
    is put into eval mode and its parameters stop asking for gradients, so that no weight gradient is ever computed; the
    module itself is kept, not copied. Batch norms without running statistics use those of the batch at hand, in eval
    mode too: the logits of an image then depend on the images beside it.

    Args:
        module: Normalised images ``(N, C, H, W)`` to logits ``(N, n_classes)``.
        spec: What the images look like.
        name: For messages and records; the module's class if empty.

    Raises:
        ValueError: If the module does not turn such images into one logit per class.

    >>> spec = ImageSpec(channels=1, size=(2, 2), mean=(0.5,), std=(0.25,), classes=("a", "b"))
    >>> target = Target(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), spec, "linear")
    >>> target(torch.rand(3, 1, 2, 2)).shape
    torch.Size([3, 2])
    """

    spec: ImageSpec
    mean: Tensor
    std: Tensor
    _spec_class = ImageSpec

    def __init__(self, module: nn.Module, spec: ImageSpec, name: str = "") -> None:
        super().__init__(module, spec, name)
        self.register_buffer("mean", torch.tensor(spec.mean, dtype=self.dtype).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std, dtype=self.dtype).view(-1, 1, 1), persistent=False)
        self.to(self.device).eval()
        self._head = self._probe()

    def forward(self, images: Tensor) -> Tensor:
        return self.module((images - self.mean) / self.std)

    def _black(self, size: Sequence[int]) -> Tensor:
        return torch.zeros(1, self.spec.channels, *size, device=self.device, dtype=self.dtype)

    def _probe(self) -> str:
        """One black image through the network: the logits must fit, and the last layer with weights is the head."""
        order: list[str] = []
        layers = {n: m for n, m in self.module.named_modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)}

        def record(name: str, _output: Tensor) -> None:
            order.append(name)

        try:
            with torch.no_grad(), Hooks() as hooks:
                for name, layer in layers.items():
                    hooks.after(layer, partial(record, name))
                logits = self(self._black(self.spec.size))
        except Exception as error:  # a network of somebody's own may raise anything
            raise ValueError(
                f"{self.name} does not take images of shape {self.spec.shape}: {_reason(error)}"
            ) from error
        if not isinstance(logits, Tensor) or tuple(logits.shape) != (1, self.spec.n_classes):
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise ValueError(
                f"{self.name} answers an image with {shape}, not with logits (1, {self.spec.n_classes}); its "
                f"specification names {self.spec.n_classes} classes"
            )
        if not logits.is_floating_point():
            raise ValueError(f"{self.name} answers with {logits.dtype}, not with logits of floating point")
        return order[-1] if order else ""

    @contextmanager
    def tap(self, *names: str, inputs: bool = False) -> Iterator[Callable[[Tensor], dict[str, Tensor]]]:
        """Read the outputs of named submodules; the forward pass ends after the last of them.

        Hooks are removed on leaving the context.

        Args:
            names: Of ``module.named_modules()``; ``""`` is the whole network.
            inputs: Read what goes into the submodules instead.

        Yields:
            A function from images to ``{name: tensor}``.

        Raises:
            ValueError: For an unknown name or a module that the forward pass never reaches.

        >>> from invkit.testing import tiny_target
        >>> with tiny_target().tap("conv1", "conv2") as read:
        ...     features = read(torch.rand(2, 3, 8, 8))
        >>> features["conv1"].shape, features["conv2"].shape
        (torch.Size([2, 4, 8, 8]), torch.Size([2, 8, 4, 4]))
        """
        modules = dict(self.module.named_modules())
        unknown = [n for n in names if n not in modules]
        if unknown or not names:
            raise ValueError(f"{self.name} has no layer named {unknown}; it has {[n for n in modules if n]}")
        tensors: dict[str, Tensor] = {}

        def visit(name: str, tensor: Tensor) -> None:
            tensors[name] = tensor
            if len(tensors) == len(set(names)):
                raise StopForward
            if isinstance(tensor, Tensor):
                tensors[name] = tensor.clone()  # a layer further on may write over its input in place

        def read(images: Tensor) -> dict[str, Tensor]:
            tensors.clear()
            try:
                self(images)
            except StopForward:
                return dict(tensors)
            raise ValueError(f"the forward pass of {self.name} never reached {sorted(set(names) - set(tensors))}")

        with Hooks() as hooks:
            for name in names:
                place = hooks.before if inputs else hooks.after
                place(modules[name], partial(visit, name))
            yield read

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features ``(N, D)``: the input of the last layer with weights, averaged over space.

        >>> from invkit.testing import tiny_target
        >>> tiny_target().features(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 8])
        """
        with self.tap(self._head, inputs=True) as read:
            return _over_space(read(images)[self._head])

    @property
    def head(self) -> nn.Module:
        """The last layer with weights, which turns penultimate features into logits."""
        return self.module.get_submodule(self._head)

    def with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(N, n_classes)`` and penultimate features ``(N, D)``, see :meth:`features`, of one forward pass.

        >>> from invkit.testing import tiny_target
        >>> logits, features = tiny_target().with_features(torch.rand(2, 3, 8, 8))
        >>> logits.shape, features.shape
        (torch.Size([2, 4]), torch.Size([2, 8]))
        """
        inputs: list[Tensor] = []
        with Hooks() as hooks:
            hooks.before(self.head, inputs.append)
            logits = self(images)
        return logits, _over_space(inputs[-1])

    def accepts(self, size: Sequence[int]) -> bool:
        """Whether the network takes images of this ``(H, W)``, found by trying.

        >>> from invkit.testing import tiny_target
        >>> tiny_target().accepts((16, 12))
        True
        """
        try:
            with torch.no_grad():
                return self(self._black(size)).shape[-1] == self.spec.n_classes
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


def _over_space(features: Tensor) -> Tensor:
    """Features ``(N, D)``, the mean over space where there is one."""
    return features.flatten(2).mean(2) if features.ndim > 2 else features


class GeneratorTarget(FrozenNetwork):
    """A frozen generator: ``target(codes)`` takes ``(N, spec.size)`` and returns images ``(N, C, H, W)`` in [0, 1].

    Args:
        module: Codes to images.
        spec: Size of a code; may be left out where the module names its ``latent``.
        name: For messages and records; the module's class if empty.

    Raises:
        ValueError: If the module does not turn such codes into images.

    >>> generator = nn.Sequential(nn.Linear(5, 12), nn.Sigmoid(), nn.Unflatten(1, (3, 2, 2)))
    >>> target = GeneratorTarget(generator, LatentSpec(5))
    >>> target(target.spec.sample(2, torch.Generator())).shape
    torch.Size([2, 3, 2, 2])
    """

    spec: LatentSpec
    _spec_class = LatentSpec

    def __init__(self, module: nn.Module, spec: LatentSpec | None = None, name: str = "") -> None:
        size = getattr(module, "latent", None)
        if spec is None and not isinstance(size, int):
            raise ValueError(f"{name or type(module).__name__} does not name its latent; pass LatentSpec(size)")
        super().__init__(module, spec or LatentSpec(cast(int, size)), name)
        try:
            with torch.no_grad():
                images = self(torch.zeros(1, self.spec.size, device=self.device, dtype=self.dtype))
        except (RuntimeError, ValueError, AssertionError) as error:
            raise ValueError(f"{self.name} does not take codes of {self.spec.size} entries: {error}") from error
        if not isinstance(images, Tensor) or images.ndim != 4:
            shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(f"{self.name} answers a code with {shape}, not with an image (1, C, H, W)")

    def forward(self, codes: Tensor) -> Tensor:
        return self.module(codes)
