"""A frozen network and how to get one: every way in, and every way in which it can fail."""

import json
import os
import textwrap
import urllib.error
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from invkit.core.spec import ImageSpec
from invkit.core.target import Target
from invkit.data.datasets import load_data
from invkit.networks.classifiers import build
from invkit.networks.loading import load_target, load_weights

SPEC = ImageSpec(channels=3, size=(8, 8), mean=(0.4,) * 3, std=(0.3,) * 3, classes=("a", "b", "c", "d"))


def hooks(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


# ---- frozen


def test_a_target_normalises_and_is_frozen(target):
    images = torch.rand(2, 3, 8, 8)
    expected = target.module((images - 0.4) / 0.3)
    torch.testing.assert_close(target(images), expected)
    torch.testing.assert_close(target.spec.normalise(images), (images - target.mean) / target.std)
    assert not any(p.requires_grad for p in target.parameters())
    assert not any(m.training for m in target.modules())
    assert hooks(target) == 0


def test_train_mode_is_refused(target):
    with pytest.raises(ValueError, match="frozen in eval mode"):
        target.train()
    assert target.eval() is target
    target.check_frozen()
    target.module.bn2.train()
    with pytest.raises(ValueError, match=r"bn2 of target tiny is in train mode; call module\.eval\(\)"):
        target.check_frozen()


def test_the_image_gets_a_gradient_and_no_weight_does(target):
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    target(images).sum().backward()
    assert images.grad.abs().sum() > 0
    assert all(p.grad is None for p in target.parameters())


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5)), r"answers an image with \(1, 5\).*4 classes"),
        (nn.Sequential(nn.Flatten(), nn.Linear(10, 4)), r"does not take images of shape \(3, 8, 8\)"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "does not take images"),
        (nn.LSTM(8, 4), "LSTM"),
        (nn.Identity(), r"answers an image with \(1, 3, 8, 8\)"),
    ],
)
def test_networks_that_do_not_fit_the_specification(module, says):
    with pytest.raises(ValueError, match=says):
        Target(module, SPEC)
    assert hooks(module) == 0


def test_fingerprint_follows_weights_buffers_and_specification(make_target):
    target = make_target()
    first = target.fingerprint()
    assert first == make_target().fingerprint()
    assert len(first) == 12
    assert make_target(seed=1).fingerprint() != first
    with torch.no_grad():
        target.module.head.bias[2] += 1e-6
    assert target.fingerprint() != first
    other = make_target()
    other.module.bn1.running_var[0] *= 1.001
    assert other.fingerprint() != first
    moved = make_target()
    moved.spec = ImageSpec(channels=3, size=(8, 8), mean=(0.4,) * 3, std=(0.31,) * 3, classes=moved.spec.classes)
    assert moved.fingerprint() != first


def test_accepts_by_trying(target):
    assert target.accepts((16, 12))
    flat = Target(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4)), SPEC)
    assert flat.accepts((8, 8))
    assert not flat.accepts((8, 9))


# ---- taps


def test_taps_read_what_the_layers_give(target):
    images = torch.rand(2, 3, 8, 8)
    with target.tap("conv1", "bn2") as read:
        found = read(images)
    conv1 = target.module.conv1(target.spec.normalise(images))
    torch.testing.assert_close(found["conv1"], conv1)
    bn2 = target.module.bn2(target.module.conv2(torch.tanh(target.module.bn1(conv1))))
    torch.testing.assert_close(found["bn2"], bn2)
    with target.tap("head", inputs=True) as read:
        torch.testing.assert_close(read(images)["head"], torch.tanh(bn2).mean((2, 3)))


@pytest.mark.parametrize(("names", "inputs", "called"), [
    (("conv1",), False, ["conv1"]),
    (("bn1",), True, ["conv1"]),
    (("conv2", "conv1"), False, ["conv1", "bn1", "conv2"]),
    (("conv1", "head"), True, ["conv1", "bn1", "conv2", "bn2"]),
])  # fmt: skip
def test_the_pass_ends_after_the_deepest_tap(target, names, inputs, called):
    seen = []
    with target.tap(*names, inputs=inputs) as read:
        for name, layer in target.module.named_children():
            layer.forward = lambda x, name=name, forward=layer.forward: (seen.append(name), forward(x))[1]
        read(torch.rand(1, 3, 8, 8))
    assert seen == called


def test_taps_can_be_read_again_and_keep_the_graph(target):
    with target.tap("conv2") as read:
        first = read(torch.zeros(1, 3, 8, 8))["conv2"]
        images = torch.rand(1, 3, 8, 8, requires_grad=True)
        second = read(images)["conv2"]
        assert not torch.equal(first, second)
        assert torch.autograd.grad(second.sum(), images)[0].abs().sum() > 0
    assert hooks(target) == 0


