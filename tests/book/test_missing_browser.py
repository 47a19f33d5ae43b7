"""What a reader's browser lacks is said in words: a frame that cannot be loaded, and scripts that are not run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from selenium.webdriver.support.ui import WebDriverWait

from invkit import show

pytestmark = pytest.mark.browser
RIGHT, LEFT = "\ue014", "\ue012"


def grey(level: float):
    return show.image_grid(torch.full((1, 1, 8, 8), level))


def broken(kind: type[show.Frames], tmp_path: Path) -> str:
    """Address of a page with a slider or buttons, the second of whose three frames is not there."""
    text = kind.render(grey, [0.0, 0.5, 1.0], title="level", label="g = {}")._repr_html_()
    sources = re.findall(r'"src": "(data:[^"]+)"', text)
    assert len(sources) == 2, "the first frame is the page's own"
    text = text.replace(sources[0], "frames/gone.webp")
    (tmp_path / "page.html").write_text(f"<meta charset=utf-8>{text}", "utf8")
    return (tmp_path / "page.html").as_uri()


def said(browser) -> tuple[str, str]:
    """What the figure's words and the image's alt text say."""
    parts = [browser.find_element("css selector", f".inv-frames {name}") for name in ("output", "img")]
    return parts[0].text, parts[1].get_attribute("alt")


def is_picture(browser) -> bool:
    return browser.execute_script("return document.querySelector('.inv-frames img').naturalWidth > 0")


def wait_for(browser, words: str) -> None:
    WebDriverWait(browser, 10).until(lambda b: said(b)[0] == words, f"{said(browser)}, not {words!r}")


def test_a_frame_that_cannot_be_loaded_says_so_and_the_next_one_shows_again(browser, tmp_path):
    browser.get(broken(show.Frames, tmp_path))
    assert said(browser) == ("g = 0.0", "level, g = 0.0: One image.")
    slider = browser.find_element("css selector", "input")
    slider.send_keys(RIGHT)
    missing = "this frame is missing: g = 0.5"
    wait_for(browser, missing)
    assert said(browser) == (missing, missing)
    assert slider.get_attribute("aria-valuetext") == missing
    assert not is_picture(browser), "the frame before it still stands there"
    for key, level in ((RIGHT, "1.0"), (LEFT, None), (LEFT, "0.0")):
        slider.send_keys(key)
        wait_for(browser, f"g = {level}" if level else missing)
        if level:
            WebDriverWait(browser, 10).until(is_picture)
            assert said(browser)[1] == f"level, g = {level}: One image."
            assert slider.get_attribute("aria-valuetext") == f"g = {level}"


def test_a_choice_that_cannot_be_loaded_says_so_until_another_is_made(browser, tmp_path):
    browser.get(broken(show.Choices, tmp_path))
    buttons = browser.find_elements("css selector", "button")
    assert not browser.find_element("css selector", "output").is_displayed()
    buttons[1].click()
    wait_for(browser, "this frame is missing: g = 0.5")
    assert not is_picture(browser)
    buttons[2].click()
    WebDriverWait(browser, 10).until(is_picture)
    assert not browser.find_element("css selector", "output").is_displayed()


def test_panes_whose_sheet_cannot_be_loaded_say_so_at_every_stop(browser, tmp_path):
    levels = torch.linspace(0, 1, 3).view(3, 1, 1, 1).expand(3, 1, 8, 8)
    words = ["dark", "middle", "light"]
    text = show.drag(lambda a, b: {"mixed": (levels, words)}, "ab", levels[::2], name="colour")._repr_html_()
    sheet = re.search(r'<img hidden src="([^"]+)"', text)[1]
    (tmp_path / "page.html").write_text("<meta charset=utf-8>" + text.replace(sheet, "gone.webp"), "utf8")
    browser.get((tmp_path / "page.html").as_uri())

    def outputs(b=browser) -> list[str]:
        return [word.text for word in b.find_elements("css selector", ".inv-drag output")]

    assert outputs() == ["a", "middle", "b", "50%"]
    slider = browser.find_element("css selector", ".inv-drag input")
    for _ in range(2):
        slider.send_keys(RIGHT)
        now = ["a", "light", "b"]
        wanted = [f"this picture is missing: {word}" for word in now] + ["100%"]
        WebDriverWait(browser, 10).until(lambda b, wanted=wanted: outputs(b) == wanted)
    assert browser.find_element("css selector", ".inv-drag img").get_attribute("alt").startswith("this picture is miss")


# ---------------------------------------------------------------- without scripts


def read(browser, part: str) -> str:
    """What is rendered of a part of the page; Selenium's own text leaves <noscript> out."""
    return browser.execute_script("return document.querySelector(arguments[0]).innerText", part)


