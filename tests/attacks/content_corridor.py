"""What content walks through on its way to a server and to a client: the guards of a configuration as they are shipped,
with every detector, in the order of the posture. Approval is the catalog's own; identity and policy are given."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from catalog.catalogue import announce, approve_all, registry
from limen.adapters.sqlite import SqliteTable
from limen.catalog.schema import ValidateArguments, ValidateResult
from limen.config.model import Config
from limen.core.call import (
    Approval,
    Approved,
    Call,
    Caller,
    Cleared,
    Context,
    Era,
    Grant,
    Inspected,
    Peer,
    Presented,
    Protected,
)
from limen.core.chain import Chain, run_result
from limen.core.faults import Fault
from limen.core.verdict import Pass, Permit, Refusal, Verdict
from limen.detection.flow import CheckFlow, RecordFlow
from limen.detection.fuse import Action
from limen.detection.inspect import InspectArguments, InspectMessages, InspectResult, inspect_definition
from limen.detection.neutralise import Neutralise
from limen.gateway.dialogue import judged
from limen.inspection import Inspection

ALICE = Caller("https://issuer.example", "alice")
ANY = {"type": "object"}
TOOLS = (
    {"name": "read_issue", "description": "Reads one issue.", "inputSchema": ANY},
    {"name": "typed", "description": "Looks something up.", "inputSchema": ANY, "outputSchema": ANY},
    {"name": "remember", "description": "Keeps a note for later.", "inputSchema": ANY},
)
RESOURCE = {"uri": "note://one", "name": "one"}
PROMPT = {"name": "summarise", "arguments": [{"name": "about", "required": False}]}


class _Given:
    needs: tuple[type, ...] = ()

    def __init__(self, fact: object) -> None:
        self.fact, self.gives = fact, (type(fact),)

    def check(self, context: Context) -> Verdict:
        return Pass((self.fact,))


class Heard:
    """A client that keeps what it is told, and accepts every question."""

    era, capabilities = Era.HANDSHAKE, {"elicitation": {}}

    def __init__(self) -> None:
        self.notes: list[Mapping[str, Any]] = []
        self.questions: list[Mapping[str, Any]] = []

    def notify(self, method: str, params: Mapping[str, Any]) -> None:
        self.notes.append(params)

    async def ask(self, requests: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        self.questions.append(requests)
        return {key: {"action": "accept"} for key in requests}


class Corridor:
    """One server `s`, not trusted unless `content` says so."""

    def __init__(
        self, directory: Path, *tools: dict[str, Any], headers: Mapping[str, str] | None = None, **content: Any
    ) -> None:
        self.config = Config.model_validate(
            {
                "storage": {"path": str(directory / "limen.db")},
                "mcpServers": {"s": {"url": "http://127.0.0.1:9/mcp", "headers": dict(headers or {})}},
                "content": {"spotlight": "off", **content},
            }
        )
        self.tables = [SqliteTable(directory / "limen.db", name) for name in ("labels", "quarantine", "marks")]
        self.seen: dict[str, Inspected] = {}
        self.inspection = Inspection(self.config, *self.tables, self.seen)
        made = registry()
        made.observe(announce(*TOOLS, *tools, resources=(RESOURCE,), prompts=(PROMPT,)))
        approve_all(made)
        self.catalog = made.snapshot()
        self.guards = self.inspection.guards(self.catalog)

    def close(self) -> None:
        self.inspection.close()
        for table in self.tables:
            table.close()

    def asked(self, arguments: Any, name: str = "read_issue", **more: Any) -> str:
        """What becomes of a call: `passed`, `held` (a person is asked) or the reason of the refusal."""
        self.seen.clear()
        approved = self._approved("tool", name)
        call = self._call("tools/call", name, json.dumps(arguments).encode(), **more)
        walked = asyncio.run(self._walk(call, approved))
        if isinstance(walked, Refusal):
            return walked.reason.id
        return "held" if walked.get(Inspected).ask or walked.get(Cleared).ask else "passed"

    def answered(
        self, result: dict[str, Any], method: str = "tools/call", name: str = "read_issue", **more: Any
    ) -> dict[str, Any]:
        """What a client gets of a result: the result, or {"refused": reason}."""
        self.seen.clear()
        kind = {"tools/call": "tool", "resources/read": "resource"}.get(method, "prompt")
        arguments = b'{"name":"about","value":"a"}' if method == "completion/complete" else b"{}"
        permit = asyncio.run(self._permit(self._call(method, name, arguments, **more), self._approved(kind, name)))
        guards = [ValidateResult(self.catalog), *(self.guards[g] for g in (InspectResult, RecordFlow, Neutralise))]

        async def walk() -> Any:
            shown = run_result(guards, permit, result, 20.0)
            return shown if isinstance(shown, tuple | Refusal) else await shown

        shown = asyncio.run(walk())
        return {"refused": shown.reason.id} if isinstance(shown, Refusal) else shown[0]

    def told(self, method: str, params: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """What a client hears of a notification."""
        self.seen.clear()
        heard = Heard()
        self._over(heard).notify(method, params)
        return heard.notes

    def questioned(self, params: Mapping[str, Any]) -> bool:
        """Whether a client is asked this; as the gateway does it: the form is built anew, then judged."""
        self.seen.clear()
        heard = Heard()
        try:
            requests = judged({"a": {"method": "elicitation/create", "params": dict(params)}})
            asyncio.run(self._over(heard).ask(requests))
        except (Fault, ValueError):
            return False
        return bool(heard.questions)

    def announced(self, kind: str, item: Mapping[str, Any]) -> Action:
        """What is said of a definition, or of instructions, before anybody approves it."""
        scanner = self.inspection.scanner
        return inspect_definition(scanner, self.config.content, "s", kind, item, time.time()).action

    def _over(self, heard: Heard) -> Any:
        permit = asyncio.run(
            self._permit(self._call("tools/call", "read_issue", b"{}"), self._approved("tool", "read_issue"))
        )
        messages: InspectMessages = self.guards[InspectMessages]
        return messages.over(permit, heard)

    def _approved(self, kind: str, name: str) -> Approved:
        approved = self.catalog.find("s", kind, name)
        assert isinstance(approved, Approved), (kind, name)
        return approved

    def _call(self, method: str, name: str, arguments: bytes, **more: Any) -> Call:
        return Call(method, "s", "s", Era.MODERN, "2026-07-28", 1, name, arguments, peer=Peer("http"), **more)

    async def _walk(self, call: Call, approved: Approved) -> Any:
        facts = (ALICE, approved, Grant(("1",), "p"))
        guards = [ValidateArguments(self.catalog), self.guards[InspectArguments], self.guards[CheckFlow]]
        chain = Chain([*map(_Given, facts), *guards], [Inspected, Cleared])
        walked = await chain.run(Context(call, Presented(), time.monotonic() + 20, "ref"))
        return walked[0] if isinstance(walked, tuple) else walked

    async def _permit(self, call: Call, approved: Approved) -> Permit:
        facts = (ALICE, approved, Grant(("1",), "p"), Inspected(), Cleared(), Approval(), Protected())
        chain = Chain([*map(_Given, facts)], [*map(type, facts)])
        walked = await chain.run(Context(call, Presented(), time.monotonic() + 5, "ref"))
        assert isinstance(walked, Context)
        return chain.permit(walked)


def text(value: str, **more: Any) -> dict[str, Any]:
    """A result of one text."""
    return {"content": [{"type": "text", "text": value}], **more}


def unsaid(shown: dict[str, Any], *words: str) -> bool:
    """Whether none of these texts is left in what a client gets."""
    left = json.dumps(shown, ensure_ascii=False)
    return not any(word in left or json.dumps(word, ensure_ascii=False)[1:-1] in left for word in words)
