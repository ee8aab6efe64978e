"""Whose token is shown to an authorization server in exchange for one of an upstream: never one it did not issue."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, Literal

import orjson

from limen.core.call import Caller, Context
from limen.core.verdict import Refuse, refuse
from limen.credentials.endpoint import Denied
from limen.credentials.held import Held

_BEARER: Final = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([!-~]+) *\Z")
TYPES: Final = "urn:ietf:params:oauth:token-type:"
Wanted = Literal["access_token", "id_token", "refresh_token"]


@dataclass(frozen=True, slots=True)
class Subject:
    """A token of the person who calls. `held`: from their sign-in here, not from the call."""

    token: str = field(repr=False)
    held: bool


class Subjects:
    """`own` is our issuer; who carries its tokens signed in at `provider`, whose tokens `held` has. Both may be ""."""

    def __init__(self, own: str, provider: str, held: Held | None) -> None:
        self._own, self._provider, self._held = own, provider, held

    async def find(self, context: Context, issuers: Collection[str], want: Wanted = "access_token") -> Subject | Refuse:
        """The token of this caller that one of these issuers gave. Raises DependencyFault.

        A token the caller presents is used only if that very issuer made it for us: `Authenticate` has checked its
        audience. Programs and keys have nobody to act for.
        """
        caller = context.get(Caller)
        if caller.machine:
            return refuse("credentials.refused", "a program calls: there is no person whose token could be exchanged")
        if self._own and caller.issuer == self._own:
            return await self._of_sign_in(caller, issuers, want)
        if caller.issuer not in issuers:
            return refuse("credentials.refused", f"the caller's token is of {caller.issuer[:200]}, which is not asked")
        if want != "access_token":
            return refuse("credentials.refused", f"the caller presents an access token, and {want} is configured")
        if caller.binding is not None:
            return refuse("credentials.refused", "the caller's token is bound to a key we do not have")
        presented = context.presented.authorization
        found = _BEARER.match(presented[0]) if len(presented) == 1 else None
        if found is None:
            return refuse("credentials.refused", "the caller presented no bearer token")
        return Subject(found[1].decode("ascii"), False)

    async def _of_sign_in(self, caller: Caller, issuers: Collection[str], want: Wanted) -> Subject | Refuse:
        if self._held is None or self._provider not in issuers:
            return refuse("credentials.refused", f"people sign in at {self._provider[:200]}, which is not asked")
        if caller.provider != self._provider:  # the same subject, and another person
            return refuse(
                "credentials.interaction", "signed in at a provider that is not the one people sign in at now"
            )
        holding = await self._held.find(self._provider, caller.subject, identity=want == "id_token")
        if holding is None:
            return refuse("credentials.interaction", "nothing is kept of this person's sign-in, or it is over")
        token = {"access_token": holding.access, "id_token": holding.identity, "refresh_token": holding.refresh}[want]
        if not token:
            return refuse("credentials.refused", f"the provider gave no {want}")
        return Subject(token, True)


def refused(denied: Denied, subject: Subject) -> Refuse:
    """What a caller is told when an authorization server refuses the exchange."""
    detail = str(denied)
    if denied.code in ("interaction_required", "login_required", "consent_required", "insufficient_claims"):
        if denied.claims:
            return refuse("credentials.interaction", detail, claims=denied.claims[:4096])
        return refuse("credentials.interaction", detail)
    if denied.code == "invalid_grant" and subject.held:
        return refuse("credentials.interaction", detail)
    return refuse("credentials.refused", detail)


def read_claims(token: str) -> dict[str, object]:
    """Header and claims of a JWT, joined, unverified: enough to refuse it, never to accept it. {} for what is none."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        header, claims = (orjson.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in parts[:2])
    except ValueError:
        return {}
    return {**claims, "typ": header.get("typ")} if isinstance(header, dict) and isinstance(claims, dict) else {}
