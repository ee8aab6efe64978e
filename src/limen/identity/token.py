"""Decides what a bearer token says, before and apart from its signature (RFC 7515, RFC 7519, RFC 9068)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from limen.core.call import Caller
from limen.identity.binding import read_binding
from limen.identity.issuers import AT_JWT, IdentitySettings, IssuerSettings
from limen.identity.keys import MAX_KID, decode_base64url
from limen.identity.profiles import Rules
from limen.identity.scopes import SCOPE, held
from limen.protocol.jsonrpc import JsonLimits, NotJson, canonical, parse

MAX_TOKEN: Final = 16 << 10
MAX_HEADER: Final = 8 << 10
_HEADER_LIMITS: Final = JsonLimits(size=MAX_HEADER, depth=4, members=64, string=MAX_HEADER)
_CLAIMS_LIMITS: Final = JsonLimits(size=MAX_TOKEN, depth=16, members=2000, string=MAX_TOKEN)
# Key material or a pointer to it chosen by the sender, and everything that changes how the rest is to be read.
# `nonce`: what is signed is not what is seen (tokens for Microsoft Graph).
_REFUSED_HEADERS: Final = frozenset(
    {"crit", "jku", "x5u", "jwk", "x5c", "b64", "enc", "zip", "p2c", "p2s", "epk", "nonce"}
)
_ID_TOKEN_CLAIMS: Final = frozenset({"nonce", "at_hash", "c_hash", "s_hash"})
_OTHER_TOKEN_KINDS: Final = frozenset({"id", "refresh", "offline", "logout"})
_UNPRINTABLE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_MAX_TIME: Final = 253_402_300_799  # the end of year 9999
_MAX_NAME: Final = 255
_NONE: Final[frozenset[str]] = frozenset()
_READ: Final = frozenset(
    ("iss", "sub", "aud", "exp", "nbf", "iat", "jti", "scope", "scp", "client_id", "azp", "amr", "acr", "auth_time")
)
# Client credentials (RFC 9068 section 2.2: `sub` is the client), SPIFFE JWT-SVIDs, Kubernetes service accounts.
_WORKLOADS: Final = ("spiffe://", "system:serviceaccount:")


class TokenRefused(Exception):
    """The token is not accepted. `reason` is an id of core.reasons; the message is for the audit."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def _invalid(detail: str) -> TokenRefused:
    return TokenRefused("identity.invalid", detail)


@dataclass(frozen=True, slots=True)
class Compact:
    """A well-formed compact JWS. Nothing in it is proven yet."""

    token: bytes = field(repr=False)
    algorithm: str
    kid: str | None
    kind: str  # `typ` in lower case, "" when absent
    issuer: str
    claims: dict[str, Any] = field(repr=False)


def read_compact(token: bytes) -> Compact:
    """Take a compact JWS apart in the only way it can be read (RFC 7515 section 5.2). Raises TokenRefused.

    Other segment counts (JWE has five), lax base64url, repeated member names, and headers that bring keys or change
    the processing are refused.
    """
    if len(token) > MAX_TOKEN:
        raise _invalid("larger than a token may be")
    segments = token.decode("ascii", "replace").split(".")
    if len(segments) != 3 or len(segments[0]) > MAX_HEADER:
        raise _invalid("not a compact JWS")
    try:
        header = parse(decode_base64url(segments[0]), _HEADER_LIMITS)
        claims = parse(decode_base64url(segments[1]), _CLAIMS_LIMITS)
        decode_base64url(segments[2])
    except (ValueError, NotJson) as error:
        raise _invalid(f"malformed: {error}") from None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise _invalid("header and payload must be JSON objects")
    refused = _REFUSED_HEADERS.intersection(header)
    if refused:
        raise _invalid(f"header parameter not accepted: {', '.join(sorted(refused))}")
    algorithm, kid, kind, issuer = header.get("alg"), header.get("kid"), header.get("typ", ""), claims.get("iss")
    if not isinstance(algorithm, str) or not isinstance(kind, str) or not isinstance(issuer, str):
        raise _invalid("alg, typ and iss must be strings")
    if "kid" in header and not (isinstance(kid, str) and 0 < len(kid) <= MAX_KID):
        raise _invalid("kid is not a short string")
    return Compact(token, algorithm, kid, kind.casefold(), issuer, claims)


