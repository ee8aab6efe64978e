"""What the token endpoint does with a code, a device's approval, or a refresh token. Synchronous: runs in a thread.

No step is half done: what is handed out is written down first, and what is spent is spent in one swap. So a process may
die anywhere, and the client that asks again gets in.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter as Tally
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from hmac import compare_digest
from typing import Final, NoReturn, Protocol

from limen.core.encoding import digest
from limen.core.faults import DependencyFault
from limen.core.ports import Counter
from limen.oauth.codes import PREFIX, Codes, Ticket, misfit
from limen.oauth.families import Families
from limen.oauth.minting import Issued, Mint
from limen.oauth.model import Asked, Client, User
from limen.oauth.recorder import Leg, Recorder
from limen.oauth.settings import TokenSettings
from limen.oauth.web import SCOPE, OAuthError, Visit

_REMEMBERED: Final = 10_000  # codes of which we know when, or that not, they were answered
_DRIFT: Final = 1.0  # seconds the clocks of two replicas may differ

Record = Callable[[str, Mapping[str, object]], object]


@cache
def _this_process() -> str:
    """Whatever configurations it has seen. No constant: processes forked after the import would share it."""
    return secrets.token_hex(8)


class Polled(Protocol):
    """Who knows the devices."""

    def poll(self, code: str, client: Client) -> str:
        """Where the approval of one is kept. Raises OAuthError, which says why there is none yet."""
        ...


@dataclass(frozen=True, slots=True)
class Ties:
    """What a grant depends on elsewhere. The first three are synchronous and may wait for a database."""

    holds: Callable[[str], bool]  # whether a consent is still given
    revoked: Callable[[User, str, str], bool]  # user, client, id of a token or ""
    revoke: Callable[[str, str, float], None]  # kind ("grant" or "token"), name, until
    possession: Callable[[Visit], Awaitable[str]]  # thumbprint of the key a DPoP proof was made with, or ""
    recorder: Recorder
    record: Record
    counter: Counter


@dataclass(slots=True)
class Job:
    """One request while it is worked on in a thread; the event loop writes down what is in it."""

    leg: Leg
    visit: Visit
    client: Client
    form: Mapping[str, str]
    jkt: str
    began: float
    began_wall: float
    family: str = ""
    user: str = ""
    resource: str = ""
    wrong: str = ""  # the parameter
    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def about(self, asked: Asked, user: User, family: str) -> None:
        self.family, self.user, self.resource = family, user.subject, asked.resource

    def refuse(self, code: str, detail: str, wrong: str = "") -> NoReturn:
        self.wrong = wrong
        said = {"invalid_grant": "not valid, or not any more", "invalid_scope": "more than was granted"}
        raise OAuthError(code, said.get(code, "not the one that was granted"), detail=detail)

    def tell(self, state: str, grant: str, **more: object) -> None:
        fields = {"state": state, "grant": grant, "client": self.client.id, "user": self.user, **more}
        self.events.append(("grant", fields))


@dataclass(frozen=True, slots=True)
class Given:
    issued: Issued
    refresh: str


class Flights:
    """Which codes are being answered, and when those answered last were: tells a request that was sent twice at once
    from one that came after the answer."""

    def __init__(self) -> None:
        self._flying: Tally[str] = Tally()
        self._left: OrderedDict[str, float] = OrderedDict()

    def enter(self, key: str) -> None:
        self._flying[key] += 1

    def leave(self, key: str, *, won: bool) -> None:
        self._flying[key] -= 1
        if not self._flying[key]:
            del self._flying[key]
        if won:
            self._left[key] = time.monotonic()
            if len(self._left) > _REMEMBERED:
                self._left.popitem(last=False)

    def overlapped(self, key: str, began: float) -> bool:
        left = self._left.get(key)
        return began < left if left is not None else self._flying[key] > 1


class Withdrawn(OAuthError):
    """The consent this rests on is gone, and does not come back."""


class Redeemer:
    """Spends what a client brings. Raises OAuthError, DependencyFault.

    `alone`: no other process serves from these tables, so a code that another one spent was spent by a process that is
    gone, and its client may never have heard.
    """

    def __init__(
        self,
        codes: Codes,
        families: Families,
        mint: Mint,
        ties: Ties,
        settings: TokenSettings,
        *,
        devices: Polled | None = None,
        alone: bool = False,
        process: str = "",
        now: Callable[[], float] = time.time,
    ) -> None:
        self._codes, self._families, self._mint, self._ties = codes, families, mint, ties
        self._settings, self._devices, self._alone, self._now = settings, devices, alone, now
        self._process, self.flights = process or _this_process(), Flights()
        self._untold: deque[str] = deque(maxlen=_REMEMBERED)  # families of answers that were never given

    def redeem_code(self, job: Job) -> Given:
        key = PREFIX + digest(job.form["code"])
        return self._redeem(job, key, key, partial(misfit, client=job.client, form=job.form))

    def redeem_device(self, job: Job) -> Given:
        assert self._devices is not None
        key = self._devices.poll(job.form["device_code"], job.client)
        flight = f"device:{digest(job.form['device_code'])}"
        return self._redeem(
            job, key, flight, lambda ticket: "" if ticket.asked.client == job.client.id else "client_id"
        )

    def _redeem(self, job: Job, key: str, flight: str, wrong: Callable[[Ticket], str]) -> Given:
        """Spend a ticket. The family is written first and is nobody's until the ticket names it: that swap is the one
        moment at which the grant is made."""
        while True:
            found = self._codes.find(key)
            if found is None:
                job.refuse("invalid_grant", "unknown, or its time is over", "code")
            raw, ticket = found
            job.about(ticket.asked, ticket.user, ticket.family)
            if bad := wrong(ticket):
                self._end(job, self._codes.burn(key), "its code came from somebody else")
                job.refuse("invalid_grant", f"the code was made for another {bad}, and is burnt", bad)
            if ticket.burnt or (ticket.family and not self._forsaken(ticket)):
                if ticket.burnt or not self._parallel(flight, ticket, job):
                    self._end(job, ticket.family, "its code was used again")
                job.refuse("invalid_grant", "used before", "code")
            self._standing(job, ticket.asked, ticket.user, ticket.consent)
            scopes = self._narrowed(job, ticket.asked)
            refreshing = "refresh_token" in job.client.grant_types
            family, refresh = self._families.make(ticket, job.jkt, refreshing=refreshing)
            issued = self._mint.access(family, scopes, job.jkt)
            spent = replace(ticket, family=family.id, by=self._process, at=self._now())
            try:
                made = self._codes.spend(key, raw, spent)
            except DependencyFault:  # it may have been written all the same
                self._untold.append(family.id)
                raise
            if made:
                self._end(job, ticket.family, "the process that made it died before it could say so")
                job.about(ticket.asked, ticket.user, family.id)
                job.tell("begun", family.id, resource=ticket.asked.resource, scopes=list(ticket.asked.scopes))
                return Given(issued, refresh)
            self._families.drop(family)  # somebody was faster; look again who

    def _forsaken(self, ticket: Ticket) -> bool:
        """Spent by a process that is gone, or by this one when it could not tell, so lately that its client may be
        asking again."""
        gone = (self._alone and ticket.by != self._process) or ticket.family in self._untold
        return gone and self._now() - ticket.at < self._settings.retry

    def _parallel(self, flight: str, ticket: Ticket, job: Job) -> bool:
        """Whether this request was under way before the one that succeeded was answered: the same client, which proved
        that it is, sent it twice. That is no replay, and no reason to sign a person out."""
        if ticket.by == self._process:
            return self.flights.overlapped(flight, job.began)
        return not self._alone and job.began_wall <= ticket.at + _DRIFT

    def refresh(self, job: Job) -> Given:
        """RFC 6749 section 6, RFC 9700 section 4.14.2."""
        presented = self._families.find(job.form["refresh_token"])
        if presented is None:
            job.refuse("invalid_grant", "unknown, ended, or its time is over", "refresh_token")
        family = presented.family
        job.about(family.asked, family.user, family.id)
        if not compare_digest(family.asked.client.encode(), job.client.id.encode()):
            job.refuse("invalid_grant", "issued to another client", "client_id")
        if not self._families.is_good(presented):
            self._end(job, family.id, "a refresh token of it was used again")
            job.refuse("invalid_grant", "used before: the grant has ended", "refresh_token")
        if family.jkt and not job.jkt:
            job.refuse("invalid_grant", "bound to a key, and none was proven", "DPoP")
        if family.jkt and job.client.auth_method == "none" and not compare_digest(family.jkt, job.jkt):
            job.refuse("invalid_grant", "bound to another key", "DPoP")  # RFC 9449 section 5
        try:
            self._standing(job, family.asked, family.user, family.consent)
        except Withdrawn:
            self._end(job, family.id, "the consent was withdrawn")
            raise
        scopes = self._narrowed(job, family.asked)
        issued = self._mint.access(family, scopes, job.jkt)
        token = self._families.rotate(presented)
        if not token:
            self._end(job, family.id, "a refresh token of it was used again")
            job.refuse("invalid_grant", "used before: the grant has ended", "refresh_token")
        return Given(issued, token)

    def _standing(self, job: Job, asked: Asked, user: User, consent: str) -> None:
        """Whether what was agreed to is still agreed to, by somebody and for somebody who is still welcome."""
        if not compare_digest(asked.client_digest.encode(), job.client.digest.encode()):
            job.refuse("invalid_grant", "the client is not what it was when a person agreed", "client_digest")
        if not self._ties.holds(consent):
            job.wrong = "consent"
            raise Withdrawn("invalid_grant", "not valid, or not any more", detail="the consent holds no more")
        if self._ties.revoked(user, job.client.id, ""):
            job.refuse("invalid_grant", "the user or the client was revoked", "user")

    def _narrowed(self, job: Job, asked: Asked) -> tuple[str, ...]:
        """The scopes of this access token: what was granted, or less (RFC 6749 section 6, RFC 8707 section 2.2)."""
        resource = job.form.get("resource", asked.resource)
        if not compare_digest(resource.encode("utf-8", "replace"), asked.resource.encode()):
            job.refuse("invalid_target", f"granted for {asked.resource}", "resource")
        if "scope" not in job.form:
            return asked.scopes
        wanted = frozenset(job.form["scope"].split(" "))
        if not wanted.issubset(asked.scopes) or not all(map(SCOPE.match, wanted)):
            job.refuse("invalid_scope", "wider than what was granted", "scope")
        return tuple(scope for scope in asked.scopes if scope in wanted)

    def _end(self, job: Job, family: str, why: str) -> None:
        if family and self._families.end(family, why):
            job.tell("ended", family, why=why)
