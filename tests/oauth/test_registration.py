"""Dynamic registration and its management (RFC 7591, RFC 7592). OA-15 (abuse), OA-88 (floods)."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata

from contracts.memory import MemoryTable
from limen.adapters.sqlite import open_tables
from limen.core.faults import DependencyFault
from limen.oauth.registered import count, each
from limen.oauth.web import OAuthError, Visit
from oauth.client_rig import ISSUER, Rig, json_visit, read, refused, run

BODY: dict[str, Any] = {
    "redirect_uris": ["http://127.0.0.1/callback"],
    "client_name": "Legacy",
    "token_endpoint_auth_method": "none",
}


def body(**more: Any) -> dict[str, Any]:
    return {name: value for name, value in {**BODY, **more}.items() if value is not ...}


def on(**more: Any) -> Rig:
    return Rig(registration=True, **more)


def register(rig: Rig, sent: Any = BODY, **more: Any) -> dict[str, Any]:
    reply = run(rig.registration.register(json_visit(sent, **more)))
    assert reply.status == 201
    assert dict(reply.all_headers)["cache-control"] == "no-store"
    return read(reply)


def manage(rig: Rig, made: dict[str, Any], method: str, sent: Any = b"", token: str | None = None) -> Any:
    path = made["registration_client_uri"].removeprefix(ISSUER)
    token = made["registration_access_token"] if token is None else token
    return run(rig.registration.manage(json_visit(sent, method, path, authorization=f"Bearer {token}")))


def test_what_the_official_sdk_sends_and_what_it_gets_back() -> None:
    sent = OAuthClientMetadata(
        redirect_uris=["http://localhost:3030/callback"], client_name="SDK", grant_types=["authorization_code",
        "refresh_token"],
        response_types=["code"], scope="files.read", token_endpoint_auth_method="none",
    )  # fmt: skip
    rig = on()
    made = register(rig, sent.model_dump(mode="json", exclude_none=True))
    got = OAuthClientInformationFull.model_validate(made)
    assert got.client_id.startswith("reg_")
    assert got.client_secret is None
    assert [str(uri) for uri in got.redirect_uris or ()] == ["http://localhost:3030/callback"]
    client = run(rig.clients.find(got.client_id))
    assert (client.source, client.name, client.verified, client.scopes) == ("registered", "SDK", False, {"files.read"})
    assert client.grant_types == {"authorization_code", "refresh_token"}
    assert client.warnings == ("unverified", "loopback_only")
    assert rig.notes.named("oauth.client_registered")[0]["client"] == got.client_id
    assert rig.notes.steps[-1]["outcome"] == "ok"


def test_secrets_are_shown_once_and_kept_as_digests() -> None:
    rig = on()
    made = register(rig, body(token_endpoint_auth_method=...))
    assert made["token_endpoint_auth_method"] == "client_secret_basic"  # RFC 7591 section 2
    assert made["client_secret_expires_at"] == 0
    kept = b"".join(value for _, value in rig.table.scan(""))
    told = json.dumps([rig.notes.events, [{**step, "visit": None} for step in rig.notes.steps]])
    for secret in (made["client_secret"], made["registration_access_token"]):
        assert len(secret) >= 43
        assert secret.encode() not in kept
        assert secret not in told
    assert "client_secret" not in read(manage(rig, made, "GET"))


@pytest.mark.requirement("AS-05", "AS-41", "OA-15")
@pytest.mark.parametrize(
    ("sent", "code", "field"),
    [
        (body(redirect_uris=...), "invalid_redirect_uri", "redirect_uris"),
        (body(redirect_uris=["https://limen.example.com/oauth/callback"]), "invalid_redirect_uri", "redirect_uris"),
        (body(redirect_uris=["https://login.provider.example/x"]), "invalid_redirect_uri", "redirect_uris"),
        (body(redirect_uris=["javascript:alert(1)"]), "invalid_redirect_uri", "redirect_uris"),
        (body(redirect_uris=["http://evil.example/cb"]), "invalid_redirect_uri", "redirect_uris"),
        (body(redirect_uris=["https://*.example.com/cb"]), "invalid_redirect_uri", "redirect_uris"),
        (body(redirect_uris=[f"https://a.example/{n}" for n in range(11)]), "invalid_redirect_uri", "redirect_uris"),
        (body(grant_types=["implicit"]), "invalid_client_metadata", "grant_types"),
        (body(grant_types=["authorization_code", "implicit"]), "invalid_client_metadata", "grant_types"),
        (body(grant_types=["password"]), "invalid_client_metadata", "grant_types"),
        (body(grant_types=["client_credentials"]), "invalid_client_metadata", "grant_types"),
        (body(grant_types=["authorization_code", "urn:ietf:params:oauth:grant-type:jwt-bearer"]),
        "invalid_client_metadata", "grant_types"),
        (body(grant_types=["refresh_token"]), "invalid_client_metadata", "grant_types"),
        (body(grant_types=[]), "invalid_client_metadata", "grant_types"),
        (body(response_types=["token"]), "invalid_client_metadata", "response_types"),
        (body(response_types=["code", "id_token"]), "invalid_client_metadata", "response_types"),
        (body(token_endpoint_auth_method="private_key_jwt"), "invalid_client_metadata", "token_endpoint_auth_method"),
        (body(token_endpoint_auth_method="client_secret_jwt"), "invalid_client_metadata", "token_endpoint_auth_method"),
        (body(token_endpoint_auth_method="tls_client_auth"), "invalid_client_metadata", "token_endpoint_auth_method"),
        (body(token_endpoint_auth_method=["none"]), "invalid_client_metadata", "token_endpoint_auth_method"),
        (body(client_secret="mine"), "invalid_client_metadata", "client_secret"),
        (body(client_id="mine"), "invalid_client_metadata", "client_id"),
        (body(registration_access_token="mine"), "invalid_client_metadata", "registration_access_token"),
        (body(software_statement="eyJhbGciOiJub25lIn0.e30."), "invalid_software_statement", ""),
        (body(jwks={"keys": []}), "invalid_client_metadata", "jwks"),
        (body(jwks_uri="https://169.254.169.254/"), "invalid_client_metadata", "jwks_uri"),
        (body(client_name="x" * 2048), "invalid_client_metadata", "client_name"),
        (body(client_name="a\nb"), "invalid_client_metadata", "client_name"),
        (body(client_name=["a"]), "invalid_client_metadata", "client_name"),
        (body(client_uri="javascript:alert(1)"), "invalid_client_metadata", "client_uri"),
        (body(logo_uri="data:image/svg+xml,<svg onload=alert(1)>"), "invalid_client_metadata", "logo_uri"),
        (body(tos_uri="file:///etc/passwd"), "invalid_client_metadata", "tos_uri"),
        (body(policy_uri="http://a.example/"), "invalid_client_metadata", "policy_uri"),
        (body(scope="a\tb"), "invalid_client_metadata", "scope"),
        (body(scope=["*"]), "invalid_client_metadata", "scope"),
        (body(application_type="robot"), "invalid_client_metadata", "application_type"),
        (body(padding="x" * (16 << 10)), "invalid_client_metadata", "body"),
        (b"", "invalid_client_metadata", "body"),
        (b"[]", "invalid_client_metadata", "body"),
        (b'{"redirect_uris":["http://127.0.0.1/a"],"redirect_uris":["https://evil.example/"]}',
        "invalid_client_metadata", "body"),
    ],
)  # fmt: skip
def test_oa_15_what_is_not_registered(sent: Any, code: str, field: str) -> None:
    """OA-15: nothing is kept, and the step says which member it was."""
    rig = on()
    error = refused(lambda: register(rig, sent), code)
    assert error.status == 400
    assert not list(rig.table.scan(""))
    assert not rig.notes.events
    step = rig.notes.steps[-1]
    assert (step["leg"], step["outcome"], step["field"]) == ("registration", code, field)


@pytest.mark.requirement("OA-15")
def test_oa_15_other_bodies_methods_and_a_gateway_that_does_not_want_it() -> None:
    rig = on()
    json_ = ("application/json",)
    for visit, status in (
        (Visit("GET", "/oauth/register"), 405),
        (Visit("POST", "/oauth/register", "a=b", {"content-type": json_}, json.dumps(BODY).encode()), 400),
        (Visit("POST", "/oauth/register", "", {}, json.dumps(BODY).encode()), 400),
        (Visit("POST", "/oauth/register", "", {"content-type": ("text/plain",)}, json.dumps(BODY).encode()), 400),
        (Visit("POST", "/oauth/register", "", {"content-type": json_ * 2}, json.dumps(BODY).encode()), 400),
    ):
        assert refused(lambda visit=visit: run(rig.registration.register(visit))).status == status
    off = Rig()
    assert refused(lambda: register(off), "access_denied").status == 403
    assert (
        refused(
            lambda: manage(off, {"registration_client_uri": f"{ISSUER}/oauth/register/reg_x"}, "GET", token="x")
        ).status
        == 403
    )
    assert not list(off.table.scan(""))


def test_a_gateway_that_stops_registration_forgets_whom_it_registered() -> None:
    rig = on()
    made = register(rig)
    later = Rig(table=rig.table)
    refused(lambda: run(later.clients.find(made["client_id"])), "invalid_client")


@pytest.mark.requirement("OA-15", "OA-88")
def test_oa_15_ten_thousand_registrations() -> None:
    """OA-15, OA-88: one network gets a few an hour, all together a bounded number, and what is not used goes soon."""
    rig = on(limits={"most": 50, "hourly": 5})
    codes: list[str] = []

    async def flood(address: str, times: int) -> None:
        for _ in range(times):
            try:
                await rig.registration.register(json_visit(BODY, address=address))
                codes.append("ok")
            except OAuthError as error:
                codes.append(f"{error.code} {error.status}")

    run(flood("192.0.2.1", 100))
    assert codes.count("ok") == 5
    assert codes.count("temporarily_unavailable 429") == 95
    run(flood("192.0.2.2", 1))
    assert codes[-1] == "ok"

    async def wide() -> None:
        await asyncio.gather(*(flood(f"198.51.100.{number}", 1) for number in range(200)))

    run(wide())
    assert codes.count("ok") == 50 == count(rig.table)
    assert codes[-1] == "temporarily_unavailable 503"
    assert rig.notes.named("oauth.registrations_full")
    rig.at += 3601
    assert count(rig.table) == 0
    run(flood("192.0.2.3", 1))
    assert codes[-1] == "ok"


def test_the_64_bits_of_one_customer_count_as_one() -> None:
    rig = on(limits={"hourly": 3})
    for number in range(3):
        register(rig, address=f"2001:db8:1:2::{number:x}")
    refused(lambda: register(rig, address="2001:db8:1:2:ffff::1"), "temporarily_unavailable")
    register(rig, address="2001:db8:1:3::1")


def test_clients_that_are_used_stay_until_they_are_idle() -> None:
    rig = on()
    used, idle = register(rig), register(rig)
    run(rig.clients.used(run(rig.clients.find(used["client_id"]))))
    rig.at += 3601
    assert run(rig.clients.find(used["client_id"])).name == "Legacy"
    refused(lambda: run(rig.clients.find(idle["client_id"])), "invalid_client")
    rig.at += 7_000_000
    run(rig.clients.used(run(rig.clients.find(used["client_id"]))))
    rig.at += 7_000_000
    assert run(rig.clients.find(used["client_id"]))
    rig.at += 1_000_000
    refused(lambda: run(rig.clients.find(used["client_id"])), "invalid_client")


def test_a_store_that_is_away_does_not_take_back_what_a_client_got() -> None:
    class Away(MemoryTable):
        def swap(self, *given: Any, **more: Any) -> bool:
            raise DependencyFault("table", "away")

    rig = on()
    client = run(rig.clients.find(register(rig)["client_id"]))
    away = Away(rig.now)
    away._rows = rig.table._rows
    later = Rig(table=away, registration=True)
    run(later.clients.used(client))
    assert [(step["client"], step["outcome"]) for step in later.notes.steps] == [(client.id, "temporarily_unavailable")]


@pytest.mark.requirement("OA-44")
def test_management_by_whoever_holds_the_token() -> None:
    """RFC 7592: read, change, remove; the honest half."""
    rig = on()
    made = register(rig)
    assert read(manage(rig, made, "GET")) == made
    before = run(rig.clients.find(made["client_id"]))
    changed = body(client_id=made["client_id"], client_name="Renamed", redirect_uris=["http://127.0.0.1/other"])
    reply = manage(rig, made, "PUT", changed)
    assert (reply.status, read(reply)["client_name"]) == (200, "Renamed")
    after = run(rig.clients.find(made["client_id"]))
    assert after.redirect_uris == ("http://127.0.0.1/other",)
    assert after.digest != before.digest  # OA-44: consent was to something else
    assert manage(rig, made, "DELETE").status == 204
    refused(lambda: run(rig.clients.find(made["client_id"])), "invalid_client")
    assert manage(rig, made, "GET").status == 401
    assert [name for name, _ in rig.notes.events] == [
        "oauth.client_registered",
        "oauth.client_updated",
        "oauth.client_deleted",
    ]


def test_a_secret_survives_a_change_and_the_way_to_use_it_cannot_be_changed() -> None:
    rig = on()
    made = register(rig, body(token_endpoint_auth_method="client_secret_post"))
    same = body(
        client_id=made["client_id"],
        token_endpoint_auth_method="client_secret_post",
        client_secret=made["client_secret"],
    )
    assert manage(rig, made, "PUT", same).status == 200
    assert "client_secret" not in read(manage(rig, made, "GET"))
    for wrong in (
        {**same, "client_secret": "other"}, {**same, "client_secret": None, "token_endpoint_auth_method": "none"},
        {**same, "client_id": "reg_other"}, {**same, "client_id": ...}, {**same, "redirect_uris": ["javascript:/x"]},
        {**same, "registration_access_token": made["registration_access_token"]}, {**same, "client_id_issued_at": 1},
        {**same, "grant_types": ["implicit"]},
    ):  # fmt: skip
        sent = {name: value for name, value in wrong.items() if value is not ...}
        refused(lambda sent=sent: manage(rig, made, "PUT", sent))
    assert next(iter(each(rig.table))).redirect_uris == ("http://127.0.0.1/callback",)


@pytest.mark.requirement("OA-84", "OA-86", "OA-88")
def test_oa_84_the_token_of_another_client_or_none() -> None:
    """OA-86, OA-88: the same answer for a wrong token and for a client that does not exist; then it is slowed down."""
    rig = on()
    mine, other = register(rig), register(rig)
    nobody = {"registration_client_uri": f"{ISSUER}/oauth/register/reg_{'0' * 48}"}
    answers = set()
    for made, token in (
        (mine, other["registration_access_token"]),
        (mine, ""),
        (mine, "x" * 300),
        (nobody, "x"),
        (nobody, ""),
    ):
        for method in ("GET", "PUT", "DELETE"):
            reply = manage(rig, made, method, body(client_id=mine["client_id"]), token=token)
            answers.add((reply.status, reply.body, reply.headers))
    assert len(answers) == 1
    assert next(iter(answers))[0] == 401
    assert count(rig.table) == 2
    for _ in range(15):
        manage(rig, mine, "GET", token="guess")
    late = refused(lambda: manage(rig, mine, "GET", token="guess"), "temporarily_unavailable")
    assert late.status == 429


def test_two_changes_at_once_are_one() -> None:
    rig = on()
    made = register(rig)
    path = made["registration_client_uri"].removeprefix(ISSUER)
    token = f"Bearer {made['registration_access_token']}"

    async def work() -> list[Any]:
        visits = (
            json_visit(body(client_id=made["client_id"], client_name=f"N{n}"), "PUT", path, authorization=token)
            for n in range(8)
        )
        return await asyncio.gather(*map(rig.registration.manage, visits), return_exceptions=True)

    done = run(work())
    lost = [one for one in done if isinstance(one, OAuthError)]
    assert {one.code for one in lost} <= {"temporarily_unavailable"}
    names = [read(one)["client_name"] for one in done if not isinstance(one, OAuthError)]
    assert names
    assert next(iter(each(rig.table))).name in names


def test_in_the_real_store(tmp_path: Any) -> None:
    """The same records in SQLite, read back by another process's eyes."""
    tables = open_tables(tmp_path / "state.db", ("oauth",))
    rig = on()
    rig = Rig(table=tables["oauth"], registration=True)
    rig.at = time.time()
    made = register(rig, body(token_endpoint_auth_method="client_secret_basic", scope="a b"))
    again = open_tables(tmp_path / "state.db", ("oauth",))
    [found] = each(again["oauth"])
    assert (found.id, found.scopes, found.redirect_uris) == (
        made["client_id"],
        ("a", "b"),
        ("http://127.0.0.1/callback",),
    )
    assert made["client_secret"].encode() not in (tmp_path / "state.db").read_bytes()
    for table in (tables["oauth"], again["oauth"]):
        table.close()
