"""The built HTML: alt texts, no loads from other hosts, no dead widgets, links that lead somewhere."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import pytest
from bs4 import BeautifulSoup, Tag

SHOWN = ".inv-figure, .inv-frames, .inv-drag, .inv-recorded, .inv-quiz, .inv-gallery, .inv-ways, figure.hero"
LONG = 10  # rows that a page shows as a table
WIDGET = re.compile(r"application/vnd\.jupyter\.widget|jupyter-widgets|require(?:\.min)?\.js")


class Page(HTMLParser):
    """What the tests need to know of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.images: list[dict] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.names: set[str] = set()
        self.metas: dict[str, str] = {}
        self.feed(path.read_text("utf8"))

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.names |= {a[key] for key in ("id", "name") if a.get(key)}
        if tag == "img":
            self.images.append(a)
        if tag == "meta":
            self.metas[a.get("property") or a.get("name") or ""] = a.get("content", "")
        if tag == "a" and a.get("href"):
            self.links.append(a["href"])
        if tag in {"script", "img", "iframe", "source", "video", "audio", "embed"} and a.get("src"):
            self.loads.append(a["src"])
        if tag == "link" and a.get("href") and a.get("rel") not in {"canonical", "author", "next", "prev"}:
            self.loads.append(a["href"])


@pytest.fixture(scope="session")
def pages(site) -> dict[Path, Page]:
    """Every page of the book by its file."""
    found = {p: Page(p) for folder in ("book", "notebooks") for p in (site / folder).rglob("*.html")}
    assert any(p.parent.name == "notebooks" for p in found), "no chapter was built"
    return found


@pytest.fixture(scope="session")
def texts(pages) -> dict[Path, Tag]:
    """What stands on every page between its head and its foot."""
    read = {path: BeautifulSoup(path.read_text("utf8"), "html.parser") for path in pages}
    return {path: page.select_one("article.bd-article") for path, page in read.items()}


@pytest.fixture(scope="session")
def chapters(texts) -> dict[Path, Tag]:
    """The pages that notebooks became."""
    found = {path: page for path, page in texts.items() if path.parent.name == "notebooks"}
    assert len(found) == 12
    return found


def test_the_index_of_words_is_loaded_where_one_searches(pages, site):
    assert any("searchindex.js" in source for source in Page(site / "search.html").loads)
    assert not [path.name for path, page in pages.items() if any("searchindex.js" in source for source in page.loads)]


def test_every_image_has_an_alt_text(pages):
    bad = [
        (path.name, image.get("src", "")[:60])
        for path, page in pages.items()
        for image in page.images
        if not (image.get("alt") or "").strip() or "_images/" in image["alt"]
    ]
    assert not bad


def test_nothing_is_loaded_from_another_host(pages):
    outside = {(path.name, url) for path, page in pages.items() for url in page.loads if re.match(r"(https?:)?//", url)}
    assert not outside


def test_style_sheets_load_nothing_from_another_host(site):
    for sheet in (site / "_static").rglob("*.css"):
        outside = re.findall(r"(?:url\(|@import\s)\s*['\"]?((?:https?:)?//[^'\")\s]+)", sheet.read_text("utf8"))
        assert not outside, sheet.name


def test_no_page_waits_for_a_kernel(pages):
    assert not [path.name for path in pages if WIDGET.search(path.read_text("utf8"))]


def test_internal_links_lead_somewhere(pages, site):
    broken = []
    for path, page in pages.items():
        for link in page.links:
            where, name = urldefrag(link)
            if urlparse(where).scheme or where.startswith("//"):
                continue
            target = (path.parent / unquote(where)).resolve() if where else path
            if not target.is_file() or (name and target in pages and unquote(name) not in pages[target].names):
                broken.append((path.name, link))
    assert not broken


