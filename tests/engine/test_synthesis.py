"""Large sets on disk: nothing finished is lost or made again, whatever interrupts."""

import errno
import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch

from invkit.core.files import atomic_path
from invkit.core.results import InversionResult
from invkit.data.datasets import load_data
from invkit.data.images import load_image, quantise
from invkit.engine.synthesis import synthesise


def invert(labels, generator, calls=None, **change):
    """Noise whose brightness tells the class; stands for any method."""
    if calls is not None:
        calls.append(labels.tolist())
    noise = 0.1 * torch.rand(len(labels), 3, 8, 8, generator=generator)
    fields = {
        "images": (labels / 5).view(-1, 1, 1, 1) + noise, "labels": labels, "history": {"total": (2.0, 1.0)},
        "best_step": 1, "config": {}, "seed": generator.initial_seed(), "seconds": 0.5, "device": "cpu",
        "stopped": "steps",
    }  # fmt: skip
    return InversionResult(**fields | change)


def snapshot(folder):
    """Content of every file by its path."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def times(folder):
    return {p: p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file()}


def test_images_labels_and_manifest(target, tmp_path):
    calls = []
    images = synthesise(target, 10, tmp_path, lambda y, g: invert(y, g, calls), batch_size=4)
    assert calls == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1]]
    assert images == tmp_path / "images"
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["target"] == "tiny"
    assert manifest["fingerprint"] == target.fingerprint()
    assert manifest["seconds"] == 1.5
    assert [row["label"] for row in manifest["images"]] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    files = [p.relative_to(images).as_posix() for p in images.rglob("*.png")]
    assert sorted(files) == sorted(row["file"] for row in manifest["images"])
    for row in manifest["images"]:
        brightness = float(load_image(images / row["file"]).mean())
        assert abs(brightness - row["label"] / 5 - 0.05) < 0.02


def test_the_folder_is_a_data_set(target, tmp_path):
    images = synthesise(target, 24, tmp_path, invert, batch_size=7)
    data = load_data(f"folder:{images}", channels=3)
    assert len(data.spec.classes) == 4
    parts = (data.train, data.test, data.heldout)
    assert sum(len(p.labels) for p in parts) == 24
    for part in parts:
        brightness = part.pixels.float().mean((1, 2, 3)) / 255
        assert torch.equal((5 * (brightness - 0.05)).round().long(), part.labels)


def test_files_hold_the_images_of_the_batch(target, tmp_path):
    made = []

    def keep(labels, generator):
        made.append(invert(labels, generator))
        return made[-1]

    images = synthesise(target, 4, tmp_path, keep, batch_size=4, classes=[2, 1])
    rows = json.loads((tmp_path / "manifest.json").read_text())["images"]
    assert [r["label"] for r in rows] == [2, 1, 2, 1]
    for row, image in zip(rows, made[0].images):
        assert torch.equal(load_image(images / row["file"])[0], quantise(image))


def test_batches_do_not_depend_on_each_other(target, tmp_path):
    seeds = {}

    def keep(labels, generator):
        result = invert(labels, generator)
        seeds.setdefault(len(seeds), result.seed)
        return result

    synthesise(target, 12, tmp_path / "a", keep, batch_size=4)
    assert len(set(seeds.values())) == 3
    synthesise(target, 12, tmp_path / "b", invert, batch_size=4, seed=1)
    a, b = snapshot(tmp_path / "a" / "images"), snapshot(tmp_path / "b" / "images")
    assert a.keys() == b.keys()
    assert not any(a[k] == b[k] for k in a)


def test_a_second_call_makes_nothing(target, tmp_path):
    calls = []
    synthesise(target, 8, tmp_path, invert, batch_size=4)
    before = times(tmp_path / "images")
    synthesise(target, 8, tmp_path, lambda y, g: invert(y, g, calls), batch_size=4)
    assert calls == []
    assert times(tmp_path / "images") == before


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from PIL import Image
    sys.path.insert(0, {tests!r})
    import torch
    import torchvision.transforms.v2  # once, and not in each process that is killed
    torch.set_num_threads(1)
    from invkit.engine.synthesis import synthesise
    from invkit.testing import tiny_target
    from test_synthesis import invert, snapshot

    target, room, moments = tiny_target(), Path(sys.argv[1]), []

    def moment():
        moments.append(1)
        if len(moments) == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def with_moments(real):
        def call(*args, **options):
            moment()
            result = real(*args, **options)
            moment()
            return result
        return call

    def half_first(path, text, real=Path.write_text, **options):
        real(path, text[: len(text) // 2], **options)
        moment()
        return real(path, text, **options)

    def run(name):
        # In a process of its own; says how it ended.
        process = os.fork()
        if process == 0:
            os.fsync, os.replace, Image.Image.save = map(with_moments, (os.fsync, os.replace, Image.Image.save))
            Path.write_text = half_first
            synthesise(target, 5, room / name, invert, batch_size=3)
            os._exit(0)
        return os.waitpid(process, 0)[1]

    point = 0
    assert run("whole") == 0
    while True:
        point += 1
        name = str(point)
        if run(name) != signal.SIGKILL:
            break
        kill, point = point, 0
        assert run(name) == 0
        assert snapshot(room / name) == snapshot(room / "whole"), kill
        point = kill
    print(point - 1)
"""


