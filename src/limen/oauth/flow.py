"""The way of a person through an authorization: asked, gone to the provider, back, and on to the client with a code.

Nothing leaves for the provider before a person agreed on a page of ours (OA-01), whatever the provider's own cookies
say. Every answer to a client names us (RFC 9207). Whatever goes wrong ends on a page of ours, or at the client when its
address is known to be its own.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from limen.core.addresses import is_loopback
from limen.core.faults import DependencyFault
from limen.core.ports import Counter
from limen.oauth.authorize import AskedBadly, Judge, answer_url
from limen.oauth.model import Asked, Client, SignedIn, Tokens, User
from limen.oauth.provider import NotSignedIn, Provider
from limen.oauth.recorder import Leg, Recorder
from limen.oauth.throttle import may_begin
from limen.oauth.transactions import Transaction, Transactions
from limen.oauth.web import OAuthError, Reply, Visit

Continuation = Callable[[SignedIn, Visit], Reply | Awaitable[Reply]]
_FIELD: Final = re.compile(r"([A-Za-z_-]{1,40}): ")
_OVER: Final = "This sign-in is over: it was finished, refused or left too long. Start again from the application."


class Decided(Protocol):
    """What a person answered, in which browser."""

    @property
    def transaction(self) -> str: ...
    @property
    def approved(self) -> bool: ...
    @property
    def browser(self) -> str: ...
    @property
    def scopes(self) -> tuple[str, ...]: ...


class Pages(Protocol):
    """The pages a person sees, and whose browser it is (`oauth.asking.Asking`)."""

    def page(self, visit: Visit, transaction: str, asked: Asked, client: Client, *, device: str = "") -> Reply: ...
    def decided(self, visit: Visit) -> Decided: ...
    def browser(self, visit: Visit) -> str: ...
    def leave(self, url: str, cookies: tuple[str, ...] = ()) -> Reply: ...
    def error(self, error: OAuthError) -> Reply: ...


class Ledger(Protocol):
    """Who agreed to what (`oauth.consent.Consents`)."""

    def give(self, user: User, asked: Asked, client: Client) -> str: ...


class Codes(Protocol):
    """Makes authorization codes (`oauth.grants.Grants`)."""

    def code(self, asked: Asked, user: User, consent: str) -> str: ...


class Devices(Protocol):
    """Devices that wait for a person (RFC 8628)."""

    def approved(self, device: str, asked: Asked, user: User, consent: str) -> Reply: ...
    def denied(self, device: str) -> Reply: ...


@dataclass(frozen=True, slots=True)
class Grantor:
    """What a finished authorization is turned into. Each of these works on the records, in a thread."""

    consents: Ledger
    codes: Codes
    devices: Devices | None = None  # None: the grant is off
    keep: Callable[[User, Tokens], None] | None = None  # the provider's tokens, where a server's credential needs them


class Flow:
    """Handlers of `/oauth/authorize`, `/oauth/consent` and `/oauth/callback`."""

    def __init__(
        self,
        issuer: str,
        judge: Judge,
        transactions: Transactions,
        pages: Pages,
        provider: Provider,
        grantor: Grantor,
        recorder: Recorder,
        record: Callable[[str, Mapping[str, Any]], None],
        counter: Counter,
        continuations: Mapping[str, Continuation] | None = None,
    ) -> None:
        """`continuations`: by purpose, who goes on when somebody signed in for a page of Limen's own."""
        self._issuer, self._judge, self._transactions, self._pages = issuer, judge, transactions, pages
        self._provider, self._grantor, self._recorder, self._record = provider, grantor, recorder, record
        self._counter, self._continuations = counter, continuations or {}

    async def authorize(self, visit: Visit) -> Reply:
        """RFC 6749 section 3.1, by GET alone: a page of another origin could post, and no browser would say so."""

        async def work() -> Reply:
            if visit.method != "GET":
                raise OAuthError("invalid_request", "An authorization is asked for with GET.", status=405)
            await may_begin(self._counter, visit)
            asked, client = await self._judge.judge(visit)
            return await self._ask(visit, asked, client)

        return await self._shown("authorize", visit, work)

    async def start(self, visit: Visit, asked: Asked, client: Client, device: str, shown: str = "") -> Reply:
        """Ask a person about what a device asked for. `device` is handed back when they agreed or refused; `shown` is
        the code they see on it."""

        async def work() -> Reply:
            await may_begin(self._counter, visit)
            return await self._ask(visit, asked, client, device, shown or device)

        return await self._shown("device", visit, work)

    async def consent(self, visit: Visit) -> Reply:
        """The person's answer."""

        async def work() -> Reply:
            if visit.method != "POST":
                raise OAuthError(
                    "invalid_request", "There is nothing to see here. Start again from the application.", status=405
                )
            decision = self._pages.decided(visit)
            if decision.approved:
                return await self._agreed(visit, decision)
            return await self._denied(visit, decision)

        return await self._shown("consent", visit, work)

    async def callback(self, visit: Visit) -> Reply:
        """The provider's answer, and what it was for."""
        reply = await self._shown("callback", visit, lambda: self._back(visit))
        return Reply(reply.status, reply.body, (*reply.headers, *self._provider.ended(visit)))

    async def _ask(self, visit: Visit, asked: Asked, client: Client, device: str = "", shown: str = "") -> Reply:
        transaction = await asyncio.to_thread(self._transactions.open, asked, device)
        self._recorder.note(
            "authorize", "ok", visit=visit, client=client.id, resource=asked.resource, transaction=transaction
        )
        return self._pages.page(visit, transaction, asked, client, device=shown)

    async def _agreed(self, visit: Visit, decision: Decided) -> Reply:
        found = await asyncio.to_thread(
            self._transactions.agree, decision.transaction, decision.browser, decision.scopes
        )
        if found is None:
            raise OAuthError("access_denied", _OVER, detail="transaction: over, or answered by another browser")
        asked = found.asked
        url, cookies = await self._provider.begin(
            "grant", f"{found.turn}:{decision.transaction}", decision.browser,
            prompt=asked.prompt, max_age=asked.max_age, acr_values=asked.acr_values,
        )  # fmt: skip
        self._note("provider", "ok", visit, asked, decision.transaction, detail="left for the provider")
        return self._pages.leave(url, tuple(value for _, value in cookies))

    async def _denied(self, visit: Visit, decision: Decided) -> Reply:
        found = await asyncio.to_thread(self._transactions.end, decision.transaction, browser=decision.browser)
        if found is None:
            raise OAuthError("access_denied", _OVER, detail="transaction: over, or answered by another browser")
        self._record("consent", {"event": "denied", "client": found.asked.client, "resource": found.asked.resource})
        if found.device:
            return await self._device_denied(found.device)
        return self._pages.leave(self._answer(found.asked, error="access_denied"))

    async def _back(self, visit: Visit) -> Reply:
        try:
            signed_in = await self._provider.finish(visit)
        except NotSignedIn as ended:
            return await self._not_signed_in(visit, ended)
        if signed_in.purpose == "grant":
            return await self._granted(visit, signed_in)
        continuation = self._continuations.get(signed_in.purpose)
        if continuation is None:
            raise OAuthError("access_denied", _OVER, detail=f"purpose: nobody waits for {signed_in.purpose}")
        answer = continuation(signed_in, visit)
        return answer if isinstance(answer, Reply) else await answer

    async def _granted(self, visit: Visit, signed_in: SignedIn) -> Reply:
        found = await self._ended(signed_in.about)
        if found is None:
            raise OAuthError(
                "access_denied", "This was begun again in another tab, or is over. Finish it there.",
                detail="transaction: over, or answered once more since",
            )  # fmt: skip
        asked, user, transaction = found.agreed, signed_in.user, signed_in.about.partition(":")[2]
        self._note("callback", "ok", visit, asked, transaction, user.subject)
        client = await self._judge.same(asked)
        consent = await asyncio.to_thread(self._write_down, signed_in, asked, client)
        self._record(
            "signin",
            {"event": "granted", "client": asked.client, "user": user.subject, "issuer": user.issuer,
             "resource": asked.resource, "scopes": list(asked.scopes), "consent": consent, "address": visit.address},
        )  # fmt: skip
        if found.device:
            if (devices := self._grantor.devices) is None:
                raise OAuthError("access_denied", _OVER, detail="device: the grant was turned off meanwhile")
            return await asyncio.to_thread(devices.approved, found.device, asked, user, consent)
        code = await asyncio.to_thread(self._grantor.codes.code, asked, user, consent)
        self._note("code", "ok", visit, asked, transaction, user.subject)
        return _redirect(self._answer(asked, code=code))

    def _write_down(self, signed_in: SignedIn, asked: Asked, client: Client) -> str:
        consent = self._grantor.consents.give(signed_in.user, asked, client)
        if self._grantor.keep is not None:
            self._grantor.keep(signed_in.user, signed_in.tokens)
        return consent

    async def _not_signed_in(self, visit: Visit, ended: NotSignedIn) -> Reply:
        """The transaction is over with it. The client hears of it only when the answer surely was the provider's."""
        if ended.strange or not ended.tell:
            alert = "signin.other_browser" if ended.strange else "signin.mix_up"
            members = {"event": alert, "severity": "high", "field": ended.field, "detail": ended.detail}
            self._record("security", {**members, "address": visit.address, "purpose": ended.purpose})
        found = await self._ended(ended.about) if ended.purpose == "grant" else None
        if found is None or not ended.tell:
            raise ended
        transaction = ended.about.partition(":")[2]
        self._note("callback", ended.tell, visit, found.asked, transaction, field=ended.field, detail=ended.detail)
        if found.device:
            return await self._device_denied(found.device)
        return _redirect(self._answer(found.asked, error=ended.tell, error_description=ended.description))

    async def _ended(self, about: str) -> Transaction | None:
        turn, _, transaction = about.partition(":")
        return await asyncio.to_thread(self._transactions.end, transaction, turn=int(turn))

    async def _device_denied(self, device: str) -> Reply:
        if self._grantor.devices is None:
            raise OAuthError("access_denied", _OVER, detail="device: the grant was turned off meanwhile")
        return await asyncio.to_thread(self._grantor.devices.denied, device)

    def _answer(self, asked: Asked, **parameters: str) -> str:
        return answer_url(self._issuer, asked.redirect_uri, asked.state, **parameters)

    async def _shown(self, leg: Leg, visit: Visit, work: Callable[[], Awaitable[Reply]]) -> Reply:
        """What went wrong as a page, or at the client; and for the operator."""
        try:
            return await work()
        except AskedBadly as error:
            self._recorder.note(
                leg, error.code, visit=visit, client=error.client.id, field=error.field, detail=error.detail
            )
            if not _trusted(error.client, error.redirect):
                return self._pages.error(error)
            answer = {"error": error.code, "error_description": error.description}
            return _redirect(answer_url(self._issuer, error.redirect, error.state, **answer))
        except OAuthError as error:
            named = _FIELD.match(error.detail)
            field = error.field if isinstance(error, NotSignedIn) else named[1] if named is not None else ""
            self._recorder.note(leg, error.code, visit=visit, field=field, detail=error.detail)
            return self._pages.error(error)
        except DependencyFault as fault:
            code = "temporarily_unavailable"
            self._recorder.note(leg, code, visit=visit, field=fault.port, detail=str(fault))
            words = "Something this needs cannot be reached. Go back and try again in a minute."
            return self._pages.error(OAuthError(code, words, status=503, detail=str(fault)))

    def _note(
        self, leg: Leg, outcome: str, visit: Visit, asked: Asked, transaction: str, user: str = "", **more: str
    ) -> None:
        self._recorder.note(
            leg, outcome, visit=visit, client=asked.client, resource=asked.resource, transaction=transaction, user=user,
            **more,
        )  # fmt: skip


def _trusted(client: Client, redirect: str) -> bool:
    """Whether a browser may be sent on before a person did anything: else anybody who has a client could use us to
    send people anywhere (RFC 9700 section 4.11.2, AS-07). A program on this machine is no place to phish."""
    parts = urlsplit(redirect)
    local = parts.scheme == "http" and is_loopback(parts.hostname or "")
    return client.source == "configured" or client.verified or local


def _redirect(url: str) -> Reply:
    return Reply(302, b"", (("location", url),))
