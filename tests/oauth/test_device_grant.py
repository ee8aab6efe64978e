"""Device authorization (RFC 8628), OA-35: off by default; guessing, phishing, impatience; and the way it should go."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from limen.oauth.device import INTERVAL, LIFETIME, Devices, new_user_code, normal_user_code
from limen.oauth.grants import DEVICE
from limen.oauth.model import Asked, Client, User
from limen.oauth.settings import TokenSettings
from limen.oauth.web import OAuthError, Reply, Visit
from oauth.granting import ALICE, APP, ISSUER, OTHER, RESOURCE, World, answer, asked, visit

COOKIE = "__Host-limen-device"


class Living(World):
    """With devices, and a neighbour who would ask for consent."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.started: list[tuple[Asked, Client, str]] = []
        self.devices = Devices(
            ISSUER, self.table, self.clients, self.judged, self.start,
            counter=self.counter, recorder=self.steps, record=self.ties.record, now=self.clock,
        )  # fmt: skip
        self.build()

    def judged(self, form: Mapping[str, str], client: Client) -> Asked:
        if form.get("resource", RESOURCE) != RESOURCE:
            raise OAuthError("invalid_target")
        return asked(client, scopes=tuple(form.get("scope", "read write").split()))

    async def start(self, visit: Visit, asked: Asked, client: Client, device: str, shown: str) -> Reply:
        self.started.append((asked, client, device))
        return Reply(200, b"consent")

    def device(self, client: Client = APP, **form: str) -> dict[str, Any]:
        status, document = self.begin(client, **form)
        assert status == 200, document
        return document

    def begin(self, client: Client = APP, address: str = "192.0.2.7", **form: str) -> tuple[int, dict[str, Any]]:
        asked = replace(visit({"client_id": client.id, **form}, "device_authorization"), address=address)
        return answer(asyncio.run(self.devices.authorization(asked)))

    def poll(self, device: Mapping[str, Any], client: Client = APP, **form: str) -> tuple[int, dict[str, Any]]:
        return self.ask(grant_type=DEVICE, device_code=device["device_code"], client_id=client.id, **form)

    def type(self, code: str, address: str = "192.0.2.9", **changes: str) -> Reply:
        page = asyncio.run(self.devices.page(Visit("GET", "/oauth/device")))
        value = dict(page.headers)["set-cookie"].split(";")[0].partition("=")[2]
        assert f'value="{value}"'.encode() in page.body
        headers = {"origin": ISSUER, "sec-fetch-site": "same-origin", "cookie": f"{COOKIE}={value}", **changes}
        sent = visit({"user_code": code, "csrf": value}, "device", **headers)
        return asyncio.run(self.devices.page(replace(sent, address=address)))

    def agree(self, user: User = ALICE, **changes: Any) -> Reply:
        what, _, device = self.started[-1]
        return self.devices.approved(device, replace(what, **changes), user, "consent-1")

    def connected(self) -> dict[str, Any]:
        device = self.device()
        self.type(device["user_code"])
        assert self.agree().status == 200
        return device


@pytest.mark.requirement("OA-35")
def test_off_by_default_oa35() -> None:
    """OA-35"""
    assert not TokenSettings().device
    world = World()
    status, document = world.ask(grant_type=DEVICE, device_code="x", client_id=APP.id)
    assert (status, document) == (400, {"error": "unsupported_grant_type"})


def test_a_device_gets_in() -> None:
    """Honest twin of all below."""
    world = Living()
    device = world.device(scope="read")
    assert device["verification_uri"] == f"{ISSUER}/oauth/device"
    assert re.fullmatch(r"[B-DF-HJ-NP-TV-XZ]{4}-[B-DF-HJ-NP-TV-XZ]{4}", device["user_code"])
    assert (device["expires_in"], device["interval"]) == (600, 5)
    assert world.poll(device) == (400, {"error": "authorization_pending"})
    typed = device["user_code"].lower().replace("-", " ")
    assert world.type(typed).body == b"consent"
    assert world.started[0][0].scopes == ("read",)
    assert world.started[0][1] is APP
    assert b"go back to the device" in world.agree().body
    world.clock.now += INTERVAL
    status, given = world.poll(device)
    assert status == 200
    assert given["scope"] == "read"
    claims = world.mint.read(given["access_token"])
    assert claims is not None
    assert (claims["sub"], claims["aud"]) == ("alice", RESOURCE)
    assert world.refresh(given["refresh_token"])[0] == 200


