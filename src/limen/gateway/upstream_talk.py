"""What an upstream may say while one call runs, besides its answer. Everything not named here goes no further."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final

from limen.core.call import Era
from limen.core.conversation import Conversation
from limen.core.faults import UpstreamFault
from limen.gateway import eras
from limen.gateway.deadlines import Deadlines
from limen.protocol.jsonrpc import render

NOTES_LIMIT: Final = 200
REQUESTS_LIMIT: Final = 32  # server-to-client requests per call, pings included
_LEVELS: Final = frozenset({"debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"})


class Clock:
    """A call's time. `limit` seconds of the server's own, `longest` seconds in all, whatever arrives meanwhile.

    A context manager like `asyncio.timeout`, at a fraction of its cost. Raises TimeoutError.
    """

    __slots__ = ("_cancelling", "_deadlines", "_expired", "_hard", "_loop", "_task", "until")

    def __init__(self, limit: float, longest: float, deadlines: Deadlines | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._hard = now + max(limit, longest)
        self.until = now + limit
        self._deadlines = deadlines
        self._task: asyncio.Task[Any] | None = None
        self._expired = False
        self._cancelling = 0

    def __enter__(self) -> Clock:
        self._task = task = asyncio.current_task(self._loop)
        self._cancelling = task.cancelling() if task is not None else 0
        if self._deadlines is None:
            self._deadlines = Deadlines()
        self._deadlines.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._deadlines is not None:
            self._deadlines.discard(self)
        if self._expired and task is not None:
            alone = task.uncancel() <= self._cancelling  # else somebody else cancelled the call as well
            if alone and kind is asyncio.CancelledError:
                raise TimeoutError from error

    def expire(self) -> None:
        """The time is over: the call ends with TimeoutError."""
        if self._task is not None:
            self._expired = True
            self._task.cancel()

    def pause(self) -> float:
        """A person is being asked: that time is not the server's. Returns what it had left."""
        left = self.until - self._loop.time()
        self.until = self._hard
        return left

    def resume(self, left: float) -> None:
        """The server's time runs again."""
        self.until = min(self._hard, self._loop.time() + max(left, 0.0))


