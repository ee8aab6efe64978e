"""What the authorization server says of itself, as clients read it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from mcp.shared.auth import OAuthMetadata

from limen.oauth.metadata import WELL_KNOWN, Metadata, server_metadata
from limen.oauth.settings import OAuthSettings
from limen.oauth.web import Visit
from oauth.ways import GATEWAY, OFFERS, Neighbours, World

PROVIDER = {"issuer": "https://id.example", "client_id": "limen"}


def document(**settings: Any) -> dict[str, Any]:
    return server_metadata(GATEWAY, OAuthSettings.model_validate({"provider": PROVIDER, **settings}), OFFERS)


@pytest.mark.requirement("AS-02", "AS-03", "AS-11", "AS-12")
def test_both_forms_say_the_same_and_the_official_model_reads_it() -> None:
    """AS-02, AS-03, AS-11, AS-12."""
    metadata = Metadata(document(), neighbours := Neighbours())
    handlers = metadata.endpoints()
    assert [path.decode() for path in handlers] == list(WELL_KNOWN)
    replies = [asyncio.run(handler(Visit("GET", "/"))) for handler in handlers.values()]
    assert replies[0].body == replies[1].body and replies[0].status == 200
    read = OAuthMetadata.model_validate_json(replies[0].body)
    assert str(read.issuer).rstrip("/") == GATEWAY and read.code_challenge_methods_supported == ["S256"]
    assert read.authorization_response_iss_parameter_supported and read.client_id_metadata_document_supported
    assert json.loads(replies[0].body)["issuer"] == GATEWAY  # as it is written, to be compared as a string
    assert read.scopes_supported == ["hr:read", "hr:write", "fin:read"]
    assert "none" in (read.token_endpoint_auth_methods_supported or [])
    assert [note["leg"] for note in neighbours.noted] == ["server_metadata"] * 2


@pytest.mark.requirement("AS-41", "OA-35")
def test_only_what_is_on_is_told() -> None:
    """AS-41: no registration endpoint, and no device endpoint (OA-35), unless somebody turned it on."""
    off, on = document(), document(clients={"registration": True}, tokens={"device": True})
    assert not {"registration_endpoint", "device_authorization_endpoint"} & set(off)
    assert off["grant_types_supported"] == ["authorization_code", "refresh_token"]
    assert on["registration_endpoint"] == f"{GATEWAY}/oauth/register"
    assert on["device_authorization_endpoint"] == f"{GATEWAY}/oauth/device_authorization"
    assert "urn:ietf:params:oauth:grant-type:device_code" in on["grant_types_supported"]
    assert "none" not in on["introspection_endpoint_auth_methods_supported"]
    assert all(url.startswith(f"{GATEWAY}/oauth/") for name, url in on.items() if name.endswith(("_endpoint", "_uri")))


@pytest.mark.requirement("OA-49", "OA-93")
def test_metadata_is_the_configurations_whatever_a_request_says() -> None:
    """OA-49, OA-93: no name of a host, and no proxy's header, gets into it."""
    serve = Metadata(document(), Neighbours()).serve
    headers = dict.fromkeys(("host", "x-forwarded-host", "x-forwarded-proto", "forwarded"), ("evil.example",))
    honest, spoofed = (asyncio.run(serve(Visit("GET", "/", headers=one))) for one in ({}, headers))
    assert honest.body == spoofed.body and b"evil" not in spoofed.body and honest.headers == spoofed.headers


@pytest.mark.requirement("OA-90")
def test_any_page_may_read_metadata_and_nothing_else(tmp_path: Path) -> None:
    """OA-90: no credentials, no reflected origin; an authorization is never for scripts of other pages."""
    serve = Metadata(document(), Neighbours()).serve
    evil = {"origin": ("https://evil.example",)}
    for method in ("GET", "OPTIONS"):
        sent = dict(asyncio.run(serve(Visit(method, "/", headers=evil))).all_headers)
        assert sent["access-control-allow-origin"] == "*" and "access-control-allow-credentials" not in sent
    assert asyncio.run(serve(Visit("POST", "/", headers=evil))).status == 405
    world = World(tmp_path)
    browser = world.browser()
    page = browser.ask()
    answers = [page, browser.answer(page, "allow"), browser.open("/oauth/callback?state=x"), browser.ask(scope="nope")]
    for answer in answers:
        assert not [name for name, _ in answer.reply.all_headers if name.startswith("access-control")]


@pytest.mark.parametrize("odd", ["http://gw.example", "https://gw.example/", "https://GW.example"])
def test_issuer_is_never_normalised(odd: str) -> None:
    settings = OAuthSettings.model_validate({"provider": PROVIDER})
    assert server_metadata(odd, settings, {})["issuer"] == odd
    assert "scopes_supported" not in server_metadata(odd, settings, {})
