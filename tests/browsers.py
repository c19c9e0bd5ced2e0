"""A real browser without graphics hardware, for the tests of pages."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

ARGUMENTS = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
PATIENCE = 60_000  # milliseconds until a step has failed


@contextmanager
def chromium() -> Iterator[Callable[..., Any]]:
    """Starts browsers with further arguments, which end with the block; skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
    if program is None:
        pytest.skip("there is no chromium and no google-chrome on this machine")
    with playwright.sync_playwright() as driver:
        opened: list[Any] = []

        def start(*arguments: str) -> Any:
            opened.append(driver.chromium.launch(executable_path=program, args=[*ARGUMENTS, *arguments]))
            return opened[-1]

        yield start
        for browser in opened:
            browser.close()


def open_page(browser: Any, address: str, **options: Any) -> Any:
    """Open a page; what it says on the console (`said`) and what it requests (`requested`) is kept."""
    page = browser.new_page(**options)
    page.said, page.requested = [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda request: page.requested.append(request.url))
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    return page
