"""Sphinx extension: the opening figure, the table about this build, the API pages, each page's social card.

Pages load only what they use.
"""

from __future__ import annotations

import ast
import json
import re
import textwrap
from html import escape
from pathlib import Path
from posixpath import dirname, join, normpath

from bs4 import BeautifulSoup, Tag
from docutils import nodes
from docutils.parsers.rst import directives
from dress import NAME, root_from, write
from ground import CLEAR, on_white
from phone import Forms, forms_of
from sheets import save_webp
from sphinx.util.docutils import SphinxDirective

from invkit.show.picture import PHONE_RULE, css_size

BRIEF = "In brief. "  # begins the paragraph that says what a chapter found
TEXT = 200  # characters of a description that previews of a link show
LEAST = (300, 150)  # CSS pixels across and down; a smaller picture says nothing in a preview


class Hero(SphinxDirective):
    """``{hero} file``: a figure that may not have been made yet; its content is the caption.

    The sheet of a recorded run has its forms for a desk and for a phone; any other picture stays as it is.
    """

    required_arguments = 1
    has_content = True
    option_spec = {"alt": directives.unchanged_required}  # noqa: RUF012 (docutils reads it so)

    def run(self) -> list[nodes.Node]:
        path = Path(self.env.relfn2path(self.arguments[0])[1])
        if not path.is_file():
            return []
        caption = nodes.caption()
        self.state.nested_parse(self.content, self.content_offset, caption)
        figure = nodes.figure("", self.shown(path), classes=["hero"])
        if caption.children:
            figure += nodes.caption("", "", *caption.children[0].children)
        return [figure]

    def shown(self, path: Path) -> nodes.Node:
        """The picture, in both its forms where it has them."""
        self.env.note_dependency(str(path))
        self.env.note_dependency(str(path.with_suffix(".json")))
        forms = opening_forms(path)
        if forms is None:
            return nodes.image(uri=self.arguments[0], alt=self.options["alt"])
        self.env.metadata[self.env.docname]["hero"] = str(path)  # see write_opening_forms
        folder = f"{root_from(self.env.docname)}/_static/pictures"
        image = (
            f'<img src="{folder}/{path.stem}.webp" alt="{escape(self.options["alt"])}" class="{CLEAR}" '
            f"{sides(forms.wide)}>"
        )
        if forms.narrow:
            source = f'media="{PHONE_RULE}" srcset="{folder}/{path.stem}_phone.webp" {sides(forms.narrow)}'
            image = f"<picture><source {source}>{image}</picture>"
        return nodes.raw("", image, format="html")


def sides(picture: bytes) -> str:
    """Width and height of a picture, for its tag."""
    return 'width="{}" height="{}"'.format(*css_size(picture))


def opening_forms(path: Path) -> Forms | None:
    """The forms of the picture of a recorded run; None where no record is there, or for no sheet of images."""
    record = path.with_suffix(".json")
    return forms_of(path.read_bytes(), json.loads(record.read_text("utf8"))["alt"]) if record.is_file() else None


def write_opening_forms(app, env) -> None:
    """Write the forms of opening figures beside the pages, whether or not these were read anew."""
    folder = Path(app.outdir, "_static/pictures")
    for path in [Path(about["hero"]) for about in env.metadata.values() if "hero" in about]:
        if forms := opening_forms(path):
            write(folder / f"{path.stem}.webp", forms.wide)
            if forms.narrow:
                write(folder / f"{path.stem}_phone.webp", forms.narrow)


def table(header: list[str], rows: list[list[str]]) -> nodes.table:
    """A plain docutils table."""
    group = nodes.tgroup("", *[nodes.colspec(colwidth=1) for _ in header], cols=len(header))

    def line(words: list[str]) -> nodes.row:
        return nodes.row("", *[nodes.entry("", nodes.paragraph(text=word)) for word in words])

    group += nodes.thead("", line(header))
    group += nodes.tbody("", *[line(row) for row in rows])
    return nodes.table("", group)


class AboutThisBuild(SphinxDirective):
    """``{about-this-build}``: versions, commit, date and cost of every published run, from its own record."""

    def run(self) -> list[nodes.Node]:
        config, runs = self.env.config, []
        folder = Path(self.env.srcdir, config.executed_dir, config.executed_profile)
        for path in sorted(folder.glob("[0-9]*.ipynb")):
            self.env.note_dependency(str(path))
            about = json.loads(path.read_text("utf8"))["metadata"].get("book", {})
            if about:
                runs.append((path.stem, about))
        if not runs:
            return [nodes.paragraph(text="No chapter has been run yet.")]
        rows = [[n, a["profile"], a["date"], a["commit"], f"{a['seconds']:.0f} s"] for n, a in runs]
        chapters = table(["chapter", "profile", "date", "commit", "run time"], rows)
        versions: dict[str, set[str]] = {}
        for _, about in runs:
            for name, number in about["versions"].items():
                versions.setdefault(name, set()).add(number)
        packages = table(["package", "version"], [[n, ", ".join(sorted(v))] for n, v in versions.items()])
        return [chapters, packages]


