"""The official client signs in through Limen: a real provider behind it, a real browser in front of the pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from oauth.signing_in import Scene, scene

from browser import chromium


@pytest.fixture
def registering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with scene(tmp_path, monkeypatch) as made:
        yield made


def at_the_provider(page: Any, name: str = "alice") -> None:
    """Type a name and a password, and agree to what the provider asks."""
    page.fill("input[name=login]", name)
    page.fill("input[name=password]", "any")
    page.click("button[type=submit]")
    page.click("button[type=submit]")


def test_a_client_registers_signs_in_and_calls(registering: Scene) -> None:
    def person(url: str) -> None:
        with chromium() as browser:
            page = browser.new_context(java_script_enabled=False).new_page()
            page.goto(url)
            assert "Notes for Linux" in page.inner_text("main")
            page.get_by_role("button", name="Allow").click()
            page.wait_for_url(f"{registering.provider.issuer}/**")
            at_the_provider(page)
            page.wait_for_url(f"{registering.redirect}*")

    assert registering.connect(person) == "ran echo"
