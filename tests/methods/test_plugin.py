"""Plug-In Inversion: its parts by hand, its stages, any architecture with the same settings, and what it refuses."""

import dataclasses
import functools
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from invkit.core.config import plain
from invkit.core.rng import seeded
from invkit.core.spec import ImageSpec
from invkit.core.target import Target
from invkit.methods.deepinversion import DeepInversionConfig, deep_inversion
from invkit.methods.plugin import PlugInConfig, _ensemble, next_patch, plug_in_inversion, stage_sizes
from invkit.networks.loading import load_target
from invkit.objectives.objective import Gradient, Objective
from invkit.transforms.resize import pad_with_noise
from invkit.transforms.views import ColorShift

LABELS = [0, 1, 3]
SMALL = {"steps": 3, "stages": 3, "ensemble": 4, "jitter": 1}


def config(**change):
    return PlugInConfig(**SMALL | change)


@pytest.fixture
def plain_net(make_target):
    """No batch norm."""
    return make_target(batch_norm=False)


@pytest.fixture(scope="module")
def vit():
    timm = pytest.importorskip("timm")
    shape = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2, "num_classes": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = timm.create_model("vit_tiny_patch16_224", pretrained=False, **shape)
    classes = ("a", "b", "c", "d")
    spec = ImageSpec(channels=3, size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3, classes=classes)
    return Target(net, spec, "small ViT")


# ---- ColorShift


def test_color_shift_by_hand_and_replayed():
    shift = ColorShift.draw(2, 3, 3, 1.0, 0.5, seeded(1))
    images = torch.rand(2, 3, 4, 5, generator=seeded(2))
    shifted = shift(images)
    assert shifted.shape == (6, 3, 4, 5)
    for n in range(2):
        for k in range(3):
            for c in range(3):
                expected = images[n, c] * shift.scale[n, k, c] - shift.offset[n, k, c]
                assert torch.allclose(shifted[3 * n + k, c], expected, atol=1e-6)
    assert torch.equal(shifted, shift(images))
    again = ColorShift.draw(2, 3, 3, 1.0, 0.5, seeded(1))
    assert torch.equal(again.scale, shift.scale)
    assert torch.equal(again.offset, shift.offset)


def test_color_shift_keeps_to_its_distributions():
    shift = ColorShift.draw(50, 100, 2, (0.5, 0.0), (0.0, 2.0), seeded(0))
    assert shift.offset[..., 1].abs().max() == 0
    assert torch.equal(shift.scale[..., 0], torch.ones(50, 100))
    offset, logs = shift.offset[..., 0], shift.scale[..., 1].log()
    for values, width in ((offset, 0.5), (logs, 2.0)):
        assert values.abs().max() <= width + 1e-5
        assert float(values.mean()) == pytest.approx(0, abs=0.05 * width)
        assert float(values.std()) == pytest.approx(width / math.sqrt(3), rel=0.03)


def test_color_shift_of_other_images_is_refused():
    shift = ColorShift.draw(2, 3, 3, 1.0, 1.0, seeded(1))
    with pytest.raises(ValueError, match="drawn for 2 images of 3 channels"):
        shift(torch.rand(3, 3, 4, 4))


# ---- the ensemble


def test_the_gradient_is_the_mean_over_the_ensemble(make_target):
    target = make_target(batch_norm=False, dtype=torch.float64)
    ensemble = _ensemble(target, 3, config(), seeded(0), resize=False)
    labels, images = torch.tensor(LABELS), torch.rand(3, 3, 8, 8, dtype=torch.float64, generator=seeded(1))
    objective = Objective(network=ensemble, terms={"ce": (1.0, ensemble.cross_entropy)}, references=labels)
    value, gradient = Gradient(objective)(images)
    separate = []
    for k in range(4):
        leaf = images.clone().requires_grad_()
        scale, offset = ensemble.shift.scale[:, k, :, None, None], ensemble.shift.offset[:, k, :, None, None]
        loss = F.cross_entropy(target(scale * leaf - offset), labels)
        separate.append((loss.detach(), torch.autograd.grad(loss, leaf)[0]))
    assert float(value) == pytest.approx(float(sum(v for v, _ in separate)) / 4, rel=1e-10)
    assert torch.allclose(gradient, sum(g for _, g in separate) / 4, atol=1e-12)


