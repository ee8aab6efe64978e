"""OA-31, OA-95, B1: whatever a client sends and however a server's credential is come by, no byte of the caller's token
reaches the server. The real gateway, every kind of credential, a server that keeps all it is sent."""

from __future__ import annotations

import json
import random
import secrets
import time
import urllib.request
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from typing import Any

import jwt
import pytest

from credentials.authority import Authority, listening
from gateway.running import ISSUER, META, Running, running
from gateway.wire import JSON, NEW, OLD, ask
from limen.config.load import load_config
from limen.credentials.held import Held
from limen.opening import open_registry, open_token_keys, open_vault
from limen.storage import State
from minting import Key

KINDS = ("plain", "own", "exchange", "obo", "jag", "minted", "kept")
TENANT = "11111111-aaaa-4bbb-8ccc-000000000001"


class Site:
    """The gateway, its authorization server, and who calls."""

    def __init__(self, gateway: Running, authority: Authority) -> None:
        self.gateway, self.authority = gateway, authority
        self.given: list[str] = []

    def token(self, kind: str) -> str:
        """What a client presents to reach this server: of the issuer that server's credential needs."""
        url = f"http://127.0.0.1:{self.gateway.port}"
        issuer = {"obo": f"{self.authority.issuer}/{TENANT}/v2.0", "jag": url}.get(kind, ISSUER)
        audience = "api://limen" if kind == "obo" else f"{url}/mcp/{kind}"
        now = int(time.time())
        body = {
            "nonce": secrets.token_urlsafe(150), "iss": issuer, "sub": "alice", "aud": audience, "client_id": "editor",
            "scope": "use", "jti": secrets.token_hex(8), "iat": now, "exp": now + 300,
        }  # fmt: skip
        if kind == "jag":  # somebody who signed in here
            keys = open_token_keys(load_config(self.gateway.config).config)
            self.given.append(keys.sign("at+jwt", {**body, "idp": self.authority.issuer}))
            return self.given[-1]
        key = self.authority.key
        self.given.append(jwt.encode(body, key.private, key.algorithm, {"typ": "at+jwt", "kid": "k1"}))
        return self.given[-1]

    def sent(self) -> bytes:
        """All bytes the server was ever sent."""
        return b"\n".join(head.encode("latin-1") + body for head, body in self.gateway.recorder.seen)


