"""Pages made of recorded runs: numbers, tiles cut out of their pictures, and what a missing run leaves behind."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import invkit as ik
from invkit import show
from invkit.book.record_file import record
from invkit.show.picture import SHARPNESS, render_png

pytest.importorskip("myst_parser")
ROOT = Path(__file__).resolve().parents[2]
ROOM = 664  # CSS pixels for a picture of a recorded run in a window of 1300, which test_browser.py measures
LEAST = 42  # across a tile: an image of MNIST at one and a half times its size
FACTS = {"config": {}, "command": "make", "seeds": [0, 1], "seconds": 1, "device": "cpu"}
CONF = """
import sys
sys.path.insert(0, {ext!r})
extensions = ["myst_parser", "gallery"]
html_static_path = []
# Said, for Sphinx's own default is one dictionary that any build of this process may have changed.
source_suffix = {{".rst": "restructuredtext", ".md": "markdown"}}
def setup(app):
    app.add_config_value("recorded_dir", "recorded", "env", str)
"""
INDEX = """# Page

It reads {recorded}`deep :: 1 conv, * :: ResNet-44 top-1 :: .0%` of them.

```{depths} deep
```

```{ways} deep
:heads: cat, dog
```

```{ways} deep other
:heads: cat, dog

Of both runs, *one* below the other.
```

```{gallery} one two
```

The end.
"""
SCRIPT = f"CLASSES = {tuple(f'class {i}' for i in range(32))}\n"


def rows(size: int = 32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(2, 3, size, size, generator=generator) for name in ("images", "1 conv")}


@pytest.fixture
def folder(tmp_path):
    """A page with three recorded runs, in the form that the book's own have."""
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    (tmp_path / "conf.py").write_text(CONF.format(ext=str(ROOT / "book/_ext")))
    (tmp_path / "index.md").write_text(INDEX)
    (recorded / "one_setting.py").write_text(SCRIPT)
    sheet = show.image_rows(rows(), ["cat", "dog"], numbers={"1 conv": "20.0 dB"}, numbers_name="PSNR", scale=2)
    measured = {"1 conv, synthetic": {"PSNR": [19.0, 21.0], "ResNet-44 top-1": [0.7, 0.9]}}
    record("deep", title="Depths", measured=measured, figure=sheet, folder=recorded, **FACTS)
    record("other", title="Other <ways>", measured=measured, figure=sheet, folder=recorded, **FACTS)
    tiles = torch.rand(32, 3, 8, 8)
    for name in ("one", "two"):
        grid = show.image_grid(tiles, [f"class {i}" for i in range(32)], columns=4, scale=4)
        about = {"title": f"What net {name} has learnt", "measured": {"x": {"y": 1.0}}, "figure": grid}
        record(name, folder=recorded, **about, **FACTS)
    return tmp_path


@pytest.fixture
def build(folder):
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    def run() -> tuple[str, str]:
        warnings = io.StringIO()
        with docutils_namespace(), patch_docutils(folder):
            app = Sphinx(folder, folder, folder / "out", folder / "trees", "html", status=None, warning=warnings)
            app.build(force_all=True)
        return (folder / "out/index.html").read_text("utf8"), warnings.getvalue()

    yield run
    for name in ("gallery", "sheets"):
        sys.modules.pop(name, None)
    sys.path[:] = [entry for entry in sys.path if entry != str(ROOT / "book/_ext")]


def test_numbers_and_pictures_come_from_the_runs(folder, build):
    page, warnings = build()
    assert warnings == ""
    assert "It reads" in page
    assert ">80%<" in page
    slider = page[page.index('class="inv-frames"') :]
    assert "block 1 of 1: 20.0 dB, recognised 80%" in slider
    assert "base64" not in page, "large pictures are files of their own"
    moved = re.findall(r'"(?:\./)?(_static/pictures/[^"]+)"', page)
    assert len(moved) == 2
    assert all((folder / "out" / file).is_file() for file in moved)
    assert page.count('class="inv-pair"') == 32
    assert 'alt="class 31, drawn from net two"' in page
    assert 'alt="dog: 1 conv: PSNR 20.0 dB"' in page
    files = re.findall(r'src="([^"]*tiles/[^"]+)"', page)
    assert len(files) == 2 * 32 + 4 + 8
    assert page.count('scope="colgroup"') == 2, "of two runs each is headed by its title, one run is not"
    assert 'scope="colgroup" colspan="3"><span>Other &lt;ways&gt;</span></th></tr><tr><td></td><th scope="col">' in page
    heads = re.findall(r"<thead>(.*?)</thead>", page)
    assert [head.count('scope="col"') for head in heads] == [2, 2, 2], "paper repeats a head on its next page"
    assert page.count("Of both runs, <em>one</em> below the other.") == 1
    assert re.search(r"</table></div>\s*<figcaption>\s*<p><span class=\"caption-text\">Of both runs", page)
    assert '<th scope="row">1 conv <span>PSNR 20.0 dB</span></th>' in page
    for file in files:
        assert Image.open(folder / "out" / file).size[0] > 8


