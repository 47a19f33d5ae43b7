"""Sphinx extension: the opening figure, the table about this build, and a quiet page head."""

from __future__ import annotations

import json
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective


class Hero(SphinxDirective):
    """``{hero} file``: a figure that may not have been made yet; its content is the caption."""

    required_arguments = 1
    has_content = True
    option_spec = {"alt": directives.unchanged_required}  # noqa: RUF012 (docutils reads it so)

    def run(self) -> list[nodes.Node]:
        path = self.env.relfn2path(self.arguments[0])[1]
        if not Path(path).is_file():
            return []
        image = nodes.image(uri=self.arguments[0], alt=self.options["alt"], width="100%")
        caption = nodes.caption()
        self.state.nested_parse(self.content, self.content_offset, caption)
        figure = nodes.figure("", image, classes=["hero"])
        if caption.children:
            figure += nodes.caption("", "", *caption.children[0].children)
        return [figure]


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


def quiet_head(app, pagename, templatename, context, doctree) -> None:
    """Drop the live-code scripts: no page uses them, and loaded twice they raise an error in the console."""
    for kind in ("script_files", "css_files"):
        if kind in context:
            context[kind] = [file for file in context[kind] if not is_live_code(file)]


def is_live_code(file) -> bool:
    """Whether a script, a style sheet or an inline script belongs to the live-code extension."""
    words = f"{getattr(file, 'filename', file)} {getattr(file, 'attributes', '')}"
    return "thebe" in words.lower()


def setup(app) -> dict:
    """Register with Sphinx."""
    app.add_directive("hero", Hero)
    app.add_directive("about-this-build", AboutThisBuild)
    app.connect("html-page-context", quiet_head, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
