"""The batch-norm penalty: against a naive implementation, in any chunking, and where float32 would cancel."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from invkit.networks.classifiers import build
from invkit.objectives import batch_norm
from invkit.objectives.batch_norm import BatchNormPenalty
from invkit.objectives.moments import Moments, Tapped, batch_statistics, image_statistics, merge


def naive(target, images, scale=1.0):
    """R_feature by forward hooks and autograd through torch.var and torch.mean."""
    total, seen = [], []
    layers = [m for m in target.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    def hook(module, inputs, _output):
        x = inputs[0].transpose(0, 1).flatten(1)
        gaps = (x.mean(1) - module.running_mean).norm() + (x.var(1) - module.running_var).norm()
        seen.append(module)
        total.append(gaps * (scale if module is layers[0] else 1.0))

    handles = [m.register_forward_hook(hook) for m in layers]
    target(images)
    for handle in handles:
        handle.remove()
    return sum(total)


def grad_of(value, images):
    return torch.autograd.grad(value, images)[0]


def tapped(target, images, **options):
    penalty = BatchNormPenalty(target, **options)
    with penalty.attached():
        target(images)
        return penalty.value(penalty.take())


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("scale", [1.0, 10.0])
@pytest.mark.parametrize("n", [1, 5])
def test_value_and_gradient_against_autograd(make_target, layout, scale, n):
    target = make_target(dtype=torch.float64)
    images = torch.rand(n, 3, 8, 8, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    expected = naive(target, images, scale)
    value = tapped(target, images, first_layer_scale=scale)
    close(value, expected)
    close(grad_of(value, images), grad_of(expected, images))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("n", [1, 2])
def test_the_tap_keeps_strides_and_the_gradient_behind_it(n, layout):
    """One channels-last image with another batch stride gets a wrong gradient from torch's batch norm."""
    bn = nn.BatchNorm2d(8).double().eval()
    bn.running_var.uniform_(0.3, 2)
    x = torch.randn(n, 8, 4, 4, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    out, _, _ = Tapped.apply(x)
    assert out.stride() == x.stride()
    g = torch.randn(n, 8, 4, 4, dtype=torch.float64)
    found = torch.autograd.grad(bn(out), x, g)[0]
    close(found, g * (bn.weight / (bn.running_var + bn.eps).sqrt()).detach().view(1, -1, 1, 1))


def test_first_layer_scale_acts_on_the_first_layer_only(make_target):
    target = make_target(dtype=torch.float64)
    images = torch.rand(5, 3, 8, 8, dtype=torch.float64)
    one, two, three = (float(tapped(target, images, first_layer_scale=s).detach()) for s in (1.0, 2.0, 3.0))
    assert abs((three - two) - (two - one)) < 1e-12
    x = target.module.conv1((images - target.mean) / target.std).transpose(0, 1).flatten(1)
    bn = target.module.bn1
    first = (x.mean(1) - bn.running_mean).norm() + (x.var(1) - bn.running_var).norm()
    assert abs((two - one) - float(first)) < 1e-12


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2), (2, 3, 2, 3), (1, 3, 2, 2)])
def test_gradcheck_of_the_tap(shape):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(shape, dtype=torch.float64)

    def through(x):
        out, mean, var = Tapped.apply(x)
        return (out * weight).sum(), mean, var  # an output beside the moments, with a gradient of its own

    assert torch.autograd.gradcheck(through, (x,))


def test_passing_through_changes_nothing(make_target):
    target = make_target()
    images = torch.rand(3, 3, 8, 8, requires_grad=True)
    plain = target(images)
    with BatchNormPenalty(target).attached():
        hooked = target(images)
    assert torch.equal(plain, hooked)
    # Moments that nobody asks for add nothing to the gradient.
    close(grad_of(hooked.sum(), images), grad_of(plain.sum(), images), 1e-6)


