"""Guards BindSession and SpendState: what a call continues belongs to its caller, and is used up where it is good once.

A session is never authentication (C3): the caller was established from this request's own token before. Another
caller's id or state is answered exactly like one that never existed. Whether it is still the same person is judged by
what changed around the call (`session_risk`).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

import orjson

from limen.core.call import Call, Caller, Context, Era, Session
from limen.core.verdict import Pass, Refuse, Verdict, refuse
from limen.identity.handles import STATE, Handles
from limen.identity.misuse import Misuse
from limen.identity.session_risk import Judgement, Locate, RiskSettings, Seen, Trail, begin, doubt, observe
from limen.identity.sessions import Held, Sessions

_NONE: Final = Pass((Session(),))
_TRIES: Final = 5
_AGENTS: Final = 8  # user agents remembered of one caller at one client


class States:
    """requestState as clients carry it: sealed over the server's own, good for one repetition of exactly this call."""

    def __init__(self, handles: Handles, seconds: Callable[[], float]) -> None:
        self._handles, self._seconds = handles, seconds

    def seal(self, call: Call, caller: Caller, state: str | None, suspended: str = "") -> str:
        """The opaque text handed to the client. `suspended`: the call of ours that waits for the answer."""
        body = orjson.dumps((state, suspended))
        return self._handles.seal(STATE, caller.key, call.route, body, self._seconds(), _exactly(call))

    def open(self, call: Call, caller: Caller) -> Session | None:
        """The state behind `call.request_state`, or None when it is not ours, not this caller's, or too old."""
        opened = self._handles.open(STATE, caller.key, call.route, call.request_state or "", _exactly(call))
        if opened is None:
            return None
        state, suspended = orjson.loads(opened.data)
        return Session(state=state, suspended=suspended, spends=opened.id, spends_until=opened.expires)

    def spend(self, session: Session) -> bool:
        """Use it up. True the first time, in any replica."""
        return self._handles.spend(session.spends, session.spends_until)


def _exactly(call: Call) -> tuple[str, ...]:
    return (call.server, call.method, call.name, sha256(call.arguments).hexdigest())


class Callers:
    """Trails of callers without a session, by caller, client and user agent; bounded, the idlest caller goes first.

    Somebody with two devices has two trails; a new device is compared with the one used last.
    """

    def __init__(self) -> None:
        self._trails: OrderedDict[tuple[str, str, str], OrderedDict[str, Trail]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._trails)

    def observe(
        self, caller: Caller, seen: Seen, settings: RiskSettings, now: float, locate: Locate | None
    ) -> Judgement:
        """Judge one use by this caller and remember it."""
        mine = self._trails.get(caller.key)
        if mine is None:
            self._trails[caller.key] = OrderedDict(((seen.agent, begin(seen, settings, now)),))
            if len(self._trails) > settings.callers:
                self._trails.popitem(last=False)
            return Judgement()
        self._trails.move_to_end(caller.key)
        trail = mine.get(seen.agent)
        if trail is None:
            latest = mine[next(reversed(mine))]
            trail = mine[seen.agent] = Trail.read(latest.plain())  # a copy: the other device keeps its own
            if len(mine) > _AGENTS:
                mine.popitem(last=False)
        mine.move_to_end(seen.agent)
        return observe(trail, seen, settings, now, locate)

    def doubt(self, caller: Caller, seen: Seen, tokens: list[str], settings: RiskSettings, now: float) -> None:
        """A session of this caller came under doubt: a new one must not be had with the same tokens."""
        mine = self._trails.setdefault(caller.key, OrderedDict())
        if not mine:
            mine[seen.agent] = begin(seen, settings, now)
        for trail in mine.values():
            doubt(trail, [seen.token, *tokens], now)
        self._trails.move_to_end(caller.key)
        if len(self._trails) > settings.callers:
            self._trails.popitem(last=False)


