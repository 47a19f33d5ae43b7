"""Files that are whole or not there, and one clear sentence where they cannot be."""

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from invkit.core.files import (
    atomic_path,
    digest,
    load_state,
    read_checkpoint,
    read_json,
    read_safetensors,
    read_weights,
    remove_unfinished,
    save_state,
    save_tensors,
    write_json,
)


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


KILLED = """
import os, signal, sys
from invkit.core.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_while_writing(path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -9


def test_kill_during_a_write_leaves_the_old_file_and_the_next_write_tidies_up(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("old")
    killed_while_writing(path)
    assert path.read_text() == "old"
    assert len(os.listdir(tmp_path)) == 2
    write_json(path, {})
    assert os.listdir(tmp_path) == ["x.json"]


def test_only_what_dead_processes_left_is_removed(tmp_path):
    (tmp_path / "deep").mkdir()
    killed_while_writing(tmp_path / "deep" / "x.txt")
    left = next((tmp_path / "deep").iterdir())
    names = [".hidden", ".x.unfinished", "x.unfinished-000000-1-00000000.txt"]
    pieces = left.name.split("-")
    alive, elsewhere = pieces.copy(), pieces.copy()
    alive[2], elsewhere[1] = str(os.getppid()), "0" * 6
    names += ["-".join(alive), "-".join(elsewhere)]
    for name in names:
        (tmp_path / "deep" / name).touch()
    (tmp_path / "deep" / ".ipynb_checkpoints").mkdir()
    assert remove_unfinished(tmp_path) == []
    with atomic_path(tmp_path / "deep" / "y.txt"):  # this process is at work here
        assert remove_unfinished(tmp_path, below=True) == []
    assert sorted(os.listdir(tmp_path / "deep")) == sorted([*names, ".ipynb_checkpoints", "y.txt"])


def test_a_process_number_that_came_round_again_is_no_excuse(tmp_path):
    # Processes in a container have the same numbers at each start.
    with atomic_path(tmp_path / "x.txt") as temporary:
        left = temporary.with_name(temporary.name[:-12] + "0" * 8 + ".txt")
        left.touch()
        assert remove_unfinished(tmp_path) == [left]
        assert temporary.exists()


class _Bomb:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_a_checkpoint_with_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"x": _Bomb()}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match=r"bad\.pt is not a readable checkpoint"):
        load_state(tmp_path / "bad.pt")
    assert not Path("executed").exists()


READERS = [load_state, read_checkpoint, read_weights, read_safetensors, read_json]


@pytest.mark.parametrize("read", READERS)
def test_what_cannot_be_read_is_told_in_one_sentence(tmp_path, read, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"there is no .* at .*none\.pt"):
        read(tmp_path / "none.pt")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        read(tmp_path)
    for content in (b"", b"nonsense", b"PK\x03\x04half a zip", b"\xff\xfe"):
        (tmp_path / "bad.pt").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.pt") as caught:
            read(tmp_path / "bad.pt")
        assert "\n" not in str(caught.value)
        assert type(caught.value) is ValueError

    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    for name in ("torch.load", "invkit.core.files.load_file", "pathlib.Path.read_text"):
        monkeypatch.setattr(name, denied)
    with pytest.raises(PermissionError, match=r"cannot read .*bad\.pt: Permission denied"):
        read(tmp_path / "bad.pt")


WRITERS = {
    "json": lambda path: write_json(path, {"a": 2 * ["word"] * 5000}),
    "state": lambda path: save_state(path, {"a": torch.rand(5000)}),
    "many": lambda path: save_state(path, {str(k): torch.rand(500) for k in range(30)}),
    "tensors": lambda path: save_tensors(path, {"a": torch.rand(5000)}),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_what_cannot_be_written_is_told_in_one_sentence(tmp_path, write, file_limit):
    path = tmp_path / "x.bin"
    path.write_text("old")
    with file_limit(5000), pytest.raises(OSError, match=r"cannot write .*x\.bin: File too large; what") as caught:
        write(path)
    assert caught.value.errno == errno.EFBIG
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.bin"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match=r"cannot write .*folder: it is a folder"):
        write(tmp_path / "folder")
    write(path)
    assert path.stat().st_size > 5000


def test_a_writer_that_is_at_fault_itself_says_so(tmp_path):
    with pytest.raises(RuntimeError, match="no data"):
        save_tensors(tmp_path / "x.safetensors", {"a": torch.empty(4, device="meta")})
    assert os.listdir(tmp_path) == []


def test_tensors_that_share_memory_are_written_each_in_full(tmp_path):
    base = torch.arange(6.0).view(2, 3)
    tensors = {"whole": base, "again": base, "row": base[1], "turned": base.T, "none": base[:0], "other": torch.ones(2)}
    save_tensors(tmp_path / "x.safetensors", tensors)
    loaded = read_safetensors(tmp_path / "x.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_a_checkpoint_without_its_fields_or_of_another_run(tmp_path):
    save_state(tmp_path / "x.pt", {"key": "a", "step": 1})
    assert read_checkpoint(tmp_path / "x.pt", "a", fields=("key", "step"))["step"] == 1
    with pytest.raises(ValueError, match=r"x\.pt .* lacks history, rates"):
        read_checkpoint(tmp_path / "x.pt", fields=("rates", "step", "history"))
    with pytest.raises(ValueError, match=r"x\.pt belongs to a run with another"):
        read_checkpoint(tmp_path / "x.pt", "b")
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"list\.pt .*holds a list"):
        read_checkpoint(tmp_path / "list.pt")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"list\.json .*holds a list"):
        read_json(tmp_path / "list.json")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.complex64, torch.bool])
def test_a_digest_of_every_type_and_shape(dtype):
    values = torch.arange(6).view(2, 3).to(dtype)
    other = values.clone()
    other[1, 2] = 0
    assert digest(values) == digest(values.clone()) != digest(other)
    assert digest(values.T) == digest(values.T.contiguous())
    assert digest(values[0, 1]) != digest(values[0, 0])
    assert digest(values[:0]) == digest()


def test_a_digest_is_that_of_the_bytes():
    values = torch.arange(6.0)
    assert digest(values, values[0]) == hashlib.sha256(values.numpy().tobytes() + bytes(4)).hexdigest()[:16]


def test_state_survives(tmp_path):
    state = {"t": torch.rand(3), "n": 3, "inner": {"list": [torch.ones(1), 2.5]}}
    save_state(tmp_path / "x.pt", state)
    found = load_state(tmp_path / "x.pt")
    assert torch.equal(found["t"], state["t"])
    assert found["inner"]["list"][1] == 2.5
