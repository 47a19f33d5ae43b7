"""Sheets of images as a phone shows them: the same tiles and words, in more lines."""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from invkit import show
from invkit.show.grids import GAP, LINE, MARGIN
from invkit.show.picture import SHARPNESS, img_tag, render_png, webp

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture
def phone(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "book/_ext"))
    import phone

    yield phone
    for name in ("phone", "sheets", "ground"):
        sys.modules.pop(name, None)


def bright(count: int, size: int = 32) -> torch.Tensor:
    """Images of one colour each, no two alike."""
    levels = torch.linspace(0.1, 0.8, count).view(-1, 1, 1, 1)
    return torch.cat([levels, 0.9 - levels, torch.full_like(levels, 0.5)], 1).expand(-1, -1, size, size)


def drawn(phone, rows, labels=None, **options) -> tuple[Image.Image, Image.Image]:
    """The sheet as it was made, and as on a phone."""
    return both(phone, show.image_rows(rows, labels, columns=10, **options))


def both(phone, sheet) -> tuple[Image.Image, Image.Image]:
    wide = render_png(sheet)
    return Image.open(io.BytesIO(wide)), on_white(phone.forms_of(wide, sheet.alt).narrow)


def on_white(picture: bytes) -> Image.Image:
    """What is seen of a sheet without ground on a white page."""
    image = Image.open(io.BytesIO(picture))
    assert image.mode == "RGBA"
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def colour(sheet: Image.Image, x: float, y: float) -> list[int]:
    return list(sheet.convert("RGB").getpixel((round(SHARPNESS * x), round(SHARPNESS * y))))