def test_hooks_go_whatever_happens(target):
    with pytest.raises(ZeroDivisionError), target.tap("conv1") as read:
        read(torch.rand(1, 3, 8, 8) * (1 / 0))
    assert hooks(target) == 0
    with target.tap("conv1") as read, pytest.raises(RuntimeError):
        read(torch.rand(1, 5, 8, 8))  # the network itself fails
    assert hooks(target) == 0
    assert target(torch.rand(1, 3, 8, 8)).shape == (1, 4)


def test_unknown_layers_are_named(target):
    with pytest.raises(ValueError, match=r"no layer named \['conv9'\].*'conv1', 'bn1'"), target.tap("conv9"):
        pass
    with pytest.raises(ValueError, match="no layer"), target.tap():
        pass
    assert hooks(target) == 0


def test_a_layer_that_is_never_reached():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3 * 64, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.used(x.flatten(1))

    target = Target(Odd(), SPEC)
    with target.tap("unused") as read, pytest.raises(ValueError, match=r"never reached \['unused'\]"):
        read(torch.rand(1, 3, 8, 8))
    assert target.features(torch.rand(2, 3, 8, 8)).shape == (2, 192)


def test_a_tap_is_not_overwritten_by_a_later_layer():
    spec = ImageSpec(channels=1, size=(4, 4), mean=(0.5,), std=(0.5,), classes=("a", "b"))
    target = Target(nn.Sequential(nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(16, 2)), spec)
    images = torch.rand(2, 1, 4, 4)
    with target.tap("0", "2") as read:
        assert torch.equal(read(images)["0"], spec.normalise(images).flatten(1))


def test_a_layer_asked_for_twice(target):
    with target.tap("conv1", "conv1") as read:
        assert list(read(torch.rand(1, 3, 8, 8))) == ["conv1"]


def test_penultimate_features(target):
    images = torch.rand(3, 3, 8, 8)
    features = target.features(images)
    assert features.shape == (3, 8)
    torch.testing.assert_close(target.module.head(features), target(images))
    fully = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    conv_head = Target(fully, SPEC)
    expected = fully[:2](SPEC.normalise(images)).mean((2, 3))
    torch.testing.assert_close(conv_head.features(images), expected)
    assert hooks(target) == hooks(conv_head) == 0


# ---- by name


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet50", "unknown target 'resnet50'; use torchvision/NAME, timm/NAME"),
        ("torchvision/", "unknown target"),
        ("hub/resnet50", "unknown target"),
        ("torchvision/resnet5", "torchvision has no classifier 'resnet5'"),
        ("torchvision/fcn_resnet50", "torchvision has no classifier"),
        ("timm/vit_tinny", "timm has no network 'vit_tinny'"),
        ("invkit/resnet21", "resnet21"),
        ("no_such_package.nets:make", "cannot load .*no_such_package.*PYTHONPATH"),
        ("torch.nn:NoSuchLayer", "cannot load"),
        ("math:nan", "math:nan"),
        ("builtins:dict", "built a dict, not a torch.nn.Module"),
    ],
)
def test_unknown_names(name, says):
    with pytest.raises(ValueError, match=says):
        load_target(name, weights=None, spec=SPEC)


def test_own_and_invkit_need_a_specification(tmp_path):
    for name in ("invkit/resnet20", "torch.nn:Identity"):
        with pytest.raises(ValueError, match="needs an image specification"):
            load_target(name, weights=None)
        with pytest.raises(ValueError, match="no published weights; give weights=FILE"):
            load_target(name, spec=SPEC)
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        load_target("invkit/resnet20", weights=None, spec=tmp_path / "nothing.json")


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"input": 3, "mean": [0], "std": [1], "classes": ["a"]}'])
def test_a_broken_specification_is_named(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"x\.json"):
        load_target("invkit/resnet20", weights=None, spec=tmp_path / "x.json")


def test_torchvision_with_random_weights():
    target = load_target("torchvision/squeezenet1_1", weights=None)
    assert target.spec.shape == (3, 224, 224)
    assert target.spec.mean == (0.485, 0.456, 0.406)
    assert target.spec.classes[1] == "goldfish"
    small = load_target("torchvision/resnet18", weights=None, spec=SPEC)
    assert small(torch.rand(2, 3, 8, 8)).shape == (2, 4)


def test_timm_with_random_weights():
    target = load_target("timm/vit_tiny_patch16_224", weights=None)
    assert target.spec.shape == (3, 224, 224)
    assert target.spec.mean == (0.5, 0.5, 0.5)
    assert target.spec.n_classes == 1000
    assert target.features(torch.rand(1, 3, 224, 224)).shape == (1, 192)
    small = load_target("timm/resnet18", weights=None, spec=SPEC)
    assert small(torch.rand(2, 3, 8, 8)).shape == (2, 4)