def fragment(name: str) -> str:
    """A figure with controls as it stands in a page."""
    if name == "drag":
        levels = torch.linspace(0, 1, 3).view(3, 1, 1, 1).expand(3, 1, 8, 8)
        words = ["dark", "middle", "light"]
        ends, labels = levels[[0, 1, 2]], ["<a>", "b", "c"]
        return show.drag(lambda a, b: {"mixed": (levels, words)}, labels, ends, name="colour")._repr_html_()
    kind = {"slider": show.Frames, "buttons": show.Choices}[name]
    return kind.render(grey, [0.0, 0.5, 1.0], title="level", label="g = {}", start=1)._repr_html_()


WITHOUT = {
    "slider": "Without scripts this shows only frame 2 of 3.",
    "buttons": "Without scripts this shows only frame 2 of 3.",
    "drag": "Without scripts this shows only one stop of 3 on one way of 3: 50% from <a> to b.",
}


@pytest.fixture
def figure(tmp_path, request) -> str:
    """Address of a page with one figure."""
    (tmp_path / "page.html").write_text(f"<meta charset=utf-8>{fragment(request.param)}", "utf8")
    return (tmp_path / "page.html").as_uri()


@pytest.mark.parametrize(("figure", "words"), WITHOUT.items(), indirect=["figure"])
def test_without_scripts_a_figure_says_what_is_missing(scriptless, figure, words):
    scriptless.get(figure)
    assert words in read(scriptless, "figcaption")
    for control in scriptless.find_elements("css selector", "figure :is(input, button, select)"):
        assert not control.is_displayed()


@pytest.mark.parametrize("figure", WITHOUT, indirect=True)
def test_with_scripts_nothing_is_missing(browser, figure):
    browser.get(figure)
    assert "Without scripts" not in read(browser, "body")


def test_without_scripts_a_quiz_answers(scriptless, tmp_path):
    dots = torch.rand(2, 1, 8, 8)
    text = show.quiz(dots, dots, dots.flip(0), question="Which?")._repr_html_()
    (tmp_path / "page.html").write_text(f"<meta charset=utf-8>{text}", "utf8")
    scriptless.get((tmp_path / "page.html").as_uri())
    assert not [told for told in scriptless.find_elements("css selector", ".told") if told.is_displayed()]
    scriptless.find_elements("css selector", "input.wrong")[0].click()
    scriptless.find_elements("css selector", "input.right")[1].click()
    told = [
        told.text.split(",")[0] for told in scriptless.find_elements("css selector", ".told") if told.is_displayed()
    ]
    assert told == ["No", "Yes"]


def test_without_scripts_every_chapter_reads(scriptless, site):
    chapters = sorted((site / "notebooks").glob("*.html"))
    assert len(chapters) >= 12
    open_to_all = ":not(details *)"  # a fold opens without scripts
    for chapter in chapters:
        scriptless.get(chapter.as_uri())
        assert scriptless.find_element("css selector", "article h1").is_displayed(), chapter.name
        words = read(scriptless, "article")
        assert len(words) > 5000, chapter.name
        figures = scriptless.find_elements("css selector", f"article :is(.inv-frames, .inv-drag){open_to_all}")
        assert words.count("Without scripts this shows only") == len(figures), chapter.name
        for kind in ("table", ".cell_output img:not([hidden])"):
            found = scriptless.find_elements("css selector", f"article {kind}{open_to_all}")
            hidden = [item for item in found if not item.is_displayed()]
            assert found, (chapter.name, kind)
            assert not hidden, (chapter.name, hidden[0].get_attribute("outerHTML")[:200])
