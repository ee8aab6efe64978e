"""Guard BindSession: handshake-era session ids and sealed requestState belong to one caller, on one route.

A session is never authentication (C3): the caller was established from this request's own token before. Another
caller's id or state is answered exactly like one that never existed.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from limen.core.call import Call, Caller, Context, Era, Session
from limen.core.verdict import Pass, Verdict, refuse

IDLE: Final = 1800.0
ABSOLUTE: Final = 86400.0
STATE_TTL: Final = 600.0


@dataclass(slots=True)
class SessionState:
    """What a handshake-era session remembers. Times in time.monotonic() seconds."""

    owner: tuple[str, str, str]
    server: str
    revision: str
    capabilities: dict[str, Any]
    client: str
    created: float
    used: float
    log_level: str | None = None  # set by logging/setLevel: until then no log messages are passed on
    subscribed: set[str] = field(default_factory=set)
    on_end: list[Callable[[], None]] = field(default_factory=list)


class Sessions:
    """Live sessions of this process, bounded per caller and in total; idle and absolute expiry."""

    def __init__(self, per_caller: int = 32, total: int = 10_000, now: Callable[[], float] = time.monotonic) -> None:
        self._live: OrderedDict[str, SessionState] = OrderedDict()
        self._by_owner: dict[tuple[str, str, str], OrderedDict[str, None]] = {}
        self._per_caller, self._total, self._now = per_caller, total, now

    def open(self, caller: Caller, server: str, revision: str, capabilities: dict[str, Any], client: str) -> str:
        """A new session of this caller: 256 bits from the CSPRNG, base64url. The oldest gives way at a bound."""
        now = self._now()
        mine = self._by_owner.setdefault(caller.key, OrderedDict())
        while len(mine) >= self._per_caller:
            self.end(next(iter(mine)))
        while len(self._live) >= self._total:
            self.end(next(iter(self._live)))
        identifier = secrets.token_urlsafe(32)
        self._live[identifier] = SessionState(caller.key, server, revision, capabilities, client, now, now)
        self._by_owner.setdefault(caller.key, OrderedDict())[identifier] = None
        return identifier

    def find(self, identifier: str, owner: tuple[str, str, str], server: str) -> SessionState | None:
        """The live session with this id if it is this caller's on this route, else None."""
        state = self._live.get(identifier)
        if state is None or state.owner != owner or state.server != server:
            return None
        now = self._now()
        if now - state.used > IDLE or now - state.created > ABSOLUTE:
            self.end(identifier)
            return None
        state.used = now
        self._live.move_to_end(identifier)
        return state

    def end(self, identifier: str) -> None:
        """Forget a session and tell whoever holds streams of it. Unknown ids are ignored."""
        state = self._live.pop(identifier, None)
        if state is None:
            return
        mine = self._by_owner.get(state.owner)
        if mine is not None:
            mine.pop(identifier, None)
            if not mine:
                del self._by_owner[state.owner]
        for callback in state.on_end:
            callback()

    def sweep(self) -> None:
        """Remove what expired, even if nobody asks for it again."""
        now = self._now()
        for identifier in [
            key for key, state in self._live.items() if now - state.used > IDLE or now - state.created > ABSOLUTE
        ]:
            self.end(identifier)

    def __len__(self) -> int:
        return len(self._live)


class StateSeal:
    """requestState as clients carry it: AES-256-GCM over the server's own state, bound to who asked for what."""

    def __init__(self, key: bytes, now: Callable[[], float] = time.time) -> None:
        self._cipher, self._now = AESGCM(key), now

    @staticmethod
    def new_key() -> bytes:
        """256 bits from the CSPRNG."""
        return AESGCM.generate_key(256)

    def seal(self, call: Call, caller: Caller, state: str | None, suspended: str = "") -> str:
        """The opaque text handed to the client."""
        body = json.dumps({"s": state, "p": suspended, "x": self._now() + STATE_TTL}).encode()
        nonce = os.urandom(12)
        return (nonce + self._cipher.encrypt(nonce, body, _binding(call, caller))).hex()

    def unseal(self, call: Call, caller: Caller) -> Session | None:
        """The state behind `call.request_state`, or None when it is not ours, not this caller's, or too old."""
        try:
            raw = bytes.fromhex(call.request_state or "")
            body = json.loads(self._cipher.decrypt(raw[:12], raw[12:], _binding(call, caller)))
        except (ValueError, InvalidTag):
            return None
        if body["x"] < self._now():
            return None
        return Session(state=body["s"], suspended=body["p"])


def _binding(call: Call, caller: Caller) -> bytes:
    """Associated data: issuer, subject, client, route, method, name and arguments."""
    parts = (*caller.key, call.route, call.server, call.method, call.name, sha256(call.arguments).hexdigest())
    return json.dumps(parts).encode()


class BindSession:
    """Is this still the same caller's conversation?"""

    needs = (Caller,)
    gives = (Session,)

    def __init__(self, sessions: Sessions, seal: StateSeal) -> None:
        self._sessions, self._seal = sessions, seal

    def check(self, context: Context) -> Verdict:
        """Pass with the Session, or refuse without saying whether it exists."""
        call = context.call
        if call.era is Era.MODERN:
            if call.request_state is None:
                return Pass((_NONE,))
            opened = self._seal.unseal(call, context.get(Caller))
            return refuse("identity.state", "requestState") if opened is None else Pass((opened,))
        if call.method == "initialize":
            return Pass((_NONE,))
        if call.session is None:
            return refuse("identity.session_missing")
        state = self._sessions.find(call.session, context.get(Caller).key, call.route)
        if state is None:
            return refuse("identity.session")
        if call.revision and call.revision != state.revision:
            return refuse("wire.revision", "not the negotiated revision", supported=[state.revision])
        return Pass((Session(call.session, log_level=state.log_level),))


_NONE: Final = Session()
