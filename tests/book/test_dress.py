"""What notebooks' outputs get on their way into a page: numbers, links, dots, folds and files."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from bs4 import BeautifulSoup

from invkit import show
from invkit.book.ledger.claims import Claims
from invkit.book.record_file import record
from invkit.book.recorded import load_recorded
from invkit.show.grids import GAP, MARGIN
from invkit.show.picture import css_size, render_png

EXTENSIONS = Path(__file__).resolve().parents[2] / "book/_ext"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, EXTENSIONS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_, sheets, phone, dressing = (load(name) for name in ("ground", "sheets", "phone", "dress"))


RECORDS = {("A run", "make run"): ["run_1", "run_1_front"]}


def page(html: str, *more: dict, **metadata) -> tuple[dict, str, dict]:
    """A cell with this output, its HTML and the files, after dressing."""
    output = {"output_type": "execute_result", "data": {"text/html": html}, "metadata": {}}
    cell = {"cell_type": "code", "id": "cell-9", "source": "x", "metadata": metadata, "outputs": [output, *more]}
    notebook, files = dressing.dress({"cells": [cell]}, "01_deepinversion", records=RECORDS)
    (cell,) = notebook["cells"]
    return cell, cell["outputs"][0]["data"]["text/html"], files


def rows(n: int) -> str:
    """The HTML of a table of so many rows over three seeds."""
    return show.table({f"row {i}": [{"psnr": i + k} for k in range(3)] for i in range(n)}, digits=1).to_html()


def slider() -> str:
    sheet = show.image_grid(torch.zeros(1, 1, 8, 8))
    return show.Frames.render(lambda _: sheet, [0, 1], title="depth $d$")._repr_html_()


def test_sliders_and_recorded_runs_are_numbered_and_captioned_by_their_titles(tmp_path):
    cell, *_ = page(slider())
    assert cell["metadata"]["mystnb"]["figure"] == {"name": "fig-01-cell-9", "caption": r"A slider: depth \$d\$."}
    facts = {"config": {}, "command": "make", "seeds": [0], "seconds": 1, "device": "cpu", "folder": tmp_path}
    record("run", title="What was done", measured={"ours": {"psnr": 20}}, **facts)
    cell, *_ = page(load_recorded("run", tmp_path)._repr_html_())
    assert cell["metadata"]["mystnb"]["figure"]["caption"] == "Recorded run. What was done."


def test_buttons_are_captioned_and_what_is_dragged_is_a_figure_whose_sheet_becomes_a_file():
    sheet = show.image_grid(torch.zeros(1, 1, 8, 8))
    cell, *_ = page(show.Choices.render(lambda _: sheet, ["off", "on"], title="attack")._repr_html_())
    assert cell["metadata"]["mystnb"]["figure"]["caption"] == "Buttons: attack."
    noise = torch.rand(40, 3, 16, 16)
    panes = show.drag(lambda a, b: {"noise": (noise, ["x"] * 40)}, "ab", noise[:2], name="end")
    cell, html, files = page(panes._repr_html_())
    assert dressing.is_figure(cell["outputs"][0])
    (name,) = files
    assert f'<img hidden loading="lazy" src="../_static/{name}" alt="all stops, shown by the panes">' in html


def test_a_caption_of_its_own_is_kept_and_two_outputs_are_no_figure():
    cell, *_ = page(slider(), mystnb={"figure": {"name": "fig-own", "caption": "Its own."}})
    assert cell["metadata"]["mystnb"]["figure"]["caption"] == "Its own."
    cell, *_ = page(slider(), {"output_type": "display_data", "data": {"text/plain": "x"}, "metadata": {}})
    assert "figure" not in cell["metadata"]["mystnb"]


def test_two_figures_of_a_cell_get_a_number_each():
    outputs = [{"output_type": "display_data", "data": {"text/html": slider()}, "metadata": {}} for _ in range(2)]
    cell = {"cell_type": "code", "id": "cell-9", "source": "x", "metadata": {}, "outputs": outputs}
    notebook, _ = dressing.dress({"cells": [cell]}, "01_deepinversion")
    first, second = notebook["cells"]
    assert [len(part["outputs"]) for part in (first, second)] == [1, 1]
    assert second["metadata"]["tags"] == ["remove-input"]
    names = {part["metadata"]["mystnb"]["figure"]["name"] for part in (first, second)}
    assert names == {"fig-01-cell-9", "fig-01-cell-9-1"}


def test_ids_of_claims_lead_to_the_scoreboard():
    claims = Claims("01_deepinversion", profile="ci")
    claims.untested("di.amp", "It needs a GPU.")
    _, html, _ = page(claims.table()._repr_html_())
    assert '<a href="../book/scoreboard.html#board-claim-di-amp"><code>di.amp</code></a>' in html
    assert f'data-claims="{claims.table().digest}"' in html


def test_a_table_of_more_than_ten_rows_is_drawn_with_its_rows_in_a_fold_and_as_files():
    _, html, files = page(rows(11))
    assert html.index('alt="Dots for 11 rows: PSNR from 1 (row 0) to 11 (row 10)."') < html.index("<details")
    assert "<summary>The numbers: 11 rows, from row 0 to row 10</summary>" in html
    assert html.count("<td") == 11 * 2
    assert 'download="" href="../_static/data/01_deepinversion-cell-9.csv"' in html
    assert files["data/01_deepinversion-cell-9.csv"].decode().splitlines()[:2] == ["images,PSNR", "row 0,1.0 ± 1.0"]
    assert json.loads(files["data/01_deepinversion-cell-9.json"])[10] == {"images": "row 10", "PSNR": "11.0 ± 1.0"}


@pytest.mark.parametrize(("name", "lines"), [("a name that fits a line", 1), ("a name " * 7 + "and its end", 2)])
def test_the_dots_of_a_row_have_its_whole_name_beside_them(monkeypatch, name, lines):
    drawn = []
    monkeypatch.setattr(dressing, "render_png", lambda figure: drawn.append(figure) or render_png(figure))
    page(rows(11).replace("row 5<", f"{name}<"))
    ticks = [label.get_text() for label in drawn[0].axes[0].get_yticklabels()]
    assert name.split() == ticks[5].split()
    assert ticks[5].count("\n") == lines - 1


def test_names_in_a_table_of_claims_break_where_words_end():
    words = "CIFAR-10, EfficientNet-Lite0, recorded run cifar10_dci_depth &lt; 1"
    *_, html, _ = page(f'<table class="inv-claims" data-claims="0"><tr><td><p>{words}</p></td></tr></table>')
    assert '<span class="inv-whole">CIFAR-10</span>, EfficientNet-Lite0' in html  # the longer one may have to break
    assert "cifar10_<wbr/>dci_<wbr/>depth &lt; 1" in html


def test_a_recorded_run_in_a_table_of_claims_leads_to_its_file_if_it_is_there():
    lines = "<td><p>CIFAR-10, recorded run run_1 (rule younger)</p><p>recorded run run_2</p></td>"
    *_, html, _ = page(f'<table class="inv-claims" data-claims="0"><tr>{lines}</tr></table>')
    assert re.findall(r'<a download="" href="([^"]+)">([^<]+)<', html) == [("../_static/recorded/run_1.json", "run_")]
    assert "run_<wbr/>2" in html


def test_a_long_table_of_unlike_rows_is_folded_and_not_drawn():
    *_, html, files = page(rows(11), tags=["unlike-rows"])
    assert '<details class="inv-data"><summary>' in html
    assert "<img" not in html
    assert set(files) == {"data/01_deepinversion-cell-9.csv", "data/01_deepinversion-cell-9.json"}


def recorded(tmp_path, figure=None, count: int = 11) -> str:
    """The HTML of a recorded run of so many rows."""
    measured = {f"row {i}": {"psnr": [i, i + 1.0]} for i in range(count)}
    facts = {"title": "A run", "config": {}, "command": "make run", "seeds": [0, 1], "seconds": 1, "device": "cpu"}
    record("run_1", measured=measured, figure=figure, folder=tmp_path, overwrite=True, **facts)
    return load_recorded("run_1", tmp_path)._repr_html_()


def test_the_dots_of_a_recorded_run_are_in_the_fold_where_it_has_a_picture(tmp_path):
    pictured = BeautifulSoup(page(recorded(tmp_path, show.image_grid(torch.rand(4, 1, 8, 8))))[1], "html.parser")
    alone = BeautifulSoup(page(recorded(tmp_path))[1], "html.parser")
    assert pictured.select_one("details > summary + .inv-chart + .inv-scroll > table")
    assert pictured.summary.string.startswith("The numbers, as dots and as a table: 11 rows")
    assert alone.select_one(".inv-recorded > .inv-chart + details > summary + .inv-scroll > table")
    assert len(pictured.select(".inv-chart img")) == len(alone.select(".inv-chart img")) == 1


def test_a_recorded_run_can_be_downloaded_where_it_lies_beside_the_pages(tmp_path):
    html = recorded(tmp_path, count=2)
    figure = BeautifulSoup(page(html)[1], "html.parser").select_one(".inv-recorded")
    (link,) = figure.select("a[download]")
    assert link["href"] == "../_static/recorded/run_1.json"
    assert link.parent.get_text() == "Download the run: JSON"
    other = page(html.replace("A run", "Another run"))[1]
    assert "Download the run" not in other
    named = dressing.offer_record(html, "..", RECORDS, 'show_recorded("run_1_front")')
    assert "recorded/run_1_front.json" in named
    (tmp_path / "run_1_front.json").write_bytes((tmp_path / "run_1.json").read_bytes())
    assert dressing.read_records(tmp_path) == RECORDS


def test_a_published_notebook_has_each_picture_once():
    data = [{"text/html": "<img>", "image/png": "x"}, {"image/png": "y"}, {"text/plain": "z"}]
    outputs = [{"output_type": "display_data", "data": part, "metadata": {}} for part in data]
    run = {"cells": [cell("a", "x", "code", *outputs), cell("t", "On zoom:", "markdown")]}
    kept = [output["data"] for output in dressing.lighter(run)["cells"][0]["outputs"]]
    assert kept == [{"text/html": "<img>"}, {"image/png": "y"}, {"text/plain": "z"}]


def test_ten_rows_stay_a_table_and_many_are_not_drawn():
    ten = rows(10)
    _, html, files = page(ten)
    assert files == {}
    assert html.count("<tr") == ten.count("<tr")
    assert "inv-data" not in html
    _, html, _ = page(rows(49))
    assert "<img" not in html
    assert "The numbers: 49 rows" in html


def markdown(*sources: str) -> dict:
    return {"cells": [{"cell_type": "markdown", "source": source, "metadata": {}} for source in sources]}


def test_the_first_use_of_a_term_leads_to_the_glossary():
    text = "```{glossary}\nPSNR\n  Peak.\n\nstage\n  A part.\n\nlatent\n  A code.\n\nbook (profile)\n  x\n```"
    terms = dressing.glossary(text)
    assert terms == ["latent", "PSNR"]
    notebook = markdown(
        "# Of PSNR\n\n`PSNR` is a name. The PSNR of $latent$ codes.", "Latents: the latents and a PSNR."
    )
    first, second = (cell["source"] for cell in dressing.link_terms(notebook, terms)["cells"])
    assert first == "# Of PSNR\n\n`PSNR` is a name. The {term}`PSNR <PSNR>` of $latent$ codes."
    assert second == "Latents: the {term}`latents <latent>` and a PSNR."
    by_hand = markdown("The PSNR and its {term}`PSNR`.")
    assert dressing.link_terms(by_hand, terms)["cells"][0]["source"] == "The PSNR and its {term}`PSNR`."


@pytest.mark.parametrize(
    "protected",
    [
        "a {term}`PSNR` b",
        "| PSNR | x |",
        "[PSNR](x.md)",
        "$$\nPSNR\n$$ (eq)",
        "*PSNR*",
        "```python\nPSNR\n```",
        "non-PSNR",
    ],
)
def test_what_is_no_prose_keeps_its_words(protected):
    assert dressing.link_terms(markdown(protected), ["PSNR"])["cells"][0]["source"] == protected


@pytest.mark.parametrize(
    ("word", "expected"),
    [("1,234", (1234, None)), ("−0.5 ± 0.1", (-0.5, 0.1)), ("93%", (93, None)), ("–", (None, None))],
)
def test_numbers_of_cells_are_read_with_their_spread(word, expected):
    read = [None if number != number else number for number in dressing.number(word)]
    assert tuple(read) == expected


def test_large_pictures_become_files_and_small_ones_stay():
    large, small = base64.b64encode(bytes(30_000)).decode(), base64.b64encode(b"small").decode()
    html = f'<img src="data:image/webp;base64,{large}" alt="x"><img src="data:image/png;base64,{small}" alt="y">'
    _, html, files = page(html)
    (name,) = files
    assert files[name] == bytes(30_000)
    assert re.search(rf'<img loading="lazy" src="../_static/{name}" alt="x">', html)
    assert small in html
    _, html, files = page(f'<script>[{{"label": "1", "src": "data:image/webp;base64,{large}"}}]</script>')
    (name,) = files
    assert f'"src": "../_static/{name}"' in html


# --- claims in one fold ---


def cell(id: str, source: str, kind: str = "code", *outputs: dict, tags: tuple[str, ...] = ("hide-input",)) -> dict:
    made = {"cell_type": kind, "id": id, "source": source, "metadata": {"tags": list(tags)} if kind == "code" else {}}
    return made | {"outputs": list(outputs)} if kind == "code" else made


TABLE = {"output_type": "execute_result", "data": {"text/html": "<b>claims</b>"}, "metadata": {}}


def test_a_sheet_of_images_has_a_form_for_a_phone():
    images = torch.rand(10, 1, 8, 8)
    for sheet in (show.image_rows({"real": images}, columns=10), show.image_grid(images)):
        _, html, _ = page(sheet._repr_mimebundle_()["text/html"])
        assert html.count('<picture><source media="(max-width: 40rem)"') == 1
        assert html.count("<img") == 1


def in_line(count: int, tile: float) -> float:
    """CSS pixels across so many tiles, with what is between and beside them."""
    return MARGIN + count * tile + (count - 1) * GAP + MARGIN


def test_each_frame_of_a_slider_has_a_form_for_a_phone():
    frames = {"grey": torch.full((10, 1, 8, 8), 0.5), "</script>": torch.zeros(10, 1, 8, 8)}
    slider = show.Frames.render(lambda name: show.image_grid(frames[name]), frames, title="ground", alt="All {}")
    soup = BeautifulSoup(page(slider._repr_html_())[1], "html.parser")
    first, other = json.loads(soup.select_one("script[type='application/json']").string)
    assert soup.select_one("picture > source + img")
    assert "narrow" not in first  # its form stands in the page
    size = (other["narrow"]["width"], other["narrow"]["height"])
    assert css_size(base64.b64decode(other["narrow"]["src"].partition(",")[2])) == size
    tile, fit = 60, 5  # of 8 pixels, 7.5 times as large; so many fit the 355 pixels of a phone's text
    assert css_size(base64.b64decode(soup.img["src"].partition(",")[2]))[0] == in_line(10, tile)
    assert in_line(fit, tile) <= 355 < in_line(fit + 1, tile)
    assert size[0] == pytest.approx(in_line(fit, tile), abs=1)
    assert int(soup.source["height"]) == other["narrow"]["height"] > other["height"]


def test_the_rows_of_a_recorded_run_have_a_form_for_a_phone_beside_its_table(tmp_path):
    images = show.image_rows({"real": torch.rand(10, 1, 8, 8)}, columns=10)
    facts = {"title": "A run", "config": {}, "command": "make", "seeds": [0], "seconds": 1, "device": "cpu"}
    record("run-1", measured={"ours": {"psnr": 20}}, figure=images, folder=tmp_path, **facts)
    _, html, _ = page(load_recorded("run-1", tmp_path)._repr_html_())
    assert "<table" in html
    assert html.count("<picture>") == 1


def test_cells_that_test_claims_are_one_fold_with_the_sentences_as_comments():
    cells = [
        cell("a", "claims = Claims()"),
        cell("t", "On zoom:", "markdown"),
        cell("b", "claims.test(1)"),
        cell("u", "On both; then all rows:", "markdown"),
        cell("c", "claims.table()", "code", TABLE),
    ]
    (joined,) = dressing.in_one_fold(cells)
    assert joined["source"] == (
        "claims = Claims()\n\n# On zoom\nclaims.test(1)\n\n# On both; then all rows\nclaims.table()"
    )
    assert joined["outputs"] == [TABLE]
    assert joined["id"] == "a"


@pytest.mark.parametrize(
    "between",
    [
        [cell("a", "x", "code", TABLE), cell("t", "On zoom:", "markdown")],  # shows something
        [cell("a", "x"), cell("t", "## Zoom", "markdown")],  # a heading
        [cell("a", "x", tags=("other",)), cell("t", "On zoom:", "markdown")],  # not folded
        [cell("a", "check_parameters()"), cell("t", "On zoom:", "markdown")],  # not of claims
    ],
)
def test_other_cells_stay_apart(between):
    cells = [*between, cell("b", "claims.test(1)")]
    assert dressing.in_one_fold(cells) == cells


# --- tables and numbers ---


def test_each_table_scrolls_for_itself_and_the_text_beside_it_does_not():
    _, html, _ = page("<p>before</p><table><tr><td>1</td></tr></table><table><tr><td>2</td></tr></table>")
    places = re.findall(r'<div class="inv-scroll"><table>', html)
    assert len(places) == 2
    assert html.startswith("<p>before</p>")


def test_the_table_of_a_fold_scrolls_and_its_links_do_not():
    _, html, _ = page(rows(12))
    assert html.count('class="inv-scroll"') == 1
    assert html.index("</summary>") < html.index('class="inv-scroll"') < html.index("Download")


def test_numbers_of_a_table_keep_to_their_spread_and_have_a_minus():
    _, html, _ = page('<table data-x="-1"><tr><th>-a</th><td>-0.5 ± 0.1 [-1.0, 2.5] 1e-02 2026-11-30</td></tr></table>')
    assert "<td>−0.5\xa0±\xa00.1 [−1.0,\xa02.5] 1e−02 2026-11-30</td>" in html
    assert 'data-x="-1"' in html
    assert "<th>-a</th>" in html


def test_downloads_keep_the_numbers_that_programs_read():
    _, html, files = page(show.table({f"row {i}": {"x": -float(i)} for i in range(12)}).to_html())
    assert "-11.00" in files["data/01_deepinversion-cell-9.csv"].decode()
    assert "−11.00" in html


def test_long_names_of_a_recorded_run_stand_above_their_numbers_too(tmp_path):
    html = recorded(tmp_path, count=3)
    assert "inv-name" not in page(html)[1]
    table = BeautifulSoup(page(html.replace("row 1", "a row of a name & of many more words"))[1], "html.parser").table
    assert table["class"] == ["inv-named"]
    above = [row.find_previous_sibling() for row in table.select("tr:has(> th)")][1:]
    assert [row.td.get_text() for row in above] == ["row 0", "a row of a name & of many more words", "row 2"]
    assert {(row["class"][0], row.td["colspan"]) for row in above} == {("inv-name", "1")}


def test_numbers_of_a_live_table_carry_the_names_of_its_columns():
    row = {f"psnr {i}": float(i) for i in range(4)}
    table = BeautifulSoup(
        page(show.table({"a": row, "b": row}, digits=1, corner="method").to_html())[1], "html.parser"
    ).table
    assert "inv-many" in table["class"]
    for line in table.select("tbody tr"):
        assert [cell["data-head"] for cell in line.find_all("td")[1:]] == [f"PSNR {i}" for i in range(4)]


def test_intervals_have_more_room_than_numbers():
    rows = {
        name: {f"psnr {i}": cell for i in range(4)} for name, cell in (("a", "0.013"), ("b", "0.013 [−0.040, 0.066]"))
    }
    for names, broad in ((["a"], False), (["a", "b"], True)):
        html = page(show.table({name: rows[name] for name in names}, digits=1, corner="method").to_html())[1]
        assert ("inv-broad" in BeautifulSoup(html, "html.parser").table["class"]) == broad


@pytest.mark.parametrize(("columns", "many"), [(3, False), (4, True), (9, True)])
def test_numbers_of_many_columns_carry_the_names_of_these(tmp_path, columns, many):
    facts = {"title": "A run", "config": {}, "command": "make run", "seeds": [0], "seconds": 1, "device": "cpu"}
    row = {f"psnr {i}": [float(i)] for i in range(columns)}
    record("run_1", measured={"a": row, "a row of a name of many more words": row}, folder=tmp_path, **facts)
    table = BeautifulSoup(page(load_recorded("run_1", tmp_path)._repr_html_())[1], "html.parser").table
    assert ("inv-many" in table.get("class", [])) == many
    assert bool(table.select("tr.inv-name")) != many, "names of rows have a line of their own there"
    heads = [cell.get("data-head") for cell in table.select("tbody tr:has(> th)")[1].find_all("td")]
    assert heads == ([f"PSNR {i}" for i in range(columns)] if many else [None] * columns)


def test_rows_that_lack_a_column_keep_theirs(tmp_path):
    facts = {"title": "A run", "config": {}, "command": "make run", "seeds": [0], "seconds": 1, "device": "cpu"}
    row = {f"x{i}": [float(i)] for i in range(6)}
    record("run_1", measured={"a": row, "b": {"x1": [3.0]}}, folder=tmp_path, **facts)
    table = BeautifulSoup(page(load_recorded("run_1", tmp_path)._repr_html_())[1], "html.parser").table
    found = [(cell["data-head"], cell.get_text()) for cell in table.select("tbody tr")[1].find_all("td")]
    assert [head for head, text in found if text] == ["x1"]


def test_sentences_of_a_run_keep_a_number_with_its_spread():
    _, html, _ = page('<div class="inv-statements"><p>It is 0.5 ± 0.1.</p></div>')
    assert "0.5\xa0±\xa00.1" in html


def test_folds_that_follow_each_other_are_one():
    cells = [cell("a", "check_parameters()"), cell("b", "import torch"), cell("c", "x = 1", tags=())]
    first, second = dressing.in_one_fold(cells)
    assert first["source"] == "check_parameters()\n\nimport torch"
    assert second == cells[2]


def test_a_recorded_run_says_its_title_in_the_caption_alone(tmp_path):
    record("run", title="A <small> run", measured={"a": {"x": 1.0}}, config={}, command="make", seeds=[0], seconds=1,
           device="cpu", folder=tmp_path)  # fmt: skip
    made, html, _ = page(load_recorded("run", tmp_path)._repr_html_())
    assert made["metadata"]["mystnb"]["figure"]["caption"] == "Recorded run. A <small> run."
    assert "small" not in html
    assert "Recorded run</strong> 20" in html


def test_text_keeps_numbers_with_their_units():
    notebook = dressing.link_terms(markdown("It took 5 s, 30 % and 3 images, in 2 stages; `5 s`."), [])
    (only,) = notebook["cells"]
    assert only["source"] == "It took 5\xa0s, 30\xa0% and 3\xa0images, in 2 stages; `5 s`."


def test_numbers_of_a_recorded_run_may_break_on_paper():
    _, html, _ = page('<figure class="inv-recorded"><table><tr><td>-0.5 ± 0.1</td></tr></table></figure>')
    assert '<td>−0.5 <span class="inv-spread">± 0.1</span></td>' in html
