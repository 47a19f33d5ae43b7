"""Seeds mean the same everywhere, and nobody's global random numbers move."""

import pytest
import torch

from invkit.core.rng import default_generator, isolated_rng, seeded, spawn


def test_a_seed_means_the_same_draws():
    assert torch.equal(torch.rand(5, generator=seeded(3)), torch.rand(5, generator=seeded(3)))
    assert not torch.equal(torch.rand(5, generator=seeded(3)), torch.rand(5, generator=seeded(4)))
    assert torch.equal(torch.rand(5, generator=default_generator()), torch.rand(5, generator=seeded(0)))


@pytest.mark.parametrize("seed", [1.5, "a", None, 2**70])
def test_what_is_no_seed_is_named(seed):
    with pytest.raises(ValueError, match="seed must be a whole number"):
        seeded(seed)


def test_spawned_streams_are_apart_and_repeatable():
    first, second = seeded(0), seeded(0)
    children = [torch.rand(3, generator=spawn(first)) for _ in range(2)]
    again = [torch.rand(3, generator=spawn(second)) for _ in range(2)]
    assert not torch.equal(*children)
    assert all(torch.equal(a, b) for a, b in zip(children, again))


def test_no_global_seed_is_touched():
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    spawn(seeded(9))
    assert torch.equal(torch.rand(2), expected)


def test_isolated_draws_follow_the_seed_and_leave_the_others_alone():
    before = torch.get_rng_state()
    draws = []
    for seed in (0, seeded(5), 0, seeded(5)):
        with isolated_rng(seed):
            draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[2])
    assert torch.equal(draws[1], draws[3])
    assert not torch.equal(draws[0], draws[1])
    assert torch.equal(torch.get_rng_state(), before)
