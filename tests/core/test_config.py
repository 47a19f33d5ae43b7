"""Configs in plain values, and hashes that follow them."""

from pathlib import Path

import torch

from invkit.core.config import config_hash, plain


def test_hashes_follow_content():
    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})
    assert config_hash(torch.arange(3)) != config_hash(torch.arange(4))
    assert plain({"p": Path("a"), "t": (torch.tensor(1.5),)}) == {"p": "a", "t": [1.5]}
