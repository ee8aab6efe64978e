"""What Limen answers itself, and how a decided call becomes an answer. Transport-neutral: HTTP and stdio share it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import orjson

from limen import __version__
from limen.continuity import Continuity
from limen.core.call import Approved, Call, Caller, Context, Era, Presented, Session
from limen.core.faults import DependencyFault
from limen.core.reasons import REASONS
from limen.core.verdict import Permit, Refusal
from limen.corridor import Corridor
from limen.detection.spotlight import HIERARCHY
from limen.engine import Engine
from limen.gateway.bundles import echoed, followable, joined, renamed
from limen.gateway.connecting import told
from limen.gateway.dialogue import LEVELS, Exchange, Outlet, Suspended, Suspensions, Waiting
from limen.gateway.flights import Ended, Flights
from limen.identity.bind_session import trail_of
from limen.identity.handles import EVENT
from limen.posture import METHODS, Local
from limen.protocol.jsonrpc import render
from limen.protocol.methods import HANDSHAKE_REVISIONS, LATEST_HANDSHAKE, META_SERVER, META_SUBSCRIPTION, SUPPORTED
from limen.protocol.naming import Bundle
from limen.protocol.outbound import Reply, complete, notification, result_fragment, result_message

_LOOK: Final = 1.0  # seconds in which a stream notices that its session ended in another replica
_KEEP_ALIVE: Final = 15.0
_MEMBERS: Final = {"tool": "tools", "resource": "resources", "template": "resourceTemplates", "prompt": "prompts"}
_INFO: Final = {"name": "limen", "title": "Limen", "version": __version__}
_META: Final = orjson.dumps({META_SERVER: _INFO})
_CAPABILITIES: Final = {
    "tools": {"listChanged": True},
    "prompts": {"listChanged": True},
    "resources": {"listChanged": True},
    "completions": {},
}
CHANGED: Final = {
    "toolsListChanged": "notifications/tools/list_changed",
    "promptsListChanged": "notifications/prompts/list_changed",
    "resourcesListChanged": "notifications/resources/list_changed",
}


class Gateway:
    """Holds what outlives a call: sessions, questions under way, suspended calls, listeners."""

    def __init__(
        self,
        engine: Engine,
        continuity: Continuity,
        suspends: Callable[[str], bool],
        bundles: Mapping[str, Bundle],
    ) -> None:
        self.engine, self.sessions = engine, continuity.sessions
        self._states, self._handles = continuity.states, continuity.handles
        self._suspends, self._bundles = suspends, bundles  # bundles by route
        self.waiting, self.suspensions = Waiting({}), Suspensions()
        self._running: dict[tuple[str, str], asyncio.Task[Any]] = {}
        self.flights = Flights()
        self.listeners: dict[asyncio.Queue[None], str] = {}  # with their session, the newest last
        self._names: dict[tuple[str, str, str], bytes] = {}
        self.on_session_end: Callable[[str], Awaitable[None]] | None = None
        self._partings: set[asyncio.Future[None]] = set()
        self.sessions.on_end = self._ended

    def changed(self) -> None:
        """The catalog or the policy changed: whoever listens is told that lists may differ."""
        self._names.clear()
        # One stream of a session is told, not each (2025-11-25 transports, Multiple Connections): the newest.
        for queue in {session or id(queue): queue for queue, session in self.listeners.items()}.values():
            if queue.empty():
                queue.put_nowait(None)

    # one call

    async def handle(self, call: Call, presented: Presented, outlet: Outlet) -> Reply | Refusal:
        """Decide and answer one call. A Reply with an empty body means there is nothing to say (202)."""
        decided, corridor = await self.engine.decide(call, presented)
        if isinstance(decided, Refusal):
            return told(call, decided if call.route == call.server else echoed(call, decided), _INFO)
        if isinstance(decided, Context):
            return self._local(decided, corridor)
        try:
            return await self.flights.fly(decided, self._forward(decided, corridor, outlet))
        except Ended as end:
            return self.engine.ended(decided, end.reason)

    async def _forward(self, permit: Permit, corridor: Corridor, outlet: Outlet) -> Reply | Refusal:
        call, session = permit.call, permit.get(Session)
        if session.suspended:
            return await self._resume(permit, session.suspended)
        capabilities = orjson.loads(session.capabilities) if session.id else call.read_capabilities()
        level = session.log_level or call.log_level
        exchange = Exchange(call, capabilities, outlet, self.waiting, level, session.id)
        if call.era is Era.MODERN and self._suspends(call.server):
            entry = self.suspensions.start(
                exchange, permit, self.engine.forward(permit, corridor, exchange, self._rendered)
            )
            return await self._await_suspended(permit, entry, exchange)
        if session.id:
            return await self._of_session(permit, corridor, exchange, session.id)
        try:
            result = await self.engine.forward(permit, corridor, exchange, self._rendered)
        finally:
            if exchange.speaks:
                await exchange.close()
        return _answered(call, result)

    async def _of_session(
        self, permit: Permit, corridor: Corridor, exchange: Exchange, session: str
    ) -> Reply | Refusal:
        """Its client names it by its id, and can cancel it."""
        key = (session, f"{type(permit.call.id).__name__}:{permit.call.id}")
        if key in self._running:
            return Refusal(REASONS["wire.not_request"], permit.reference, "in flight", "id in use")
        task = asyncio.current_task()
        if task is not None:
            self._running[key] = task
        result: bytes | Refusal
        try:
            result = await self.engine.forward(permit, corridor, exchange, self._rendered)
        except asyncio.CancelledError:
            if task is None or task.uncancel():
                raise
            result = Refusal(REASONS["call.cancelled"], permit.reference)
        finally:
            self._running.pop(key, None)
            await exchange.close()
        return _answered(permit.call, result)

    def _rendered(self, permit: Permit, result: dict[str, Any]) -> bytes:
        """A result as its caller is given it: on a bundle by other names, with a sealed state, in the words of its
        era. What is suspended is answered in the words of the call that began it; one that goes on is the same."""
        call = permit.call
        if call.route != call.server:
            result = followable(call, result)
        if result.get("resultType") == "input_required" and call.era is Era.MODERN and "requestState" in result:
            sealed = self._states.seal(call, permit.get(Caller), str(result["requestState"]))
            result = {**result, "requestState": sealed}
        return render(complete(call.method, call.era, result, _INFO))

    # calls that wait for a 2026-07-28 client while a handshake-era server waits for us

    async def _resume(self, permit: Permit, identifier: str) -> Reply | Refusal:
        entry = self.suspensions.take(identifier, permit.get(Caller))
        if entry is None:
            return Refusal(REASONS["identity.state"], permit.reference, "suspended")
        responses = orjson.loads(permit.call.input_responses or b"{}")
        self.suspensions.answer(entry, {key: value for key, value in responses.items() if isinstance(value, dict)})
        return await self._await_suspended(permit, entry, None)

    async def _await_suspended(self, permit: Permit, entry: Suspended, exchange: Exchange | None) -> Reply | Refusal:
        try:
            waits: set[asyncio.Future[Any]] = {entry.task, entry.asked}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            entry.task.cancel()
            raise
        finally:
            if exchange is not None and entry.task.done():
                await exchange.close()
        if entry.task.done():
            return _answered(permit.call, entry.task.result())
        requests = entry.asked.result()
        state = self._states.seal(permit.call, permit.get(Caller), None, self.suspensions.keep(entry))
        asks = {"resultType": "input_required", "inputRequests": requests, "requestState": state}
        return Reply(200, result_message(permit.call.id, asks))

    # what Limen answers itself

    def _local(self, context: Context, corridor: Corridor) -> Reply | Refusal:
        call, route = context.call, METHODS[context.call.method]
        refused = self.engine.local(context, corridor)
        if refused is not None:
            return refused
        assert isinstance(route, Local)
        if route.lists:
            return self._list(context, corridor, route.lists)
        if call.method == "":
            self.waiting.resolve(context.get(Session).id, call.read_rest())
            return Reply(202, b"")
        if call.id is None:
            self._notified(context)
            return Reply(202, b"")
        if call.method == "initialize":
            return self._initialize(context, corridor)
        if call.method == "server/discover":
            return self._answer(call, self._described(context, corridor, {"supportedVersions": list(SUPPORTED)}))
        if call.method == "logging/setLevel":
            return self._set_level(context)
        return self._answer(call, {})

    def _answer(self, call: Call, result: dict[str, Any]) -> Reply:
        return Reply(200, result_message(call.id, complete(call.method, call.era, result, _INFO)))

    def _described(self, context: Context, corridor: Corridor, first: dict[str, Any]) -> dict[str, Any]:
        result = {**first, "capabilities": dict(_CAPABILITIES), "serverInfo": _INFO}
        if instructions := self._instructions(context, corridor):
            result["instructions"] = instructions
        return result

    def _instructions(self, context: Context, corridor: Corridor) -> str | None:
        """How marked texts are to be read, and what each server says of which the caller can see something."""
        route, catalog, said = context.call.route, corridor.catalog, dict[str, str]()
        bundle, marks = self._bundles.get(route), corridor.marks
        servers = (route,) if bundle is None else bundle.servers
        for server in servers:
            text = catalog.instructions(server)
            if text and corridor.authorize.visible(context.get(Caller), catalog.approved(server)):
                said[server] = text
        parts = [HIERARCHY] if marks is not None and any(marks(server) for server in servers) else []
        if theirs := said.get(route) if bundle is None else joined(said):
            parts.append(theirs)
        return "\n\n".join(parts) or None

    def _initialize(self, context: Context, corridor: Corridor) -> Reply:
        call, asked = context.call, context.call.read_rest()
        revision = asked["protocolVersion"] if asked["protocolVersion"] in HANDSHAKE_REVISIONS else LATEST_HANDSHAKE
        declared = asked.get("capabilities")
        info = asked.get("clientInfo")
        name = str(info.get("name", ""))[:64] if isinstance(info, dict) else ""
        caller = context.get(Caller)
        trail = trail_of(call, caller, self.sessions.settings.risk, time.time())
        identifier = self.sessions.open(
            caller, call.route, revision, declared if isinstance(declared, dict) else {}, name, trail,
            ref=context.reference,
        )  # fmt: skip
        result = self._described(context, corridor, {"protocolVersion": revision})
        result["capabilities"]["logging"] = {}
        reply = self._answer(call, result)
        return Reply(reply.status, reply.body, ((b"mcp-session-id", identifier.encode()),))

    def _set_level(self, context: Context) -> Reply | Refusal:
        level, session = context.call.read_rest().get("level"), context.get(Session)
        if level not in LEVELS or not session.id or not self.sessions.set_level(session.id, level):
            return Refusal(REASONS["wire.params"], context.reference, "logging/setLevel")
        return self._answer(context.call, {})

    def _notified(self, context: Context) -> None:
        """notifications/cancelled ends the caller's own call of the same session; the others need nothing done."""
        call, session = context.call, context.get(Session).id
        if call.method != "notifications/cancelled" or not session:
            return
        target = call.read_rest().get("requestId")
        task = self._running.get((session, f"{type(target).__name__}:{target}"))
        if task is not None:
            task.cancel()

    def _list(self, context: Context, corridor: Corridor, kind: str) -> Reply | Refusal:
        """Exactly what this caller could call, as approved, in one page."""
        call = context.call
        if call.cursor is not None:
            return Refusal(REASONS["catalog.cursor"], context.reference, "list")
        caller, bundle = context.get(Caller), self._bundles.get(call.route)
        servers = (call.route,) if bundle is None else bundle.servers
        key = (corridor.authorize.version, servers, bundle is None, kind, *caller.standing)
        body = corridor.lists.get(key)
        if body is None:
            offered = [item for server in servers for item in corridor.catalog.approved(server, kind)]
            items = [*corridor.authorize.visible(caller, offered), *corridor.decoys(caller, kind, servers)]
            items.sort(key=lambda item: (servers.index(item.server), item.name))  # a decoy stands out by nothing
            parts = [item.definition if bundle is None else self._named(item) for item in items]
            body = b'{"%s":[%s]' % (_MEMBERS[kind].encode(), b",".join(parts))
            corridor.lists.keep(key, body)
        if call.era is Era.MODERN:
            body += b',"resultType":"complete","ttlMs":0,"cacheScope":"private","_meta":%s' % _META
        return Reply(200, result_fragment(call.id, body + b"}"))

    def _named(self, item: Approved) -> bytes:
        """The definition under its name on bundles."""
        key = (item.server, item.kind, item.digest)  # a call of a corridor before this one lists what it entered with
        shown = self._names.get(key)
        if shown is None:
            shown = self._names[key] = renamed(item)
        return shown

    # streams of changes

    async def listen(
        self, call: Call, presented: Presented, outlet: Outlet, last: str | None = None
    ) -> Reply | Refusal:
        """subscriptions/listen (2026-07-28) or the standalone stream of a session: told when lists change.

        `last`: the Last-Event-ID of a stream to go on with. Its events say what the lists were, sealed, so that any
        replica can tell what was missed and nobody else can ask.
        """
        decided, corridor = await self.engine.decide(call, presented)
        if isinstance(decided, Refusal):
            return decided
        assert isinstance(decided, Context)
        if (refused := self.engine.local(decided, corridor)) is not None:
            return refused
        if len(self.listeners) >= 4096:
            return Refusal(REASONS["fault.overload"], decided.reference, "listen")
        wanted = call.read_rest().get("notifications") if call.era is Era.MODERN else dict.fromkeys(CHANGED, True)
        if not isinstance(wanted, dict):
            return Refusal(REASONS["wire.params"], decided.reference, "listen", "notifications")
        kinds = [kind for kind in CHANGED if wanted.get(kind) is True]
        meta = {"_meta": {META_SUBSCRIPTION: call.id}} if call.era is Era.MODERN else {}
        queue: asyncio.Queue[None] = asyncio.Queue(1)
        if last is not None:
            session, caller = decided.get(Session).id, decided.get(Caller)
            known = self._handles.open(EVENT, caller.key, call.route, last, (session,))
            if known is None:
                return self.engine.refused("identity.state", "Last-Event-ID", decided)
            if known.data != self._version():
                queue.put_nowait(None)
        self.listeners[queue] = decided.get(Session).id
        try:
            if meta:
                await outlet.event(
                    notification(
                        "notifications/subscriptions/acknowledged",
                        {"notifications": dict.fromkeys(kinds, True), **meta},
                    )
                )
            else:  # opens the stream; from this revision on, a client may be told at once where it stands
                await outlet.event(b"", self._event_id(decided) if call.revision >= LATEST_HANDSHAKE else "")
            await self.flights.fly(decided, self._relay(decided, queue, kinds, meta, outlet))
        except Ended as end:
            return self.engine.ended(decided, end.reason)
        finally:
            self.listeners.pop(queue, None)
        return Reply(200, result_message(call.id, {"resultType": "complete", **meta}) if meta else b"")

    async def _relay(
        self, context: Context, queue: asyncio.Queue[None], kinds: list[str], meta: dict[str, Any], outlet: Outlet
    ) -> None:
        """Until the token expires, the session ends, or the client leaves."""
        caller, session = context.get(Caller), context.get(Session)
        quiet = 0.0
        while not caller.expires or caller.expires > time.time():
            told: list[str] = []
            try:
                async with asyncio.timeout(_LOOK):
                    await queue.get()
                told, quiet = kinds, 0.0
            except TimeoutError:
                quiet += _LOOK
            if session.id and not self.sessions.alive(session.id):
                return
            if quiet >= _KEEP_ALIVE:
                quiet = 0.0
                await outlet.event(b"")
            for kind in told:
                await outlet.event(notification(CHANGED[kind], meta), "" if meta else self._event_id(context))

    def _version(self) -> bytes:
        """What lists are built from: while it stays, nothing was missed."""
        corridor = self.engine.corridor
        return f"{corridor.catalog.version} {corridor.policy} {corridor.authorize.version}".encode()

    def _event_id(self, context: Context) -> str:
        session, seconds = context.get(Session).id, self.sessions.settings.absolute
        return self._handles.seal(
            EVENT, context.get(Caller).key, context.call.route, self._version(), seconds, (session,)
        )

    def end_session(self, context: Context) -> None:
        """The client says it is done (DELETE): ours ends at once, the servers' with it."""
        self.sessions.end(context.get(Session).id)

    def _ended(self, key: str) -> None:
        """A session is over, whoever ended it: so are its calls in flight and the servers' sessions."""
        for task in [task for (session, _), task in self._running.items() if session == key]:
            task.cancel()
        if self.on_session_end is not None:
            parting = asyncio.ensure_future(self.on_session_end(key))
            self._partings.add(parting)
            parting.add_done_callback(self._partings.discard)

    async def sweep(self) -> None:
        """Expired sessions are removed even when nobody asks for them again, and calls under way end with a session
        that another replica has ended. Runs until cancelled."""
        while True:
            await asyncio.sleep(_LOOK)
            with contextlib.suppress(DependencyFault):  # what expired is refused all the same
                self.sessions.sweep()
                for key in {session for session, _ in self._running}:
                    self.sessions.alive(key)

    def stopped(self, reason: str) -> None:
        """Record the stop; the log may be what failed, and then there is nowhere to record it."""
        self.suspensions.close()
        try:
            self.engine.event("stop", reason=reason)
        except DependencyFault as fault:
            raise SystemExit(f"limen: stopped, and the audit log could not be written: {fault}") from None


def _answered(call: Call, result: bytes | Refusal) -> Reply | Refusal:
    return result if isinstance(result, Refusal) else Reply(200, result_fragment(call.id, result))
