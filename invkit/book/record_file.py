"""The files of a recorded run, which a script writes with :func:`record` (see :mod:`invkit.book.recording`)."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from invkit.book.ledger.rules import load_rules
from invkit.book.numbers import Summary, finite, is_summary, summarise
from invkit.book.root import find_root
from invkit.core.config import plain
from invkit.core.files import atomic_path, write_json
from invkit.core.trial import TRIAL, is_trial
from invkit.show.picture import Canvas, render_png, webp

Measured = dict[str, dict[str, list[float] | Summary]]
"""By row and column, one number for each seed, or their mean, standard deviation and count."""


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

    Rows that hold a single number though there are several seeds are named in it, see :func:`single_numbers`.

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
        ValueError: For a bad name, numbers that are not finite, an empty command, a figure without alt text, a claim
            that has no rule, and in a trial run.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = record("run", title="A run", config={"lr": 0.1}, measured={"ours": {"psnr": 21.0}}, seeds=[0],
    ...                   command="make run", seconds=1, device="cpu", folder=folder)
    ...     path.name
    'run.json'
    """
    path = path_of(name, folder)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: choose another name, or say overwrite=True")
    if is_trial():
        raise ValueError(f"{name}: loops are cut short by {TRIAL}; a recorded run needs all of its steps")
    if not command.strip():
        raise ValueError(f"{name}: a recorded run needs the command that repeats it")
    rules, rows = _rules_of(claims, name), _nested(measured, name)
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
        "rules": rules,
        "networks": {n: [f] if isinstance(f, str) else sorted(set(f)) for n, f in (networks or {}).items()},
        "single": single_numbers(rows, len(seeds)),
        "measured": rows,
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


def single_numbers(measured: Measured, seeds: int) -> list[str]:
    """What holds a single number though there are several seeds, as a baseline that no seed changes.

    Args:
        measured: By row and column.
        seeds: How many there are.

    Returns:
        Names of rows in which all columns hold one number but for those that hold a summary; of other rows
        ``"row: column"``.

    >>> rows = {"ours": {"psnr": [20.0, 22.0], "steps": [9.0]}, "class mean": {"psnr": [19.0]}}
    >>> single_numbers(rows, seeds=2), single_numbers(rows, seeds=1)
    (['ours: steps', 'class mean'], [])
    """
    if seeds < 2:
        return []
    found = []
    for row, columns in measured.items():
        lists = {column: values for column, values in columns.items() if isinstance(values, list)}
        alone = [column for column, values in lists.items() if len(values) == 1]
        whole = alone and len(alone) == len(lists)
        found += [row] if whole else [f"{row}: {column}" for column in alone]
    return found


def path_of(name: str, folder: str | Path | None = None) -> Path:
    """Where a record of that name lies, in ``book/recorded`` of the book around the working directory by default.

    Raises:
        ValueError: For a bad name.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
        raise ValueError(f"name {name!r}: use lower-case letters, digits, '-', '_' and '.'")
    return Path(folder or find_root() / "book/recorded", f"{name}.json")


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


def _rules_of(claims: Sequence[str] | Mapping[str, str], name: str) -> dict[str, str]:
    """The digests of the claims' rules by claim, checked."""
    if isinstance(claims, str):
        raise ValueError(f"{name}: claims must be a sequence of ids, not the word {claims!r}")
    if unknown := [id for id in claims if id not in load_rules()]:
        raise ValueError(f"{name}: claims names {', '.join(unknown)}, for which rules.yml has no rule")
    return dict(claims) if isinstance(claims, Mapping) else {id: load_rules()[id].digest() for id in claims}


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
