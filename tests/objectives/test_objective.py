"""The gradient of the whole loss is that of the whole batch, however it is cut up."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from invkit.objectives import losses, priors
from invkit.objectives.batch_norm import BatchNormPenalty
from invkit.objectives.objective import Gradient, Objective


def objective_for(target, labels, penalty=True):
    return Objective(
        network=target,
        terms={"ce": (0.7, lambda b: losses.cross_entropy(b.outputs, b.references, 1.5))},
        priors=priors.image_prior(0.02, 0.003),
        references=labels,
        penalty=BatchNormPenalty(target, first_layer_scale=3.0) if penalty else None,
        penalty_weight=0.3,
    )


def evaluate(objective, images, **options):
    gradient = Gradient(objective, **options)
    if objective.penalty is None:
        return gradient(images)
    with objective.penalty.attached():
        return gradient(images)


def by_autograd(target, images, labels):
    """The complete loss, written down naively."""
    taken = []
    layers = [target.module.bn1, target.module.bn2]
    hooks = [m.register_forward_hook(lambda m, a, _: taken.append((m, a[0]))) for m in layers]
    leaf = images.clone().requires_grad_()
    logits = target(leaf)
    for hook in hooks:
        hook.remove()
    batch_norm = 0
    for scale, (layer, x) in zip((3.0, 1.0), taken):
        x = x.transpose(0, 1).flatten(1)
        gaps = (x.mean(1) - layer.running_mean).norm() + (x.var(1) - layer.running_var).norm()
        batch_norm = batch_norm + scale * gaps
    ce = torch.nn.functional.cross_entropy(logits / 1.5, labels)
    values = torch.stack([0.7 * ce, 0.02 * priors.total_variation(leaf).mean(), 0.003 * priors.l2(leaf).mean()])
    values = torch.cat([values, (0.3 * batch_norm).view(1)])
    return values.detach(), torch.autograd.grad(values.sum(), leaf)[0]


def close(found, expected, tolerance=1e-12):
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def sample(n, dtype=torch.float64):
    generator = torch.Generator().manual_seed(n)
    return torch.rand(n, 3, 8, 8, dtype=dtype, generator=generator), torch.arange(n) % 4


LAYOUTS = st.sampled_from([torch.contiguous_format, torch.channels_last])


@given(n=st.integers(1, 12), chunk=st.integers(1, 14), layout=LAYOUTS)
def test_chunks_are_the_whole(make_target, n, chunk, layout):
    target = make_target(dtype=torch.float64)
    images, labels = sample(n)
    images = images.contiguous(memory_format=layout)
    expected = by_autograd(target, images, labels)
    close(evaluate(objective_for(target, labels), images), expected)
    close(evaluate(objective_for(target, labels), images, micro_batch=chunk), expected)


@given(n=st.integers(1, 9), chunk=st.integers(1, 9))
def test_chunks_without_the_penalty(make_target, n, chunk):
    target = make_target(dtype=torch.float64)
    images, labels = sample(n)
    objective = objective_for(target, labels, penalty=False)
    close(evaluate(objective, images, micro_batch=chunk), evaluate(objective, images))


def test_float32_stays_float32(make_target):
    target = make_target()
    images, labels = sample(10, torch.float32)
    whole = evaluate(objective_for(target, labels), images)
    assert whole[0].dtype == whole[1].dtype == torch.float32
    close(evaluate(objective_for(target, labels), images, micro_batch=3), whole, 1e-5)


def test_priors_do_not_depend_on_the_batch_size(make_target):
    target = make_target(dtype=torch.float64)
    images, labels = sample(3)
    once, _ = evaluate(objective_for(target, labels), images)
    thrice, _ = evaluate(objective_for(target, labels.repeat(4)), images.repeat(4, 1, 1, 1))
    torch.testing.assert_close(once[:3], thrice[:3], rtol=1e-13, atol=1e-13)


def test_names_are_those_of_the_values(make_target):
    target = make_target()
    images, labels = sample(2, torch.float32)
    objective = objective_for(target, labels)
    assert objective.names == ("ce", "tv", "l2", "batch_norm")
    values, _ = evaluate(objective, images)
    assert len(values) == 4
    assert float(values[2]) == pytest.approx(0.003 * float(priors.l2(images).mean()), rel=1e-5)


def test_images_are_left_alone(make_target):
    target = make_target()
    images, labels = sample(4, torch.float32)
    before = images.clone()
    for chunk in (None, 3):
        evaluate(objective_for(target, labels), images, micro_batch=chunk)
    assert torch.equal(images, before)
    assert images.grad is None
    assert not images.requires_grad


@pytest.mark.parametrize("chunk", [None, 2])
def test_other_forward_passes_do_not_count(make_target, chunk):
    """A callback that asks the network about its images must not change the next step's penalty."""
    target = make_target(dtype=torch.float64)
    images, labels = sample(5)
    objective = objective_for(target, labels)
    gradient = Gradient(objective, micro_batch=chunk)
    with objective.penalty.attached():
        target(torch.rand(3, 3, 8, 8, dtype=torch.float64))
        found = gradient(images)
    close(found, by_autograd(target, images, labels))


@pytest.mark.parametrize("chunk", [None, 2])
def test_statistics_alone(make_target, chunk):
    target = make_target(dtype=torch.float64)
    images, labels = sample(5)
    alone = Objective(network=target, terms={}, references=labels, penalty=BatchNormPenalty(target), penalty_weight=1.0)
    values, gradient = evaluate(alone, images, micro_batch=chunk)
    assert values.shape == (1,)
    assert gradient.abs().max() > 0


def test_an_objective_without_terms_is_refused(make_target):
    with pytest.raises(ValueError, match="every weight of the loss is zero"):
        Objective(network=make_target(), terms={}, references=torch.zeros(1))


def test_no_gradient_for_weights(make_target):
    target = make_target()
    images, labels = sample(4, torch.float32)
    evaluate(objective_for(target, labels), images, micro_batch=2)
    assert all(p.grad is None for p in target.parameters())


def test_bfloat16_is_near(make_target):
    target = make_target(width=16)
    images, labels = sample(8, torch.float32)
    values, gradient = evaluate(objective_for(target, labels), images)
    rough, direction = evaluate(objective_for(target, labels), images, bf16=True)
    assert rough.dtype == direction.dtype == torch.float32
    torch.testing.assert_close(rough, values, rtol=0.03, atol=0.01)
    assert torch.cosine_similarity(direction.flatten(), gradient.flatten(), dim=0) > 0.99
