"""Device authorization (RFC 8628): a device shows a code, a person types it in where there is a browser.

Off by default, because it is made for phishing: an attacker asks for a code and talks somebody into typing it. So no
link carries the code, the page says what it means, and the consent page that follows shows that a device asked.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from hmac import compare_digest
from html import escape
from typing import Final, Protocol

import orjson

from limen.core.encoding import digest
from limen.core.faults import DependencyFault
from limen.core.ports import Counter, Quota, Table
from limen.oauth.codes import PREFIX, Ticket, new_secret, read_asked
from limen.oauth.grants import DEVICE, PER_ADDRESS, Authenticates
from limen.oauth.model import Asked, Client, User
from limen.oauth.own_page import foreign, origin_of
from limen.oauth.recorder import Recorder
from limen.oauth.redeeming import Record
from limen.oauth.throttle import network, take
from limen.oauth.web import OAuthError, Reply, Visit, error_reply, json_reply

LIFETIME: Final = 600.0  # seconds in which the code is to be typed in and agreed to
INTERVAL: Final = 5.0  # seconds between polls; each one that comes too early adds as much
_LETTERS: Final = "BCDFGHJKLMNPQRSTVWXZ"  # RFC 8628 section 6.1: no vowels, no digits that look like letters
_LENGTH: Final = 8  # 34.6 bits, for ten minutes, against the quotas below
_TRIES: Final = 5  # times the right code may be typed in
_PLACE, _NAMES = "device/", "device/u/"
_COOKIE: Final = "__Host-limen-device"
PENDING: Final = Quota(1000, 1000 / LIFETIME)  # devices that wait at once, at most twice as many
ASKING: Final = Quota(20, 1 / 15)  # of one address
TYPING: Final = Quota(10, 1 / 15)  # codes typed in at one address
TYPED: Final = Quota(100, 1.0)  # codes typed in everywhere
_PAGE: Final = (
    ("content-type", "text/html; charset=utf-8"),
    (
        "content-security-policy",
        "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    ("x-frame-options", "DENY"),
)


class Knows(Authenticates, Protocol):
    """Who knows the clients."""

    async def find(self, client_id: str) -> Client: ...


Ask = Callable[[Mapping[str, str], Client], Asked]  # judges scope and resource; raises OAuthError
Start = Callable[[Visit, Asked, Client, str, str], Awaitable[Reply]]  # on to consent and sign-in, for this device


@dataclass(frozen=True, slots=True)
class Device:
    """One that waits. Times in seconds since the epoch."""

    asked: Asked
    until: float
    interval: float = INTERVAL
    polled: float = 0.0
    typed: int = 0
    state: str = "pending"  # "approved", "denied"
    ticket: str = ""  # where the approval is
    name: str = field(default="", repr=False)  # digest of the user code


def _read(raw: bytes) -> Device:
    try:
        members = orjson.loads(raw)
        asked = read_asked(members.pop("asked"))
        return Device(asked, **members)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DependencyFault("table", f"a device cannot be read: {type(error).__name__}", retryable=False) from None


def new_user_code() -> str:
    """Easy to read out and to type, hard to guess."""
    letters = "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))
    return f"{letters[:4]}-{letters[4:]}"


def normal_user_code(typed: str) -> str:
    """Without what people add: spaces, dashes, small letters."""
    return "".join(letter for letter in typed.upper()[:64] if letter in _LETTERS)


class Devices:
    """Endpoints /oauth/device_authorization and /oauth/device, and what the token endpoint asks about devices."""

    def __init__(
        self,
        issuer: str,
        table: Table,
        clients: Knows,
        ask: Ask,
        start: Start,
        *,
        counter: Counter,
        recorder: Recorder,
        record: Record,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._issuer, self._table, self._clients, self._ask, self._start = issuer, table, clients, ask, start
        self._counter, self._recorder, self._record, self._now = counter, recorder, record, now

    # the device

    async def authorization(self, visit: Visit) -> Reply:
        """RFC 8628 sections 3.1 and 3.2."""
        client_id = resource = ""
        try:
            if visit.method != "POST":
                raise OAuthError("invalid_request", "not with this method", status=405, headers=(("allow", "POST"),))
            await take(self._counter, f"oauth:address:{network(visit.address)}", PER_ADDRESS)
            form = visit.parameters()
            client = await self._clients.authenticate(visit, form, f"{self._issuer}/oauth/device_authorization")
            client_id = client.id
            if DEVICE not in client.grant_types:
                raise OAuthError("unauthorized_client", detail="device_code is none of this client's grant types")
            asked = replace(self._ask(form, client), redirect_uri="", challenge="", state="")
            resource = asked.resource
            await take(self._counter, f"oauth:devices:{network(visit.address)}", ASKING)
            await take(self._counter, "oauth:devices", PENDING)
            code, shown = await asyncio.to_thread(self._make, asked)
        except OAuthError as error:
            self._recorder.note(
                "device", error.code, visit=visit, client=client_id, resource=resource, detail=error.detail
            )
            return error_reply(error)
        self._recorder.note("device", "ok", visit=visit, client=client_id, resource=resource, detail="asks for a code")
        document = {
            "device_code": code,
            "user_code": shown,
            "verification_uri": f"{self._issuer}/oauth/device",
            "expires_in": int(LIFETIME),
            "interval": int(INTERVAL),
        }
        return json_reply(document)

    def _make(self, asked: Asked) -> tuple[str, str]:
        code, until = f"ld_{new_secret()}", self._now() + LIFETIME
        shown = new_user_code()
        while not self._table.swap(self._name(shown), None, digest(code).encode(), until):
            shown = new_user_code()
        device = Device(asked, until, name=digest(normal_user_code(shown)))
        self._table.put(_PLACE + digest(code), orjson.dumps(device), until)
        return code, shown

    def poll(self, code: str, client: Client) -> str:
        """RFC 8628 section 3.5. Where the approval is kept. Synchronous; raises OAuthError, DependencyFault."""
        place = _PLACE + digest(code)
        raw = self._table.get(place)
        device = _read(raw) if raw is not None else None
        if raw is None or device is None or self._now() >= device.until:
            raise OAuthError("expired_token", detail="no such device, or its time is over")
        if not compare_digest(device.asked.client.encode(), client.id.encode()):
            raise OAuthError("invalid_grant", "not valid, or not any more", detail="asked for by another client")
        if device.state == "approved":
            return device.ticket
        if device.state == "denied":
            raise OAuthError("access_denied")
        now = self._now()
        early = now - device.polled < device.interval
        after = replace(device, polled=now, interval=device.interval + INTERVAL if early else device.interval)
        if not self._table.swap(place, raw, orjson.dumps(after), device.until) or early:
            raise OAuthError("slow_down")
        raise OAuthError("authorization_pending")

    # the person

    async def page(self, visit: Visit) -> Reply:
        """GET shows where to type the code, POST takes it, and goes on to the consent page. Works without scripts."""
        if visit.method in ("GET", "HEAD"):
            return _form("")
        if visit.method != "POST":
            return error_reply(
                OAuthError("invalid_request", "not with this method", status=405, headers=(("allow", "GET, POST"),))
            )
        try:
            form = visit.parameters()
            self._same_browser(visit, form)
            # Before the look: beyond the quota a right code must not show either.
            await take(self._counter, f"oauth:typing:{network(visit.address)}", TYPING)
            await take(self._counter, "oauth:typing", TYPED)
            handle, device = await asyncio.to_thread(self._typed, form.get("user_code", ""))
            if device is None:
                self._recorder.note("device", "invalid_grant", visit=visit, field="user_code", detail="no such code")
                return _form("That code is not known, or its time is over.", 400)
            client = await self._clients.find(device.asked.client)
            if client.digest != device.asked.client_digest:
                raise OAuthError("invalid_client", detail="the client changed since the device asked")
        except OAuthError as error:
            self._recorder.note("device", error.code, visit=visit, detail=error.detail)
            said = (
                "Too many codes were typed in. Try again in a minute." if error.status == 429 else "Please try again."
            )
            return _form(said, error.status, error.headers)
        return await self._start(visit, device.asked, client, handle, normal_user_code(form["user_code"]))

    def _same_browser(self, visit: Visit, form: Mapping[str, str]) -> None:
        """The form comes from our page in this browser (double submit; `__Host-`: no other host can set it)."""
        kept, sent = visit.cookie(_COOKIE), form.get("csrf", "")
        if (
            foreign(visit, origin_of(self._issuer)) is not None
            or not kept
            or not compare_digest(kept.encode(), sent.encode("utf-8", "replace"))
        ):
            raise OAuthError("invalid_request", status=403, detail="the form did not come from our page")

    def _typed(self, typed: str) -> tuple[str, Device | None]:
        """The device behind a code, and how it is named from here on. Counts how often its code was typed in."""
        if len(normal_user_code(typed)) != _LENGTH:
            return "", None
        found = self._table.get(self._name(typed))
        handle = found.decode() if found is not None else ""
        while handle and (raw := self._table.get(_PLACE + handle)) is not None:
            device = _read(raw)
            if device.state != "pending" or device.typed >= _TRIES or self._now() >= device.until:
                break
            after = replace(device, typed=device.typed + 1)
            if self._table.swap(_PLACE + handle, raw, orjson.dumps(after), device.until):
                return handle, after
        return "", None

    def approved(self, device: str, asked: Asked, user: User, consent: str) -> Reply:
        """The end of the way for a device. `device` is what `start` was given. Synchronous; raises OAuthError when it
        does not wait any more, DependencyFault."""
        raw = self._table.get(_PLACE + device)
        found = _read(raw) if raw is not None else None
        if raw is None or found is None or found.state != "pending" or self._now() >= found.until:
            raise OAuthError("expired_token", detail="the device does not wait any more")
        if (asked.client, asked.resource, asked.client_digest) != (
            found.asked.client, found.asked.resource, found.asked.client_digest,
        ) or not set(asked.scopes) <= set(found.asked.scopes):  # fmt: skip
            raise OAuthError("invalid_request", detail="agreed to something else than the device asked for")
        # First what it may have, then that it may: whoever is killed between the two leaves a device that waits, and
        # of two people who agree at once only one is who the device acts for.
        ticket, place = (
            Ticket(replace(asked, state=""), user, consent, found.until),
            f"{PREFIX}{_PLACE}{new_secret(16)}",
        )
        self._table.put(place, orjson.dumps(ticket), found.until)
        if not self._decide(device, raw, replace(found, ticket=place, state="approved")):
            raise OAuthError("expired_token", detail="the device was decided about meanwhile")
        return _page("The device is connected", "<p>You can close this page and go back to the device.</p>")

    def denied(self, device: str) -> Reply:
        """A person said no. Synchronous; raises DependencyFault."""
        raw = self._table.get(_PLACE + device)
        if raw is not None and (found := _read(raw)).state == "pending":
            self._decide(device, raw, replace(found, state="denied"))
        return _page("The device was not connected", "<p>You can close this page.</p>")

    def _decide(self, device: str, raw: bytes, decided: Device) -> bool:
        """Whether this decision is the one that counts."""
        place = _PLACE + device
        while not self._table.swap(place, raw, orjson.dumps(decided), decided.until):
            again = self._table.get(place)
            if again is None or (found := _read(again)).state != "pending":
                return False
            raw, decided = again, replace(found, state=decided.state, ticket=decided.ticket)  # a poll came between
        self._table.swap(_NAMES + decided.name, device.encode(), None)
        return True

    def _name(self, typed: str) -> str:
        return _NAMES + digest(normal_user_code(typed))


def _form(said: str, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    value = new_secret(16)
    alert = f'<p role="alert">{escape(said)}</p>' if said else ""
    body = f"""{alert}
<p>Type in the code that your own device shows. <strong>If somebody sent you a code, or asked you to come here,
stop:</strong> whoever holds that device will act in your name.</p>
<form method="post" action="/oauth/device" autocomplete="off">
<input type="hidden" name="csrf" value="{value}">
<p><label for="user_code">Code</label><br>
<input id="user_code" name="user_code" required maxlength="16" autocapitalize="characters" spellcheck="false"></p>
<p><button type="submit">Continue</button></p>
</form>"""
    cookie = f"{_COOKIE}={value}; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age={int(LIFETIME)}"
    return _page("Connect a device", body, status, (("set-cookie", cookie), *headers))


def _page(title: str, body: str, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    text = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(title)}</title></head>
<body><main><h1>{escape(title)}</h1>
{body}
</main></body></html>
"""
    return Reply(status, text.encode(), (*_PAGE, *headers))