@pytest.mark.requirement("OA-35")
def test_no_link_carries_the_code_oa35() -> None:
    """OA-35: nobody can be sent a link that is half an approval; a code in the page's address is not read."""
    world = Living()
    device = world.device()
    assert "verification_uri_complete" not in device
    page = asyncio.run(world.devices.page(Visit("GET", "/oauth/device", f"user_code={device['user_code']}")))
    assert device["user_code"].encode() not in page.body
    assert b"somebody sent you a code" in page.body


@pytest.mark.requirement("OA-24")
def test_device_code_is_used_once() -> None:
    """As OA-24: the second use ends what the first one made."""
    world = Living()
    device = world.connected()
    given = world.poll(device)[1]
    assert world.poll(device)[1]["error"] == "invalid_grant"
    assert not world.live
    assert world.refresh(given["refresh_token"])[1]["error"] == "invalid_grant"


def test_twenty_parallel_polls_let_one_in() -> None:
    world = Living()
    device = world.connected()
    form = {"grant_type": DEVICE, "device_code": device["device_code"], "client_id": APP.id}
    answers = world.many(20, form)
    assert sorted(status for status, _ in answers) == [200] + [400] * 19
    assert len(world.live) == 1


def test_device_code_of_another_client() -> None:
    world = Living()
    device = world.connected()
    assert world.poll(device, OTHER)[1]["error"] == "invalid_grant"
    assert world.poll(device)[0] == 200


def test_device_code_is_no_authorization_code() -> None:
    """There is no verifier that fits, so the one endpoint cannot be used for the other's codes."""
    world = Living()
    device = world.connected()
    assert world.redeem(device["device_code"])[1]["error"] == "invalid_grant"
    assert world.poll({"device_code": world.code()})[1]["error"] == "expired_token"
    assert world.poll(device)[0] == 200


def test_impatient_device_is_slowed_down() -> None:
    """RFC 8628 section 3.5: and each time by five seconds more."""
    world = Living()
    device = world.device()
    world.poll(device)
    assert world.poll(device)[1] == {"error": "slow_down"}
    world.clock.now += INTERVAL
    assert world.poll(device)[1] == {"error": "slow_down"}
    world.clock.now += 3 * INTERVAL
    assert world.poll(device)[1] == {"error": "authorization_pending"}


def test_denied_and_expired() -> None:
    world = Living()
    device = world.device()
    world.type(device["user_code"])
    assert b"not connected" in world.devices.denied(world.started[-1][2]).body
    assert world.poll(device)[1] == {"error": "access_denied"}
    with pytest.raises(OAuthError):
        world.agree()
    late = world.device()
    world.type(late["user_code"])
    world.clock.now += LIFETIME
    assert world.poll(late)[1]["error"] == "expired_token"
    assert world.type(late["user_code"]).status == 400
    with pytest.raises(OAuthError):
        world.agree()


@pytest.mark.requirement("OA-09")
def test_approval_is_for_what_the_device_asked_oa09() -> None:
    """OA-09: nothing changes between the code and the consent but that it becomes less."""
    world = Living()
    device = world.device(scope="read")
    world.type(device["user_code"])
    for other in ({"client": "other"}, {"resource": "https://gw.example/mcp/fin"}, {"scopes": ("read", "write")}):
        with pytest.raises(OAuthError):
            world.agree(**other)
    assert world.poll(device)[1] == {"error": "authorization_pending"}
    world.agree(scopes=())
    assert world.poll(device)[1]["scope"] == ""


def test_two_people_agree_one_is_acted_for() -> None:
    world = Living()
    device = world.device()
    world.type(device["user_code"])
    world.type(device["user_code"])
    world.agree()
    with pytest.raises(OAuthError):
        world.agree(User("https://idp.example", "mallory"))
    claims = world.mint.read(world.poll(device)[1]["access_token"])
    assert claims is not None
    assert claims["sub"] == "alice"


