"""``python -m invkit.run``: the command that runs the book's notebooks, see :mod:`invkit.book.runner`."""

from invkit.book.runner import main

if __name__ == "__main__":
    raise SystemExit(main())
