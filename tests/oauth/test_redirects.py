"""Where a code may be sent: OA-11 (byte for byte), OA-12 (loopback), OA-13 (pollution), when registered and later."""

from __future__ import annotations

import pytest

from limen.oauth.model import Client
from limen.oauth.redirects import allowed, lint
from limen.oauth.web import read_form
from oauth.client_rig import OWN, refused

GOOD = "https://app.example.com/cb"


def client(*uris: str) -> Client:
    return Client("c", "registered", "C", uris)


# What is presented where GOOD is registered, and whether it could have been registered as it is.
TRICKS = [
    ("https://app.example.com@evil.tld/cb", False),
    ("https://app.example.com:x@evil.tld/cb", False),
    ("https://evil.tld\\@app.example.com/cb", False),
    ("https://evil.tld\\.app.example.com/cb", False),
    ("https://app.example.com.evil.tld/cb", True),
    ("https://evil.tld/app.example.com/cb", True),
    ("https://app.example.com/cb/../steal", False),
    ("https://app.example.com/cb/..;/x", False),
    ("https://app.example.com/cb/.;a=b/x", False),
    ("https://app.example.com/cb%2f..%2fx", False),
    ("https://app.example.com/cb/%2e%2e/x", False),
    ("https://app.example.com/%2E%2E/cb", False),
    ("https://app.example.com/cb%5c..%5cx", False),
    ("https://app.example.com//cb", False),
    ("https://app.example.com/cb/", True),
    ("https://app.example.com/cb/x", True),
    ("https://app.example.com/c", True),
    ("https://app.example.com/cb#x", False),
    ("https://app.example.com/cb#@evil.tld", False),
    ("https://app.example.com/cb#", False),
    ("https://app.example.com/cb?next=https://evil.tld", True),
    ("https://app.example.com/cb?", True),
    ("https://APP.example.com/cb", False),
    ("https://app.example.com/CB", True),
    ("https://app.example.com./cb", False),
    ("https://app.example.com:444/cb", True),
    ("https://app.example.com:443/cb", True),
    ("https://app.example.com:0443/cb", False),
    ("https://app.example.com:/cb", False),
    ("https://app.example.com:65536/cb", False),
    ("http://app.example.com/cb", False),
    ("HTTPS://app.example.com/cb", False),
    ("https:/app.example.com/cb", False),
    ("https:///app.example.com/cb", False),
    ("//app.example.com/cb", False),
    ("/cb", False),
    ("app.example.com/cb", False),
    ("https://\u0430pp.example.com/cb", False),
    ("https://app.example.com/c\u0184", False),
    ("https://app\u3002example.com/cb", False),
    ("https://xn--pp-6kc.example.com/cb", True),
    ("https://app.example.com/cb\r\nLocation: https://evil.tld", False),
    ("https://app.example.com/cb\t", False),
    ("https://app.example.com/cb\0", False),
    ("https://app.example.com/cb\n", False),
    (" https://app.example.com/cb", False),
    ("https://app.example.com/cb ", False),
    ("https://app.example.com/c%00b", False),
    ("https://app.example.com/c%0d%0ab", False),
    ("https://app.example.com/c%zzb", False),
    ("javascript:alert(1)", False),
    ("javascript://app.example.com/%0aalert(1)", False),
    ("JaVaScRiPt:alert(1)", False),
    ("data:text/html,x", False),
    ("file:///etc/passwd", False),
    ("vbscript:x", False),
    ("intent://app.example.com/cb#Intent;end", False),
    ("blob:https://app.example.com/x", False),
    ("about:blank", False),
    ("ftp://app.example.com/cb", False),
    ("ws://app.example.com/cb", False),
    ("mailto:a@evil.tld", False),
    ("com.example.app:/cb", False),
    ("cursor://anysphere/cb", False),
    ("%68ttps://app.example.com/cb", False),
    ("https://app%2eexample.com/cb", False),
    ("https://%61pp.example.com/cb", False),
    ("https://[fe80::1%25eth0]/cb", False),
    ("https://[::1]/cb", False),
    ("https://127.0.0.1/cb", False),
    ("https://10.0.0.1/cb", False),
    ("https://intranet/cb", False),
    ("https://*.example.com/cb", False),
    ("https://app.example.com/*", False),
    ("https://app.example.com/cb" + "x" * 8192, False),
    ("https://limen.example.com/oauth/callback", False),
    ("https://limen.example.com:443/cb", False),
    ("https://login.provider.example/auth", False),
    ("http://127.0.0.1.evil.tld/cb", False),
    ("http://127.1/cb", False),
    ("http://127.0.0.2/cb", False),
    ("http://2130706433/cb", False),
    ("http://0x7f000001/cb", False),
    ("http://0177.0.0.1/cb", False),
    ("http://0/cb", False),
    ("http://0.0.0.0/cb", False),
    ("http://[::]/cb", False),
    ("http://[::ffff:127.0.0.1]/cb", False),
    ("http://[::ffff:7f00:1]/cb", False),
    ("http://[0:0:0:0:0:0:0:1]/cb", False),
    ("http://localhost.evil.tld/cb", False),
    ("http://localhost./cb", False),
    ("http://LOCALHOST/cb", False),
    ("http://localhost@evil.tld/cb", False),
    ("", False),
]


