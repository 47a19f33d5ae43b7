"""Random generators: all randomness enters by one."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed


def seeded(seed: int) -> torch.Generator:
    """A CPU generator with this seed. Draws are made on the CPU and moved, so that a seed means the same everywhere.

    Args:
        seed: A whole number of at most 64 bits.

    Returns:
        A new generator at the beginning of the stream of that seed.

    Raises:
        ValueError: For what is no whole number, or one of more than 64 bits.

    >>> torch.equal(torch.rand(2, generator=seeded(0)), torch.rand(2, generator=seeded(0)))
    True
    """
    try:
        return torch.Generator().manual_seed(operator.index(seed))
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"seed must be a whole number of at most 64 bits, not {seed!r}") from None


def default_generator() -> torch.Generator:
    """What stands in where no generator is given: seeded by the rank, so that ranks of a distributed run draw different
    noise; 0 without ranks.

    >>> default_generator().initial_seed()
    0
    """
    ranks = torch.distributed.is_available() and torch.distributed.is_initialized()
    return seeded(torch.distributed.get_rank() if ranks else 0)


def spawn(generator: torch.Generator) -> torch.Generator:
    """A new generator seeded by the next draw of ``generator``: independent streams from one seed.

    >>> parent = seeded(0)
    >>> spawn(parent).initial_seed() == spawn(parent).initial_seed()
    False
    """
    return seeded(int(torch.randint(2**62, (), generator=generator)))


@contextmanager
def isolated_rng(seed: int | torch.Generator, device: str | torch.device = "cpu") -> Iterator[None]:
    """Within the block the global random numbers follow from ``seed`` alone; after it they are what they were.

    For what takes no generator: dropout, fresh weights, the transforms of torchvision.

    Args:
        seed: The seed, or a generator whose next draw it is.
        device: Where the block draws. On a GPU its random numbers are seeded and put back beside those of the CPU.

    >>> with isolated_rng(0):
    ...     one = torch.rand(2)
    >>> with isolated_rng(0):
    ...     print(torch.equal(torch.rand(2), one))
    True
    """
    device = torch.device(device)
    cuda = device.type == "cuda"
    if isinstance(seed, torch.Generator):
        seed = int(torch.randint(2**62, (), generator=seed))
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.random.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
