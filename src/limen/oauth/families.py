"""Refresh tokens: one record for all that began with one sign-in, changed in one atomic step (RFC 9700 section 4.14).

A refresh token names its family, proves that it is of it, and is good once: whoever uses it gets its successor. The
one before the newest is answered with the same successor for a few seconds, to the same client: an answer that got
lost must not cost a sign-in. Any older one, or that one later, was stolen or is in two hands: the family ends, and
with it the access tokens it has out.
"""

from __future__ import annotations

import time
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hmac import compare_digest
from typing import Any, Final

import orjson

from limen.core.encoding import digest
from limen.core.faults import DependencyFault
from limen.core.ports import Sealer, Table
from limen.oauth.codes import Ticket, new_secret, read_asked, read_user
from limen.oauth.model import Asked, User
from limen.oauth.settings import TokenSettings

PREFIX: Final = "family/"
_MARK: Final = "lr"
_ACCESS: Final = 900.0 + 120.0  # seconds an access token can be good, as the settings were or by clocks that differ
_DRIFT: Final = 1.0  # seconds the clocks of two replicas may differ
_LONGEST: Final = 200  # characters of a refresh token; ours have 112
_TRIES: Final = 50  # of a swap that others were faster with; each time one of them has succeeded

Revoke = Callable[[str, str, float], None]  # kind ("grant" or "token"), its name, and until when it matters


@dataclass(frozen=True, slots=True)
class Family:
    """What began with one sign-in. `mark`, `current` and `previous` are digests. Times in seconds since the epoch."""

    id: str  # `sid` of its access tokens
    asked: Asked
    user: User
    consent: str
    began: float
    ends: float  # however often it is refreshed
    mark: str = field(repr=False)
    jkt: str = ""  # the key its first request proved (RFC 9449 section 5)
    current: str = field(default="", repr=False)  # "": this client gets no refresh tokens
    previous: str = field(default="", repr=False)
    rotated: float = 0.0
    successor: str = field(default="", repr=False)  # the current one, sealed, in base64
    ended: str = ""  # why
    told: bool = False  # whether its access tokens were revoked


@dataclass(frozen=True, slots=True)
class Presented:
    """A refresh token that is of this family, whether it is good or not."""

    family: Family
    raw: bytes = field(repr=False)
    token: str = field(repr=False)

    @property
    def is_current(self) -> bool:
        return bool(self.family.current) and compare_digest(digest(self.token), self.family.current)

    @property
    def is_previous(self) -> bool:
        return bool(self.family.previous) and compare_digest(digest(self.token), self.family.previous)


def read_family(raw: bytes) -> Family:
    """A record. Raises DependencyFault."""
    try:
        members = orjson.loads(raw)
        known: dict[str, Any] = {"asked": read_asked(members.pop("asked")), "user": read_user(members.pop("user"))}
        return Family(**known, **members)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DependencyFault("table", f"a grant cannot be read: {type(error).__name__}", retryable=False) from None


