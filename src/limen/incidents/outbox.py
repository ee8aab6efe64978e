"""The outbox: who is still to be told of what. It is in the table all replicas share, and one of them delivers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from typing import Any, Final, Literal

import orjson

from limen.core.faults import DependencyFault
from limen.core.ports import Table

OUT: Final = "out/"
DEAD: Final = "dead/"
LEASE: Final = "lease"
LEASED: Final = 30.0  # seconds a replica delivers before it must say so again
FIRST_WAIT: Final = 5.0  # seconds before the second attempt; then twice as long each time
LONGEST_WAIT: Final = 900.0
PERSISTENT: Final = 5  # attempts at what the other side says it will never take

Act = Literal["trigger", "acknowledge", "resolve", "test"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One message on its way to one route. `id`: the same however often it is sent, for whoever gets it twice."""

    id: str
    route: str
    act: Act
    alert: Mapping[str, Any]
    since: float
    due: float
    attempts: int = 0
    refused: int = 0
    error: str = ""
    raw: bytes = field(default=b"", repr=False, compare=False)

    def encode(self) -> bytes:
        """As stored."""
        row = asdict(self)
        del row["raw"]
        return orjson.dumps(row)


def _read(raw: bytes) -> Entry:
    try:
        return Entry(**orjson.loads(raw), raw=raw)
    except (ValueError, TypeError) as error:
        raise DependencyFault("alerts", f"an entry of the outbox cannot be read: {error}") from None


def put(table: Table, route: str, act: Act, alert: Mapping[str, Any], now: float) -> Entry:
    """Once for the same route, act and telling of an alert. Raises DependencyFault."""
    seed = orjson.dumps([alert["id"], alert.get("notices", 0), act, route])
    entry = Entry(sha256(seed).hexdigest()[:24], route, act, alert, now, now)
    table.swap(OUT + entry.id, None, entry.encode())
    return entry


def entries(table: Table, *, dead: bool = False) -> list[Entry]:
    """What waits, or was given up; oldest first. Raises DependencyFault."""
    found = [_read(raw) for _, raw in table.scan(DEAD if dead else OUT)]
    return sorted(found, key=lambda one: (one.since, one.alert.get("notices", 0), one.id))


def claim(table: Table, holder: str, now: float) -> bool:
    """Whether this replica delivers now. Raises DependencyFault."""
    raw = table.get(LEASE)
    held: dict[str, Any] = orjson.loads(raw) if raw is not None else {"holder": "", "until": 0.0}
    if held["holder"] != holder and now < held["until"] <= now + LEASED:  # one from the far future is a broken clock's
        return False
    if held["holder"] == holder and held["until"] - now > LEASED / 2:
        return True
    return table.swap(LEASE, raw, orjson.dumps({"holder": holder, "until": now + LEASED}))


def delivered(table: Table, entry: Entry) -> None:
    """It arrived. Raises DependencyFault."""
    table.swap(OUT + entry.id, entry.raw, None)


def failed(table: Table, entry: Entry, error: str, now: float, *, refused: bool, give_up: float, wait: float) -> bool:
    """Try again later, or give it up after `give_up` seconds. `refused`: the other side will not take it as it is;
    `wait`: seconds it asked for. Returns whether it was given up. Raises DependencyFault."""
    pause = max(wait, min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(entry.attempts, 16)))
    again = replace(entry, attempts=entry.attempts + 1, refused=entry.refused + refused, due=now + pause,
                    error=error[:300])  # fmt: skip
    if now - entry.since < give_up and again.refused < PERSISTENT:
        table.swap(OUT + entry.id, entry.raw, again.encode())
        return False
    table.put(DEAD + entry.id, again.encode())
    table.swap(OUT + entry.id, entry.raw, None)
    return True


def revive(table: Table, identifier: str, now: float) -> Entry:
    """Send what was given up once more. Raises LookupError when there is no such entry, DependencyFault."""
    raw = table.get(DEAD + identifier)
    if raw is None:
        raise LookupError(f"nothing was given up as {identifier}")
    entry = replace(_read(raw), attempts=0, refused=0, due=now, since=now, error="")
    table.swap(OUT + entry.id, None, entry.encode())
    table.swap(DEAD + identifier, raw, None)
    return entry
