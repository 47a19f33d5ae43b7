"""What many tests share: small frozen networks, and the folder of real data where there is one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

from invkit.core.target import Target
from invkit.testing import quadrants_target, tiny_target

# Times on a shared machine say nothing about the code.
settings.register_profile("invkit", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("invkit")


@pytest.fixture
def data_folder() -> Path:
    """The folder of real data and weights; tests that need it skip where there is none."""
    name = os.environ.get("INVKIT_DATA")
    if not name:
        pytest.skip("INVKIT_DATA names no folder of real data and weights")
    return Path(name)


@pytest.fixture(scope="session")
def make_target() -> Callable[..., Target]:
    """Builds a tiny frozen network with random weights and random running statistics."""
    return tiny_target


@pytest.fixture
def quadrants() -> Target:
    """A frozen network on one channel, 12x12 pixels, whose four classes are the quarters of the image."""
    return quadrants_target()


@pytest.fixture
def target() -> Target:
    """A tiny frozen network: 3 channels, 8x8 pixels, 4 classes, two batch norms."""
    return tiny_target()


@pytest.fixture
def file_limit() -> Callable[[int], AbstractContextManager[None]]:
    """``with file_limit(n):`` no file grows beyond n bytes, as on a disk that is full."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit
