"""Attacks on who may ask for tokens, over real sockets: each is refused, and its honest twin passes.

The rest of them by id: OA-11 to OA-13 in oauth/test_redirects.py, OA-15 in oauth/test_registration.py, OA-40 to OA-46
in oauth/test_public_http.py and oauth/test_documents.py, OA-84, OA-86 and OA-88 in
oauth/test_client_authentication.py.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme

from limen.oauth.model import Client
from limen.oauth.redirects import allowed
from limen.oauth.web import OAuthError
from oauth.client_rig import CIMD, ISSUER, PUBLIC, Rig, World, document, json_visit, posing, read, refused, run

HOST = "app.example.com"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def answer(body: Any = None, head: str = "Content-Type: application/json", status: str = "200 OK") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(document() if body is None else body).encode()
    return f"HTTP/1.1 {status}\r\n{head}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


@asynccontextmanager
async def serving(
    authority: trustme.CA, data: bytes | Callable[[bytes], bytes], *, names: list[list[str]] | None = None, **more: Any
) -> AsyncIterator[tuple[Rig, World]]:
    async with posing(data, authority, HOST, **more) as port:
        world = World(authority, port)
        world.names[HOST] = names or [[PUBLIC]]
        yield Rig(exchange=world.http(timeout=1.0)), world


def found(authority: trustme.CA, data: bytes | Callable[[bytes], bytes], client_id: str = CIMD, **more: Any) -> Client:
    async def work() -> Client:
        async with serving(authority, data, **more) as (rig, _):
            return await rig.clients.find(client_id)

    client: Client = run(work())
    return client


@pytest.mark.requirement("AS-12", "AS-13")
def test_the_honest_twin_a_client_with_a_document_over_https(authority: trustme.CA) -> None:
    client = found(authority, answer())
    assert (client.id, client.source, client.name) == (CIMD, "metadata", "Example App")
    assert allowed(client, "https://app.example.com/cb")


def test_the_honest_twin_a_loopback_client_takes_any_port(authority: trustme.CA) -> None:
    """Of the kind of Claude Code and VS Code: a document, and whichever port is free."""
    client = found(authority, answer(document(redirect_uris=["http://127.0.0.1/callback", "http://[::1]/callback"])))
    assert allowed(client, "http://127.0.0.1:52317/callback")
    assert "loopback_only" in client.warnings


def test_the_honest_twin_an_older_client_registers() -> None:
    rig = Rig(registration=True)
    body = {"redirect_uris": ["https://older.example/cb"], "client_name": "Older"}
    made = read(run(rig.registration.register(json_visit(body))))
    assert run(rig.clients.find(made["client_id"])).name == "Older"


@pytest.mark.requirement("AS-18", "OA-40")
def test_oa_40_a_document_on_an_inner_address(authority: trustme.CA) -> None:
    """OA-40: no socket is opened to it, and the words are those of a document that is not there."""
    told = set()
    for address in ("127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fc00::1", "::ffff:127.0.0.1", "64:ff9b::a00:1"):

        async def work(address: str = address) -> None:
            async with serving(authority, answer(), names=[[address]]) as (rig, world):
                with pytest.raises(OAuthError) as refusal:
                    await rig.clients.find(CIMD)
                told.add((refusal.value.code, refusal.value.description))
                assert world.connected == []

        run(work())
    told.add(
        (lambda error: (error.code, error.description))(refused(lambda: found(authority, answer(status="404 No"))))
    )
    assert len(told) == 1


@pytest.mark.requirement("AS-18", "OA-41")
def test_oa_41_rebinding_between_two_look_ups(authority: trustme.CA) -> None:
    """OA-41: the first answer is the one that is used; the second is judged by itself."""

    async def work() -> None:
        data = answer(head="Content-Type: application/json\r\nCache-Control: max-age=0")
        async with serving(authority, data, names=[[PUBLIC], ["127.0.0.1"]]) as (rig, world):
            await rig.clients.find(CIMD)
            assert world.connected == [(PUBLIC, 443, HOST)]
            rig.at += 11
            with pytest.raises(OAuthError):
                await rig.clients.find(CIMD)
            assert len(world.connected) == 1

    run(work())


@pytest.mark.requirement("OA-42")
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_oa_42_a_redirect_to_the_inside(authority: trustme.CA, status: str) -> None:
    """OA-42."""
    head = "Content-Type: application/json\r\nLocation: https://169.254.169.254/latest/meta-data"
    refused(lambda: found(authority, answer(head=head, status=status)), "invalid_client")


@pytest.mark.requirement("AS-14", "AS-17", "OA-43")
@pytest.mark.parametrize(
    "data",
    [
        answer(head="Content-Type: application/json\r\nContent-Encoding: gzip", body=gzip.compress(b"0" * 10_000_000)),
        answer(document(pad="x" * 5200)),
        answer(document(pad="x" * 500_000)),
        answer(head="Content-Type: text/html"),
        answer(head="Content-Type: application/json\r\nContent-Type: text/html"),
        answer(json.dumps(document()).encode()[:-1] + b',"client_id":"https://evil.example/c"}'),
        answer(document(client_id=CIMD + "?")),
        answer(document(client_secret="s")),
        answer(document(redirect_uris=["https://evil.example/cb"])),
    ],
)
def test_oa_43_documents_made_to_harm(authority: trustme.CA, data: bytes) -> None:
    """OA-43: packed, too large, of another kind, contradicting itself, or for somebody else."""
    refused(lambda: found(authority, data), "invalid_client")


@pytest.mark.requirement("OA-43")
def test_oa_43_a_document_that_trickles(authority: trustme.CA) -> None:
    """OA-43: time is bounded as a whole, not by the byte."""
    refused(lambda: found(authority, answer(), slow=0.02), "invalid_client")


@pytest.mark.requirement("OA-44")
def test_oa_44_a_document_that_flips_after_it_was_approved(authority: trustme.CA) -> None:
    """OA-44: what was consented to had another digest, and the address it had is no longer its own."""

    async def work() -> None:
        bodies = iter([document(), document(redirect_uris=["https://login.app.example.com/cb"])])
        async with serving(authority, lambda _: answer(next(bodies))) as (rig, _):
            before = await rig.clients.find(CIMD)
            rig.at += 301
            after = await rig.clients.find(CIMD)
            assert before.digest != after.digest
            assert not allowed(after, before.redirect_uris[0])

    run(work())


@pytest.mark.requirement("OA-45")
def test_oa_45_somebody_elses_document_and_a_port_of_ones_own(authority: trustme.CA) -> None:
    """OA-45: cannot be told from the honest client, so it never goes without being said."""
    client = found(authority, answer(document(redirect_uris=["http://127.0.0.1/callback"])))
    assert allowed(client, "http://127.0.0.1:6666/callback")
    assert {"loopback_only", "unverified"} <= {*client.warnings}


@pytest.mark.requirement("CLI-22", "CLI-24", "OA-48")
def test_oa_48_what_an_upstream_names_is_fetched_no_less_carefully(authority: trustme.CA) -> None:
    """OA-48, the fetching half: an address in a challenge that leads inside gets no connection."""
    from limen.core.faults import DependencyFault

    async def work() -> None:
        async with serving(authority, answer(), names=[["10.0.0.5"]]) as (_, world):
            for url in (
                f"https://{HOST}/.well-known/oauth-protected-resource",
                "https://169.254.169.254/",
                "http://127.0.0.1/",
            ):
                with pytest.raises(DependencyFault):
                    await world.http().get(url)
            assert world.connected == []

    run(work())


@pytest.mark.requirement("OA-87")
def test_oa_87_what_a_client_has_here_is_for_here() -> None:
    """OA-87: ids and secrets are made by this server, at random; nothing a client had elsewhere can be brought."""
    one, other = Rig(registration=True), Rig(registration=True)
    body = {"redirect_uris": ["https://older.example/cb"]}
    made = read(run(one.registration.register(json_visit(body))))
    refused(lambda: run(other.clients.find(made["client_id"])), "invalid_client")
    brought = {**body, "client_id": made["client_id"], "client_secret": made["client_secret"]}
    refused(lambda: run(other.registration.register(json_visit(brought))), "invalid_client_metadata")
    assert made["registration_client_uri"].startswith(f"{ISSUER}/oauth/register/")
