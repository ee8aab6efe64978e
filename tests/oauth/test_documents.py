"""Client ID metadata documents: what is taken, how long it is kept, and what people are warned of. OA-43 to OA-46."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from mcp.shared.auth import OAuthClientMetadata

from limen.core.faults import DependencyFault
from limen.oauth.model import Client
from oauth.client_rig import CIMD, ISSUER, Rig, document, refused, run


def find(rig: Rig, client_id: str = CIMD) -> Client:
    found: Client = run(rig.clients.find(client_id))
    return found


def rig_with(body: Any, status: int = 200, *, settings: Any = None, **headers: str) -> Rig:
    rig = Rig(documents=settings or {})
    rig.exchange.put(CIMD, body, status, **headers)
    return rig


def refusal(body: Any, status: int = 200, *, settings: Any = None, **headers: str) -> str:
    rig = rig_with(body, status, settings=settings, **headers)
    told = refused(lambda: find(rig), "invalid_client")
    assert told.status == 400
    return told.description


def test_an_honest_client_with_a_document() -> None:
    full = document(
        client_uri="https://app.example.com/", logo_uri="https://cdn.app.example.com/l.png",
        scope="files.read files.write",
        grant_types=["authorization_code", "refresh_token"], response_types=["code"], token_endpoint_auth_method="none",
        contacts=["a@example.com"], something_new={"a": 1},
    )  # fmt: skip
    OAuthClientMetadata.model_validate(full)  # what the official SDK calls client metadata
    client = find(rig_with(full))
    assert (client.id, client.source, client.name, client.verified) == (CIMD, "metadata", "Example App", False)
    assert client.redirect_uris == ("https://app.example.com/cb",)
    assert client.scopes == {"files.read", "files.write"}
    assert client.uri == "https://app.example.com/"
    assert client.warnings == ("unverified",)
    assert len(client.digest) == 64


@pytest.mark.requirement("OA-45")
def test_a_loopback_client_with_a_document_is_marked() -> None:
    """OA-45: whoever listens on this machine gets the code, so a person is told, every time the client is found."""
    own = document(redirect_uris=["http://127.0.0.1/callback", "http://[::1]/callback", "http://localhost/callback"])
    rig = rig_with(own)
    assert find(rig).warnings == ("unverified", "loopback_only")
    mixed = document(redirect_uris=["https://app.example.com/cb", "http://localhost:1/cb"])
    assert find(rig_with(mixed)).warnings == ("unverified", "localhost")
    trusted = rig_with(own, settings={"trusted_hosts": ["app.example.com"]})
    assert find(trusted).verified
    assert find(trusted).warnings == ("loopback_only",)  # an operator vouches for the document, not for the machine


def many(count: int) -> list[str]:
    return [f"https://app.example.com/{number}" for number in range(count)]


@pytest.mark.requirement("AS-14", "AS-17", "OA-43", "OA-46")
@pytest.mark.parametrize(
    "body",
    [
        document(client_id=CIMD + "/"), document(client_id=CIMD.upper()),
        document(client_id="https://app.example.com:443/oauth/client.json"),
        document(client_id="https://evil.example/client.json"), document(client_id=None), document(client_id=...),
        document(client_id=[CIMD]),
        document(client_secret="x"), document(client_secret=None), document(client_secret_expires_at=0),
        document(client_name=...), document(client_name=""), document(client_name=7), document(client_name="\u200b"),
        document(client_name="x" * 101), document(client_name="a\nb"), document(client_name="a\x1b[2J"),
        document(client_name="a\u2028b"),
        document(redirect_uris=...), document(redirect_uris=[]), document(redirect_uris="https://app.example.com/cb"),
        document(redirect_uris=["https://*.example.com/cb"]), document(redirect_uris=["https://app.example.com/*"]),
        document(redirect_uris=["https://evil.example/cb"]), document(redirect_uris=["http://app.example.com/cb"]),
        document(redirect_uris=["javascript:alert(1)"]), document(redirect_uris=["com.example.app:/cb"]),
        document(redirect_uris=[f"{ISSUER}/oauth/callback"]), document(redirect_uris=many(11)),
        document(redirect_uris=["https://app.example.com/cb", "https://app.example.com.evil.example/cb"]),
        document(token_endpoint_auth_method="client_secret_basic"),
        document(token_endpoint_auth_method="client_secret_post"),
        document(token_endpoint_auth_method="client_secret_jwt"), document(token_endpoint_auth_method=None),
        document(token_endpoint_auth_method="private_key_jwt"),
        document(token_endpoint_auth_method="private_key_jwt", jwks={"keys": []}),
        document(token_endpoint_auth_method="private_key_jwt", jwks={"keys": [{"kty": "oct", "k": "AAAA"}]}),
        document(token_endpoint_auth_method="private_key_jwt", jwks_uri="http://app.example.com/jwks"),
        document(token_endpoint_auth_method="private_key_jwt", jwks_uri="https://evil.example/jwks"),
        document(token_endpoint_auth_method="private_key_jwt", jwks_uri="https://169.254.169.254/jwks"),
        document(grant_types=["implicit"]), document(grant_types="authorization_code"), document(grant_types=[1]),
        document(response_types=["token"]), document(response_types=["code", "token"]), document(scope="a  b"),
        document(scope=["a"]), document(scope='a"b'), document(scope=" ".join(map(str, range(200)))),
        document(client_uri="javascript:alert(1)"), document(logo_uri="data:image/svg+xml,x"), document(client_uri=[1]),
        document(padding="x" * 5120),
        json.dumps(document(other="\ud800")).encode(), json.dumps(document(client_name="\ud83d")).encode(),
        document(client_name="a\ue000b"),
        [], "text", None, 7, b"", b"{", b"\xff\xfe", b"<html>", b"{}" * 2, b"[" * 4000,
        b'{"client_id":"' + CIMD.encode() + b'","client_id":"' + CIMD.encode() + b'","client_name":"A","redirect_uris":["https://app.example.com/cb"]}',
        b'{"client_id":"' + CIMD.encode() + b'","Client_ID":"x","client_name":"A","redirect_uris":["https://app.example.com/cb"]}',
        json.dumps(document(deep=[[[[[[[[[[]]]]]]]]]])).encode(),
    ],
)  # fmt: skip
def test_oa_43_documents_that_are_none(body: Any) -> None:
    """OA-43, OA-46: one flaw is enough, and no client comes of it."""
    assert "evil" not in refusal(body)


@pytest.mark.requirement("OA-42")
@pytest.mark.parametrize("status", [201, 204, 206, 301, 302, 307, 401, 404, 500, 503])
def test_oa_42_a_redirect_or_an_error_is_no_document(status: int) -> None:
    """OA-42."""
    assert refusal(document(), status, location=CIMD) == "the client's document cannot be fetched"


@pytest.mark.requirement("OA-43")
@pytest.mark.parametrize(
    "kind",
    ["text/html", "text/plain", "", "application/javascript", "application/json, text/html",
    "application/json; charset=utf-16",
     "application/jsonp", "multipart/form-data", "+json", "application/+json"],
)  # fmt: skip
def test_oa_43_content_types_that_are_not_json(kind: str) -> None:
    """OA-43."""
    assert "application/json" in refusal(document(), content_type=kind)


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "application/JSON", "application/client-id-metadata+json"]
)
def test_content_types_of_documents(kind: str) -> None:
    assert find(rig_with(document(), content_type=kind)).name == "Example App"


@pytest.mark.requirement("OA-40", "OA-43")
@pytest.mark.parametrize(
    "client_id",
    [
        "http://app.example.com/oauth/client.json", "https://app.example.com", "https://app.example.com/",
        "https://app.example.com/c?d=e",
        "https://app.example.com/c?", "https://app.example.com/c#d", "https://u@app.example.com/c",
        "https://u:p@app.example.com/c",
        "https://app.example.com/a/../c", "https://app.example.com/./c", "https://app.example.com/%2e%2e/c",
        "https://app.example.com//c",
        "https://app.example.com/a%2fc", "https://APP.example.com/c", "HTTPS://app.example.com/c",
        "https://app.example.com./c",
        "https://app.example.com:0/c", "https://127.0.0.1/c", "https://[::1]/c", "https://10.0.0.1/c",
        "https://2130706433/c",
        "https://93.184.216.34/c", "https://localhost/c", "https://intranet/c", "https://169.254.169.254/c",
        "https://\u0430pp.example.com/c",
        "https://limen.example.com/c", "https://login.provider.example/c", "https://app.example.com/c\n",
        "https://app.example.com/c d",
        "https://app.example.com\\@evil.example/c", "https://app.example.com/" + "x" * 512, "https://", "https:///c",
    ],
)  # fmt: skip
def test_oa_43_ids_that_name_no_document(client_id: str) -> None:
    """OA-40, OA-43: judged before anything is asked of anybody."""
    rig = Rig()
    rig.exchange.put(client_id, document(client_id))
    refused(lambda: find(rig, client_id), "invalid_client")
    assert rig.exchange.asked == []


@pytest.mark.requirement("OA-40")
def test_what_cannot_be_reached_is_told_in_the_same_words() -> None:
    """OA-40: nobody explores a network with our eyes."""
    told = set()
    for fault in (
        "10.0.0.7: refused",
        "a private address",
        "no such name",
        "CERTIFICATE_VERIFY_FAILED",
        "no answer within 5 s",
    ):
        rig = Rig()
        rig.exchange.answers[CIMD] = DependencyFault("fetch", fault)
        error = refused(lambda rig=rig: find(rig), "invalid_client")
        told.add(error.description)
        assert fault in error.detail  # the operator is told
    assert len(told) == 1


def ages(rig: Rig, step: float) -> int:
    """Fetches of two finds this many seconds apart."""
    before = len(rig.exchange.asked)
    find(rig)
    rig.at += step
    find(rig)
    return len(rig.exchange.asked) - before


@pytest.mark.requirement("AS-15")
@pytest.mark.parametrize(
    ("headers", "step", "fetches"),
    [
        ({"cache_control": "max-age=60"}, 59, 1),
        ({"cache_control": "max-age=60"}, 61, 2),
        ({"cache_control": "max-age=0"}, 11, 2),
        ({"cache_control": "max-age=0"}, 9, 1),
        ({"cache_control": "no-store, max-age=600"}, 11, 2),
        ({"cache_control": "public, max-age=60, max-age=600"}, 61, 2),
        ({"cache_control": "max-age=never"}, 11, 2),
        ({"cache_control": "max-age=-5"}, 11, 2),
        ({"cache_control": "max-age=60", "age": "50"}, 11, 2),
        ({"cache_control": "max-age=99999999"}, 3599, 1),
        ({"cache_control": "max-age=99999999"}, 3601, 2),
        ({"expires": "Fri, 15 Jan 2027 08:01:00 GMT"}, 59, 1),
        ({"expires": "Fri, 15 Jan 2027 08:01:00 GMT"}, 61, 2),
        ({"expires": "0"}, 11, 2),
        ({}, 299, 1),
        ({}, 301, 2),
    ],
)
def test_documents_are_kept_as_long_as_they_say_within_bounds(
    headers: dict[str, str], step: float, fetches: int
) -> None:
    assert ages(rig_with(document(), **headers), step) == fetches


@pytest.mark.requirement("AS-15")
def test_nothing_stale_is_ever_used() -> None:
    """A document that is gone is no client, whatever it said before; and comes back when it does."""
    rig = rig_with(document())
    find(rig)
    rig.at += 301
    rig.exchange.put(CIMD, b"", 503)
    refused(lambda: find(rig), "invalid_client")
    rig.exchange.put(CIMD, document())
    refused(lambda: find(rig), "invalid_client")  # a failure is remembered for a moment
    assert len(rig.exchange.asked) == 2
    rig.at += 16
    assert find(rig).name == "Example App"


@pytest.mark.requirement("OA-44")
def test_oa_44_a_document_that_changes_is_another_client_to_consent_to() -> None:
    """OA-44: the digest is of all of it, and the change is in the log."""
    rig = rig_with(document())
    before = find(rig).digest
    rig.at += 301
    assert find(rig).digest == before
    assert not rig.notes.named("oauth.client_changed")
    rig.at += 301
    rig.exchange.put(CIMD, document(redirect_uris=["http://127.0.0.1/cb"]))
    after = find(rig)
    assert after.digest != before
    assert rig.notes.named("oauth.client_changed") == [{"client": CIMD, "before": before, "after": after.digest}]


@pytest.mark.requirement("OA-88")
def test_one_fetch_however_many_ask_and_no_flood_through_us() -> None:
    """OA-88: single flight for one document; a bounded number of fetches, and of these for each host."""

    async def work() -> None:
        rig = rig_with(document())
        rig.exchange.gate = asyncio.Event()
        asked = [asyncio.create_task(rig.clients.find(CIMD)) for _ in range(20)]
        await asyncio.sleep(0)
        asked[0].cancel()  # the first to ask goes away, the others still get it
        await asyncio.sleep(0.01)
        rig.exchange.gate.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert sum(isinstance(one, Client) for one in found) == 19
        assert rig.exchange.asked == [CIMD]

        rig.exchange.gate = asyncio.Event()
        same = [asyncio.create_task(rig.clients.find(f"https://evil.example/{number}")) for number in range(10)]
        wide = [asyncio.create_task(rig.clients.find(f"https://e{number}.example/c")) for number in range(60)]
        await asyncio.sleep(0.01)
        assert len(rig.exchange.asked) == 1 + 32
        assert sum("//evil." in url for url in rig.exchange.asked) == 4
        rig.exchange.gate.set()
        codes = [error.code for error in await asyncio.gather(*same, *wide, return_exceptions=True)]
        assert codes.count("temporarily_unavailable") == 70 - 32
        rig.at += 16
        assert (await rig.clients.find(CIMD)).id == CIMD  # nothing is held up afterwards
        assert not rig.documents._fetching
        assert not rig.documents._hosts

    run(work())


def test_what_is_remembered_is_bounded() -> None:
    rig = Rig()
    rig.exchange.put(CIMD, document(), cache_control="max-age=3600")

    async def work() -> None:
        await rig.clients.find(CIMD)
        for number in range(1100):
            with pytest.raises(Exception, match="invalid_client"):
                await rig.clients.find(f"https://e.example/{number}")
        await rig.clients.find(CIMD)

    run(work())
    assert len(rig.documents._bad) == 1000
    assert rig.exchange.asked.count(CIMD) == 1  # failures do not push out what is good


def test_a_device_says_so_in_its_document() -> None:
    device = "urn:ietf:params:oauth:grant-type:device_code"
    sent = document(grant_types=["authorization_code", device, "urn:example:other"])
    assert find(rig_with(sent)).grant_types == {"authorization_code", device}
    assert find(rig_with(document())).grant_types == {"authorization_code", "refresh_token"}


def test_a_flood_of_refused_hosts_does_not_fill_the_log() -> None:
    rig = Rig(documents={"blocked_hosts": ["evil.example"]})
    for number in range(50):
        refused(lambda number=number: find(rig, f"https://evil.example/{number}"), "invalid_client")
    assert len(rig.notes.named("oauth.client_refused")) == 1
    rig.at += 601
    refused(lambda: find(rig, "https://evil.example/again"), "invalid_client")
    assert len(rig.notes.named("oauth.client_refused")) == 2


def test_hosts_an_operator_blocks_or_names() -> None:
    blocked = {"blocked_hosts": ["example.com"]}
    assert refusal(document(), settings=blocked) == "clients of this host are not accepted here"
    assert refusal(document(), settings={"only_trusted": True, "trusted_hosts": ["other.example"]})
    assert refusal(document(), settings={"enabled": False})
    only = rig_with(document(), settings={"only_trusted": True, "trusted_hosts": ["app.example.com"]})
    assert find(only).verified
    rig = rig_with(document(), settings=blocked)
    refused(lambda: find(rig))
    assert rig.notes.named("oauth.client_refused")[0]["why"] == "the host is blocked"
    assert rig.exchange.asked == []


@pytest.mark.requirement("OA-43")
def test_codes_for_another_host_only_where_an_operator_says_so() -> None:
    """OA-43: a document speaks for its own host."""
    foreign = document(redirect_uris=["https://other.example/cb"])
    assert "not the document's" in refusal(foreign)
    loosened = find(rig_with(foreign, settings={"unsafe_foreign_redirects": True}))
    assert loosened.warnings == ("unverified", "foreign_redirect")
    assert find(rig_with(foreign, settings={"trusted_hosts": ["app.example.com"]})).warnings == ()
    below = document(redirect_uris=["https://login.app.example.com/cb"])
    assert find(rig_with(below)).warnings == ("unverified",)
    above = document(redirect_uris=["https://example.com/cb"])
    assert "not the document's" in refusal(above)


def test_pages_elsewhere_are_not_shown_as_the_clients() -> None:
    client = find(rig_with(document(client_uri="https://bank.example/", logo_uri="https://bank.example/l.png")))
    assert (client.uri, client.warnings) == ("", ("unverified", "foreign_page"))