class Talk:
    """The dialogue that belongs to one forwarded request. Without a conversation everything is refused."""

    __slots__ = ("_asked", "_clock", "_notes", "_oddities", "client_token", "conversation", "number", "server", "words")

    def __init__(
        self,
        server: str,
        conversation: Conversation | None,
        clock: Clock,
        oddities: Counter[str],
        client_token: str | int | None = None,
    ) -> None:
        self.server, self.conversation, self.client_token = server, conversation, client_token
        self.words = eras.offered(conversation.capabilities) if conversation is not None else frozenset[str]()
        self.number = 0  # id and progress token of the request in flight
        self._clock, self._oddities = clock, oddities
        self._notes = self._asked = 0

    def note(self, message: Mapping[str, Any]) -> None:
        """A notification on this call's stream. Only its own progress and log messages reach the client."""
        method, params = message.get("method"), message.get("params")
        if self.conversation is None or type(params) is not dict:
            return
        if method == "notifications/progress":
            rebuilt = self._progress(params)
        elif method == "notifications/message":
            rebuilt = _log(params)
        else:
            rebuilt = None
        if rebuilt is None:
            self._oddities["notification dropped"] += 1
        elif self._notes >= NOTES_LIMIT:
            self._oddities["notification over the limit"] += 1
        else:
            self._notes += 1
            self.conversation.notify(str(method), rebuilt)

    def _progress(self, params: Mapping[str, Any]) -> dict[str, Any] | None:
        token = params.get("progressToken")
        if self.client_token is None or type(token) is not int or token != self.number:
            return None
        rebuilt: dict[str, Any] = {"progressToken": self.client_token}
        for name in ("progress", "total"):
            if type(params.get(name)) in (int, float):
                rebuilt[name] = params[name]
        if isinstance(params.get("message"), str):
            rebuilt["message"] = params["message"]
        return rebuilt if "progress" in rebuilt else None

    async def reply(self, message: Mapping[str, Any]) -> dict[str, Any] | None:
        """The JSON-RPC response to a server's request, or None where it gets none (malformed, or too many)."""
        identity = message.get("id")
        if type(identity) not in (int, str) or len(str(identity)) > 256:
            self._oddities["request with an unusable id"] += 1
            return None
        self._asked += 1
        if self._asked > REQUESTS_LIMIT:
            self._oddities["request over the limit"] += 1
            return None
        method = message.get("method")
        if method == "ping":
            return {"jsonrpc": "2.0", "id": identity, "result": {}}
        params = message.get("params", {})
        word = eras.wanted(str(method), params) if type(params) is dict else ""
        if self.conversation is None or word not in self.words:
            self._oddities["request refused"] += 1
            return refusal(identity, eras.METHOD_NOT_FOUND, "Method not found")
        try:
            result = (await self.ask({"input": {"method": str(method), "params": params}})).get("input")
        except UpstreamFault:
            return refusal(identity, -32603, "The client did not answer")
        if not isinstance(result, Mapping):
            return refusal(identity, -32603, "The client did not answer")
        return {"jsonrpc": "2.0", "id": identity, "result": dict(result)}

    async def ask(self, requests: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        """Ask the client, off the server's clock. Raises UpstreamFault."""
        if self.conversation is None:
            raise UpstreamFault(self.server, "asked for input where nobody can be asked")
        left = self._clock.pause()
        try:
            return await self.conversation.ask(requests)
        finally:
            self._clock.resume(left)

    @property
    def keeps_state(self) -> bool:
        """The client plays rounds of input itself: it gets the server's input_required result."""
        return self.conversation is not None and self.conversation.era is Era.MODERN

    async def answers(self, result: Mapping[str, Any]) -> bytes:
        """Ask the client what an input_required result asks for: canonical inputResponses, b"" if it asks nothing."""
        requests = self.requests(result)
        if not requests:
            return b""
        given = await self.ask(requests)
        return render({key: given[key] for key in requests if key in given})

    def requests(self, result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The input requests of an input_required result, rebuilt. Raises UpstreamFault when the client never
        declared what one of them needs (2026-07-28 patterns/mrtr)."""
        found = result.get("inputRequests") or {}
        if type(found) is not dict or len(found) > 16:
            raise UpstreamFault(self.server, "asked for input in a shape that is not allowed")
        kept: dict[str, dict[str, Any]] = {}
        for key, request in found.items():
            params = request.get("params", {}) if type(request) is dict else None
            if type(params) is not dict or len(key) > 256:
                raise UpstreamFault(self.server, "asked for input in a shape that is not allowed")
            method = str(request.get("method"))
            if eras.wanted(method, params) not in self.words:
                raise UpstreamFault(self.server, f"asked for {method[:60]!r}, which the client did not offer")
            kept[key] = {"method": method, "params": params}
        return kept


def refusal(identity: object, code: int, text: str) -> dict[str, Any]:
    """A JSON-RPC error for a server's request."""
    return {"jsonrpc": "2.0", "id": identity, "error": {"code": code, "message": text}}


def _log(params: Mapping[str, Any]) -> dict[str, Any] | None:
    if params.get("level") not in _LEVELS or "data" not in params:
        return None
    rebuilt = {"level": params["level"], "data": params["data"]}
    if isinstance(params.get("logger"), str):
        rebuilt["logger"] = params["logger"]
    return rebuilt


class Debounce:
    """Calls back at once, then at most once per interval, however often it is poked; the last poke is never lost."""

    def __init__(self, call: Callable[[], None], interval: float = 1.0) -> None:
        self._call, self._interval = call, interval
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0.0

    def poke(self) -> None:
        """Something changed. Must run inside the event loop."""
        if self._timer is not None:
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(max(loop.time(), self._next), self._fire)

    def stop(self) -> None:
        """Forget what is pending."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        self._next = asyncio.get_running_loop().time() + self._interval
        self._call()
