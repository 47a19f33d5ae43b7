"""Recorded runs: what took a GPU or hours is kept as JSON and a picture, and shown as what it is.

A script or notebook calls :func:`record` once; the book's pages call :func:`show_recorded`, which marks the
result with its date, device and commit and with the command that repeats it."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from invkit.book.claims import find_root
from invkit.book.numbers import summaries, tell
from invkit.core.config import plain
from invkit.core.files import atomic_path, write_json
from invkit.show.picture import Canvas, img_tag, render_png, webp


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A recorded run; ``measured`` maps names to mean, sd and n, ``seconds`` is wall time, ``date`` UTC."""

    name: str
    title: str
    config: dict[str, Any]
    measured: dict[str, dict[str, Any]]
    seed: int | None
    seconds: float
    device: str
    date: str
    commit: str
    command: str
    alt: str = ""
    note: str = ""
    picture: bytes | None = None

    def _repr_html_(self) -> str:
        image = img_tag(webp(self.picture), self.alt) if self.picture else ""
        note = f"<p>{html.escape(self.note)}</p>" if self.note else ""
        return (
            f'<figure class="inv-recorded"><figcaption><p><strong>Recorded run</strong> '
            f"{html.escape(self.title)}</p><p>{html.escape(self.origin)}</p></figcaption>{image}<table>{_rows(self.measured)}</table>{note}"
            f"<p>Repeat it: <code>{html.escape(self.command)}</code></p></figure>"
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        numbers = "; ".join(f"{name} {told_with_n(found)}" for name, found in self.measured.items())
        text = f"Recorded run: {self.title}. {self.origin}. {numbers}. Repeat it: {self.command}"
        bundle = {"text/plain": text, "text/html": self._repr_html_()}
        if self.picture:
            bundle["image/png"] = base64.b64encode(self.picture).decode()
        return bundle

    def means(self) -> dict[str, dict[str, float]]:
        """The means of what was measured under names ``row: column``, by row and column."""
        found: dict[str, dict[str, float]] = {}
        for name, summary in self.measured.items():
            row, _, column = name.partition(": ")
            found.setdefault(row, {})[column] = summary["mean"]
        return found

    @property
    def origin(self) -> str:
        """Where and when it ran, in a line."""
        took = f"{self.seconds:.0f} s" if self.seconds < 180 else f"{self.seconds / 60:.0f} min"
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"{self.date[:10]}, {self.device}, {took}{seed}, commit {self.commit}"


def record(
    name: str,
    *,
    title: str,
    config: Any,
    measured: Mapping[str, Any],
    command: str,
    seed: int | None,
    seconds: float,
    device: str,
    figure: Canvas | None = None,
    alt: str | None = None,
    note: str = "",
    folder: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write ``<name>.json``, and ``<name>.png`` if there is a figure, into ``folder`` or ``book/recorded``.

    ``config`` is a dataclass or a mapping, ``measured`` maps names to a number or to one per seed,
    ``command`` is what a reader types to repeat the run, ``seconds`` its wall time. Date and commit are
    added. Raises ``FileExistsError`` for a name that is taken (unless ``overwrite``), ``ValueError`` for a
    bad name, numbers that are not finite, an empty command or a figure without alt text.
    """
    path = _path(name, folder)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: choose another name, or say overwrite=True")
    if not command.strip():
        raise ValueError(f"{name}: a recorded run needs the command that repeats it")
    told = alt or getattr(figure, "alt", "")
    if figure is not None and not told:
        raise ValueError(f"{name}: the figure needs an alt text")
    png = render_png(figure) if figure is not None else None
    data = {
        "name": name, "title": title, "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device, "commit": commit_of(path.parent), "command": command, "seed": seed,
        "seconds": round(seconds, 1), "config": plain(config), "measured": summaries(measured, name),
        "note": note, "alt": told, "picture_sha256": png and hashlib.sha256(png).hexdigest(),
    }  # fmt: skip
    if png:  # first the picture, then the record that vouches for it
        with atomic_path(path.with_suffix(".png")) as temporary:
            temporary.write_bytes(png)
    write_json(path, data)
    return path


def load_recorded(name: str, folder: str | Path | None = None) -> Recorded:
    """The recorded run of that name.

    Raises ``FileNotFoundError`` naming those that exist, ``ValueError`` if its picture is missing or another
    one.
    """
    path = _path(name, folder)
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none"
        raise FileNotFoundError(f"no recorded run {name!r} in {path.parent}; there is {there}")
    data = json.loads(path.read_text("utf8"))
    expected, image = data.pop("picture_sha256"), path.with_suffix(".png")
    png = image.read_bytes() if expected and image.is_file() else None
    if expected and (png is None or hashlib.sha256(png).hexdigest() != expected):
        raise ValueError(f"{image} is missing or not the picture of this run: record it again")
    known = {field.name for field in dataclasses.fields(Recorded)}
    return Recorded(**{key: value for key, value in data.items() if key in known}, picture=png)


def show_recorded(name: str, folder: str | Path | None = None) -> Recorded:
    """The recorded run, shown by a cell that ends with it; raises as :func:`load_recorded` does."""
    return load_recorded(name, folder)


def _rows(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """One line a number; names of the form ``row: column`` make a table of rows and columns."""
    if not all(": " in name for name in measured):
        return "".join(
            f'<tr><th scope="row">{html.escape(name)}</th><td>{told_with_n(found)}</td></tr>'
            for name, found in measured.items()
        )
    cells = {tuple(name.split(": ", 1)): tell(found) for name, found in measured.items()}
    columns = list(dict.fromkeys(column for _, column in cells))
    head = "".join(f'<th scope="col">{html.escape(c)}</th>' for c in columns)

    def line(row: str) -> str:
        values = "".join(f"<td>{cells.get((row, column), '')}</td>" for column in columns)
        return f'<tr><th scope="row">{html.escape(row)}</th>{values}</tr>'

    body = "".join(map(line, dict.fromkeys(row for row, _ in cells)))
    return f"<thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody>"


def told_with_n(found: Mapping[str, Any]) -> str:
    """A summary as ``mean ± sd (n seeds)``."""
    return tell(found) + (f" ({found['n']} seeds)" if found["n"] > 1 else "")


def commit_of(folder: Path) -> str:
    """Short commit of the tree around ``folder``, marked if files were changed; ``unknown`` outside git."""
    while not folder.exists():
        folder = folder.parent
    command = ["git", "describe", "--always", "--dirty=+changes", "--abbrev=10", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def _path(name: str, folder: str | Path | None) -> Path:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
        raise ValueError(f"name {name!r}: use lower-case letters, digits, '-', '_' and '.'")
    return Path(folder or find_root() / "book/recorded", f"{name}.json")
