"""Networks as readers have them: opened, or refused in one sentence."""

from __future__ import annotations

import json
import os

import pytest
import torch

import invkit as ik
from invkit.engine.cache import cache_path
from invkit.networks.loading import load_weights
from invkit.networks.own import build_own, located
from invkit.report import open_network, open_report


def test_a_function_in_a_file_with_weights_and_a_specification_beside_them(at_home):
    opened = open_network("my_file:make_net", "my.pt")
    assert opened.target.spec.shape == (1, 16, 16)
    state = torch.load(at_home / "my.pt", weights_only=True)
    assert torch.equal(opened.target.module[0].weight, state["0.weight"])
    assert open_network("my_file.py:make_net", "my.pt").target.fingerprint() == opened.target.fingerprint()


def test_the_same_network_can_be_built_untrained(at_home):
    opened = open_network("my_file:make_net", "my.pt")
    one, two, again = (opened.fresh(seed)[0].weight for seed in (0, 1, 0))
    assert torch.equal(one, again)
    assert not torch.equal(one, two)
    assert not torch.equal(one, opened.target.module[0].weight)


@pytest.mark.parametrize(("function", "key"), [("make_tuple", 1), ("make_mapping", "logits")])
def test_logits_are_taken_out_of_a_tuple_or_a_mapping(at_home, function, key):
    opened = open_network(f"my_file:{function}", spec="my.json")
    assert opened.target(torch.rand(2, 1, 16, 16)).shape == (2, 10)
    assert repr(key) in opened.notes[0]
    assert opened.fresh(0)(torch.rand(2, 1, 16, 16)).shape == (2, 10)


def test_without_a_specification_a_template_is_written_and_named(at_home, tmp_path, monkeypatch):
    (tmp_path / "bare.py").write_text((at_home / "my_file.py").read_text())
    monkeypatch.setenv("INVKIT_START", str(tmp_path))
    with pytest.raises(ValueError, match=r"needs a specification .* fill in .*bare\.json"):
        open_network("bare:make_net", data=f"folder:{at_home / 'images'}")
    template = json.loads((tmp_path / "bare.json").read_text())
    assert template["input"] == [1, 16, 16]  # channels by the first convolution, the size by the images
    assert template["classes"] == [f"class {i}" for i in range(10)]  # for the images show nine of ten
    assert template["mean"] == ["MEAN"]
    with pytest.raises(ValueError, match="mean and std must be numbers"):
        open_network("bare:make_net")
    template |= {"mean": [0.3], "std": [0.3]}
    (tmp_path / "bare.json").write_text(json.dumps(template))
    assert open_network("bare:make_net").target.spec.mean == (0.3,)


def test_a_template_never_replaces_what_was_filled_in(at_home, tmp_path, monkeypatch):
    (tmp_path / "bare.py").write_text((at_home / "my_file.py").read_text())
    monkeypatch.setenv("INVKIT_START", str(tmp_path))
    (tmp_path / "weights.json").write_text("{}")
    with pytest.raises(ValueError, match="missing"):
        open_network("bare:make_net", str(at_home / "my.pt"), spec="weights.json")
    assert (tmp_path / "weights.json").read_text() == "{}"


class Bomb:
    """What a pickle could do."""

    def __reduce__(self):
        return os.system, ("touch /tmp/never",)


def bad_files(home):
    torch.save({"0.weight": Bomb()}, home / "code.pt")
    torch.save({"wrong": torch.zeros(1)}, home / "wrong.pt")
    state = torch.load(home / "my.pt", weights_only=True)
    torch.save(state | {"0.weight": torch.full_like(state["0.weight"], torch.nan)}, home / "nan.pt")
    about = json.loads((home / "my.json").read_text())
    (home / "rgb.json").write_text(json.dumps(about | {"input": [3, 16, 16], "mean": [0.3] * 3, "std": [0.3] * 3}))


