"""Permits for tests, minted by a real chain over tiny guards, and a conversation that records what it is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from limen.core.call import (
    Approved,
    Call,
    Caller,
    Context,
    Era,
    Grant,
    Presented,
    Protected,
    Session,
    UpstreamCredential,
)
from limen.core.chain import Chain
from limen.core.faults import UpstreamFault
from limen.core.verdict import Pass, Permit, Verdict

TOKEN = "inbound-bearer-canary-7f3a"
FORM = {"elicitation": {"form": {}}}


class Says:
    """A guard that establishes one fact."""

    needs: tuple[type, ...] = ()

    def __init__(self, fact: object) -> None:
        self.fact, self.gives = fact, (type(fact),)

    def check(self, context: Context) -> Verdict:
        return Pass((self.fact,))


def call(method: str = "tools/call", name: str = "echo", arguments: bytes = b'{"text":"hi"}', **more: Any) -> Call:
    era = more.pop("era", Era.HANDSHAKE)
    return Call(method, "up", "up", era, "2025-11-25", 7, name, arguments, **more)


async def permit(
    asked: Call | None = None,
    *,
    server: str = "up",
    kind: str = "tool",
    approved: str = "",
    headers: tuple[tuple[str, str], ...] = (),
    account: str = "",
    place: str = "",
    subject: str = "alice",
    session: str = "",
    state: str | None = None,
) -> Permit:
    """Run the chain as the gateway would, with a bearer token presented."""
    asked = asked or call()
    facts = (
        Caller("https://id.example", subject, "client"),
        Session(session, state),
        Approved(server, kind, approved or asked.name, "digest", b"{}"),
        Grant(("1",), "policy"),
        Protected(),
        UpstreamCredential(headers, "test", account, place),
    )
    chain = Chain([Says(fact) for fact in facts], proves=tuple(map(type, facts)))
    presented = Presented((b"Bearer " + TOKEN.encode(),), "https://gw.example/up")
    context = await chain.run(Context(asked, presented, time.monotonic() + 60, "ref"))
    assert isinstance(context, Context)
    return chain.permit(context)


class Heard:
    """A `Conversation`. `answers` are given to whatever is asked, in order; an exception is raised."""

    def __init__(
        self,
        *answers: Mapping[str, Any] | Exception,
        era: Era = Era.HANDSHAKE,
        capabilities: Mapping[str, Any] | None = None,
    ) -> None:
        self.era = era
        self.capabilities: Mapping[str, Any] = FORM if capabilities is None else capabilities
        self.notes: list[tuple[str, Mapping[str, Any]]] = []
        self.asked: list[Mapping[str, Mapping[str, Any]]] = []
        self.asking = asyncio.Event()
        self._answers = list(answers)

    def notify(self, method: str, params: Mapping[str, Any]) -> None:
        self.notes.append((method, params))

    async def ask(self, requests: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        self.asked.append(requests)
        self.asking.set()
        if not self._answers:
            raise UpstreamFault("up", "the client does not answer")
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {key: dict(answer) for key in requests}


ACCEPT = {"action": "accept", "content": {"name": "Ada"}}
