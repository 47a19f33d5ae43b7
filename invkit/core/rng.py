"""Random generators: all randomness enters by one."""

from __future__ import annotations

import torch
import torch.distributed


def seeded(seed: int) -> torch.Generator:
    """A CPU generator with this seed. Draws are made on the CPU and moved, so that a seed means the same everywhere."""
    return torch.Generator().manual_seed(seed)


def default_generator() -> torch.Generator:
    """Where no generator is given: seeded by the rank, so that the ranks of a distributed run draw different noise."""
    ranks = torch.distributed.is_available() and torch.distributed.is_initialized()
    return seeded(torch.distributed.get_rank() if ranks else 0)


def spawn(generator: torch.Generator) -> torch.Generator:
    """A new generator seeded by the next draw of ``generator``: independent streams from one seed."""
    return seeded(int(torch.randint(2**62, (), generator=generator)))
