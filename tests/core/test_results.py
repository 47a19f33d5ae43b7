"""Records of runs: frozen, saved whole, loaded without executing anything."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch

from invkit.core.files import read_safetensors, read_weights
from invkit.core.results import FitResult, InversionResult, Step
from invkit.core.rng import seeded
from invkit.methods.deepdream import DeepDreamConfig, deep_dream
from invkit.methods.deepinversion import DeepInversionConfig, deep_inversion
from invkit.methods.plugin import PlugInConfig, plug_in_inversion
from invkit.testing import tiny_target

STAGED = {
    "deep_inversion": lambda: deep_inversion(
        tiny_target(), [0, 1], DeepInversionConfig(low_resolutions=((0.5, 2),), steps=2), generator=seeded(0)
    ),
    "plug_in_inversion": lambda: plug_in_inversion(
        tiny_target(), [0, 1], PlugInConfig.for_profile("ci", steps=2), generator=seeded(0)
    ),
    "deep_dream": lambda: deep_dream(
        tiny_target(), torch.rand(1, 3, 12, 12), "conv2", DeepDreamConfig(steps=2, octaves=2), generator=seeded(0)
    ),
}


def _result(**change):
    fields = {
        "images": torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "labels": torch.tensor([1, 0]),
        "history": {"tv": (0.5, 0.25), "total": (1.0, float("nan"))},
        "best_step": 1, "config": {"lr": 0.1, "betas": [0.5, 0.9]}, "seed": 3, "seconds": 1.5,
        "device": "cpu", "stopped": "steps", "stages": (torch.rand(2, 3, 2, 2),),
    }  # fmt: skip
    return InversionResult(**fields | change)


def test_a_result_survives_the_disk(tmp_path):
    result = _result()
    found = InversionResult.load(result.save(tmp_path / "run"))
    assert torch.equal(found.images, result.images)
    assert torch.equal(found.labels, result.labels)
    assert torch.equal(found.stages[0], result.stages[0])
    assert found.history["tv"] == (0.5, 0.25)
    assert found.history["total"][1] != found.history["total"][1]  # NaN stays NaN
    for name in ("best_step", "config", "seed", "seconds", "device", "stopped"):
        assert getattr(found, name) == getattr(result, name)


def test_stages_keep_their_order(tmp_path):
    stages = tuple(torch.full((1, 1, 1, 1), float(i)) for i in range(12))
    found = InversionResult.load(_result(stages=stages).save(tmp_path))
    assert [float(s) for s in found.stages] == list(range(12))


@pytest.mark.parametrize("invert", STAGED.values(), ids=STAGED)
def test_the_result_of_several_resolutions_survives_the_disk(tmp_path, invert):
    """Its images are those of the last stage, in the same memory."""
    result = invert()
    loaded = InversionResult.load(result.save(tmp_path))
    assert torch.equal(loaded.images, result.images)
    assert len(loaded.stages) == len(result.stages) > 1
    assert all(torch.equal(a, b) for a, b in zip(loaded.stages, result.stages, strict=True))


def test_without_labels(tmp_path):
    assert InversionResult.load(_result(labels=None).save(tmp_path)).labels is None


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        _result().best_step = 3
    fit = FitResult(history={}, metrics={}, steps=1, seconds=0.0, device="cpu", stopped="steps", config={})
    with pytest.raises(dataclasses.FrozenInstanceError):
        fit.steps = 2
    step = Step(index=0, stage=0, images=torch.zeros(1), values={"total": torch.tensor(2.0)})
    assert step.losses() == {"total": 2.0}


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tensors\.safetensors"):
        InversionResult.load(tmp_path)
    _result().save(tmp_path)
    (tmp_path / "result.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"result\.json"):
        InversionResult.load(tmp_path)
    (tmp_path / "tensors.safetensors").write_bytes(b"no tensors here")
    with pytest.raises(ValueError, match=r"tensors\.safetensors is not a safetensors file"):
        read_safetensors(tmp_path / "tensors.safetensors")


@pytest.mark.parametrize("text", ["{", json.dumps({"best_step": 1}), "[]"])
def test_a_broken_record_is_named(tmp_path, text):
    _result().save(tmp_path)
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ValueError, match=r"result\.json"):
        InversionResult.load(tmp_path)


def test_a_second_save_replaces_the_first(tmp_path):
    _result().save(tmp_path)
    second = _result(best_step=7)
    found = InversionResult.load(second.save(tmp_path))
    assert found.best_step == 7
    assert torch.equal(found.images, second.images)
    assert sorted(os.listdir(tmp_path)) == ["result.json", "tensors.safetensors"]


class _Bomb:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_weights_with_code_are_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.pt", "a.pth", "a.bin"):
        torch.save({"weight": _Bomb()}, name)
        with pytest.raises(ValueError, match="A pickle can run code"):
            read_weights(name)
    assert not Path("executed").exists()


def test_weights_of_tensors_are_read(tmp_path):
    state = {"weight": torch.rand(2)}
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "wrapped.pt")
    for name in ("plain.pt", "wrapped.pt"):
        assert torch.equal(read_weights(tmp_path / name)["weight"], state["weight"])
    for name in ("none.pt", "none.safetensors"):
        with pytest.raises(FileNotFoundError, match=name):
            read_weights(tmp_path / name)


@pytest.mark.parametrize("content", [[1, 2], torch.rand(3), {"weight": 3}])
def test_weights_that_are_no_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=r"odd\.pt"):
        read_weights(tmp_path / "odd.pt")
