"""An MCP server behind Streamable HTTP (MCP 2026-07-28 and 2025-11-25 basic/transports).

Sends only what is rendered from a Permit, plus the headers its UpstreamCredential names. Handshake-era sessions are
one per (caller, our session); their ids never leave this side of the gateway.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final
from weakref import WeakSet

from limen.core.announce import Announcement
from limen.core.call import Caller, Era, Session, UpstreamCredential
from limen.core.conversation import Conversation
from limen.core.faults import DependencyFault, InvariantFault, UpstreamError, UpstreamFault
from limen.core.verdict import Permit
from limen.gateway import eras
from limen.gateway.deadlines import Deadlines
from limen.gateway.upstream_describe import Reading
from limen.gateway.upstream_exchange import Exchange, Rejected
from limen.gateway.upstream_faces import OWN, Face
from limen.gateway.upstream_listing import SECONDS
from limen.gateway.upstream_sessions import Handshake, Key, Sessions
from limen.gateway.upstream_talk import Clock, Debounce, Talk
from limen.gateway.upstream_target import header_lines, param_lines, target

ROUNDS: Final = 8
_FAREWELL: Final = 2.0
_BACKGROUND: Final = 64


class HttpUpstream:
    """One configured server. `headers_allowed` (lower case; None: any) bounds what a credential may name.

    `era` settles what is otherwise found out: some dual-era servers have tools that only work in one.
    `pins`: `sha256/BASE64` digests of public keys or certificates, one of which the server must show on top.
    Raises ConfigFault for a URL that is not https (or http on loopback), or a TLS context that does not verify.
    """

    def __init__(
        self,
        name: str,
        url: str,
        *,
        headers_allowed: frozenset[str] | None = None,
        describe_headers: tuple[tuple[str, str], ...] = (),
        timeout: float = 30.0,
        longest: float = 600.0,
        tls: ssl.SSLContext | None = None,
        size: int = 64,
        era: Era | None = None,
        pins: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.oddities: Counter[str] = Counter()
        self._deadlines = Deadlines()
        self.on_change: Callable[[str], None] | None = None
        self._timeout, self._longest = timeout, longest
        self._allowed, self._describe_headers = headers_allowed, describe_headers
        self.headers = frozenset((header.lower(), value) for header, value in describe_headers)
        self.own_credential: Callable[[], Awaitable[UpstreamCredential]] | None = None  # None: `describe_headers`
        self._url, self._target = url, target(name, url, tls, pins)
        self._changed = Debounce(self._report)
        self._era = era
        self._exchange = Exchange(name, self._target, self.oddities, self._changed.poke, size)
        self._exchanges = WeakSet([self._exchange])  # and those of conversations of our own
        self._severed = False
        self._sessions = Sessions(self._open, self._farewell)
        self._revision = ""
        self._probing: asyncio.Task[None] | None = None
        self._reading = asyncio.Lock()
        self._not_before = 0.0  # the loop's time before which the stream of changes is not opened again
        self._background: set[asyncio.Task[None]] = set()
        self._rendered: tuple[tuple[tuple[str, str], ...], bytes] = ((), b"")

    @property
    def revision(self) -> str:
        """The revision in use; "" until the server was first spoken to."""
        return self._revision

    async def forward(
        self, permit: Permit, conversation: Conversation, extra_headers: tuple[tuple[str, str], ...] = ()
    ) -> dict[str, Any]:
        """Send what was permitted and read the result object.

        `extra_headers` are Mcp-Param-* with values already encoded; only a 2026-07-28 server gets them. Raises
        UpstreamError for a JSON-RPC error and UpstreamFault for anything else that goes wrong. Never sent twice, except
        after a 404 for an ended handshake session, which says that nothing was executed (2025-11-25 transports).
        """
        call = eras.outgoing(permit)
        stated = permit.find(UpstreamCredential)
        credential = self._credential(stated)
        account = stated.account.encode() if stated is not None else b""
        caller, session = permit.find(Caller), permit.find(Session)
        if caller is None:
            raise InvariantFault("forward without a caller")
        clock = Clock(self._timeout, self._longest, self._deadlines)
        talk = Talk(self.name, conversation, clock, self.oddities, call.client_token)
        try:
            with clock:
                if not self._revision:
                    await self._settle(credential)
                if self._revision == eras.MODERN:
                    return await self._modern(
                        call, talk, credential + param_lines(extra_headers) if extra_headers else credential
                    )
                key = (caller.key, session.id if session is not None else "", talk.words)
                return await self._handshake(call, talk, key, credential, account)
        except TimeoutError:
            raise UpstreamFault(self.name, "did not answer in time", timeout=True) from None

    async def describe(self, face: Face = OWN) -> Announcement:
        """Read everything the server announces to `face`, on a connection and session of our own.

        Raises UpstreamFault.
        """
        try:
            async with self._reading, asyncio.timeout(SECONDS):
                reading = await self._conversation(face)
                try:
                    await reading.greet()
                    announcement = await reading.announcement()
                finally:
                    await self._part(reading)
        except TimeoutError:
            raise UpstreamFault(self.name, "did not describe itself in time", timeout=True) from None
        except UpstreamError as error:
            raise UpstreamFault(self.name, f"answered our own request with error {error.code}") from error
        if face is OWN:
            self._revision = announcement.revision
        return announcement

    async def listen(self, opened: Callable[[], None]) -> None:
        """Hear of changes (`on_change`) until the server ends the stream; `opened` is called once it agreed to tell.

        Raises Unheard where it offers no such stream, UpstreamFault when it breaks.
        """
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._not_before - loop.time())  # the server's `retry` (2025-11-25 transports)
        reading = await self._conversation(OWN)
        try:
            async with asyncio.timeout(SECONDS):
                await reading.greet()
            try:
                await reading.listen(opened)
            finally:
                self._not_before = loop.time() + reading.retry
        except TimeoutError:
            raise UpstreamFault(self.name, "did not greet in time", timeout=True) from None
        except UpstreamError as error:
            raise UpstreamFault(self.name, f"answered our own request with error {error.code}") from error
        finally:
            await self._part(reading)

    async def _conversation(self, face: Face) -> Reading:
        target = self._target if face is OWN else self._target.as_agent(face.agent)
        credential = UpstreamCredential(self._describe_headers)
        if self.own_credential is not None:
            try:
                async with asyncio.timeout(SECONDS):
                    credential = await self.own_credential()
            except (DependencyFault, TimeoutError) as fault:
                raise UpstreamFault(self.name, f"no credential to read it with: {fault}") from None
        exchange = Exchange(self.name, target, self.oddities, self._changed.poke, 2)
        exchange.sever(self._severed)
        self._exchanges.add(exchange)
        return Reading(exchange, self._url, self._credential(credential), self._era, face)

    async def _part(self, reading: Reading) -> None:
        try:
            await reading.bye()
        except (UpstreamFault, TimeoutError):
            self.oddities["farewell failed"] += 1
        finally:
            await reading.exchange.close()

    def sever(self, severed: bool) -> None:
        """Cut it off: every connection ends and none is made; or no longer."""
        self._severed = severed
        for exchange in list(self._exchanges):
            exchange.sever(severed)

    async def end_session(self, session_id: str) -> None:
        """One of our sessions is over: so are the server's sessions that belonged to it."""
        self._sessions.end(session_id)

    async def close(self) -> None:
        """End the server's sessions (best effort, two seconds), then close every connection."""
        self._changed.stop()
        self._sessions.end_all()
        if self._background:
            await asyncio.wait(list(self._background), timeout=_FAREWELL)
        for task in list(self._background):
            task.cancel()
        await self._exchange.close()

    async def _modern(self, call: eras.Outgoing, talk: Talk, headers: bytes) -> dict[str, Any]:
        """Stateless: each turn is a whole request. An input_required result is played out for handshake clients."""
        exchange = self._exchange
        for turn in range(ROUNDS):
            talk.number = number = exchange.next()
            body = eras.request(number, call, talk.words, modern=True)
            head = exchange.head(call.method, call.mirrored, eras.MODERN, None, headers, len(body))
            try:
                result, _ = await exchange.ask(head + body, number, talk, None)
            except UpstreamError as error:
                if error.code == eras.UNSUPPORTED_REVISION:
                    self._revision = ""  # the server was replaced by an older one: look again for the next call
                raise
            if eras.complete(self.name, call, result, modern=True) or talk.keeps_state:
                return result
            call = call._replace(request_state=result.get("requestState"), input_responses=await talk.answers(result))
            if not call.input_responses:
                await asyncio.sleep(min(0.05 * 2**turn, 0.25))
        raise UpstreamFault(self.name, f"still asked for input after {ROUNDS} rounds")

    async def _handshake(
        self, call: eras.Outgoing, talk: Talk, key: Key, credential: bytes, account: bytes
    ) -> dict[str, Any]:
        session = await self._sessions.get(key, credential, account)
        try:
            return await self._in_session(call, talk, key, session, credential)
        except Rejected as rejected:
            if rejected.status != 404 or session.id is None:
                raise
        self._changed.poke()  # the server was restarted, perhaps with other definitions: read it again
        session = await self._sessions.get(key, credential, account)
        return await self._in_session(call, talk, key, session, credential)

    async def _in_session(
        self, call: eras.Outgoing, talk: Talk, key: Key, session: Handshake, credential: bytes
    ) -> dict[str, Any]:
        exchange = self._exchange
        talk.number = number = exchange.next()
        body = eras.request(number, call, talk.words, modern=False)
        head = exchange.head(call.method, "", session.revision, session.id, credential, len(body))
        session.busy += 1
        try:
            result, _ = await exchange.ask(head + body, number, talk, session)
        except asyncio.CancelledError:  # also how our timeout arrives; a disconnect alone does not cancel in this era
            gone = {"requestId": number, "reason": "cancelled"}
            self._later(exchange.tell(session, eras.plain(None, "notifications/cancelled", gone)))
            raise
        except Rejected as rejected:
            if rejected.status == 404 or (rejected.status == 400 and session.id is None):
                self._sessions.forget(key, session)
            raise
        finally:
            self._sessions.idle(session)
        eras.complete(self.name, call, result, modern=False)
        return result

    async def _open(self, words: frozenset[str], credential: bytes) -> Handshake:
        """A new session for `Sessions`. Bounded by our own timeout: it may outlive the call that needed it first."""
        try:
            async with asyncio.timeout(self._timeout):
                session, _ = await self._exchange.initialize(words, credential)
                self._revision = session.revision
                return session
        except TimeoutError:
            raise UpstreamFault(self.name, "did not answer initialize in time", timeout=True) from None
        except UpstreamError as error:
            if error.code == eras.UNSUPPORTED_REVISION:
                self._revision = ""
            raise UpstreamFault(self.name, f"answered initialize with error {error.code}") from error

    def _farewell(self, session: Handshake) -> None:
        """DELETE an ended session, in the background (2025-11-25 transports, session management)."""
        if session.id is not None:
            self._later(self._exchange.tell(session, b"", verb=b"DELETE"))

    def _credential(self, credential: UpstreamCredential | None) -> bytes:
        if credential is None:
            raise InvariantFault("forward without a stated upstream credential")
        if credential.place and credential.place != self._url:
            raise UpstreamFault(self.name, "was configured anew while this call was under way")
        pairs, rendered = self._rendered
        if credential.headers != pairs:
            rendered = header_lines(credential.headers, self._allowed)
            self._rendered = (credential.headers, rendered)
        return rendered

    async def _settle(self, credential: bytes) -> None:
        """Find the era once, for all calls that wait for it."""
        if self._probing is None:
            self._probing = asyncio.ensure_future(self._probe(credential))
            self._probing.add_done_callback(self._probed)
        await asyncio.shield(self._probing)

    def _probed(self, task: asyncio.Task[None]) -> None:
        self._probing = None
        if not task.cancelled():
            task.exception()  # each waiter got it already; this marks it as seen

    async def _probe(self, credential: bytes) -> None:
        hello = await self._discover(self._exchange, credential)
        self._revision = eras.MODERN if hello is not None else eras.HANDSHAKE
        self._changed.poke()  # spoken to before it was read, or replaced since

    async def _discover(self, exchange: Exchange, credential: bytes) -> dict[str, Any] | None:
        """The discover result, or None for a handshake-era server. Raises UpstreamFault."""
        hello = await exchange.discover(credential) if self._era is not Era.HANDSHAKE else None
        if hello is None and self._era is Era.MODERN:
            raise UpstreamFault(self.name, f"does not speak {eras.MODERN}")
        return hello

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        """Best effort, bounded in number and time."""
        if len(self._background) >= _BACKGROUND:
            work.close()
            self.oddities["farewell skipped"] += 1
            return
        task = asyncio.ensure_future(self._bounded(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _bounded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout(_FAREWELL):
                await work
        except (UpstreamFault, TimeoutError):
            self.oddities["farewell failed"] += 1

    def _report(self) -> None:
        if self.on_change is not None:
            self.on_change(self.name)
