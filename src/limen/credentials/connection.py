"""What is kept of an account a person connected at a server behind us. The tokens in it are sealed."""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any, Final

import orjson

from limen.core.faults import DependencyFault
from limen.core.ports import owner_of

PREFIX: Final = "connection/"
ENDED: Final = "ended-connection/"  # given up here, not yet told where the tokens came from


@dataclass(frozen=True, slots=True)
class Person:
    """Who signed in, by the provider's word, however they came to us."""

    issuer: str
    subject: str

    @property
    def owner(self) -> str:
        """Whose data key seals what is kept."""
        return owner_of(self.issuer, self.subject)


@dataclass(frozen=True, slots=True)
class Connection:
    """One person's grant at one server. Times in seconds since the epoch.

    `serial` grows with every new token, so that a token can be named without being shown. Who holds the `lease` is
    refreshing; `sealed` then still is what was there before.
    """

    server: str
    issuer: str
    subject: str
    authorization_server: str
    resource: str
    token_endpoint: str
    revocation_endpoint: str
    client: str
    method: str
    scopes: tuple[str, ...]  # granted
    asked: tuple[str, ...]
    linked: float
    expires: float  # of the access token; 0: the server did not say
    renewable: bool
    sealed: bytes = field(repr=False)
    serial: int = 0
    stepped: float = 0.0  # when scopes were last added
    lease: str = ""
    lease_until: float = 0.0
    not_before: float = 0.0  # no refresh before then
    name: str = ""  # of the person, for people

    @property
    def person(self) -> Person:
        """Whose it is."""
        return Person(self.issuer, self.subject)

    @property
    def key(self) -> str:
        """Where it is kept."""
        return key_of(self.person, self.server)

    @property
    def id(self) -> str:
        """For people and the log."""
        return self.key.removeprefix(PREFIX)[:12]

    def dump(self) -> bytes:
        """For the records."""
        return orjson.dumps({**asdict(self), "sealed": b64encode(self.sealed).decode()})


def key_of(person: Person, server: str) -> str:
    """Where this person's connection to this server is kept. One person, one server, one connection."""
    return PREFIX + sha256(f"{person.issuer}\n{person.subject}\n{server}".encode()).hexdigest()


def read(raw: bytes) -> Connection:
    """Raises DependencyFault for what this version did not write."""
    try:
        members: dict[str, Any] = orjson.loads(raw)
        members["sealed"] = b64decode(members["sealed"], validate=True)
        members["scopes"], members["asked"] = tuple(members["scopes"]), tuple(members["asked"])
        return Connection(**members)
    except (ValueError, TypeError, KeyError) as error:
        raise DependencyFault("vault", f"a connection cannot be read: {error}", retryable=False) from None