@pytest.mark.parametrize("micro_batch", [1, 5, 12, 50])
def test_micro_batches_of_copies_give_the_same_gradient(make_target, micro_batch):
    target = make_target(batch_norm=False, dtype=torch.float64)
    seen = []
    images = torch.rand(3, 3, 8, 8, dtype=torch.float64, generator=seeded(1))

    def gradient(**change):
        ensemble = _ensemble(target, 3, config(**change), seeded(0), resize=False)
        terms = {"ce": (1.0, ensemble.cross_entropy)}
        return Gradient(Objective(network=ensemble, terms=terms, references=torch.tensor(LABELS)))(images)[1]

    whole = gradient()
    hook = target.module.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    chunked = gradient(micro_batch=micro_batch)
    hook.remove()
    assert torch.allclose(chunked, whole, atol=1e-12)
    assert max(seen) == min(micro_batch, 12)


def test_resizing_before_the_shift_is_resizing_after_it(vit):
    ensemble = _ensemble(vit, 2, config(), seeded(0), resize=True)
    patch = torch.rand(2, 3, 16, 16, generator=seeded(1))
    after = F.interpolate(ensemble.shift(patch), size=(32, 32), mode="bilinear", align_corners=False)
    assert torch.allclose(ensemble(patch).flatten(0, 1), vit(after), atol=1e-4)


@pytest.mark.parametrize(("redraw", "draws"), [(1, 6), (2, 3), (100, 1)])
def test_shifts_are_redrawn_after_a_set_number_of_steps(plain_net, monkeypatch, redraw, draws):
    seen = []
    call = ColorShift.__call__
    monkeypatch.setattr(ColorShift, "__call__", lambda self, x: seen.append(self) or call(self, x))
    plug_in_inversion(plain_net, LABELS, config(redraw=redraw, stages=2))
    assert len(seen) == 6
    assert len({id(s) for s in seen}) == draws


def test_without_color_shift_one_copy_is_enough(plain_net):
    sizes = []
    hook = plain_net.module.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    bare = plug_in_inversion(plain_net, LABELS, config(color_shift=False, stages=1, resize="always", jitter=0))
    hook.remove()
    assert set(sizes) == {3}
    first = torch.rand(3, 3, 8, 8, generator=_after_spawn(0))
    assert bare.history["cross_entropy"][0] == pytest.approx(
        float(F.cross_entropy(plain_net(first), torch.tensor(LABELS))), rel=1e-5
    )


def _after_spawn(seed):
    generator = seeded(seed)
    torch.randint(2**62, (), generator=generator)
    return generator


# ---- stages


