"""Masks over weights that are never trained: how many, which, their gradient, and whose they are."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from invkit.core.rng import seeded
from invkit.networks.masked import (
    StraightThroughMask,
    apply_masks,
    draw_untrained,
    load_masks,
    mask_size,
    maskable,
    masks_of,
    save_masks,
    score_weights,
    top_mask,
)


def net(width=6):
    """Convolutions of every kind, with batch norm, biases and a linear head."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, groups=width), nn.BatchNorm2d(width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 4),
    )  # fmt: skip


def test_the_best_scores_are_kept():
    scores = torch.tensor([[0.3, -0.9], [0.8, 0.1]])
    assert top_mask(scores, 2).tolist() == [[True, False], [True, False]]
    assert top_mask(scores, 4).all()


@given(st.lists(st.sampled_from([-1.0, -0.0, 0.0, 0.5, 2.0]), min_size=1, max_size=40), st.integers(1, 40))
def test_exactly_as_many_as_asked_are_kept_whatever_the_ties(values, count):
    scores, count = torch.tensor(values), min(count, len(values))
    mask = top_mask(scores, count)
    assert int(mask.sum()) == count
    if count < len(values):
        assert scores[mask].min() >= scores[~mask].max()


def test_ties_do_not_depend_on_how_the_scores_lie_in_memory():
    scores = torch.randint(0, 3, (4, 3, 2, 2), generator=seeded(0)).float()
    lying = scores.to(memory_format=torch.channels_last)
    assert torch.equal(top_mask(scores, 17), top_mask(lying, 17))
    assert torch.equal(top_mask(scores, 17), top_mask(scores.bfloat16(), 17))


def test_the_count_of_a_percentage():
    assert [mask_size(k, 200) for k in (0.5, 10, 33.3, 100)] == [1, 20, 67, 200]
    assert mask_size(0.01, 10) == 1, "a layer never loses all of its weights"
    for k in (0, -5, 100.1, math.nan):
        with pytest.raises(ValueError, match=r"\(0, 100\]"):
            mask_size(k, 10)


def test_the_gradient_goes_straight_through():
    w, z, wanted = torch.randn(2, 4, generator=seeded(0)), torch.randn(3, 4), torch.randn(3, 2)
    scores = torch.randn(2, 4, generator=seeded(1)).requires_grad_()
    current = z @ StraightThroughMask.apply(w, scores, 3).T
    loss = F.mse_loss(current, wanted)
    by_current = torch.autograd.grad(loss, current, retain_graph=True)[0]
    (found,) = torch.autograd.grad(loss, scores)
    by_hand = torch.einsum("nv,nu,vu->vu", by_current, z, w)  # dL/dI_v Z_u w_uv, also where h(s) = 0
    torch.testing.assert_close(found, by_hand)
    assert (found != 0).all()


def test_each_layer_keeps_its_share_and_the_network_is_one_of_ordinary_layers():
    drawn = draw_untrained(net(), generator=seeded(0))
    scored = draw_untrained(net(), generator=seeded(0))
    score_weights(scored, 30, seeded(1))
    masks = masks_of(scored)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {
        name: mask_size(30, layer.weight.numel()) for name, layer in maskable(drawn).items()
    }
    applied, x = apply_masks(drawn, masks).eval(), torch.rand(2, 3, 8, 8)
    assert torch.equal(applied(x), scored.eval()(x))
    assert torch.equal(masks_of(applied)["0"], masks["0"])
    assert type(applied[0]) is nn.Conv2d
    assert (drawn[0].weight != 0).all(), "the network that the masks were applied to stays whole"


def test_what_is_drawn():
    network = draw_untrained(net(64), generator=seeded(0))
    for layer in maskable(network).values():
        std = math.sqrt(2 / layer.weight[0].numel())
        torch.testing.assert_close(layer.weight.abs(), torch.full_like(layer.weight, std))
        assert not layer.bias.any()
    assert 0.4 < float((network[0].weight > 0).float().mean()) < 0.6
    normal = draw_untrained(net(64), init="kaiming_normal", kept_fraction=0.5, generator=seeded(0))
    for layer in (normal[0], normal[8]):
        wanted = math.sqrt(2 / (layer.weight[0].numel() * 0.5))
        assert float(layer.weight.std()) == pytest.approx(wanted, rel=0.08)
    assert not any(p.requires_grad for p in network.parameters())
    with pytest.raises(ValueError, match="signed_constant or kaiming_normal"):
        draw_untrained(net(), init="glorot", generator=seeded(0))


