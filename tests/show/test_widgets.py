"""The slider: the page's in a real browser without a kernel, and the live one by its Python side."""

import html
import json
import re
from html.parser import HTMLParser

import pytest
import torch

from invkit.show.grids import image_grid
from invkit.show.picture import render_png
from invkit.show.widgets import Choices, Frames, explore

VIEW = "application/vnd.jupyter.widget-view+json"


def draw(value):
    figure = image_grid(torch.full((1, 1, 4, 4), value / 10))
    figure.alt = f"Grey <{value}>"
    return figure


def frames(title: str = "Grey & level") -> Frames:
    return Frames.render(draw, [1, 5, 9], title=title, label="g = {}")


def state(figure) -> dict[str, str]:
    image, slider = (figure.find_element("css selector", name) for name in ("img", "input"))
    names = image.get_attribute("alt"), image.get_attribute("src"), slider.get_attribute("aria-valuetext")
    return dict(zip(("alt", "src", "said"), names)) | {"read": figure.find_element("css selector", "output").text}


def page(path, *shown) -> str:
    path.write_text("<meta charset=utf-8>" + "".join(item._repr_html_() for item in shown), "utf8")
    return path.as_uri()


@pytest.mark.browser
def test_arrow_keys_move_the_frame_from_disk(browser, tmp_path):
    browser.get(page(tmp_path / "page.html", frames(), frames("Second")))
    first, second = browser.find_elements("css selector", "figure")
    before, other = state(first), state(second)
    assert (before["alt"], before["said"], before["read"]) == ("Grey & level, g = 1: Grey <1>", "g = 1", "g = 1")
    slider = first.find_element("css selector", "input")
    assert slider.is_displayed()
    slider.send_keys("\ue014")  # arrow right
    after = state(first)
    assert (after["alt"], after["said"], after["read"]) == ("Grey & level, g = 5: Grey <5>", "g = 5", "g = 5")
    assert after["src"] != before["src"]
    assert state(second) == other  # sliders of one page do not move each other
    slider.send_keys("\ue011")  # home: back to the frame that is stored in the page only
    assert state(first) == before


@pytest.mark.browser
def test_every_frame_is_a_picture_and_the_slider_has_a_name(browser, tmp_path):
    browser.get(page(tmp_path / "page.html", frames()))
    slider, image = (browser.find_element("css selector", name) for name in ("input", "img"))
    assert slider.accessible_name.strip() == "Grey & level"  # some browsers keep the space before the output
    for _ in range(3):
        assert browser.execute_script("return arguments[0].decode().then(() => arguments[0].naturalWidth)", image) > 0
        slider.send_keys("\ue014")


@pytest.mark.browser
def test_without_javascript_the_first_frame_stays_and_no_dead_slider_shows(scriptless, tmp_path):
    scriptless.get(page(tmp_path / "page.html", frames()))
    assert scriptless.find_element("css selector", "img").is_displayed()
    assert not scriptless.find_element("css selector", "input").is_displayed()
    assert scriptless.find_element("css selector", "figcaption").text == "Grey & level g = 1"


def test_the_page_part_is_the_same_every_time_and_brings_no_ids_and_no_library():
    text = frames()._repr_html_()
    assert text == frames()._repr_html_()
    assert not re.search(r"\sid=|https?:", text)
    parser = HTMLParser()
    parser.feed(text)
    assert "</script>" not in text.split('application/json">')[1].split("</script>")[0]


def test_a_label_cannot_leave_the_script():
    text = Frames([render_png(draw(1))], ["</script><b>"], ["x"], "t")._repr_html_()
    assert "</script><b>" not in text


def test_one_cell_carries_both_renderings():
    bundle = frames()._repr_mimebundle_()
    assert VIEW in bundle
    assert bundle["text/html"].startswith('<figure class="inv-frames">')


def test_the_live_slider_swaps_the_picture():
    shown, slider = frames().widget().children
    first = shown.value
    slider.value = 2
    assert shown.value != first
    assert 'alt="Grey &amp; level, g = 9: Grey &lt;9&gt;"' in shown.value


def test_explore_draws_live_once_per_stop_and_records_some():
    asked = []

    def counted(value):
        asked.append(value)
        return draw(value)

    explorer = explore(counted, list(range(11)), title="Grey", recorded=[0, 10], label="g = {}")
    assert asked == [0, 10]
    assert (explorer.labels, explorer._repr_html_().count('"label"')) == (["g = 0", "g = 10"], 2)
    shown, slider = explorer.widget().children
    slider.value = 7
    slider.value = 0
    slider.value = 7
    assert 'alt="Grey, g = 7: Grey &lt;7&gt;"' in shown.value
    assert asked == [0, 10, 0, 7]


