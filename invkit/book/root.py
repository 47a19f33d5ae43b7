"""Where the book is: its claims, its recorded runs and its pages lie below one folder."""

from __future__ import annotations

from pathlib import Path


def find_root(start: str | Path | None = None) -> Path:
    """The book's root: the nearest folder with ``book/_toc.yml`` at or above ``start`` (working directory).

    Outside of the book it is ``start`` itself, so that a notebook run elsewhere writes beside itself.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     find_root(folder) == Path(folder).resolve()
    True
    """
    here = Path(start or Path.cwd()).resolve()
    return next((folder for folder in (here, *here.parents) if (folder / "book/_toc.yml").is_file()), here)