def modules_of(package: Path, room: str) -> list[str]:
    """Import names of a room's modules: the files of its folder, or the one file of that name."""
    files = sorted((package / room).rglob("*.py")) or [package / f"{room}.py"]
    if room == "book":
        files.append(package / "run.py")  # the command's own entry
    public = [f for f in files if not f.stem.startswith("_")]
    return [".".join(f.relative_to(package.parent).with_suffix("").parts) for f in public]


def introduction(package: Path, room: str) -> str:
    """The docstring of a room's folder; a room of one file shows its own below."""
    file = package / room / "__init__.py"
    return (ast.get_docstring(ast.parse(file.read_text("utf8"))) or "") if file.is_file() else ""


def list_modules(app, docname: str, content: list[str]) -> None:
    """Replace the line ``% room: NAME`` of an API page by the documentation of that room's modules."""
    mark = re.search(r"^% room: (\w+)$", content[0], re.M)
    if mark is None or not docname.startswith("book/api/"):
        return
    package = Path(app.srcdir, "invkit")
    section = "## `{0}`\n\n```{{eval-rst}}\n.. automodule:: {0}\n   :ignore-module-all:\n```\n"
    text = "\n".join(section.format(name) for name in modules_of(package, mark[1]))
    content[0] = content[0].replace(mark[0], introduction(package, mark[1]) + "\n\n" + text)


def plain_bars(app, what, name, obj, options, lines: list[str]) -> None:
    """Keep ``|x|`` in a docstring what it means in mathematics; reStructuredText would substitute it."""
    for number, line in enumerate(lines):
        if ">>>" not in line:
            parts = re.split(r"(``.*?``|`.*?`)", line)
            parts[::2] = [re.sub(r"\|(\w[^|]*)\|", r"\|\1\|", part) for part in parts[::2]]
            lines[number] = "".join(parts)


def skip_inherited(app, what, name, obj, skip, options) -> bool | None:
    """Leave out members that a class has from another library: their docstrings are not ours to mend."""
    home = getattr(obj, "__module__", None) or "invkit"
    return True if not home.startswith("invkit") and callable(obj) else None


def mark_options(app, doctree, docname: str) -> None:
    """Tell commands with options from other words in code, so that a style sheet can keep an option in one piece."""
    for node in doctree.findall(nodes.literal):
        if re.search(r"(^|\s)-", node.astext()):
            node["classes"].append("inv-option")


def keep_names_whole(app, doctree, docname: str) -> None:
    """Short names, as of networks and data sets, stay in one line in headings and sentences."""
    for words in list(doctree.findall(nodes.Text)):
        if not isinstance(words.parent, nodes.title | nodes.paragraph | nodes.caption | nodes.emphasis | nodes.strong):
            continue
        parts, at = [], 0
        for found in NAME.finditer(words):
            parts += [nodes.Text(words[at : found.start()]), nodes.inline("", found[0], classes=["inv-whole"])]
            at = found.end()
        if parts:
            words.parent.replace(words, [part for part in (*parts, nodes.Text(words[at:])) if part.astext()])


def quiet_head(app, pagename, templatename, context, doctree) -> None:
    """Drop scripts that a page does not use: those of live code, and MathJax where nothing is to be set.

    The former, loaded twice, raise an error in the console.
    """
    math = doctree is not None and any(doctree.findall(lambda node: isinstance(node, nodes.math | nodes.math_block)))
    for kind in ("script_files", "css_files"):
        if kind in context:
            kept = [file for file in context[kind] if not is_live_code(file)]
            context[kind] = [file for file in kept if math or "tex-svg" not in str(getattr(file, "filename", file))]


def is_live_code(file) -> bool:
    """Whether a script, a style sheet or an inline script belongs to the live-code extension."""
    words = f"{getattr(file, 'filename', file)} {getattr(file, 'attributes', '')}"
    return "thebe" in words.lower()


