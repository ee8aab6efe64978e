"""One call's conversation with its client, whatever the transport: answer at once, stream, or ask back.

Nothing here decides who may do what; it turns the engine's answers into messages of the client's era.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from limen.catalog.asks import judge_requests
from limen.catalog.blocks import Rebuild
from limen.core.call import Call, Caller, Era
from limen.core.faults import UpstreamFault
from limen.core.verdict import Permit, Refusal
from limen.posture import FROM_SERVER
from limen.protocol.jsonrpc import render

QUEUE = 256
LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")


class Outlet(Protocol):
    """Where messages for one request go. An HTTP response or a line on standard output."""

    async def event(self, message: bytes, id: str = "") -> None:
        """One message ahead of the answer; `id` lets a client resume behind it. Raises ConnectionResetError when the
        client is gone."""
        ...

    @property
    def streaming(self) -> bool:
        """Whether an event has gone out, so that the answer must be the stream's last event."""
        ...


Questions = Mapping[str, Mapping[str, Any]]


def judged(requests: Questions) -> dict[str, dict[str, Any]]:
    """A server's questions as a client may see them, built anew. Raises ValueError when one is not allowed."""
    return judge_requests({key: dict(request) for key, request in requests.items()}, Rebuild())


def shown(method: str, params: Mapping[str, Any], level: str | None) -> dict[str, Any] | None:
    """A server's notification as a client may see it, built anew, or None. Log messages only where asked for."""
    if method not in FROM_SERVER:
        return None
    if method == "notifications/message":
        given = params.get("level")
        if level not in LEVELS or given not in LEVELS or LEVELS.index(given) < LEVELS.index(level):
            return None
    return dict(Rebuild().json(dict(params)))


@dataclass(slots=True)
class Waiting:
    """Questions of ours that a client has not answered yet, by (session, id)."""

    answers: dict[tuple[str, str], asyncio.Future[dict[str, Any]]]

    def resolve(self, session: str, message: Mapping[str, Any]) -> bool:
        """Deliver a client's response. False when nobody waits for it (or it is another session's)."""
        future = self.answers.get((session, str(message.get("id"))))
        if future is None or future.done():
            return False
        future.set_result(dict(message))
        return True


class Exchange:
    """`Conversation` for one forwarded call. Progress and log messages are queued; a slow client loses them first."""

    __slots__ = ("_level", "_pump", "_queue", "_session", "_waiting", "call", "capabilities", "outlet", "suspend")

    def __init__(
        self,
        call: Call,
        capabilities: Mapping[str, Any],
        outlet: Outlet,
        waiting: Waiting,
        level: str | None,
        session: str = "",
    ) -> None:
        self.call, self.outlet, self._session = call, outlet, session
        self._waiting, self._level = waiting, level
        self._queue: asyncio.Queue[bytes | None] | None = None  # made when there is something to say
        self._pump: asyncio.Task[None] | None = None
        self.capabilities = usable(capabilities)
        self.suspend: Callable[[Mapping[str, Mapping[str, Any]]], Awaitable[Mapping[str, Any]]] | None = None

    @property
    def era(self) -> Era:
        """The client's era."""
        return self.call.era

    def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Queue a notification of this call for the client; dropped when it is not one a server may send."""
        if (built := shown(method, params, self._level)) is None:
            return
        with contextlib.suppress(asyncio.QueueFull):
            self._start().put_nowait(render({"jsonrpc": "2.0", "method": method, "params": built}))

    async def ask(self, requests: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        """Put a server's questions to the client. Raises UpstreamFault when one is not allowed or not answered."""
        try:
            requests = judged(requests)
        except ValueError as error:
            raise UpstreamFault(self.call.server, f"asked the client for something not allowed: {error}") from None
        if self.era is Era.MODERN:
            if self.suspend is None:
                raise UpstreamFault(self.call.server, "asked the client where it cannot be asked")
            return await self.suspend(requests)
        return {key: await self._ask_one(request) for key, request in requests.items()}

    async def _ask_one(self, request: Mapping[str, Any]) -> dict[str, Any]:
        identifier, session = secrets.token_urlsafe(16), self._session
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting.answers[session, identifier] = future
        try:
            await self._start().put(render({"jsonrpc": "2.0", "id": identifier, **request}))
            answer = await future
        finally:
            del self._waiting.answers[session, identifier]
        if not isinstance(answer.get("result"), dict):
            raise UpstreamFault(self.call.server, "the client refused to answer")
        return dict(answer["result"])

    def _start(self) -> asyncio.Queue[bytes | None]:
        if self._queue is None:
            self._queue = asyncio.Queue(QUEUE)
            self._pump = asyncio.create_task(self._run(self._queue))
        return self._queue

    async def _run(self, queue: asyncio.Queue[bytes | None]) -> None:
        with contextlib.suppress(ConnectionResetError):
            while (message := await queue.get()) is not None:
                await self.outlet.event(message)
        while not queue.empty():
            queue.get_nowait()

    @property
    def speaks(self) -> bool:
        """Whether there was something to say, so that `close` has something to wait for."""
        return self._queue is not None

    async def close(self) -> None:
        """Everything queued has gone out, or the client is gone."""
        if self._queue is None or self._pump is None:
            return
        if not self._pump.done():
            await self._queue.put(None)
        await self._pump


