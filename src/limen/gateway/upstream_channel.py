"""JSON-RPC with one child process: numbers our requests, matches answers, and hears the rest within bounds."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from limen.core.faults import UpstreamError, UpstreamFault
from limen.gateway import eras
from limen.gateway.upstream_process import Child
from limen.gateway.upstream_talk import Clock, Talk, refusal
from limen.protocol.jsonrpc import RESULT_LIMITS, NotJson, parse, render

JUNK_LIMIT: Final = 100
_REPLIES_PER_SECOND: Final = 100
_REPLY_BUFFER: Final = 64 << 10
_ASKING: Final = 32


class Channel:
    """Belongs to one run of the process. `ended` is called once when that run is over."""

    def __init__(
        self, server: str, oddities: Counter[str], changed: Callable[[], None], ended: Callable[[Channel], None]
    ) -> None:
        self.server, self.oddities = server, oddities
        self.child = Child(server, self._line, self._gone)
        self.modern = False
        self.ready = False
        self.since = self._used = asyncio.get_running_loop().time()
        self.hello: dict[str, Any] = {}
        self._changed, self._ended = changed, ended
        self._waiting: dict[int, tuple[asyncio.Future[tuple[dict[str, Any], int]], Talk]] = {}
        self._asking: dict[asyncio.Task[None], int] = {}
        self._subscription = 0  # number of our own `subscriptions/listen`, which is no call
        self._number = self._junk = self._replies = 0
        self._second = 0.0
        self._opened: Callable[[], None] = lambda: None

    @property
    def usable(self) -> bool:
        """Greeted, and still running."""
        return self.ready and not self.child.reason

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def idle(self) -> float:
        """Seconds since the last call ended; 0 while there is one. Our own subscription is none."""
        if len(self._waiting) > (self._subscription != 0):
            return 0.0
        return asyncio.get_running_loop().time() - self._used

    def next(self) -> int:
        """A request number of our own."""
        self._number += 1
        return self._number

    async def request(self, number: int, line: bytes, talk: Talk, *, cancellable: bool = True) -> tuple[Any, int]:
        """Write one request and wait for its answer: the result and its size. Raises UpstreamError, UpstreamFault.

        When the waiting ends early the server is told (2025-11-25 and 2026-07-28 cancellation), as far as it reads.
        """
        future: asyncio.Future[tuple[dict[str, Any], int]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (future, talk)
        talk.number = number
        try:
            await self.child.write(line)
            return await future
        except asyncio.CancelledError:
            if cancellable:
                self._say(eras.plain(None, "notifications/cancelled", {"requestId": number, "reason": "cancelled"}))
            raise
        finally:
            del self._waiting[number]
            self._used = asyncio.get_running_loop().time()
            if future.done() and not future.cancelled():
                future.exception()  # marks it as seen where the write failed first
            for task in [task for task, asked in self._asking.items() if asked == number]:
                task.cancel()

    async def ask(self, method: str, params: dict[str, Any], *, cancellable: bool = True) -> tuple[Any, int]:
        """A request of our own, in which the server gets nothing but refusals."""
        number = self.next()
        talk = Talk(self.server, None, Clock(0.0, 0.0), self.oddities)
        return await self.request(number, eras.plain(number, method, params), talk, cancellable=cancellable)

    async def listen(self, params: dict[str, Any], opened: Callable[[], None]) -> None:
        """Ask to be told of changes, until the server ends it (2026-07-28 patterns/subscriptions); `opened` is called
        when it has agreed to. Raises UpstreamError, UpstreamFault."""
        number = self._subscription = self.next()
        self._opened = opened
        talk = Talk(self.server, None, Clock(0.0, 0.0), self.oddities)
        try:
            await self.request(number, eras.plain(number, "subscriptions/listen", params), talk)
        finally:
            self._subscription = 0

    def notify(self, method: str) -> None:
        """A notification of our own. Raises UpstreamFault."""
        self.child.offer(eras.plain(None, method))

    def _gone(self, reason: str) -> None:
        for future, _ in self._waiting.values():
            if not future.done():
                future.set_exception(UpstreamFault(self.server, reason))
        self._ended(self)

    def _line(self, data: bytes) -> None:
        if not data.strip():
            return
        try:
            message = parse(data, RESULT_LIMITS, fold_names=False)
        except NotJson:
            message = None
        if type(message) is not dict:  # batches are among these: none of the revisions we speak over stdio has them
            self.oddities["line that is not one JSON object"] += 1
            self._junk += 1
            if self._junk > JUNK_LIMIT:
                self.child.kill(f"wrote more than {JUNK_LIMIT} lines that are not JSON-RPC")
        elif "method" not in message:
            self._answer(message, len(data))
        elif "id" in message:
            self._request(message)
        else:
            self._notification(message)

    def _answer(self, message: dict[str, Any], size: int) -> None:
        number = message.get("id")
        waiting = self._waiting.get(number) if type(number) is int else None
        if waiting is None or waiting[0].done():
            self.oddities["response nobody waits for"] += 1
            return
        future = waiting[0]
        try:
            future.set_result((eras.answer(self.server, message, message["id"]), size))
        except (UpstreamError, UpstreamFault) as fault:
            future.set_exception(fault)

    def _only_talk(self) -> Talk | None:
        """Over stdio nothing says which call a message belongs to: it is known only while there is just one."""
        talks = [talk for number, (_, talk) in self._waiting.items() if number != self._subscription]
        return talks[0] if len(talks) == 1 else None

    def _notification(self, message: dict[str, Any]) -> None:
        method, params = str(message["method"]), message.get("params")
        if method.endswith("/list_changed"):
            self._changed()
            return
        if method == "notifications/subscriptions/acknowledged" and self._subscription:
            self._opened()
            return
        talk = None
        if method == "notifications/progress" and type(params) is dict:
            token = params.get("progressToken")
            if type(token) is int and token in self._waiting:
                talk = self._waiting[token][1]
        elif method == "notifications/message":
            talk = self._only_talk()
        if talk is None:
            self.oddities["notification dropped"] += 1
        else:
            talk.note(message)

    def _request(self, message: dict[str, Any]) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._second >= 1.0:
            self._second, self._replies = now, 0
        self._replies += 1
        if self.modern or self._replies > _REPLIES_PER_SECOND:  # 2026-07-28 servers do not send requests
            self.oddities["request dropped"] += 1
            return
        identity = message.get("id")
        talk = self._only_talk()
        if type(identity) not in (int, str) or len(str(identity)) > 256:
            self.oddities["request with an unusable id"] += 1
        elif message["method"] == "ping":
            self._say(render({"jsonrpc": "2.0", "id": identity, "result": {}}))
        elif talk is None or len(self._asking) >= _ASKING:
            self.oddities["request refused"] += 1
            self._say(render(refusal(identity, -32603, "Cannot be matched to a call")))
        else:
            task = asyncio.ensure_future(self._converse(message, talk))
            self._asking[task] = talk.number
            task.add_done_callback(self._asking.pop)

    async def _converse(self, message: dict[str, Any], talk: Talk) -> None:
        response = await talk.reply(message)
        if response is not None:
            self._say(render(response))

    def _say(self, line: bytes) -> None:
        """Something the server may miss: never waited for."""
        try:
            self.child.offer(line, _REPLY_BUFFER)
        except UpstreamFault:
            self.oddities["reply not read"] += 1
