"""Large sets on disk: nothing finished is lost or made again, whatever interrupts."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

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
    sys.path.insert(0, {tests!r})
    import torch
    torch.set_num_threads(1)
    import invkit.engine.synthesis as s
    from invkit.testing import tiny_target
    from test_synthesis import invert

    written, point = [], int(sys.argv[2])

    def to_pil(image, real=s.to_pil):
        written.append(1)
        if len(written) == point:
            os.kill(os.getpid(), signal.SIGKILL)  # a temporary file is open now
        return real(image)

    s.to_pil = to_pil
    s.synthesise(tiny_target(), 12, Path(sys.argv[1]), invert, batch_size=4)
"""


def test_kill_9_loses_and_repeats_nothing(target, tmp_path, request):
    code = textwrap.dedent(KILLED.format(tests=str(request.path.parent)))
    folder = tmp_path / "killed"
    done = subprocess.run([sys.executable, "-c", code, str(folder), "7"], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert len(list((folder / "batches").glob("*.json"))) == 1
    assert not (folder / "manifest.json").exists()
    left = list((folder / "images").rglob(".*.png"))
    assert len(left) == 1  # the file that was being written has another name
    data = load_data(f"folder:{folder / 'images'}", channels=3)  # and no reader stumbles over it
    assert sum(len(p.labels) for p in (data.train, data.test, data.heldout)) == 6
    first = {p: t for p, t in times(folder / "images").items() if p.name.startswith("00000_")}
    assert len(first) == 4
    calls = []
    synthesise(target, 12, folder, lambda y, g: invert(y, g, calls), batch_size=4)
    assert len(calls) == 2
    assert {p: t for p, t in times(folder / "images").items() if p in first} == first
    synthesise(target, 12, tmp_path / "whole", invert, batch_size=4)
    whole, resumed = snapshot(tmp_path / "whole"), snapshot(folder)
    assert resumed == whole


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
