"""A real browser for end-to-end tests: `with chromium() as browser: page = browser.new_context().new_page()`.

Each context is a person's browser of its own: no cookies, no history. `new_context(java_script_enabled=False)` is one
without scripts.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
# Nothing but this machine can be reached, whatever a page asks for; names under .test are this machine.
_NAMES = "MAP *.test 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost, EXCLUDE [::1]"


@contextlib.contextmanager
def chromium(*flags: str) -> Iterator[Any]:
    """A headless Chromium, as a Playwright `Browser`, on a fresh profile. Skips the test where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no chromium: install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, timeout=60_000, ignore_default_args=["--headless", "--headless=old"],
            args=["--headless=new", *_FLAGS, f"--host-resolver-rules={_NAMES}", *flags],
        )  # fmt: skip
        try:
            yield browser
        finally:
            browser.close()
