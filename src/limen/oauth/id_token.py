"""Decides whom an ID token names (OpenID Connect Core 1.0 section 3.1.3.7)."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256, sha384, sha512
from hmac import compare_digest
from typing import Any, Final

from limen.core.encoding import encode_base64url
from limen.oauth.model import User
from limen.oauth.provider_kinds import ProviderKind
from limen.oauth.provider_metadata import Compact, Jose, ProviderMetadata

LEEWAY: Final = 60  # seconds two clocks may differ
_LATEST: Final = 253_402_300_799  # the end of year 9999
_LONGEST: Final = 255
_MANY: Final = 5000  # groups or roles
_HASHES: Final = {"256": sha256, "384": sha384, "512": sha512}


class Untrusted(Exception):
    """The token names nobody. `claim` says what was wrong; the message is for the operator."""

    def __init__(self, claim: str, message: str) -> None:
        super().__init__(f"{claim}: {message}")
        self.claim = claim


@dataclass(frozen=True, slots=True)
class Expected:
    """What the way to the provider began with."""

    issuer: str
    client_id: str
    nonce: str = field(repr=False)
    jwks: str
    algorithms: tuple[str, ...]
    max_age: int | None = None  # seconds since the person last signed in, if that was asked


@dataclass(frozen=True, slots=True)
class Claims:
    """Which claims say what of a person."""

    groups: str = "groups"
    roles: str = "roles"


async def verified(token: str, expected: Expected, jose: Jose, published: ProviderMetadata) -> Compact:
    """The token, now known to be signed by the issuer. Raises Untrusted, DependencyFault.

    Algorithms are ours to choose: never `none`, never one that needs a secret (RFC 8725 section 3.1).
    """
    raw = token.encode("ascii", "replace")
    try:
        compact = jose.read(raw)
    except ValueError as error:
        raise Untrusted("id_token", str(error)) from None
    if compact.algorithm not in expected.algorithms:
        raise Untrusted("alg", f"{compact.algorithm[:32]!r} is not one of {', '.join(expected.algorithms)}")
    if compact.issuer != expected.issuer:
        raise Untrusted("iss", f"{compact.issuer[:200]!r} is not {expected.issuer!r}")
    keys = await published.find(expected.jwks, compact.algorithm, compact.kid)
    if not keys:
        raise Untrusted("kid", "no published key fits")
    if len(keys) > 1 and compact.kid is None:
        raise Untrusted("kid", "missing, and several keys fit")
    if not any(jose.holds(raw, key, expected.algorithms) for key in keys):
        raise Untrusted("signature", "not made with a published key")
    return compact


def check(token: Compact, expected: Expected, now: float, access: str) -> None:
    """That the token is for us, of this sign-in and good now. `access`: the access token it came with.

    Raises Untrusted.
    """
    claims = token.claims
    audience = claims.get("aud")
    named = audience if isinstance(audience, list) else [audience]
    if named != [expected.client_id]:
        raise Untrusted("aud", "not for this client alone")
    if claims.get("azp", expected.client_id) != expected.client_id:
        raise Untrusted("azp", "issued to another client")
    nonce = claims.get("nonce")
    if not isinstance(nonce, str) or not compare_digest(nonce.encode(), expected.nonce.encode()):
        raise Untrusted("nonce", "not of this sign-in")
    expires, issued = _time(claims, "exp"), _time(claims, "iat")
    if expires is None or now >= expires + LEEWAY:
        raise Untrusted("exp", "missing or past")
    if issued is None or issued > now + LEEWAY:
        raise Untrusted("iat", "missing or in the future: compare the clocks")
    begins = _time(claims, "nbf")
    if begins is not None and begins > now + LEEWAY:
        raise Untrusted("nbf", "in the future: compare the clocks")
    signed_in = _time(claims, "auth_time")
    if signed_in is not None and signed_in > now + LEEWAY:
        raise Untrusted("auth_time", "in the future: compare the clocks")
    if expected.max_age is not None and (signed_in is None or now - signed_in > expected.max_age + LEEWAY):
        raise Untrusted(
            "auth_time", "a fresher sign-in was asked for" if signed_in else "missing, and max_age was asked"
        )
    if "at_hash" in claims and claims["at_hash"] != _half_hash(token.algorithm, access):
        raise Untrusted("at_hash", "made for another access token")


def person(issuer: str, claims: dict[str, Any], kind: ProviderKind, names: Claims) -> User:
    """Who that is. Raises Untrusted for what could be read as less than it says: rules may deny by group."""
    if wrong := kind.violation(issuer, claims):
        raise Untrusted(wrong, "does not agree with the issuer")
    elsewhere = claims.get("_claim_names")
    for name in (names.groups, names.roles):
        if name and isinstance(elsewhere, dict) and name in elsewhere:
            raise Untrusted(name, "did not fit into the token (overage): rules about them could not be decided")
    if names.groups and any(claims.get(name) for name in kind.overage):
        raise Untrusted(names.groups, "did not fit into the token (overage): rules about them could not be decided")
    acr = claims.get("acr")
    return User(
        issuer,
        "@".join(_name(claims.get(name), name) for name in kind.subject),
        _display(claims),
        _names(claims, names.groups),
        _names(claims, names.roles),
        _names(claims, "amr"),
        "" if acr is None else _name(acr, "acr"),
        _time(claims, "auth_time"),
    )


def _time(claims: dict[str, Any], name: str) -> int | None:
    value = claims.get(name)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= _LATEST:
        raise Untrusted(name, "not a whole number of seconds")
    return value


def _half_hash(algorithm: str, access: str) -> str:
    """OpenID Connect Core 3.1.3.6. Ed25519 hashes with SHA-512."""
    digest = _HASHES.get(algorithm[-3:], sha512)(access.encode()).digest()
    return encode_base64url(digest[: len(digest) // 2])


def _name(value: Any, claim: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST or not value.isprintable():
        raise Untrusted(claim, "not a short text")
    return value


def _names(claims: dict[str, Any], name: str) -> tuple[str, ...]:
    value = claims.get(name) if name else None
    if value is None:
        return ()
    listed = value if isinstance(value, list) else [value]
    if len(listed) > _MANY:
        raise Untrusted(name, "too many")
    return tuple(dict.fromkeys(_name(one, name) for one in listed))


def _display(claims: dict[str, Any]) -> str:
    """For people only: nothing is decided by it."""
    for name in ("name", "preferred_username", "email"):
        value = claims.get(name)
        if isinstance(value, str) and value:
            return "".join(letter for letter in value if letter.isprintable())[:100]
    return ""
