"""Sphinx extension: numbers and pictures of recorded runs on the pages that are no notebooks.

``{recorded}`run :: row :: column :: format` `` is a number, the mean over seeds; the row may be a pattern.
``{gallery}`` shows each class of a run as a picture of its own, with a second run's behind it; ``{ways}`` several ways
to the same classes, of one run or more; ``{depths}`` a slider through the blocks of a network. Tiles are cut out of
the pictures that the runs have stored. What such a directive holds is the caption of a numbered figure.

A run that is missing, or whose picture is laid out otherwise, leaves a sentence that says so in its place, and a
warning (an error under ``-W``).
"""

from __future__ import annotations

import ast
import fnmatch
import html
import re
from pathlib import Path

import numpy as np
import sheets
import torch
from docutils import nodes
from docutils.parsers.rst import directives
from dress import move_pictures, root_from, write_all
from phone import add_forms
from PIL import Image
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

from invkit.book.numbers import summarise
from invkit.book.recorded import Recorded, load_recorded
from invkit.show.grids import image_rows
from invkit.show.picture import render_png, webp
from invkit.show.widgets import Frames

log = logging.getLogger(__name__)
Lost = (FileNotFoundError, ValueError, KeyError, OSError)


def folder_of(env) -> Path:
    """Where the recorded runs lie."""
    return Path(env.srcdir, env.config.recorded_dir)


def read(env, name: str) -> Recorded:
    """A recorded run; a page that shows one is read again when it changes."""
    env.note_dependency(str(folder_of(env) / f"{name}.json"))
    return load_recorded(name, folder_of(env))


def lost(name: str, error: Exception) -> str:
    """What stands in the place of a run that cannot be shown."""
    if isinstance(error, FileNotFoundError):
        return f"The recorded run {name} is missing here."
    return f"The recorded run {name} cannot be shown here: {error}"


class Number(SphinxRole):
    """``{recorded}`run :: row :: column :: format` ``: a number of a recorded run, the mean over its seeds."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        name, row, column, form = (part.strip() for part in self.text.split("::"))
        try:
            measured = read(self.env, name).measured
            found = [row] if row in measured else fnmatch.filter(measured, row)
            value = summarise(measured[found[0] if found else row][column])["mean"]
        except Lost as error:
            words = lost(name, error)
            log.warning(words, location=self.get_location())
            return [nodes.emphasis(text=f"({words})")], []
        return [nodes.inline(text=format(value, form), classes=["inv-number"])], []


class Shown(SphinxDirective):
    """A directive that makes HTML of recorded runs, or says which of them is missing."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def html(self, *names: str) -> str:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        names = self.arguments[0].split()
        try:
            return [self.captioned(nodes.raw("", self.html(*names), format="html"))]
        except Lost as error:
            words = lost(", ".join(names), error)
            log.warning(words, location=self.get_location())
            return [nodes.paragraph(text=words, classes=["inv-missing"])]

    def captioned(self, shown: nodes.Node) -> nodes.Node:
        """As a figure with the directive's content for a caption, where there is some."""
        if not self.content:
            return shown
        words = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, words)
        return nodes.figure("", shown, nodes.caption("", "", *words.children[0].children))

    def save(self, image: Image.Image, file: str) -> str:
        """Write a tile beside the pages; its address from this page."""
        sheets.save_webp(image, Path(self.env.app.outdir, "_static/tiles", file))
        return f"{root_from(self.env.docname)}/_static/tiles/{file}"

    def apart(self, page: str) -> str:
        """HTML whose large pictures lie in files of their own, beside the pages."""
        files: dict[str, bytes] = {}
        moved = move_pictures(page, root_from(self.env.docname), files)
        write_all(self.env.app, files)
        return moved


class Gallery(Shown):
    """``{gallery} run other``: all classes of a run, another network's image of the class behind each."""

    def html(self, *names: str) -> str:
        classes = class_names(folder_of(self.env) / "one_setting.py")
        runs = {name: read(self.env, name) for name in names}
        tiles = {name: sheets.cut_grid(run.picture or b"", 4, 32) for name, run in runs.items()}
        titles = [network_of(run) for run in runs.values()]
        items = []
        for i, label in enumerate(classes[:32]):
            images = [
                tile(self.save(batch[i], f"{name}-{i}.webp"), f"{label}, drawn from {title}", 208)
                for (name, batch), title in zip(tiles.items(), titles, strict=True)
            ]
            items.append(f'<li><div class="inv-pair">{"".join(images)}</div><span>{html.escape(label)}</span></li>')
        choices = "".join(
            f'<label><input type="radio" name="drawn" class="of-{i}"{" checked" * (i == 0)}> {title}</label>'
            for i, title in enumerate(map(html.escape, titles))
        )
        legend = "<legend>Drawn from</legend>"
        words = "Pointing at a picture, or moving to it by the Tab key, shows the other network's."
        hint = f'<p class="inv-hover">{words}</p>'
        shown = f"<fieldset>{legend}{choices}</fieldset>{hint}<ul>{''.join(items)}</ul>"
        return f'<div class="inv-gallery">{shown}</div>'


