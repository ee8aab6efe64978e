"""Where an issuer says what it is: URLs that are safe to ask, and its metadata (RFC 8414, OpenID Connect Discovery)."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from limen.core.addresses import is_loopback
from limen.core.faults import DependencyFault
from limen.core.ports import Fetch
from limen.identity.keys import JWKS_LIMITS
from limen.protocol.jsonrpc import NotJson, parse


def is_here(url: str) -> bool:
    """Whether a URL names this machine."""
    return is_loopback(urlsplit(url).hostname or "")


def require_safe_url(url: str) -> str:
    """An absolute https URL (http only on loopback) without user, query or fragment. Raises ValueError."""
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise ValueError("a URL of printable ASCII is needed")
    parts = urlsplit(url)
    _ = parts.port  # raises ValueError when out of range
    if parts.scheme != "https" and not (parts.scheme == "http" and is_here(url)):
        raise ValueError("https is needed (http only on loopback)")
    if not parts.hostname or parts.username is not None or "?" in url or "#" in url:
        raise ValueError("a URL with a host and without user, query or fragment is needed")
    return url


async def discover(issuer: str, fetch: Fetch, name: str, metadata: str = "") -> str:
    """A URL from the issuer's metadata: RFC 8414 section 3.1, then OpenID Connect Discovery 1.0; or from `metadata`
    alone, where this kind of issuer has it elsewhere.

    Raises DependencyFault when no document at the well-known places names exactly this issuer and the URL.
    """
    problems = []
    for url in (metadata,) if metadata else metadata_urls(issuer):
        try:
            return endpoint_of(issuer, await fetch.get_json(url), name)
        except (DependencyFault, ValueError) as error:
            problems.append(f"{url}: {error}")
    raise DependencyFault("identity provider", "; ".join(problems))


def metadata_urls(issuer: str) -> tuple[str, ...]:
    """Where an issuer's metadata may be, best first (RFC 8414 sections 3.1 and 5; OpenID Connect Discovery 4)."""
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    oidc = "/.well-known/openid-configuration"
    urls = (f"{origin}/.well-known/oauth-authorization-server{path}", f"{origin}{oidc}{path}", f"{origin}{path}{oidc}")
    return tuple(dict.fromkeys(urls))


def endpoint_of(issuer: str, data: bytes, name: str) -> str:
    """A URL of an issuer's metadata. Raises ValueError.

    RFC 8414 section 3.3: the metadata must name exactly the issuer it was asked for.
    """
    try:
        document: Any = parse(data, JWKS_LIMITS)
    except NotJson as error:
        raise ValueError(str(error)) from None
    if not isinstance(document, dict) or document.get("issuer") != issuer:
        raise ValueError("the metadata is not this issuer's")
    uri = document.get(name)
    if not isinstance(uri, str):
        raise ValueError(f"the metadata names no {name}")
    if is_here(uri) and not is_here(issuer):
        raise ValueError("the metadata points back at this machine")
    return require_safe_url(uri)
