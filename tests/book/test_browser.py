"""The built pages in a real browser: sliders, dark mode, a quiet console, narrow and wide, spoken and on paper."""

from __future__ import annotations

import contextlib
import functools
import io
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image
from selenium.common.exceptions import TimeoutException

from invkit.show.grids import GAP, MARGIN
from invkit.show.picture import SHARPNESS

pytestmark = pytest.mark.browser
SLIDER = "figure.inv-frames input[type=range]"
# Their containers would cut them off, so that the page itself does not scroll.
TABLES = """
    const tables = [...document.querySelectorAll("table.inv-claims")];
    return tables.map(table => [table.offsetWidth, table.parentElement.clientWidth]);
"""
MEASURE = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
FILTERS = """
return [...document.querySelectorAll('.bd-content img')]
  .filter(image => !image.closest('.inv-chart'))
  .filter(image => getComputedStyle(image).filter !== (image.matches('.inv-clear') ? 'url("#inv-light-ink")' : 'none'))
  .map(image => image.src.slice(-40));
"""


# The theme names its switch of colours otherwise than it is written; all else is ours to mend.
AXE = """
const done = arguments[0];
axe.run({exclude: [[".theme-switch-button"]]}, {resultTypes: ["violations"]}).then(
  found => done(found.violations.filter(rule => ["serious", "critical"].includes(rule.impact)).map(
    rule => [rule.id, rule.nodes.slice(0, 3).map(node => node.html.slice(0, 200))])),
  error => done([["failed", [String(error)]]]));
"""
PAPER = 718  # CSS pixels: A4 between the margins that browsers set
# Paper does not scroll, so what would is cut off.
CUT = """
const found = [], page = document.documentElement.clientWidth;
for (const part of document.querySelectorAll(".bd-article *")) {
  const box = part.getBoundingClientRect();
  if (!box.width || part.closest("svg *, mjx-assistive-mml, .inv-drag span, .inv-spoken, .inv-claims thead")) continue;
  const hides = getComputedStyle(part).overflowX !== "visible" && part.scrollWidth > part.clientWidth + 1;
  const leaves = box.right > page + 1 && part.matches("table, svg, img, pre, mjx-container");
  if (hides || leaves) found.push(part.outerHTML.slice(0, 120));
}
return found;
"""
UNSET = "return document.querySelector('.math') && !document.querySelector('mjx-container svg')"