@pytest.mark.requirement("AS-04", "AS-16", "AS-34", "OA-11")
@pytest.mark.parametrize(("presented", "possible"), TRICKS, ids=[ascii(uri)[:60] for uri, _ in TRICKS])
def test_oa_11_only_what_was_registered(presented: str, possible: bool) -> None:
    """OA-11: presented in place of a registered address it is refused; most could not have been registered either."""
    assert not allowed(client(GOOD), presented)
    if possible:
        assert lint([presented], OWN) == (presented,)
        assert allowed(client(presented), presented)
        assert not allowed(client(presented), GOOD)
    else:
        refused(lambda: lint([presented], OWN), "invalid_redirect_uri")
        refused(lambda: lint([GOOD, presented], OWN), "invalid_redirect_uri")


def test_honest_addresses_are_registered_and_found_again() -> None:
    honest = (GOOD, "https://app.example.com", "https://app.example.com:8443/a/b?c=d", "http://127.0.0.1/cb",
              "http://127.0.0.1:33418/", "http://[::1]:1/cb", "http://localhost:3000/cb",
              "http://localhost/callback")  # fmt: skip
    assert lint(list(honest), OWN) == honest
    assert all(allowed(client(*honest), uri) for uri in honest)


@pytest.mark.requirement("OA-12")
@pytest.mark.parametrize("port", [1, 80, 33418, 51004, 65535])
@pytest.mark.parametrize("registered", ["http://127.0.0.1/cb?a=b", "http://127.0.0.1:3000/cb?a=b"])
def test_oa_12_the_port_of_a_loopback_address_may_vary(port: int, registered: str) -> None:
    """OA-12, the honest half: a client of the kind of Claude Code or VS Code takes any free port."""
    assert allowed(client(registered), f"http://127.0.0.1:{port}/cb?a=b")
    assert allowed(client(registered.replace("127.0.0.1", "[::1]")), f"http://[::1]:{port}/cb?a=b")


