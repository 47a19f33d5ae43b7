"""The pages under test: built from the notebooks' runs in profile ``ci``, in a folder of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build/ci"
BUILD = "from jupyter_book.cli.main import main; main()"


def call(*command: str) -> None:
    """Run a command in the repository; fail with all that it said."""
    env = os.environ | {"BOOK_PROFILE": "ci"}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, env=env)
    if done.returncode:
        pytest.fail(f"{' '.join(command)}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}", pytrace=False)


def build() -> None:
    """Run what changed, then build, with warnings as errors."""
    call("-m", "invkit.run", "--profile", "ci")
    options = ["--toc", "book/_toc.yml", "-W", "--keep-going", "--all", "--path-output", str(OUT)]
    call("-c", BUILD, "build", ".", *options)


@pytest.fixture(scope="session")
def site() -> Path:
    """Folder of the built pages; the environment variable BOOK_HTML names one that is there already."""
    if "BOOK_HTML" in os.environ:
        return Path(os.environ["BOOK_HTML"])
    OUT.mkdir(parents=True, exist_ok=True)
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", "")
    with FileLock(OUT / "lock"):  # several test processes share one build
        done = OUT / "built-for"
        if not run or not done.is_file() or done.read_text() != run:
            done.unlink(missing_ok=True)
            build()
            done.write_text(run)
    return OUT / "_build/html"
