"""B6, B7, DPOP-01..04: DPoP at the running gateway, with the official SDK as an honest client, and two replicas."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import time
from collections.abc import AsyncGenerator, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from gateway.running import ISSUER, KEY, META, Running, running
from proving import Holder

ALICE, THIEF = Holder(), Holder()
JWKS = json.dumps({"keys": [KEY.as_dict(private=False)]})


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    identity = {"issuers": [{"issuer": ISSUER, "jwks": JWKS}]}
    with running(tmp_path_factory.mktemp("dpop"), approved=("one",), tools=("echo",), identity=identity) as started:
        yield started


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Nonces are required; server `two` demands DPoP."""
    identity = {"issuers": [{"issuer": ISSUER, "jwks": JWKS}], "dpop": {"nonce": "required"}}
    servers = {
        "one": {"url": "http://127.0.0.1:9/mcp"},
        "two": {"url": "http://127.0.0.1:9/mcp", "security": {"sender_constrained": "dpop"}},
    }
    directory = tmp_path_factory.mktemp("strict")
    with running(directory, approved=(), identity=identity, mcpServers=servers) as started:
        yield started


def bound(gateway: Running, server: str = "one") -> str:
    return gateway.token(server=server, cnf=ALICE.cnf)


def proof(gateway: Running, token: str, server: str = "one", holder: Holder = ALICE, **changes: Any) -> str:
    url = f"http://127.0.0.1:{gateway.port}/mcp/{server}"
    return holder.proof(token, **{"htu": url, "iat": int(time.time()), **changes})


def ask(gateway: Running, value: str | None, *proofs: str, server: str = "one") -> httpx2.Response:
    """tools/list, with these headers."""
    headers = [
        ("Content-Type", "application/json"),
        ("Accept", "application/json, text/event-stream"),
        ("MCP-Protocol-Version", "2026-07-28"),
        ("Mcp-Method", "tools/list"),
        *(("DPoP", one) for one in proofs),
        *([("Authorization", value)] if value else []),
    ]
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}
    url = f"http://127.0.0.1:{gateway.port}/mcp/{server}"
    return httpx2.post(url, json=body, headers=headers, timeout=20, trust_env=False)


@pytest.mark.requirement("AU-19", "OA-85", "DPOP-03")
def test_stolen_token_without_its_key_oa85(gateway: Running) -> None:
    token = bound(gateway)
    assert ask(gateway, f"DPoP {token}", proof(gateway, token)).status_code == 200
    seen = proof(gateway, token)
    assert ask(gateway, f"DPoP {token}", seen).status_code == 200
    for value, proofs in (
        (f"Bearer {token}", ()),
        (f"Bearer {token}", (proof(gateway, token),)),
        (f"DPoP {token}", ()),
        (f"DPoP {token}", (seen,)),
        (f"DPoP {token}", (proof(gateway, token, holder=THIEF),)),
        (f"DPoP {token}", (proof(gateway, token), proof(gateway, token))),
        (f"DPoP {token}", (proof(gateway, token, htm="GET"),)),
        (f"DPoP {token}", (proof(gateway, token, htu="http://evil.example/mcp/one"),)),
        (f"DPoP {gateway.token()}", (proof(gateway, token),)),
    ):
        answer = ask(gateway, value, *proofs)
        assert answer.status_code == 401, value[:6]
        assert "DPoP" in answer.headers["www-authenticate"] and token not in answer.text
    assert ask(gateway, f"Bearer {gateway.token()}").status_code == 200
    assert [one.get("bound") for one in gateway.records("local")[-2:]] == [["dpop"], None]


@pytest.mark.requirement("OA-93", "OA-85")
def test_url_is_not_taken_from_the_request(gateway: Running) -> None:
    """The proof names the host the thief's proxy was addressed by; forwarding headers do not make it ours."""
    token = bound(gateway)
    moved = proof(gateway, token, htu="https://proxy.example/mcp/one")
    url, body = f"http://127.0.0.1:{gateway.port}/mcp/one", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    for told in (
        {"X-Forwarded-Host": "proxy.example", "X-Forwarded-Proto": "https"},
        {"Forwarded": "host=proxy.example"},
    ):
        headers = {"Authorization": f"DPoP {token}", "DPoP": moved, "MCP-Protocol-Version": "2026-07-28", **told}
        headers |= {"Mcp-Method": "tools/list", "Accept": "application/json, text/event-stream"}
        params = {**body, "params": {"_meta": META}}
        assert httpx2.post(url, json=params, headers=headers, trust_env=False).status_code == 401


@pytest.mark.requirement("DPOP-03")
def test_challenges_dpop03(gateway: Running) -> None:
    token = bound(gateway)
    algorithms = 'algs="ES256 EdDSA RS256 PS256"'
    missing = ask(gateway, None).headers["www-authenticate"]
    assert missing.startswith("Bearer ") and ", DPoP " in missing and algorithms in missing and "error=" not in missing
    assert (
        "resource_metadata=" in missing.partition("DPoP ")[0] and "resource_metadata=" in missing.partition("DPoP ")[2]
    )
    wrong = ask(gateway, f"DPoP {token}", proof(gateway, token, holder=THIEF)).headers["www-authenticate"]
    assert wrong.startswith('DPoP error="invalid_dpop_proof"') and "Bearer" not in wrong and algorithms in wrong
    downgraded = ask(gateway, f"Bearer {token}").headers["www-authenticate"]
    assert downgraded.startswith('Bearer error="invalid_token"') and ", DPoP " in downgraded
    upgraded = ask(gateway, f"DPoP {gateway.token()}", proof(gateway, token)).headers["www-authenticate"]
    assert upgraded.startswith('DPoP error="invalid_token"') and ", Bearer " in upgraded


