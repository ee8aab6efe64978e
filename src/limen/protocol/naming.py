"""Names on a bundle, where several servers answer on one address: which server, and what it calls the thing. Pure.

    tools, prompts        SERVER__NAME              files__read_file
    resources, templates  limen+SERVER:URI          limen+files:file:///etc/hosts, limen+files:file:///{path}

Both are reversible without asking anybody. A server's name holds no "__" and does not end in "_" (the configuration
sees to it), so the first "__" ends it, whatever the server puts into its own names. A scheme ends at the first ":"
(RFC 3986 section 3.1), so what a server puts into its URIs stands behind its own scheme. The scheme is in lower case,
as schemes are compared without case, and "_", which no scheme may hold, is written "+", which no server's name holds.
What RFC 6570 makes of a template under its scheme is what it makes of the template itself, under that scheme.

A name longer than clients take is shortened to `_` + its beginning + `-` + a digest. No server's name begins with `_`,
so nothing that is written out is ever read as a short one. What it stands for is looked up in `LongNames`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

LONGEST: Final = 64  # characters of a tool's name that common model interfaces take; the protocol itself says 128
MARK: Final = "__"
_SCHEME: Final = "limen+"
_SERVER: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]|_(?!_|\Z)){0,62}")
_DIGEST: Final = 26  # base32 characters of 128 bits: nobody finds two names that share it


def is_server(name: str) -> bool:
    """Whether names on a bundle can begin with this: 1 to 63 of A-Z a-z 0-9 . _ - without "__" and a "_" at the end."""
    return _SERVER.fullmatch(name) is not None


def shown_name(server: str, name: str) -> str:
    """The name of a tool or prompt on a bundle: at most 64 characters. Different (server, name) differ in it.

    Raises ValueError when `server` cannot be the name of a server.
    """
    if not is_server(server):
        raise ValueError(f"{server[:80]!r} cannot begin names on a bundle")
    full = f"{server}{MARK}{name}"
    if len(full) <= LONGEST:
        return full
    digest = base64.b32encode(sha256(f"{server}\0{name}".encode()).digest()[:16])[:_DIGEST].decode().lower()
    beginning = re.sub(r"[^A-Za-z0-9_-]", "-", full[: LONGEST - _DIGEST - 2])
    return f"_{beginning}-{digest}"


def shown_uri(server: str, uri: str) -> str:
    """The URI of a resource, or the URI template, on a bundle. Different (server, uri) differ in it.

    Raises ValueError when `server` cannot be the name of a server.
    """
    return f"{_scheme(server)}:{uri}"


def _scheme(server: str) -> str:
    if not is_server(server):
        raise ValueError(f"{server[:80]!r} cannot begin URIs on a bundle")
    return _SCHEME + server.lower().replace("_", "+")


class LongNames:
    """What shortened names stand for. Learnt from the catalog, before anybody can have been shown one."""

    __slots__ = ("_meant",)

    def __init__(self) -> None:
        self._meant: dict[str, tuple[str, str]] = {}

    def learn(self, known: Iterable[tuple[str, str]]) -> None:
        """These (server, name) and no others are known from now on. Names that are written out are left aside."""
        long = ((server, name) for server, name in known if len(server) + len(MARK) + len(name) > LONGEST)
        self._meant = {shown_name(server, name): (server, name) for server, name in long if is_server(server)}

    def find(self, shown: str) -> tuple[str, str] | None:
        """The server and its name for what a shortened name stands for."""
        return self._meant.get(shown)


class Bundle:
    """Some servers on one address, and how names there are read. Two readings of one name cannot differ: whatever
    `shown_name` and `shown_uri` would not have written exactly like this is no name at all."""

    __slots__ = ("_long", "_members", "_schemes", "servers")

    def __init__(self, servers: Iterable[str], long: LongNames | None = None) -> None:
        """Raises ValueError when two servers cannot be told apart, or one has a name no server may have."""
        self.servers = tuple(sorted(servers))
        self._members = frozenset(self.servers)
        self._schemes = {_scheme(server): server for server in self.servers}
        self._long = long or LongNames()
        if len(self._schemes) < len(self.servers):
            raise ValueError("two servers of a bundle differ in upper and lower case only")

    def read_name(self, shown: str) -> tuple[str, str] | None:
        """(server, name) of a tool or prompt. None: nothing of this bundle can be called that."""
        if shown.startswith("_"):
            meant = self._long.find(shown)
            return meant if meant is not None and meant[0] in self._members else None
        server, _, name = shown.partition(MARK)
        return (server, name) if name and len(shown) <= LONGEST and server in self._members else None

    def read_uri(self, shown: str) -> tuple[str, str] | None:
        """(server, URI) of a resource, or of a template. None: nothing of this bundle can have that URI."""
        scheme, _, uri = shown.partition(":")
        server = self._schemes.get(scheme)
        return (server, uri) if uri and server is not None else None