def test_the_two_kinds_of_batch_norm():
    given = net()
    with torch.no_grad():
        given(torch.randn(8, 3, 8, 8) * 3 + 1)
    tracked = draw_untrained(given, generator=seeded(0))
    assert tracked[1].weight is None
    assert tracked[1].bias is None
    assert not tracked[1].running_mean.any(), "what the given network saw is forgotten"
    assert (tracked[1].running_var == 1).all()
    bare = draw_untrained(given, statistics=False, generator=seeded(0)).eval()
    assert bare[1].running_mean is None
    assert not [name for name, _ in bare.named_buffers()]
    x = torch.rand(6, 3, 8, 8)
    assert not torch.allclose(bare(x)[:2], bare(x[:2])), "outputs depend on the batch"
    torch.testing.assert_close(tracked.eval()(x)[:2], tracked(x[:2]))
    again = draw_untrained(bare, generator=seeded(0))
    assert not again[1].running_mean.any(), "statistics can be asked for where there were none"
    assert given[1].weight is not None, "the network that was given stays as it was"


def test_a_transformer_is_masked_in_its_linear_layers_alone():
    vision = pytest.importorskip("timm.models.vision_transformer")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vit = vision.VisionTransformer(
            img_size=8, patch_size=4, num_classes=4, embed_dim=12, depth=1, num_heads=2, mlp_ratio=2.0
        )
    drawn = draw_untrained(vit, generator=seeded(0))
    scored = draw_untrained(vit, generator=seeded(0))
    score_weights(scored, 50, seeded(1))
    masks = masks_of(scored)
    assert set(masks) == {
        "patch_embed.proj", "blocks.0.attn.qkv", "blocks.0.attn.proj", "blocks.0.mlp.fc1", "blocks.0.mlp.fc2", "head",
    }  # fmt: skip
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(apply_masks(drawn, masks)(x), scored(x))
    assert torch.equal(drawn.pos_embed, vit.pos_embed)


def test_masks_are_saved_loaded_and_applied(tmp_path):
    scored = draw_untrained(net(), generator=seeded(0))
    score_weights(scored, 20, seeded(1))
    masks = masks_of(scored)
    save_masks(masks, tmp_path / "masks.safetensors")
    found = load_masks(tmp_path / "masks.safetensors")
    assert found.keys() == masks.keys()
    assert all(torch.equal(found[name], masks[name]) for name in masks)
    (tmp_path / "other.safetensors").write_bytes(b"no masks")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load_masks(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError):
        load_masks(tmp_path / "none.safetensors")


def test_masks_of_another_network_are_refused():
    drawn = draw_untrained(net(), generator=seeded(0))
    masks = masks_of(drawn)
    wider = masks_of(draw_untrained(net(8), generator=seeded(0)))
    with pytest.raises(ValueError, match=r"another network: 0 has weights \(6, 3, 3, 3\), its mask is \(8, 3, 3, 3\)"):
        apply_masks(drawn, wider)
    with pytest.raises(ValueError, match=r"do not share \['8'\]"):
        apply_masks(drawn, {name: mask for name, mask in masks.items() if name != "8"})
    with pytest.raises(ValueError, match=r"do not share \['9'\]"):
        apply_masks(drawn, masks | {"9": masks["8"]})
    with pytest.raises(ValueError, match=r"of torch\.float32"):
        apply_masks(drawn, masks | {"0": masks["0"].float()})


def test_a_network_without_a_layer_to_mask_is_refused():
    with pytest.raises(ValueError, match="Sequential has no linear or convolutional layer"):
        draw_untrained(nn.Sequential(nn.BatchNorm2d(3), nn.Flatten()), generator=seeded(0))
