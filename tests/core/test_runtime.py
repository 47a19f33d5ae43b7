"""Seeds, devices and files that are whole or not there."""

import errno
import importlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from invkit.core import device
from invkit.core.config import config_hash, plain
from invkit.core.device import pick_device
from invkit.core.files import atomic_path, load_state, save_state, write_json
from invkit.core.rng import seeded, spawn


def test_a_seed_means_the_same_draws():
    assert torch.equal(torch.rand(5, generator=seeded(3)), torch.rand(5, generator=seeded(3)))
    assert not torch.equal(torch.rand(5, generator=seeded(3)), torch.rand(5, generator=seeded(4)))


def test_spawned_streams_are_apart_and_repeatable():
    first, second = seeded(0), seeded(0)
    children = [torch.rand(3, generator=spawn(first)) for _ in range(2)]
    again = [torch.rand(3, generator=spawn(second)) for _ in range(2)]
    assert not torch.equal(*children)
    assert all(torch.equal(a, b) for a, b in zip(children, again))


def test_no_global_seed_is_touched():
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    spawn(seeded(9))
    assert torch.equal(torch.rand(2), expected)


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(ValueError, match="'cuda' was asked for"):
        pick_device("cuda")


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "deep" / "x.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text(f"half {1 / 0}")
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["x.txt"]


def test_a_full_disk_is_told_in_one_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_json(tmp_path / "x.json", {"a": 1})
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"cannot write .*x\.json: No space left") as caught:
        write_json(tmp_path / "x.json", {"a": 2})
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert (tmp_path / "x.json").read_text() == '{\n "a": 1\n}\n'
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write into .*file"):
        write_json(tmp_path / "file" / "x.json", {})


def test_files_are_readable_by_others(tmp_path):
    # Temporary files are private to their owner; a published file follows the umask.
    write_json(tmp_path / "x.json", {})
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "x.json").stat().st_mode & 0o777 == 0o666 & ~mask


def test_kill_during_a_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, "old")
    code = (
        "import os, signal, sys\nfrom invkit.core.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as t:\n t.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_text() == '"old"\n'


class _Bomb:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_a_checkpoint_with_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"x": _Bomb()}, tmp_path / "bad.pt")
    with pytest.raises(pickle.UnpicklingError):
        load_state(tmp_path / "bad.pt")
    assert not Path("executed").exists()


def test_state_survives(tmp_path):
    state = {"t": torch.rand(3), "n": 3, "inner": {"list": [torch.ones(1), 2.5]}}
    save_state(tmp_path / "x.pt", state)
    found = load_state(tmp_path / "x.pt")
    assert torch.equal(found["t"], state["t"])
    assert found["inner"]["list"][1] == 2.5


def test_hashes_follow_content():
    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})
    assert config_hash(torch.arange(3)) != config_hash(torch.arange(4))
    assert plain({"p": Path("a"), "t": (torch.tensor(1.5),)}) == {"p": "a", "t": [1.5]}


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