@pytest.mark.parametrize(
    ("network", "weights", "spec", "match"),
    [
        ("my_file:make_nothing", "", "my.json", r"a mapping in which no entry has the shape \(N, 10\)"),
        ("my_file:make_text", "", "my.json", "built a str, not a torch.nn.Module"),
        ("my_file:make_other", "", "my.json", "cannot load .*make_other.*AttributeError"),
        ("no_file:make_net", "", "my.json", "cannot load 'no_file:make_net'"),
        ("my_file:make_net", "code.pt", "my.json", "A pickle can run code"),
        ("my_file:make_net", "wrong.pt", "my.json", "does not fit Sequential"),
        ("my_file:make_net", "nan.pt", "my.json", "NaN or infinite"),
        ("my_file:make_net", "", "rgb.json", "my_file:make_net|channel"),
        ("my_file:make_many", "", "my.json", "10|5000"),
        ("invkit/bn_cnn", "", "my.json", "no published weights"),
        ("timm/no_such_network", "", "", "timm has no network"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(at_home, network, weights, spec, match):
    bad_files(at_home)
    with pytest.raises((ValueError, FileNotFoundError), match=match) as error:
        open_network(network, weights, spec=spec)
    assert "\n" not in str(error.value)
    assert not os.path.exists("/tmp/never")


def test_a_file_may_hold_dataclasses_and_import_what_lies_beside_it(tmp_path, monkeypatch):
    (tmp_path / "beside.py").write_text("width = 3\n")
    (tmp_path / "mine.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom torch import nn\nimport beside\n"
        "@dataclass\nclass Options:\n    width: int = beside.width\n"
        "def make_net():\n    return nn.Linear(2, Options().width)\n"
    )
    monkeypatch.setenv("INVKIT_START", str(tmp_path))
    assert build_own(located("mine:make_net")).out_features == 3


def test_a_template_takes_the_size_of_images_meant_from_the_start_folder(at_home, tmp_path, monkeypatch):
    (at_home / "bare.py").write_text((at_home / "my_file.py").read_text())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="needs a specification"):
        open_report("bare:make_net", data="folder:images")
    assert json.loads((at_home / "bare.json").read_text())["input"] == [1, 16, 16]


def test_missing_weights_are_named(at_home):
    with pytest.raises(FileNotFoundError, match=r"no_such\.pt"):
        open_network("my_file:make_net", "no_such.pt", spec="my.json")


def test_names_of_data_parallel_and_wrapped_state_dicts_are_read(at_home):
    state = torch.load(at_home / "my.pt", weights_only=True)
    prefixed = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({"model_state_dict": prefixed, "epoch": 3}, at_home / "parallel.pt")
    net = build_own(f"{at_home / 'my_file.py'}:make_net")
    load_weights(net, at_home / "parallel.pt")
    assert torch.equal(net[0].weight, state["0.weight"])


def test_random_weights_are_called_random():
    opened = open_network("torchvision/mobilenet_v3_small", "none")
    assert "random" in opened.notes[0]
    assert open_network("mobilenet_v3_small", "none").target.spec == opened.target.spec


def test_chapters_take_an_architecture_of_ones_own(at_home, tmp_path):
    data = ik.load_data("digits", limit=40)
    config = ik.ClassifierConfig(steps=2, warmup=0)

    def trained(**options):
        return ik.load_or_train("my_file:make_net", data, config, folder=tmp_path, device="cpu", **options)

    one, again, other = trained(), trained(), trained(seed=1)
    assert one.fingerprint() == again.fingerprint() != other.fingerprint()
    assert len(list(tmp_path.glob("my_file_make_net-*.safetensors"))) == 2
    with pytest.raises(ValueError, match="width"):
        trained(width=4)
    with pytest.raises(ValueError, match=r"my_file:make_many must give logits \(N, 10\)"):
        ik.networks.build("my_file:make_many", data.spec)
    with pytest.raises(ValueError, match="takes no images of shape"):
        ik.networks.build("my_file:make_net", ik.load_data("digits", size=8, limit=40).spec)


def test_another_text_of_the_file_is_another_network(at_home, tmp_path, monkeypatch):
    monkeypatch.setenv("INVKIT_START", str(tmp_path))
    data = ik.load_data("digits", limit=40)
    text, names = (at_home / "my_file.py").read_text(), []
    for source in (text, text + "# changed"):
        (tmp_path / "my_file.py").write_text(source)
        names.append(cache_path("my_file:make_net", data, {}, tmp_path).name)
    assert names[0] != names[1]
