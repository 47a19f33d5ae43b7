"""Shapes, normalisation and 8-bit files."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from invkit.core.spec import ImageSpec
from invkit.data.images import from_pil, load_image, quantise, to_pil

SPEC = {
    "channels": 3,
    "size": (4, 6),
    "mean": (0.1, 0.2, 0.3),
    "std": (0.5, 0.25, 2.0),
    "classes": ("a", "b"),
}


def test_normalise_by_hand():
    spec = ImageSpec(**SPEC)
    images = torch.rand(2, 3, 4, 6, dtype=torch.float64)
    done = spec.normalise(images)
    for c in range(3):
        by_hand = (images[:, c] - SPEC["mean"][c]) / SPEC["std"][c]
        torch.testing.assert_close(done[:, c], by_hand, rtol=0, atol=1e-15)
    assert spec.shape == (3, 4, 6)
    assert spec.n_classes == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"channels": 0}, "channels"),
        ({"size": (4, 0)}, "size"),
        ({"size": (4, 4, 4)}, "size"),
        ({"mean": (0.1,)}, "one value per channel"),
        ({"std": (1.0, 0.0, 1.0)}, "std must be positive"),
        ({"std": (1.0, float("nan"), 1.0)}, "std must be positive"),
        ({"classes": ()}, "class"),
    ],
)
def test_nonsense_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        ImageSpec(**SPEC | change)


def test_numbers_of_numpy_become_plain_ones():
    spec = ImageSpec(
        channels=np.int64(1), size=(np.int64(4), np.int32(6)), mean=(np.float64(0.5),), std=[np.float32(0.25)],
        classes=np.array(["a", "b"]),
    )  # fmt: skip
    assert json.loads(json.dumps(spec.to_json())) == spec.to_json()
    assert spec == ImageSpec(channels=1, size=(4, 6), mean=(0.5,), std=(0.25,), classes=("a", "b"))
    assert {type(side) for side in spec.shape} == {int}
    assert type(spec.mean[0]) is type(spec.std[0]) is float
    assert {type(name) for name in spec.classes} == {str}


def test_class_names_are_words():
    assert ImageSpec(**SPEC | {"classes": range(3)}).classes == ("0", "1", "2")
    assert ImageSpec(**SPEC | {"classes": torch.arange(2)}).classes == ("0", "1")
    with pytest.raises(ValueError, match=r"classes .*'cat'"):
        ImageSpec(**SPEC | {"classes": "cat"})


def test_a_spec_is_frozen_and_survives_json():
    spec = ImageSpec(**SPEC)
    assert ImageSpec.from_json(spec.to_json()) == spec
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.channels = 1
    with pytest.raises(ValueError, match=r"missing: \['std'\]"):
        ImageSpec.from_json({k: v for k, v in spec.to_json().items() if k != "std"})


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (torch.rand(3, 4, 6), r"\(N, 3, 4, 6\)"),
        (torch.zeros(1, 3, 4, 6, dtype=torch.int64), "int64"),
        (torch.zeros(0, 3, 4, 6), r"\(0, 3, 4, 6\)"),
        (torch.full((1, 3, 4, 6), torch.nan), "finite"),
        (None, "None"),
        ("noise", "a str"),
        ([[0.5], [0.5, 0.5]], "a list"),
        (torch.rand(1, 1, 4, 6), "1 channels; the network takes 3"),
        (torch.rand(1, 3, 6, 4), r"\(6, 4\) pixels; the network takes \(4, 6\)"),
    ],
)
def test_images_that_do_not_fit(images, says):
    with pytest.raises(ValueError, match=f"init.*{says}"):
        ImageSpec(**SPEC).check(images, "init")


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([0, 2, -1], r"\[-1, 2\] are outside.*0\.\.1"),
        ([], "non-empty"),
        ([0.0, 1.0], "class indices"),
        ([[0, 1]], "class indices"),
        (None, "class indices"),
        (["a"], "class indices"),
    ],
)
def test_labels_that_do_not_fit(labels, says):
    with pytest.raises(ValueError, match=says):
        ImageSpec(**SPEC).check_labels(labels)


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.numpy(), lambda x: x.numpy()[::-1][::-1], lambda x: x.tolist(), lambda x: list(x),
        lambda x: x.double(), lambda x: x.clone().requires_grad_(), lambda x: x.double().numpy(),
    ],
    ids=["numpy", "backwards", "lists", "list of tensors", "float64", "with a graph", "numpy float64"],
)  # fmt: skip
def test_harmless_images_are_converted(convert):
    images = torch.rand(2, 3, 4, 6)
    checked = ImageSpec(**SPEC).check(convert(images))
    assert torch.equal(checked, images)
    assert checked.dtype == torch.float32
    assert not checked.requires_grad


def test_bytes_and_half_precision_are_converted():
    spec, levels = ImageSpec(**SPEC), torch.randint(256, (2, 3, 4, 6), dtype=torch.uint8)
    assert torch.equal(spec.check(levels), levels / 255)
    assert torch.equal(spec.check(levels.numpy()), levels / 255)
    assert spec.check(levels, keep_bytes=True) is levels
    half = torch.rand(2, 3, 4, 6).half()
    assert torch.equal(spec.check(half), half.float())


def test_what_fits_is_not_copied():
    images = torch.rand(2, 3, 4, 6)
    assert ImageSpec(**SPEC).check(images).data_ptr() == images.data_ptr()
    assert ImageSpec(**SPEC).check(images.double(), dtype=None).dtype == torch.float64


def test_labels_become_int64():
    labels = ImageSpec(**SPEC).check_labels(torch.tensor([1, 0], dtype=torch.uint8))
    assert labels.dtype == torch.int64
    assert labels.tolist() == [1, 0]


@pytest.mark.parametrize("channels", [1, 3])
def test_all_levels_survive_a_file(tmp_path, channels):
    levels = (torch.arange(256) / 255).view(1, 16, 16).expand(channels, 16, 16)
    to_pil(levels).save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as file:
        assert file.mode == ("L" if channels == 1 else "RGB")
        assert torch.equal(from_pil(file, channels), levels)
    assert torch.equal(load_image(tmp_path / "x.png", channels)[0], levels)


@given(st.integers(0, 255), st.floats(-0.49, 0.49))
def test_quantise_rounds_to_the_nearest_level(level, off):
    x = torch.tensor((level + off) / 255, dtype=torch.float64)
    assert abs(float(quantise(x)) * 255 - level) < 1e-9
    assert quantise(quantise(x)) == quantise(x)


def test_quantise_is_what_a_file_returns():
    x = torch.rand(3, 8, 8) * 1.4 - 0.2
    assert torch.equal(from_pil(to_pil(x), 3), quantise(x))


def test_load_image_crops_the_centre(tmp_path):
    pixels = np.zeros((10, 30, 3), dtype=np.uint8)
    pixels[:, 10:20] = (255, 0, 128)  # the central square
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    image = load_image(tmp_path / "wide.png", size=(5, 5))
    assert image.shape == (1, 3, 5, 5)
    expected = torch.tensor([1, 0, 128 / 255]).view(1, 3, 1, 1).expand_as(image)
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-6)


def test_load_image_names_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        load_image(tmp_path / "nowhere.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png is not a readable image"):
        load_image(tmp_path / "text.png")
    with pytest.raises(ValueError, match="1 or 3 channels, not 2"):
        from_pil(Image.new("RGB", (2, 2)), 2)