def read_caller(
    compact: Compact, issuer: IssuerSettings, settings: IdentitySettings, resource: str, now: float
) -> Caller:
    """The caller these claims describe (RFC 9068 section 4, RFC 8707 section 2). Raises TokenRefused.

    Says nothing about the signature: the caller of this function checks it with a key of `issuer`.
    """
    claims, rules = compact.claims, issuer.rules
    _check_kind(compact)
    expires = _check_times(claims, settings, now)
    _check_audience(claims.get("aud"), resource, rules)
    try:
        binding = read_binding(claims["cnf"]) if "cnf" in claims else None
    except ValueError as error:
        raise _invalid(str(error)) from None
    violation = rules.violation(claims)
    if violation:
        raise _invalid(violation)
    subject, client = _subject(claims, rules), _client(claims, rules.profile.client_claims)
    auth_time = _time(claims, "auth_time")
    if auth_time is not None and auth_time > now + settings.leeway:
        raise _invalid("auth_time lies in the future")
    acr = claims.get("acr")
    return Caller(
        issuer=compact.issuer,
        subject=subject,
        client=client,
        scopes=held(_scopes(claims, issuer.scope_claim), settings.implied),
        roles=_roles(claims, settings.roles_claim, rules),
        groups=_listed_here(claims, settings.groups_claim, "groups"),
        amr=_names(claims.get("amr"), "amr"),
        acr="" if acr is None else _name(acr, "acr"),
        auth_time=auth_time,
        expires=float(expires),
        issued=float(claims.get("iat") or 0),
        token_id=_name(claims["jti"], "jti") if "jti" in claims else sha256(compact.token).hexdigest()[:32],
        claims=_rest(claims, settings).decode(),
        machine=_is_machine(claims, rules, str(claims["sub"]), client),
        contexts=_names(claims.get(rules.profile.context_claim), "contexts") if rules.profile.context_claim else _NONE,
        device=_fact(claims, settings.facts["device"], "device"),
        risk=_risk(claims, settings),
        facts=tuple(_named_facts(claims, settings)) if settings.claims else (),
        binding=binding,
        key_id=compact.kid or "",
    )


def _check_kind(compact: Compact) -> None:
    """Refuse what issuers sign with the same keys but never meant as an access token (RFC 8725 section 3.12)."""
    claims = compact.claims
    if compact.kind not in AT_JWT and not _ID_TOKEN_CLAIMS.isdisjoint(claims):
        raise _invalid("an id token")
    if "events" in claims:
        raise _invalid("a security event or logout token")
    kind, use = claims.get("typ"), claims.get("token_use", "access")
    if (isinstance(kind, str) and kind.casefold() in _OTHER_TOKEN_KINDS) or use != "access":
        raise _invalid("not an access token")


def _time(claims: dict[str, Any], name: str) -> int | None:
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if type(value) is not int or not 0 <= value <= _MAX_TIME:
        raise _invalid(f"{name} is not a whole number of seconds")
    return value


def _check_times(claims: dict[str, Any], settings: IdentitySettings, now: float) -> int:
    """`exp`, `nbf` and `iat` with leeway (RFC 7519 section 4.1). The expiry."""
    expires, begins, issued = _time(claims, "exp"), _time(claims, "nbf"), _time(claims, "iat")
    leeway, longest = settings.leeway, settings.max_token_lifetime
    if expires is None:
        raise _invalid("no exp")
    if begins is not None and begins > now + leeway:
        raise _invalid("not valid yet")
    if issued is not None and issued > now + leeway:
        raise _invalid("issued in the future")
    if issued is not None and not 0 < expires - issued <= longest:
        raise _invalid("lives longer than tokens may, or not at all")
    if expires - now > longest + leeway:
        raise _invalid("expires later than tokens may")
    if now >= expires + leeway:
        raise TokenRefused("identity.expired", "expired")
    return expires


def _check_audience(value: Any, resource: str, rules: Rules) -> None:
    """Exactly this resource and no other: a token that also opens another door is not taken here. What the issuer adds
    to every token for itself is no other door (Auth0's `userinfo`)."""
    if rules.beside and isinstance(value, list) and len(value) == 2 and rules.beside in value:
        value = [one for one in value if one != rules.beside]
    named = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not resource or not isinstance(named, str) or not rules.is_audience(named, resource):
        raise TokenRefused("identity.audience", "not issued for this resource alone")