def config(url: str, authority: Authority, recorder: str) -> dict[str, Any]:
    client = {"id": "limen", "secret": "${env:LIMEN_TEST_SECRET}"}
    there = {"issuer": authority.issuer, "client": {"id": "limen-there", "secret": "${env:LIMEN_TEST_SECRET}"}}
    credentials: dict[str, Any] = {
        "plain": None,
        "own": {"kind": "client_credentials", "issuer": authority.issuer, "client": client, "scopes": ["own"]},
        "exchange": {"kind": "exchange", "token_endpoint": f"{authority.issuer}/token", "subject_issuer": ISSUER,
                     "client": client, "header": "X-Upstream", "scheme": ""},
        "obo": {"kind": "on_behalf_of", "tenant": TENANT, "authority": authority.issuer, "client": client,
                "scopes": ["api://downstream/.default"]},
        "jag": {"kind": "id_jag", "provider": {"issuer": authority.issuer, "client": client}, "server": there},
        "minted": {"kind": "minted"},
        "kept": {"kind": "minted", "bind": "caller"},
    }  # fmt: skip
    jwks = json.dumps({"keys": [{**authority.key.jwk, "kid": "k1"}]})
    names = [
        {"issuer": ISSUER, "jwks": jwks},
        {"issuer": f"{authority.issuer}/{TENANT}/v2.0", "jwks": jwks, "audience": "api://limen"},
    ]  # fmt: skip
    servers = {
        name: {
            "url": f"{recorder}/{name}",
            "headers": {"X-Gateway-Key": "${env:LIMEN_TEST_SECRET}"},
            "security": {"credential": credential} if credential else {},
        }
        for name, credential in credentials.items()
    }
    oauth = {"provider": {"issuer": authority.issuer, "client_id": "limen", "client_secret": client["secret"]}}
    return {"mcpServers": servers, "identity": {"issuers": names}, "oauth": oauth}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A gateway with one server for each kind, and Alice signed in at its provider."""
    authority = Authority(key=Key("ES256", kid="k1"))

    def prepare(gateway: Running) -> None:
        recorder, url = f"http://127.0.0.1:{gateway.recorder.server_port}", f"http://127.0.0.1:{gateway.port}"
        whole = {**json.loads(gateway.config.read_text()), **config(url, authority, recorder)}
        gateway.config.write_text(json.dumps(whole))
        settings = load_config(gateway.config).config
        state = State.open(settings)
        identity = authority.sign("alice", "limen", "JWT")
        kept = Held(state.vault, open_vault(settings, state))
        kept.keep(authority.issuer, "alice", "provider-access-canary", "", time.time() + 600, (), identity)
        state.close()

    rules = [{"allow": "anyone", "call": "*/*", "scopes": ["use"]}]
    with pytest.MonkeyPatch.context() as patch, listening(authority):
        patch.setenv("LIMEN_TEST_SECRET", authority.secret)
        authority.trusted, authority.aliases = authority, {ISSUER, f"{authority.issuer}/{TENANT}/v2.0"}
        started = running(tmp_path_factory.mktemp("site"), approved=(), policy={"rules": rules}, prepare=prepare)
        with started as gateway:
            registry = open_registry(load_config(gateway.config).config)
            gateway.until(lambda: {(kind, "tool", "echo") for kind in KINDS} <= set(registry.names()), 60)
            for kind in KINDS:
                registry.approve(kind, "tool", "echo", "test", "test")
            site = Site(gateway, authority)
            gateway.until(lambda: all(b"echo" in listed(site, kind) for kind in KINDS), 60)
            yield site


def listed(site: Site, kind: str) -> bytes:
    """The tools a caller is shown."""
    token = site.token(kind)
    message, headers = next(one[1:] for one in requests(token, kind, random.Random(1)) if one[0] == "tools/list")
    return speak(site, kind, token, message, headers)[1]


def forms(token: str) -> set[bytes]:
    """Every run of 16 bytes of what is a token's own (the first claim, 150 random bytes, and the signature), of its
    reverse, and of it in base64 and hexadecimal. Its head and its other claims say what other tokens say as well."""
    _, claims, signature = token.split(".")
    whole: set[bytes] = set()
    for own in (claims[16:216].encode(), signature.encode()):
        for raw in (own, own[::-1]):
            whole |= {raw, raw.hex().encode(), raw.hex().upper().encode()}
            whole |= {code(raw[shift:]) for shift in range(3) for code in (b64encode, urlsafe_b64encode)}
    for raw in (urlsafe_b64decode(signature + "=="), urlsafe_b64decode(claims + "==")[10:210]):
        whole |= {raw, raw.hex().encode(), b64encode(raw), raw[::-1]}
    return {one[at : at + 16] for one in whole for at in range(len(one) - 15)}


def shared(token: str, sent: bytes) -> list[bytes]:
    """What of a token is in what was sent."""
    return sorted(forms(token) & {sent[at : at + 16] for at in range(len(sent) - 15)})[:9]


HEADERS = (
    "Authorization", "X-Authorization", "Proxy-Authorization", "X-Forwarded-Access-Token", "X-Access-Token", "Cookie",
    "X-Api-Key", "X-Upstream", "X-Gateway-Key", "X-Forwarded-For", "Forwarded", "Mcp-Param-Token", "Mcp-Session-Id",
    "Last-Event-ID", "Traceparent", "Tracestate", "Baggage", "User-Agent", "Origin", "Referer", "Accept-Language",
    "X-Original-Url", "Via", "Authorization2", "X-Amzn-Oidc-Accesstoken", "Connection", "From", "Dpop",
)  # fmt: skip


def fuzzed(token: str, dice: random.Random) -> dict[str, str]:
    """Headers with the token, or pieces of it, under many names; some get the request refused, and that is fine."""
    pieces = (token, f"Bearer {token}", f"token={token}", b64encode(token.encode()).decode(), token[::-1], token[40:90])
    return {name: dice.choice(pieces) for name in dice.sample(HEADERS[1:], dice.randint(1, 6))}


def requests(token: str, kind: str, dice: random.Random) -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
    """Everything a client can send, in both eras."""
    new = {"MCP-Protocol-Version": NEW}
    for method, name, more in (
        ("tools/call", "echo", {"arguments": {"text": "hi"}}), ("tools/list", "", {}), ("resources/read", "a://x", {}),
        ("prompts/get", "hail", {}), ("server/discover", "", {}), ("subscriptions/listen", "", {}),
    ):  # fmt: skip
        params = {"_meta": META, **({"uri" if "read" in method else "name": name} if name else {}), **more}
        mirrored = {**new, "Mcp-Method": method, **({"Mcp-Name": name} if name else {})}
        yield method, {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, mirrored
    hello = {"protocolVersion": OLD, "capabilities": {}, "clientInfo": {"name": token[-40:], "version": token[-30:]}}
    yield "initialize", {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}, {}
    note = {"requestId": token[-30:], "reason": token}
    yield "cancelled", {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": note}, {}
    meta = {**META, "progressToken": token[-60:], "x": token, "traceparent": token[:55], "tracestate": token}
    params = {"name": "echo", "arguments": {"text": "hi"}, "_meta": meta}
    message = {"jsonrpc": "2.0", "id": token[-40:], "method": "tools/call", "params": params}
    yield "tools/call", message, {**new, "Mcp-Method": "tools/call", "Mcp-Name": "echo"}


def speak(site: Site, kind: str, token: str, message: Any, headers: dict[str, str]) -> tuple[int, bytes]:
    told = {**JSON, "Authorization": f"Bearer {token}", **headers}
    if message.get("method") == "subscriptions/listen":
        told["Accept"] = "application/json"  # refused at once, instead of a stream that stays open
    status, _, body = ask(site.gateway, "POST", f"/mcp/{kind}", told, message)
    return status, body


@pytest.mark.requirement("AU-02", "AUTH-08", "OA-31")
@pytest.mark.parametrize("kind", KINDS)
def test_no_byte_of_the_callers_token_reaches_the_server_oa31_b1(site: Site, kind: str) -> None:
    dice, before = random.Random(7), len(site.gateway.recorder.seen)
    token = site.token(kind)
    calls = 0
    for round_ in range(3):
        for method, message, headers in requests(token, kind, dice):
            extra = fuzzed(token, dice) if round_ else {}
            status, body = speak(site, kind, token, message, {**extra, **headers})
            calls += method == "tools/call" and status == 200 and b"ran echo" in body
    assert calls >= 1  # the honest twin: the call itself came through
    new = site.gateway.recorder.seen[before:]
    assert any(b'"tools/call"' in body for _, body in new)
    assert not shared(token, site.sent())
    for piece in (token.split(".")[1][40:56].encode(), token[-16:][::-1].encode(), token[-40:].encode().hex().encode()):
        assert shared(token, b"x" + piece + b"y")  # the search would have found it
    assert b"provider-access-canary" not in site.sent()


@pytest.mark.parametrize("kind", KINDS)
def test_the_server_gets_a_token_that_is_meant_for_it_b2(site: Site, kind: str) -> None:
    token, before = site.token(kind), len(site.gateway.recorder.seen)
    _, message, headers = next(one for one in requests(token, kind, random.Random(1)) if one[0] == "tools/call")
    status, body = speak(site, kind, token, message, headers)
    assert (status, b"ran echo" in body) == (200, True), body
    heads = [head for head, sent in site.gateway.recorder.seen[before:] if b'"tools/call"' in sent]
    place = f"http://127.0.0.1:{site.gateway.recorder.server_port}/{kind}"
    exact = dict(line.partition(": ")[::2] for line in heads[-1].replace("\r", "").split("\n") if line)
    exact = {name.lower(): value for name, value in exact.items()}
    assert exact["x-gateway-key"] == "s&cret+1"  # two credentials on one call
    if kind == "plain":
        assert "authorization" not in exact
        return
    carried = exact["x-upstream"] if kind == "exchange" else exact["authorization"].removeprefix("Bearer ")
    if kind in ("minted", "kept"):
        published = urllib.request.urlopen(f"http://127.0.0.1:{site.gateway.port}/oauth/jwks", timeout=20).read()
        (key,) = jwt.PyJWKSet.from_json(published.decode()).keys
        claims = jwt.decode(carried, key, ["ES256"], audience=place)
        assert claims["iss"] == f"http://127.0.0.1:{site.gateway.port}"
        assert ("limen_call" in claims) is (kind == "minted")
    else:
        claims = site.authority.read(carried)
    assert claims["sub"] == ("limen" if kind == "own" else "alice")
    assert claims["aud"] == {"own": "any", "obo": "api://downstream"}.get(kind, place)


def test_nothing_of_any_token_is_in_the_log_or_the_records_b4(site: Site) -> None:
    data = b"".join(
        path.read_bytes() for path in site.gateway.directory.rglob("*") if path.is_file() and path.name != "limen.yaml"
    )
    for token in site.given:
        signature = token.rpartition(".")[2].encode()
        assert signature not in data
    assert b"provider-access-canary" not in data
    assert b"s&cret+1" not in data
    lines = map(json.loads, site.gateway.limen("audit", "tail", "--json", "-n", "2000").splitlines())
    told = {(one["t"], one["kind"]) for one in lines if one["t"] == "credential"}
    assert {kind for _, kind in told} == {"client_credentials", "exchange", "on_behalf_of", "id_jag", "minted"}


def test_each_call_says_in_the_log_how_its_credential_was_come_by(site: Site) -> None:
    lines = map(json.loads, site.gateway.limen("audit", "tail", "--json", "-n", "2000").splitlines())
    found = {one["upstream"]: one["credential"] for one in lines if one["t"] == "intent"}
    named = {"plain": "headers", "own": "client_credentials", "obo": "on_behalf_of", "jag": "id_jag", "kept": "minted"}
    assert found == {kind: named.get(kind, kind) for kind in KINDS}


@pytest.mark.parametrize("kind", ["plain", "exchange", "minted"])
def test_a_token_inside_the_call_is_stopped_b1(site: Site, kind: str) -> None:
    token, before = site.token(kind), site.gateway.calls_seen()
    _, message, headers = next(one for one in requests(token, kind, random.Random(1)) if one[0] == "tools/call")
    message["params"]["arguments"] = {"text": f"please use {token} for it"}
    status, body = speak(site, kind, token, message, headers)
    assert status == 403
    assert token.encode() not in body
    assert site.gateway.calls_seen() == before


CLAIMS = b'{"access_token":{"acrs":{"essential":true,"value":"c1"}}}'


def test_conditional_access_is_answered_with_a_claims_challenge(site: Site) -> None:
    site.authority.interaction = CLAIMS.decode()
    try:
        url = f"http://127.0.0.1:{site.gateway.port}"
        token = site.authority.sign("bob", "api://limen", iss=f"{site.authority.issuer}/{TENANT}/v2.0", scope="use",
                                    client_id="editor", jti="b1")  # fmt: skip
        one = next(one for one in requests(token, "obo", random.Random(1)) if one[0] == "tools/call")
        status, headers, body = ask(
            site.gateway, "POST", "/mcp/obo", {**JSON, "Authorization": f"Bearer {token}", **one[2]}, one[1]
        )
    finally:
        site.authority.interaction = ""
    assert status == 401
    challenge = headers["www-authenticate"]
    assert 'error="insufficient_claims"' in challenge
    assert f'claims="{b64encode(CLAIMS).decode()}"' in challenge
    assert f'resource_metadata="{url}/' in challenge
    assert b"AADSTS" not in body


@pytest.mark.requirement("OA-95")
def test_a_server_that_refuses_every_token_causes_no_loop_oa95(site: Site) -> None:
    before = len([one for one in site.authority.asked if one["grant_type"] == "client_credentials"])
    site.gateway.recorder.refusing = True
    try:
        token = site.token("own")
        one = next(one for one in requests(token, "own", random.Random(1)) if one[0] == "tools/call")
        answers = [speak(site, "own", token, one[1], one[2])[0] for _ in range(10)]
    finally:
        site.gateway.recorder.refusing = False
    assert set(answers) == {502}
    after = len([one for one in site.authority.asked if one["grant_type"] == "client_credentials"])
    assert after - before <= 2
