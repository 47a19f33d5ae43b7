"""Image files: one way from a file to pixels, levels that survive it, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from invkit.core.rng import seeded
from invkit.data.datasets import load_data
from invkit.data.images import from_pil, load_image, quantise, read_pixels, to_pil, to_pixels


def noise_file(path: Path, shape: tuple[int, ...] = (23, 40, 3)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(9, 9), (30, 7), (50, 60)])
def test_an_image_alone_and_in_a_folder_is_the_same(tmp_path: Path, channels: int, size: tuple[int, int]) -> None:
    for name in ("a", "b"):
        for k in range(6):
            file = noise_file(tmp_path / name / f"{k}.png")
    data = load_data(f"folder:{tmp_path}", size=size, channels=channels)
    assert torch.equal(load_image(file, channels, size), data.train.images[:1])


def test_resizing_averages_what_it_leaves_out(tmp_path: Path) -> None:
    stripes = (255 * (np.arange(64) % 2)).astype(np.uint8)
    Image.fromarray(np.tile(stripes, (64, 1))).save(tmp_path / "x.png")
    small = load_image(tmp_path / "x.png", 1, (8, 8))
    torch.testing.assert_close(small, torch.full_like(small, 0.5), atol=0.03, rtol=0)


def test_a_file_gives_back_the_rounded_image(tmp_path: Path) -> None:
    image = 1.4 * torch.rand(3, 8, 8, generator=seeded(0)) - 0.2
    to_pil(image).save(tmp_path / "x.png")
    assert torch.equal(load_image(tmp_path / "x.png")[0], quantise(image))
    assert torch.equal(from_pil(to_pil(image), 3), quantise(image))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_grey_or_colour(mode: str) -> None:
    image = Image.new(mode, (5, 4))
    native = 1 if mode in ("1", "L", "LA", "I;16") else 3
    for channels, expected in ((1, 1), (3, 3), (None, native)):
        pixels = to_pixels(image, channels)
        assert pixels.dtype == torch.uint8
        assert pixels.shape == (expected, 4, 5)


@pytest.mark.parametrize(
    "image", [torch.rand(2, 4, 4), torch.rand(4, 4), torch.rand(1, 3, 4, 4), torch.ones(3, 4, 4).int()]
)
def test_what_no_file_can_hold_is_refused(image: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"1 or 3 channels, not torch\..*\("):
        to_pil(image)


def test_files_that_are_no_images(tmp_path: Path) -> None:
    whole = noise_file(tmp_path / "whole.png").read_bytes()
    with pytest.raises(FileNotFoundError, match=r"no image at .*none\.png"):
        load_image(tmp_path / "none.png")
    for content in (b"", b"text", whole[: len(whole) // 2], whole[:40]):
        (tmp_path / "bad.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.png is not a readable image"):
            load_image(tmp_path / "bad.png")
    with pytest.raises(ValueError, match="is not a readable image"):
        read_pixels(tmp_path)
    with pytest.raises(ValueError, match="1 or 3 channels, not 2"):
        load_image(tmp_path / "whole.png", 2)
    for size in (0, -1, "8", 2.5, True, (0, 4), (4,), (-1, 3), (4.0, 4), (1, 2, 3), "ab"):
        with pytest.raises(ValueError, match="size must be"):
            load_image(tmp_path / "whole.png", size=size)  # type: ignore[arg-type]
    assert load_image(tmp_path / "whole.png", size=4).shape == (1, 3, 4, 4)
    with pytest.raises(ValueError, match="image must be a PIL image, not a ndarray"):
        from_pil(np.zeros((3, 3)), 1)  # type: ignore[arg-type]
