"""Clients that registered themselves, as they are kept: one record each, secrets as digests, always expiring."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from typing import Any, Final, cast

import orjson

from limen.core.ports import Table
from limen.oauth.model import AuthMethod, Client
from limen.protocol.jsonrpc import canonical

PREFIX: Final = "client/"
_USED: Final = 3600.0  # seconds between two records of use


@dataclass(frozen=True, slots=True)
class Registered:
    """One client that registered itself. Times in seconds since the epoch; 0: never."""

    id: str
    name: str
    redirect_uris: tuple[str, ...]
    auth_method: AuthMethod
    grant_types: tuple[str, ...]
    scopes: tuple[str, ...]
    uri: str
    warnings: tuple[str, ...]
    secret: str = field(repr=False)  # SHA-256, hexadecimal; "" of a public client
    token: str = field(repr=False)  # of the registration access token, likewise
    created: float
    expires: float
    address: str = ""  # it came from
    used: float = 0.0

    @property
    def client(self) -> Client:
        """As the rest of the house knows it."""
        relied = [self.id, self.name, self.redirect_uris, self.auth_method, self.grant_types, self.scopes, self.uri]
        return Client(
            id=self.id,
            source="registered",
            name=self.name,
            redirect_uris=self.redirect_uris,
            auth_method=self.auth_method,
            secret_digest=self.secret,
            grant_types=frozenset(self.grant_types),
            scopes=frozenset(self.scopes),
            uri=self.uri,
            digest=sha256(canonical(relied)).hexdigest(),
            warnings=self.warnings,
        )

    def encode(self) -> bytes:
        """As it is kept."""
        return orjson.dumps(asdict(self))


def decode(data: bytes) -> Registered:
    """The record in these bytes, which we wrote ourselves."""
    row: dict[str, Any] = orjson.loads(data)
    lists = ("redirect_uris", "grant_types", "scopes", "warnings")
    return Registered(**{**row, **{name: tuple(row[name]) for name in lists}})


def new_id() -> str:
    """192 random bits: nobody guesses the id of another client."""
    return f"reg_{secrets.token_hex(24)}"


def load(table: Table, client_id: str) -> tuple[bytes, Registered] | None:
    """The record and its bytes, or None. Raises DependencyFault."""
    data = table.get(PREFIX + client_id)
    return None if data is None else (data, decode(data))


def each(table: Table) -> Iterator[Registered]:
    """All of them, by id. Raises DependencyFault."""
    return (decode(data) for _, data in table.scan(PREFIX))


def count(table: Table) -> int:
    """How many there are. Raises DependencyFault."""
    return sum(1 for _ in table.scan(PREFIX))


def mark_used(table: Table, client_id: str, now: float, idle: float) -> None:
    """It got a token: from now on it is forgotten when it is idle. Raises DependencyFault."""
    found = load(table, client_id)
    if found is None or (found[1].used and now - found[1].used < min(_USED, idle / 10)):
        return
    after = replace(found[1], used=now, expires=now + idle)
    table.swap(PREFIX + client_id, found[0], after.encode(), after.expires)  # lost to another use: that one says so


def remove(table: Table, client_id: str) -> Registered | None:
    """Forget one. None when there was none. Raises DependencyFault."""
    while (found := load(table, client_id)) is not None:
        if table.swap(PREFIX + client_id, found[0], None):
            return found[1]
    return None


def as_method(value: object) -> AuthMethod | None:
    """A way to authenticate that a registered client may choose, or None."""
    known = ("none", "client_secret_basic", "client_secret_post")
    return cast("AuthMethod", value) if value in known else None