class BindSession:
    """Is this still the same caller's conversation? Without a session: is this still the same caller?

    `emit` gets an audit event when a session or caller looks like somebody else's.
    """

    needs = (Caller,)
    gives = (Session,)

    def __init__(
        self,
        sessions: Sessions,
        states: States,
        misuse: Misuse,
        emit: Callable[[dict[str, Any]], None],
        callers: Callers | None = None,
        locate: Locate | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._sessions, self._states, self._misuse, self._emit = sessions, states, misuse, emit
        self._callers = callers if callers is not None else Callers()
        self._locate, self._now = locate, now

    def check(self, context: Context) -> Verdict:
        """Pass with the Session, or refuse without saying whether it exists."""
        call, caller = context.call, context.get(Caller)
        self._misuse.used(caller, call.peer.address)
        if call.era is Era.MODERN or call.method == "initialize":
            return self._unbound(call, caller)
        if call.session is None:
            return refuse("identity.session_missing")
        held = self._sessions.find(call.session, caller, call.route)
        if held is None:
            return refuse("identity.session")
        if call.revision and call.revision != held.revision:
            return refuse("wire.revision", "not the negotiated revision", supported=[held.revision])
        if call.peer.address and (refused := self._same_person(held, call, caller)) is not None:
            return refused
        return Pass((Session(held.key, log_level=held.log_level, capabilities=held.capabilities),))

    def _unbound(self, call: Call, caller: Caller) -> Verdict:
        if call.peer.address and caller.issuer not in _NOBODY:
            settings = self._sessions.settings.risk
            judged = self._callers.observe(caller, _seen(call, caller), settings, self._now(), self._locate)
            if judged.action != "none" and (refused := self._follow(judged, call, caller, "")) is not None:
                return refused
        if call.era is not Era.MODERN or call.request_state is None:
            return _NONE
        opened = self._states.open(call, caller)
        return refuse("identity.state", "requestState") if opened is None else Pass((opened,))

    def _same_person(self, held: Held, call: Call, caller: Caller) -> Refuse | None:
        """Judge what changed around this session; what is remembered is shared with the other replicas."""
        settings, seen = self._sessions.settings.risk, _seen(call, caller)
        current: Held | None = held
        for _ in range(_TRIES):
            if current is None:
                return refuse("identity.session", "ended meanwhile")
            judged = observe(current.trail, seen, settings, self._now(), self._locate)
            if not judged.changed or self._sessions.keep(current):
                if judged.action in ("step_up", "end") and judged.signals:
                    self._callers.doubt(caller, seen, current.trail.refused, settings, self._now())
                return None if judged.action == "none" else self._follow(judged, call, caller, current.key)
            current = self._sessions.again(current)
        return refuse("fault.dependency", "the session kept changing")

    def _follow(self, judged: Judgement, call: Call, caller: Caller, key: str) -> Refuse | None:
        """Record, ask for a fresh sign-in, or end the session and say so."""
        found = {
            "iss": caller.issuer, "sub": caller.subject, "client": caller.client, "peer": call.peer.address,
            "session": _short(key), "score": judged.score, "signals": judged.signals,
        }  # fmt: skip
        detail = f"score {judged.score}: {', '.join(judged.signals) or 'signed in before that'}"
        if judged.action == "end":
            ended = self._sessions.end_all(caller.key, "somebody else may have it")
            self._emit({"t": "security", "event": "session.hijack", "severity": "error", "ended": ended, **found})
            return refuse("identity.session", detail) if key else _step_up(judged, detail)
        if judged.action == "step_up":
            if judged.signals:
                self._emit({"t": "security", "event": "session.step_up", "severity": "warning", **found})
            return _step_up(judged, detail)
        party = "\0".join((*caller.key, key, *judged.signals))
        self._misuse.alert("session.changed", "info", party, **found)
        return None


class SpendState:
    """A requestState is good for one call that goes ahead. Stands below whatever may hold a call: one that waits for a
    person's approval is repeated with the same state."""

    needs = (Session,)
    gives: tuple[type, ...] = ()

    def __init__(self, states: States) -> None:
        self._states = states

    def check(self, context: Context) -> Verdict:
        """Refuses identity.state the second time, in any replica."""
        session = context.get(Session)
        if not session.spends or self._states.spend(session):
            return _DONE
        return refuse("identity.state", "requestState used before")


def trail_of(call: Call, caller: Caller, settings: RiskSettings, now: float) -> Trail:
    """The context in which a session begins."""
    return begin(_seen(call, caller), settings, now)


def _seen(call: Call, caller: Caller) -> Seen:
    peer = call.peer
    person = not caller.machine and caller.issuer not in _NOBODY  # who cannot sign in again is not asked to
    return Seen(peer.address, peer.user_agent, caller.token_id, caller.auth_time, peer.origin, person)


def _step_up(judged: Judgement, detail: str) -> Refuse:
    """RFC 9470 section 3: the sign-in must be no older than our doubt."""
    return refuse("identity.step_up", detail, max_age=int(judged.since))


def _short(key: str) -> str:
    """As the audit log names a session."""
    return sha256(key.encode()).hexdigest()[:16] if key else ""


_DONE: Final = Pass()
_NOBODY: Final = frozenset({"local", "anonymous"})  # issuers of callers who brought no token