def test_ways_of_a_tall_table_are_columns_with_the_same_images(folder, build):
    (folder / "index.md").write_text("# Page\n\n```{ways} deep\n:heads: cat, dog\n:tall:\n```\n")
    page, warnings = build()
    assert warnings == ""
    table = page[page.index('<table class="inv-ways inv-tall">') : page.index("</table>")]
    assert re.findall(r'<th scope="col">(.*?)</th>', table) == [
        "images <span></span>",
        "1 conv <span>PSNR 20.0 dB</span>",
    ]
    assert re.findall(r'<th scope="row">(.*?)</th>', table) == ["cat", "dog"]
    alts = re.findall(r'alt="([^"]+)"', table)
    assert alts == ["cat: images", "cat: 1 conv: PSNR 20.0 dB", "dog: images", "dog: 1 conv: PSNR 20.0 dB"]


def test_a_missing_run_leaves_a_sentence_and_the_rest_of_the_page(folder, build):
    for file in (folder / "recorded").glob("[dt]*"):
        file.unlink()
    page, warnings = build()
    assert page.count("The recorded run deep is missing here.") == 3
    assert "two" in page
    assert "is missing here" in page
    assert "The end." in page
    assert warnings.count("is missing here") == 5


def test_a_missing_picture_leaves_a_sentence_that_names_the_run(folder, build):
    (folder / "recorded/deep.png").unlink()
    page, warnings = build()
    assert "The recorded run deep cannot be shown here:" in page
    assert "The end." in page
    assert "is missing or not the picture of this run" in warnings


def test_an_unknown_number_says_what_is_missing(folder, build):
    (folder / "index.md").write_text("# Page\n\nIt reads {recorded}`deep :: nobody :: PSNR :: .0f`.\n")
    page, warnings = build()
    assert re.search(r"The recorded run deep cannot be shown here: \W+nobody", page)
    assert "nobody" in warnings


@pytest.mark.parametrize("size", [16, 32])
def test_tiles_are_cut_where_the_sheet_has_them(build, size):
    build()  # brings the extension's folder into the path
    import gallery
    import sheets

    images = rows(size)
    sheet = show.image_rows(images, numbers={"1 conv": 0.5}, numbers_name="share", scale=48 / size)
    columns, names = sheets.parse_rows(sheet.alt)
    assert (columns, names) == (2, ["images", "1 conv: share 0.5"])
    cut = sheets.cut_rows(render_png(sheet), 2, columns)
    for name, tiles in zip(images, cut, strict=True):
        for image, tile in zip(images[name], tiles, strict=True):
            inner = (slice(None), slice(1, -1), slice(1, -1))  # the outermost pixels lie below the tile's frame
            torch.testing.assert_close(gallery.pixels(tile, size)[inner], image[inner], atol=1 / 255, rtol=0)
    with pytest.raises(ValueError, match="not one of 5 rows of 3 square images"):
        sheets.cut_rows(render_png(sheet), 5, 3)


def test_tiles_of_recorded_sheets_are_large_enough_to_be_seen(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book/_ext"))
    import sheets

    shown = {}
    for path in (ROOT / "book/recorded").glob("*.json"):
        alt = json.loads(path.read_text("utf8"))["alt"]
        if not sheets.ROWS.match(alt):
            continue
        columns, names = sheets.parse_rows(alt)
        file = next(file for kind in ("png", "webp") if (file := path.with_suffix(f".{kind}")).is_file())
        sheet = Image.open(file)
        layout = sheets.laid_out(sheet, len(names), columns)
        shown[path.stem] = layout.tile * min(1, ROOM * SHARPNESS / sheet.width)
    sys.modules.pop("sheets")
    assert len(shown) > 40
    assert {name: size for name, size in shown.items() if size < LEAST} == {}


def test_every_call_of_the_cheat_sheet_is_there():
    page = (ROOT / "book/methods.md").read_text("utf8")
    calls = re.findall(r"`ik\.(\w+)\(", page)
    assert len(calls) >= 10
    assert [name for name in calls if not callable(getattr(ik, name, None))] == []
