"""What people agreed to: a row for each person, client, redirect, resource and set of scopes, in a table all replicas
share. Nothing of it is in a cookie, so a cookie can neither be forged into a consent nor grow (OA-05, OA-06).

A row holds for exactly what the person was shown. Another client, redirect, resource, scope, or another content of the
client's document (its digest) is something nobody agreed to. A row that cannot be read is none.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from hmac import compare_digest
from typing import Any, Final

import orjson

from limen.core.faults import DependencyFault
from limen.core.ports import Table
from limen.oauth.model import Asked, Client, User
from limen.oauth.settings import ConsentSettings
from limen.oauth.web import OAuthError

MOST: Final = 500  # rows of one person
_TRIES: Final = 64  # of a compare-and-set; in each round somebody is the quickest
_ID: Final = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})-([0-9a-f]{16})\Z")
_LOOPBACK: Final = re.compile(r"(http://(?:127\.0\.0\.1|\[::1\])):\d{1,5}(?=[/?]|\Z)")
Record = Callable[[str, Mapping[str, Any]], None]  # kind of event and its members, for the log


@dataclass(frozen=True, slots=True)
class Consent:
    """One row. Times in seconds since the epoch. `nonce` is new whenever consent is given anew after it had ended, so
    what was issued under the old one stays without."""

    issuer: str
    subject: str
    name: str  # of the person, for people
    client: str
    client_name: str
    client_digest: str
    redirect_uri: str  # without the port, where it is a loopback address
    resource: str
    route: str
    scopes: tuple[str, ...]  # in order of name
    at: float
    expires: float
    nonce: str

    @property
    def owner(self) -> str:
        """First part of the key: all rows of a person stand together."""
        return _digest(self.issuer, self.subject)

    @property
    def matter(self) -> str:
        """Second part of the key: what was agreed to, and by whom."""
        about = (self.client, self.client_digest, self.redirect_uri, self.resource, *self.scopes)
        return _digest(self.owner, *about)

    @property
    def id(self) -> str:
        """What a grant names. Its first part differs between all rows."""
        return f"{self.matter}-{self.owner}-{self.nonce}"


class Consents:
    """The ledger. Every change is recorded before it takes effect. All methods raise DependencyFault."""

    def __init__(
        self,
        table: Table,
        record: Record,
        settings: ConsentSettings,
        now: Callable[[], float],
        on_revoked: Callable[[Consent], None] = lambda consent: None,
    ) -> None:
        self._table, self._record, self._settings, self._now = table, record, settings, now
        self._on_revoked = on_revoked  # called after a consent ended early, to end what was issued under it

    def give(self, user: User, asked: Asked, client: Client) -> str:
        """Keep that this person agreed to this. Returns the id of the row, the same for the same as long as it holds.

        Raises OAuthError `access_denied` when the client is no longer what was shown (OA-44), or a person has too many.
        """
        if asked.client != client.id or asked.client_digest != client.digest:
            raise OAuthError("access_denied", "The application changed while you were asked. Start again from it.")
        now = self._now()
        fresh = Consent(
            user.issuer, user.subject, user.name, client.id, client.name, client.digest, place(asked.redirect_uri),
            asked.resource, asked.route, tuple(sorted(set(asked.scopes))), now, now + self._settings.expires,
            secrets.token_hex(8),
        )  # fmt: skip
        key = f"{fresh.owner}/{fresh.matter}"
        for _ in range(_TRIES):
            raw = self._table.get(key)
            held = self._live(key, raw)
            if raw is None and sum(1 for _ in self._table.scan(f"{fresh.owner}/")) >= MOST:
                raise OAuthError("access_denied", f"There are {MOST} consents of yours already. Have some revoked.")
            row = fresh if held is None else replace(fresh, nonce=held.nonce)
            self._record("consent", _members("give", row))
            if self._table.swap(key, raw, orjson.dumps(asdict(row)), row.expires):
                return row.id
        raise DependencyFault("consents", "too many changes of one consent at once")

    def holds(self, id: str) -> bool:
        """Whether what was issued under this id still has a person's consent. Asked at every refresh."""
        return self._find(id) is not None

    def revoke(self, id: str, *, by: str, reason: str = "") -> Consent:
        """End it, for good: a later consent to the same has another id. Raises LookupError when it does not hold."""
        for _ in range(_TRIES):
            found = self._find(id)
            if found is None:
                raise LookupError(f"no consent {id[:64]}")
            row, raw = found
            self._record("consent", _members("revoke", row, by=by, reason=reason))
            if self._table.swap(f"{row.owner}/{row.matter}", raw, None):
                self._on_revoked(row)
                return row
        raise DependencyFault("consents", "too many changes of one consent at once")

    def list(self, *, user: str = "", client: str = "", server: str | None = None) -> tuple[Consent, ...]:
        """Those that hold, oldest first; of this subject, client or route only. The route of all servers is ""."""
        rows = (
            row
            for row in self._rows("")
            if (not user or row.subject == user)
            and (not client or row.client == client)
            and (server is None or row.route == server)
        )
        return tuple(sorted(rows, key=lambda row: (row.at, row.id)))

    def _find(self, id: str) -> tuple[Consent, bytes] | None:
        parts = _ID.match(id)
        if parts is None:
            return None
        key = f"{parts[2]}/{parts[1]}"
        raw = self._table.get(key)
        row = self._live(key, raw)
        if row is None or raw is None or not compare_digest(row.nonce, parts[3]):
            return None
        return row, raw

    def _rows(self, prefix: str) -> Iterator[Consent]:
        for key, raw in self._table.scan(prefix):
            if (row := self._live(key, raw)) is not None:
                yield row

    def _live(self, key: str, raw: bytes | None) -> Consent | None:
        row = None if raw is None else _read(key, raw)
        return row if row is not None and self._now() < row.expires else None


def place(redirect_uri: str) -> str:
    """The redirect URI as it is kept: a loopback port is another one each time (RFC 8252 section 7.3)."""
    return _LOOPBACK.sub(r"\1", redirect_uri, count=1) if _LOOPBACK.match(redirect_uri) else redirect_uri


def _read(key: str, raw: bytes) -> Consent | None:
    """None for what was not written here, or stands where something else should: nobody agreed to it."""
    try:
        members = orjson.loads(raw)
        row = Consent(**{**members, "scopes": tuple(members["scopes"])})
        typed = all(isinstance(member, str) for name, member in asdict(row).items() if name not in _OTHERS)
        typed = typed and all(isinstance(scope, str) for scope in row.scopes)
        typed = typed and all(type(moment) in (int, float) for moment in (row.at, row.expires))
        return row if typed and f"{row.owner}/{row.matter}" == key else None
    except (ValueError, TypeError, KeyError):
        return None


_OTHERS: Final = ("scopes", "at", "expires")


def _digest(*parts: str) -> str:
    return sha256(orjson.dumps(parts)).hexdigest()[:16]


def _members(change: str, row: Consent, **more: str) -> dict[str, Any]:
    members = as_row(row)
    return {"change": change, "given": members.pop("at"), **members, **more}


def as_row(row: Consent) -> dict[str, Any]:
    """A row as commands and the log show it."""
    members = asdict(row)
    del members["nonce"]
    return {"id": row.id, **members, "scopes": list(row.scopes)}