def test_links_into_the_repository_name_files_that_exist(pages):
    root = Path(__file__).resolve().parents[2]
    pattern = re.compile(r"github\.com/[\w-]+/[\w-]+/(?:blob|edit|tree)/main/([^?#]+)")
    named = {m[1] for page in pages.values() for link in page.links if (m := pattern.search(link))}
    assert named
    assert not {name for name in named if not (root / name).exists()}


def test_chapters_have_their_launch_buttons(pages):
    for path, page in pages.items():
        if path.parent.name == "notebooks":
            links = " ".join(page.links)
            assert "mybinder.org" in links
            assert (
                f"colab.research.google.com/github/inverting-neural-networks/book/blob/main/notebooks/{path.stem}.ipynb"
                in links
            )


def test_pages_carry_a_social_card_of_their_own(pages, chapters, site):
    cards = {path: page.metas for path, page in pages.items()}
    for name in ("og:title", "og:description"):
        said = [card[name] for card in cards.values()]
        assert all(said)
        assert len(set(said)) == len(said), f"pages share their {name}"
    for path, card in cards.items():
        assert card["description"] == card["og:description"]
        assert len(card["og:description"]) <= 200, path.name
        address = card["og:image"].removeprefix("https://inverting-neural-networks.github.io/book/")
        assert (site / address).is_file(), f"{path.name}: {card['og:image']}"
        assert card["og:image:alt"].strip()
    assert len({cards[path]["og:image"] for path in chapters}) >= 11, "chapters share their picture"
    for path, page in chapters.items():
        brief = next(p for p in page.select("p") if p.get_text().startswith("In brief. "))
        told = cards[path]["og:description"].removesuffix(" …")
        assert told
        assert " ".join(brief.get_text().split()).removeprefix("In brief. ").startswith(told)


def test_every_module_is_documented(site):
    package = Path(__file__).resolve().parents[2] / "invkit"
    modules = {
        ".".join(p.relative_to(package.parent).with_suffix("").parts)
        for p in package.rglob("*.py")
        if not p.stem.startswith("_")
    }
    pages = [p.read_text("utf8") for p in (site / "book/api").glob("*.html")]
    shown = {name for text in pages for name in re.findall(r'id="module-(invkit[\w.]*)"', text)}
    assert shown == modules


def test_mathematics_is_loaded_where_there_is_some(pages):
    for path, page in pages.items():
        text = path.read_text("utf8")
        sets = any("tex-svg.js" in source for source in page.loads)
        assert sets == bool(re.search(r'class="[^"]*\bmath\b', text)), path.name


def test_the_theme_s_icons_are_those_that_pages_use(site):
    script = (site / "_static/scripts/fontawesome.js").read_text("utf8")
    assert len(script) < 300_000
    for icon in ("bars", "download", "magnifying-glass"):
        assert re.search(rf'"?{icon}"?:\[|"{icon}"', script), icon


def number_of(shown: Tag) -> str:
    """The number in the caption of the figure that something stands in."""
    figures = [shown, *shown.parents]
    spans = [figure.select_one(":scope > figcaption .caption-number") for figure in figures if figure.name == "figure"]
    return next((span.get_text().strip() for span in spans if span), "")


def test_all_that_is_shown_has_a_number(texts):
    seen = set()
    for path, page in texts.items():
        for shown in page.select(SHOWN):
            assert re.fullmatch(r"Fig\. \d+(\.\d+)?", number_of(shown)), f"{path.name}: {str(shown)[:300]}"
            seen |= set(shown["class"])
    assert {name.strip(". ").removeprefix("figure.") for name in SHOWN.split(",")} <= seen


def test_numbers_of_figures_follow_each_other(chapters):
    for path, page in chapters.items():
        numbers = [span.get_text().strip() for span in page.select("figcaption .caption-number")]
        assert numbers == [f"Fig. {int(path.name[:2])}.{i + 1}" for i in range(len(numbers))], path.name


