"""Recorded runs: what took a GPU or hours is stored as JSON and a picture, and shown as what it is.

A script calls :func:`record` (see :mod:`invkit.book.recording`); a page calls :func:`show_recorded`, which marks
the result with its date, device and commit and with the command that repeats it. A record remembers the rules that its
claims stood under and the fingerprints of its networks; :func:`check_records` says what has changed since.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
import re
import subprocess
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from invkit.book.numbers import Summary, finite, format_summary, is_summary, summarise
from invkit.book.root import find_root
from invkit.book.verdicts import load_rules
from invkit.core.config import plain
from invkit.core.files import atomic_path, write_json
from invkit.show.picture import Canvas, img_tag, png, render_png, webp
from invkit.show.tables import separate_tables

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
        rules: By claim that the run was made for, the digest of its rule as it stood when the run began.
        networks: By name of each network used, the fingerprints of those of that name.
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
    rules: dict[str, str] = field(default_factory=dict)
    networks: dict[str, list[str]] = field(default_factory=dict)
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

    def by_seed(self, row: str, column: str) -> list[float]:
        """The numbers of a row and column, one for each seed.

        Raises:
            ValueError: For a row or column that is not there, numbers of which only a summary was kept, and a row in
                which a seed is missing.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = record("run", title="t", config={}, measured={"ours": {"psnr": [20, 22]}}, command="make run",
        ...                   seeds=[0, 1, 2], seconds=1, device="cpu", folder=folder)
        ...     load_recorded("run", folder).by_seed("ours", "psnr")
        Traceback (most recent call last):
        ValueError: recorded run run, row 'ours': psnr has 2 numbers for the seeds 0, 1, 2
        """
        values = self._values(row, column)
        if len(values) != len(self.seeds):
            raise ValueError(_missing(self, row, column, len(values)))
        return values

    def effect(
        self, row: str, column: str, *, over: str | Sequence[str], lower_is_better: bool = False, relative: bool = False
    ) -> list[float]:
        """By how much a row is better than the best of others, one number for each seed.

        Args:
            row: Name of the row.
            column: Name of the column.
            over: The other rows; one that holds a single number has no chance in it, and counts for all seeds.
            lower_is_better: Whether less is better, as in a distance.
            relative: Whether to divide by the size of the other's number.

        Raises:
            ValueError: As :meth:`by_seed`, and if ``over`` is empty.

        >>> import tempfile
        >>> measured = {"ours": {"psnr": [20, 22]}, "class mean": {"psnr": 19}, "nearest": {"psnr": [18, 21]}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = record("run", title="t", config={}, measured=measured, command="make run",
        ...                   seeds=[0, 1], seconds=1, device="cpu", folder=folder)
        ...     load_recorded("run", folder).effect("ours", "psnr", over=["class mean", "nearest"])
        [1.0, 1.0]
        """
        names = [over] if isinstance(over, str) else list(over)
        if not names:
            raise ValueError(f"recorded run {self.name}: over is empty; name the rows to compare {row!r} with")
        ours, others = self.by_seed(row, column), []
        for name in names:
            values = self._values(name, column)
            others.append(values * len(ours) if len(values) == 1 else self.by_seed(name, column))
        best = [min(numbers) if lower_is_better else max(numbers) for numbers in zip(*others)]
        leads = [b - a if lower_is_better else a - b for a, b in zip(ours, best)]
        return [lead / abs(b) for lead, b in zip(leads, best)] if relative else leads

    def _values(self, row: str, column: str) -> list[float]:
        if row not in self.measured:
            raise ValueError(f"recorded run {self.name} has no row {row!r}; there is {', '.join(self.measured)}")
        if column not in self.measured[row]:
            columns = ", ".join(self.measured[row])
            raise ValueError(f"recorded run {self.name}, row {row!r}: no column {column!r}; there is {columns}")
        values = self.measured[row][column]
        if not isinstance(values, list):
            raise ValueError(f"recorded run {self.name}, row {row!r}: of {column} only a summary was kept")
        return values

    @property
    def origin(self) -> str:
        """Where and when it ran, in a line."""
        duration = f"{self.seconds:.0f} s" if self.seconds < 180 else f"{self.seconds / 60:.0f} min"
        return f"{self.date[:10]}, {self.device}, {duration}{_seeds(self.seeds)}, commit {self.commit}"

    def _repr_html_(self) -> str:
        image = img_tag(webp(self.picture), self.alt) if self.picture else ""
        note = f"<p>{html.escape(self.note)}</p>" if self.note else ""
        rows = {
            name: {column: format_summary(summary) for column, summary in row.items()}
            for name, row in self.summaries().items()
        }
        # As Sphinx writes code, so that a page can keep an option in one piece.
        words = " ".join(f'<span class="pre">{html.escape(word)}</span>' for word in self.command.split(" "))
        head = f"<p><strong>Recorded run</strong> {html.escape(self.title)}</p><p>{html.escape(self.origin)}</p>"
        return (
            f'<figure class="inv-recorded"><figcaption>{head}</figcaption>{image}'
            f"{separate_tables(rows)}{note}"
            f"<p>Repeat it: <code>{words}</code></p></figure>"
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
    claims: Sequence[str] | Mapping[str, str] = (),
    networks: Mapping[str, str | Sequence[str]] | None = None,
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
        claims: Ids of the claims that the run tests; the digests of their rules are stored. Where these were taken
            when the run began, digests by id.
        networks: Fingerprints of the networks used, by name; several where seeds have networks of their own.

    Returns:
        Path of the JSON file.

    Raises:
        FileExistsError: For a name that is taken, unless ``overwrite``.
        ValueError: For a bad name, numbers that are not finite, an empty command, a figure without alt text or a claim
            that has no rule.

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
    if isinstance(claims, str):
        raise ValueError(f"{name}: claims must be a sequence of ids, not the word {claims!r}")
    if unknown := [id for id in claims if id not in load_rules()]:
        raise ValueError(f"{name}: claims names {', '.join(unknown)}, for which rules.yml has no rule")
    given = dict(claims) if isinstance(claims, Mapping) else {id: load_rules()[id].digest() for id in claims}
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
        "rules": given,
        "networks": {n: [f] if isinstance(f, str) else sorted(set(f)) for n, f in (networks or {}).items()},
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
    """The recorded run of that name; what has changed since it was made is warned of, see :func:`check_records`.

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
    expected, image = json.loads(path.read_text("utf8"))["picture_sha256"], path.with_suffix(".png")
    if not image.is_file() and path.with_suffix(".webp").is_file():
        image = path.with_suffix(".webp")
    picture = image.read_bytes() if expected and image.is_file() else None
    if expected and (picture is None or sha256(picture) != expected):
        raise ValueError(f"{image} is missing or not the picture of this run: record it again")
    run = replace(_read(path), picture=picture)
    for problem in [*problems(run), *other_networks(run, path.parent)]:
        warnings.warn(problem, stacklevel=2)
    return run


def check_records(folder: str | Path | None = None) -> list[str]:
    """What is wrong with the recorded runs of a folder, in sentences that name the run.

    A rule has changed since the run that was made for it; a row lacks a seed; networks of one name are others than in
    another run. Of runs that name no claims and no networks, as those from before these were recorded, nothing is said.

    >>> import tempfile
    >>> facts = dict(title="t", config={}, command="make", seeds=[0], seconds=1, device="cpu")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name, networks in (("first", {"net": "a1"}), ("second", {"net": "b2"})):
    ...         path = record(name, measured={"ours": {"psnr": 20}}, networks=networks, folder=folder, **facts)
    ...     check_records(folder)
    ["recorded runs first and second: the network 'net' is not the same (a1 and b2); ..."]
    """
    where = Path(folder or find_root() / "book/recorded")
    runs = [_read(path) for path in sorted(where.glob("*.json"))]
    found = [problem for run in runs for problem in problems(run)]
    for i, run in enumerate(runs):
        found += [problem for other in runs[i + 1 :] for problem in _conflicts(run, other)]
    return found


def problems(run: Recorded) -> list[str]:
    """What is wrong with a recorded run by itself: rules that have changed, and rows in which a seed is missing."""
    found = []
    for id, digest in run.rules.items():
        rule = load_rules().get(id)
        if rule is None or rule.digest() != digest:
            what = "has changed since it was made" if rule else "is gone"
            found.append(f"recorded run {run.name}: the rule of {id} {what}; make the run again to test it")
    if run.rules:  # a single number has no chance in it
        for row, columns in run.measured.items():
            for column, values in columns.items():
                if isinstance(values, list) and len(values) not in (1, len(run.seeds)):
                    found.append(_missing(run, row, column, len(values)))
    return found


def other_networks(run: Recorded, folder: Path) -> list[str]:
    """Networks of the run that are others than those of the same name in other runs of the folder."""
    if not run.networks:
        return []
    others = [_read(path) for path in sorted(folder.glob("*.json")) if path.stem != run.name]
    return [problem for other in others for problem in _conflicts(run, other)]


def _conflicts(run: Recorded, other: Recorded) -> list[str]:
    found = []
    for name in sorted(run.networks.keys() & other.networks.keys()):
        one, two = set(run.networks[name]), set(other.networks[name])
        if not (one <= two or two <= one):  # of a run of fewer seeds, they are some of the other's
            found.append(
                f"recorded runs {run.name} and {other.name}: the network {name!r} is not the same "
                f"({', '.join(sorted(one))} and {', '.join(sorted(two))}); make the older run again"
            )
    return found


def _missing(run: Recorded, row: str, column: str, n: int) -> str:
    numbers = f"{n} number{'s' if n > 1 else ''}"
    seeds = ", ".join(map(str, run.seeds))
    return f"recorded run {run.name}, row {row!r}: {column} has {numbers} for the seeds {seeds}"


def _read(path: Path) -> Recorded:
    """A record without its picture."""
    known = {field.name for field in dataclasses.fields(Recorded)} - {"picture"}
    return Recorded(**{key: value for key, value in json.loads(path.read_text("utf8")).items() if key in known})


@dataclass(frozen=True)
class MissingRecord:
    """What a page shows in the place of a record that is not there: the rest of it still reads.

    >>> "nowhere" in MissingRecord("nowhere", "there is none")._repr_html_()
    True
    """

    name: str
    reason: str

    def _repr_html_(self) -> str:
        text = f"The recorded run {self.name} is missing, and what it shows with it: {self.reason}."
        title = '<p class="admonition-title">Missing</p>'
        return f'<div class="admonition warning">{title}<p>{html.escape(text)}</p></div>'


def show_recorded(name: str, folder: str | Path | None = None) -> Recorded | MissingRecord:
    """The same as :func:`load_recorded`, by the name of what a cell does that ends with it.

    Args:
        name: Name of the record.
        folder: Where it lies; by default ``book/recorded`` of the book around the working directory.

    Returns:
        The run, which a notebook shows as a table with its origin and the command that repeats it; where it is not
        there or its picture is another one, a box that says so.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = record("run", title="A run", config={}, measured={"ours": {"psnr": 21.0}}, seeds=[0],
    ...                   command="make run", seconds=1, device="cpu", folder=folder)
    ...     show_recorded("run", folder).origin
    '...-...-..., cpu, 1 s, seed 0, commit ...'
    """
    try:
        return load_recorded(name, folder)
    except (FileNotFoundError, ValueError) as error:
        return MissingRecord(name, str(error))


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


def _seeds(seeds: Sequence[int]) -> str:
    """Seeds in a line: ``, seed 0`` or ``, seeds 0, 1, 2``."""
    names = ", ".join(map(str, seeds))
    return "" if not seeds else f", seed {names}" if len(seeds) == 1 else f", seeds {names}"


def _path(name: str, folder: str | Path | None) -> Path:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
        raise ValueError(f"name {name!r}: use lower-case letters, digits, '-', '_' and '.'")
    return Path(folder or find_root() / "book/recorded", f"{name}.json")
