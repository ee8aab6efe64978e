"""What a server says in WWW-Authenticate (RFC 9110 section 11.6.1, RFC 6750 section 3). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_LONGEST: Final = 8192
_TOKEN: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PARAMETER: Final = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))(?=[ \t]*(?:,|\Z))')
_SCHEME: Final = re.compile(rf"({_TOKEN})(?:[ \t]+(?![^=,\s]+[ \t]*=[ \t]*[^=,\s])[A-Za-z0-9\-._~+/]+=*)?(?=[ \t,]|\Z)")
_GAP: Final = re.compile(r"[ \t,]*")
_QUOTED: Final = re.compile(r"\\(.)")
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,256}\Z")  # RFC 6749 section 3.3
MOST_SCOPES: Final = 64
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


def bearer(header: str) -> Mapping[str, str]:
    """Parameters of the first Bearer challenge, names in lower case; nothing where there is none, or where it can be
    read in two ways: what cannot be parsed, and a parameter that is there twice."""
    if len(header) > _LONGEST:
        return _NOTHING
    place, scheme, found = _skip(header, 0), "", dict[str, str]()
    while place < len(header):
        if scheme and (match := _PARAMETER.match(header, place)):
            name = match[1].lower()
            if scheme == "bearer":
                if name in found:
                    return _NOTHING
                found[name] = match[3] if match[2] is None else _QUOTED.sub(r"\1", match[2])
        elif (match := _SCHEME.match(header, place)) is not None:
            if scheme == "bearer":
                return found
            scheme = match[1].lower()
        else:
            return _NOTHING
        place = _skip(header, match.end())
    return found if scheme == "bearer" else _NOTHING


def scopes(text: str) -> tuple[str, ...]:
    """The scope tokens of a challenge or an answer, each once; none at all where one of them is not a scope."""
    tokens = tuple(dict.fromkeys(text.split(" "))) if text else ()
    return tokens if len(tokens) <= MOST_SCOPES and all(map(_SCOPE.match, tokens)) else ()


def _skip(header: str, place: int) -> int:
    match = _GAP.match(header, place)
    return match.end() if match is not None else place
