"""Standard input and output as a client-facing transport: one local client, one JSON-RPC message a line.

The caller is the operating-system user (A14); guards, rules and the log are the same as over HTTP. In the handshake
era the one session of this process is implied.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from typing import Any, Final

from limen.core.call import Call, Era, Peer, Presented
from limen.core.verdict import Refusal, Refuse
from limen.gateway.app import Gateway
from limen.posture import ADMIT
from limen.protocol.inbound import Draft, Endpoint, admit
from limen.protocol.outbound import Reply, refusal_reply

LINE: Final = 8 << 20
_AT_ONCE: Final = 64


class StdioSurface:
    """Reads lines until end of file; answers go out whole, one at a time."""

    def __init__(self, gateway: Gateway, endpoint: Endpoint, user: str) -> None:
        self._gateway, self._endpoint = gateway, endpoint
        self._presented = Presented(resource=endpoint.resource, local_user=user)
        self._session: str | None = None
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._modern: dict[str, asyncio.Task[None]] = {}
        self._lock = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        """Serve until the client closes its end; calls in flight are finished first."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(LINE)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(0), "rb"))
        transport, protocol = await loop.connect_write_pipe(
            asyncio.streams.FlowControlMixin, os.fdopen(os.dup(1), "wb")
        )
        self._writer = asyncio.StreamWriter(transport, protocol, None, loop)
        sys.stdout = sys.stderr  # nothing but messages may reach the client
        while line := await self._line(reader):
            if line.strip():
                await self._received(line)
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _line(self, reader: asyncio.StreamReader) -> bytes:
        try:
            return await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as rest:
            return rest.partial
        except asyncio.LimitOverrunError:
            return b""  # a line that never ends ends the conversation

    async def _received(self, line: bytes) -> None:
        draft = Draft(line, {}, self._endpoint, Peer("stdio"), http=False)
        call = admit(draft, ADMIT)
        if isinstance(call, Refuse):
            reference = self._gateway.engine.admission_refused(call.reason, call.detail, self._endpoint.server, "stdio")
            refusal = Refusal(call.reason, reference, "admit", call.detail, call.public)
            await self.event(refusal_reply(refusal, draft.id, draft.era).body)
            return
        if call.era is Era.HANDSHAKE:
            call = replace(call, session=self._session)
        elif call.method == "notifications/cancelled":
            target = call.read_rest().get("requestId")
            if (running := self._modern.get(f"{type(target).__name__}:{target}")) is not None:
                running.cancel()
        if call.method == "initialize":
            await self._answer(call)
            return
        while len(self._tasks) >= _AT_ONCE:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.create_task(self._answer(call))
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        if call.era is Era.MODERN and call.id is not None:
            key = f"{type(call.id).__name__}:{call.id}"
            self._modern[key] = task
            task.add_done_callback(lambda _: self._modern.pop(key, None))

    async def _answer(self, call: Call) -> None:
        if call.method == "subscriptions/listen":
            answer: Any = await self._gateway.listen(call, self._presented, self)
        else:
            answer = await self._gateway.handle(call, self._presented, self)
        reply = refusal_reply(answer, call.id, call.era) if isinstance(answer, Refusal) else answer
        assert isinstance(reply, Reply)
        for name, value in reply.headers:
            if name == b"mcp-session-id":
                self._session = value.decode()
        if reply.body and call.id is not None:
            await self.event(reply.body)

    @property
    def streaming(self) -> bool:
        """Always: every message is a line of its own."""
        return True

    async def event(self, message: bytes, id: str = "") -> None:
        """One message, one line. JSON from us never holds a raw newline."""
        assert self._writer is not None
        if not message:
            return
        async with self._lock:
            self._writer.write(message + b"\n")
            await self._writer.drain()