@pytest.mark.parametrize(
    ("switches", "sizes"),
    [
        ({}, [4, 6, 8]), ({"zoom": False}, [4, 6, 8]), ({"centering": False}, [4, 6, 8]),
        ({"zoom": False, "centering": False}, [8, 8, 8]),
    ],
)  # fmt: skip
def test_stages_and_their_pictures(plain_net, switches, sizes):
    seen = []
    result = plug_in_inversion(
        plain_net, LABELS, config(**switches), callbacks=[lambda s: seen.append((s.index, s.stage, s.images.shape[-1]))]
    )
    assert [tuple(s.shape) for s in result.stages] == [(3, 3, s, s) for s in sizes]
    assert seen == [(i, i // 3, sizes[i // 3]) for i in range(9)]
    assert torch.equal(result.images, result.stages[-1])
    assert 0 <= result.images.min() <= result.images.max() <= 1
    assert len(result.history["total"]) == result.best_step == 9
    assert result.stopped == "steps"
    assert result.labels.tolist() == LABELS
    assert result.config == plain(config(**switches))


def test_the_papers_stages():
    sizes = [h for h, _ in stage_sizes((224, 224), PlugInConfig())]
    assert len(sizes) == 7
    assert (sizes[0], sizes[-1]) == (56, 224)
    assert len({b - a for a, b in pairwise(sizes)}) == 1
    assert stage_sizes((6, 8), config(stages=1)) == [(6, 8)]


def test_centering_keeps_the_patch_in_the_middle_of_noise():
    patch = torch.full((2, 3, 4, 4), 0.5)
    whole = next_patch(patch, (8, 8), config(zoom=False), seeded(0))
    assert torch.equal(whole[..., 2:6, 2:6], patch)
    whole[..., 2:6, 2:6] = math.nan
    border = whole[~whole.isnan()]
    assert border.min() >= 0
    assert border.std() > 0.2  # uniform noise, not grey
    assert border.max() <= 1
    assert border.unique().numel() > 250  # of 288 pixels
    with pytest.raises(ValueError, match="does not fit"):
        pad_with_noise(patch, (3, 8), seeded(0))


def test_zoom_upsamples_and_both_go_half_way():
    patch = torch.full((1, 1, 4, 4), 0.5)
    assert torch.equal(next_patch(patch, (8, 8), config(centering=False), seeded(0)), torch.full((1, 1, 8, 8), 0.5))
    both = next_patch(patch, (8, 8), config(), seeded(0))
    assert torch.equal(both[..., 1:7, 1:7], torch.full((1, 1, 6, 6), 0.5))
    assert (both == 0.5).sum() == 36


@pytest.mark.parametrize("size", [8, 15, 16, 28, 32, 224])
@pytest.mark.parametrize("switches", [{}, {"zoom": False}, {"centering": False}], ids=str)
def test_what_a_patch_shows_stays_in_the_middle(monkeypatch, size, switches):
    """A bright patch amid black: its centre of mass at each stage, and how much of the size it has grown to."""
    monkeypatch.setattr("invkit.transforms.resize.uniform_images", lambda n, shape, generator: torch.zeros(n, *shape))
    changed = PlugInConfig(**switches)
    sizes = stage_sizes((size, size), changed)
    patch = torch.ones(1, 1, *sizes[0])
    for stage in sizes[1:]:
        patch = next_patch(patch, stage, changed, seeded(0))
        along = torch.arange(stage[0]).double()
        off = [float((patch.sum(axes)[0, 0] @ along.float()) / patch.sum()) - (stage[0] - 1) / 2 for axes in (2, 3)]
        # Half a pixel where an odd number of rows has to be padded; never more, however many stages there are.
        allowed = 0.5 if "zoom" in switches else 0.01
        assert max(map(abs, off)) <= allowed + 1e-4, f"{off} of a pixel off at {stage}"


@pytest.mark.parametrize("size", [16, 28, 32, 224])
def test_zoom_and_centering_share_the_growth_in_halves(size):
    sizes = [height for height, _ in stage_sizes((size, size), PlugInConfig())]
    padded = 0
    for old, new in pairwise(sizes):
        shown = next_patch(torch.full((1, 1, old, old), 5.0), (new, new), PlugInConfig(), seeded(0)) > 2
        padded += new - math.isqrt(int(shown.sum()))
    assert padded == pytest.approx((sizes[-1] - sizes[0]) / 2, abs=2)


# ---- runs


def test_micro_batches_change_nothing(plain_net):
    whole, chunked = (plug_in_inversion(plain_net, LABELS, config(micro_batch=m)) for m in (None, 5))
    assert chunked.history["total"] == pytest.approx(whole.history["total"], rel=1e-4)


@pytest.mark.parametrize("change", [{}, {"micro_batch": 5}, {"resize": "always"}], ids=str)
def test_compiled_equals_eager(plain_net, monkeypatch, change):
    """Once for each size of the patch: shifts drawn anew are no reason to compile anew."""
    seen = []
    traced = functools.partial(torch.compile, backend=lambda graph, inputs: seen.append(1) or graph.forward)
    monkeypatch.setattr(torch, "compile", traced)
    torch._dynamo.reset()
    eager = plug_in_inversion(plain_net, LABELS, config(**change))
    compiled = plug_in_inversion(plain_net, LABELS, config(compile=True, **change))
    assert compiled.history["total"] == pytest.approx(eager.history["total"], rel=1e-4)
    torch.testing.assert_close(compiled.images, eager.images, rtol=1e-3, atol=1e-3)
    assert len(seen) == 3


def test_bfloat16_stays_near_float32(plain_net, vit):
    for network in (plain_net, vit):
        whole, half, chunked = (
            plug_in_inversion(network, LABELS, config(**c))
            for c in ({}, {"bf16": True}, {"bf16": True, "micro_batch": 5})
        )
        assert half.images.dtype == torch.float32
        assert half.history["total"] != whole.history["total"]
        assert half.history["total"] == pytest.approx(whole.history["total"], rel=0.02)
        assert chunked.history["total"] == pytest.approx(whole.history["total"], rel=0.02)


def test_steps_lower_the_objective(plain_net, vit):
    for target in (plain_net, vit):
        long = config(steps=5, stages=2, lr=0.1, ensemble=8, redraw=1000, jitter=0, schedule="constant")
        losses = plug_in_inversion(target, LABELS, long).history["total"]
        assert losses[4] < losses[0]
        assert losses[9] < losses[5]


def test_classes_are_reached(plain_net):
    labels = torch.arange(4)
    long = config(steps=60, lr=0.1, ensemble=8, alpha=0.1, beta=0.1)
    result = plug_in_inversion(plain_net, labels, long)
    start = torch.rand(4, 3, 8, 8, generator=seeded(0))
    with torch.no_grad():
        after, before = (F.cross_entropy(plain_net(x), labels) for x in (result.images, start))
    assert after < 0.9 * before


def test_the_same_settings_for_a_transformer_and_a_network_without_batch_norm(plain_net, target, vit):
    same = PlugInConfig.for_profile("ci", steps=2)
    for network in (plain_net, target, vit):
        before = network.fingerprint()
        result = plug_in_inversion(network, LABELS, same)
        assert result.images.shape == (3, *network.spec.shape)
        assert result.images.isfinite().all()
        assert all(math.isfinite(v) for v in result.history["total"])
        assert network.fingerprint() == before


# The families of the paper's Figure 7, the smallest of each, without weights, at their own input size.
FAMILIES = [
    "torchvision/resnet18", "torchvision/mobilenet_v2", "torchvision/shufflenet_v2_x0_5", "torchvision/vgg11_bn",
    "timm/vit_tiny_patch16_224", "timm/deit_tiny_patch16_224", "timm/deit_tiny_distilled_patch16_224",
    "timm/convit_tiny", "timm/mixer_s32_224", "timm/pit_ti_224", "timm/resmlp_12_224",
    "timm/swin_tiny_patch4_window7_224", "timm/twins_svt_small",
]  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_runs_with_the_same_settings(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = load_target(name, weights=None)
        for weight in network.parameters():
            if weight.ndim > 1 and not weight.any():  # some begin with a head of zeros, which passes no gradient
                torch.nn.init.normal_(weight, std=0.02)
    result = plug_in_inversion(network, [980], PlugInConfig(steps=1, stages=3, ensemble=1))
    assert result.images.shape == (1, 3, 224, 224)
    assert result.stopped == "steps"
    assert not torch.equal(result.stages[0], torch.rand(1, 3, 112, 112, generator=_after_spawn(0)))


def test_patches_are_resized_where_the_network_wants_one_size(vit):
    sizes = set()
    hook = vit.module.register_forward_pre_hook(lambda _, args: sizes.add(tuple(args[0].shape)))
    plug_in_inversion(vit, LABELS, config(steps=1, resize="always"))
    hook.remove()
    assert sizes == {(12, 3, 32, 32)}
    with pytest.raises(
        ValueError, match=r"stage 1 of 3 is a patch of \(16, 16\) pixels, which small ViT does not take"
    ):
        plug_in_inversion(vit, LABELS, config(resize="never"))


def test_total_variation_may_be_added(plain_net):
    result = plug_in_inversion(plain_net, LABELS, config(tv=0.1))
    assert list(result.history) == ["cross_entropy", "tv", "total"]


def test_starting_from_images_and_passing_them_on(target):
    init = torch.rand(3, 3, 8, 8, generator=seeded(3))
    before, seen = init.clone(), []
    middle = config(zoom=False, lr=1e-9, jitter=0, steps=1)
    result = plug_in_inversion(target, LABELS, middle, init=init, callbacks=[lambda s: seen.append(s.images.clone())])
    assert torch.allclose(seen[0], init[..., 2:6, 2:6], atol=1e-6)
    assert torch.equal(init, before)
    on = deep_inversion(
        target, LABELS, DeepInversionConfig(steps=1, low_resolutions=(), jitter=0, flip=0.0), init=result.images
    )
    assert torch.equal(on.images, result.images)


def test_a_callback_ends_the_run(plain_net):
    result = plug_in_inversion(plain_net, LABELS, config(), callbacks=[lambda s: s.index == 4])
    assert result.stopped == "callback"
    assert [s.shape[-1] for s in result.stages] == [4, 6]
    assert result.images.shape == (3, 3, 8, 8)
    assert len(result.history["total"]) == 5


def test_a_non_finite_loss_is_named(make_target):
    broken = make_target(batch_norm=False)
    broken.module.head.bias.data[0] = math.nan
    result = plug_in_inversion(broken, LABELS, config())
    assert "'cross_entropy' became nan" in result.reason
    assert result.images.isfinite().all()


# ---- bad input


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"labels": [0, 4]}, r"labels \[4\] are outside the network's classes 0\.\.3"),
        ({"init": torch.rand(3, 1, 8, 8)}, "init have 1 channels; the network takes 3"),
        ({"init": torch.rand(3, 3, 9, 8)}, r"init are \(9, 8\) pixels"),
        ({"init": torch.rand(2, 3, 8, 8)}, "init .* 3 .* 2"),
        ({"init": torch.rand(3, 8, 8)}, r"init must be a float tensor \(N, 3, 8, 8\), not .*\(3, 8, 8\)"),
        ({"labels": []}, "labels must be a non-empty list of class indices"),
        ({"config": config(alpha=(1.0, 1.0))}, "alpha needs one number, or one for each of the 3 channels"),
        ({"config": config(beta=(1.0,) * 4)}, "beta needs one number, or one for each of the 3 channels"),
    ],
)
def test_bad_input_is_named(target, options, says):
    with pytest.raises(ValueError, match=says):
        plug_in_inversion(target, **{"labels": LABELS, "config": config()} | options)


