"""What the flight recorder is told at the door of the gateway, and that a call that goes well does not pay for it."""

from __future__ import annotations

import asyncio
import time
from ipaddress import ip_network
from typing import Any

import orjson

from limen.core.call import Caller, Peer
from limen.core.reasons import REASONS
from limen.core.verdict import Pass, Refusal, Refuse
from limen.gateway.http import HttpSurface, Site
from limen.gateway.recording import Recording
from limen.protocol.inbound import Endpoint
from minting import Key, World

URL = "https://gw.example"
RESOURCE = f"{URL}/mcp/hr"
METADATA = b"/.well-known/oauth-protected-resource/mcp/hr"


class Noted:
    """A recorder that remembers."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def note(self, leg: str, outcome: str, **more: Any) -> None:
        visit = more.pop("visit", None)
        if visit is not None:
            more |= {"address": visit.address, "agent": visit.header("user-agent")}
        self.steps.append({"leg": leg, "outcome": outcome, **{name: value for name, value in more.items() if value}})


class Refusing:
    """A gateway that refuses everything for one reason."""

    def __init__(self, reason: str) -> None:
        self._refusal = Refusal(REASONS[reason], "reference", "Authenticate", "why", {})

    async def handle(self, *_: Any) -> Refusal:
        return self._refusal


def surface(noted: Noted, reason: str = "identity.missing", trusted: Any = ()) -> HttpSurface:
    endpoint = Endpoint("hr", RESOURCE, frozenset({URL}), frozenset({"gw.example"}), None)
    site = Site({b"/mcp/hr": endpoint}, {METADATA: b"{}"}, lambda *_: 'Bearer error="x"', trusted=trusted)
    gateway: Any = Refusing(reason)
    return HttpSurface(gateway, site, lambda: True, recording=Recording(noted, URL, trusted))


def ask(app: HttpSurface, method: str, path: bytes, body: Any = None, **headers: str) -> tuple[int, Any]:
    """One request: status and JSON."""
    sent: list[dict[str, Any]] = []
    lines = {"host": "gw.example", "user-agent": "vscode/1", "content-type": "application/json", **headers}
    scope = {
        "type": "http", "method": method, "raw_path": path, "query_string": b"", "scheme": "https",
        "client": ("192.0.2.7", 1), "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in lines.items()],
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": orjson.dumps(body) if body is not None else b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    content = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], orjson.loads(content) if content else None


PING = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}
WHO = {"address": "192.0.2.7", "agent": "vscode/1"}


def test_a_challenge_is_how_it_begins() -> None:
    noted = Noted()
    status, _ = ask(surface(noted), "POST", b"/mcp/hr", PING)
    assert status == 401
    assert noted.steps == [{"leg": "challenge", "outcome": "ok", "resource": RESOURCE, **WHO}]


def test_a_bad_token_is_told_with_its_reason() -> None:
    noted = Noted()
    ask(surface(noted, "identity.expired"), "POST", b"/mcp/hr", PING)
    (step,) = noted.steps
    assert (step["outcome"], step["field"], step["detail"]) == ("identity.expired", "Authorization", "why")


def test_other_refusals_are_no_sign_in() -> None:
    noted = Noted()
    assert ask(surface(noted, "policy.limit"), "POST", b"/mcp/hr", PING)[0] == 429
    assert noted.steps == []


def test_metadata_that_is_read_and_that_is_looked_for_in_vain() -> None:
    noted = Noted()
    app = surface(noted)
    assert ask(app, "GET", METADATA)[0] == 200
    for path in (
        METADATA + b"/",
        b"/.well-known/oauth-authorization-server/mcp/hr",
        b"/.well-known/openid-configuration",
    ):
        status, document = ask(app, "GET", path)
        assert (status, document["error"]) == (404, "not_found")
    assert ask(app, "GET", b"/favicon.ico") == (404, None)
    assert ask(app, "GET", b"/.well-known/security.txt")[0] == 404
    assert [(step["leg"], step["outcome"]) for step in noted.steps] == [
        ("resource_metadata", "ok"), ("resource_metadata", "not_found"), ("server_metadata", "not_found"),
        ("server_metadata", "not_found"),
    ]  # fmt: skip
    assert noted.steps[0]["resource"] == RESOURCE
    assert noted.steps[1]["detail"] == METADATA.decode() + "/"


def test_the_address_is_believed_of_a_trusted_proxy_only() -> None:
    noted = Noted()
    ask(surface(noted), "GET", METADATA, x_forwarded_for="203.0.113.9")
    ask(surface(noted, trusted=(ip_network("192.0.2.0/24"),)), "GET", METADATA, x_forwarded_for="203.0.113.9")
    assert [step["address"] for step in noted.steps] == ["192.0.2.7", "203.0.113.9"]


def test_the_first_use_of_a_token_is_told_once() -> None:
    told: list[tuple[str, str]] = []
    world = World(key := Key(), parts={"first": lambda caller, resource: told.append((caller.subject, resource))})
    token = key.token()
    assert [type(world.judge(token)) for _ in range(3)] == [Pass] * 3
    assert told == [("alice", "https://gw.example/hr/mcp")]
    assert isinstance(world.judge(key.token(exp=1)), Refuse)
    assert isinstance(world.judge(token[:-8] + "AAAAAAAA"), Refuse)
    assert len(told) == 1


def test_only_tokens_of_ours_end_a_sign_in_of_ours() -> None:
    noted = Noted()
    recording = Recording(noted, URL)
    recording.first_call(Caller("https://elsewhere.example", "bob", "app"), RESOURCE)
    recording.first_call(Caller(URL, "alice", "app", claims='{"sid":"family"}'), RESOURCE)
    recording.first_call(Caller(URL, "alice", "app", claims='{"sid":["x"]}'), RESOURCE)
    ours = {"leg": "first_call", "outcome": "ok", "client": "app", "resource": RESOURCE, "user": "alice"}
    assert noted.steps == [{**ours, "grant": "family"}, ours]


def test_a_remembered_token_costs_no_more() -> None:
    """The hook is behind the signature: how a known token is judged does not come by it."""

    def cost(**parts: Any) -> float:
        world = World(key, parts=parts)
        asyncio.run(world.issuers.warm())
        value = f"Bearer {token}".encode()
        verify = world.guard._verifier.verify
        verify(value, "https://gw.example/hr/mcp")
        best = float("inf")
        for _ in range(30):
            began = time.perf_counter()
            for _ in range(200):
                verify(value, "https://gw.example/hr/mcp")
            best = min(best, time.perf_counter() - began)
        return best

    key = Key()
    token = key.token()
    assert cost(first=lambda caller, resource: time.sleep(0.001)) < 2 * cost()


def test_a_challenge_is_noted_with_who_asked() -> None:
    noted = Noted()
    refusal = Refusal(REASONS["identity.revoked"], "r", "Revoked", "client app", {})
    Recording(noted, URL).challenged(refusal, Peer("http", "198.51.100.1", "agent"), RESOURCE)
    assert noted.steps[0]["address"] == "198.51.100.1" and noted.steps[0]["agent"] == "agent"