def social_card(app, pagename, templatename, context, doctree) -> None:
    """Let a link to the page be previewed by the page's own title, words and picture.

    Where it has none of these, what the configuration says of the whole book stays.
    """
    if doctree is None:
        return
    card = {"og:title": app.env.titles[pagename].astext()}
    if words := description(doctree):
        card |= {"og:description": words, "description": words}
    if picture := best_picture(context.get("body", "")):
        place = normpath(join(dirname(pagename), str(picture["src"])))
        place = with_ground(Path(app.outdir), place)
        card |= {"og:image": app.config.html_baseurl + place, "og:image:alt": shortened(str(picture["alt"]))}
    for name, words in card.items():
        tag = rf'(?<=<meta content=")[^"]*(?=" (?:property|name)="{name}")'
        before, rest = re.split(tag, context["metatags"])
        context["metatags"] = before + escape(words) + rest


def with_ground(folder: Path, place: str) -> str:
    """The place of a picture, or that of the same picture on white where it has no ground: previews may be dark."""
    path = folder / place
    picture = on_white(path.read_bytes()) if path.is_file() else None
    if picture is None:
        return place
    return save_webp(picture, path.with_stem(f"{path.stem}_white")).relative_to(folder).as_posix()


def description(doctree: nodes.document) -> str:
    """What a page says in brief, else how it begins, as plain text."""
    running = [p.astext() for p in doctree.findall(nodes.paragraph) if isinstance(p.parent, nodes.section)]
    brief = [words for words in running if words.startswith(BRIEF)]
    return shortened((brief or running or [""])[0].removeprefix(BRIEF))


def shortened(words: str) -> str:
    """The words on one line, cut between two of them where they are too many."""
    return textwrap.shorten(words, TEXT, placeholder=" …")


def best_picture(page: str) -> Tag | None:
    """The first picture of a page that is a file of some size; one of images comes before a chart."""
    files = [image for image in BeautifulSoup(page, "html.parser").select("img[src][alt]") if is_large(image)]
    return next((image for image in files if not image.find_parent(class_="inv-chart")), files[0] if files else None)


def is_large(image: Tag) -> bool:
    """Whether a picture lies in a file and fits a preview: large enough, and not higher than wide, which cuts it."""
    width, height = (int(size) if (size := str(image.get(side, ""))).isdigit() else 0 for side in ("width", "height"))
    inside = str(image["src"]).startswith(("data:", "http"))
    return not inside and width >= max(LEAST[0], height) and height >= LEAST[1]


ICON = re.compile(r'"?([\w-]+)"?:\[\d+,\d+,\[([^\]]*)\],"[0-9a-f]+",(?:"[^"]*"|\[[^\]]*\])\],?')


def fewer_icons(app, error: Exception | None) -> None:
    """Keep of the theme's two thousand icons those that a page or a script of the theme names."""
    script = Path(app.outdir, "_static/scripts/fontawesome.js")
    if error or not script.is_file():
        return
    users = [*Path(app.outdir).rglob("*.html"), *Path(app.outdir, "_static").rglob("*.js")]
    words = "".join(path.read_text("utf8") for path in users if path != script and "vendor" not in path.parts)
    used = set(re.findall(r"fa-([\w-]+)", words))

    def keep(icon: re.Match[str]) -> str:
        names = {icon[1], *re.findall(r'"([\w-]+)"', icon[2])}
        return icon[0] if names & used else ""

    script.write_text(re.sub(r",}", "}", ICON.sub(keep, script.read_text("utf8"))), "utf8")


SEARCH = re.compile(r'\s*<script src="[^"]*(?:searchtools|language_data|searchindex)\.js"></script>')


def search_on_its_page(app, error: Exception | None) -> None:
    """Load the index of words on the search page alone: the theme has it on every page, for a search as you type."""
    if error:
        return
    for path in Path(app.outdir).rglob("*.html"):
        if path.name != "search.html":
            path.write_text(SEARCH.sub("", path.read_text("utf8")), "utf8")


def setup(app) -> dict:
    """Register with Sphinx."""
    app.add_directive("hero", Hero)
    app.add_directive("about-this-build", AboutThisBuild)
    app.connect("source-read", list_modules)
    app.connect("autodoc-process-docstring", plain_bars)
    app.connect("autodoc-skip-member", skip_inherited)
    app.connect("doctree-resolved", mark_options)
    app.connect("doctree-resolved", keep_names_whole)
    app.connect("html-page-context", quiet_head, priority=900)
    app.connect("html-page-context", social_card)
    app.connect("build-finished", fewer_icons)
    app.connect("env-check-consistency", write_opening_forms)
    app.connect("build-finished", search_on_its_page)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