def test_chapters_and_scoreboard_lead_to_each_other(pages):
    board = next(page for path, page in pages.items() if path.name == "scoreboard.html")
    with_claims = []
    for path, page in pages.items():
        claims = {name for name in page.names if name.startswith("claim-")}
        if path.parent.name == "notebooks" and claims:
            with_claims.append(path.name)
            there = {f"../book/scoreboard.html#board-{name}" for name in claims}
            assert there <= set(page.links), path.name
            back = {f"../notebooks/{path.name}#{name}" for name in claims}
            assert back <= set(board.links), path.name
    assert [name[:2] for name in sorted(with_claims)] == [f"{i:02}" for i in range(1, 10)]


def test_each_chapter_offers_its_executed_notebook(pages, site):
    for path, page in pages.items():
        if path.parent.name == "notebooks":
            (link,) = {link for link in page.links if "/runs/" in link}
            text = (path.parent / link).read_text("utf8")
            outputs = [output for cell in json.loads(text)["cells"] for output in cell.get("outputs", [])]
            assert len(text) < 10_000_000, path.name
            assert outputs
            assert not [o for o in outputs if {"text/html", "image/png"} <= o.get("data", {}).keys()], path.name


def test_each_recorded_run_leads_to_its_file(chapters):
    named = set()
    for path, page in chapters.items():
        for run in page.select(".inv-recorded"):
            (link,) = run.select(".inv-record a[download]")
            file = path.parent / link["href"]
            record, words = json.loads(file.read_text("utf8")), run.get_text()
            assert record["date"][:10] in words
            assert record["commit"] in words
            assert record["command"] in words
            assert record.get("note", "").replace("`", "") in words
            named.add(file.stem)
    assert len(named) > 50, "of more than sixty that lie beside the pages"


def test_long_tables_are_folded(chapters):
    for path, page in chapters.items():
        for table in page.select("table:not(.inv-claims)"):
            rows = len(table.select("tbody tr:not(.inv-name)"))
            assert rows <= LONG or table.find_parent("details"), f"{path.name}: {rows} rows, {str(table)[:200]}"


def test_the_rows_of_a_fold_can_be_downloaded(chapters):
    folds = [(path, fold) for path, page in chapters.items() for fold in page.select("details.inv-data")]
    assert len(folds) > 20
    for path, fold in folds:
        links = [link["href"] for link in fold.select("a[download]")]
        assert [Path(link).suffix for link in links] == [".csv", ".json"]
        rows, records = ((path.parent / link).read_text("utf8") for link in links)
        assert len(json.loads(records)) == len(rows.splitlines()) - 1 == len(fold.select("tbody tr:not(.inv-name)"))


def test_no_page_has_lost_a_recorded_run(pages):
    for path in pages:
        for sign in ("is missing here", "is missing, and what it shows with it", "cannot be shown here"):
            assert sign not in path.read_text("utf8"), path.name


def test_the_start_page_leads_to_the_introduction(site):
    assert "book/intro.html" in (site / "index.html").read_text("utf8")


def test_there_is_a_record_of_the_build(site):
    text = (site / "book/about_this_build.html").read_text("utf8")
    assert "torch" in text
    assert "01_deepinversion" in text
    assert re.search(r"20\d\d-\d\d-\d\d", text)


def test_short_names_stay_in_one_line_in_headings_sentences_and_titles_of_recorded_runs(site):
    seen = 0
    for path in sorted((site / "notebooks").glob("*.html")):
        page = BeautifulSoup(path.read_text("utf8"), "html.parser")
        for words in page.select("h1, h2, h3, section > p, .inv-recorded > figcaption > p:first-child"):
            for found in words.find_all(string=re.compile("CIFAR-10")):
                if not found.find_parent(["a", "code", "math"]):
                    assert found.find_parent(class_="inv-whole"), f"{path.name}: {words.get_text()[:80]}"
                    seen += 1
    assert seen > 20
