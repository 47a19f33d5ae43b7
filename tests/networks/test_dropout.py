"""Dropout by few random numbers: the distribution of PyTorch's, in any layout, and nothing but its mask."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from invkit.networks.conditional_generator import Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_and_the_mean_are_those_asked_for(p):
    torch.manual_seed(0)
    x = torch.ones(200, 8, 10, 10)
    dropped = Dropout(p)(x)
    share = float((dropped == 0).double().mean())
    error = (p * (1 - p) / x.numel()) ** 0.5
    assert abs(share - p) < 5 * error
    assert float(dropped.double().mean()) == pytest.approx(1, abs=5 * error / (1 - p))
    assert dropped.unique().tolist() == pytest.approx([0, 1 / (1 - p)], rel=1e-4)


def test_neighbours_are_independent():
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(100_000)) > 0).double() - 0.5
    for lag in (1, 2, 3, 4, 8):  # four of them come from one number
        assert abs(float((kept[lag:] * kept[:-lag]).mean()) / 0.25) < 0.02


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_is_the_mask_and_the_layout_stays(layout):
    torch.manual_seed(0)
    x = torch.rand(3, 4, 5, 6).to(memory_format=layout).requires_grad_()
    dropped = Dropout(0.3)(x)
    dropped.sum().backward()
    torch.testing.assert_close(dropped, x * x.grad)
    assert dropped.is_contiguous(memory_format=layout)
    assert 0 < int((x.grad == 0).sum()) < x.numel()


def test_each_place_is_dropped_equally_often():
    torch.manual_seed(0)
    x = torch.ones(2, 3, 2, 2).to(memory_format=torch.channels_last)
    shares = torch.stack([Dropout(0.5)(x) for _ in range(4000)]).eq(0).double().mean(0)
    assert float((shares - 0.5).abs().max()) < 0.05


def test_it_follows_the_global_random_state():
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(Dropout(0.5)(torch.ones(100)))
    assert draws[0].equal(draws[1])
    assert not draws[0].equal(draws[2])


@pytest.mark.parametrize("module", [Dropout(0.5).eval(), Dropout(0.0)])
def test_nothing_is_dropped_in_eval_mode_or_with_probability_zero(module):
    x = torch.rand(10)
    assert module(x).equal(x)


def test_everything_may_be_dropped():
    assert not Dropout(1.0)(torch.ones(10)).any()


def test_it_is_pytorchs_to_all_that_look_for_one():
    assert isinstance(Dropout(0.5), nn.Dropout)
    with pytest.raises(ValueError, match="probability"):
        Dropout(1.5)