def _name(value: Any, claim: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_NAME:
        raise _invalid(f"{claim} is not a short string")
    if not value.isprintable() and any(unicodedata.category(letter) in _UNPRINTABLE for letter in value):
        raise _invalid(f"{claim} holds control characters")
    return value


def _names(value: Any, claim: str) -> frozenset[str]:
    """A list of names, or one name. A bad entry refuses the token: leaving it out could lift a deny rule."""
    if value is None:
        return frozenset()
    return frozenset(_name(one, claim) for one in (value if isinstance(value, list) else [value]))


def _pick(claims: dict[str, Any], path: str) -> Any:
    if not path or path in claims:
        return claims.get(path) if path else None
    return _walk(claims, tuple(path.split(".")))


def _walk(claims: dict[str, Any], steps: tuple[str, ...]) -> Any:
    value: Any = claims
    for step in steps:
        if not isinstance(value, dict) or step not in value:
            return None
        value = value[step]
    return value


def _listed_here(claims: dict[str, Any], path: str, what: str) -> frozenset[str]:
    elsewhere = claims.get("_claim_names")
    if path and ((what == "groups" and claims.get("hasgroups")) or (isinstance(elsewhere, dict) and path in elsewhere)):
        raise _invalid(f"the {what} are not in the token (overage): rules about {what} could not be decided")
    return _names(_pick(claims, path), what)


def _roles(claims: dict[str, Any], path: str, rules: Rules) -> frozenset[str]:
    found = _listed_here(claims, path, "roles")
    for steps in rules.profile.role_paths:
        found |= _names(_walk(claims, steps), "roles")
    if rules.profile.roles_of_clients:
        clients = claims.get(rules.profile.roles_of_clients, {})
        if not isinstance(clients, dict) or not all(isinstance(one, dict) for one in clients.values()):
            raise _invalid("roles of clients are malformed")
        for client, one in clients.items():
            found |= {_name(f"{client}:{role}", "roles") for role in _names(one.get("roles"), "roles")}
    return found


def _subject(claims: dict[str, Any], rules: Rules) -> str:
    subject = _name(claims.get("sub"), "sub")
    if rules.subject == "sub":
        return subject
    return f"{_name(claims.get('oid'), 'oid')}@{claims['tid']}"  # `tid` is pinned wherever `oid` may be configured


def _client(claims: dict[str, Any], names: tuple[str, ...]) -> str:
    named = {_name(claims[claim], claim) for claim in names if claim in claims}
    if len(named) > 1:
        raise _invalid(f"{' and '.join(names)} disagree")
    return named.pop() if named else ""


def _is_machine(claims: dict[str, Any], rules: Rules, subject: str, client: str) -> bool:
    try:
        machine = rules.is_machine(claims, subject, client)
    except ValueError as error:
        raise _invalid(str(error)) from None
    machine = machine or subject.startswith(_WORKLOADS)
    if machine and not rules.machines:
        raise _invalid("an application on its own account, which this issuer's settings refuse")
    return machine


def _fact(claims: dict[str, Any], path: str, what: str) -> str:
    """One text. A list or an object refuses the token: a rule would read it as the absence of the claim."""
    value = _pick(claims, path)
    if value is None or type(value) is bool:
        return "" if value is None else str(value).casefold()
    return _name(value, what)


def _risk(claims: dict[str, Any], settings: IdentitySettings) -> str:
    path = settings.facts["risk"]
    if claims.get(path, "") is None:  # there, and says nothing: not the same as an issuer that does not speak of risk
        raise TokenRefused("identity.risk", "the issuer's risk level is null")
    risk = _fact(claims, path, "risk").casefold()
    if risk and risk not in settings.accepted_risk:
        raise TokenRefused("identity.risk", f"the issuer's risk level is {risk}")
    return risk


def _named_facts(claims: dict[str, Any], settings: IdentitySettings) -> Iterator[tuple[str, str]]:
    for name in sorted(settings.claims.keys() - {"device", "risk"}):
        if (value := _fact(claims, settings.claims[name], name)) != "":
            yield name, value


def _scope_set(value: Any, claim: str, *, listed: bool) -> frozenset[str]:
    if isinstance(value, str):
        value = value.split(" ") if value else []
    elif not listed or not isinstance(value, list):
        raise _invalid(f"{claim} has the wrong type")
    if not all(isinstance(one, str) and SCOPE.match(one) for one in value):
        raise _invalid(f"{claim} holds something that is not a scope")
    return frozenset(value)


def _scopes(claims: dict[str, Any], only: str | None) -> frozenset[str]:
    """RFC 9068 section 2.2.3 `scope`; `scp` where the issuer uses that. If both are there, what both grant."""
    if only is not None:
        return _scope_set(claims[only], only, listed=True) if only in claims else frozenset()
    found = [_scope_set(claims[name], name, listed=name == "scp") for name in ("scope", "scp") if name in claims]
    return frozenset.intersection(*found) if found else frozenset()


def _rest(claims: dict[str, Any], settings: IdentitySettings) -> bytes:
    left_out = _READ | {"cnf", settings.groups_claim, settings.roles_claim}
    return canonical({name: value for name, value in claims.items() if name not in left_out})
