"""Tokens Limen signs for servers that trust its keys: for one person, one server, what this tool needs, minutes."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Hashable, Mapping
from hashlib import sha256
from typing import Any, Final
from urllib.parse import quote

import orjson

from limen.core.call import Approved, Call, Caller, Context, Protected, Session, UpstreamCredential
from limen.core.encoding import encode_base64url
from limen.core.ports import TokenSigner
from limen.core.verdict import Pass, Refuse, Verdict
from limen.credentials.exchanged import header
from limen.credentials.settings import Minted
from limen.credentials.sources import Obtained

DEEPEST: Final = 4  # actors in one chain
_SAFE: Final = "!#$&'()*+,-./:;<=>?@[]^_`{|}~"  # of a scope (RFC 6749 section 3.3), besides letters and digits


class MintedToken:
    """`issuer` is ours. Claims: RFC 9068, `act` (RFC 8693 section 4.1), `limen_call` for the call it is good for."""

    kind, personal = "minted", True

    def __init__(
        self, settings: Minted, place: str, issuer: str, signer: TokenSigner, now: Callable[[], float] = time.time
    ) -> None:
        self._settings, self._issuer, self._signer, self._now = settings, issuer, signer, now
        self.audience = settings.audience or place
        self._bound = settings.bind == "call"

    def differs(self, context: Context) -> Hashable:
        return self._scope(context.get(Approved))

    async def obtain(self, context: Context) -> Obtained | Refuse:
        return self.mint(context)

    def mint(self, context: Context) -> Obtained:
        """Raises DependencyFault when it cannot be signed."""
        caller = context.get(Caller)
        claims = self._claims(caller.subject, self._scope(context.get(Approved)))
        claims["client_id"] = caller.client or self._issuer
        provider = _others(caller).get("idp")
        claims["idp"] = provider if caller.issuer == self._issuer and isinstance(provider, str) else caller.issuer
        claims |= {name: value for name, value in (("acr", caller.acr), ("auth_time", caller.auth_time)) if value}
        if caller.amr:
            claims["amr"] = sorted(caller.amr)
        if (act := actors(caller)) is not None:
            claims["act"] = act
        if self._bound:
            protected, session = context.find(Protected), context.find(Session)
            sent = protected.over(context.call) if protected is not None else context.call
            claims["limen_call"] = call_digest(sent, context.get(Approved))
            if session is not None and session.id:
                claims["limen_session"] = _digest(session.id.encode())
        return self._signed(claims, 0.0 if self._bound else float(claims["exp"]))

    def own(self) -> Obtained:
        """For Limen itself, to read what the server offers."""
        return self._signed({**self._claims(self._issuer, "describe"), "client_id": self._issuer}, 0.0)

    def _claims(self, subject: str, scope: str) -> dict[str, Any]:
        at = int(self._now())
        return {
            "iss": self._issuer, "aud": self.audience, "sub": subject, "scope": scope,
            "iat": at, "exp": at + self._settings.lifetime, "jti": secrets.token_urlsafe(18),
        }  # fmt: skip

    def _signed(self, claims: Mapping[str, object], expires: float) -> Obtained:
        return Obtained(header(self._settings, self._signer.sign("at+jwt", claims)), expires)

    def _scope(self, approved: Approved) -> str:
        known = self._settings.scopes.get(approved.name) if approved.kind == "tool" else None
        return " ".join(known) if known is not None else f"{approved.kind}:{quote(approved.name, safe=_SAFE)}"


class EachCall:
    """A Source without memory: a token for this call and no other. Signing takes no waiting."""

    def __init__(self, how: MintedToken, place: str, fixed: tuple[tuple[str, str], ...] = ()) -> None:
        self._how, self._place, self._fixed = how, place, fixed

    def credential(self, context: Context) -> Verdict:
        header, account = self._how.mint(context).header, "\n".join(("minted", *context.get(Caller).key))
        return Pass((UpstreamCredential((*self._fixed, header), "minted", account, self._place),))

    def rejected(self, caller: Caller, status: int, challenge: str) -> None:
        return None

    def forget(self, caller: Caller) -> None:
        return None

    async def close(self) -> None:
        return None


def call_digest(call: Call, approved: Approved) -> str:
    """What a server compares with the request it got: SHA-256 of `{"arguments","method","name"}` as canonical JSON
    (sorted keys, no spaces, UTF-8), base64url. `name` is the server's own, the URI of a resource that is read."""
    name = call.name if call.method == "resources/read" else approved.name
    arguments = orjson.Fragment(call.arguments or b"{}")
    return _digest(orjson.dumps({"arguments": arguments, "method": call.method, "name": name}))


def actors(caller: Caller) -> dict[str, Any] | None:
    """Who acts for the person: the client, and whoever acted before it. None where a program acts for itself, and
    nothing of a chain that is too long or not one."""
    before = _others(caller).get("act")
    if not caller.client or (caller.machine and caller.client == caller.subject):
        return before if isinstance(before, dict) and 0 < depth(before) <= DEEPEST else None
    chain: dict[str, Any] = {"sub": caller.client}
    if isinstance(before, dict) and 0 < depth(before) < DEEPEST:
        chain["act"] = before
    return chain


def depth(act: object) -> int:
    """How many actors; 0 for what is no chain of them."""
    count = 0
    while isinstance(act, dict) and isinstance(act.get("sub"), str) and count <= DEEPEST:
        count, act = count + 1, act.get("act")
        if act is None:
            return count
    return 0


def _others(caller: Caller) -> Mapping[str, Any]:
    if caller.claims == "{}":
        return {}
    found = orjson.loads(caller.claims)
    return found if isinstance(found, dict) else {}


def _digest(data: bytes) -> str:
    return encode_base64url(sha256(data).digest())
