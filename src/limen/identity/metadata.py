"""What a client is told about getting a token: RFC 9728 metadata and WWW-Authenticate challenges.

Everything is built from configuration, never from a request's Host header.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

from limen.core.faults import ConfigFault, InvariantFault

_WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_SCOPE_TOKEN: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+\Z")
# RFC 6750 section 3.1, RFC 9449 section 12.2, RFC 9470 section 3. No error where no credential was presented.
_ERRORS: Final = MappingProxyType(
    {
        "identity.missing": None,
        "identity.invalid": "invalid_token",
        "identity.audience": "invalid_token",
        "identity.expired": "invalid_token",
        "identity.binding": "invalid_token",
        "identity.proof": "invalid_dpop_proof",  # RFC 9449 section 7.1
        "identity.nonce": "use_dpop_nonce",  # RFC 9449 section 9
        "identity.revoked": "invalid_token",
        "identity.ambiguous": "invalid_request",
        "identity.scope": "insufficient_scope",
        "identity.step_up": "insufficient_user_authentication",
        "credentials.interaction": "invalid_token",
    }
)


def _offered(scopes: Iterable[str]) -> list[str]:
    """Scopes without `offline_access`, which is between a client and its authorization server. Order is kept."""
    return [scope for scope in dict.fromkeys(scopes) if scope != "offline_access"]


@dataclass(frozen=True, slots=True)
class Possession:
    """What a resource offers and demands of proofs of possession. `algorithms`: of DPoP proofs, none: not offered."""

    algorithms: tuple[str, ...] = ()
    certificates: bool = False  # client certificates reach us
    demands: frozenset[str] = frozenset()  # "dpop", "mtls", "any"


def protected_resource_metadata(
    resource: str, issuers: Sequence[str], scopes: Iterable[str] = (), possession: Possession = Possession()
) -> dict[str, Any]:
    """The RFC 9728 section 2 document of one resource. Raises ConfigFault when no authorization server is named."""
    if not issuers:
        raise ConfigFault("a protected resource needs at least one issuer", resource)
    document: dict[str, Any] = {
        "resource": resource,
        "authorization_servers": list(dict.fromkeys(issuers)),
        "bearer_methods_supported": ["header"],
    }
    offered = _offered(scopes)
    if offered:
        document["scopes_supported"] = offered
    if possession.algorithms:
        document["dpop_signing_alg_values_supported"] = list(possession.algorithms)
    if "dpop" in possession.demands:
        document["dpop_bound_access_tokens_required"] = True
    if possession.certificates:
        document["tls_client_certificate_bound_access_tokens"] = True
    return document


def well_known_paths(resource_path: str) -> tuple[str, ...]:
    """Paths that may answer with the metadata of a resource at this path, the specific one first (RFC 9728 section
    3.1; MCP lets a server offer the root form as well)."""
    path = resource_path.rstrip("/")
    return (f"{_WELL_KNOWN}{path}", _WELL_KNOWN) if path else (_WELL_KNOWN,)


def metadata_url(resource: str) -> str:
    """The URL of a resource's metadata, for the challenge (RFC 9728 section 3.1: inserted before the path)."""
    parts = urlsplit(resource)
    return f"{parts.scheme}://{parts.netloc}{well_known_paths(parts.path)[0]}"


def _quoted(value: str) -> str:
    """An RFC 9110 section 5.6.4 quoted-string. Raises InvariantFault for what no header may hold."""
    if not value.isascii() or not value.isprintable():
        raise InvariantFault("a challenge parameter that is not printable ASCII")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def challenges(
    reason_id: str,
    resource_metadata_url: str,
    scopes: Iterable[str] = (),
    public: Mapping[str, Any] = _NOTHING,
    *,
    possession: Possession = Possession(),
    dpop: bool = False,
) -> str:
    """One challenge for each scheme the resource takes (RFC 9449 section 7.1). `dpop`: the one the request used.

    The scheme in use comes first and says what was wrong; the other only that it is there. What is wrong with a proof
    is said under DPoP alone, and a resource that demands DPoP offers nothing else.
    """
    algorithms, only = possession.algorithms, reason_id in ("identity.proof", "identity.nonce")
    if not algorithms:
        return challenge(reason_id, resource_metadata_url, scopes, public)
    used = challenge(reason_id, resource_metadata_url, scopes, public, algorithms if dpop or only else ())
    if only or (dpop and "dpop" in possession.demands):
        return used
    if "dpop" in possession.demands:
        return challenge(reason_id, resource_metadata_url, scopes, public, algorithms)
    other = challenge("identity.missing", resource_metadata_url, scopes, _NOTHING, () if dpop else algorithms)
    return f"{used}, {other}"


def challenge(
    reason_id: str,
    resource_metadata_url: str,
    scopes: Iterable[str] = (),
    public: Mapping[str, Any] = _NOTHING,
    algorithms: Sequence[str] = (),
) -> str:
    """The challenge for a refusal (RFC 6750 section 3, RFC 9728 section 5.1, RFC 9470 section 3), under the DPoP scheme
    where `algorithms` of proofs are given (RFC 9449 section 7.1).

    `scopes` is what the resource needs at least; `public["scopes"]` of a refusal, all that this call needs, goes
    first. `public["acr_values"]` and `public["max_age"]` ask for a stronger or fresher sign-in. All kinds of bad
    token get the same words. Raises InvariantFault for a reason that has no challenge.
    """
    if reason_id not in _ERRORS:
        raise InvariantFault(f"no challenge for {reason_id}")
    error = "insufficient_claims" if "claims" in public else _ERRORS[reason_id]  # the former is Entra ID's word
    parameters: list[tuple[str, str]] = [("error", error)] if error else []
    needed = _offered(public.get("scopes") or scopes)
    if not all(_SCOPE_TOKEN.match(scope) for scope in needed):
        raise InvariantFault("not a scope")
    if needed:
        parameters.append(("scope", " ".join(needed)))
    if reason_id == "identity.step_up":
        if public.get("acr_values"):
            parameters.append(("acr_values", " ".join(map(str, public["acr_values"]))))
        if public.get("max_age") is not None:
            parameters.append(("max_age", str(int(public["max_age"]))))
    if "claims" in public:
        parameters.append(("claims", b64encode(str(public["claims"]).encode()).decode()))
    parameters.append(("resource_metadata", resource_metadata_url))
    if algorithms:
        parameters.append(("algs", " ".join(algorithms)))
    scheme = "DPoP " if algorithms else "Bearer "
    return scheme + ", ".join(f"{name}={_quoted(value)}" for name, value in parameters)