def test_kill_9_at_any_moment_changes_nothing_and_leaves_nothing(tmp_path, request):
    code = textwrap.dedent(KILLED.format(tests=str(request.path.parent)))
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, timeout=300, capture_output=True, text=True
    )
    files = 5 + 2 + 2  # images, records of batches, record and manifest
    assert int(done.stdout) == files * 4 + 5 * 2 + 4


def leave_behind(path):
    """What a process of this number that was killed while it wrote ``path`` has left."""
    with atomic_path(path) as temporary:
        left = temporary.with_name(temporary.name[: -8 - len(path.suffix)] + "0" * 8 + path.suffix)
        left.write_bytes(b"half")
        path.write_bytes(b"")
    path.unlink()
    return left


def test_what_a_killed_run_left_is_no_image_and_no_record(target, tmp_path):
    images = synthesise(target, 8, tmp_path, invert, batch_size=4)
    before, written = snapshot(tmp_path), times(tmp_path / "images")
    class_folder = images / "0000_class-0"
    left = [leave_behind(folder / name) for folder, name in (
        (class_folder, "x.png"), (tmp_path / "batches", "00001.x.json"), (tmp_path, "x.json"),
    )]  # fmt: skip
    data = load_data(f"folder:{images}", channels=3)
    assert sum(len(p.labels) for p in (data.train, data.test, data.heldout)) == 8
    assert all(path.exists() for path in left)
    synthesise(target, 8, tmp_path, invert, batch_size=4)
    assert snapshot(tmp_path) == before
    assert times(tmp_path / "images") == written


def test_a_deleted_or_empty_image_is_made_again(target, tmp_path):
    images = synthesise(target, 12, tmp_path, invert, batch_size=4)
    whole = snapshot(tmp_path)
    (images / "0002_class-2" / "00001_0002.png").unlink()
    (images / "0003_class-3" / "00002_0003.png").write_bytes(b"")
    calls = []
    synthesise(target, 12, tmp_path, lambda y, g: invert(y, g, calls), batch_size=4)
    assert len(calls) == 2
    assert snapshot(tmp_path) == whole


def test_files_of_others_are_left_alone(target, tmp_path):
    for place in ("", "images", "images/0000_class-0", "batches"):
        (tmp_path / place / ".ipynb_checkpoints").mkdir(parents=True)
        (tmp_path / place / ".ipynb_checkpoints" / "00000-checkpoint.json").write_text("{")
        (tmp_path / place / ".hidden.png").write_text("")
        (tmp_path / place / "notes.json").write_text("mine")
    before = snapshot(tmp_path)
    images = synthesise(target, 4, tmp_path, invert, batch_size=2)
    assert snapshot(tmp_path).items() >= before.items()
    assert len(json.loads((tmp_path / "manifest.json").read_text())["images"]) == 4
    data = load_data(f"folder:{images}", channels=3)
    assert sum(len(p.labels) for p in (data.train, data.test, data.heldout)) == 4


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": 3}', "null"])
@pytest.mark.parametrize("name", ["synthesis.json", "batches/00001.json"])
def test_a_damaged_record_is_named_before_any_work(target, tmp_path, name, content):
    synthesise(target, 8, tmp_path, invert, batch_size=4)
    (tmp_path / name).write_text(content)
    (tmp_path / "batches/00000.json").unlink()
    calls = []
    with pytest.raises(ValueError, match=rf"({name}.* (record|delete)|holds another synthesis)") as caught:
        synthesise(target, 8, tmp_path, lambda y, g: invert(y, g, calls), batch_size=4)
    assert "\n" not in str(caught.value)
    assert type(caught.value) is ValueError
    assert calls == []


@pytest.mark.parametrize(
    "change",
    [
        {"n_images": 9},
        {"batch_size": 2},
        {"seed": 1},
        {"classes": [0, 1]},
        {"config": {"lr": 0.2}},
        {"target": 1},
    ],
)
def test_another_synthesis_in_the_folder_is_refused(make_target, tmp_path, change):
    options = {"n_images": 8, "batch_size": 4, "seed": 0, "config": {"lr": 0.1}}
    synthesise(make_target(), folder=tmp_path, invert=invert, **options)
    before = snapshot(tmp_path)
    other = make_target(seed=change.pop("target", 0))
    name = next(iter(change), "fingerprint")
    with pytest.raises(ValueError, match=rf"holds another synthesis \(different: {name}"):
        synthesise(other, folder=tmp_path, invert=invert, **options | change)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("where", ["replace", "save"])