def test_batchnorm1d_after_flatten():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)).double().eval()
    images = torch.rand(6, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    value, expected = tapped(net, images), naive(net, images)
    close(value, expected)
    close(grad_of(value, images), grad_of(expected, images))


class Twice(nn.Module):
    """One batch norm at two places: two batches of inputs, the same stored statistics."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.bn(self.conv(torch.tanh(self.bn(self.conv(x)))))


def test_a_layer_that_is_called_twice():
    torch.manual_seed(0)
    net = Twice().double().eval()
    images = torch.rand(6, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    value, expected = tapped(net, images), naive(net, images)
    close(value, expected)
    close(grad_of(value, images), grad_of(expected, images))
    check_chunks(net, images, [4, 2])


def check_chunks(target, images, sizes, tolerance=1e-12):
    """The gradient put together from chunks is that of the whole batch."""
    expected = naive(target, images)
    penalty = BatchNormPenalty(target)
    chunks = [c.detach().requires_grad_() for c in images.split(sizes)]
    with penalty.attached():
        taken = []
        for chunk in chunks:
            with torch.no_grad():
                target(chunk)
            taken.append(penalty.take())
        value, forms = penalty.linear_forms(taken)
        gradients = []
        for chunk, form in zip(chunks, forms):
            target(chunk)
            gradients.append(grad_of(form(penalty.take()), chunk))
    close(value, expected.detach(), tolerance)
    close(torch.cat(gradients), grad_of(expected, images), tolerance)


@pytest.mark.parametrize("sizes", [[10], [1] * 10, [7, 3], [5, 5], [1, 2, 7]])
def test_any_chunking_gives_the_whole_gradient(make_target, sizes):
    target = make_target(dtype=torch.float64)
    check_chunks(target, torch.rand(10, 3, 8, 8, dtype=torch.float64, requires_grad=True), sizes)


def test_chunks_of_one_value_per_channel():
    # A batch norm after flatten sees one value per image, which has no variance of its own.
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)).double().eval()
    check_chunks(net, torch.rand(4, 3, 2, 2, dtype=torch.float64, requires_grad=True), [1] * 4)


def test_a_resnet_in_chunks():
    from invkit.core.spec import ImageSpec

    spec = ImageSpec(channels=3, size=(8, 8), mean=(0.5,) * 3, std=(0.2,) * 3, classes=("a", "b"))
    net = build("resnet20", spec, width=2).double().eval()
    check_chunks(net, torch.rand(5, 3, 8, 8, dtype=torch.float64, requires_grad=True), [2, 2, 1], 1e-11)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.floats(-1e3, 1e3))
def test_merge_is_one_pass(sizes, offset):
    x = torch.randn(sum(sizes), 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(len(sizes)))
    x = x + offset
    parts = []
    for part in x.split(sizes):
        mean, var = batch_statistics(part)
        n = part.numel() // 2
        parts.append(Moments(n, mean, var * n / max(n - 1, 1)))
    merged = merge(parts)
    flat = x.transpose(0, 1).flatten(1)
    assert merged.count == flat.shape[1]
    close(merged.mean, flat.mean(1), 1e-11)
    close(merged.var, flat.var(1), 1e-8)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_float32_where_sums_of_squares_cancel(layout):
    """Mean 1000, standard deviation 0.1: x² needs 14 digits, float32 has 7."""
    generator = torch.Generator().manual_seed(0)
    exact = 1000 + 0.1 * torch.randn(32, 4, 16, 16, dtype=torch.float64, generator=generator)
    x = exact.float().contiguous(memory_format=layout)
    true = x.double().transpose(0, 1).flatten(1).var(1)
    naive_var = (x * x).mean((0, 2, 3)) - x.mean((0, 2, 3)) ** 2
    assert ((naive_var.double() - true).abs() / true).max() > 1  # what sums of squares give: no digit is right
    parts = []
    for part in x.split(5):
        mean, var = batch_statistics(part)
        n = part.numel() // 4
        parts.append(Moments(n, mean, var * n / (n - 1)))
    merged = merge(parts)
    assert merged.var.dtype == torch.float32
    assert ((merged.var.double() - true).abs() / true).max() < 2e-3
    assert (merged.mean.double() - x.double().mean((0, 2, 3))).abs().max() < 1e-3


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_statistics_of_large_batches_keep_their_digits(layout):
    """One sum over half a million float32 numbers loses three digits of the variance; this one must not."""
    x = (torch.randn(512, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 3 + 5).contiguous(
        memory_format=layout
    )
    mean, var = batch_statistics(x)
    wide = x.double().transpose(0, 1).flatten(1)
    assert ((mean - wide.mean(1)) / wide.mean(1)).abs().max() < 1e-6
    assert ((var - wide.var(1, correction=0)) / wide.var(1)).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_statistics_are_at_least_float32(dtype):
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64).to(dtype)
    mean, var = batch_statistics(x)
    assert mean.dtype == var.dtype == torch.float32
    close(mean.double(), x.double().mean((0, 2, 3)), 1e-6)
    close(var.double(), x.double().transpose(0, 1).flatten(1).var(1, correction=0), 1e-6)


def test_hooks_are_gone_afterwards(make_target):
    target = make_target()
    penalty = BatchNormPenalty(target)

    def hooks():
        return sum(len(m._forward_pre_hooks) + ("forward" in vars(m)) for m in target.modules())

    with penalty.attached():
        assert hooks() == 2
    assert hooks() == 0
    with pytest.raises(ZeroDivisionError), penalty.attached():
        target(torch.rand(1, 3, 8, 8) / (1 / 0))
    assert hooks() == 0
    with penalty.attached():  # and it can be used again, with nothing left over
        assert penalty.take() == []
        target(torch.rand(1, 3, 8, 8))
        assert [i for i, _ in penalty.take()] == [0, 1]
        assert penalty.take() == []


def test_networks_that_it_cannot_serve(make_target):
    with pytest.raises(ValueError, match=r"no batch-norm layer.*Plug-In Inversion"):
        BatchNormPenalty(make_target(batch_norm=False))
    untracked = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)).eval()
    with pytest.raises(ValueError, match=r"batch norm 0 tracks no running statistics.*Plug-In Inversion"):
        BatchNormPenalty(untracked)
    target = make_target()
    target.module.bn2.train()
    with pytest.raises(ValueError, match=r"bn2 is in train mode.*call eval\(\)"):
        BatchNormPenalty(target)


def test_stored_statistics_are_never_changed(make_target):
    target = make_target()
    before = target.fingerprint()
    images = torch.rand(3, 3, 8, 8, requires_grad=True)
    grad_of(tapped(target, images), images)
    assert target.fingerprint() == before


def test_matching_statistics_cost_nothing():
    bn = nn.BatchNorm2d(3, momentum=1.0).double()
    x = torch.rand(4, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    bn(x)  # in train mode: stores the mean and the unbiased variance of this very batch
    bn.eval()
    value = tapped(nn.Sequential(bn), x)
    assert float(value.detach()) < 1e-14
    assert grad_of(value, x).isfinite().all()


class NormThatAdds(nn.BatchNorm2d):
    """A batch norm that does more than torch's, as timm's do: its own forward must stay."""

    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, NormThatAdds])
@pytest.mark.parametrize("affine", [True, False])
def test_outputs_stay_and_gradients_are_autograds_own(kind, affine):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), kind(3, affine=affine), nn.Tanh(), nn.Conv2d(3, 4, 3), kind(4))
    network = network.double().eval().requires_grad_(False)
    for layer in network:
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    penalty = BatchNormPenalty(network, first_layer_scale=2.0)

    def both(x):
        with penalty.attached():
            out = network(x)
            return out, penalty.value(penalty.take())

    x = torch.randn(5, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.equal(both(x)[0], network(x))
    assert torch.autograd.gradcheck(both, (x,))


def test_two_penalties_on_one_network(make_target):
    target = make_target()
    first, second = BatchNormPenalty(target), BatchNormPenalty(target)
    with first.attached(), second.attached():
        target(torch.rand(4, 3, 8, 8))
        close(first.value(first.take()), second.value(second.take()))
    assert not any("forward" in vars(m) or m._forward_pre_hooks for m in target.modules())


def test_layers_that_still_learn_keep_their_gradients(make_target):
    target = make_target()
    target.module.bn1.weight.requires_grad_(True)
    penalty = BatchNormPenalty(target)
    with penalty.attached():
        target(torch.rand(4, 3, 8, 8)).sum().backward()
    assert target.module.bn1.weight.grad.abs().sum() > 0


class FrozenNorm(nn.Module):
    """Made like torchvision's and timm's frozen batch norms: buffers and no training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.full((width,), 0.2))
        self.register_buffer("running_var", torch.full((width,), 1.5))
        self.eps = 1e-5

    def forward(self, x):
        return (x - self.running_mean.view(1, -1, 1, 1)) / (self.running_var.view(1, -1, 1, 1) + self.eps).sqrt()