@pytest.mark.requirement("OA-35", "OA-88")
def test_guessing_user_codes_oa35_oa88() -> None:
    """OA-35 OA-88: ten tries from one address, a hundred from anywhere; the right code is then refused as well."""
    world = Living()
    device = world.device()
    statuses = [world.type(new_user_code()).status for _ in range(12)]
    assert statuses == [400] * 10 + [429] * 2
    assert world.type(device["user_code"]).status == 429
    assert world.type(device["user_code"], address="198.51.100.1").status == 200
    assert [world.type("BBBB-BBBB", address=f"2001:db8::{at:x}").status for at in range(12)] == [400] * 10 + [429] * 2
    for number in range(100):
        world.type("BBBB-BBBB", address=f"203.0.113.{number}")
    assert world.type("BBBB-BBBB", address="203.0.113.200").status == 429
    assert world.type(device["user_code"], address="203.0.113.201").status == 429
    world.clock.now += 60
    assert world.type(device["user_code"]).status == 200


def test_codes_are_hard_to_guess() -> None:
    codes = {new_user_code() for _ in range(2000)}
    assert len(codes) == 2000
    assert len(set("".join(codes))) == 21  # twenty letters and the dash
    assert normal_user_code(" bcdf ghjk ") == "BCDFGHJK"


def test_a_code_is_typed_a_few_times_only() -> None:
    world = Living()
    device = world.device()
    assert [world.type(device["user_code"], address=f"192.0.2.{n}").status for n in range(6)] == [200] * 5 + [400]


@pytest.mark.parametrize(
    "foreign",
    [
        {"origin": "https://evil.example"},
        {"origin": "null", "sec-fetch-site": ""},  # with it: our own page, which sends no referrer
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"cookie": ""},
        {"cookie": f"{COOKIE}=AAAA"},
        {"cookie": "limen-device=AAAA"},
    ],
)
def test_code_typed_by_another_site(foreign: dict[str, str]) -> None:
    """A page of somebody else types the attacker's code into the victim's browser."""
    world = Living()
    reply = world.type(world.device()["user_code"], **foreign)
    assert reply.status == 403
    assert not world.started


@pytest.mark.requirement("OA-07", "OA-91")
def test_page_is_closed() -> None:
    """OA-07 OA-91: not framed, not cached, no scripts, cookie for this host only."""
    world = Living()
    page = asyncio.run(world.devices.page(Visit("GET", "/oauth/device")))
    headers = dict(page.all_headers)
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "script" not in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    assert re.fullmatch(
        r"__Host-limen-device=[\w-]+; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=600", headers["set-cookie"]
    )
    assert b"<script" not in page.body
    assert b'<label for="user_code">' in page.body


@pytest.mark.requirement("OA-88")
def test_what_strangers_can_make_is_bounded_oa88() -> None:
    """OA-88: of one address, and of all."""
    world = Living()
    assert [world.begin()[0] for _ in range(22)] == [200] * 20 + [429] * 2
    assert sum(world.begin(address=f"10.0.{n // 200}.{n % 200}")[0] == 200 for n in range(1100)) == 980


def test_who_may_ask() -> None:
    world = Living()
    world.clients.clients["app"] = replace(APP, grant_types=frozenset({"authorization_code"}))
    assert world.begin()[1]["error"] == "unauthorized_client"
    assert world.begin(OTHER, resource="https://evil.example")[1]["error"] == "invalid_target"
    assert world.begin(replace(APP, id="nobody"))[0] == 401
    assert asyncio.run(world.devices.authorization(Visit("GET", "/oauth/device_authorization"))).status == 405
    assert asyncio.run(world.devices.page(Visit("PUT", "/oauth/device"))).status == 405


@pytest.mark.requirement("OA-44")
def test_client_that_changed_since_the_device_asked_oa44() -> None:
    """OA-44"""
    world = Living()
    device = world.device()
    world.clients.clients["app"] = replace(APP, digest="d-flipped")
    assert world.type(device["user_code"]).status == 400
    assert not world.started