class Quiet(SimpleHTTPRequestHandler):
    """A file server without a log."""

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address(site):
    """Address of a server over the built pages."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def chapters(site):
    """Addresses of the chapters below the site."""
    return [p.relative_to(site).as_posix() for p in sorted((site / "notebooks").glob("*.html"))]


@pytest.fixture(scope="module")
def everything(site, chapters):
    """Addresses of all pages."""
    return [p.relative_to(site).as_posix() for p in sorted((site / "book").rglob("*.html"))] + chapters


@pytest.fixture
def screen(browser):
    """Sets the width of the window, and the theme of the next page, for one test."""

    def use(width: int, theme: str = "light") -> None:
        settings = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", settings)
        feature = {"name": "prefers-color-scheme", "value": theme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    yield use
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def sliders(browser):
    return browser.find_elements("css selector", SLIDER)


def test_arrow_keys_move_every_slider_and_change_image_and_words(browser, address, chapters):
    from selenium.webdriver.common.keys import Keys

    seen = 0
    for chapter in chapters:
        browser.get(f"{address}/{chapter}")
        for slider in sliders(browser):
            figure = slider.find_element("xpath", "./ancestor::figure")
            image, words = figure.find_element("tag name", "img"), figure.find_element("tag name", "output")

            def state(slider=slider, image=image, words=words):
                return (image.get_attribute("src"), slider.get_attribute("aria-valuetext"), words.text)

            # From the start, so that one step to the right is always possible.
            slider.send_keys(Keys.HOME)
            before = state()
            slider.send_keys(Keys.ARROW_RIGHT)
            after = state()
            assert all(a != b for a, b in zip(before, after, strict=True)), f"{chapter}: {before[1:]}, {after[1:]}"
            assert after[1] == after[2]
            assert image.get_attribute("alt").strip()
            slider.send_keys(Keys.ARROW_LEFT)
            assert state() == before
            seen += 1
    assert seen, "no chapter has a slider"


def test_every_image_is_decoded(browser, address, everything):
    from selenium.webdriver.support.ui import WebDriverWait

    # Those that wait to be scrolled to, too.
    # Set anew, for the fetch of one that was about to be lazy may never begin.
    browser_loads = "for (const i of document.images) if (i.loading == 'lazy') { i.loading = 'eager'; i.src = i.src }"
    pending = "return [...document.images].filter(i => i.src && !i.complete).map(i => i.src.slice(-80))"
    broken = "return [...document.images].filter(i => i.src && !i.naturalWidth).map(i => i.src.slice(-80))"
    for page in everything:
        browser.get(f"{address}/{page}")
        browser.execute_script(browser_loads)
        with contextlib.suppress(TimeoutException):
            WebDriverWait(browser, 60).until_not(lambda b: b.execute_script(pending))
        assert browser.execute_script(pending) == [], page
        assert browser.execute_script(broken) == [], page


def test_dark_mode_is_dark_and_leaves_images_as_they_are(browser, address, chapters):
    for page in [*chapters, "book/intro.html"]:
        browser.get(f"{address}/{page}")
        browser.execute_script("document.documentElement.dataset.theme = 'dark'")
        colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert max(map(int, colour[colour.index("(") + 1 : -1].split(",")[:3])) < 64, colour
        assert browser.execute_script(FILTERS) == [], page


def test_charts_are_light_on_dark_on_a_dark_page_and_plain_on_a_light_one(browser, address, chapters, screen):
    filters = "return [...document.querySelectorAll('.inv-chart img')].map(image => getComputedStyle(image).filter)"
    (chapter,) = [name for name in chapters if "/03_" in name]
    for theme, turned in (("dark", True), ("light", False)):
        screen(1280, theme)
        browser.get(f"{address}/{chapter}")
        found = browser.execute_script(filters)
        assert len(found) > 1
        assert all(("invert" in text) == turned for text in found)


def test_what_the_package_shows_stands_on_the_ground_of_a_dark_page(browser, address, chapters, screen):
    screen(1280, "dark")  # from the start: a change of theme fades
    boxed = """
        const ours = box => box.querySelector(':scope > [class*="inv-"], :scope > p > [class*="inv-"]')
        const clear = box => getComputedStyle(box).backgroundColor == 'rgba(0, 0, 0, 0)'
        const boxes = [...document.querySelectorAll('.cell_output .text_html')].filter(ours)
        return [boxes.length, boxes.filter(box => !clear(box)).map(box => box.innerHTML.slice(0, 80))]
    """
    seen = 0
    for page in chapters:
        browser.get(f"{address}/{page}")
        count, bad = browser.execute_script(boxed)
        assert bad == [], page
        seen += count
    assert seen > 50


def test_the_console_is_quiet(browser, address, everything):
    for page in everything:
        browser.get(f"{address}/{page}")
        errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert not errors, page


def test_no_request_leaves_the_site(browser, address, everything):
    import json

    browser.get_log("performance")
    for page in everything:
        browser.get(f"{address}/{page}")
    outside = set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            if not url.startswith((address, "data:", "blob:", "chrome")):
                outside.add(url)
    assert not outside


def test_math_is_set(browser, address, chapters):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(f"{address}/{chapters[0]}")
    assert browser.find_elements("css selector", ".math"), "the chapter has no equation"
    WebDriverWait(browser, 10).until(lambda b: b.find_elements("css selector", "mjx-container svg"))


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_scrolls_sideways(browser, address, everything, width):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    try:
        for page in everything:
            browser.get(f"{address}/{page}")
            needed, there = browser.execute_script(MEASURE)
            assert needed <= there, f"{page} is {needed} px wide on a screen of {there} px"
            for table, place in browser.execute_script(TABLES):
                assert table <= place, f"{page}: a table of claims is {table} px wide in a place of {place} px"
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize(("word", "least"), [("verifier", 5), ("di.jitter", 2)])
def test_search_leads_to_the_section_that_holds_the_words(browser, address, site, word, least):
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(f"{address}/search.html?q={word}")
    led = "#search-results li a[data-section]:not([data-section='…'])"
    found = WebDriverWait(browser, 30).until(
        lambda b: (links := b.find_elements("css selector", led)) and len(links) >= least and links
    )
    for address_of in [link.get_attribute("href") for link in found[:5]]:
        page, _, name = address_of.removeprefix(f"{address}/").partition("#")
        text = BeautifulSoup((site / page.partition("?")[0]).read_text("utf8"), "html.parser")
        section = text.find(id=name)
        for inner in section.select("section"):
            inner.decompose()
        assert word in section.get_text().lower(), address_of


def test_a_figure_opens_in_a_window_and_the_keyboard_leads_on_and_out(browser, address):
    from selenium.webdriver.common.keys import Keys

    browser.get(f"{address}/book/gallery.html")
    first, second = browser.find_elements("css selector", "img.inv-tile")[:2]
    dialog = browser.find_element("css selector", "dialog.inv-large")
    first.send_keys(Keys.ENTER)
    assert dialog.get_attribute("open")
    shown = dialog.find_element("tag name", "img")
    assert shown.get_attribute("src") == first.get_attribute("src")
    assert dialog.find_element("tag name", "figcaption").text == first.get_attribute("alt")
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert shown.get_attribute("src") == second.get_attribute("src")
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.get_attribute("open")
    assert browser.switch_to.active_element == second


def test_on_a_phone_a_wide_picture_can_be_moved_in_the_page_and_in_its_window(browser, address, chapters, screen):
    from selenium.webdriver.support.ui import WebDriverWait

    screen(400)
    (chapter,) = [name for name in chapters if "/12_" in name]
    # Its sheets have forms for a phone, a picture of another kind has none.
    bare = "document.querySelectorAll('picture').forEach(p => p.replaceWith(p.querySelector('img')))"
    source = {"source": f"document.addEventListener('DOMContentLoaded', () => {bare})"}
    script = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", source)
    try:
        browser.get(f"{address}/{chapter}")
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
    browser.execute_script("document.querySelectorAll('.inv-recorded img').forEach(p => { p.loading = 'eager' })")
    unread = "return [...document.querySelectorAll('.inv-recorded img')].some(p => !p.complete)"
    WebDriverWait(browser, 30).until_not(lambda b: b.execute_script(unread))
    assert "own size" in browser.find_element("css selector", ".inv-hint").text
    in_page, in_window = browser.execute_script("""
        const room = box => [box.firstElementChild.clientWidth, box.scrollWidth > box.clientWidth]
        const place = document.querySelector('.inv-scroll:has(> img.inv-wide)'), picture = place.firstElementChild
        picture.click()
        const box = document.querySelector('dialog.inv-large figure > div')
        return [room(place), [...room(box), picture.naturalWidth]]
    """)
    width, moves = in_page
    assert width > 450, "labels are to be read"
    assert moves
    width, moves, own = in_window
    assert width >= own
    assert moves
    browser.execute_script("document.querySelector('dialog.inv-large').close()")


@pytest.mark.parametrize("page", ["book/intro", "/04_", "/05_"])
def test_on_a_phone_each_frame_of_a_slider_has_its_own_form(browser, address, chapters, screen, page):
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    screen(400)
    (chapter,) = [name for name in (*chapters, "book/intro.html") if page in name]
    browser.get(f"{address}/{chapter}")
    slider = sliders(browser)[0]
    image = slider.find_element("xpath", "./ancestor::figure").find_element("css selector", "picture img")
    browser.execute_script("arguments[0].loading = 'eager'", image)
    seen = set()
    for key in (Keys.HOME, Keys.ARROW_RIGHT, Keys.END):
        slider.send_keys(key)
        WebDriverWait(browser, 10).until(lambda b: b.execute_script("return arguments[0].complete", image))
        shown, wide, natural, right = browser.execute_script(
            "const [p] = arguments;"
            "return [p.currentSrc, p.src, p.naturalWidth / p.width, p.getBoundingClientRect().right]",
            image,
        )
        assert shown != wide, "the form for a phone is another picture"
        assert natural == pytest.approx(2, rel=0.2), "it is shown at the size that it was drawn for"
        assert right <= 400
        seen.add(shown)
    assert len(seen) == 3


def test_on_a_phone_rows_of_images_fit_and_open_as_they_are_shown(browser, address, chapters, screen):
    from selenium.webdriver.support.ui import WebDriverWait

    screen(400)
    (chapter,) = [name for name in chapters if "/04_" in name]
    browser.get(f"{address}/{chapter}")
    rows = "[...document.querySelectorAll('picture img')].filter(p => / rows of up to /.test(p.alt))"
    browser.execute_script(f"{rows}.forEach(p => {{ p.loading = 'eager' }})")
    WebDriverWait(browser, 30).until(lambda b: b.execute_script(f"return {rows}.every(p => p.complete)"))
    sheets = browser.execute_script(f"""
        return {rows}.map(p => {{
            p.click()
            const window = document.querySelector('dialog.inv-large'), large = window.querySelector('img')
            const opened = [large.src === p.currentSrc, parseFloat(large.style.width) >= 1.9 * p.width]
            window.close()
            const box = p.getBoundingClientRect()
            const columns = +p.alt.match(/ rows of up to (\\d+)/)[1]
            return [box.left, box.right, columns, p.naturalWidth, ...opened, !!p.closest('.inv-scroll')]
        }})
    """)
    assert len(sheets) >= 4, "of this run and of recorded ones"
    # How many stand in a line, and how large: twice five of ten, six or, of larger ones, twice three, three times two.
    lines = {10: [(5, 48), (5, 56)], 6: [(6, 48), (3, 96)], 5: [(2, 112)]}
    for left, right, columns, width, same, doubled, moved in sheets:
        assert left >= 0
        assert right <= 400
        assert (same, doubled, moved) == (True, True, False)
        by_hand = [MARGIN + count * tile + (count - 1) * GAP + MARGIN for count, tile in lines[columns]]
        assert any(width / SHARPNESS == pytest.approx(all_of_it, abs=1) for all_of_it in by_hand), (columns, width)


def test_a_chart_fits_a_phone_and_need_not_be_moved(browser, address, chapters, screen):
    from selenium.webdriver.support.ui import WebDriverWait

    screen(400)
    (chapter,) = [name for name in chapters if "/04_" in name]
    browser.get(f"{address}/{chapter}")
    browser.execute_script("document.querySelectorAll('details.inv-data').forEach(fold => { fold.open = true })")
    browser.execute_script("document.querySelectorAll('.inv-chart img').forEach(p => { p.loading = 'eager' })")
    unread = "return [...document.querySelectorAll('.inv-chart img')].some(p => !p.complete)"
    WebDriverWait(browser, 30).until_not(lambda b: b.execute_script(unread))
    charts = browser.execute_script("""
        return [...document.querySelectorAll('.inv-chart img')].map(picture => {
            const box = picture.getBoundingClientRect()
            return [box.left, box.right, picture.naturalWidth / box.width, !!picture.closest('.inv-scroll')]
        })
    """)
    assert len(charts) > 8, "of recorded runs, too"
    for left, right, pixels, moved in charts:
        assert left >= 0
        assert right <= 400
        assert 1.8 < pixels < 2.5, "words are at most a fifth smaller than in the wide chart"
        assert not moved


def test_pictures_of_recorded_runs_have_the_room_that_their_tiles_need(browser, address, chapters, screen):
    screen(1300)
    (chapter,) = [name for name in chapters if "/04_" in name]
    browser.get(f"{address}/{chapter}")
    shown = browser.execute_script("""
        const pictures = [...document.querySelectorAll(':is(.inv-recorded > img, .inv-recorded > picture > img)')]
        return pictures.map(p => [p.width, +p.getAttribute('width')])
    """)
    assert len(shown) > 8
    for width, own in shown:
        assert width >= min(own, 664), "test_gallery.py reckons with so many"


def test_on_a_phone_long_names_stand_above_their_numbers_which_need_not_be_moved(browser, address, chapters, screen):
    (chapter,) = [name for name in chapters if "/09_" in name]
    heights = """
        document.querySelectorAll('details').forEach(fold => { fold.open = true })
        const table = document.querySelector('table.inv-named'), place = table.closest('.inv-scroll')
        const rows = [...table.querySelectorAll('tr.inv-name')]
        const lines = rows.map(row => row.offsetHeight / 20)
        return [rows.length, Math.max(...lines), place.scrollWidth - place.clientWidth]
    """
    screen(400)
    browser.get(f"{address}/{chapter}")
    count, lines, hidden = browser.execute_script(heights)
    assert count > 3
    assert 1 <= lines < 3
    assert hidden <= 1
    screen(1300)
    assert browser.execute_script(heights)[1] == 0, "there each stands beside them"


def test_on_a_phone_the_names_in_the_opening_picture_can_be_read(browser, address, screen):
    shown = """
        const image = document.querySelector('figure.hero img')
        return [image.currentSrc, image.naturalWidth / image.clientWidth, image.naturalHeight / image.clientHeight]
    """
    seen = {}
    for width in (400, 1300):
        screen(width)
        browser.get(f"{address}/book/intro.html")
        seen[width] = browser.execute_script(shown)
    assert seen[400][0].endswith("_phone.webp")
    assert not seen[1300][0].endswith("_phone.webp")
    for _, across, down in seen.values():
        assert across < 2.2, "two image pixels are one CSS pixel, in which letters are 12 pixels high"
        assert abs(across - down) < 0.05, "it is not distorted"


def test_on_a_phone_tables_of_many_columns_are_whole(browser, address, chapters, screen):
    screen(400)
    seen = 0
    for page in chapters:
        browser.get(f"{address}/{page}")
        found = browser.execute_script("""
            document.querySelectorAll('details').forEach(fold => { fold.open = true })
            return [...document.querySelectorAll('table.inv-many')].map(table => {
                const place = table.closest('.inv-scroll')
                const cell = table.querySelector('tbody tr > :not(:first-child, :empty)')
                const named = getComputedStyle(cell, '::before').content
                return [place.scrollWidth - place.clientWidth, named, cell.dataset.head]
            })
        """)
        for hidden, named, head in found:
            assert hidden <= 1, page
            assert named == f'"{head}"', "each number has the name of its column above it"
        seen += len(found)
    assert seen > 30


def test_on_a_phone_the_short_value_of_a_slider_stands_beside_it(browser, address, chapters, screen):
    screen(400)
    apart = {}
    for page in chapters:
        browser.get(f"{address}/{page}")
        for title, value, away in browser.execute_script("""
            const middle = box => (box.top + box.bottom) / 2
            return [...document.querySelectorAll('.inv-frames:has(label)')].map(figure => {
                const [title, slider, value] = ['label', 'input', 'output'].map(name => figure.querySelector(name))
                const away = middle(slider.getBoundingClientRect()) - middle(value.getBoundingClientRect())
                return [title.textContent, value.textContent, Math.abs(away)]
            })
        """):
            if len(value) < 6:
                apart[page, title] = away
    assert len(apart) > 5
    assert all(away < 8 for away in apart.values()), apart


def test_the_map_of_methods_is_a_list_of_cards_on_a_phone(browser, address, screen):
    screen(400)
    browser.get(f"{address}/book/methods.html")
    for name in ("inv-map", "inv-sheet"):
        table = browser.find_element("css selector", f"table.{name}")
        cells = browser.execute_script(
            "return [...arguments[0].querySelectorAll('tbody td')].filter(cell => cell.clientHeight)"
            ".map(cell => [cell.getBoundingClientRect().right, cell.textContent.trim()])",
            table,
        )
        assert len(cells) > 10
        assert max(right for right, _ in cells) <= 400
        assert all(words for _, words in cells), "a card says what a cell is that holds nothing"


def test_the_matrix_of_claims_is_filtered_by_the_keyboard(browser, address):
    from selenium.webdriver.common.keys import Keys

    browser.get(f"{address}/book/scoreboard.html")
    rows = browser.find_elements("css selector", ".inv-matrix tr.inv-row")
    box = browser.find_element("css selector", ".inv-matrix input")
    kind = box.get_attribute("class")
    box.send_keys(Keys.SPACE)
    for row in rows:
        assert row.is_displayed() == (kind not in row.get_attribute("class").split())
    box.send_keys(Keys.SPACE)
    assert all(row.is_displayed() for row in rows)


def test_a_link_to_a_claim_opens_the_fold_that_it_stands_in(browser, address):
    browser.get(f"{address}/book/intro.html")  # another page, so that the next one is loaded
    opened = "return [...document.querySelectorAll('details.inv-board')].map(fold => fold.open)"
    browser.get(f"{address}/book/scoreboard.html")
    assert not any(browser.execute_script(opened))
    link = browser.find_elements("css selector", ".inv-matrix th a")[-1]
    browser.execute_script("arguments[0].click()", link)
    target = link.get_attribute("href").partition("#")[2]
    assert target.startswith("board-")
    row = browser.find_element("id", target)
    assert row.is_displayed()
    assert sum(browser.execute_script(opened)) == 1
    top, seen = row.rect["y"], browser.execute_script("return [scrollY, scrollY + innerHeight]")
    assert seen[0] <= top <= seen[1]


def test_paper_has_every_fold_of_the_scoreboard_open(browser, address):
    browser.get(f"{address}/book/scoreboard.html")
    opened = "return [...document.querySelectorAll('details.inv-board')].map(fold => fold.open)"
    states = []
    for moment in ("beforeprint", "afterprint"):
        browser.execute_script(f"window.dispatchEvent(new Event('{moment}'))")
        states.append(set(browser.execute_script(opened)))
    assert states == [{True}, {False}]


def test_a_choice_in_the_quiz_is_answered_without_a_script(browser, address, chapters):
    (chapter,) = [name for name in chapters if "/08_" in name]
    browser.get(f"{address}/{chapter}")
    for kind in ("right", "wrong"):
        box = browser.find_element("css selector", f".inv-quiz input.{kind}")
        browser.execute_script("arguments[0].click()", box)
        told = box.find_element("xpath", f"./ancestor::fieldset//p[contains(@class, 'told {kind}')]")
        assert told.is_displayed()


def test_a_chapter_weighs_less_than_four_megabytes_when_it_opens(browser, address, chapters):
    weigh = "return performance.getEntries().map(e => e.transferSize || 0).reduce((a, b) => a + b, 0)"
    for chapter in chapters:
        browser.execute_cdp_cmd("Network.setCacheDisabled", {"cacheDisabled": True})
        browser.get(f"{address}/{chapter}")
        weight = browser.execute_script(weigh)
        assert 100_000 < weight < 4_000_000, f"{chapter} weighs {weight / 1e6:.1f} MB"


TILES = """
return [...document.querySelectorAll("img.inv-tile")].map(image => image.getBoundingClientRect().width)
"""


@pytest.mark.parametrize("width", [390, 1280])
def test_tiles_of_the_gallery_are_at_least_48_pixels_wide(browser, address, width):
    settings = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", settings)
    try:
        browser.get(f"{address}/book/gallery.html")
        tiles = browser.execute_script(TILES)
        assert len(tiles) > 64
        assert min(tiles) >= 48, min(tiles)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")])
def test_axe_finds_nothing_serious(browser, address, chapters, everything, screen, width, theme):
    from selenium.webdriver.support.ui import WebDriverWait

    if find_spec("axe_core_python") is None:
        pytest.skip("axe-core-python is not installed")
    script = (Path(find_spec("axe_core_python").origin).parent / "axe.min.js").read_text("utf8")
    screen(width, theme)
    browser.set_script_timeout(120)
    front = [f"book/{name}.html" for name in ("intro", "methods", "gallery", "scoreboard", "setup", "cluster")]
    is_still = "!document.getAnimations().some(motion => motion.playState === 'running')"
    found, themed = {}, f"return document.documentElement.dataset.theme === '{theme}' && {is_still}"
    # All pages in one view, in the others of the chapters the one with every kind of widget.
    some = front + [name for name in chapters if "/09_" in name]
    for page in everything if (width, theme) == (1280, "light") else some:
        browser.get(f"{address}/{page}")
        # A page begins in the theme of the one before, until the theme's own script has run and colours have faded.
        WebDriverWait(browser, 30).until(lambda b: b.execute_script(themed))
        browser.execute_script(script)
        if findings := browser.execute_async_script(AXE):
            found[page] = findings
    assert not found


def test_what_scrolls_sideways_on_a_phone_is_reached_by_the_tab_key(browser, address, screen):
    screen(400)
    browser.get(f"{address}/book/methods.html")
    count = """
        const parts = [...document.querySelectorAll(".bd-content :is(.text_html, .inv-scroll)")];
        const wide = parts.filter(part => part.scrollWidth > part.clientWidth + 1);
        return [wide.length, wide.filter(part => part.tabIndex !== 0).length];
    """
    there, out_of_reach = browser.execute_script(count)
    assert there, "no table is wider than a phone"
    assert not out_of_reach


def test_what_goes_on_at_a_side_fades_there(browser, address, chapters, screen):
    screen(400)
    (chapter,) = [name for name in chapters if "/09_" in name]
    browser.get(f"{address}/{chapter}")
    state = """
        const parts = [...document.querySelectorAll('.bd-content :is(.inv-scroll, div.highlight pre)')];
        const wide = parts.filter(part => part.scrollWidth > part.clientWidth + 5);
        return wide.map(part => [part.classList.contains('inv-fade-left'), part.classList.contains('inv-fade-right')]);
    """
    at_first = browser.execute_script(state)
    assert len(at_first) > 5
    assert all(pair == [False, True] for pair in at_first)
    browser.execute_script("document.querySelectorAll('.inv-fade-right').forEach(part => part.scrollTo(9999, 0))")
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    assert all(pair == [True, False] for pair in browser.execute_script(state))


def test_the_contents_beside_a_long_page_move_to_the_section_that_is_read(browser, address, chapters, screen):
    from selenium.webdriver.support.ui import WebDriverWait

    screen(1300)
    (chapter,) = [name for name in chapters if "/09_" in name]
    browser.get(f"{address}/{chapter}")
    browser.execute_script("[...document.querySelectorAll('main section[id] h2')].pop().scrollIntoView()")
    seen = """
        scrollBy(0, -100)  // until the theme has seen a heading come into the page
        const column = document.querySelector('.bd-sidebar-secondary'), box = column.getBoundingClientRect()
        const line = [...column.querySelectorAll('.nav-link.active')].pop()?.getBoundingClientRect()
        return line?.top >= box.top && line.bottom <= Math.min(box.bottom, innerHeight) && [column.scrollTop]
    """
    (scrolled,) = WebDriverWait(browser, 10).until(lambda b: b.execute_script(seen))
    assert scrolled > 0, "the names of the last sections are below the fold of the contents"


def test_an_option_of_a_command_stays_in_one_line(browser, address, chapters, screen):
    screen(400)
    words = """
        const words = [...document.querySelectorAll(':is(code.inv-option, .inv-recorded code) .pre')];
        const short = words.filter(word => word.textContent.startsWith('-') && word.textContent.length < 25);
        return [short.length, short.filter(word => word.offsetHeight > 30).map(word => word.textContent)];
    """
    for page in ("book/cluster.html", next(name for name in chapters if "/12_" in name)):
        browser.get(f"{address}/{page}")
        count, broken = browser.execute_script(words)
        assert count, page
        assert broken == [], page


def test_nothing_is_cut_on_paper(browser, address, everything, screen):
    from selenium.webdriver.support.ui import WebDriverWait

    screen(PAPER)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    found = {}
    for page in everything:
        browser.get(f"{address}/{page}")
        WebDriverWait(browser, 30).until_not(lambda b: b.execute_script(UNSET))
        if cut := browser.execute_script(CUT):
            found[page] = cut[:5]
    assert not found


def test_a_dark_page_is_printed_in_the_light_theme(browser, address, screen):
    screen(1280, "dark")
    browser.get(f"{address}/book/methods.html")
    colours = "() => { window.printed = getComputedStyle(document.body).backgroundColor }"
    browser.execute_script(f"window.addEventListener('beforeprint', {colours})")
    browser.execute_cdp_cmd("Page.printToPDF", {})
    assert browser.execute_script("return window.printed") == "rgb(255, 255, 255)"
    assert browser.execute_script("return document.documentElement.dataset.theme") == "dark"


def test_buttons_and_what_is_dragged_answer_to_the_keyboard(browser, address, chapters):
    from selenium.webdriver.common.keys import Keys

    (chapter,) = [name for name in chapters if "/09_" in name]
    browser.get(f"{address}/{chapter}")
    buttons = browser.find_elements("css selector", "figure.inv-frames button")
    image = buttons[0].find_element("xpath", "./ancestor::figure//img")
    seen = set()
    for button in buttons:
        button.send_keys(Keys.SPACE)
        assert button.get_attribute("aria-pressed") == "true"
        seen.add((image.get_attribute("src"), button.accessible_name))
    assert len({name for _, name in seen if name}) == 3, "each has a name of its own"
    assert len({source for source, _ in seen}) == 3
    dragged = browser.find_element("css selector", "figure.inv-drag")
    slider = dragged.find_element("css selector", "input")
    panes = dragged.find_elements("css selector", "span img")

    def state():
        return [(pane.get_attribute("alt"), pane.value_of_css_property("transform")) for pane in panes]

    slider.send_keys(Keys.HOME)
    start = state()
    slider.send_keys(Keys.END)
    end = state()
    assert (start[0], start[-1]) == (end[0], end[-1]), "the two images themselves stay where they are"
    assert all(before != after for before, after in zip(start[1:-1], end[1:-1], strict=True))
    decoded = "return arguments[0].decode().then(() => arguments[0].naturalWidth)"
    assert browser.execute_script(decoded, panes[1]) > 100, "the sheet is a file that the page finds"
    browser.execute_script("document.documentElement.dataset.theme = 'dark'")
    assert {pane.value_of_css_property("padding") for pane in panes} == {"0px"}, "padding would shift the sheet"


def test_in_the_dark_sheets_of_images_lose_their_ground_and_no_pixel_of_their_tiles(browser, address, screen):
    seen = {}
    for theme in ("light", "dark"):
        screen(1300, theme)
        browser.get(f"{address}/book/intro.html")
        image = browser.find_element("css selector", "figure.hero img")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", image)
        seen[theme] = np.asarray(Image.open(io.BytesIO(image.screenshot_as_png)).convert("RGB")).astype(int)
    light, dark = seen["light"], seen["dark"]
    assert light.shape == dark.shape
    middle = tuple(slice(side // 20, side // 4) for side in light.shape[:2])  # within the first of three tiles a side
    assert light[middle].std() > 20, "it is an image"
    assert np.abs(light[middle] - dark[middle]).max() <= 1
    assert light[0, 0].min() > 240
    assert dark[0, 0].max() < 60
