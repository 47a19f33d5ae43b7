"""The penalty without units: against autograd, in any chunking, without units, and what it asks of single images."""

import pytest
import torch
from torch import nn

from invkit.networks.classifiers import build
from invkit.objectives.batch_norm import BatchNormPenalty

OPTIONS = [{}, {"per_image": 0.7}, {"per_image": 0.7, "tolerance": 0.0}, {"per_image": 2.0, "first_layer_scale": 3.0}]


def naive(target, images, per_image=0.0, tolerance=0.5, first_layer_scale=1.0):
    """The same by forward hooks and autograd through torch.var and torch.mean."""
    batch, alone, weights = [], [], []
    layers = [m for m in target.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    def hook(layer, inputs, _output):
        x = inputs[0].flatten(2) if inputs[0].ndim > 2 else inputs[0].unsqueeze(2)
        flat, spread = x.transpose(0, 1).flatten(1), layer.running_var + layer.eps
        gap = (flat.mean(1) - layer.running_mean).square() / spread
        batch.append((gap + ((flat.var(1) + layer.eps) / spread).log().square() / 2).mean())
        energy = ((x - layer.running_mean.view(1, -1, 1)).square().mean(2) + layer.eps) / spread
        alone.append(((energy.log().square().mean(1) - tolerance).relu() / 2).mean())
        weights.append(first_layer_scale if layer is layers[0] else 1.0)

    handles = [m.register_forward_hook(hook) for m in layers]
    target(images)
    for handle in handles:
        handle.remove()
    return sum(w * (b + per_image * a) for w, b, a in zip(weights, batch, alone, strict=True)) / sum(weights)


def grad_of(value, images):
    return torch.autograd.grad(value, images)[0]


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def check(network, images, sizes, **options):
    """Whole and put together from chunks, value and gradient are those of the naive form."""
    expected = naive(network, images, **options)
    penalty = BatchNormPenalty(network, form="relative", **options)
    chunks = [c.detach().requires_grad_() for c in images.split(sizes)]
    with penalty.attached():
        network(images)
        value = penalty.value(penalty.take())
        close(value, expected)
        close(grad_of(value, images), grad_of(expected, images))
        taken = []
        for chunk in chunks:
            with torch.no_grad():
                network(chunk)
            taken.append(penalty.take())
        value, forms = penalty.linear_forms(taken)
        gradients = []
        for chunk, form in zip(chunks, forms, strict=True):
            network(chunk)
            gradients.append(grad_of(form(penalty.take()), chunk))
    close(value, expected.detach())
    close(torch.cat(gradients), grad_of(naive(network, images, **options), images))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("sizes", [[10], [1] * 10, [7, 3], [1, 2, 7]])
def test_any_chunking_gives_the_value_and_gradient_of_autograd(make_target, sizes, options):
    target = make_target(dtype=torch.float64)
    check(target, torch.rand(10, 3, 8, 8, dtype=torch.float64, requires_grad=True), sizes, **options)


def test_one_image(make_target):
    images = torch.rand(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    check(make_target(dtype=torch.float64), images, [1], per_image=1.0)


def test_batchnorm1d_after_flatten():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)).double().eval()
    check(net, torch.rand(6, 3, 2, 2, dtype=torch.float64, requires_grad=True), [1, 5], per_image=1.0)


def test_a_resnet_in_chunks():
    from invkit.core.spec import ImageSpec

    spec = ImageSpec(channels=3, size=(8, 8), mean=(0.5,) * 3, std=(0.2,) * 3, classes=("a", "b"))
    net = build("resnet20", spec, width=2).double().eval()
    check(net, torch.rand(5, 3, 8, 8, dtype=torch.float64, requires_grad=True), [2, 2, 1], per_image=1.0)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, type("Own", (nn.BatchNorm2d,), {})])
def test_gradcheck_beside_the_output(kind):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), kind(3), nn.Tanh(), nn.Conv2d(3, 4, 3), kind(4))
    network = network.double().eval().requires_grad_(False)
    penalty = BatchNormPenalty(network, form="relative", per_image=1.5, tolerance=0.1)

    def both(x):
        with penalty.attached():
            out = network(x)
            return out, penalty.value(penalty.take())

    x = torch.randn(4, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(both, (x,))


def test_it_has_no_units():
    """A layer whose input is a thousand times as large, with statistics to match, costs the same; the norms do not."""
    torch.manual_seed(0)
    x = torch.randn(6, 3, 8, 8, dtype=torch.float64)
    values = {}
    for form in ("relative", "norm"):
        for scale in (1.0, 1000.0):
            bn = nn.BatchNorm2d(3, eps=0.0).double().eval()
            bn.running_mean.fill_(0.3 * scale)
            bn.running_var.fill_(2.0 * scale**2)
            penalty = BatchNormPenalty(nn.Sequential(bn), form=form, per_image=1.0 if form == "relative" else 0.0)
            with penalty.attached():
                bn(x * scale)
                values[form, scale] = penalty.value(penalty.take())
    close(values["relative", 1.0], values["relative", 1000.0])
    assert values["norm", 1000.0] > 1e5 * values["norm", 1.0]


def test_one_image_cannot_pay_for_the_others():
    """A batch whose variance is right only because one image is loud costs nothing as a batch; its images do."""
    bn = nn.BatchNorm2d(2).double().eval()
    penalty = BatchNormPenalty(nn.Sequential(bn), form="relative", per_image=1.0)
    noise = torch.randn(8, 2, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loud = noise * torch.tensor([8**0.5, *[1e-2] * 7], dtype=torch.float64).view(-1, 1, 1, 1)
    with penalty.attached():
        found = []
        for images in (noise, loud):
            bn(images)
            taken = penalty.take()
            found.append((float(penalty.of_batch([(i, m.pooled()) for i, m in taken])), penalty.of_images(taken)))
    assert max(found[0][0], found[1][0]) < 0.01
    assert found[0][1].max() == 0
    assert found[1][1].min() > 0.5


@pytest.mark.parametrize("bad", [{"form": "log"}, {"per_image": -1.0}, {"form": "norm", "per_image": 1.0}])
def test_bad_options(make_target, bad):
    with pytest.raises(ValueError, match=r"form|per_image"):
        BatchNormPenalty(make_target(), **{"form": "relative"} | bad)


def test_statistics_that_changed_since_are_read_anew(make_target):
    target = make_target()
    penalty, images = BatchNormPenalty(target.module, form="relative"), torch.rand(3, 3, 8, 8)
    values = []
    for shift in (0.0, 1.0):
        target.module.bn1.running_mean += shift
        with torch.inference_mode(), penalty.attached():
            target(images)
            values.append(float(penalty.value(penalty.take())))
    assert values[1] != values[0]
    assert values[1] == pytest.approx(fresh(target, images))


def fresh(target, images):
    penalty = BatchNormPenalty(target.module, form="relative")
    with penalty.attached():
        target(images)
        return float(penalty.value(penalty.take()))


def test_an_image_of_one_row_has_a_roughness():
    from invkit.objectives.priors import roughness

    assert roughness(torch.tensor([[[[0.0, 1.0, 1.0]]]])).tolist() == [0.5]
