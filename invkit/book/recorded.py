"""Recorded runs: what took a GPU or hours is stored as JSON and a picture, and shown as what it is.

A script calls :func:`record` (see :mod:`invkit.book.recording`); a page calls :func:`show_recorded`, which marks
the result with its date, device and commit and with the command that repeats it.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from invkit.book.claims import find_root
from invkit.book.numbers import Summary, finite, format_summary, is_summary, summarise
from invkit.core.config import plain
from invkit.core.files import atomic_path, write_json
from invkit.show.picture import Canvas, img_tag, png, render_png, webp

Measured = dict[str, dict[str, list[float] | Summary]]


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A recorded run.

    Attributes:
        measured: By row and column, one number for each seed; where these were not kept, their mean, standard
            deviation and count.
        seeds: Seeds that the run was repeated with.
        seconds: Wall time.
        date: UTC, ISO 8601.
        script_sha256: Hash of the script as it ran, empty for runs from before it was recorded.
        picture: The figure as PNG, or as WebP where it is of photographs.
    """

    name: str
    title: str
    config: dict[str, Any]
    measured: Measured
    seeds: list[int]
    seconds: float
    device: str
    date: str
    commit: str
    command: str
    script_sha256: str = ""
    alt: str = ""
    note: str = ""
    picture: bytes | None = None

    def summaries(self) -> dict[str, dict[str, Summary]]:
        """Mean, standard deviation and count of every number, by row and column."""
        return {
            row: {column: summarise(value) for column, value in columns.items()}
            for row, columns in self.measured.items()
        }

    def means(self) -> dict[str, dict[str, float]]:
        """The mean over seeds of every number, by row and column.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = record("run", title="t", config={}, measured={"ours": {"psnr": [20, 22]}}, command="make run",
        ...                   seeds=[0, 1], seconds=1, device="cpu", folder=folder)
        ...     load_recorded("run", folder).means()
        {'ours': {'psnr': 21.0}}
        """
        return {row: {c: s["mean"] for c, s in columns.items()} for row, columns in self.summaries().items()}

    @property
    def origin(self) -> str:
        """Where and when it ran, in a line."""
        duration = f"{self.seconds:.0f} s" if self.seconds < 180 else f"{self.seconds / 60:.0f} min"
        return f"{self.date[:10]}, {self.device}, {duration}{_seeds(self.seeds)}, commit {self.commit}"

    def _repr_html_(self) -> str:
        image = img_tag(webp(self.picture), self.alt) if self.picture else ""
        note = f"<p>{html.escape(self.note)}</p>" if self.note else ""
        head = f"<p><strong>Recorded run</strong> {html.escape(self.title)}</p><p>{html.escape(self.origin)}</p>"
        return (
            f'<figure class="inv-recorded"><figcaption>{head}</figcaption>{image}'
            f"<table>{_table(self.summaries())}</table>{note}"
            f"<p>Repeat it: <code>{html.escape(self.command)}</code></p></figure>"
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        rows = []
        for row, columns in self.summaries().items():
            rows += [f"{row}: {column} {format_summary(summary)}" for column, summary in columns.items()]
        text = f"Recorded run: {self.title}. {self.origin}. {'; '.join(rows)}. Repeat it: {self.command}"
        bundle = {"text/plain": text, "text/html": self._repr_html_()}
        if self.picture:
            bundle["image/png"] = base64.b64encode(png(self.picture)).decode()
        return bundle


def record(
    name: str,
    *,
    title: str,
    config: Any,
    measured: Mapping[str, Mapping[str, Any]],
    command: str,
    seeds: Sequence[int],
    seconds: float,
    device: str,
    script: str | Path | None = None,
    figure: Canvas | None = None,
    alt: str | None = None,
    note: str = "",
    folder: str | Path | None = None,
    overwrite: bool = False,
    photographs: bool = False,
) -> Path:
    """Write ``<name>.json``, and ``<name>.png`` if there is a figure; date and commit are added.

    Args:
        name: Name of the files, of lower-case letters, digits and ``-_.``.
        title: What was done, for the caption.
        config: A dataclass or a mapping.
        measured: By row and column, a number or one for each seed, or their mean, sd and n.
        command: What a reader types to repeat the run.
        seeds: Seeds that it was repeated with.
        seconds: Wall time.
        device: What it ran on.
        script: The file whose hash is stored.
        figure: What is shown, with its own alt text unless ``alt`` gives one.
        note: What a reader must know of the numbers.
        folder: Where to write; by default ``book/recorded`` of the book around the working directory.
        overwrite: Whether a record of that name may be replaced.
        photographs: Store the figure as ``<name>.webp`` with a little loss, where fine grain makes a PNG too large.

    Returns:
        Path of the JSON file.

    Raises:
        FileExistsError: For a name that is taken, unless ``overwrite``.
        ValueError: For a bad name, numbers that are not finite, an empty command or a figure without alt text.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = record("run", title="A run", config={"lr": 0.1}, measured={"ours": {"psnr": 21.0}}, seeds=[0],
    ...                   command="make run", seconds=1, device="cpu", folder=folder)
    ...     path.name, load_recorded("run", folder).measured
    ('run.json', {'ours': {'psnr': [21.0]}})
    """
    path = _path(name, folder)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: choose another name, or say overwrite=True")
    if not command.strip():
        raise ValueError(f"{name}: a recorded run needs the command that repeats it")
    alt_text = alt or getattr(figure, "alt", "")
    if figure is not None and not alt_text:
        raise ValueError(f"{name}: the figure needs an alt text")
    picture = render_png(figure) if figure is not None else None
    if picture and photographs:
        picture = webp(picture, lossless=False)
    data = {
        "name": name,
        "title": title,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device,
        "commit": commit_of(path.parent),
        "command": command,
        "script_sha256": sha256(Path(script).read_bytes()) if script else "",
        "seeds": list(seeds),
        "seconds": round(seconds, 1),
        "config": plain(config),
        "measured": _nested(measured, name),
        "note": note,
        "alt": alt_text,
        "picture_sha256": picture and sha256(picture),
    }
    if picture:  # first the picture, then the record that vouches for it
        with atomic_path(path.with_suffix(".webp" if photographs else ".png")) as temporary:
            temporary.write_bytes(picture)
        path.with_suffix(".png" if photographs else ".webp").unlink(missing_ok=True)
    write_json(path, data)
    return path


def load_recorded(name: str, folder: str | Path | None = None) -> Recorded:
    """The recorded run of that name.

    Args:
        name: Name of the record.
        folder: Where it lies; by default ``book/recorded`` of the book around the working directory.

    Returns:
        The run with its numbers and its picture.

    Raises:
        FileNotFoundError: Naming the runs that exist.
        ValueError: If its picture is missing or another one.

    >>> load_recorded("no_such_run", "book/recorded")
    Traceback (most recent call last):
    FileNotFoundError: no recorded run 'no_such_run' in book...recorded; there is ...
    """
    path = _path(name, folder)
    if not path.is_file():
        present = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none"
        raise FileNotFoundError(f"no recorded run {name!r} in {path.parent}; there is {present}")
    data = json.loads(path.read_text("utf8"))
    expected, image = data.pop("picture_sha256"), path.with_suffix(".png")
    if not image.is_file() and path.with_suffix(".webp").is_file():
        image = path.with_suffix(".webp")
    picture = image.read_bytes() if expected and image.is_file() else None
    if expected and (picture is None or sha256(picture) != expected):
        raise ValueError(f"{image} is missing or not the picture of this run: record it again")
    known = {field.name for field in dataclasses.fields(Recorded)}
    return Recorded(**{key: value for key, value in data.items() if key in known}, picture=picture)


def show_recorded(name: str, folder: str | Path | None = None) -> Recorded:
    """The same as :func:`load_recorded`, by the name of what a cell does that ends with it.

    Args:
        name: Name of the record.
        folder: Where it lies; by default ``book/recorded`` of the book around the working directory.

    Returns:
        The run, which a notebook shows as a table with its origin and the command that repeats it.

    Raises:
        FileNotFoundError: Naming the runs that exist.
        ValueError: If its picture is missing or another one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = record("run", title="A run", config={}, measured={"ours": {"psnr": 21.0}}, seeds=[0],
    ...                   command="make run", seconds=1, device="cpu", folder=folder)
    ...     show_recorded("run", folder).origin
    '...-...-..., cpu, 1 s, seed 0, commit ...'
    """
    return load_recorded(name, folder)


def sha256(content: bytes) -> str:
    """Hash of a file's content, in hexadecimal digits.

    >>> sha256(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(content).hexdigest()


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


def _nested(measured: Mapping[str, Mapping[str, Any]], name: str) -> Measured:
    """``measured`` in plain lists and summaries, checked."""
    rows: Measured = {}
    for row, columns in measured.items():
        if not isinstance(columns, Mapping) or is_summary(columns) or not columns:
            raise ValueError(f"{name}: measured must be {{row: {{column: numbers}}}}; there are no columns in {row!r}")
        rows[row] = {}
        for column, value in columns.items():
            what = f"{name}, {row}: {column}"
            rows[row][column] = summarise(value, what) if is_summary(value) else finite(value, what)
    if not rows:
        raise ValueError(f"{name}: measured is empty")
    return rows


def _table(rows: Mapping[str, Mapping[str, Summary]]) -> str:
    """Head and body of an HTML table, one line a row; a cell stays empty where a row lacks a column."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in columns)
    lines = []
    for name, row in rows.items():
        texts = [format_summary(row[column]) if column in row else "" for column in columns]
        cells = "".join(f"<td>{text}</td>" for text in texts)
        lines.append(f'<tr><th scope="row">{html.escape(name)}</th>{cells}</tr>')
    return f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"


def _seeds(seeds: Sequence[int]) -> str:
    """Seeds in a line: ``, seed 0`` or ``, seeds 0, 1, 2``."""
    names = ", ".join(map(str, seeds))
    return "" if not seeds else f", seed {names}" if len(seeds) == 1 else f", seeds {names}"


def _path(name: str, folder: str | Path | None) -> Path:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
        raise ValueError(f"name {name!r}: use lower-case letters, digits, '-', '_' and '.'")
    return Path(folder or find_root() / "book/recorded", f"{name}.json")
