"""Panes between two things: what is stored, what is refused, and dragging in a real browser without a kernel."""

from __future__ import annotations

import io
import re

import pytest
import torch
from PIL import Image

from invkit import show

STOPS = 5
LEVELS = (0.0, 0.5, 1.0)


def grey(level):
    return torch.full((1, 8, 8), float(level))


def way(first, second):
    levels = torch.linspace(LEVELS[first], LEVELS[second], STOPS)
    up, down = (torch.stack([grey(level) for level in part]) for part in (levels, 1 - levels))
    words = [f"{first}{second} {k}" for k in range(STOPS)]
    return {"mixed <i>": (up, words), "negative": (down, words)}


def shown(way=way, labels=("black", "grey", "white")):
    return show.drag(way, labels, torch.stack([grey(level) for level in LEVELS]), name="colour")


def test_the_sheet_holds_a_row_for_each_pair_and_the_ends_behind_it():
    sheet = shown().sheet
    assert sheet.shape == (3 * 8, (2 * STOPS + 2) * 8, 3)
    middles = sheet[4::8, 4::8, 0] / 255
    assert middles[1, :STOPS].tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1], abs=0.01)  # black to white
    assert middles[:, -2:].flatten().tolist() == pytest.approx([0, 0.5, 0, 1, 0.5, 1], abs=0.01)


@pytest.mark.parametrize(
    ("broken", "labels", "says"),
    [
        (way, ["alone"], "labels should name at least two"),
        (way, "ab", "ends should hold one image for each of 2 labels, not 3"),
        (lambda a, b: {"x": (way(a, b)["negative"][0], ["few"])}, "abc", "pane 'x' has 5 images and 1 captions"),
        (lambda a, b: {"x": (torch.rand(2, 1, 4, 4), ["a", "b"])}, "abc", "differ in size or stops"),
        (lambda a, b: {"x": (torch.rand(1, 1, 8, 8), ["a"])}, "abc", "one stop"),
        (lambda a, b: {"x": (torch.rand(2 + b, 1, 8, 8), "abcdef"[: 2 + b])}, "abc", "number of their stops"),
        (lambda a, b: {"x": (2 * torch.ones(2, 1, 8, 8), ["a", "b"])}, "abc", r"drag: way, pane 'x'.*\[0, 1\]"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(broken, labels, says):
    with pytest.raises(ValueError, match=says):
        shown(broken, list(labels))


def test_a_heavy_sheet_is_warned_of():
    noise = torch.rand(40, 3, 128, 128)
    with pytest.warns(UserWarning, match="sheet of 'end' weighs"):
        show.drag(lambda a, b: {"noise": (noise, ["x"] * 40)}, "ab", noise[:2], name="end")


def test_the_page_part_is_the_same_every_time_and_brings_no_ids_and_no_library():
    text = shown()._repr_html_()
    assert text == shown()._repr_html_()
    assert not re.search(r"\sid=|https?:", text)
    assert "<i>" not in text
    assert shown()._repr_mimebundle_()["text/html"] == text


def test_what_cannot_be_loaded_is_named_and_a_page_without_scripts_says_what_it_lacks():
    text = shown(labels=("<b>black", "grey", "white"))._repr_html_()
    assert 'gone = "this picture is missing: "' in text
    lacks = "Without scripts this shows only one stop of 5 on one way of 3: 50% from &lt;b&gt;black to grey."
    assert text.count(f"<noscript>{lacks}</noscript></figcaption>") == 1


def panes(browser):
    """Of each pane: what it says in words, what to those who do not see it, and the level of grey in its middle."""
    found = []
    for pane in browser.find_elements("css selector", ".inv-drag > div > div"):
        image, words = (pane.find_element("css selector", part) for part in ("img", "output"))
        drawn = Image.open(io.BytesIO(pane.find_element("css selector", "span").screenshot_as_png)).convert("L")
        level = drawn.getpixel((drawn.width // 2, drawn.height // 2)) / 255
        found.append((words.text, image.get_attribute("alt"), pytest.approx(level, abs=0.02)))
    return found


@pytest.fixture
def page(browser, tmp_path):
    """A page opened from disk, with the style that makes windows of the panes."""
    style = "<style>.inv-drag span { display: block; overflow: hidden; } .inv-drag > div { display: flex; }</style>"
    (tmp_path / "page.html").write_text(f"<meta charset=utf-8>{style}" + shown()._repr_html_(), "utf8")
    browser.get((tmp_path / "page.html").as_uri())
    return browser


def choose(browser, number, index):
    from selenium.webdriver.support.ui import Select

    Select(browser.find_elements("css selector", ".inv-drag select")[number]).select_by_index(index)


@pytest.mark.browser
def test_the_start_is_the_middle_between_the_first_two(page):
    before = panes(page)
    assert [words for words, *_ in before] == ["black", "01 2", "01 2", "grey"]
    assert [level for *_, level in before] == [0, 0.25, 0.75, 0.5]
    page.find_element("css selector", ".inv-drag input").send_keys("\ue014\ue012")  # right and left again
    assert [level for *_, level in panes(page)] == [0, 0.25, 0.75, 0.5]
    assert [alt for _, alt, _ in panes(page)] == [alt for _, alt, _ in before]


@pytest.mark.browser
def test_keys_drag_and_the_way_back_is_the_same_way(page):
    slider = page.find_element("css selector", ".inv-drag input")
    choose(page, 1, 2)  # black to white
    slider.send_keys("\ue011\ue014")  # one step from the start
    assert [level for *_, level in panes(page)] == [0, 0.25, 0.75, 1]
    assert panes(page)[1][:2] == ("02 1", "mixed <i>, 25% of the way from black to white: 02 1")
    assert slider.get_attribute("aria-valuetext") == "25%"
    choose(page, 0, 2)
    choose(page, 1, 1)  # white to grey, stored as grey to white
    assert [level for *_, level in panes(page)] == [1, 0.875, 0.125, 0.5]
    assert panes(page)[1][0] == "12 3"
    for k, level in enumerate(LEVELS):  # from a thing to itself
        choose(page, 0, k)
        choose(page, 1, k)
        assert [found for *_, found in panes(page)] == [level, level, 1 - level, level]


@pytest.mark.browser
def test_every_control_has_a_name(page):
    named = {
        item.accessible_name.split(" ")[0]
        for item in page.find_elements("css selector", ".inv-drag :is(select, input)")
    }
    assert named == {"from", "to", "how"}


@pytest.mark.browser
def test_without_javascript_the_start_stays_and_no_dead_control_shows(scriptless, tmp_path):
    (tmp_path / "page.html").write_text("<meta charset=utf-8>" + shown()._repr_html_(), "utf8")
    scriptless.get((tmp_path / "page.html").as_uri())
    assert [words for words, *_ in panes(scriptless)] == ["black", "01 2", "01 2", "grey"]
    assert not scriptless.find_element("css selector", "select").is_displayed()