@pytest.mark.requirement("OA-12")
@pytest.mark.parametrize(
    "presented",
    [
        "http://127.0.0.1:1/", "http://127.0.0.1:1/cb2", "http://127.0.0.1:1/CB", "http://127.0.0.1:1/cb/",
        "http://127.0.0.1:1/cb?x",
        "http://127.0.0.1:1/cb#x", "http://127.0.0.1:1//cb", "http://127.0.0.1:1/x/../cb", "http://127.0.0.1:0/cb",
        "http://127.0.0.1:01/cb", "http://127.0.0.1:65536/cb", "http://127.0.0.1:99999/cb", "http://127.0.0.1:/cb",
        "http://127.0.0.1:1@evil.tld/cb", "http://127.0.0.1:1\\@evil.tld/cb", "http://127.0.0.1:\u0661/cb",
        "http://127.0.0.1.evil.tld:1/cb", "http://127.1:1/cb", "http://2130706433:1/cb", "http://0:1/cb",
        "http://127.0.0.2:1/cb",
        "http://[::ffff:127.0.0.1]:1/cb", "http://[::1]:1/cb", "http://localhost:1/cb", "https://127.0.0.1:1/cb",
        "HTTP://127.0.0.1:1/cb", "http://127.0.0.1:1/cb\n", "http://127.0.0.1:1/cb\0", " http://127.0.0.1:1/cb",
    ],
)  # fmt: skip
def test_oa_12_nothing_else_of_a_loopback_address_may_vary(presented: str) -> None:
    """OA-12."""
    assert not allowed(client("http://127.0.0.1/cb"), presented)


@pytest.mark.requirement("OA-12")
def test_oa_12_localhost_is_a_name_and_stays_as_registered() -> None:
    """OA-12: only the two literals are this machine whatever anybody says."""
    registered = client("http://localhost:3000/cb")
    assert allowed(registered, "http://localhost:3000/cb")
    for other in (
        "http://localhost:3001/cb",
        "http://localhost/cb",
        "http://127.0.0.1:3000/cb",
        "http://[::1]:3000/cb",
    ):
        assert not allowed(registered, other)
    assert not allowed(client(GOOD), "http://127.0.0.1:1/cb")


@pytest.mark.requirement("OA-13")
def test_oa_13_two_addresses_an_array_or_none() -> None:
    """OA-13: two parameters are refused where they are read; a missing or differently named one is no address."""
    two = "redirect_uri=https%3A%2F%2Fapp.example.com%2Fcb&redirect_uri=https%3A%2F%2Fevil.tld"
    refused(lambda: read_form(two), "invalid_request")
    form = read_form("redirect_uri%5B%5D=https%3A%2F%2Fapp.example.com%2Fcb")
    assert not allowed(client(GOOD, "https://app.example.com/2"), form.get("redirect_uri", ""))
    assert not allowed(client(GOOD), form.get("redirect_uri", ""))
    assert allowed(client(GOOD), read_form("redirect_uri=https%3A%2F%2Fapp.example.com%2Fcb")["redirect_uri"])


@pytest.mark.parametrize(
    "uris", [None, [], "https://app.example.com/cb", {}, [1], [None], [GOOD, GOOD], [GOOD] * 11, [[GOOD]]]
)
def test_lists_that_are_none(uris: object) -> None:
    refused(lambda: lint(uris, OWN), "invalid_redirect_uri")


def test_an_operator_may_mean_an_inner_address_or_an_applications_scheme_but_never_a_script() -> None:
    meant = (
        "com.example.app:/cb",
        "cursor://anysphere.cursor-mcp/oauth/callback",
        "https://10.0.0.7/cb",
        "https://intranet/cb",
    )
    assert lint(meant, OWN, configured=True) == meant
    assert all(allowed(client(*meant), uri) for uri in meant)
    for uri in meant:
        refused(lambda uri=uri: lint([uri], OWN))
    for uri in ("javascript:/x", "data:/x", "file:/x", "vbscript:/x", "intent:/x", "blob:/x", "http://10.0.0.7/cb",
    "com.a:cb",
                "com.example.app:/cb#x", "com.example.app:/*", "com.example.app:/c b", "https://limen.example.com/x",
                "view-source:/x"):  # fmt: skip
        refused(lambda uri=uri: lint([uri], OWN, configured=True), "invalid_redirect_uri")


def test_no_reason_repeats_what_a_stranger_wrote() -> None:
    for uri, possible in TRICKS:
        if not possible and len(uri) > 8:
            told = refused(lambda uri=uri: lint([uri], OWN))
            assert uri not in told.description
