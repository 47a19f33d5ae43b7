"""Networks and specifications of every odd kind: used as they are, or refused in one sentence that names them."""

import numpy as np
import pytest
import torch
from torch import nn

import invkit as ik
from invkit.core.spec import ImageSpec
from invkit.core.target import Target
from invkit.networks.loading import load_target

FIELDS = {"channels": 3, "size": (8, 8), "mean": (0.5,) * 3, "std": (0.25,) * 3, "classes": tuple("abcd")}
SPEC = ImageSpec(**FIELDS)


def network(*layers, classes=4):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(192, classes))


class Answers(nn.Module):
    """Turns its logits into something else."""

    def __init__(self, answer):
        super().__init__()
        self.network, self.answer = network(), answer

    def forward(self, x):
        return self.answer(self.network(x))


class Raises(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        raise self.error


class WithoutParameters(nn.Module):
    def forward(self, x):
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))[:, :1]], 1)


def sentence(caught):
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda y: (y, y), "a tuple"),
        (lambda y: {"logits": y}, "a dict"),
        (lambda y: [y], "a list"),
        (lambda y: None, "a NoneType"),
        (lambda y: y.numpy(), "a ndarray"),
        (lambda y: y[0], r"\(4,\)"),
        (lambda y: y[..., None, None], r"\(1, 4, 1, 1\)"),
        (lambda y: y.long(), "int64"),
        (lambda y: y + 0j, "complex64"),
    ],
)
def test_answers_that_are_no_logits(answer, says):
    with pytest.raises(ValueError, match=f"Answers answers .*{says}.*logits") as caught:
        Target(Answers(answer), SPEC)
    sentence(caught)


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("two\nlines"), IndexError(), NotImplementedError()])
def test_networks_that_raise(error):
    with pytest.raises(ValueError, match=rf"Raises does not take images of shape .*{type(error).__name__}") as caught:
        Target(Raises(error), SPEC)
    sentence(caught)


@pytest.mark.parametrize("module", [lambda x: x, None, nn.Linear, "resnet20"])
def test_what_is_no_module(module):
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module") as caught:
        Target(module, SPEC)
    sentence(caught)


@pytest.mark.parametrize("spec", [None, FIELDS, ImageSpec, ik.LatentSpec(3)])
def test_what_is_no_specification(spec):
    with pytest.raises(TypeError, match="spec must be an ImageSpec"):
        Target(network(), spec)


@pytest.mark.parametrize("module", [network().to("meta"), nn.Sequential(nn.Flatten(), nn.LazyLinear(4))])
def test_weights_without_values(module):
    with pytest.raises(ValueError, match=r"1\.weight of Sequential has no values yet") as caught:
        Target(module, SPEC)
    sentence(caught)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mean", (0.5,)), ("mean", None), ("mean", 0.5), ("mean", ("a",) * 3), ("mean", (float("nan"),) * 3),
        ("std", (0.25,)), ("std", (0.0,) * 3), ("std", (-1.0,) * 3), ("std", (float("inf"),) * 3),
        ("size", 8), ("size", (8,)), ("size", (0, 8)), ("size", (8, 8, 8)), ("size", (8.0, 8.0)), ("size", ("8", "8")),
        ("channels", 0), ("channels", 3.0), ("channels", "3"), ("channels", None),
        ("classes", ()), ("classes", 4), ("classes", None),
    ],
)  # fmt: skip
def test_odd_specifications(field, value):
    with pytest.raises(ValueError, match={"classes": "class"}.get(field, field)) as caught:
        ImageSpec(**FIELDS | {field: value})
    sentence(caught)


def test_specifications_from_arrays():
    for kind in (np.array, torch.tensor):
        spec = ImageSpec(**FIELDS | {"mean": kind([0.5] * 3), "std": kind([0.25] * 3), "size": np.array([8, 8])})
        assert spec == SPEC
        assert spec.to_json() == SPEC.to_json()


ODD = {
    "one class": lambda: Target(network(classes=1), ImageSpec(**FIELDS | {"classes": ("a",)})),
    "without parameters": lambda: Target(WithoutParameters(), SPEC),
    "dropout in train mode": lambda: Target(network(nn.Dropout()).train(), SPEC),
    "float64": lambda: Target(network().double(), SPEC),
    "scripted": lambda: Target(torch.jit.script(network()), SPEC),
    "one layer twice": lambda: Target(network(*[nn.BatchNorm2d(3)] * 2), SPEC),
    "batch norm without statistics": lambda: Target(network(nn.BatchNorm2d(3, track_running_stats=False)), SPEC),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_odd_networks_that_can_be_inverted(make):
    target = make()
    assert not target.module.training
    assert not any(p.requires_grad for p in target.parameters())
    result = ik.plug_in_inversion(target, [0, 0], ik.PlugInConfig.for_profile("ci", steps=2))
    assert result.images.shape == (2, 3, 8, 8)
    assert result.images.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"target": network()}, "target must be a Target, not a Sequential"),
        ({"config": {"steps": 1}}, "config must be a DeepInversionConfig, not dict"),
        ({"config": ik.DeepDreamConfig()}, "config must be a DeepInversionConfig, not DeepDreamConfig"),
        ({"generator": 3}, r"generator must be a torch\.Generator"),
    ],
)
def test_arguments_of_another_kind(target, arguments, says):
    with pytest.raises(TypeError, match=says) as caught:
        ik.deep_inversion(**{"target": target, "labels": [0], "config": ik.DeepInversionConfig(steps=1)} | arguments)
    sentence(caught)


@pytest.mark.parametrize(
    "labels", [[0.0], [-1], [4], [True], "ab", None, [], [[0]], torch.tensor(0), [None], ["a"], {0: 1}, 3, [2**70]]
)
def test_odd_labels(target, labels):
    with pytest.raises(ValueError, match=r"^labels") as caught:
        ik.deep_inversion(target, labels, ik.DeepInversionConfig(steps=1))
    sentence(caught)


@pytest.mark.parametrize("call", [ik.methods.layer_features])
def test_a_network_put_back_into_train_mode_is_not_changed(target, call):
    target.module.train()
    state = {name: value.clone() for name, value in target.module.state_dict().items()}
    with pytest.raises(ValueError, match="train mode"):
        call(target, torch.rand(2, 3, 8, 8), "conv2")
    assert all(torch.equal(state[name], value) for name, value in target.module.state_dict().items())


def test_names_that_are_no_text():
    with pytest.raises(ValueError, match="name must be text"):
        load_target(3)
