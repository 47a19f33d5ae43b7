"""Recorded runs: what took a GPU or hours is stored as JSON and a picture, and shown as what it is.

A page calls :func:`show_recorded`, which marks the result with its date, device and commit and with the command that
repeats it. A record remembers the rules that its claims stood under and the fingerprints of its networks;
:func:`check_records` says what has changed since.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from invkit.book.ledger.rules import Rule, load_rules
from invkit.book.numbers import Summary, format_summary, summarise
from invkit.book.record_file import Measured, path_of, sha256
from invkit.book.root import find_root
from invkit.show.picture import img_tag, png, webp
from invkit.show.tables import heading, separate_tables

CODE = re.compile(r"`([^`]+)`")  # a name within a note
OF_SEED = re.compile(r", seed \d+$")  # at the end of a network's name


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
        single: Rows, or ``"row: column"``, that hold a single number on purpose though there are several seeds.
        picture: The figure as PNG, or as WebP where it is of photographs.
        hidden: Columns that its table leaves out where it is shown.
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
    single: list[str] = field(default_factory=list)
    alt: str = ""
    note: str = ""
    picture: bytes | None = None
    hidden: tuple[str, ...] = ()

    def summaries(self) -> dict[str, dict[str, Summary]]:
        """Mean, standard deviation and count of every number, by row and column."""
        return {
            row: {column: summarise(value) for column, value in columns.items()}
            for row, columns in self.measured.items()
        }

    def means(self) -> dict[str, dict[str, float]]:
        """The mean over seeds of every number, by row and column.

        >>> import tempfile
        >>> from invkit.book import record
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
        >>> from invkit.book import record
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
            over: The other rows; where one is named in :attr:`single`, its number counts for all seeds.
            lower_is_better: Whether less is better, as in a distance.
            relative: Whether to divide by the size of the other's number.

        Raises:
            ValueError: As :meth:`by_seed`, and if ``over`` is empty.

        >>> import tempfile
        >>> from invkit.book import record
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
            alone = len(values) == 1 and self.is_single(name, column)
            others.append(values * len(ours) if alone else self.by_seed(name, column))
        best = [min(numbers) if lower_is_better else max(numbers) for numbers in zip(*others)]
        leads = [b - a if lower_is_better else a - b for a, b in zip(ours, best)]
        return [lead / abs(b) for lead, b in zip(leads, best)] if relative else leads

    def is_single(self, row: str, column: str) -> bool:
        """Whether the record says that a row, or a column of it, holds a single number on purpose."""
        return row in self.single or f"{row}: {column}" in self.single

    @property
    def same_networks(self) -> bool:
        """Whether the seeds left the networks alone: of none are there as many fingerprints as seeds.

        Names that end in ``, seed 3`` or another number count as one. Of a run that names no networks it says False.
        """
        prints: dict[str, set[str]] = {}
        for name, found in self.networks.items():
            prints.setdefault(OF_SEED.sub("", name), set()).update(found)
        return bool(prints) and all(len(found) < len(self.seeds) for found in prints.values())

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
        note = CODE.sub(r"<code>\1</code>", html.escape(self.note))
        rows = {
            name: {column: format_summary(summary) for column, summary in row.items() if column not in self.hidden}
            for name, row in self.summaries().items()
        }
        left_out = ""
        if self.hidden:
            names = html.escape(", ".join(map(heading, self.hidden)))
            left_out = f"<p>Left out here, and kept in <code>book/recorded/{self.name}.json</code>: {names}.</p>"
        # As Sphinx writes code, so that a page can keep an option in one piece.
        words = " ".join(f'<span class="pre">{html.escape(word)}</span>' for word in self.command.split(" "))
        head = f"<p><strong>Recorded run</strong> {html.escape(self.title)}</p><p>{html.escape(self.origin)}</p>"
        return (
            f'<figure class="inv-recorded"><figcaption>{head}</figcaption>{image}'
            f"{separate_tables(rows)}{left_out}{note and f'<p>{note}</p>'}"
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
    path = path_of(name, folder)
    if not path.is_file():
        present = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none"
        raise FileNotFoundError(f"no recorded run {name!r} in {path.parent}; there is {present}")
    run = replace(_read(path), picture=read_picture(path))
    for problem in [*problems(run), *other_networks(run, path.parent)]:
        warnings.warn(problem, stacklevel=2)
    return run


def read_picture(path: Path) -> bytes | None:
    """The picture of the record in a JSON file; None for one that has none.

    Raises:
        ValueError: If it is missing or another one.
    """
    expected, image = json.loads(path.read_text("utf8"))["picture_sha256"], path.with_suffix(".png")
    if not image.is_file() and path.with_suffix(".webp").is_file():
        image = path.with_suffix(".webp")
    picture = image.read_bytes() if expected and image.is_file() else None
    if expected and (picture is None or sha256(picture) != expected):
        raise ValueError(f"{image} is missing or not the picture of this run: record it again")
    return picture


def check_records(folder: str | Path | None = None) -> list[str]:
    """What is wrong with the recorded runs of a folder, in sentences that name the run.

    A rule has changed since the run that was made for it, unless it was mended for older runs as well and is still as
    it was mended; a row lacks a seed; networks of one name are others than in another run.

    >>> import tempfile
    >>> from invkit.book import record
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
        if rule is None or not (rule.digest() == digest or _mended_for(rule, run)):
            what = "has changed since it was made" if rule else "is gone"
            found.append(f"recorded run {run.name}: the rule of {id} {what}; make the run again to test it")
    for row, columns in run.measured.items():
        for column, values in columns.items():
            if not isinstance(values, list) or len(values) == len(run.seeds):
                continue
            if len(values) != 1 or not run.is_single(row, column):
                found.append(_missing(run, row, column, len(values)))
    return found


def _mended_for(rule: Rule, run: Recorded) -> bool:
    """Whether a rule was mended after the run, and has not changed since; rows say that it is younger."""
    return run.date[:10] <= rule.mended and rule.digest() == rule.mended_digest


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


def show_recorded(
    name: str, folder: str | Path | None = None, *, hide: Sequence[str] = (), picture: bool = True
) -> Recorded | MissingRecord:  # fmt: skip
    """The same as :func:`load_recorded`, by the name of what a cell does that ends with it.

    Args:
        name: Name of the record.
        folder: Where it lies; by default ``book/recorded`` of the book around the working directory.
        hide: Columns that the table leaves out, for one that would be wider than a page; it says which.
        picture: Whether its picture is shown, too; not where the page draws one from the same numbers.

    Returns:
        The run, which a notebook shows as a table with its origin and the command that repeats it; where it is not
        there or its picture is another one, a box that says so.

    Raises:
        ValueError: For a column to hide that the run does not have.

    >>> import tempfile
    >>> from invkit.book import record
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = record("run", title="A run", config={}, measured={"ours": {"psnr": 21.0}}, seeds=[0],
    ...                   command="make run", seconds=1, device="cpu", folder=folder)
    ...     show_recorded("run", folder).origin
    '...-...-..., cpu, 1 s, seed 0, commit ...'
    """
    try:
        run = load_recorded(name, folder)
    except (FileNotFoundError, ValueError) as error:
        return MissingRecord(name, str(error))
    columns = {column: None for row in run.measured.values() for column in row}
    if unknown := [column for column in hide if column not in columns]:
        raise ValueError(f"recorded run {name} has no column {unknown[0]!r} to hide; there is {', '.join(columns)}")
    return replace(run, hidden=tuple(hide), picture=run.picture if picture else None)


def _seeds(seeds: Sequence[int]) -> str:
    """Seeds in a line: ``, seed 0`` or ``, seeds 0, 1, 2``."""
    names = ", ".join(map(str, seeds))
    return "" if not seeds else f", seed {names}" if len(seeds) == 1 else f", seeds {names}"
