"""Sphinx extension: what a notebook's outputs need to stand on a page.

After `executed` has brought the outputs in: sliders and recorded runs are numbered and captioned, ids of claims lead to
the scoreboard, and tables of more than ten rows become dots, with the rows in a fold; each table scrolls for itself.
The cells that test claims stand in one fold. The first use of a term leads to the glossary. Large pictures become files
that are loaded when they are scrolled to. What a long table holds lies beside the pages as CSV and JSON, and so do the
recorded runs, each linked from where it is shown, and the executed notebook, with its outputs.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import textwrap
from collections.abc import Iterable
from html import escape
from itertools import pairwise
from pathlib import Path

import pandas as pd
from bs4 import BeautifulSoup, NavigableString, Tag
from phone import add_forms
from sphinx.util import logging

from invkit.book.ledger.claims import anchor
from invkit.show.panels import NAMES, WIDTH, dot_panels
from invkit.show.picture import CSS_DPI, PHONE, img_tag, render_png, webp
from invkit.show.tables import signed

log = logging.getLogger(__name__)
LONG = 10  # rows that are read as a table; more of them are drawn
DRAWN = 48  # rows that fit a figure
RUN = re.compile(r"(recorded run )([\w-]+)")  # as the rows of claims name them
LETTER = 5  # CSS pixels of one in a row's name, beside the dots
WORDY = 30  # letters of a row's name that make three lines beside its numbers on a phone, where longer ones go above
BROAD = 15  # letters of a cell, an interval's for one, that need more room than a number with its spread
MANY = 4  # columns of numbers for which a phone has no room side by side
UNLIKE = "unlike-rows"  # tag of a cell whose long table has another quantity in each row: no axis fits them all
READING = "A line for each row, a panel for each column; bars are the spread over seeds."
HEAVY = 8_000  # characters of a picture within the page; larger ones become files
DIGITS = r"\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?"
NUMBER = re.compile(rf"^([-−+]?{DIGITS})(?:\s*±\s*({DIGITS}))?\s*%?$")
SPREAD = re.compile(rf"^\s*[−+]?{DIGITS} ± {DIGITS}(?: ?[%\w]+)?\s*$")
UNIT = re.compile(r"(?<=\d) (?=(?:%|dB|[KMG]iB|px|pixels?|s|ms|min|minutes?|seconds?|images?|steps?)(?![\w-]))")
INTERVAL = re.compile(r"\[([-−+]?[\d.]+), ([-−+]?[\d.]+)\]")
NAME = re.compile(r"(?<![\w-])(?=[\w-]{4,12}(?![\w-]))[A-Z]\w*(?:-[A-Z\d]\w*)+")  # as ResNet-20; longer ones may break
PICTURE = re.compile(r'(\bsrc=|\bsrcset=|"src": )"data:image/(\w+);base64,([^"]+)"')
EVERYDAY = {
    "claim",
    "comparison",
    "digits",
    "inverse",
    "lead",
    "learner",
    "mask",
    "prior",
    "profile",
    "scales",
    "stage",
}
PROTECTED = re.compile(
    r"(^#[^\n]*$|^\|[^\n]*$|```.*?```|\$\$.*?\$\$(?: ?\([\w-]+\))?|\{[\w:]+\}`[^`]*`|`[^`]*`|\$[^$\n]+\$"
    r"|!?\[[^\]]*\]\([^)]*\)|\*\*[^*]+\*\*|\*[^*\n]+\*)",
    re.M | re.S,
)
Files = dict[str, bytes]
Records = dict[tuple[str, str], list[str]]  # names of recorded runs by title and command: one of them, or parts of it


def dress(notebook: dict, name: str, up: str = "..", records: Records | None = None) -> tuple[dict, Files]:
    """The notebook with its outputs dressed, and the data files that they link to, by path below ``_static``.

    Args:
        notebook: With the run's outputs.
        name: Of the chapter, as in ``"01_deepinversion"``.
        up: From the page to the root of the site.
        records: The recorded runs that lie beside the pages.
    """
    files: Files = {}
    notebook["cells"] = [part for cell in in_one_fold(notebook["cells"]) for part in apart(cell)]
    for number, cell in enumerate(notebook["cells"]):
        id = cell.get("id", f"cell-{number}")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/html" in data:
                html = add_forms("".join(data["text/html"]))  # first: a parser sorts the attributes of an image
                html = offer_record(link_claims(html, up, records or {}), up, records or {}, "".join(cell["source"]))
                html = number_figure(cell, html, f"fig-{name[:2]}-{id}")
                html = fold_tables(html, f"data/{name}-{id}", up, files, drawn=UNLIKE not in tags_of(cell))
                html = typeset(html)
                data["text/html"] = move_pictures(html, up, files)
    return notebook, files


def in_one_fold(cells: list[dict]) -> list[dict]:
    """The cells, with those that test claims joined to one, so that a page has one fold and not a sentence for each.

    The sentences between them become comments; a cell that shows something, or a heading, ends what is joined. Other
    folded cells are joined where one follows the other.
    """
    joined: list[dict] = []
    for cell in cells:
        first, last = [None, None, *joined][-2:]
        if is_folded(cell) and last and is_silent(last):
            joined[-1] = together(last, cell)
        elif tests_claims(cell) and first and is_silent(first) and tests_claims(first) and is_sentence(last):
            words = "".join(last["source"]).strip().rstrip(":")
            comment = textwrap.fill(words, 86, initial_indent="# ", subsequent_indent="# ")
            joined[-2:] = [together(first, cell, f"{comment}\n")]
        else:
            joined.append(cell)
    return joined


def together(first: dict, cell: dict, between: str = "") -> dict:
    """One cell of the sources of two, with what the second shows."""
    source = f"{''.join(first['source']).rstrip()}\n\n{between}{''.join(cell['source'])}"
    return first | {"source": source, "outputs": cell["outputs"]}


def is_sentence(cell: dict) -> bool:
    """Whether a cell is text without a heading."""
    return cell["cell_type"] == "markdown" and not "".join(cell["source"]).lstrip().startswith("#")


def is_silent(cell: dict) -> bool:
    """Whether a cell is folded and shows nothing."""
    return is_folded(cell) and not cell["outputs"]


def is_folded(cell: dict) -> bool:
    """Whether a page shows of a cell's source a fold alone."""
    return cell["cell_type"] == "code" and "hide-input" in tags_of(cell)


