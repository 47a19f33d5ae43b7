"""Data sets: splits, statistics, resizing, batches, augmentation, and every way a set can be wrong."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from invkit.core.rng import seeded
from invkit.data.batching import batches
from invkit.data.datasets import DataSet, Split, channel_statistics, load_data
from invkit.data.images import fit_pixels

DATA = Path(os.environ.get("INVKIT_DATA", ""))


def npz(path: Path, **changes: object) -> Path:
    rng = np.random.default_rng(0)
    arrays: dict[str, object] = {}
    for part, count in (("train", 12), ("test", 6)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, 10, 10), dtype=np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count) % 3).astype(np.uint8).reshape(-1, 1)
    arrays |= changes
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})  # type: ignore[arg-type]
    return path


def folder(root: Path, count: int = 6, mode: str = "RGB", size: tuple[int, int] = (9, 9), classes: str = "ab") -> Path:
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            shape = (size[1], size[0]) + ((3,) if mode == "RGB" else ())
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(root / name / f"{i}.png")
    return root


def scans(data: DataSet) -> list[bytes]:
    return sorted(bytes(row.numpy()) for s in (data.train, data.test, data.heldout) for row in s.pixels.flatten(1))


def test_digits_are_whole_disjoint_and_balanced() -> None:
    data = load_data("digits")
    sizes = [len(s) for s in (data.train, data.test, data.heldout)]
    assert sum(sizes) == 1797
    assert sizes[0] > 1190
    assert data.spec.shape == (1, 16, 16)
    assert data.spec.classes == tuple("0123456789")
    for split in (data.train, data.test, data.heldout):
        assert split.images.min() >= 0
        assert split.images.max() <= 1
        assert split.pixels.dtype == torch.uint8
        counts = split.labels.bincount(minlength=10)
        assert counts.max() - counts.min() <= 0.1 * counts.max() + 1
    other = load_data("digits", seed=5)
    assert scans(data) == scans(other)  # another division of the same 1,797: nothing lost, nothing twice
    torch.testing.assert_close(torch.tensor(data.spec.mean), data.train.images.mean((0, 2, 3)), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        torch.tensor(data.spec.std), data.train.images.std((0, 2, 3), correction=0), atol=1e-5, rtol=0
    )


def test_digits_are_small_scans_enlarged() -> None:
    """17 grey levels on 8x8 pixels, and no more than these 64 numbers in the 256 of an enlarged one."""
    assert len(load_data("digits", size=8).train.pixels.unique()) <= 17
    enlarged = load_data("digits", size=16).train.images.flatten(1).double()
    values = torch.linalg.svdvals(enlarged)
    # Beyond 64 there is the rounding to 256 levels, a third of a level for each value.
    assert float(values[64:].square().sum() / enlarged.numel()) ** 0.5 < 0.35 / 255


def test_digits_follow_the_seed_and_the_size() -> None:
    one, same, other = (load_data("digits", seed=s, size=8) for s in (0, 0, 1))
    assert torch.equal(one.train.pixels, same.train.pixels)
    assert one.spec == same.spec
    assert not torch.equal(one.train.labels, other.train.labels)
    assert one.spec.size == (8, 8)
    assert load_data("digits", size=(32, 24)).spec.size == (32, 24)
    assert set((one.train.images * 16).round(decimals=1).unique().tolist()) <= set(range(17))  # the scans' own levels


def test_limit_is_balanced_and_splits_can_be_picked_apart() -> None:
    data = load_data("digits", limit=50)
    assert [len(s) for s in (data.train, data.test, data.heldout)] == [50, 50, 50]
    assert data.train.labels.bincount().tolist() == [5] * 10
    assert data.train.of_class(3).labels.tolist() == [3] * 5
    assert data.train.per_class(2).labels.tolist() == [c for c in range(10) for _ in range(2)]
    assert len(data.train[:7]) == 7


def test_npz_grey_colour_float_and_validation(tmp_path: Path) -> None:
    data = load_data(f"npz:{npz(tmp_path / 'a.npz')}")
    assert data.spec.shape == (1, 10, 10)
    assert data.spec.classes == ("0", "1", "2")
    assert len(data.train) + len(data.heldout) == 12
    assert len(data.test) == 6
    rng = np.random.default_rng(1)
    colour = {f"{p}_images": rng.random((n, 10, 12, 3)) for p, n in (("train", 12), ("test", 6), ("val", 3))}
    data = load_data(f"npz:{npz(tmp_path / 'b.npz', **colour, val_labels=np.array([0, 1, 2]))}")
    assert data.spec.shape == (3, 10, 12)
    assert len(data.heldout) == 3
    assert len(data.train) == 12
    expected = torch.from_numpy(colour["val_images"]).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(data.heldout.images, expected, atol=0.5 / 255 + 1e-6, rtol=0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"test_labels": None}, "lacks test_labels"),
        ({"train_labels": np.arange(5)}, "12 images but train_labels 5 labels"),
        ({"test_labels": np.full(6, 7)}, r"test_labels has \[7\], outside .* 0\.\.2"),
        ({"train_labels": np.full(12, -1)}, r"\[-1\]"),
        ({"train_labels": np.linspace(0, 1, 12)}, "must be integers"),
        ({"train_images": np.zeros((12, 10, 10, 2), np.uint8)}, "N, H, W, 3"),
        ({"train_images": np.zeros((12, 10, 10, 10, 3), np.uint8)}, "N, H, W, 3"),
        ({"train_images": np.full((12, 10, 10), 300, np.int32)}, "uint8"),
        ({"train_images": np.full((12, 10, 10), np.nan)}, "uint8"),
        ({"test_images": np.zeros((6, 11, 10), np.uint8)}, "pass size="),
        ({"train_images": np.zeros((0, 10, 10), np.uint8)}, "0 images but"),
        ({"train_images": np.zeros((12, 0, 10), np.uint8)}, "without pixels"),
        ({"train_images": np.zeros((12, 10, 10), complex)}, "uint8"),
        ({"train_images": np.zeros((12, 10, 10), bool)}, "uint8"),
        ({"train_labels": np.full(12, 10**9)}, "train_labels go up to 1000000000"),
        ({"test_labels": np.full(6, 2**63, np.uint64)}, "test_labels go up to"),
        ({"train_labels": np.array(list("abcabcabcabc"))}, "must be integers"),
        ({"train_labels": np.zeros(12, bool)}, "must be integers"),
        ({"train_labels": np.eye(12, 3, dtype=int)}, "12 images but train_labels 36 labels"),
        ({"train_labels": None, "test_images": None}, "lacks train_labels, test_images"),
    ],
)
def test_npz_errors(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    path = npz(tmp_path / "bad.npz", **changes)
    with pytest.raises(ValueError, match=says) as error:
        load_data(f"npz:{path}")
    assert "bad.npz" in str(error.value)
    assert "\n" not in str(error.value)


class Trap:
    ran = False

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (setattr, (Trap, "ran", True))  # type: ignore[return-value]


def test_npz_with_code_or_garbage_is_refused(tmp_path: Path) -> None:
    npz(tmp_path / "code.npz", train_images=np.array([Trap()] * 12, dtype=object))
    with pytest.raises(ValueError, match="pickled objects"):
        load_data(f"npz:{tmp_path / 'code.npz'}")
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps([1, 2]))
    (tmp_path / "garbage.npz").write_bytes(b"PK\x03\x04nothing")
    (tmp_path / "short.npz").write_bytes(npz(tmp_path / "whole.npz").read_bytes()[:900])
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    for name in ("pickle", "garbage", "short", "empty", "array"):
        with pytest.raises(ValueError, match=rf"{name}\.npz could not be read"):
            load_data(f"npz:{tmp_path / f'{name}.npz'}")
    assert not Trap.ran
    with pytest.raises(FileNotFoundError, match="no file"):
        load_data("npz:/nowhere/x.npz")


def test_folder_flat_and_divided(tmp_path: Path) -> None:
    data = load_data(f"folder:{folder(tmp_path / 'flat', count=12)}")
    assert data.spec.shape == (3, 9, 9)
    assert data.spec.classes == ("a", "b")
    assert [len(s) for s in (data.train, data.test, data.heldout)] == [16, 4, 4]
    for part, count in (("train", 10), ("test", 3), ("val", 2)):
        folder(tmp_path / "parts" / part, count=count, mode="L")
    (tmp_path / "parts" / "train" / ".cache").mkdir()
    data = load_data(f"folder:{tmp_path / 'parts'}", size=8)
    assert data.spec.shape == (1, 8, 8)
    assert [len(s) for s in (data.train, data.test, data.heldout)] == [20, 6, 4]
    with Image.open(tmp_path / "parts" / "test" / "b" / "2.png") as last:
        native = load_data(f"folder:{tmp_path / 'parts'}")
        assert torch.equal(native.test.pixels[-1, 0], torch.from_numpy(np.array(last)))


def test_folder_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        load_data("folder:/nowhere/at/all")
    (tmp_path / "empty" / "a").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no images in .*empty"):
        load_data(f"folder:{tmp_path / 'empty'}")
    mixed = folder(folder(tmp_path / "mixed", mode="L", classes="a"), classes="b")
    with pytest.raises(ValueError, match=r"1 channels but .* has 3; pass channels="):
        load_data(f"folder:{mixed}")
    assert load_data(f"folder:{mixed}", channels=1).spec.channels == 1
    sizes = folder(folder(tmp_path / "sizes", classes="a"), classes="b", size=(12, 9))
    with pytest.raises(ValueError, match="pass size="):
        load_data(f"folder:{sizes}")
    assert load_data(f"folder:{sizes}", size=9).spec.size == (9, 9)
    broken = folder(tmp_path / "broken")
    (broken / "a" / "3.png").write_bytes((broken / "a" / "3.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"3\.png is not a readable image"):
        load_data(f"folder:{broken}")
    folder(tmp_path / "other" / "train")
    folder(tmp_path / "other" / "test", classes="c")
    with pytest.raises(ValueError, match=r"classes that .*train lacks: c"):
        load_data(f"folder:{tmp_path / 'other'}")


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for i in range(6):
        Image.fromarray(np.full((8, 8), 65535 // 2, np.uint16)).save(tmp_path / "a" / f"{i}.png")
    assert load_data(f"folder:{tmp_path}").train.pixels.unique().tolist() == [127]


def test_unknown_and_absent_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no data set 'mnits'; known are digits, mnist"):
        load_data("mnits")
    for name in ("mnist", "fashion-mnist", "svhn", "cifar10", "celeba", "imagenet-val"):
        with pytest.raises(
            FileNotFoundError, match=f"{name} is not there: looked in .*{tmp_path.name}.*folder="
        ) as error:
            load_data(name, folder=tmp_path)
        assert "\n" not in str(error.value)
    monkeypatch.setenv("INVKIT_DATA", str(tmp_path / "by_variable"))
    with pytest.raises(FileNotFoundError, match="by_variable"):
        load_data("svhn")
    npz(tmp_path / "mnist.npz")
    assert load_data("mnist", folder=tmp_path).spec.mean == (0.1307,)
    for options in ({"limit": 0}, {"channels": 2}, {"size": 0}, {"size": (3, 0)}):
        with pytest.raises(ValueError, match=next(iter(options))):
            load_data("digits", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"name": None}, {"name": 3}, {"name": Path("digits")}, {"name": "folder:"}, {"size": "16"}, {"size": 16.5},
        {"size": (8, 8, 8)}, {"size": (8.5, 8)}, {"size": True}, {"limit": 2.5}, {"limit": "3"}, {"seed": 1.5},
        {"seed": "a"}, {"seed": None}, {"seed": 2**70}, {"channels": "1"},
    ],
    ids=str,
)  # fmt: skip
def test_options_of_another_kind_are_named(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^(there is no data set|" + next(iter(options)) + ")") as error:
        load_data(**{"name": "digits"} | options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_sets_of_one_class_and_of_one_image(tmp_path: Path) -> None:
    one = load_data(f"folder:{folder(tmp_path / 'one', count=9, classes='a')}")
    assert one.spec.classes == ("a",)
    assert [len(s) for s in (one.train, one.test, one.heldout)] == [6, 2, 1]
    single = load_data(f"folder:{folder(tmp_path / 'single', count=1)}")
    assert [len(s) for s in (single.train, single.test, single.heldout)] == [2, 0, 0]


def test_splits_refuse_what_does_not_fit() -> None:
    pixels = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="label per image"):
        Split(pixels=pixels, labels=torch.zeros(2, dtype=torch.long))
    split = Split(pixels=pixels, labels=torch.arange(3))
    assert split[1].labels.tolist() == [1]
    assert split[-1].pixels.shape == (1, 1, 4, 4)
    with pytest.raises(ValueError, match="count"):
        split.per_class(-1)
    for wrong in (pixels.float(), pixels[0], pixels[:0]):
        with pytest.raises(ValueError, match="pixels must be uint8"):
            channel_statistics(wrong)


def test_torchvision_layout(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 40), ("t10k", 10)):
        pixels = (np.arange(count * 784) % 251).astype(np.uint8)
        header = b"".join(n.to_bytes(4, "big") for n in (2051, count, 28, 28))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        header = b"".join(n.to_bytes(4, "big") for n in (2049, count))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + bytes(i % 10 for i in range(count)))
    data = load_data("mnist", folder=tmp_path)
    assert data.spec.shape == (1, 28, 28)
    assert [len(s) for s in (data.train, data.test)] == [40 - len(data.heldout), 10]
    assert torch.equal(data.test.pixels.flatten(), (torch.arange(7840) % 251).byte())
    assert data.test.labels.tolist() == list(range(10))


def test_resizing_crops_the_centre() -> None:
    wide = torch.zeros(1, 1, 8, 16, dtype=torch.uint8)
    wide[..., 4:12] = 200
    assert fit_pixels(wide, (4, 4)).unique().tolist() == [200]
    assert fit_pixels(wide, (8, 16)) is wide
    assert fit_pixels(wide, None) is wide


def test_statistics_by_hand() -> None:
    pixels = torch.tensor([0, 255, 255, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    assert channel_statistics(pixels) == ((0.75,), (round(0.1875**0.5, 6),))
    assert channel_statistics(torch.zeros(1, 1, 2, 2, dtype=torch.uint8))[1][0] > 0


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 40), size=st.integers(1, 50), drop=st.booleans())
def test_batches_cover_each_image_once(count: int, size: int, drop: bool) -> None:
    images, labels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1), torch.arange(count)
    got = list(batches(images, labels, size, seeded(0), drop_last=drop))
    seen = torch.cat([b for _, b in got])
    expected = count - count % size if drop and count >= size else count
    assert len(seen) == len(seen.unique()) == expected
    assert all(x.is_floating_point() and torch.equal((x.flatten() * 255).round().long(), y) for x, y in got)
    assert torch.equal(torch.cat([b for _, b in batches(images, labels, size, seeded(0), drop_last=drop)]), seen)


def test_batches_refuse_nonsense() -> None:
    images, labels = torch.zeros(3, 1, 2, 2), torch.zeros(3)
    for arguments in (
        (images, labels[:2], 1, seeded(0)),
        (images, labels, 0, seeded(0)),
        (images, labels, 1, None),
        (images, labels, 1.5, seeded(0)),
        ([1, 2, 3], labels, 1, seeded(0)),
    ):
        with pytest.raises(ValueError, match=r"needs? a|must be tensors"):
            next(batches(*arguments))
    assert len(list(batches(images, labels, 2, shuffle=False))) == 2