def test_an_error_while_drawing_live_is_shown():
    def fragile(value):
        if value == 3:
            raise RuntimeError("no <3>")
        return draw(value)

    shown, slider = explore(fragile, [1, 2, 3], title="Grey", recorded=[1]).widget().children
    slider.value = 2
    assert "RuntimeError: no &lt;3&gt;" in shown.value


def test_a_frame_that_cannot_be_loaded_is_named_and_a_page_without_scripts_says_what_it_lacks():
    for shown, at in ((frames(), 1), (choices(), 2)):
        text = shown._repr_html_()
        script = text.split("<script>")[1].split("</script>")[0]
        assert 'image.addEventListener("error"' in script
        assert '"this frame is missing: " + now.label' in script
        assert text.count(f"<noscript>Without scripts this shows only frame {at} of 3.</noscript>") == 1
        assert text.index("<noscript>") < text.index("</figcaption>")


@pytest.mark.parametrize("show", [Frames.render, Choices.render, explore])
@pytest.mark.parametrize(
    ("alt", "heard"),
    [
        (None, "level, g = {}: Dots."),
        ("What is drawn", "level, g = {}: What is drawn: Dots."),
        ("At {} of nine", "At {} of nine: Dots."),
        ("Drawn {{so}}", "level, g = {}: Drawn {{so}}: Dots."),
    ],
)
def test_no_two_stops_have_one_alt_text(show, alt, heard):
    def same(value):
        figure = draw(value)
        figure.alt = "Dots."
        return figure

    shown = show(same, [1, 5], title="level", label="g = {}", alt=alt)
    assert shown.alts == [heard.format(value) for value in (1, 5)]
    picture, control = shown.widget().children
    control.index = 1
    assert html.escape(shown.alts[1]) in picture.value
    records = json.loads(shown._repr_html_().split('application/json">')[1].split("</script>")[0])
    assert [record["alt"] for record in records] == shown.alts


def test_a_label_alone_is_no_alt_text():
    def silent(value):
        figure = draw(value)
        figure.alt = ""
        return figure

    with pytest.raises(ValueError, match="the figure has no alt text"):
        Frames.render(silent, [1, 5], title="level", label="g = {}")


def test_bad_frames_are_refused():
    png = render_png(draw(1))
    with pytest.raises(ValueError, match="do not match"):
        Frames([png], ["a", "b"], ["x"], "t")
    with pytest.raises(ValueError, match="alt text is empty"):
        Frames([png], ["a"], [" "], "t")
    with pytest.raises(ValueError, match="start is 3"):
        Frames([png], ["a"], ["x"], "t", start=3)
    with pytest.raises(ValueError, match=r"recorded \[5\]"):
        explore(draw, [1, 2], title="t", recorded=[5])
    with pytest.warns(UserWarning, match="weigh"):
        Frames([png + bytes(2_000_000)], ["a"], ["x"], "t")


def choices() -> Choices:
    return Choices.render(draw, [1, 5, 9], title="attack", label="g = {}", start=1)


@pytest.mark.browser
def test_buttons_are_named_and_the_keyboard_presses_them(browser, tmp_path):
    browser.get(page(tmp_path / "page.html", choices(), frames()))
    first, other = browser.find_elements("css selector", "figure")
    image, before = first.find_element("css selector", "img"), state(other)
    buttons = first.find_elements("css selector", "button")
    assert first.find_element("css selector", "fieldset").accessible_name == "attack"
    assert [button.accessible_name for button in buttons] == ["g = 1", "g = 5", "g = 9"]
    start = image.get_attribute("src")
    for k, key in ((2, " "), (0, "\ue006"), (1, " ")):
        buttons[k].send_keys(key)
        assert [b.get_attribute("aria-pressed") for b in buttons] == [str(i == k).lower() for i in range(3)]
        assert image.get_attribute("alt") == "attack, g = {0}: Grey <{0}>".format((1, 5, 9)[k])
        assert browser.execute_script("return arguments[0].decode().then(() => arguments[0].naturalWidth)", image) > 0
    assert image.get_attribute("src") == start
    assert state(other) == before


@pytest.mark.browser
def test_without_javascript_the_first_choice_is_named_and_no_dead_button_shows(scriptless, tmp_path):
    scriptless.get(page(tmp_path / "page.html", choices()))
    assert scriptless.find_element("css selector", "img").is_displayed()
    assert not any(button.is_displayed() for button in scriptless.find_elements("css selector", "button"))
    assert scriptless.find_element("css selector", "fieldset").text.split() == ["attack", "g", "=", "5"]


def test_the_live_buttons_swap_the_picture():
    shown, buttons = choices().widget().children
    assert 'alt="attack, g = 5: Grey &lt;5&gt;"' in shown.value
    buttons.value = 2
    assert 'alt="attack, g = 9: Grey &lt;9&gt;"' in shown.value
    assert VIEW in choices()._repr_mimebundle_()
