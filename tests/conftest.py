"""Fixtures of several folders of tests: the system's Chromium, and pages in it that have no network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

# Tests compute little: on a busy machine a second thread costs far more in waiting than it gains.
os.environ.setdefault("OMP_NUM_THREADS", "1")

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the project."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """Path of the system's Chromium: `CHROMIUM` where it is set, else the first known name on PATH."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if path is None:
        pytest.fail(
            "The browser tests need a system Chromium, and none was found under the names "
            f"{', '.join(CHROMIUM_NAMES)}. Install it (Debian, Ubuntu: apt-get install chromium), or set "
            "CHROMIUM to the path of the program.",
            pytrace=False,
        )
    return path


@pytest.fixture(scope="session")
def chromium(chromium_path: str) -> Iterator:
    """A running headless Chromium (playwright's `Browser`), shared by all tests of a session."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, headless=True, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium) -> Iterator:
    """A page without a network; `outside` lists its requests to other hosts, `problems` its errors."""
    context = chromium.new_context(offline=True, viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    tab.outside, tab.problems = [], []
    tab.on(
        "request", lambda r: tab.outside.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None
    )
    tab.on("console", lambda m: tab.problems.append(m.text) if m.type == "error" else None)
    tab.on("pageerror", lambda e: tab.problems.append(str(e)))
    yield tab
    context.close()