def tags_of(cell: dict) -> list[str]:
    """A cell's tags."""
    return cell["metadata"].get("tags", [])


def tests_claims(cell: dict) -> bool:
    """Whether a cell belongs to those that hold what a chapter measured against its claims."""
    return is_folded(cell) and "check_parameters" not in "".join(cell["source"])


def apart(cell: dict) -> list[dict]:
    """The cell, and each further slider or recorded run that it shows as a cell of its own: a figure has one number."""
    figures = [i for i, output in enumerate(cell.get("outputs", [])) if is_figure(output)]
    if len(figures) < 2:
        return [cell]
    outputs, ends = cell["outputs"], [*figures[1:], len(cell["outputs"])]
    parts = [cell | {"outputs": outputs[: ends[0]]}]
    for start, end in pairwise(ends):
        hidden = {"tags": ["remove-input"]}
        parts.append(cell | {"id": f"{cell.get('id')}-{start}", "metadata": hidden, "outputs": outputs[start:end]})
    return parts


def is_figure(output: dict) -> bool:
    """Whether an output is a slider, or another such figure that readers move, or a recorded run."""
    html = "".join(output.get("data", {}).get("text/html", ""))
    return any(f'class="{kind}"' in html for kind in ("inv-frames", "inv-drag", "inv-recorded"))


def glossary(text: str) -> list[str]:
    """The terms of a glossary page that are linked where a chapter first uses them, longest first.

    Words of everyday language, and the profiles, are left out: a link would promise a term of the field.
    """
    found = re.findall(r"^(\w[^\n]*)\n  \S", text, re.M)
    return sorted((term for term in found if term not in EVERYDAY and "(" not in term), key=len, reverse=True)


