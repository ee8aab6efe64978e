"""Whom a name or a host is taken for. OA-08 (the name), OA-45, and clients that pose as well-known ones."""

from __future__ import annotations

import time
from typing import Any

import pytest

from limen.core.urls import read_url
from limen.oauth.client_metadata import read_name
from limen.oauth.settings import DocumentSettings
from limen.oauth.trust import MAKERS, Trust
from oauth.client_rig import LETTERS, Rig, document, refused, run

LOOPBACK = ("http://127.0.0.1/cb",)


def trust(**settings: Any) -> Trust:
    return Trust(DocumentSettings(**settings), LETTERS)


def warnings(name: str, home: str = "", redirects: tuple[str, ...] = LOOPBACK) -> set[str]:
    return {*trust().warnings(name, False, home, redirects)} - {"unverified", "loopback_only"}


@pytest.mark.requirement("OA-08")
@pytest.mark.parametrize(
    "host",
    ["ciaude.ai", "c1aude.ai", "clau-de.ai", "www.c1aude.ai", "gogle.com", "googie.com", "curs0r.com",
    "rnicrosoft.com", "login.rnicrosoft.com",
     "xn--clude-fve.ai", "xn--pple-43d.com", "xn--80ak6aa92e.com", "xn--a.ai", "xn--99999999999.ai"],
)  # fmt: skip
def test_oa_08_hosts_that_pose_as_others_hold_no_clients(host: str) -> None:
    """OA-08: by letters of other alphabets, by digits, by spelling; refused before anything is fetched."""
    rig = Rig()
    client_id = f"https://{host}/client.json"
    rig.exchange.put(client_id, document(client_id, redirect_uris=["http://127.0.0.1/cb"]))
    refused(lambda: run(rig.clients.find(client_id)), "invalid_client")
    assert rig.exchange.asked == []
    assert rig.notes.named("oauth.client_refused")


def test_honest_hosts_hold_clients() -> None:
    hosts = [host for maker in MAKERS for host in maker.hosts]
    for host in (
        *hosts,
        *(f"www.{host}" for host in hosts),
        "app.example.com",
        "xn--bcher-kva.example",
        "xn--wgv71a119e.example",
        "zebra.dev",
    ):
        assert trust().refusal(read_url(f"https://{host}/c")) == "", host
    assert (
        trust(trusted_hosts=("c1aude.ai",)).refusal(read_url("https://c1aude.ai/c")) == ""
    )  # an operator knows better
    assert "looks like" in trust(trusted_hosts=("bank.example",)).refusal(read_url("https://b4nk.example/c"))


@pytest.mark.requirement("OA-08")
@pytest.mark.parametrize(
    ("name", "home", "redirects", "poses"),
    [
        ("Claude Desktop", "evil.example", LOOPBACK, "Claude"),
        ("ClaudeDesktop", "evil.example", LOOPBACK, "Claude"),
        ("claude", "evil.example", ("https://evil.example/cb",), "Claude"),
        ("Claude", "", ("https://evil.example/cb",), "Claude"),
        ("Claude", "", ("https://claude.ai/cb", "https://evil.example/cb"), "Claude"),
        ("C1aude Code", "", LOOPBACK, "Claude"),
        ("Cl\u0430ude", "", LOOPBACK, "Claude"),
        ("Clau de", "", LOOPBACK, "Claude"),
        ("VS Code", "evil.example", LOOPBACK, "Visual Studio Code"),
        ("Visual-Studio Code", "evil.example", LOOPBACK, "Visual Studio Code"),
        ("Anthropic", "vscode.dev", LOOPBACK, "Claude"),
        ("Files", "claude.ai.evil.example", LOOPBACK, "Claude"),
        ("Files", "claude-ai.evil.example", LOOPBACK, "Claude"),
        ("Files", "", ("https://claude.ai.evil.example/cb",), "Claude"),
    ],
)
def test_oa_08_names_that_pose_as_others(name: str, home: str, redirects: tuple[str, ...], poses: str) -> None:
    """OA-08."""
    assert f"lookalike:{poses}" in warnings(name, home, redirects)


@pytest.mark.parametrize(
    ("name", "home", "redirects"),
    [
        ("Claude Code", "claude.ai", ("http://localhost/callback", "http://127.0.0.1/callback")),
        ("Claude", "claude.ai", ("https://claude.ai/cb", "https://claude.com/cb")),
        ("Visual Studio Code", "vscode.dev", ("http://127.0.0.1:33418/", "https://vscode.dev/redirect")),
        ("GitHub Copilot for VS Code", "vscode.dev", LOOPBACK),
        ("Claude", "", LOOPBACK),  # nothing could tell; "unverified" says so
        ("Precursor", "app.example.com", ("https://app.example.com/cb",)),
        ("Zeder", "app.example.com", ("https://app.example.com/cb",)),
        ("\u65e5\u672c\u8a9e", "app.example.com", LOOPBACK),
        ("B\u00fccher-Freund", "app.example.com", LOOPBACK),
        ("\u041a\u043b\u0438\u0435\u043d\u0442", "app.example.com", LOOPBACK),
    ],
)
def test_honest_names_pose_as_nobody(name: str, home: str, redirects: tuple[str, ...]) -> None:
    assert not {one for one in warnings(name, home, redirects) if one != "localhost"}


@pytest.mark.requirement("OA-08")
@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("Exa\u202emple", "Example"),
        ("Exa\u200bmple", "Example"),
        ("\ufeffExample", "Example"),
        ("E\u0301\u0301\u0301\u0301\u0301x", None),
    ],
)
def test_oa_08_what_is_not_seen_is_left_out_and_told(sent: str, shown: str | None) -> None:
    """OA-08: direction marks, invisible characters, towers of accents."""
    name, disguised = read_name(sent)
    assert disguised
    assert shown in (None, name)
    assert "name_disguised" in trust().warnings(name, disguised, "app.example.com", LOOPBACK)


@pytest.mark.requirement("OA-08")
def test_oa_08_letters_of_two_alphabets_are_told() -> None:
    """OA-08: one Cyrillic letter in a Latin word."""
    assert "name_disguised" in warnings("Ex\u0430mple", "app.example.com")
    assert read_name("Example  App") == ("Example App", False)
    assert read_name("<b>Example</b>") == ("<b>Example</b>", False)  # whoever shows it escapes it


@pytest.mark.requirement("OA-08")
def test_oa_08_a_long_strange_name_costs_little() -> None:
    """OA-08: no name makes the check slow: the worst is bounded against an ordinary one."""

    def cost(name: str) -> float:
        best = 1e9
        for _ in range(5):
            begun = time.perf_counter()
            list(trust_.warnings(name, False, "app.example.com", LOOPBACK))
            best = min(best, time.perf_counter() - begun)
        return best

    trust_ = trust()
    ordinary = cost("An ordinary name of an ordinary application")
    assert max(cost(name) for name in ("a " * 50, "\u0430 " * 50, "a\u0301" * 50, "rn" * 50, "0" * 100)) < 60 * ordinary