def test_variants_of_batch_norm_all_leave_their_moments():
    """Frozen ones, timm's with an activation inside, synchronised ones and those without a momentum."""
    from timm.layers import BatchNormAct2d
    from torchvision.ops import FrozenBatchNorm2d

    variants = [
        FrozenNorm(3),
        FrozenBatchNorm2d(3),
        BatchNormAct2d(3),
        nn.SyncBatchNorm(3),
        nn.BatchNorm2d(3, momentum=None),
    ]
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    for layer in variants:
        layer.running_mean.fill_(0.2)
        penalty = BatchNormPenalty(nn.Sequential(layer).eval().requires_grad_(False))
        with penalty.attached():
            layer(images)
            taken = penalty.take()
        assert [m.means.shape for _, m in taken] == [(2, 3)], type(layer).__name__
        assert torch.autograd.grad(penalty.value(taken), images)[0].abs().sum() > 0
    with pytest.raises(ValueError, match="no batch-norm layer"):
        BatchNormPenalty(nn.InstanceNorm2d(3, track_running_stats=True).eval())


def test_norms_with_an_activation_inside_are_fused_to_the_same_gradient(monkeypatch):
    from timm.layers import BatchNormAct2d

    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), BatchNormAct2d(4), nn.Conv2d(4, 4, 3), BatchNormAct2d(4, apply_act=False)]
    network = nn.Sequential(*layers).eval().requires_grad_(False)
    images = torch.rand(2, 3, 9, 9, requires_grad=True)
    plain = network(images)

    def gradient():
        penalty = BatchNormPenalty(network, form="relative", per_image=1.0)
        with penalty.attached():
            outputs = network(images)
            loss = penalty.value(penalty.take()) + outputs.square().mean()
        assert torch.equal(outputs, plain)
        kinds = {type(node).__name__ for node in nodes(loss.grad_fn)}
        return torch.autograd.grad(loss, images)[0], kinds

    fused, kinds = gradient()
    assert "TappedNormBackward" in kinds
    monkeypatch.setattr(batch_norm, "_is_plain", lambda layer: False)
    tapped, kinds = gradient()
    assert "TappedNormBackward" not in kinds
    torch.testing.assert_close(fused, tapped)


def nodes(last):
    """All nodes of an autograd graph."""
    seen, waiting = set(), [last]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    return seen


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [("running_mean", float("nan"), "not finite"), ("running_var", 0.0, "variance"), ("running_var", -1.0, "variance")],
)
def test_statistics_that_no_images_can_have(make_target, field, value, word):
    target = make_target()
    getattr(target.module.bn2, field).fill_(value)
    with pytest.raises(ValueError, match=rf"bn2.*{word}|{word}.*bn2"):
        BatchNormPenalty(target.module)


@pytest.mark.parametrize("offset", [0.0, 5.0, 1e3])
def test_image_statistics_keep_their_digits_however_large_the_mean(offset):
    x = torch.randn(3, 4, 17, 19, generator=torch.Generator().manual_seed(0)) + offset
    mean, variance = image_statistics(x)
    wide = x.double()
    torch.testing.assert_close(mean.double(), wide.mean((2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(variance.double(), wide.var((2, 3), correction=0), rtol=1e-4, atol=0)
