"""A real browser for end-to-end tests: `with chromium() as browser:`. Headless, a fresh profile each time."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
# Nothing but this machine can be reached, whatever a page asks for; names under .test are this machine.
_RULES = "MAP *.test 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost, EXCLUDE [::1]"


@contextlib.contextmanager
def chromium(*flags: str, profile: Path | None = None, **options: Any) -> Iterator[Any]:
    """A Playwright browser context: cookies of its own, `context.new_page()`. `options` as `launch_persistent_context`
    takes them, such as java_script_enabled=False. Skips the test where there is no chromium."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no chromium: install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="there is no playwright: pip install playwright")
    with contextlib.ExitStack() as stack:
        folder = profile or Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        driver = stack.enter_context(playwright.sync_playwright())
        context = driver.chromium.launch_persistent_context(
            str(folder), executable_path=program, headless=True, ignore_default_args=["--headless", "--headless=old"],
            args=[*_FLAGS, f"--host-resolver-rules={_RULES}", *flags], timeout=60_000, **options,
        )  # fmt: skip
        context.set_default_timeout(20_000)
        stack.callback(context.close)
        yield context