def link_terms(notebook: dict, terms: list[str]) -> dict:
    """Link the first use of each term in the prose to the glossary; headings, tables, code and mathematics stay."""
    prose = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    by_hand = re.findall(r"\{term\}`(?:[^`<]*<)?([^`<>]+)>?`", prose)
    left = [term for term in terms if term not in by_hand]
    for cell in notebook["cells"]:
        if cell["cell_type"] != "markdown":
            continue
        parts = PROTECTED.split("".join(cell["source"]))  # prose and protected text in turn
        for term in list(left):
            pattern = re.compile(rf"(?<![\w-])({re.escape(term)}s?)(?![\w-])")
            for i in range(0, len(parts), 2):
                if pattern.search(parts[i]):
                    before, word, after = pattern.split(parts[i], maxsplit=1)
                    parts[i : i + 1] = [before, f"{{term}}`{word} <{term}>`", after]
                    left.remove(term)
                    break
        parts[::2] = map(unbroken, parts[::2])
        cell["source"] = "".join(parts)
    return notebook


def link_claims(html: str, up: str, records: Records) -> str:
    """In a table of claims ids lead to the scoreboard, as its ids lead here, and recorded runs to their files."""
    if "data-claims" not in html:
        return html
    known = {name for names in records.values() for name in names}
    html = RUN.sub(
        lambda m: f'{m[1]}<a download href="{up}/_static/recorded/{m[2]}.json">{m[2]}</a>' if m[2] in known else m[0],
        html,
    )
    link = '<a href="{up}/book/scoreboard.html#{anchor}"><code>{id}</code></a>'
    pattern = re.compile(r'(<td class="inv-claim"[^>]*><p>)<code>([\w.-]+)</code>')
    return pattern.sub(lambda m: m[1] + link.format(up=up, anchor="board-" + anchor(m[2]), id=m[2]), html)


def offer_record(html: str, up: str, records: Records, source: str) -> str:
    """Below each recorded run the way to all that was recorded, as far as it lies beside the pages.

    Of several that read alike it is the one that the cell names.
    """

    def offer(found: re.Match[str]) -> str:
        figure = BeautifulSoup(found[0], "html.parser")
        head, command = figure.select_one("figcaption p"), figure.select("p > code")
        title = head.get_text().removeprefix("Recorded run").strip() if head else ""
        names = records.get((title, command[-1].get_text() if command else ""), [])
        name = next((name for name in names if f'"{name}"' in source), names[0] if names else "")
        link = f'<a download href="{up}/_static/recorded/{name}.json">JSON</a>'
        return f'{found[1]}<p class="inv-record">Download the run: {link}</p></figure>' if name else found[0]

    return re.sub(r'(<figure class="inv-recorded">.*?)</figure>', offer, html, flags=re.S)


def number_figure(cell: dict, html: str, name: str) -> str:
    """Give a slider or a recorded run without a caption its number, by the title that it carries itself.

    Returns the HTML; a recorded run's no longer holds the title, which the caption says.
    """
    book = cell["metadata"].setdefault("mystnb", {})
    shown = [output for output in cell["outputs"] if "data" in output]
    if "figure" in book or len(shown) > 1 or ('class="inv-frames"' not in html and 'class="inv-recorded"' not in html):
        return html
    figure = BeautifulSoup(html, "html.parser")
    if slider := figure.select_one(".inv-frames label"):
        caption = f"A slider: {slider.get_text().strip()}."
    elif buttons := figure.select_one(".inv-frames legend"):
        caption = f"Buttons: {buttons.get_text().strip()}."
    else:
        head = figure.select_one(".inv-recorded figcaption p")
        words = head.get_text().strip().removeprefix("Recorded run").strip() if head else ""
        caption = f"Recorded run. {words}."
        html = html.replace(f"</strong> {escape(words)}</p><p>", "</strong> ", 1)
    book["figure"] = {"name": name, "caption": re.sub(r"([_*`$\[\]])", r"\\\1", caption)}
    return html