def usable(declared: Mapping[str, Any]) -> dict[str, Any]:
    """What a client declared, reduced to what servers may use through us: elicitation by form."""
    elicitation = declared.get("elicitation")
    if elicitation is None:
        return {}
    if not isinstance(elicitation, Mapping) or (elicitation and "form" not in elicitation):
        return {}
    return {"elicitation": {"form": {}}}


@dataclass(slots=True)
class Suspended:
    """A call to a handshake-era server that waits for a 2026-07-28 client to come back with input."""

    permit: Permit
    task: asyncio.Task[bytes | Refusal]
    asked: asyncio.Future[Mapping[str, Mapping[str, Any]]]
    answer: asyncio.Future[Mapping[str, Any]] | None = None
    timer: asyncio.TimerHandle | None = None


class Suspensions:
    """Bounded table of suspended calls. Each is its owner's alone and is cancelled when nobody comes back."""

    def __init__(self, limit: int = 256, patience: float = 300.0) -> None:
        self._table: dict[str, Suspended] = {}
        self._limit, self._patience = limit, patience

    def start(self, exchange: Exchange, permit: Permit, run: Coroutine[Any, Any, bytes | Refusal]) -> Suspended:
        """Run a call so that it can outlive the request that began it."""
        loop = asyncio.get_running_loop()
        entry = Suspended(permit, asyncio.create_task(run), loop.create_future())

        async def suspend(requests: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
            entry.answer = loop.create_future()
            entry.asked.set_result(requests)
            return await entry.answer

        exchange.suspend = suspend
        return entry

    def keep(self, entry: Suspended) -> str:
        """Park it. Returns its id: 128 bits from the CSPRNG."""
        if len(self._table) >= self._limit:
            self._drop(next(iter(self._table)))
        identifier = secrets.token_urlsafe(16)
        self._table[identifier] = entry
        entry.timer = asyncio.get_running_loop().call_later(self._patience, self._drop, identifier)
        return identifier

    def take(self, identifier: str, owner: Caller) -> Suspended | None:
        """Un-park it, once, for its owner."""
        entry = self._table.get(identifier)
        if entry is None or entry.permit.get(Caller).key != owner.key:
            return None
        del self._table[identifier]
        if entry.timer is not None:
            entry.timer.cancel()
        return entry

    def answer(self, entry: Suspended, responses: Mapping[str, Any]) -> None:
        """Hand the client's input to the waiting call."""
        entry.asked = asyncio.get_running_loop().create_future()
        if entry.answer is not None and not entry.answer.done():
            entry.answer.set_result(responses)

    def _drop(self, identifier: str) -> None:
        entry = self._table.pop(identifier, None)
        if entry is not None:
            entry.task.cancel()

    def end(self, unwelcome: Callable[[Permit], object]) -> int:
        """Cancel those parked for which this is true. How many there were."""
        found = [identifier for identifier, entry in self._table.items() if unwelcome(entry.permit)]
        for identifier in found:
            self._drop(identifier)
        return len(found)

    def close(self) -> None:
        """Cancel whatever still waits."""
        for identifier in list(self._table):
            self._drop(identifier)