class Ways(Shown):
    """``{ways} run``: several ways to the same classes or images, a row for each; option ``heads``: of the columns.

    With the option ``tall`` a way is a column, and its images are larger. Further runs, of the same columns, follow
    below, each headed by its title and by the columns' names.
    """

    option_spec = {"heads": directives.unchanged_required, "tall": directives.flag}  # noqa: RUF012 (docutils reads it so)

    def html(self, *names: str) -> str:
        given = self.options.get("heads", "")
        heads = given.split(", ") if given else class_names(folder_of(self.env) / "one_setting.py")
        tables = "".join(self.table(name, heads, banded=len(names) > 1) for name in names)
        return f'<div class="inv-scroll">{tables}</div>'

    def table(self, name: str, heads: list[str], *, banded: bool) -> str:
        """One run."""
        run = read(self.env, name)
        columns, ways = sheets.parse_rows(run.alt)
        tiles = sheets.cut_rows(run.picture or b"", len(ways), columns)
        cells = [
            [
                f"<td>{tile(self.save(image, f'{name}-{k}-{i}.webp'), f'{heads[i]}: {way}', 96)}</td>"
                for i, image in enumerate(tiles[k])
            ]
            for k, way in enumerate(ways)
        ]
        across, down = [html.escape(label) for label in heads[:columns]], [in_two(way) for way in ways]
        if "tall" in self.options:
            across, down, cells = down, across, [list(column) for column in zip(*cells, strict=True)]
        head = "".join(f'<th scope="col">{label}</th>' for label in across)
        body = "".join(
            f'<tr><th scope="row">{label}</th>{"".join(row)}</tr>' for label, row in zip(down, cells, strict=True)
        )
        title = f"<span>{html.escape(run.title)}</span>"
        band = f'<tr class="inv-band"><th scope="colgroup" colspan="{len(across) + 1}">{title}</th></tr>'
        # A head of its own: paper repeats it on each page that the rows go on to.
        top = f"<thead>{band if banded else ''}<tr><td></td>{head}</tr></thead>"
        shape = "inv-ways inv-tall" if "tall" in self.options else "inv-ways"
        return f'<table class="{shape}"><colgroup><col></colgroup>{top}<tbody>{body}</tbody></table>'


class Depths(Shown):
    """``{depths} run``: a slider from the photographs through the blocks of a network to its logits."""

    def html(self, *names: str) -> str:
        (name,) = names
        run = read(self.env, name)
        columns, rows = sheets.parse_rows(run.alt)
        tiles = [
            [pixels(image, 32) for image in row] for row in sheets.cut_rows(run.picture or b"", len(rows), columns)
        ]
        means, blocks = run.means(), [row.partition(":")[0] for row in rows]
        frames, labels, alts = [], [], []
        for k, block in enumerate(blocks):
            words = "the photographs themselves"
            if k:
                scores = means[f"{block}, synthetic"]
                seen = next(value for column, value in scores.items() if column.startswith("ResNet-44"))
                words = f"block {k} of {len(blocks) - 1}: {scores['PSNR']:.1f} dB, recognised {seen:.0%}"
            shown = {"photographs": torch.stack(tiles[0]), "from features" if k else "the same": torch.stack(tiles[k])}
            sheet = image_rows(shown, columns=columns, scale=3)
            frames.append(webp(render_png(sheet)))
            labels.append(words)
            alts.append(f"Six photographs, and below them what comes back, {words}: {sheet.alt}")
        slider = Frames(frames, labels, alts, "depth", start=min(7, len(frames) - 1))
        return self.apart(add_forms(slider._repr_html_()))


def pixels(image: Image.Image, size: int) -> torch.Tensor:
    """The pixels of a small image that was drawn enlarged, ``(3, size, size)``; its frame has been cut off."""
    whole = np.pad(np.asarray(image), ((1, 1), (1, 1), (0, 0)), mode="edge")
    centres = ((np.arange(size) + 0.5) * len(whole) / size).astype(int)
    return torch.from_numpy(whole[np.ix_(centres, centres)].copy()).permute(2, 0, 1) / 255


def tile(source: str, alt: str, size: int) -> str:
    """An image that is loaded when it comes near the window and can be enlarged."""
    return (
        f'<img class="inv-tile" loading="lazy" src="{source}" alt="{html.escape(alt)}" width="{size}" height="{size}">'
    )


def in_two(way: str) -> str:
    """A way's name, which may break before a capital, and, apart, the number that follows it after a colon.

    >>> in_two("DeepDream: PSNR 9.5 dB")
    'Deep<wbr>Dream <span>PSNR 9.5 dB</span>'
    """
    what, _, number = map(html.escape, way.partition(": "))
    return f"{re.sub('(?<=[a-z])(?=[A-Z])', '<wbr>', what)} <span>{number}</span>"


def network_of(run: Recorded) -> str:
    """The network that a run's title names: "What NAME has learnt: …"."""
    found = re.match(r"What (.+) has learnt", run.title)
    return found[1] if found else run.name


def class_names(script: Path) -> list[str]:
    """The classes that the recorded runs at 224 pixels ask for, from the script that makes them."""
    for node in ast.parse(script.read_text("utf8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "CLASSES":
            return list(ast.literal_eval(node.value))
    raise ValueError(f"{script.name} has no list CLASSES any more")


def setup(app) -> dict:
    """Register with Sphinx; the folder of recorded runs is that of the scoreboard."""
    app.add_role("recorded", Number())
    for name, directive in {"gallery": Gallery, "ways": Ways, "depths": Depths}.items():
        app.add_directive(name, directive)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
