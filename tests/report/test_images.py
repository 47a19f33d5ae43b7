"""Images as readers have them: what can be read is read, and what is left out is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.utils import save_image

import invkit as ik
from invkit.report import open_images

SPEC = ik.ImageSpec(channels=1, size=(16, 16), mean=(0.3,), std=(0.35,), classes=range(10))
COLOUR = ik.ImageSpec(channels=3, size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3, classes=("cat", "sea lion"))


def test_a_folder_with_both_parts(home):
    pair = open_images(f"folder:{home / 'images'}", "", SPEC)
    assert len(pair.train) == 20
    assert len(pair.heldout) == 40
    digits = ik.load_data("digits").train
    written = digits[torch.randperm(len(digits), generator=ik.seeded(1))[:20]]
    assert sorted(pair.train.labels.tolist()) == sorted(written.labels.tolist())
    sums = [sorted(pixels.flatten(1).sum(1).tolist()) for pixels in (pair.train.pixels, written.pixels)]
    assert sums[0] == sums[1]


def test_what_comes_in_one_piece_are_training_images_and_others_can_be_named(home):
    pair = open_images(f"folder:{home / 'images/train'}", f"folder:{home / 'images/test'}", SPEC)
    assert (len(pair.train), len(pair.heldout)) == (20, 40)
    assert open_images("", f"folder:{home / 'images/test'}", SPEC).train is None
    assert open_images("", "", SPEC).heldout is None


def test_unreadable_files_are_left_out_and_named(tmp_path):
    (tmp_path / "cat").mkdir()
    for name in "ab":
        save_image(torch.rand(3, 20, 12), tmp_path / "cat" / f"{name}.png")
    (tmp_path / "cat" / "broken.png").write_bytes(b"no image")
    pictures = open_images(f"folder:{tmp_path}", "", COLOUR).train
    assert pictures.pixels.shape == (2, 3, 8, 8)
    assert "1 of 3 files" in pictures.notes[-1]
    assert "broken.png" in pictures.notes[-1]


def test_nothing_readable_is_refused(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="none of the 1 images"):
        open_images(f"folder:{tmp_path}", "", SPEC)
    with pytest.raises(ValueError, match="no images in"):
        open_images(f"folder:{tmp_path / 'empty'}" if (tmp_path / "empty").mkdir() is None else "", "", SPEC)
    with pytest.raises(FileNotFoundError, match="no folder"):
        open_images(f"folder:{tmp_path / 'nowhere'}", "", SPEC)


def test_labels_go_by_the_names_of_the_classes(tmp_path):
    for folder in ("sea_lion", "Cat"):
        (tmp_path / folder).mkdir()
        save_image(torch.rand(3, 8, 8), tmp_path / folder / "a.png")
    assert open_images(f"folder:{tmp_path}", "", COLOUR).train.labels.tolist() == [0, 1]


def test_labels_of_other_classes_are_left_out_and_said(tmp_path):
    (tmp_path / "dog").mkdir()
    save_image(torch.rand(3, 8, 8), tmp_path / "dog" / "a.png")
    pictures = open_images(f"folder:{tmp_path}", "", COLOUR).train
    assert pictures.labels is None
    assert "'dog' are not among the 2 classes" in pictures.notes[0]


def test_images_without_folders_have_no_labels(tmp_path):
    save_image(torch.rand(3, 8, 8), tmp_path / "a.png")
    pictures = open_images(f"folder:{tmp_path}", "", COLOUR).train
    assert pictures.labels is None
    assert len(pictures) == 1


def test_grey_and_colour_are_turned_into_what_the_network_takes(tmp_path):
    file = tmp_path / "x.npz"
    pixels, labels = np.full((4, 16, 16, 3), 90, np.uint8), np.arange(4) % 2
    np.savez(file, train_images=pixels, train_labels=labels, test_images=pixels, test_labels=labels)
    assert open_images(f"npz:{file}", "", SPEC).train.pixels.unique().tolist() == [90]
    three = ik.ImageSpec(channels=3, size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3, classes=range(10))
    assert open_images("digits", "", three).heldout.pixels.shape[1] == 3


def test_many_images_are_drawn_from_and_the_same_ones_again():
    one, two = (open_images("digits", "", SPEC, most=30).train.pixels for _ in range(2))
    assert len(one) == 30
    assert torch.equal(one, two)
