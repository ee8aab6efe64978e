"""Identity on the wire, A6 and A7: challenges for stronger sign-ins (RFC 9470) and for scopes in both protocol eras,
read by a parser of RFC 9110."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from mcp.client.auth.utils import extract_field_from_www_auth, extract_scope_from_www_auth
from running import ISSUER, KEY, META, Running, running

from challenges import read_challenge

RULES = [
    {"allow": "anyone", "call": "one/echo", "scopes": ["use", "more"], "require": ["mfa", "fresh(10m)", "acr(gold)"]},
    {"allow": "anyone", "call": "two/echo", "scopes": ["files:write", "files:read", "audit"]},
    {"allow": "anyone", "call": "two/danger", "require": ["fresh(4s)", "user"]},
]
IDENTITY = {
    "issuers": [{"issuer": ISSUER, "jwks": json.dumps({"keys": [KEY.as_dict(private=False)]})}],
    "scope_implies": {"files:admin": ["files:write"], "files:write": ["files:read"]},
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    policy = {"rules": RULES, "step_up": {"mfa": ["urn:example:mfa"]}}
    with running(tmp_path_factory.mktemp("step-up"), policy=policy, identity=IDENTITY, tools=("echo", "danger")) as one:
        yield one


def strong(**claims: Any) -> dict[str, Any]:
    return {"scope": "use more", "amr": ["pwd", "mfa"], "acr": "gold", "auth_time": int(time.time()) - 5, **claims}


def modern(gateway: Running, tool: str, token: str, server: str) -> tuple[int, dict[str, str], dict[str, Any]]:
    message = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": tool, "arguments": {}, "_meta": META},
    }
    mirrored = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/call", "Mcp_Name": tool}
    return gateway.post(message, token, server, **mirrored)


def handshake(gateway: Running, tool: str, token: str, server: str) -> tuple[int, dict[str, str], dict[str, Any]]:
    session = gateway.session(token, server)
    message = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": tool, "arguments": {}}}
    sent = {"Mcp_Session_Id": session, "MCP_Protocol_Version": "2025-11-25"}
    return gateway.post(message, token, server, **sent)


ERAS = pytest.mark.parametrize("call", [modern, handshake])


@ERAS
@pytest.mark.parametrize("lacking", [{"amr": ["pwd"]}, {"acr": "silver"}, {"auth_time": 1_700_000_000}])
def test_a_weak_sign_in_is_asked_to_step_up(gateway: Running, call: Any, lacking: dict[str, Any]) -> None:
    before = gateway.calls_seen()
    status, headers, body = call(gateway, "echo", gateway.token(**strong(**lacking)), "one")
    scheme, parameters = read_challenge(headers["www-authenticate"])
    assert (status, scheme, parameters["error"]) == (401, "Bearer", "insufficient_user_authentication")
    assert parameters["acr_values"] == "gold urn:example:mfa" and parameters["max_age"] == "600"
    assert parameters["scope"] == "more use"  # a new sign-in must not come back with less
    assert parameters["resource_metadata"].endswith("/.well-known/oauth-protected-resource/mcp/one")
    data = body["error"]["data"]
    assert data["acr_values"] == ["gold", "urn:example:mfa"] and data["max_age"] == 600
    assert gateway.calls_seen() == before


@pytest.mark.requirement("OA-95")
@ERAS
def test_the_sign_in_that_was_asked_for_passes(gateway: Running, call: Any) -> None:
    before = gateway.calls_seen()
    status, _, body = call(gateway, "echo", gateway.token(**strong()), "one")
    assert status == 200 and "result" in body and gateway.calls_seen() == before + 1


def test_on_the_bundle_too(gateway: Running) -> None:
    base = f"http://127.0.0.1:{gateway.port}/mcp"
    status, headers, _ = modern(gateway, "one__echo", gateway.token(aud=base, **strong(amr=["pwd"])), "")
    assert status == 401
    assert read_challenge(headers["www-authenticate"])[1]["error"] == "insufficient_user_authentication"


def test_time_alone_takes_the_permission_away(gateway: Running) -> None:
    token = gateway.token(server="two", auth_time=int(time.time()))
    assert modern(gateway, "danger", token, "two")[0] == 200
    gateway.until(lambda: modern(gateway, "danger", token, "two")[0] == 401)
    fresh = gateway.token(server="two", auth_time=int(time.time()))
    assert modern(gateway, "danger", fresh, "two")[0] == 200


@pytest.mark.requirement("AUTH-12", "AUTH-13", "OA-95")
@ERAS
def test_all_missing_scopes_in_one_challenge(gateway: Running, call: Any) -> None:
    """AUTH-12, AUTH-13"""
    status, headers, _ = call(gateway, "echo", gateway.token(server="two"), "two")
    _, parameters = read_challenge(headers["www-authenticate"])
    assert (status, parameters["error"]) == (403, "insufficient_scope")
    assert parameters["scope"].split() == ["audit", "files:read", "files:write"]
    sdk: Any = SimpleNamespace(headers={"WWW-Authenticate": headers["www-authenticate"]}, status_code=status)
    assert extract_scope_from_www_auth(sdk) == parameters["scope"]  # the official client reads the same
    assert extract_field_from_www_auth(sdk, "error") == "insufficient_scope"
    assert call(gateway, "echo", gateway.token(server="two", scope=parameters["scope"]), "two")[0] == 200


@pytest.mark.requirement("AUTH-15", "OA-95", "AU-04")
def test_a_scope_holds_what_it_implies_and_nothing_else(gateway: Running) -> None:
    """AUTH-15"""
    assert modern(gateway, "echo", gateway.token(server="two", scope="files:admin audit"), "two")[0] == 200
    status, headers, _ = modern(gateway, "echo", gateway.token(server="two", scope="files:read audit"), "two")
    assert status == 403
    # All of them: a client that asks for exactly these loses none it had (OA-95).
    assert read_challenge(headers["www-authenticate"])[1]["scope"] == "audit files:read files:write"


def test_an_application_cannot_step_up_to_a_person(gateway: Running) -> None:
    """A15: it is not told either that there is something a person could call."""
    claims = {"auth_time": int(time.time()), "server": "two"}
    status, headers, body = modern(gateway, "danger", gateway.token("client", **claims), "two")
    unknown = modern(gateway, "nothing", gateway.token("client", **claims), "two")
    assert (status, body["error"]["code"], body["error"]["message"]) == (
        unknown[0], unknown[2]["error"]["code"], unknown[2]["error"]["message"],
    )  # fmt: skip
    assert "www-authenticate" not in headers
    assert modern(gateway, "danger", gateway.token("alice", **claims), "two")[0] == 200


def test_a_risky_sign_in_gets_no_further(gateway: Running) -> None:
    before = gateway.calls_seen()
    status, headers, body = modern(gateway, "echo", gateway.token(**strong(riskLevel="high")), "one")
    assert (status, body["error"]["code"]) == (403, 403) and "www-authenticate" not in headers
    assert gateway.calls_seen() == before
    assert modern(gateway, "echo", gateway.token(**strong(riskLevel="low")), "one")[0] == 200
    assert any(record["reason"] == "identity.risk" for record in gateway.records("refusal"))


@pytest.mark.requirement("AUTH-24", "AUTH-02")
def test_metadata_offers_the_scopes_of_the_policy(gateway: Running) -> None:
    def document(server: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
        connection.request("GET", f"/.well-known/oauth-protected-resource/mcp/{server}")
        found: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
        return found

    assert document("two")["scopes_supported"] == ["files:write", "files:read", "audit"]
    assert document("one")["scopes_supported"] == ["use", "more"]
    assert document("one")["authorization_servers"] == [ISSUER]
    # A challenge names what the server needs at least, not all there is (AUTH-24).
    status, headers, _ = gateway.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}, None, "two")
    assert status == 401 and "scope" not in read_challenge(headers["www-authenticate"])[1]


PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


@pytest.mark.requirement("AUTH-16", "OA-79")
@pytest.mark.parametrize("place", ["query", "form", "cookie", "json", "header"])
def test_a_token_counts_in_its_header_only(gateway: Running, place: str) -> None:
    """OA-79, AUTH-16: elsewhere it is not looked at, and no log keeps it."""
    token = gateway.token()
    path, body = "/mcp/one", json.dumps(PING)
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    if place == "query":
        path += f"?access_token={token}"
    elif place == "form":
        body, headers["Content-Type"] = f"access_token={token}", "application/x-www-form-urlencoded"
    elif place == "cookie":
        headers["Cookie"] = f"access_token={token}; Authorization=Bearer {token}"
    elif place == "json":
        body = json.dumps({**PING, "params": {"access_token": token, "_meta": {"authorization": token}}})
    else:
        headers |= {
            "X-Authorization": f"Bearer {token}",
            "X-Access-Token": token,
            "Proxy-Authorization": f"Bearer {token}",
        }
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    connection.request("POST", path, body, headers)
    status = connection.getresponse().status
    connection.close()
    assert status in ((401,) if place in ("cookie", "json", "header") else (400, 401, 404, 415))
    kept = [*gateway.directory.rglob("*.log"), *(gateway.directory / "limen-state").rglob("*")]
    assert not any(token.encode() in file.read_bytes() for file in kept if file.is_file())
    assert gateway.post(PING, token)[0] in (200, 400)  # the honest twin is let in: 400 asks for a session
