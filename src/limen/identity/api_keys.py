"""Keys of our own for clients that cannot do OAuth: scoped, for named servers, always expiring, revoked at once.

A key reads `limen_ID_SECRET`: 12 hexadecimal digits to find it by, then 256 random bits and a CRC-32 over all before
it, so that a mistyped key and a random one cost nothing to refuse and a leaked one is easily found by scanners. What
is stored is its SHA-256: nothing slower is needed where the secret is random and not a person's choice.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from hmac import compare_digest
from types import MappingProxyType
from typing import Any, Final

import orjson

from limen.core.call import Caller
from limen.core.faults import InvariantFault
from limen.core.ports import Table
from limen.core.verdict import Pass, Verdict, refuse
from limen.identity.scopes import SCOPE, held

ISSUER: Final = "api-key"  # no identity provider can have this name: theirs are URLs
PREFIX: Final = b"limen_"
EVERY: Final = "*"
DEFAULT_DAYS: Final = 90.0
MOST_DAYS: Final = 366.0
_KEY: Final = re.compile(rb"limen_([0-9a-f]{12})_[0-9a-f]{64}([0-9a-f]{8})\Z")
_USED: Final = 60.0  # seconds between two records of use
_DAY: Final = 86_400.0
Tell = Callable[..., None]  # kind of event and its members, for the log


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key as it is stored. Times in seconds since the epoch; 0: never."""

    id: str
    digest: str = field(repr=False)  # SHA-256 of the whole key, hexadecimal
    owner: str
    servers: tuple[str, ...]  # names of servers and bundles, or EVERY
    scopes: tuple[str, ...]
    created: float
    expires: float
    by: str
    revoked: float = 0.0
    revoked_by: str = ""

    def state(self, now: float) -> str:
        """active, expired or revoked."""
        return "revoked" if self.revoked else "expired" if now >= self.expires else "active"


def create(
    table: Table,
    tell: Tell,
    *,
    owner: str,
    servers: tuple[str, ...],
    scopes: tuple[str, ...],
    by: str,
    days: float,
    now: float,
) -> tuple[str, ApiKey]:
    """A new key and its record; the key itself is nowhere else. The log hears of it first: a change that nobody
    recorded must not take effect. Raises ValueError, DependencyFault."""
    if not 0 < len(owner) <= 255 or not owner.isprintable():
        raise ValueError("an owner is a printable name of at most 255 characters")
    if not servers:
        raise ValueError("a key is for named servers")
    if bad := [scope for scope in scopes if not SCOPE.match(scope)]:
        raise ValueError(f"{bad[0][:40]!r} is not a scope")
    if not 0 < days <= MOST_DAYS:
        raise ValueError(f"a key expires after {MOST_DAYS:.0f} days at most")
    name = secrets.token_hex(6)
    body = f"limen_{name}_{secrets.token_hex(32)}"
    key = f"{body}{zlib.crc32(body.encode()):08x}"
    record = ApiKey(
        id=name,
        digest=sha256(key.encode()).hexdigest(),
        owner=owner,
        servers=tuple(sorted(set(servers))),
        scopes=tuple(sorted(set(scopes))),
        created=now,
        expires=now + days * _DAY,
        by=by,
    )
    tell("key", **_members("create", record, by, now))
    if not table.swap(f"key:{name}", None, _dump(record)):
        raise InvariantFault("two keys of one id")
    return key, record


def revoke(table: Table, tell: Tell, name: str, *, by: str, now: float) -> ApiKey:
    """No call that begins after this returns is let in by the key. Raises LookupError, DependencyFault."""
    while True:
        raw = table.get(f"key:{name}")
        if raw is None:
            raise LookupError(f"no key {name}")
        record = _load(raw)
        if record.revoked:
            return record
        after = replace(record, revoked=now, revoked_by=by)
        tell("key", **_members("revoke", after, by, now))
        if table.swap(f"key:{name}", raw, _dump(after)):
            return after