def test_each_tile_is_there_in_its_order_below_the_name_of_its_row(phone):
    rows = {"real": bright(10), "inverted": bright(10).flip(0)}
    _, narrow = drawn(phone, rows, scale=1.5)
    side, step = 48, 48 + GAP  # five in a line, no words above the columns
    assert narrow.width / SHARPNESS == pytest.approx(MARGIN + 5 * step - GAP + MARGIN, abs=1), "margins are alike"
    for k, images in enumerate(rows.values()):
        top = MARGIN + LINE + k * (LINE + 2 * step + GAP)
        for i, image in enumerate(images):
            found = colour(narrow, MARGIN + i % 5 * step + side / 2, top + i // 5 * step + side / 2)
            assert found == pytest.approx((255 * image[:, 0, 0]).tolist(), abs=2)


def ink(picture: Image.Image, top: float, bottom: float, left: float = 0) -> int:
    light = np.asarray(picture.convert("L"))
    return int((light[round(SHARPNESS * top) : round(SHARPNESS * bottom), round(SHARPNESS * left) :] < 128).sum())


def test_words_above_the_columns_are_whole_though_wider_than_a_tile(phone):
    wide, narrow = drawn(phone, {"real": bright(10)}, CLASSES, scale=1)
    first = MARGIN + LINE  # below the row's name
    step = 1.5 * 32 + GAP + LINE
    above = [ink(narrow, first + line * step, first + line * step + LINE - 1) for line in (0, 1)]
    assert sum(above) == ink(wide, MARGIN, MARGIN + LINE - 1, left=100)
    assert min(above) > 0


@pytest.mark.parametrize("columns", [10, 9])
def test_a_sheet_much_wider_than_a_page_stands_in_two_bands_on_a_desk(phone, columns):
    rows = {"real": bright(columns), "inverted": bright(columns).flip(0)}
    sheet = show.image_rows(
        rows, CLASSES[:columns], columns=columns, scale=3.5, numbers_name="share", numbers={"real": 1}
    )
    wide = render_png(sheet)
    whole = Image.open(io.BytesIO(wide)).convert("RGB")
    folded = on_white(phone.forms_of(wide, sheet.alt).wide)
    layout = phone.laid_out(whole, 2, columns)
    half, step = -(-columns // 2), layout.tile + GAP
    assert folded.height == 2 * whole.height
    assert (whole.width - folded.width) / SHARPNESS == pytest.approx((columns - half) * step, abs=1)
    for k, images in enumerate(rows.values()):
        for i, image in enumerate(images):
            x, y = layout.place(k, i % half)
            middle = y + i // half * whole.height / SHARPNESS + layout.tile / 2
            assert colour(folded, x + layout.tile / 2, middle) == pytest.approx((255 * image[:, 0, 0]).tolist(), abs=4)
    height = whole.height / SHARPNESS
    beside, numbers = ink(whole, 0, height) - ink(whole, 0, height, layout.left - GAP), layout.left + half * step
    for top in (0, height):
        assert ink(folded, top, top + height) - ink(folded, top, top + height, layout.left - GAP) == pytest.approx(
            beside, abs=9
        )
    assert ink(folded, 0, height, numbers) == pytest.approx(ink(whole, 0, height, layout.left + columns * step), abs=9)
    assert (
        phone.add_forms(f'<img src="data:image/png;base64,{base64.b64encode(wide).decode()}" alt="{sheet.alt}">').count(
            "data:"
        )
        == 2
    )


def test_a_sheet_as_wide_as_a_page_stays_whole_on_a_desk(phone):
    sheet = show.image_rows({"real": bright(10)}, columns=10, scale=1.5)
    one = show.image_rows({"real": bright(1, 400)}, columns=1, scale=3)
    for whole in (render_png(sheet), sheet.alt), (render_png(one), one.alt):
        assert on_white(phone.forms_of(*whole).wide).size == Image.open(io.BytesIO(whole[0])).size


def test_rows_may_have_fewer_images_than_others(phone):
    _, narrow = drawn(phone, {"real": bright(10), "three": bright(3)}, numbers={"three": 0.5}, numbers_name="share")
    _, full = drawn(phone, {"real": bright(10), "ten": bright(10)}, numbers={"ten": 0.5}, numbers_name="share")
    assert narrow.height < full.height


def test_a_batch_of_images_keeps_its_order_in_more_lines(phone):
    _, narrow = both(phone, show.image_grid(bright(12), columns=10, scale=1.5))
    step = 48 + GAP  # five in a line
    assert narrow.width / SHARPNESS == pytest.approx(MARGIN + 5 * step - GAP + MARGIN, abs=1), "margins are alike"
    found = [colour(narrow, MARGIN + i % 5 * step + 24, MARGIN + i // 5 * step + 24)[0] for i in range(12)]
    assert found == pytest.approx((255 * bright(12)[:, 0, 0, 0]).tolist(), abs=2)
    assert round(narrow.height / SHARPNESS) == MARGIN + 3 * step + MARGIN - GAP


@pytest.mark.parametrize("scale", [1, 1.5])
def test_what_is_written_below_each_image_of_a_batch_stays_with_it(phone, scale):
    sheet = show.image_grid(bright(10), CLASSES, columns=10, captions=[f"0.{i}" for i in range(10)], scale=scale)
    wide, narrow = both(phone, sheet)
    below = MARGIN + 32 * scale + 2
    step = 48 + GAP + 2 * LINE  # five in a line; small tiles are enlarged
    for k in (0, 1):
        parts = [MARGIN + line * step + 48 + 2 + k * LINE for line in (0, 1)]
        found = [ink(narrow, top, top + LINE - 1) for top in parts]
        assert sum(found) == ink(wide, below + k * LINE, below + (k + 1) * LINE - 1)
        assert min(found) > 0
    middles = [MARGIN + i * (48 + GAP) + 24 for i in range(5)]
    dark = np.asarray(narrow.convert("L"))[round(2 * (MARGIN + 48 + 3 + LINE)) :][: 2 * LINE - 4] < 128
    columns = np.flatnonzero(dark.any(0)) / SHARPNESS
    nearest = [min(middles, key=lambda middle: abs(middle - column)) for column in columns]
    for middle in middles:  # each number below the middle of its own image
        own = columns[np.array(nearest) == middle]
        assert (own.min() + own.max()) / 2 == pytest.approx(middle, abs=2)


def test_of_large_images_two_stand_in_a_line(phone):
    sheet = show.image_grid(bright(4, 112), [f"class {i}" for i in range(4)], columns=4, scale=1.9)
    _, narrow = both(phone, sheet)
    tile = (phone.WIDTH - MARGIN) / 2 - GAP
    step = tile + GAP + LINE
    found = [colour(narrow, MARGIN + i % 2 * (tile + GAP) + 80, MARGIN + i // 2 * step + 80)[0] for i in range(4)]
    assert found == pytest.approx((255 * bright(4)[:, 0, 0, 0]).tolist(), abs=2)
    assert narrow.height / SHARPNESS == pytest.approx(MARGIN + 2 * step + MARGIN - GAP, abs=1)


def test_title_and_note_of_a_batch_are_written_anew(phone):
    images = bright(40)
    plain = both(phone, show.image_grid(images[:20], scale=1.5))[1]
    titled = both(phone, show.image_grid(images[:20], scale=1.5, title="A title"))[1]
    thinned = both(phone, show.image_grid(images, scale=1.5, limit=20))[1]
    assert titled.height - plain.height == SHARPNESS * (LINE + GAP)
    assert thinned.height - plain.height == SHARPNESS * LINE
    assert ink(titled, MARGIN, MARGIN + LINE)
    assert ink(thinned, thinned.height / SHARPNESS - MARGIN - LINE, thinned.height / SHARPNESS)


def test_what_fits_is_the_same_on_a_phone_and_what_is_no_sheet_of_images_stays_as_it_is(phone):
    small = show.image_rows({"real": bright(3)}, columns=3, scale=1)
    few = show.image_grid(bright(3))
    for sheet in (small, few):
        assert phone.forms_of(render_png(sheet), sheet.alt).narrow is None
    oblong = show.image_grid(bright(10)[..., :16], columns=10)
    assert phone.forms_of(render_png(oblong), oblong.alt) is None
    grid = render_png(show.image_grid(bright(10), columns=10))
    for alt in (
        "2 rows of up to 10 images: real; inverted.",
        "12 images in 2 rows of up to 6.",
        "Ten images.",
        "Curves.",
    ):
        assert phone.forms_of(grid, alt) is None
        page = img_tag(grid, alt)
        assert phone.add_forms(page) == page


SHEETS = {
    "rows": lambda: show.image_rows({"real": bright(10), "three": bright(3)}, CLASSES, columns=10, scale=1.5),
    "two bands": lambda: show.image_rows({"real": bright(9, 112)}, columns=9, scale=2),
    "grid": lambda: show.image_grid(bright(12), [f"class {i}" for i in range(12)], columns=6, scale=2, title="A title"),
}


@pytest.mark.parametrize("kind", SHEETS)
@pytest.mark.parametrize("form", ["wide", "narrow"])
def test_tiles_are_opaque_and_keep_their_pixels_and_words_nowhere_are(phone, kind, form):
    sheet = SHEETS[kind]()
    wide = render_png(sheet)
    forms = phone.forms_of(wide, sheet.alt)
    pixels = np.asarray(Image.open(io.BytesIO(getattr(forms, form))))
    opaque = pixels[..., 3] == 255
    known = phone.known_of(Image.open(io.BytesIO(wide)).convert("RGB"), sheet.alt)
    drawn_by = phone.for_desk if form == "wide" else phone.for_phone
    there = drawn_by(Image.open(io.BytesIO(wide)).convert("RGB"), known)
    inside = np.zeros(there.image.size[::-1], bool)
    for left, top, right, bottom in there.tiles:
        inside[top:bottom, left:right] = True
    inside = inside[: pixels.shape[0], : pixels.shape[1]]
    assert len(there.tiles) == sum(known.layout.counts)
    assert (opaque == inside).all()
    same = np.asarray(there.image)[: pixels.shape[0], : pixels.shape[1]]
    assert (pixels[..., :3] == same)[inside].all()
    ink = pixels[..., 3][~inside]
    assert 200 < ink.max() <= 222
    assert (ink == 0).mean() > 0.5, "the ground is gone"
    seen = np.asarray(on_white(getattr(forms, form))).astype(int)
    assert np.abs(seen - same).max() <= 11, "on white it looks as it did"


def test_a_sheet_on_a_page_says_that_it_has_no_ground_and_so_do_the_frames_of_a_slider(phone):
    sheet = show.image_rows({"real": bright(10)}, columns=10, scale=1.5)
    page = phone.add_forms(img_tag(webp(render_png(sheet)), sheet.alt))
    assert 'class="inv-clear"' in page
    assert "background" not in page
    slider = show.Frames.render(
        lambda step: show.image_rows({"real": bright(10 + step)}, columns=10), range(3), title="step"
    )
    html = phone.add_forms(slider._repr_html_())
    assert 'class="inv-clear"' in html
    later = [frame["src"] for frame in json.loads(phone.RECORDS.search(html)[1]) if "src" in frame]
    assert len(later) == 2
    for source in later:
        assert on_white(base64.b64decode(source.partition(",")[2])).size


def test_photographs_stored_with_a_little_loss_stay_small(phone):
    noise = torch.rand(4, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    sheet = show.image_rows({"real": noise}, columns=4)
    lossy, lossless = (webp(render_png(sheet), lossless=lossless) for lossless in (False, True))
    sizes = [len(phone.forms_of(picture, sheet.alt).wide) for picture in (lossy, lossless)]
    assert 2 * sizes[0] < sizes[1]


def test_pages_with_such_sheets_bring_the_filter_and_previews_a_ground(phone, tmp_path):
    import ground

    for body, count in (('<img class="inv-clear">', 1), ("<p>inv-clear</p>", 0)):
        context = {"body": body}
        ground.add_filter(None, "page", "page.html", context, None)
        assert context["body"].count('id="inv-light-ink"') == count
    sheet = show.image_rows({"real": bright(10)}, columns=10, scale=1.5)
    clear = phone.forms_of(render_png(sheet), sheet.alt).wide
    seen = ground.on_white(clear)
    assert seen.mode == "RGB"
    assert seen.getpixel((0, 0)) == (255, 255, 255)
    assert ground.on_white(render_png(sheet)) is None
