"""Networks pruned, quantised and mended without data: on tiny networks whose numbers are known."""

import pytest
import torch

from invkit.core.rng import seeded
from invkit.networks import calibrate, move_statistics, prune_weights, quantise_network


def images(n=8, seed=0):
    return torch.rand(n, 3, 8, 8, generator=seeded(seed))


def test_the_smallest_weights_are_gone_and_the_rest_is_as_before(target):
    before = target.fingerprint()
    pruned = prune_weights(target, 0.5)
    old_state = target.module.state_dict()
    kept = [
        (new, old_state[name])
        for name, new in pruned.module.state_dict().items()
        if name.endswith("weight") and new.ndim > 1
    ]
    new, old = (torch.cat([pair[i].flatten() for pair in kept]) for i in (0, 1))
    assert abs(float((new == 0).float().mean()) - 0.5) < 0.01
    assert torch.equal(new[new != 0], old[new != 0])
    assert old[new == 0].abs().max() <= old[new != 0].abs().min()
    assert target.fingerprint() == before


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5])
def test_a_share_that_cannot_be_is_refused(target, share):
    with pytest.raises(ValueError, match="share must lie in"):
        prune_weights(target, share)


def test_weights_are_on_a_grid_of_each_channel(target):
    weights = dict(quantise_network(target, images(), weight_bits=3).module.named_parameters())
    for name, weight in weights.items():
        if weight.ndim < 2:
            continue
        for channel in weight:
            levels = channel.flatten() / channel.abs().max() * 3  # three bits: -3 to 3
            assert torch.allclose(levels, levels.round(), atol=1e-4), name


def test_inputs_are_on_a_grid_of_their_range(target):
    seen = []
    small = quantise_network(target, images(), bits=2)
    layer = next(m for m in small.module.modules() if isinstance(m, torch.nn.Conv2d))
    layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    small(images(4, seed=1))
    assert len(seen[0].unique()) <= 4


def test_eight_bits_are_close_and_fewer_are_farther(target):
    given, shown = images(32), images(16, seed=1)
    exact = target(shown)
    errors = [float((quantise_network(target, given, bits=bits)(shown) - exact).norm()) for bits in (8, 6, 4, 2)]
    assert errors == sorted(errors)
    assert errors[0] < 0.05 * float(exact.norm())


def test_ranges_come_from_the_images(target):
    shown = images(16, seed=1)
    exact = target(shown)
    fitting, tenth = (float((quantise_network(target, x)(shown) - exact).norm()) for x in (images(32), images(32) / 10))
    assert tenth > 3 * fitting  # what is larger than anything seen is cut


def test_quantising_is_deterministic_and_leaves_the_network(target):
    before = target.fingerprint()
    first, second = (quantise_network(target, images(), bits=4)(images(4, seed=2)) for _ in range(2))
    assert torch.equal(first, second)
    assert target.fingerprint() == before
    assert not any(m._forward_pre_hooks for m in target.module.modules())


@pytest.mark.parametrize("change", [{"bits": 1}, {"bits": 9}, {"bits": 4.0}, {"weight_bits": True}, {"weight_bits": 0}])
def test_bits_that_cannot_be_are_refused(target, change):
    with pytest.raises(ValueError, match=rf"{next(iter(change))} must be a whole number from 2 to 8"):
        quantise_network(target, images(), **change)


def test_statistics_of_an_unchanged_network_stay_whatever_the_images(target):
    for shown in (images(), images() / 10, torch.zeros(4, 3, 8, 8)):
        moved = move_statistics(target, target, shown)
        for name, value in target.module.named_buffers():
            found = dict(moved.module.named_buffers())[name]
            torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5)


def test_statistics_move_by_as_much_as_the_first_layer_did(make_target):
    target = make_target()
    changed = make_target()
    with torch.no_grad():
        changed.module.conv1.weight.mul_(0.5)  # so that its features shrink by half, whatever they are
        if changed.module.conv1.bias is not None:
            changed.module.conv1.bias.mul_(0.5)
    moved = move_statistics(changed, target, images(64))
    old, new = target.module.bn1, moved.module.bn1
    features = []
    with target.module.bn1.register_forward_pre_hook(lambda m, x: features.append(x[0])):
        target(images(64))
    mean = features[0].mean((0, 2, 3))
    torch.testing.assert_close(new.running_mean, old.running_mean - mean / 2, rtol=1e-4, atol=1e-5)
    ratio = new.running_var / old.running_var
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.25), rtol=1e-2, atol=1e-2)


def test_other_networks_are_refused(target, make_target):
    with pytest.raises(ValueError, match="must have the same batch norms"):
        move_statistics(target, make_target(batch_norm=False), images())


def test_calibrating_a_pruned_network_follows_the_images(target):
    pruned = prune_weights(target, 0.5)
    bright, dark = calibrate(pruned, images(16)), calibrate(pruned, images(16) / 10)
    assert not torch.allclose(bright.module.bn1.running_var, dark.module.bn1.running_var)
