"""A target run backwards: the inverses of its blocks, one after another."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from invkit.core.config import plain
from invkit.core.files import read_safetensors, save_tensors, write_json
from invkit.core.rng import isolated_rng
from invkit.networks.block_inverses import inverse_of
from invkit.partition.chain import Block, Chain


class ChainInverse(nn.Module):
    """``F_1:k^-1 = F_1^-1 o ... o F_k^-1`` for every depth k: features of a target to images, in one pass.

    ``blocks[k - 1]`` undoes ``F_k``. ``target`` and ``fingerprint`` name the network it was trained for.

    >>> from invkit.partition.chain import partition_network
    >>> from invkit.testing import tiny_target
    >>> chain = partition_network(tiny_target())
    >>> inverse = ChainInverse.untrained(chain, len(chain), torch.Generator())
    >>> features = chain.read(torch.rand(2, 3, 8, 8))
    >>> inverse(features[-1]).shape, inverse(features[0], depth=1).shape
    (torch.Size([2, 3, 8, 8]), torch.Size([2, 3, 8, 8]))
    """

    def __init__(
        self, blocks: Sequence[Block], *, target: str = "", fingerprint: str = "",
        build: Callable[[Block], nn.Module] = inverse_of,
    ) -> None:  # fmt: skip
        super().__init__()
        self.parts, self.target, self.fingerprint = tuple(blocks), target, fingerprint
        self.blocks = nn.ModuleList(build(block) for block in blocks)

    @classmethod
    def untrained(
        cls, chain: Chain, depth: int, generator: torch.Generator, *, build: Callable[[Block], nn.Module] = inverse_of
    ) -> ChainInverse:
        """Fresh inverses of the first ``depth`` blocks, where the target is, with weights from ``generator`` alone."""
        target = chain.target
        with isolated_rng(generator):
            parts = chain.blocks[: chain.check_depth(depth)]
            inverse = cls(parts, target=target.name, fingerprint=target.fingerprint(), build=build)
        # Channels last is the faster layout for small convolutions, on CPUs and GPUs alike.
        return inverse.to(target.device).to(memory_format=torch.channels_last)

    def __len__(self) -> int:
        return len(self.blocks)

    def forward(
        self, features: Tensor, generator: torch.Generator | None = None, *, depth: int | None = None
    ) -> Tensor:
        """Images ``(N, C, H, W)`` in [0, 1], or a generator's codes ``(N, D)``, of features.

        Args:
            features: ``(N, ...)`` at ``depth``.
            generator: Without use here: all inverses are called alike, and this one draws nothing.
            depth: After how many blocks the features were read; None for all.

        Raises:
            ValueError: For a depth that there is not, or features of another shape.
        """
        if isinstance(generator, int):  # features of several depths may have one shape: no other check would tell
            raise TypeError(f"the depth is named: inverse(features, depth={generator})")
        depth = len(self) if depth is None else depth
        if not 1 <= depth <= len(self):
            raise ValueError(f"depth must lie in 1..{len(self)}, the blocks that are inverted, not {depth}")
        part = self.parts[depth - 1]
        if tuple(features.shape[1:]) != part.outputs:
            raise ValueError(
                f"features at depth {depth} ({part.name!r}) have the shape {part.outputs}, "
                f"not {tuple(features.shape[1:])}"
            )
        inputs = self.walk(features, depth)[-1]
        return inputs.clamp(0, 1) if len(self.parts[0].inputs) == 3 else inputs

    def walk(self, features: Tensor, depth: int) -> list[Tensor]:
        """What each inverse gives on the way from ``depth`` down; the last are the images, not yet cut to [0, 1]."""
        inputs = []
        for block in reversed(self.blocks[:depth]):
            features = block(features)
            inputs.append(features)
        return inputs

    def save(self, folder: str | Path, depth: int | None = None) -> Path:
        """Write ``inverse.safetensors`` and ``inverse.json`` into ``folder``: all, or the first ``depth`` blocks."""
        folder, depth = Path(folder), len(self) if depth is None else depth
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.blocks[:depth].state_dict().items()}
        save_tensors(folder / "inverse.safetensors", tensors)
        record = {"target": self.target, "fingerprint": self.fingerprint, "parts": plain(self.parts[:depth])}
        write_json(folder / "inverse.json", record)
        return folder

    def restore(self, folder: str | Path, depth: int) -> None:
        """Read the weights of the first ``depth`` blocks from where :meth:`save` wrote them."""
        self.blocks[:depth].load_state_dict(read_safetensors(Path(folder) / "inverse.safetensors"))

    @classmethod
    def load(cls, folder: str | Path, *, build: Callable[[Block], nn.Module] = inverse_of) -> ChainInverse:
        """Read what :meth:`save` wrote. Raises ``FileNotFoundError`` or ``ValueError`` naming the file."""
        path = Path(folder) / "inverse.json"
        if not path.is_file():
            raise FileNotFoundError(f"no inverse in {folder}: {path.name} is missing")
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            parts = [Block(**b | {k: tuple(b[k]) for k in ("inputs", "outputs")}) for b in record.pop("parts")]
            inverse = cls(parts, **record, build=build)
            inverse.restore(folder, len(inverse))
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"{path} is not the record of an inverse: {error}") from None
        return inverse.requires_grad_(False).eval()
