"""Flight recorder, kept: the steps of one sign-in are put together as they come, whoever made them, and stay bounded.

What asks for a token is a program, who agrees is a browser, and each knows another part of the story. A step belongs to
the attempt it shares the most with: the transaction, the family of tokens, the same person and client, the same client
or the same program at one address, or at last the same resource asked for from one address, within ten minutes.

Steps wait in a bounded queue and are written by one background duty: a request neither waits for the records nor fails
with them. What does not fit is counted and said. Records are `attempt/<id>`, and `key/<digest>` finds one.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from hashlib import sha256
from typing import Any, Final

import orjson

from limen.core.faults import DependencyFault
from limen.core.ports import Table
from limen.oauth.recorder import Leg
from limen.oauth.redaction import plain, pseudonym, redacted, without_people
from limen.oauth.settings import RecorderSettings
from limen.oauth.web import Visit

EARLY: Final = frozenset({"challenge", "resource_metadata", "server_metadata", "registration", "client", "authorize"})
WINDOW: Final = 600.0  # seconds in which steps without a common name may belong together
QUEUE: Final = 4096  # steps that wait to be written
STEPS: Final = 48  # different ones of an attempt
KEYS: Final = 24  # names an attempt is found by
PER_ADDRESS: Final = 30  # attempts in which nobody signed in
BURST: Final = 240.0  # steps an address may leave at once, and again within a minute
ADDRESSES: Final = 4096  # whose steps are counted
DRAIN: Final = 0.25  # seconds between writes
SWEEP: Final = 60.0  # seconds between looks at what others kept
_SALT: Final = "salt"
_TRIES: Final = 5
_Row = dict[str, Any]


class Attempts:
    """Implements `recorder.Recorder`. `record` is told what was lost. Threads may call `note`, one task `run`."""

    def __init__(
        self,
        table: Table,
        settings: RecorderSettings,
        record: Callable[[str, Mapping[str, object]], object] = lambda event, fields: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._table, self._settings, self._record, self._now = table, settings, record, now
        self._queue: deque[_Row] = deque()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._salt = b""
        self._strangers: OrderedDict[str, str] = OrderedDict()  # id -> address, oldest first
        self._of: dict[str, OrderedDict[str, None]] = {}  # address -> ids of those
        self._known: OrderedDict[str, None] = OrderedDict()  # somebody signed in
        self._swept = float("-inf")
        self.lost = 0  # since the last report

    def note(
        self,
        leg: Leg,
        outcome: str,
        *,
        visit: Visit | None = None,
        client: str = "",
        resource: str = "",
        transaction: str = "",
        grant: str = "",
        user: str = "",
        field: str = "",
        detail: str = "",
    ) -> None:
        """Keep one step, later. Never waits and never fails; redaction comes before anything is kept, even here."""
        now = self._now()
        address = visit.address if visit is not None else ""
        if len(self._queue) >= QUEUE or (not user and address and not self._allowed(address, now)):
            self.lost += 1
            return
        agent = visit.headers.get("user-agent", ("",))[0] if visit is not None else ""
        self._queue.append(
            {
                "at": round(now, 3), "leg": leg, "outcome": redacted(outcome, 64), "client": redacted_name(client),
                "resource": redacted_name(resource), "transaction": _digest(transaction), "grant": _digest(grant),
                "user": plain(user, 200), "field": redacted(field, 80), "detail": redacted(detail),
                "address": plain(address, 64), "agent": redacted(agent, 120),
            }
        )  # fmt: skip

    def _allowed(self, address: str, now: float) -> bool:
        """A bucket for each address, so that one of them cannot fill the queue."""
        left, since = self._buckets.pop(address, (BURST, now))
        left = min(BURST, left + max(0.0, now - since) * BURST / 60)
        self._buckets[address] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > ADDRESSES:
            self._buckets.popitem(last=False)
        return left >= 1

    async def run(self) -> None:
        """Write what waits, until cancelled. A store that fails costs steps, nothing else."""
        while True:
            await asyncio.sleep(DRAIN)
            if self._queue or self.lost or self._now() - self._swept >= SWEEP:
                await asyncio.to_thread(self.drain)

    def drain(self) -> None:
        """Write what waits now, and hold the bounds."""
        try:
            if not self._salt:
                self._salt = self._common_salt()
            if self._now() - self._swept >= SWEEP:
                self.sweep()
            for _ in range(len(self._queue)):
                self._place(self._queue[0])
                self._queue.popleft()
        except DependencyFault:
            dropped = max(0, len(self._queue) - QUEUE // 2)  # what is newest is what somebody will look for
            for _ in range(dropped):
                self._queue.popleft()
            self.lost += dropped
        if self.lost:
            lost, self.lost = self.lost, 0
            self._record("attempts_lost", {"steps": lost})

    # -- where a step belongs -------------------------------------------------------------------------------------
    def _place(self, step: _Row) -> None:
        if self._settings.people == "hidden":
            step = {**step, "user": pseudonym(self._salt, step["user"]), "address": _net(step["address"])}
            step["detail"] = without_people(step["detail"], self._salt)
        keys = [_key(*names) for names in _names(step)]
        for _ in range(_TRIES):
            found = self._find(step, keys)
            if found is None:
                self._begin(step, keys)
                return
            id, raw, row = found
            old = list(row["keys"])
            _add(row, step, keys)
            if self._table.swap(f"attempt/{id}", raw, orjson.dumps(row), self._expires()):
                self._point(id, row, old, keys)
                self._count(id, row)
                return
        self.lost += 1

    def _find(self, step: _Row, keys: Iterable[str]) -> tuple[str, bytes, _Row] | None:
        """The attempt this step shares the most with, if it may still be the same one."""
        for key in keys:
            id = self._table.get(key)
            raw = None if id is None else self._table.get(f"attempt/{id.decode()}")
            if id is None or raw is None:
                continue
            row = orjson.loads(raw)
            if key[4] in "tg" or _may_be(row, step):
                return id.decode(), raw, row
        return None

    def _begin(self, step: _Row, keys: list[str]) -> None:
        id = f"{int(step['at'] * 1000):013d}-{secrets.token_hex(4)}"
        row = {name: step[name] for name in ("client", "resource", "transaction", "grant", "user", "address", "agent")}
        row |= {"at": step["at"], "last": step["at"], "steps": [], "more": 0, "keys": []}
        _add(row, step, keys)
        self._table.put(f"attempt/{id}", orjson.dumps(row), self._expires())
        self._point(id, row, [], keys)
        self._count(id, row)

    def _point(self, id: str, row: _Row, old: list[str], keys: list[str]) -> None:
        """Let the names of this step lead here from now on."""
        now = self._now()
        for key in keys:
            if key not in row["keys"]:
                continue
            lasting = key[4] in "tgu"
            if key not in old or not lasting:
                self._table.put(key, id.encode(), self._expires() if lasting else now + WINDOW)

    # -- bounds ---------------------------------------------------------------------------------------------------
    def _count(self, id: str, row: _Row) -> None:
        """Strangers share one pool and each address has its part of it; who signed in is never pushed out by them."""
        if row["user"]:
            self._forget(id)
            self._known[id] = None
            while len(self._known) > self._settings.attempts:
                self._drop(self._known.popitem(last=False)[0])
            return
        if id not in self._strangers:
            self._remember(id, row["address"])
        mine = self._of[self._strangers[id]]
        while len(mine) > PER_ADDRESS:
            self._drop(self._forget(next(iter(mine))))
        while len(self._strangers) > self._settings.attempts:
            self._drop(self._forget(next(iter(self._strangers))))

    def _remember(self, id: str, address: str) -> None:
        self._strangers[id] = address
        self._of.setdefault(address, OrderedDict())[id] = None

    def _forget(self, id: str) -> str:
        address = self._strangers.pop(id, None)
        if address is not None:
            del self._of[address][id]
            if not self._of[address]:
                del self._of[address]
        return id

    def _drop(self, id: str) -> None:
        raw = self._table.get(f"attempt/{id}")
        if raw is None:
            return
        for key in orjson.loads(raw)["keys"]:
            if self._table.get(key) == id.encode():
                self._table.swap(key, id.encode(), None)
        self._table.swap(f"attempt/{id}", raw, None)

    def sweep(self) -> None:
        """Count anew what is kept: other replicas write as well, and records end by themselves."""
        self._strangers.clear()
        self._of.clear()
        self._known.clear()
        self._swept = self._now()
        for id, row in list(kept(self._table)):
            if row["user"]:
                self._known[id] = None
            else:
                self._remember(id, row["address"])

    def _expires(self) -> float:
        return self._now() + self._settings.days * 86_400

    def _common_salt(self) -> bytes:
        """One for all replicas; whoever has the records has it too, so it hides nobody from them."""
        found = self._table.get(_SALT)
        if found is None:
            self._table.swap(_SALT, None, secrets.token_bytes(32))
            found = self._table.get(_SALT)
        return found or b""


def kept(table: Table) -> Iterable[tuple[str, _Row]]:
    """Every attempt, oldest first: id and record. A record that cannot be read is left out. Raises DependencyFault."""
    for key, raw in table.scan("attempt/"):
        with suppress(orjson.JSONDecodeError):
            yield key.removeprefix("attempt/"), orjson.loads(raw)


def find(table: Table, id: str) -> _Row | None:
    """One attempt."""
    raw = table.get(f"attempt/{id}")
    return None if raw is None else orjson.loads(raw)


def state(row: Mapping[str, Any], now: float) -> str:
    """How far it came: `works` (a call was made), `signed in`, `failed`, `open`, `left` (nothing for ten minutes)."""
    steps = row["steps"]
    good = {step["leg"] for step in steps if step["outcome"] == "ok"}
    last = newest(row)
    if last["outcome"] not in ("ok", "not_found"):
        return "failed"
    if "first_call" in good:
        return "works"
    if good & {"token", "refresh"}:
        return "signed in"
    return "open" if now - row["last"] < WINDOW else "left"


def newest(row: Mapping[str, Any]) -> _Row:
    """The step that was seen last."""
    step: _Row = max(reversed(row["steps"]), key=lambda step: step["last"])
    return step


def redacted_name(name: str) -> str:
    """An identifier: a URL without its query, or what is no secret by its nature."""
    shown = plain(name, 300).partition("?")[0].partition("#")[0]
    return redacted(shown, 300) if shown.startswith("eyJ") else shown


def _digest(name: str) -> str:
    """Handles may be what a browser or a client holds: what is kept finds them and is not them."""
    return sha256(name.encode()).hexdigest()[:16] if name else ""


def _key(kind: str, *parts: str) -> str:
    return f"key/{kind}{sha256(chr(0).join(parts).encode()).hexdigest()[:32]}"


def _net(address: str) -> str:
    """An address without its last part."""
    cut = "." if "." in address else ":"
    return address.rpartition(cut)[0] + f"{cut}*" if cut in address else address


def _names(step: _Row) -> Iterable[tuple[str, ...]]:
    """What a step can be found by, the surest first: t(ransaction), g(rant), u(ser), c(lient), p(rogram), a(ddress)."""
    client, resource, address, agent = step["client"], step["resource"], step["address"], step["agent"]
    if step["transaction"]:
        yield "t", step["transaction"]
    if step["grant"]:
        yield "g", step["grant"]
    if client and step["user"]:
        yield "u", client, step["user"], resource
    if client and address:
        yield "c", client, address
    if address:
        yield "p", address, agent, resource
        yield "p", address, agent, ""
        if resource:
            yield "a", address, resource


def _may_be(row: _Row, step: _Row) -> bool:
    """Whether a step without a common transaction or grant can belong to this attempt."""
    if step["at"] - row["last"] > WINDOW and not (step["user"] and step["user"] == row["user"]):
        return False
    for name in ("transaction", "grant", "client", "resource", "user"):
        if step[name] and row[name] and step[name] != row[name]:
            return False
    done = any(one["outcome"] == "ok" and one["leg"] in ("token", "first_call", "refresh") for one in row["steps"])
    return not (done and step["leg"] in EARLY)


def _add(row: _Row, step: _Row, keys: list[str]) -> None:
    """Put a step at the end; the same one again is counted with the first."""
    shown = {name: step[name] for name in ("leg", "outcome", "field", "detail")}
    row["last"] = step["at"]
    for name in ("client", "resource", "transaction", "grant", "user", "address", "agent"):
        row[name] = row[name] or step[name]
    row["keys"] = [*row["keys"], *(key for key in keys if key not in row["keys"])][:KEYS]
    for one in row["steps"]:
        if all(one[name] == value for name, value in shown.items()):
            one["times"], one["last"] = one["times"] + 1, step["at"]
            return
    if len(row["steps"]) >= STEPS:
        row["more"] += 1
        return
    row["steps"].append({"at": step["at"], "last": step["at"], "times": 1, **shown})