def test_published_weights_without_a_network(monkeypatch):
    def offline(*_args, **_options):
        raise urllib.error.URLError("no route to host")

    import timm

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline, raising=False)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", offline)
    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", offline)
    for name in ("torchvision/squeezenet1_1", "timm/vit_tiny_patch16_224"):
        with pytest.raises(OSError, match=rf"published weights of {name} cannot be had.*weights=FILE") as caught:
            load_target(name)
        assert "\n" not in str(caught.value)


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch, tmp_path):
    asked = []

    def unreachable(*_args, **options):
        asked.append(options["timeout"])
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", lambda *a, **k: pytest.fail("a download was begun"))
    with pytest.raises(OSError, match=r"timm/vit_base_patch16_224 cannot be had \(ConnectionError\).*weights=FILE"):
        load_target("timm/vit_base_patch16_224")
    assert len(asked) == 1
    assert asked[0] <= 10


@pytest.mark.parametrize("cached", [True, False])
def test_published_weights_come_from_the_cache_or_a_hub_that_answers(monkeypatch, cached):
    import timm
    from huggingface_hub.errors import EntryNotFoundError

    def no_such_file(*_args, **_options):
        assert not cached, "what is cached needs no network"
        raise EntryNotFoundError("404")

    build = timm.create_model
    found = "/cached/model.safetensors" if cached else None
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: found)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", no_such_file)
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: build(name, pretrained=False))
    assert load_target("timm/vit_tiny_patch16_224").spec.n_classes == 1000


OWN = """
    import torch
    from torch import nn

    def make_net():
        return nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))
"""


def test_a_network_of_ones_own_with_weights_and_json(tmp_path, monkeypatch):
    (tmp_path / "my_own_net.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(tmp_path)
    import my_own_net

    net = my_own_net.make_net().eval()
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    torch.save(net.state_dict(), tmp_path / "w.pt")
    (tmp_path / "w.json").write_text(json.dumps(SPEC.to_json()))
    images = torch.rand(2, 3, 8, 8)
    for file in ("w.safetensors", "w.pt"):
        target = load_target("my_own_net:make_net", weights=tmp_path / file)
        assert target.spec == SPEC
        torch.testing.assert_close(target(images), net(SPEC.normalise(images)))


def test_weights_that_do_not_fit(tmp_path):
    net = build("resnet20", SPEC, width=4)
    good = {k: v.contiguous() for k, v in net.state_dict().items()}
    load_weights(net, _save(good, tmp_path))
    without_counts = {k: v for k, v in good.items() if not k.endswith("num_batches_tracked")}
    load_weights(net, _save(without_counts, tmp_path))
    first = next(iter(good))
    for state, says in (
        ({k: v for k, v in good.items() if k != first}, rf"missing \['{first}'\]"),
        (good | {"more": torch.zeros(1)}, r"unknown \['more'\]"),
        (good | {first: torch.zeros(2, 2)}, rf"shapes \['{first} \(2, 2\) for"),
    ):
        with pytest.raises(ValueError, match=says):
            load_weights(net, _save(state, tmp_path))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_target("invkit/resnet20", weights=tmp_path / "nowhere.safetensors", spec=SPEC)


def _save(state, folder):
    save_file(state, folder / "x.safetensors")
    return folder / "x.safetensors"


class _Bomb:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": _Bomb()}, "bad.pt")
    torch.save(build("resnet20", SPEC, width=4), "module.pt")  # a whole module is code, too
    for name in ("bad.pt", "module.pt"):
        with pytest.raises(ValueError, match=rf"{name} was not loaded.*A pickle can run code"):
            load_target("invkit/resnet20", weights=name, spec=SPEC)
    assert not Path("executed").exists()


# ---- real weights


@pytest.mark.parametrize("network", ["resnet20", "resnet44"])
def test_real_cifar_networks(data_folder, network):
    file = data_folder / "weights" / f"cifar10_{network}.safetensors"
    target = load_target(f"invkit/{network}", weights=file)
    state = load_file(file)
    own = target.module.state_dict()
    assert all(torch.equal(own[k], v) for k, v in state.items())
    data = load_data("npz:cifar10_4600.npz", folder=data_folder, limit=200)
    images, labels = data.test.pixels[:200].float() / 255, data.test.labels[:200]
    with torch.no_grad():
        assert float((target(images).argmax(1) == labels).float().mean()) > 0.85


def test_real_imagenet_network(data_folder):
    file = data_folder / "weights" / "imagenet_squeezenet1_0.safetensors"
    target = load_target("torchvision/squeezenet1_0", weights=file)
    from invkit.data.images import load_image

    photos = sorted((data_folder / "imagenet_photos").glob("*.jpg"))[::7][:16]
    images = torch.cat([load_image(p, size=target.spec.size) for p in photos])
    with torch.no_grad():
        top = target(images).topk(5).indices
    right = 0
    for photo, row in zip(photos, top.tolist()):
        wanted = photo.stem.split("_", 1)[1].replace("_", " ").lower()
        right += any(wanted in target.spec.classes[k].lower() for k in row)
    assert right >= 10