def test_metadata(strict: Running) -> None:
    def read(server: str) -> dict[str, Any]:
        place = f"http://127.0.0.1:{strict.port}/.well-known/oauth-protected-resource/mcp"
        document: dict[str, Any] = httpx2.get(f"{place}/{server}" if server else place, trust_env=False).json()
        return document

    assert read("two")["dpop_bound_access_tokens_required"] is True
    assert read("")["dpop_bound_access_tokens_required"] is True  # the bundle of all has a server that demands it
    assert "dpop_bound_access_tokens_required" not in read("one")
    assert read("one")["dpop_signing_alg_values_supported"] == ["ES256", "EdDSA", "RS256", "PS256"]


@pytest.mark.requirement("DPOP-04")
def test_nonce_round_trip_dpop04(strict: Running) -> None:
    token = bound(strict)
    first = ask(strict, f"DPoP {token}", proof(strict, token))
    assert first.status_code == 401 and 'error="use_dpop_nonce"' in first.headers["www-authenticate"]
    nonce = first.headers["dpop-nonce"]
    assert ask(strict, f"DPoP {token}", proof(strict, token, nonce=nonce)).status_code == 200
    forged = nonce[:-4] + ("AAAA" if nonce[-4:] != "AAAA" else "BBBB")
    assert ask(strict, f"DPoP {token}", proof(strict, token, nonce=forged)).status_code == 401
    assert ask(strict, f"Bearer {strict.token()}").status_code == 200  # unbound tokens need none


def test_route_that_demands_dpop_b7(strict: Running) -> None:
    refused = ask(strict, f"Bearer {strict.token(server='two')}", server="two")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith('DPoP error="invalid_token"')
    assert "Bearer" not in refused.headers["www-authenticate"]
    token = bound(strict, "two")
    nonce = ask(strict, f"DPoP {token}", proof(strict, token, "two"), server="two").headers["dpop-nonce"]
    assert ask(strict, f"DPoP {token}", proof(strict, token, "two", nonce=nonce), server="two").status_code == 200


class Proving(httpx2.Auth):
    """What an honest client does: a new proof for each request, and once more when a nonce is asked for."""

    def __init__(self, token: str) -> None:
        self.token, self.nonce = token, ""

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        for _ in range(2):
            nonce = {"nonce": self.nonce} if self.nonce else {}
            made = ALICE.proof(self.token, htm=request.method, htu=str(request.url), iat=int(time.time()), **nonce)
            request.headers["Authorization"], request.headers["DPoP"] = f"DPoP {self.token}", made
            response = yield request
            if "dpop-nonce" not in response.headers:
                return
            self.nonce = response.headers["dpop-nonce"]


@contextlib.asynccontextmanager
async def honest(gateway: Running, mode: str) -> AsyncGenerator[Client]:
    """The official client, with proofs."""
    async with httpx2.AsyncClient(auth=Proving(bound(gateway)), timeout=30, trust_env=False) as http:
        transport = streamable_http_client(f"http://127.0.0.1:{gateway.port}/mcp/one", http_client=http)
        async with Client(transport, mode=mode) as client:
            yield client


@pytest.mark.requirement("DPOP-01", "AUTH-07")
@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_official_client_with_proofs_dpop01(gateway: Running, mode: str) -> None:
    """Both eras: sessions open a stream with GET and end with DELETE, each with a proof of its own."""

    async def story() -> None:
        async with honest(gateway, mode) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == ["echo"]
            assert not (await client.call_tool("echo", {})).is_error

    asyncio.run(story())
    _, sent = gateway.recorder.seen[-1][1], gateway.recorder.seen[-1][0].lower()
    assert "dpop" not in sent and "authorization" not in sent  # AUTH-07


def test_official_client_when_nonces_are_required(strict: Running) -> None:
    async def story() -> None:
        async with honest(strict, "auto") as client:
            assert (await client.list_tools()).tools == []

    asyncio.run(story())


@pytest.mark.requirement("DPOP-04", "AU-19")
def test_replay_to_another_replica_b6(gateway: Running, tmp_path: Path) -> None:
    """Two gateways share their records; one proof is sent to both, twenty times at once."""
    config = json.loads(gateway.config.read_text())
    state = gateway.directory / "limen-state"
    config["storage"] = {"path": str(state / "limen.db")}
    second = Running(gateway.port + 1 if gateway.port < 65_535 else gateway.port - 1, tmp_path, gateway.recorder)
    config["listen"]["bind"] = f"127.0.0.1:{second.port}"  # behind the same public URL
    shutil.copy(state / "audit.key", tmp_path / "audit.key")
    config["audit"] = {"path": str(tmp_path / "audit"), "key": str(tmp_path / "audit.key")}
    second.config.write_text(json.dumps(config))
    second.config.chmod(0o600)
    second.start()
    try:
        token = bound(gateway)
        one = proof(gateway, token)

        def send(at: int) -> int:
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}
            headers = {
                "Host": f"127.0.0.1:{gateway.port}",
                "Accept": "application/json, text/event-stream",
                "MCP-Protocol-Version": "2026-07-28",
                "Mcp-Method": "tools/list",
                "Authorization": f"DPoP {token}",
                "DPoP": one,
            }
            url = f"http://127.0.0.1:{(gateway, second)[at % 2].port}/mcp/one"
            return httpx2.post(url, json=body, headers=headers, timeout=30, trust_env=False).status_code

        with ThreadPoolExecutor(20) as pool:
            assert sorted(pool.map(send, range(20))) == [200] + [401] * 19
    finally:
        second.stop()
