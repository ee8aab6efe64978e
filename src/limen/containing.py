"""Composition of what contains an attack: one pair of hands over revocations, grants, and the records of its own.

What contains takes effect before it is recorded, and what is taken back is recorded before it takes effect: whatever
fails in between, nothing is looser than the log says.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final
from unicodedata import category

from limen.core.copied import RECORD, identifier, tell
from limen.core.faults import DependencyFault
from limen.core.people import AUTOMATIC, two_people
from limen.credentials.connection import PREFIX as CONNECTIONS
from limen.credentials.connection import read as read_connection
from limen.credentials.held import Held
from limen.credentials.user_grants import end_connection
from limen.identity.revoked import Revocation, find, revoke, undo
from limen.incidents.actions import ACTIONS, Action, Applied
from limen.incidents.contain import ALL, HERE, Standing, read_standing
from limen.issuing import Unopened, unopened_families, withdrawal
from limen.oauth.consent import Consents
from limen.oauth.settings import ConsentSettings

if TYPE_CHECKING:
    from limen.config.model import Config
    from limen.storage import State

Record = Callable[[str, Mapping[str, Any]], None]
PENDING: Final = 86_400.0  # seconds one person's half of a decision is good for
MAX_RECORDS: Final = 10_000
_NOTE, _WAITS, _DONE = "a/", "p/", "d/"
_REMEMBERED: Final = 30 * 86_400.0
_TRIES: Final = 50
_REVOKED: Final = MappingProxyType({"lock_caller": "user", "block_client": "client", "revoke_token": "token"})
# Whoever got in by a name can be kept out by it: what tokens may not hold either (see `identity.token`), no more.
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_OF_SERVER: Final = frozenset({"quarantine_server", "cut_egress", "read_only"})


class Containing:
    """Implements `incidents.actions.Hands`. Synchronous, and waits for the database: not for the event loop.

    `record` puts an event into the log: the gateway's own, or what commands tell it.
    """

    def __init__(self, config: Config, state: State, record: Record, now: Callable[[], float] = time.time) -> None:
        self._config, self._state, self._record, self._now = config, state, record, now
        self._table, self._people = state.contained, config.incidents

    def apply(self, action: Action, *, by: str, reason: str, incident: str = "") -> Applied:
        """In force on every replica within a second. Of the same action twice the one that lasts longer stands.

        Raises ValueError for an action that means nothing, DependencyFault; then it may be in force and not on record.
        """
        now = self._now()
        wanted = self._wanted(action, by, reason, incident, now)
        if (standing := self._standing(wanted)) is not None:
            return standing.applied()
        if self._people.to_apply(action.kind) > 1:
            first = self._first(wanted)
            if first is None or not two_people(first.by, wanted.by):
                return (first or wanted).applied(waits=True)
            wanted = replace(wanted, by=f"{first.by} and {by}", until=_later(first.until, wanted.until))
        if action.kind == "revoke_grants":
            self._end_grants(wanted)
            self._table.put(_DONE + wanted.id, wanted.dump(), now + _REMEMBERED)
        else:
            wanted = self._put(wanted)
        self._forget(_WAITS + wanted.id)
        self._wake(wanted.kind)
        self._tell("contained", wanted, by=wanted.by, reason=reason)
        return wanted.applied()

    def release(self, identifier: str, *, by: str, reason: str, break_glass: bool = False) -> Applied:
        """Take it back. With `break_glass` one person is enough, and that is recorded as such.

        Raises LookupError when there is none, ValueError when it cannot be taken back, DependencyFault.
        """
        _mandatory(by, reason)
        for _ in range(_TRIES):
            key, raw = self._find(identifier)
            try:
                held = read_standing(identifier, raw)
            except DependencyFault:
                if not break_glass:
                    raise
                held = Standing("stop_all", ALL, reason="a record that could not be read")
            if key.startswith(_DONE):
                raise ValueError("grants that were ended do not come back: people sign in again")
            alone = break_glass or key.startswith(_WAITS) or self._people.to_release(held.kind) < 2
            if not alone and not self._seconded(held, by):
                if self._asks(key, raw, held, by, reason):
                    return held.applied(waits=True)
                continue
            people = f"{held.asked} and {by}" if held.asked and not alone else by
            more = {"break_glass": True, "severity": "critical"} if break_glass else {}
            self._tell("released", held, by=people, reason=reason, id=identifier, **more)
            if not self._table.swap(key, raw, None):
                continue
            if key.startswith(_NOTE):
                self._uncover(held)
            self._wake(held.kind)
            return held.applied()
        raise DependencyFault("containments", "too many changes of one record at once")

    def in_force(self) -> list[Applied]:
        """All of them, oldest first, and those that wait for a second person."""
        return [standing.applied(waits=waits) for standing, waits in self.standing()]

    def standing(self) -> list[tuple[Standing, bool]]:
        """The same as they are kept; whether they wait."""
        rows = [
            (key, read_standing(key[2:], raw)) for prefix in (RECORD, _NOTE, _WAITS) for key, raw in self._rows(prefix)
        ]
        stands = [(row, key.startswith(_WAITS)) for key, row in rows if not key.startswith(_NOTE) or self._covers(row)]
        return sorted(stands, key=lambda one: (one[0].at, one[0].id))

    # what is asked for

    def _wanted(self, action: Action, by: str, reason: str, incident: str, now: float) -> Standing:
        """Raises ValueError for what means nothing: what contains nothing must not look as if it did."""
        kind, value = action.kind, action.value
        _mandatory(by, reason)
        if kind not in ACTIONS:
            raise ValueError(f"not an action: {kind}")
        if not value or len(value) > 255 or len(action.issuer) > 2048 or _UNSEEN & {*map(category, value)}:
            raise ValueError("what is contained has a name of 1 to 255 characters")
        if action.issuer and kind not in ("lock_caller", "block_client", "revoke_token", "revoke_grants"):
            raise ValueError(f"{kind} has no issuer")
        if action.until is not None and (action.until <= now or kind == "revoke_grants"):
            raise ValueError("the end lies in the past" if action.until <= now else "what is ended here stays ended")
        if kind == "stop_all" and value != ALL:
            raise ValueError("stop_all stops all: its value is *")
        if kind in _OF_SERVER and not (kind == "read_only" and value == ALL):
            self._known(kind, value)
        if kind == "quarantine_tool":
            server, slash, name = value.partition("/")
            if not slash or not name:
                raise ValueError("a tool is named SERVER/NAME")
            self._known(kind, server)
        return Standing(kind, value, action.issuer, by, reason, now, action.until, incident)

    def _known(self, kind: str, server: str) -> None:
        found = self._config.mcpServers.get(server)
        if found is None:
            raise ValueError(f"no server named {server!r}: {', '.join(sorted(self._config.mcpServers))}")
        if kind == "cut_egress" and found.command is not None and found.security.unsafe_no_sandbox:
            raise ValueError(f"{server} runs outside a sandbox, where nothing cuts its network: stop its program")

    def _first(self, wanted: Standing) -> Standing | None:
        """Who asked before; None when this is the first, which is noted. What a playbook asked for, the first person
        who asks for it as well takes over: a playbook is nobody."""
        key = _WAITS + wanted.id
        raw = self._table.get(key)
        if raw is not None:
            first = read_standing(wanted.id, raw)
            if not first.by.startswith(AUTOMATIC) or wanted.by.startswith(AUTOMATIC):
                return first
        self._tell("contained", wanted, by=wanted.by, reason=wanted.reason, waits=True)
        if self._table.swap(key, raw, wanted.dump(), self._now() + PENDING):
            return None
        return self._first(wanted)

    def _seconded(self, held: Standing, by: str) -> bool:
        return self._is_asked(held) and two_people(held.asked, by)

    def _is_asked(self, held: Standing) -> bool:
        return bool(held.asked) and self._now() - held.asked_at < PENDING

    def _asks(self, key: str, raw: bytes, held: Standing, by: str, reason: str) -> bool:
        """Note who asks to take it back, while it stays in force. False: the record changed meanwhile."""
        if self._is_asked(held):
            return True
        after = replace(held, asked=by, asked_at=self._now())
        if not self._table.swap(key, raw, after.dump(), held.until):
            return False
        self._tell("released", held, by=by, reason=reason, waits=True)
        return True

    # records

    def _standing(self, wanted: Standing) -> Standing | None:
        """What is in force already, at least as long."""
        raw = self._table.get(_place(wanted.kind) + wanted.id)
        held = _readable(wanted.id, raw)
        if held is None or _later(held.until, wanted.until) != held.until:
            return None
        return held if wanted.kind in HERE or self._covers(held) else None

    def _put(self, wanted: Standing) -> Standing:
        """The record, once what it says is so.

        Of a caller the note comes first: it keeps what was revoked before, which nobody could tell from our own
        revocation afterwards. A note alone is in force nowhere, and is said nowhere to be.
        """
        key = _place(wanted.kind) + wanted.id
        if sum(1 for _ in self._table.scan(key[:2])) >= MAX_RECORDS:
            raise ValueError(f"there are {MAX_RECORDS} containments already: give them an end, or release some")
        for _ in range(_TRIES):
            raw = self._table.get(key)
            before = _readable(wanted.id, raw)
            held = before if before is not None and (wanted.kind in HERE or self._covers(before)) else None
            after = replace(wanted, until=_later(held.until, wanted.until)) if held is not None else wanted
            if wanted.kind in _REVOKED:
                after = self._above(after, before)
            if not self._table.swap(key, raw, after.dump(), after.until):
                continue
            if wanted.kind in HERE:
                return after
            try:
                self._cover(after)
            except ValueError:  # no room: the note must not stand in the way of `limen revoke`
                self._table.swap(key, after.dump(), raw, before.until if before is not None else None)
                raise
            now = _readable(wanted.id, self._table.get(key))
            if now is not None and _later(now.until, after.until) == now.until:
                return after  # and nobody released or shortened it meanwhile
        raise DependencyFault("containments", "too many changes of one record at once")

    def _above(self, after: Standing, before: Standing | None) -> Standing:
        """With what stood before any of ours. Where there is a note, begun or in force, that one knows."""
        found = find(self._state.revocations, _REVOKED[after.kind], after.issuer, after.value)
        if found is None:
            return after
        return replace(after, beneath=before.beneath if before is not None else json.dumps(asdict(found)))

    def _cover(self, after: Standing) -> None:
        """Revoke it, for no shorter than it is already."""
        table, kind = self._state.revocations, _REVOKED[after.kind]
        found = find(table, kind, after.issuer, after.value)
        until = after.until if found is None else _later(found.until, after.until)
        revoke(table, Revocation(kind, after.value, after.issuer, after.reason, after.by, after.at, until))

    def _covers(self, held: Standing) -> bool:
        """Whether what this record says is so: somebody may have undone it by the command for revocations."""
        found = find(self._state.revocations, _REVOKED[held.kind], held.issuer, held.value)
        return found is not None and _later(found.until, held.until) == found.until

    def _uncover(self, held: Standing) -> None:
        """As it was before."""
        table, now = self._state.revocations, self._now()
        before = Revocation(**json.loads(held.beneath)) if held.beneath else None
        if before is not None and (before.until is None or before.until > now):
            revoke(table, before)
            return
        with suppress(LookupError):  # undone by somebody else, or at its end
            undo(table, identifier(_REVOKED[held.kind], held.issuer, held.value))

    def _find(self, id: str) -> tuple[str, bytes]:
        for prefix in (RECORD, _NOTE, _WAITS, _DONE):
            if (raw := self._table.get(prefix + id)) is not None:
                return prefix + id, raw
        raise LookupError(f"nothing contained with the id {id[:64]}")

    def _forget(self, key: str) -> None:
        while (raw := self._table.get(key)) is not None:
            self._table.swap(key, raw, None)

    def _rows(self, prefix: str) -> list[tuple[str, bytes]]:
        return list(self._table.scan(prefix))

    # grants

    def _end_grants(self, wanted: Standing) -> None:
        """Consents first: what was to be redeemed or refreshed meanwhile finds none."""
        config, state = self._config, self._state
        provider = config.oauth.provider.issuer if config.oauth is not None else ""
        names = {provider, config.listen.url} if wanted.issuer == config.listen.url else {wanted.issuer}

        def is_theirs(issuer: str, subject: str) -> bool:
            return subject == wanted.value and (not wanted.issuer or issuer in names)

        settings = config.oauth.consent if config.oauth is not None else ConsentSettings()
        consents = Consents(state.consents, self._record, settings, self._now, withdrawal(config, state))
        for consent in consents.list(user=wanted.value):
            if is_theirs(consent.issuer, consent.subject):
                with suppress(LookupError):  # ended by somebody else meanwhile
                    consents.revoke(consent.id, by=wanted.by, reason=wanted.reason)
        unopened_families(config, state).end_all(lambda user: is_theirs(user.issuer, user.subject), "contained")
        for _, raw in list(state.vault.scan(CONNECTIONS)):
            connection = read_connection(raw)
            if is_theirs(connection.issuer, connection.subject):
                key = connection.key.removeprefix(CONNECTIONS)
                end_connection(state.vault, key, "contained", self._record, self._now())
        if provider and is_theirs(provider, wanted.value):
            Held(state.vault, Unopened()).drop(provider, wanted.value)

    # telling

    def _wake(self, kind: str) -> None:
        """Gateways that are not woken look by themselves within a quarter of a second."""
        if kind in HERE:
            tell(self._table)
        if self._state.bus is not None:
            with suppress(DependencyFault):
                self._state.bus.publish("contained" if kind in HERE else "revocations")

    def _tell(self, event: str, standing: Standing, **more: Any) -> None:
        what = {"id": standing.id, "action": standing.kind, "value": standing.value, "issuer": standing.issuer}
        self._record(event, {**what, "incident": standing.incident, "until": standing.until, "waits": False, **more})


def covered(state: State, revocation: Revocation) -> str:
    """The id of what contains by this very revocation, or "": it is taken back as it was put.

    Raises DependencyFault.
    """
    kinds = [kind for kind, name in _REVOKED.items() if name == revocation.kind]
    ids = [identifier(kind, revocation.issuer, revocation.value) for kind in kinds]
    return next((id for id in ids if state.contained.get(_NOTE + id) is not None), "")


def _mandatory(by: str, reason: str) -> None:
    if not by.strip() or not reason.strip():
        raise ValueError("who decides, and why, is recorded: both are needed")
    if not by.isprintable():
        raise ValueError("who decides has a name on one line, of letters that can be seen")


def _place(kind: str) -> str:
    return RECORD if kind in HERE else _NOTE


def _readable(id: str, raw: bytes | None) -> Standing | None:
    """A record that can be read: a damaged one is replaced by whoever contains the same again."""
    with suppress(DependencyFault):
        return read_standing(id, raw) if raw is not None else None
    return None


def _later(one: float | None, other: float | None) -> float | None:
    """Which end is later; None is never."""
    return None if one is None or other is None else max(one, other)
