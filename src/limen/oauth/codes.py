"""Authorization codes: one record each, spent in one atomic step (RFC 6749 section 4.1.2, RFC 9700 section 2.1.1).

A code is 256 random bits and is kept as its digest. Whoever has one may have got it from a log or a referrer, so it is
good for one client, one redirect URI and one verifier, and a wrong try ends it.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hmac import compare_digest
from typing import Any, Final

import orjson

from limen.core.encoding import digest, encode_base64url
from limen.core.faults import DependencyFault, InvariantFault
from limen.core.ports import Table
from limen.oauth.model import Asked, Client, User
from limen.oauth.pkce import CHALLENGE, challenge_of

PREFIX: Final = "code/"
KEPT: Final = 86_400.0  # seconds a spent code is remembered: who presents it later ends what was made with it
_VERIFIER: Final = re.compile(r"[A-Za-z0-9._~-]{43,128}\Z")  # RFC 7636 section 4.1


@dataclass(frozen=True, slots=True)
class Ticket:
    """The right to one family of tokens: a code, or the approval of a device. `family`, `by` and `at` say what was
    made with it, which process did, and when."""

    asked: Asked
    user: User
    consent: str
    until: float  # seconds since the epoch
    family: str = ""
    by: str = ""
    at: float = 0.0
    burnt: bool = False


def new_secret(size: int = 32) -> str:
    """So many random bytes as base64url."""
    return encode_base64url(secrets.token_bytes(size))


def read_asked(members: Mapping[str, Any]) -> Asked:
    """What JSON made of it, back. Raises TypeError, KeyError."""
    lists = {name: tuple(members[name]) for name in ("scopes", "acr_values")}
    return Asked(**{**members, **lists})


def read_user(members: Mapping[str, Any]) -> User:
    """What JSON made of it, back. Raises TypeError, KeyError."""
    return User(**{**members, **{name: tuple(members[name]) for name in ("groups", "roles", "amr")}})


def read_ticket(raw: bytes) -> Ticket:
    """A record. Raises DependencyFault: what cannot be read is not the stranger's fault."""
    try:
        members = orjson.loads(raw)
        known: dict[str, Any] = {"asked": read_asked(members.pop("asked")), "user": read_user(members.pop("user"))}
        return Ticket(**known, **members)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DependencyFault("table", f"a code cannot be read: {type(error).__name__}", retryable=False) from None


def misfit(ticket: Ticket, client: Client, form: Mapping[str, str]) -> str:
    """Which parameter of a redemption is not the one the code was made for; "" if all are (OAuth 2.1 section 4.1.3)."""
    if not compare_digest(ticket.asked.client.encode(), client.id.encode()):
        return "client_id"
    presented = form.get("redirect_uri", ticket.asked.redirect_uri)  # OAuth 2.1 clients send it no more
    if not compare_digest(presented.encode("utf-8", "replace"), ticket.asked.redirect_uri.encode()):
        return "redirect_uri"
    verifier = form.get("code_verifier", "")
    if not _VERIFIER.match(verifier):
        return "code_verifier"
    return "" if compare_digest(challenge_of(verifier).encode(), ticket.asked.challenge.encode()) else "code_verifier"


class Codes:
    """The records. Synchronous; raises DependencyFault."""

    def __init__(self, table: Table, lifetime: float, now: Callable[[], float] = time.time) -> None:
        self._table, self._lifetime, self._now = table, lifetime, now

    def make(self, asked: Asked, user: User, consent: str) -> str:
        """A new code. Raises InvariantFault without an S256 challenge: nobody could tell its owner from a thief."""
        if not CHALLENGE.match(asked.challenge):
            raise InvariantFault("an authorization code without a code_challenge")
        code = f"lc_{new_secret()}"
        until = self._now() + self._lifetime
        ticket = Ticket(replace(asked, state=""), user, consent, until)
        if not self._table.swap(PREFIX + digest(code), None, orjson.dumps(ticket), until):
            raise InvariantFault("two codes are the same")
        return code

    def find(self, key: str) -> tuple[bytes, Ticket] | None:
        """The record at a key, as it is kept and as it reads; None when there is none, or its time is over."""
        raw = self._table.get(key)
        if raw is None:
            return None
        ticket = read_ticket(raw)
        return None if not ticket.family and not ticket.burnt and self._now() >= ticket.until else (raw, ticket)

    def spend(self, key: str, raw: bytes, ticket: Ticket) -> bool:
        """Write down what was made with it, unless somebody wrote something else since it was read."""
        return self._table.swap(key, raw, orjson.dumps(ticket), self._now() + KEPT)

    def burn(self, key: str) -> str:
        """Make it good for nothing. Returns the family it was spent for, if it was."""
        while (found := self.find(key)) is not None and not found[1].burnt:
            if self.spend(key, found[0], replace(found[1], burnt=True)):
                return found[1].family
        return found[1].family if found is not None else ""