def regenerate(table: Table, tell: Tell, name: str, *, by: str, now: float, overlap: float) -> tuple[str, ApiKey]:
    """A new key for the same owner, servers, scopes and time, in place of this one, which ends after `overlap` seconds
    (0: now). The new one is there before the former one goes. Raises LookupError, ValueError for a key that is not
    active, DependencyFault."""
    raw = table.get(f"key:{name}")
    if raw is None:
        raise LookupError(f"no key {name}")
    former = _load(raw)
    if former.state(now) != "active":
        raise ValueError(f"key {name} is {former.state(now)}: create another one")
    key, record = create(
        table, tell, owner=former.owner, servers=former.servers, scopes=former.scopes, by=by,
        days=(former.expires - former.created) / _DAY, now=now,
    )  # fmt: skip
    if overlap <= 0:
        revoke(table, tell, name, by=by, now=now)
        return key, record
    while not former.revoked and former.expires > now + overlap:
        after = replace(former, expires=now + overlap)
        tell("key", **_members("shorten", after, by, now))
        if table.swap(f"key:{name}", raw, _dump(after)):
            break
        raw = table.get(f"key:{name}") or raw
        former = _load(raw)
    return key, record


def find(table: Table, prefix: str = "") -> list[ApiKey]:
    """Records of keys whose id begins so, oldest first. `prefix` may be a whole key: only its id is looked at."""
    bare = prefix.removeprefix("limen_")[:12]
    return sorted((_load(raw) for _, raw in table.scan(f"key:{bare}")), key=lambda record: record.created)


def last_used(seen: Table, name: str) -> float | None:
    """When it let a call in, to the minute; None: never, or not within its life."""
    raw = seen.get(f"used:{name}")
    return float(raw) if raw else None


def _members(change: str, record: ApiKey, by: str, now: float) -> dict[str, Any]:
    about = {"change": change, "key": record.id, "owner": record.owner, "servers": record.servers}
    return {**about, "scopes": record.scopes, "expires": record.expires, "by": by, "at": now}


def _dump(record: ApiKey) -> bytes:
    return orjson.dumps(asdict(record))


def _load(raw: bytes) -> ApiKey:
    members = orjson.loads(raw)
    return ApiKey(**{**members, "servers": tuple(members["servers"]), "scopes": tuple(members["scopes"])})


class ApiKeys:
    """Judges keys against the records as they are at this moment: nothing is remembered but when one was used."""

    def __init__(
        self,
        table: Table,
        seen: Table,
        now: Callable[[], float] = time.time,
        implied: Mapping[str, frozenset[str]] = MappingProxyType({}),
    ) -> None:
        self._table, self._seen, self._now, self._implied = table, seen, now, implied
        self._used: dict[str, float] = {}

    def verify(self, key: bytes, route: str) -> Verdict | Awaitable[Verdict]:
        """Judge one key for one route. Raises DependencyFault.

        Refusals: identity.invalid (unknown, altered, revoked), identity.expired, identity.audience.
        """
        match = _KEY.match(key)
        if match is None or int(match[2], 16) != zlib.crc32(key[:-8]):
            return refuse("identity.invalid", "not a key of ours")
        raw = self._table.get(f"key:{match[1].decode()}")
        record = _load(raw) if raw is not None else None
        digest = record.digest if record is not None else "0" * 64
        if not compare_digest(sha256(key).hexdigest(), digest) or record is None:
            return refuse("identity.invalid", "unknown key")
        now = self._now()
        if record.revoked:
            return refuse("identity.invalid", f"key {record.id} is revoked")
        if now >= record.expires:
            return refuse("identity.expired", f"key {record.id} expired")
        if route not in record.servers and EVERY not in record.servers:
            return refuse("identity.audience", f"key {record.id} is not for this server")
        passed = Pass(
            (
                Caller(
                    issuer=ISSUER,
                    subject=record.owner,
                    client=f"key:{record.id}",
                    scopes=held(frozenset(record.scopes), self._implied),
                    expires=record.expires,
                    issued=record.created,
                    token_id=record.id,
                    key_id=record.id,
                    machine=True,
                ),
            )
        )
        if now - self._used.get(record.id, 0.0) < _USED:
            return passed
        return self._use(record, now, passed)

    async def _use(self, record: ApiKey, now: float, passed: Pass) -> Verdict:
        self._used[record.id] = now
        await asyncio.to_thread(self._seen.put, f"used:{record.id}", str(now).encode(), record.expires + _DAY)
        return passed
