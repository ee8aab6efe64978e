"""Legal holds: what must not be removed, whatever its age, for as long as a hold on it stands.

Kept in a table all replicas share. A hold is lifted by as many distinct people as a deletion needs: lifting one is half
of deleting.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

import orjson

from limen.core.faults import DependencyFault
from limen.core.ports import Table

_PREFIX: Final = "hold/"
Kind = Literal["all", "time", "caller", "incident"]


@dataclass(frozen=True, slots=True)
class Hold:
    """`value`: a subject (of `issuer`, or of any) or an incident's id. `since`, `until`: seconds since the epoch, None
    for no bound; of any kind of hold, only records of that time are held. `lifting`: who has agreed to lift it."""

    id: str
    kind: Kind
    by: str
    reason: str
    at: float
    value: str = ""
    issuer: str = ""
    since: float | None = None
    until: float | None = None
    lifting: tuple[str, ...] = ()

    def covers(self, record: Mapping[str, Any]) -> bool:
        """Whether it holds this record, as far as the record itself tells. One without a time is held by any time."""
        at = record.get("ts")
        if isinstance(at, int | float) and not (
            (self.since is None or at >= self.since) and (self.until is None or at <= self.until)
        ):
            return False
        if self.kind == "caller":
            return mentions(record, self.value, self.issuer)
        return self.kind != "incident" or of_incident(record, self.value)


class Holds:
    """The holds of all logs of one storage. All methods raise DependencyFault."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def add(self, hold: Hold) -> Hold:
        """In force when this returns; its id is made here."""
        made = replace(hold, id=secrets.token_hex(4))
        if not self._table.swap(_PREFIX + made.id, None, orjson.dumps(asdict(made))):
            raise DependencyFault("table", "a hold of that id exists")
        return made

    def every(self) -> list[Hold]:
        """All in force, oldest first. One that cannot be read is no reason to delete: raises DependencyFault."""
        found = [_read(raw) for _, raw in self._table.scan(_PREFIX)]
        return sorted(found, key=lambda hold: hold.at)

    def lift(self, identifier: str, by: str, people: int) -> Hold | None:
        """One of `people` who must agree lifts a hold. None when it is lifted, else the hold, which still stands.

        Raises LookupError when there is none.
        """
        while True:
            raw = self._table.get(_PREFIX + identifier)
            if raw is None:
                raise LookupError(f"there is no hold {identifier}")
            hold = _read(raw)
            agreed = tuple(dict.fromkeys((*hold.lifting, by)))
            after = None if len(agreed) >= people else replace(hold, lifting=agreed)
            if self._table.swap(_PREFIX + identifier, raw, None if after is None else orjson.dumps(asdict(after))):
                return after


def mentions(record: object, subject: str, issuer: str = "") -> bool:
    """Whether a record is about this person: names them anywhere, unless it says that another issuer knows them."""
    if isinstance(record, Mapping) and issuer:
        stated = record.get("iss") or record.get("issuer")
        if isinstance(stated, str) and stated and stated != issuer:
            return False
    return _names(record, subject)


def of_incident(record: Mapping[str, Any], incident: str) -> bool:
    """Whether a record belongs to an incident by its own words."""
    return record.get("incident") == incident or (
        record.get("t") in ("incident", "playbook") and record.get("id") == incident
    )


def _names(value: object, subject: str) -> bool:
    if isinstance(value, str):
        return value == subject or value.endswith(f"\0{subject}")
    if isinstance(value, Mapping):
        return any(_names(one, subject) for one in value.values())
    return isinstance(value, list) and any(_names(one, subject) for one in value)


def _read(raw: bytes) -> Hold:
    try:
        data: Any = orjson.loads(raw)
        return Hold(**{**data, "lifting": tuple(data["lifting"])})
    except (ValueError, TypeError, KeyError):
        raise DependencyFault("table", "a hold cannot be read", retryable=False) from None