def test_a_full_disk_keeps_what_is_finished(target, tmp_path, monkeypatch, where):
    count = []

    def full(real):
        def write(*args, **options):
            if str(args[-1]).endswith(".png"):
                count.append(1)
            if len(count) == 6:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **options)

        return write

    if where == "replace":
        monkeypatch.setattr(os, "replace", full(os.replace))
    else:
        from PIL import Image

        monkeypatch.setattr(Image.Image, "save", full(Image.Image.save))
    says = r"cannot write .*\.png: No space left on device; what was finished before is kept"
    with pytest.raises(OSError, match=says) as caught:
        synthesise(target, 12, tmp_path, invert, batch_size=4)
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    kept = snapshot(tmp_path)
    assert [k for k in kept if k.startswith("batches/")] == ["batches/00000.json"]
    assert not [k for k in kept if k.split("/")[-1].startswith(".")]
    calls = []
    synthesise(target, 12, tmp_path, lambda y, g: invert(y, g, calls), batch_size=4)
    assert len(calls) == 2
    assert snapshot(tmp_path).items() >= {k: v for k, v in kept.items() if k != "manifest.json"}.items()


def test_a_folder_that_cannot_be_written(target, tmp_path):
    (tmp_path / "file").write_text("")
    calls = []
    with pytest.raises(OSError, match=r"cannot write into .*file"):
        synthesise(target, 4, tmp_path / "file", lambda y, g: invert(y, g, calls))
    assert calls == []  # found before any work


@pytest.mark.parametrize(
    "change",
    [{"stopped": "the term 'tv' became nan at step 3"}, {"images": torch.full((4, 3, 8, 8), torch.nan)}],
)
def test_a_batch_that_failed_is_not_kept(target, tmp_path, change):
    def fail(labels, generator):
        return invert(labels, generator, **(change if (tmp_path / "batches/00000.json").exists() else {}))

    with pytest.raises(RuntimeError, match="batch 1 was not kept"):
        synthesise(target, 8, tmp_path, fail, batch_size=4)
    assert [p.name for p in (tmp_path / "batches").iterdir()] == ["00000.json"]
    assert len(list((tmp_path / "images").rglob("*.png"))) == 4


def test_an_interrupted_batch_is_not_finished(target, tmp_path):
    def cut(labels, generator):
        stopped = "interrupted" if (tmp_path / "batches/00000.json").exists() else "steps"
        return invert(labels, generator, stopped=stopped)

    with pytest.raises(KeyboardInterrupt):
        synthesise(target, 8, tmp_path, cut, batch_size=4)
    assert [p.name for p in (tmp_path / "batches").iterdir()] == ["00000.json"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"n_images": 0}, "n_images"),
        ({"batch_size": 0}, "batch_size"),
        ({"classes": [4]}, r"labels \[4\]"),
        ({"classes": []}, "empty"),
    ],
)
def test_nonsense_is_refused_before_anything_is_written(target, tmp_path, change, says):
    options = {"n_images": 4, "batch_size": 2} | change
    with pytest.raises(ValueError, match=says):
        synthesise(target, folder=tmp_path / "new", invert=invert, **options)
    assert not (tmp_path / "new").exists()


def test_images_that_no_file_can_hold_are_refused_at_once(make_target, tmp_path):
    calls = []
    with pytest.raises(ValueError, match="1 or 3 channels"):
        synthesise(make_target(channels=2), 4, tmp_path, lambda y, g: invert(y, g, calls))
    assert calls == []


def test_a_batch_of_the_wrong_size_is_named(target, tmp_path):
    with pytest.raises(ValueError, match=r"3 images for 4 labels"):
        synthesise(target, 4, tmp_path, lambda y, g: invert(y[:3], g), batch_size=4)


def test_with_deep_inversion(target, tmp_path):
    from invkit.methods.deepinversion import DeepInversionConfig, deep_inversion

    config = DeepInversionConfig.for_profile("ci", steps=3)
    images = synthesise(
        target,
        5,
        tmp_path,
        lambda y, g: deep_inversion(target, y, config, generator=g),
        batch_size=3,
        config=config,
    )
    assert len(list(images.rglob("*.png"))) == 5
    record = json.loads((tmp_path / "batches/00001.json").read_text())
    assert record["labels"] == [3, 0]
    assert "total" in record["loss"]
