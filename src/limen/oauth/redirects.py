"""Where the browser may be sent with a code: exactly where the client said beforehand (RFC 9700 section 2.1)."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from limen.core.urls import Url, read_url
from limen.oauth.model import Client
from limen.oauth.web import OAuthError

MOST: Final = 10  # of one client
_LOOPBACK: Final = re.compile(r"(http://(?:127\.0\.0\.1|\[::1\]|localhost))(?::([1-9][0-9]{0,4}))?(/.*|\?.*|)\Z")
_LOCAL: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]{0,63}):(/.*)\Z")
_PRINTED: Final = re.compile(r"[A-Za-z0-9._~:/?\[\]@!$&'()+,;=%-]{1,2048}\Z")
# Schemes that run something, read something or change who speaks. None of them brings a code back to a program.
_NEVER: Final = frozenset({
    "about", "blob", "chrome", "data", "file", "filesystem", "ftp", "ftps", "http", "https", "intent", "jar",
    "javascript", "mailto", "moz-extension", "ms-appinstaller", "ms-msdt", "resource", "search-ms", "sftp", "smb",
    "ssh", "tel", "vbscript", "view-source", "ws", "wss",
})  # fmt: skip


def allowed(client: Client, presented: str) -> bool:
    """Whether this is one of the client's addresses, byte for byte.

    Only the port may differ, and only of a loopback address (RFC 8252 section 7.3): a program on this machine takes
    whichever is free. `localhost` is a name, and names can be made to point elsewhere (RFC 8252 section 8.3), so it
    is no such address unless an operator says so.
    """
    if presented in client.redirect_uris:
        return bool(presented)
    found = _LOOPBACK.match(presented)
    if found is None or found[2] is None or int(found[2]) > 65_535:
        return False
    if found[1].endswith("localhost") and not client.localhost_ports:
        return False
    mine = (_LOOPBACK.match(uri) for uri in client.redirect_uris)
    return any(one is not None and (one[1], one[3]) == (found[1], found[3]) for one in mine)


def lint(uris: object, own: Collection[str], *, configured: bool = False) -> tuple[str, ...]:
    """The redirect addresses of a client, each fit to be one. Raises OAuthError, invalid_redirect_uri.

    `own`: origins no code may be sent to, our own and the provider's, as `Url.origin` writes them. `configured`: an
    operator wrote them, so an address on an inner network or a scheme of an application's own may be meant.
    """
    if not isinstance(uris, list | tuple) or not 0 < len(uris) <= MOST:
        raise _refused(f"redirect_uris: not a list of 1 to {MOST} addresses")
    for number, uri in enumerate(uris):
        if not isinstance(uri, str):
            raise _refused(f"redirect_uris[{number}] is not a string")
        try:
            _judge(uri, own, configured)
        except ValueError as error:
            raise _refused(f"redirect_uris[{number}]: {error}") from None
    if len(set(uris)) < len(uris):
        raise _refused("redirect_uris: the same address twice")
    return tuple(uris)


def is_loopback(uri: str) -> bool:
    """Whether it ends on the machine of whoever consents, in whichever program listens there."""
    return uri.startswith("http://")


def host_of(uri: str) -> str:
    """The host of a linted address, "" of an application's own scheme."""
    return read_url(uri).host if uri.startswith(("http://", "https://")) else ""


def _refused(text: str) -> OAuthError:
    return OAuthError("invalid_redirect_uri", text)


def _judge(uri: str, own: Collection[str], configured: bool) -> None:
    """Raises ValueError, which says why this cannot be an address to send a code to."""
    if "*" in uri:
        raise ValueError("a wildcard; addresses are compared as they are")
    if not uri.startswith(("http://", "https://")):
        _judge_scheme(uri, configured)
        return
    url = read_url(uri)
    if url.crooked:
        raise ValueError(url.crooked)
    if url.origin in own:
        raise ValueError("an address of the authorization server itself")
    if url.scheme == "http":
        if url.host not in _LOCAL:
            raise ValueError("https is needed (http only on 127.0.0.1, [::1] and localhost)")
    elif not configured:
        _judge_public(url)


def _judge_public(url: Url) -> None:
    if url.address is not None:
        raise ValueError("https to an address instead of a name")
    if "." not in url.host:
        raise ValueError("a host that only has a meaning on some network")


def _judge_scheme(uri: str, configured: bool) -> None:
    """RFC 8252 section 7.1: whoever installs an application last may own its scheme, so an operator has to mean it."""
    found = _SCHEME.match(uri) if _PRINTED.match(uri) else None
    if found is None or found[1] in _NEVER:
        raise ValueError("https is needed (http only on 127.0.0.1, [::1] and localhost)")
    if not configured:
        raise ValueError("a scheme of an application's own, which only an operator can allow")
