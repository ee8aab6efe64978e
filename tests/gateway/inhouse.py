"""A house in this process, with one server behind it that answers what it is told to, and its log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson

from limen.assemble import House
from limen.audit.events import read_event
from limen.audit.read import read
from limen.config.load import load_config
from limen.core.announce import Announcement
from limen.core.call import Call, Context, Era, Peer, Presented
from limen.core.events import Event
from limen.core.faults import UpstreamFault
from limen.core.verdict import Permit, Refusal
from limen.gateway.upstreams import Upstreams

TOOLS = (
    {"name": "echo", "description": "Echoes.", "inputSchema": {"type": "object"}},
    {"name": "send", "description": "Sends.", "inputSchema": {"type": "object"}},
)
RULES = "policy: {rules: [{allow: anyone, call: up/echo}, {allow: anyone, call: up/send, require: [approval]}]}\n"
ANN = Presented(local_user="ann", private=True)


class Silent:
    """A client that is told nothing and asked nothing."""

    era, capabilities = Era.MODERN, MappingProxyType({})

    def notify(self, method: str, params: Any) -> None:
        """Nobody listens."""

    async def ask(self, requests: Any) -> Any:
        """Nobody answers."""
        raise UpstreamFault("up", "nobody is there")


class Behind(Upstreams):
    """Answers with `answer`, or raises it."""

    answer: Any = MappingProxyType({"content": [{"type": "text", "text": "hello"}]})

    async def forward(self, permit: Permit, conversation: Any, extra_headers: Any = ()) -> dict[str, Any]:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return orjson.loads(orjson.dumps(dict(self.answer)))  # type: ignore[no-any-return]


class Inhouse:
    """One house. `call` walks a call through it as the gateway does."""

    def __init__(self, directory: Path, more: str = "") -> None:
        self.file = directory / "limen.yaml"
        self.file.write_text(f"version: 1\n{RULES}mcpServers: {{up: {{url: 'http://127.0.0.1:9/mcp'}}}}\n{more}")
        self.config = load_config(self.file, {}).config
        self.behind = Behind([], lambda name: None)
        self.said: list[str] = []
        self.house = House(self.config, lambda config, heard: self.behind, self.said.append)

    async def ready(self) -> Inhouse:
        """What the server has is approved."""
        await self.house.observe(Announcement("up", "2026-07-28", tools=TOOLS))
        for tool in ("echo", "send"):
            self.house.registry.approve("up", "tool", tool, "alice", "test")
        self.house.swap()
        return self

    async def call(self, name: str = "echo", arguments: Any = None, who: Presented = ANN, **more: Any) -> Any:
        """The result, or the Refusal."""
        made = Call(
            "tools/call", "up", "up", Era.MODERN, "2026-07-28", 1, name,
            orjson.dumps(arguments if arguments is not None else {"text": "x"}), peer=Peer("stdio"),
        )  # fmt: skip
        decided, corridor = await self.house.engine.decide(replace(made, **more), who)
        if isinstance(decided, Refusal):
            return decided
        if isinstance(decided, Context):
            return self.house.engine.local(decided, corridor)
        given = await self.house.engine.forward(
            decided, corridor, Silent(), lambda permit, result: orjson.dumps(result)
        )
        return given if isinstance(given, Refusal) else orjson.loads(given)

    @property
    def records(self) -> list[dict[str, Any]]:
        """The log so far."""
        return [orjson.loads(record) for _, record in read(self.config.audit.path, 0)]

    @property
    def events(self) -> list[Event]:
        return [read_event("limen", index, record) for index, record in read(self.config.audit.path, 0)]

    def of(self, type: str) -> list[Event]:
        """Its events of one type."""
        return [event for event in self.events if event.type == type]


def lived(directory: Path, work: Callable[[Inhouse], Awaitable[None]], more: str = "") -> Inhouse:
    """A house for as long as this work takes; its log is whole afterwards."""

    async def run() -> Inhouse:
        inhouse = await Inhouse(directory, more).ready()
        try:
            await work(inhouse)
        finally:
            await inhouse.house.close()
        return inhouse

    return asyncio.run(run())
