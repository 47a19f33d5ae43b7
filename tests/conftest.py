"""What many tests share: small frozen networks, the folder of real data where there is one, and a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

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


CHROMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium that keeps its logs; skips where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver")
    binary, driver = next(filter(None, map(shutil.which, CHROMES)), None), shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("no Chromium with its driver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1280,1000"):
        options.add_argument(f"--{flag}")
    options.add_argument("--disable-background-networking")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


@pytest.fixture
def scriptless(browser: Any) -> Iterator[Any]:
    """The browser without JavaScript, for one test."""
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    yield browser
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