def fold_tables(html: str, stem: str, up: str, files: Files, drawn: bool = True) -> str:
    """Draw each table of more than ten rows, with its rows in a fold and as files; others stay as they are.

    In a recorded run that has a picture the dots are within the fold.
    """
    if "<table" not in html or "data-claims" in html:
        return html
    soup = BeautifulSoup(html, "html.parser")
    tables = [table for table in soup.find_all("table") if len(table.select("tbody tr")) > LONG]
    pictured = {id(table): bool(record.img) for table in tables if (record := table.find_parent(class_="inv-recorded"))}
    for i, table in enumerate(tables):
        rows = read_table(table)
        place = stem if len(tables) == 1 else f"{stem}-{i}"
        files[f"{place}.csv"], files[f"{place}.json"] = as_csv(rows).encode(), as_json(rows).encode()
        links = [f'<a href="{up}/_static/{place}.{kind}" download>{kind.upper()}</a>' for kind in ("csv", "json")]
        fold, summary = soup.new_tag("details", attrs={"class": "inv-data"}), soup.new_tag("summary")
        table.wrap(fold)
        fold.insert(0, summary)
        fold.append(BeautifulSoup(f"<p>Download: {', '.join(links)}</p>", "html.parser"))
        within, picture = pictured.get(id(table), False), draw(rows) if drawn else ""
        what = "The numbers, as dots and as a table" if within and picture else "The numbers"
        summary.string = f"{what}: {len(rows) - 1} rows, from {rows[1][0]} to {rows[-1][0]}"
        if picture:
            words = f'<div class="inv-figure inv-chart">{picture}<p class="inv-reading">{READING}</p></div>'
            figure = BeautifulSoup(words, "html.parser")
            summary.insert_after(figure) if within else fold.insert_before(figure)
    return str(soup) if tables else html


def typeset(html: str) -> str:
    """Give each table a place to scroll in, and its numbers a minus and no break before their spread."""
    if not any(sign in html for sign in ("<table", "inv-statements", "inv-recorded")):
        return html
    soup = BeautifulSoup(html, "html.parser")
    for words in soup.select(".inv-recorded figcaption p"):
        keep_names(words.find_all(string=True))
    for table in soup.find_all("table"):
        if "inv-claims" not in table.get("class", []) and not table.find_parent(class_="inv-scroll"):
            table.wrap(soup.new_tag("div", attrs={"class": "inv-scroll"}))
        if "inv-claims" in table.get("class", []):
            keep_names(text for text in table.find_all(string=True) if text.find_parent("td"))
        many = not table.img and "inv-claims" not in table.get("class", []) and headed(table)
        if table.find_parent(class_="inv-recorded") and not many:
            names_above(soup, table)
        # A style sheet keeps the numbers of recorded runs whole on the screen, and lets them break on paper.
        keep = str if table.find_parent(class_="inv-recorded") else unbroken
        for text in table.find_all(string=True):
            if text.find_parent("td"):
                words = signed(str(text))
                text.replace_with(spread_apart(words) if SPREAD.match(words) else keep(words))
    for sentence in soup.select(".inv-statements"):
        for text in sentence.find_all(string=True):
            text.replace_with(unbroken(signed(str(text))))
    return str(soup)


def spread_apart(words: str) -> BeautifulSoup:
    """A number and its spread, which a style sheet sets beneath it where room is scarce.

    >>> str(spread_apart("0.93 ± 0.02"))
    '0.93 <span class="inv-spread">± 0.02</span>'
    """
    mean, spread = words.strip().split(" ± ")
    return BeautifulSoup(f'{mean} <span class="inv-spread">± {spread}</span>', "html.parser")


def headed(table: Tag) -> bool:
    """Where a table has more columns than a phone has room for, tell each number its column; whether it has.

    A style sheet then shows a row as a block, with the columns' names above the numbers.
    """
    lines = [[head.get_text() for head in line.find_all(["th", "td"])][1:] for line in table.select("thead tr")]
    heads = next((line for line in lines if any(line)), [])
    rows = [row.find_all(["th", "td"])[1:] for row in table.select("tbody tr")]
    if max(map(len, rows), default=0) < MANY or any(len(row) != len(heads) for row in rows):
        return False
    broad = any(len(cell.get_text().strip()) > BROAD for row in rows for cell in row)
    table["class"] = [*table.get("class", []), "inv-many", *(["inv-broad"] if broad else [])]
    for row in rows:
        for cell, head in zip(row, heads, strict=True):
            cell["data-head"] = head
    return True


def names_above(soup: BeautifulSoup, table: Tag) -> None:
    """Where names of rows are long, repeat each above its row: a style sheet shows one of the two, by the width."""
    named = [(row, row.th.get_text()) for row in table.select("tbody tr:has(> th)")]
    if max((len(name) for _, name in named), default=0) <= WORDY:
        return
    table["class"] = [*table.get("class", []), "inv-named"]
    for row, name in named:
        above = soup.new_tag("tr", attrs={"class": "inv-name"})
        cell = soup.new_tag("td", attrs={"colspan": str(len(row.find_all("td")))})
        cell.append(words := soup.new_tag("span"))
        words.string = name
        above.append(cell)
        row.insert_before(above)


def keep_names(texts: Iterable[NavigableString]) -> None:
    """Short names of networks and data stay in one line; those of recorded runs break after an underscore first."""
    for text in list(texts):
        kept = NAME.sub(r'<span class="inv-whole">\g<0></span>', escape(text, quote=False)).replace("_", "_<wbr/>")
        if kept != escape(text, quote=False):
            text.replace_with(BeautifulSoup(kept, "html.parser"))


def unbroken(text: str) -> str:
    """A text whose numbers stay in a line with their spread and their unit, and intervals in one piece.

    >>> unbroken("0.93 ± 0.02 [0.9, 1]") == "0.93\\xa0±\\xa00.02 [0.9,\\xa01]"
    True
    """
    return UNIT.sub("\xa0", INTERVAL.sub("[\\1,\xa0\\2]", text.replace(" ± ", "\xa0±\xa0")))


def move_pictures(html: str, up: str, files: Files) -> str:
    """Put large pictures into files of their own, which a browser fetches when they come near its window."""

    def move(found: re.Match[str]) -> str:
        start, kind, encoded = found.groups()
        if len(encoded) < HEAVY:
            return found[0]
        content = base64.b64decode(encoded)
        name = f"pictures/{hashlib.sha256(content).hexdigest()[:16]}.{kind}"
        files[name] = content
        lazy = 'loading="lazy" ' if start == "src=" else ""  # a frame of a slider comes when it is moved to
        return f'{lazy}{start}"{up}/_static/{name}"'

    return PICTURE.sub(move, html)


def read_table(table: Tag) -> list[list[str]]:
    """The words of a table's cells, head first; all rows are as long as the head."""
    lines = [[cell.get_text().strip() for cell in row.find_all(("th", "td"))] for row in table.find_all("tr")]
    return [(line + [""] * len(lines[0]))[: len(lines[0])] for line in lines if any(line)]


def draw(rows: list[list[str]]) -> str:
    """The dots of a table as an ``<img>``; nothing where there are too many rows, or no number."""
    if len(rows) - 1 > DRAWN:
        return ""
    frame = pd.DataFrame([line[1:] for line in rows[1:]], [line[0] for line in rows[1:]], rows[0][1:])
    means, spreads = frame.map(lambda word: number(word)[0]), frame.map(lambda word: number(word)[1])
    # Below its full width a chart gives names of rows two lines; of one line a long name would lose its end.
    width = WIDTH - 1 if max(map(len, frame.index)) > NAMES // LETTER else WIDTH
    try:
        figure, narrow = (
            dot_panels(means, spreads, width=width),
            dot_panels(means, spreads, width=round(PHONE * CSS_DPI)),
        )
    except ValueError:
        return ""
    return img_tag(webp(render_png(figure)), figure.alt, webp(render_png(narrow)))