class Families:
    """The records. Synchronous; raises DependencyFault."""

    def __init__(
        self,
        table: Table,
        sealer: Sealer,
        settings: TokenSettings,
        revoke: Revoke,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._table, self._sealer, self._settings, self._revoke, self._now = table, sealer, settings, revoke, now

    def make(self, ticket: Ticket, jkt: str, *, refreshing: bool) -> tuple[Family, str]:
        """A new family and its first refresh token ("" for a client that gets none)."""
        now, secret = self._now(), new_secret(16)
        made = Family(
            new_secret(16), replace(ticket.asked, challenge="", state=""), ticket.user, ticket.consent,
            began=now, ends=now + self._settings.grant, mark=digest(secret), jkt=jkt,
        )  # fmt: skip
        token = f"{_MARK}_{made.id}.{secret}.{new_secret()}" if refreshing else ""
        made = replace(made, current=digest(token) if token else "")
        self._table.put(PREFIX + made.id, orjson.dumps(made), self._until(made))
        return made, token

    def drop(self, family: Family) -> None:
        """Take back one nobody was told of."""
        self._table.swap(PREFIX + family.id, orjson.dumps(family), None)

    def get(self, identifier: str) -> Family | None:
        """A family that has not ended, or None."""
        raw = self._table.get(PREFIX + identifier)
        family = read_family(raw) if raw is not None else None
        return family if family is not None and not family.ended and self._now() < family.ends else None

    def find(self, token: str) -> Presented | None:
        """Whose refresh token this is. None for what was made up: the name of a family alone, which every access token
        shows, proves nothing and ends nothing."""
        kind, _, rest = token.partition("_")
        identifier, _, proof = rest.partition(".")
        secret, _, one = proof.partition(".")
        if kind != _MARK or not one or len(token) > _LONGEST:
            return None
        raw = self._table.get(PREFIX + identifier)
        if raw is None:
            return None
        family = read_family(raw)
        if not compare_digest(digest(secret), family.mark):
            return None
        if family.ended and not family.told:
            self.end(identifier, family.ended)  # whoever ended it did not get to the end of it
        over = family.ended or self._now() >= family.ends
        return None if over else Presented(family, raw, token)

    def is_good(self, presented: Presented) -> bool:
        """Whether it is the current one, or the one before within the time to try again."""
        family = presented.family
        since = self._now() - family.rotated
        again = self._settings.retry > 0 and -_DRIFT <= since < self._settings.retry and bool(family.successor)
        return presented.is_current or (again and presented.is_previous)

    def rotate(self, presented: Presented) -> str:
        """The successor of the current token, or of the previous one within the time to try again; "" when it is
        neither, which whoever asks must take for theft."""
        for _ in range(_TRIES):
            family = presented.family
            place = f"{PREFIX}{family.id}"
            if not presented.is_current:
                if not self.is_good(presented):
                    return ""
                return self._sealer.open(family.user.owner, place, b64decode(family.successor)).decode()
            head = presented.token.rpartition(".")[0]
            token = f"{head}.{new_secret()}"
            after = replace(
                family,
                current=digest(token),
                previous=family.current,
                rotated=self._now(),
                successor=b64encode(self._sealer.seal(family.user.owner, place, token.encode())).decode(),
            )
            if self._table.swap(place, presented.raw, orjson.dumps(after), self._until(after)):
                return token
            found = self.find(presented.token)
            if found is None:
                return ""
            presented = found
        raise DependencyFault("table", "a grant is written to without end")

    def end(self, identifier: str, why: str) -> bool:
        """Nothing of it is good any more: no refresh token from this moment, no access token within a second. Returns
        whether it was good until now."""
        place, ended = PREFIX + identifier, False
        while True:
            raw = self._table.get(place)
            if raw is None:
                return ended
            family = read_family(raw)
            until = self._now() + _ACCESS
            if family.ended and family.told:
                return ended
            if not family.ended:
                after = replace(family, ended=why, successor="")
                ended = self._table.swap(place, raw, orjson.dumps(after), until) or ended
            else:
                # After the first step, which no refresh survives; whoever finds it undone does it.
                self._revoke("grant", identifier, until)
                self._table.swap(place, raw, orjson.dumps(replace(family, told=True)), until)

    def withdraw(self, consent: str) -> list[str]:
        """End all that rests on a consent which was taken back. Their ids."""
        found = [read_family(raw) for _, raw in self._table.scan(PREFIX)]
        return [one.id for one in found if one.consent == consent and self.end(one.id, "the consent was withdrawn")]

    def end_all(self, whose: Callable[[User], bool], why: str) -> list[str]:
        """End all that began with a sign-in of these people. Their ids."""
        found = [read_family(raw) for _, raw in self._table.scan(PREFIX)]
        return [one.id for one in found if whose(one.user) and self.end(one.id, why)]

    def _until(self, family: Family) -> float:
        idle = self._settings.refresh if family.current else _ACCESS
        return min(family.ends, self._now() + idle)
