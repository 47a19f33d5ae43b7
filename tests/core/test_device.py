"""Devices, autocast, progress bars and the memory of a backward pass."""

import importlib

import pytest
import torch

from invkit.core import device
from invkit.core.device import pick_device, saved_bytes


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(ValueError, match="'cuda' was asked for"):
        pick_device("cuda")


def test_a_device_that_torch_does_not_know():
    with pytest.raises(ValueError, match="device 'gpu'"):
        pick_device("gpu")


def test_progress_is_silent_in_a_pipe(capfd):
    importlib.import_module("ipykernel.kernelapp")  # there, but no kernel runs
    assert list(device.progress(range(3))) == [0, 1, 2]
    assert capfd.readouterr().err == ""


def test_autocast_off_changes_nothing():
    a = torch.rand(4, 4)
    with device.autocast(a.device, False):
        assert (a @ a).dtype == torch.float32
    with device.autocast(a.device, True):
        assert (a @ a).dtype == torch.bfloat16


def test_saved_bytes_counts_each_storage_once():
    x = torch.rand(1000, requires_grad=True)
    # exp keeps its result, which the product keeps again; the product also keeps x.
    assert saved_bytes(lambda: x.exp() * x) == 2 * x.untyped_storage().nbytes()
    assert saved_bytes(lambda: x.detach().exp()) == 0
