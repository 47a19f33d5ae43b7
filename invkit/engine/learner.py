"""What learns: one optimisation step on a batch, the terms of its loss, and a state that can be saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

Batch = TypeVar("Batch")


class Learner(Generic[Batch]):
    """What :func:`~invkit.engine.fit.fit` drives: one optimisation step on a batch, and a state that can be saved.

    A learner defines :meth:`step` and names in :attr:`STATE` all attributes that the next step depends on: networks,
    optimisers, generators of its own, learners inside it, tensors and plain values, or tuples of them.

    >>> from invkit.engine.fit import FitConfig, fit
    >>> class Mean(Learner[Tensor]):
    ...     STATE = ("value", "optimizers")
    ...     def __init__(self):
    ...         self.value = nn.Parameter(torch.zeros(2))
    ...         self.optimizers = (torch.optim.SGD([self.value], lr=0.5),)
    ...     def step(self, batch):
    ...         return {"distance": self.minimise((self.value - batch).square().sum())}
    >>> mean = Mean()
    >>> fit(mean, [torch.tensor([1.0, 3.0])], FitConfig(steps=9), generator=torch.Generator()).steps
    9
    >>> mean.value.tolist()
    [1.0, 3.0]
    """

    STATE: ClassVar[tuple[str, ...]] = ()
    """Names of the attributes that :meth:`state_dict` holds."""
    optimizers: Sequence[torch.optim.Optimizer] = ()
    """Those whose learning rates follow the schedule."""
    device: torch.device = torch.device("cpu")
    """Where it computes."""
    depends_on: str = ""
    """What its steps depend on beside config and state, in a word: a checkpoint of another word is refused."""

    def step(self, batch: Batch, /) -> Mapping[str, float | Tensor]:
        """One step on ``batch``; returns the step's terms, without a gradient and not yet on the host."""
        raise NotImplementedError

    def problem(self, terms: Mapping[str, float]) -> str | None:
        """Called with each step's terms: None for a good state, "" for one not to go back to, or why to stop."""
        return None

    def minimise(
        self, loss: Tensor, optimizer: torch.optim.Optimizer | None = None, *,
        clip_norm: float | None = None, parameters: Iterable[nn.Parameter] = (),
    ) -> Tensor:  # fmt: skip
        """One step of ``optimizer``, by default the first, down the gradient of ``loss``.

        Args:
            loss: A scalar.
            optimizer: Whose step it is.
            clip_norm: Largest norm of the gradient of ``parameters``; None does not clip.
            parameters: Whose gradients are clipped together.

        Returns:
            The loss, without its gradient.
        """
        optimizer = self.optimizers[0] if optimizer is None else optimizer
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, clip_norm)
        optimizer.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, as tensors and plain values."""
        return {name: _saved(getattr(self, name)) for name in self.STATE}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Restore what :meth:`state_dict` gave.

        Raises:
            ValueError: Where ``state`` is that of another learner.
        """
        missing = [name for name in self.STATE if name not in state]
        if missing:
            raise ValueError(f"the state is not one of {type(self).__name__}: it lacks {', '.join(missing)}")
        for name in self.STATE:
            setattr(self, name, _restored(getattr(self, name), state[name]))


def _saved(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_saved(item) for item in value]
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, nn.Parameter):
        return value.detach()
    return value.state_dict() if hasattr(value, "state_dict") else value


def _restored(value: Any, saved: Any) -> Any:
    """``value`` with the ``saved`` state: the same object where it has one, else what was saved."""
    if isinstance(value, tuple | list):
        return type(value)(_restored(item, state) for item, state in zip(value, saved, strict=True))
    if isinstance(value, torch.Generator):
        value.set_state(saved)
    elif isinstance(value, nn.Parameter):
        value.data.copy_(saved)
    elif hasattr(value, "load_state_dict"):
        value.load_state_dict(saved)
    else:
        return saved
    return value


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """The sum of the terms of a loss, each a scalar.

    >>> total({"image": torch.tensor(1.0), "cycle": torch.tensor(0.5)})
    tensor(1.5000)
    """
    return torch.stack(list(terms.values())).sum()


def detached(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same terms without their gradients, as :meth:`Learner.step` returns them.

    >>> detached({"image": torch.ones((), requires_grad=True)})
    {'image': tensor(1.)}
    """
    return {name: term.detach() for name, term in terms.items()}
