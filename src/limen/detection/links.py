"""What an address in a text would do if it were shown: load something, carry something, run something, or just link.

Read as renderers read addresses: entities, escapes, line breaks and backslashes make no difference.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import unquote, unquote_plus, urlsplit

_DEEP: Final = 2
UNCLEAR: Final = "more than one reading"
_LONG_TEXT: Final = 200  # characters of prose in one value: more than searches and share links have
_LEAST: Final = 12  # bytes of text an encoded value must hold to count as carrying any
_MOST: Final = 4096  # characters of an address
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)
_ACTIVE: Final = re.compile(
    r"(?:javascript|vbscript|livescript|data|blob|filesystem|jar|view-source|intent|shell|search-ms|ms-[a-z0-9-]+)\Z"
)
_PICTURE: Final = re.compile(r"data:image/(?:png|jpeg|jpg|gif|webp|avif|bmp)[;,]", re.IGNORECASE)
_SKIPPED: Final = re.compile("[\x00-\x20\x7f-\xa0\u00ad\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff]")
_ESCAPE: Final = re.compile(r"\\([!-/:-@\[-`{-~])")
_SLOT: Final = re.compile(
    r"\{\{?[^{}]{1,80}\}?\}|\$\{?[A-Za-z_]\w{2,60}\}?|%[A-Z][A-Z_]{2,40}%|\[[A-Z][A-Z _-]{2,60}\]"
    r"|<[A-Za-z][\w -]{1,60}>|\b(?:YOUR|INSERT|BASE64|ENCODED|STOLEN|EXFIL)[_-][A-Z_-]{2,60}"
)
_BLOB: Final = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,6}")
_HOST: Final = re.compile(r"[^a-z0-9.:-]")
_HEX: Final = re.compile(r"(?:[0-9a-f]{2}){12,}\Z", re.IGNORECASE)
_BASE32: Final = re.compile(r"[a-z2-7]{20,}\Z", re.IGNORECASE)
_TEXTUAL: Final = re.compile(r"[\x20-\x7e\n\r\t]+\Z")


@dataclass(frozen=True, slots=True)
class Address:
    """`kind`: local (no host), web (http and the like), active (runs or opens something), picture (an image in the
    address itself) or other (mail, telephone). `carries`: why it seems to carry data, or "". `slot`: it has a place
    where data would be put in. `open`: its last value is empty."""

    kind: Literal["local", "web", "active", "picture", "other"]
    host: str = ""
    carries: str = ""
    slot: bool = False
    open: bool = False

    @property
    def shown(self) -> str:
        """For people: the end of the host, which is what its owner is known by; a long label may itself be data."""
        labels = [label[:24] for label in _HOST.sub("?", self.host).split(".")[-2 if self.carries else -3 :]]
        return ".".join(labels) or self.kind


class Allowed:
    """Hosts from which pictures may be loaded and to which links may carry data: `example.org`, `*.example.org`."""

    def __init__(self, hosts: Iterable[str] = ()) -> None:
        names = [host.lower().rstrip(".") for host in hosts]
        self._exact = frozenset(name for name in names if not name.startswith("*."))
        self._under = tuple(name[1:] for name in names if name.startswith("*."))

    def holds(self, host: str) -> bool:
        """Names that are not ASCII are nobody's: they may look like one that is allowed."""
        return bool(host) and host.isascii() and (host in self._exact or host.endswith(self._under or ("\0",)))


def read_address(text: str, depth: int = 0) -> Address:
    """Judge one address. Linear in its length; more than 4096 characters count as carrying data."""
    shown = html.unescape(text.strip()) if "&" in text else text.strip()
    if "\\" not in shown:
        return _read(shown, depth)
    # Markdown takes an escape away, HTML takes a backslash for a slash: where that differs, neither is to be relied on.
    one, other = _read(_ESCAPE.sub(r"\1", shown), depth), _read(shown, depth)
    if "active" in (one.kind, other.kind):
        return one if one.kind == "active" else other
    return one if (one.kind, one.host) == (other.kind, other.host) else Address("web", "", UNCLEAR)


def _read(shown: str, depth: int) -> Address:
    bare = _SKIPPED.sub("", shown)
    if _PICTURE.match(bare):
        return Address("picture")
    scheme = _SCHEME.match(bare)
    name = scheme[1].lower() if scheme else ""
    if _ACTIVE.match(name):
        return Address("active")
    bare = bare.replace("\\", "/")
    if name in ("mailto", "tel", "sms", "geo", "urn", "doi", "news"):
        return Address("other")
    if name in ("http", "https", "ws", "wss", "ftp"):
        rest = bare[len(name) + 1 :].lstrip("/")
    elif name == "file":
        rest = bare[5:].removeprefix("//")
        return Address("active", rest.split("/")[0].lower()) if rest and rest[0] != "/" else Address("local")
    elif bare.startswith("//"):
        rest = bare.lstrip("/")
    else:
        return Address("other" if name and name not in ("attachment", "cid") else "local")
    return _web(rest, depth)


def _web(rest: str, depth: int) -> Address:
    try:
        parts = urlsplit("https://" + rest[:_MOST])
        host = (parts.hostname or "").rstrip(".")
    except ValueError:
        return Address("web", "", UNCLEAR)
    if len(rest) > _MOST:
        return Address("web", host, "thousands of characters")
    pairs = [pair.partition("=") for pair in re.split("[&;]", parts.query)]
    pieces = [value or name for name, _, value in pairs]
    pieces += [*parts.path.split("/"), parts.fragment, *host.split("."), parts.username or "", parts.password or ""]
    why = next((why for piece in pieces if (why := _carried(piece, depth))), "")
    # A template in a path is documentation; in a query it is where the data goes. Fragments are not sent.
    slot = _SLOT.search(unquote(parts.query)) is not None
    return Address("web", host, why, slot, pairs[-1][1:] == ("=", ""))


def _carried(value: str, depth: int) -> str:
    """Why this part of an address seems to carry somebody's data, or ""."""
    if len(value) < _LEAST:
        return ""
    text = unquote_plus(value)
    if depth < _DEEP and text.lower().startswith(("http:", "https:")):
        return read_address(text, depth + 1).carries  # where to go afterwards: as good as that address is
    if len(text) >= _LONG_TEXT and text.count(" ") >= len(text) // 20:
        return "a long text"
    for found in _BLOB.finditer(unquote(value)):
        inner = _decoded(found[0])
        if inner and not (
            depth < _DEEP
            and inner.lower().startswith(("http:", "https:"))
            and not read_address(inner, depth + 1).carries
        ):
            return "an encoded text"
    return ""


def _decoded(blob: str) -> str:
    """The text a value holds in hexadecimal, base64 or base32, or "". Identifiers and keys decode to noise."""
    if _HEX.match(blob) and not blob.isdigit():
        return _text(bytes.fromhex(blob))
    stem = blob.rstrip("=")
    if len(stem) % 4 != 1:
        padded = stem.replace("-", "+").replace("_", "/") + "=" * (-len(stem) % 4)
        try:
            if text := _text(base64.b64decode(padded, validate=True)):
                return text
        except (binascii.Error, ValueError):
            return ""
    if _BASE32.match(stem):
        try:
            return _text(base64.b32decode(stem.upper() + "=" * (-len(stem) % 8)))
        except (binascii.Error, ValueError):
            return ""
    return ""


def _text(raw: bytes) -> str:
    """Chance makes twelve printable bytes once in 140 000 times."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return ""
    plain = _TEXTUAL.match(text) or (not text.isascii() and text.replace("\n", " ").isprintable())
    return text if len(raw) >= _LEAST and plain else ""