@pytest.mark.parametrize(
    ("first", "refused"),
    [(nn.Conv2d(3, 4, 5), (1, 4)), (nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, 4, 1)), (2, 6))],
    ids=["smaller than its kernel", "no multiple of four"],
)
def test_the_first_stage_that_the_network_does_not_take_is_named(target, first, refused):
    body = nn.Sequential(first, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = Target(body, target.spec, "choosy")
    stage, size = refused
    says = rf"stage {stage} of 3 is a patch of \({size}, {size}\) pixels, which choosy does not take; use fewer stages"
    with pytest.raises(ValueError, match=says):
        plug_in_inversion(network, LABELS, config(resize="never"))
    assert plug_in_inversion(network, LABELS, config(steps=1)).stopped == "steps"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ensemble", 0), ("stages", 0), ("redraw", 0), ("ensemble", 1.5), ("alpha", -1.0), ("beta", (1.0, math.nan)),
        ("alpha", ()), ("tv", -1.0), ("resize", "maybe"), ("steps", 0),
    ],
)  # fmt: skip
def test_nonsense_in_the_config_is_named(field, value):
    with pytest.raises(ValueError, match=field):
        PlugInConfig(**{field: value})


def test_profiles():
    paper = PlugInConfig.for_profile("paper")
    assert paper == PlugInConfig()
    assert (paper.stages, paper.steps, paper.lr, paper.betas, paper.schedule) == (7, 400, 0.01, (0.5, 0.99), "cosine")
    assert (paper.alpha, paper.beta, paper.ensemble, paper.tv) == (1.0, 1.0, 32, 0.0)
    ci, book = (PlugInConfig.for_profile(p) for p in ("ci", "book"))
    assert ci.steps * ci.stages * ci.ensemble < book.steps * book.stages * book.ensemble
    assert dataclasses.replace(ci, ensemble=1).ensemble == 1
