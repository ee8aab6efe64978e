"""Values that are planted where only a thief looks, and who was seen with one.

Canaries are no credentials: they open nothing, so the table holds those issued here in clear. Records name a canary by
its name, never by its value.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from typing import Any, Final

import orjson

from limen.core.events import Event, Signal, Subject
from limen.core.ports import Table
from limen.detection.secrets_known import KnownSecrets, memorable, mint_canary
from limen.detection.sensitive_hit import Hit

_PREFIX: Final = "canary/"
# Who is given one in a result may have been sent it, by whoever found it first or the place it was planted in: that
# stays below asking. Who then sends it on may only quote: a person is asked. Nor can one who knows a canary take a
# server or client from all who use it. People are told in any case (rule decoy_called).
_SENT, _SENT_ON, _SEEN = 0.95, 0.79, 0.45
_SECONDS: Final = 24 * 3_600.0
FINDING: Final = "secret.canary"
_REMEMBERED: Final = 10_000  # callers


class Canaries:
    """Those of the configuration and those that were issued. Safe for several threads: one writer at a time."""

    def __init__(self, table: Table | None = None, configured: Mapping[str, str] | None = None) -> None:
        self._table, self._lock = table, threading.Lock()
        self._known, self._names = KnownSecrets(), dict[str, str]()
        self._configured = dict(configured or {})
        self._issued: dict[str, bytes] = {}
        self._build({})
        if table is not None:
            self.refresh()

    def refresh(self) -> bool:
        """Read those that were issued. True when something changed. Raises DependencyFault."""
        if self._table is None:
            return False
        issued = dict(self._table.scan(_PREFIX))
        if issued == self._issued:
            return False
        self._build(issued)
        return True

    def _build(self, issued: dict[str, bytes]) -> None:
        """A new set in place of the old one: readers see one or the other."""
        known, names = KnownSecrets(), dict[str, str]()
        values = [(name, value.encode()) for name, value in self._configured.items()]
        values += [(row["name"], row["value"].encode()) for row in map(orjson.loads, issued.values())]
        for name, value in values:
            known.add(value, "canary")
            names[sha256(value).hexdigest()] = name
        with self._lock:
            self._known, self._names, self._issued = known, names, issued

    def find(self, text: str) -> list[Hit]:
        """Where one of them stands, in any usual form."""
        return self._known.find(text)

    def __len__(self) -> int:
        return len(self._names)


def plant(table: Table, name: str, by: str, now: float) -> str:
    """Issue a canary. Returns its value, which is shown once. Raises ValueError when there is one of that name."""
    value = mint_canary().decode()
    row = {"name": name, "value": value, "by": by, "at": now}
    if not table.swap(_PREFIX + name, None, orjson.dumps(row)):
        raise ValueError(f"there is a canary named {name!r}")
    return value


def planted(table: Table) -> Iterator[dict[str, Any]]:
    """Those that were issued, without their values."""
    for _, raw in table.scan(_PREFIX):
        row = orjson.loads(raw)
        yield {"name": row["name"], "by": row["by"], "at": row["at"]}


def uproot(table: Table, name: str) -> bool:
    """It is looked for no longer. Whether there was one."""
    raw = table.get(_PREFIX + name)
    return raw is not None and table.swap(_PREFIX + name, raw, None)


def plantable(value: str) -> bool:
    """Whether a value can be told from ordinary text."""
    return memorable(value.encode())


class DecoyWatch:
    """Watch. Tells of decoys that were called and canaries that were seen; `record` puts on record what only the
    watching thread notices: canaries among what inspection found, and in the destinations of servers."""

    name = "decoys"

    def __init__(
        self,
        canaries: Canaries,
        record: Callable[[str, Mapping[str, Any]], None],
        signal: Callable[[Signal], None],
    ) -> None:
        self._canaries, self._record, self._signal = canaries, record, signal
        self._shown: OrderedDict[str, float] = OrderedDict()  # caller -> when a result held one

    def see(self, event: Event) -> None:
        if event.type == "security.decoy.called":
            self._tell(event, "called", f"called the decoy {event.server}/{event.name}")
        elif event.type == "security.decoy.canary":
            where = str(event.record.get("where", ""))
            self._tell(event, where, f"a planted value was seen in {_PLACES.get(where, where)}")
        elif FINDING in event.findings and event.category != "incident":
            self._note(event, "result" if event.type == "call.outcome" else "arguments")
        elif event.type.startswith("egress.") and len(self._canaries):
            reached = " ".join(
                str(event.record[one]) for one in ("host", "name", "address", "path") if event.record.get(one)
            )
            if self._canaries.find(reached):
                self._note(event, "egress")

    def settle(self, now: float) -> None:
        """Canaries issued meanwhile."""
        self._canaries.refresh()

    def _note(self, event: Event, where: str) -> None:
        about = {"iss": event.issuer, "sub": event.subject, "client": event.client, "server": event.server}
        given = {name: value for name, value in {**about, "name": event.name, "ref": event.ref}.items() if value}
        self._record("security", {"event": "decoy.canary", "severity": "critical", "where": where, **given})

    def _tell(self, event: Event, where: str, why: str) -> None:
        if event.subject:
            subject, score = Subject("caller", event.caller), self._score(event, where)
        elif event.client:
            subject, score = Subject("client", event.client), _SEEN
        elif event.server:
            subject, score = Subject("server", event.server), _SEEN
        else:
            return  # a stranger: the record itself is all there is
        self._signal(Signal(subject, "decoy", score, why, event.at, event.id, _SECONDS))

    def _score(self, event: Event, where: str) -> float:
        """Of a caller."""
        if where == "result":
            self._shown[event.caller] = event.at
            self._shown.move_to_end(event.caller)
            if len(self._shown) > _REMEMBERED:
                self._shown.popitem(last=False)
            return _SEEN
        was = self._shown.get(event.caller) if where == "arguments" else None
        return _SENT_ON if was is not None and event.at - was < _SECONDS else _SENT


_PLACES: Final = {
    "arguments": "the arguments of a call",
    "result": "a result",
    "egress": "where a server connected to",
    "credential": "a credential that was presented",
}