def number(word: str) -> tuple[float, float]:
    """A cell's number and its spread; not a number where there is none.

    >>> number("0.93 ± 0.02"), number("none")
    ((0.93, 0.02), (nan, nan))
    """
    found = NUMBER.match(word.strip())
    if not found:
        return float("nan"), float("nan")
    value, spread = (part and float(part.replace(",", "").replace("−", "-")) for part in found.groups())
    return value, float("nan") if spread is None else spread


def as_csv(rows: list[list[str]]) -> str:
    """Comma-separated values of a table."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def as_json(rows: list[list[str]]) -> str:
    """A list of mappings from a table's heads to the words of its cells."""
    heads = [head or "row" for head in rows[0]]
    return json.dumps([dict(zip(heads, line, strict=True)) for line in rows[1:]], ensure_ascii=False, indent=1) + "\n"


def swap(app, docname: str, content: list[str]) -> None:
    """Dress a notebook's page; its data files are written where the pages go."""
    if not app.env.doc2path(docname).endswith(".ipynb"):
        return
    records = read_records(Path(app.srcdir, app.config.recorded_dir))
    notebook, files = dress(json.loads(content[0]), Path(docname).name, root_from(docname), records)
    page = Path(app.srcdir, app.config.glossary_page)
    if page.is_file():
        app.env.note_dependency(str(page))
        notebook = link_terms(notebook, glossary(page.read_text("utf8")))
    content[0] = json.dumps(notebook)
    if app.builder.format == "html":
        write_all(app, files)


def read_records(folder: Path) -> Records:
    """The recorded runs of a folder."""
    records: Records = {}
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text("utf8"))
        records.setdefault((run["title"], run["command"]), []).append(path.stem)
    return records


def root_from(docname: str) -> str:
    """The way from a page to the root of the site.

    >>> root_from("book/intro"), root_from("index")
    ('..', '.')
    """
    return "/".join([".."] * docname.count("/")) or "."


def write_all(app, files: Files) -> None:
    """Write files beside the pages."""
    for file, content in files.items():
        write(Path(app.outdir, "_static", file), content)


def write(path: Path, content: bytes) -> None:
    """Write a file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def lighter(run: dict) -> dict:
    """An executed notebook without the pictures of outputs that are there in HTML as well, with the same picture."""
    for cell in run["cells"]:
        for output in cell.get("outputs", []):
            if "text/html" in output.get("data", {}):
                output["data"].pop("image/png", None)
    return run


def publish(app, error: Exception | None) -> None:
    """Lay the executed notebooks and the recorded runs beside the pages."""
    if error or app.builder.format != "html":
        return
    for run in Path(app.srcdir, app.config.executed_dir, app.config.executed_profile).glob("[0-9]*.ipynb"):
        content = json.dumps(lighter(json.loads(run.read_text("utf8"))), ensure_ascii=False, indent=1) + "\n"
        write(Path(app.outdir, "_static/runs", run.name), content.encode())
    for record in Path(app.srcdir, app.config.recorded_dir).glob("*.json"):
        write(Path(app.outdir, "_static/recorded", record.name), record.read_bytes())


def offer_run(app, pagename, templatename, context, doctree) -> None:
    """A chapter's menu of downloads begins with the executed notebook."""
    run = Path(app.srcdir, app.config.executed_dir, app.config.executed_profile, f"{Path(pagename).name}.ipynb")
    if not pagename.startswith("notebooks/") or not run.is_file():
        return
    button = {
        "type": "link",
        "url": context["pathto"](f"_static/runs/{run.name}", 1),
        "text": ".ipynb with its outputs",
        "tooltip": "Download the executed notebook",
        "icon": "fas fa-chart-column",
        "label": "download-run-button",
    }
    for group in context.get("header_buttons", []):
        if group.get("label") == "download-buttons":
            group["buttons"].insert(0, button)


def setup(app) -> dict:
    """Register with Sphinx, after `executed`."""
    app.add_config_value("glossary_page", "book/glossary.md", "env", [str])
    app.connect("source-read", swap, priority=600)
    app.connect("html-page-context", offer_run, priority=950)
    app.connect("build-finished", publish)
    return {"version": "1", "env_version": 1, "parallel_read_safe": False, "parallel_write_safe": True}
