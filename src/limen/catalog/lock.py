"""`mcp.lock`: every approved definition in one file that people review, machines verify, and a gateway can run from.

The file is JSON text with exactly one spelling: reading renders what it understood again and refuses any byte that
differs. A header names the format, the SHA-256 of everything below it and an Ed25519 signature (RFC 8032) over both, so
a public key alone tells whether the file is what was approved. The text is ASCII: no letter in it looks like another
one, and nothing in it is obeyed by a terminal or reordered by an editor (Unicode TR 36, "Trojan Source").
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from limen.catalog.definitions import KINDS, check, digest_of
from limen.catalog.records import EFFECTS
from limen.core.faults import ConfigFault
from limen.core.ports import Signer
from limen.protocol.jsonrpc import JsonLimits, NotJson, canonical, parse

__all__ = ["Lock", "LockFault", "Locked", "read", "write"]

FORMAT: Final = 1
MAX_LOCK: Final = 64 << 20  # bytes
MAX_DEFINITIONS: Final = 16_384
WIDTH: Final = 100  # characters; longer texts are shown a second time, wrapped, so that nothing hides beyond an edge
_LIMITS: Final = JsonLimits(size=MAX_LOCK, depth=64, members=4_000_000, string=16 << 20)
_HEADER_END: Final = b"\n  },\n"  # nothing above it can hold this: the header has no objects in it
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
_STAMP: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_HEADER: Final = {"format", "definitions", "servers", "digest", "key", "public_key", "signature"}
_BLOCK: Final = {"server", "kind", "name", "digest", "effect", "durable", "approved", "definition"}
_APPROVED: Final = {"by", "at", "reason", "source", "expires"}


class LockFault(ConfigFault):
    """The lock is not authentic or cannot be used. The message says why and quotes nothing a stranger wrote."""


@dataclass(frozen=True, slots=True)
class Locked:
    """One approved definition. `definition`: canonical JSON; `at`, `expires`: whole seconds since the epoch, 0: never;
    `by`: who approved it; `line`: where its block starts in the file it was read from, counted from 1."""

    server: str
    kind: str
    name: str
    digest: str
    effect: str
    durable: bool
    by: tuple[str, ...]
    at: int
    reason: str
    source: str
    expires: int
    definition: bytes
    line: int = field(default=0, compare=False)

    @property
    def place(self) -> tuple[str, str, str]:
        """Server, kind and name: what a lock has once."""
        return (self.server, self.kind, self.name)

    def __str__(self) -> str:
        return "/".join(part for part in self.place if part)


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock that was verified, in order of server, kind and name. `digest` pins it, `key` names who signed it."""

    entries: tuple[Locked, ...]
    digest: str
    key: str

    @property
    def servers(self) -> tuple[str, ...]:
        """Every server that something is approved of."""
        return tuple(dict.fromkeys(entry.server for entry in self.entries))

    def find(self, server: str, kind: str, name: str) -> Locked | None:
        """The approved definition of this name."""
        return next((entry for entry in self.entries if entry.place == (server, kind, name)), None)


def write(entries: Iterable[Locked], signer: Signer) -> bytes:
    """The signed file. Equal approvals give equal bytes, so a lock in version control changes when approvals do.

    Raises LockFault for what `read` would refuse, and what the signer raises.
    """
    ordered = sorted(entries, key=lambda entry: entry.place)
    body = _body(ordered)
    digest = sha256(body).hexdigest()
    signature = signer.sign(_message(signer.name, digest))
    data = _whole(ordered, body, digest, signer.name, signer.public_key, signature)
    read(data, {signer.name: signer.public_key})
    return data


def read(data: bytes, public_keys: Mapping[str, bytes]) -> Lock:
    """The lock in `data`, if one of these keys (name to 32 raw bytes) signed exactly this text. Raises LockFault."""
    try:
        value = parse(data, _LIMITS, fold_names=False)
    except NotJson as error:
        raise LockFault(f"not a lock: {error}") from None
    except RecursionError:
        raise LockFault("not a lock: nested too deeply") from None
    if type(value) is not dict or type(value.get("lock")) is not dict:
        raise LockFault("not a lock: no header")
    header = value["lock"]
    if type(header.get("format")) is not int or header["format"] != FORMAT:
        raise LockFault(f"a lock of another format than {FORMAT}: it needs another version of this program")
    if set(value) != {"lock", "definitions"} or set(header) != _HEADER:
        raise LockFault("not a lock: the header lacks a member or has one too many")
    name, public, signature = _signed(header, public_keys)
    start = data.find(_HEADER_END) + len(_HEADER_END)
    digest = sha256(data[start:]).hexdigest()
    if header["digest"] != digest:
        raise LockFault(f"the definitions are not the ones that were signed{_hint(data)}")
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _message(name, digest))
    except (InvalidSignature, ValueError):
        raise LockFault("the signature does not verify") from None
    entries = tuple(_entries(value["definitions"], data))
    if _whole(entries, _body(entries), digest, name, public, signature) != data:
        raise LockFault(f"the text is not as it was written{_hint(data)}")
    return Lock(entries, digest, name)


def _signed(header: dict[str, Any], public_keys: Mapping[str, bytes]) -> tuple[str, bytes, bytes]:
    """Name and public key of a trusted signer, and its signature."""
    name, signature = header["key"], _base64(header["signature"])
    trusted = public_keys.get(name) if type(name) is str else None
    known = ", ".join(public_keys) or "none"
    if trusted is None:
        raise LockFault(f"signed by a key that is not trusted here; trusted: {known}")
    if _base64(header["public_key"]) != trusted:
        raise LockFault(f"signed by another key that calls itself {name}")
    if len(signature) != 64:
        raise LockFault("no Ed25519 signature")
    return name, trusted, signature


def _message(name: str, digest: str) -> bytes:
    """What is signed. No other thing the same key signs starts like this: a log's name has no spaces in it."""
    return f"limen mcp.lock {FORMAT}\n{name}\n{digest}\n".encode()


def _base64(text: object) -> bytes:
    try:
        return base64.b64decode(text, validate=True) if type(text) is str else b""
    except (binascii.Error, ValueError):
        return b""


def _hint(data: bytes) -> str:
    return "; its line endings were changed: mark it -text in .gitattributes" if b"\r" in data else ""


# reading


def _entries(blocks: object, data: bytes) -> Iterator[Locked]:
    if type(blocks) is not list or len(blocks) > MAX_DEFINITIONS:
        raise LockFault(f"not a list of at most {MAX_DEFINITIONS} definitions")
    starts = (number for number, line in enumerate(data.split(b"\n"), 1) if line == b"    {")
    before: tuple[str, str, str] | None = None
    for number, block in enumerate(blocks, 1):
        entry = _entry(block, f"definition {number}", next(starts, 0))
        if before is not None and entry.place <= before:
            raise LockFault(f"definition {number}: named twice, or out of order")
        before = entry.place
        yield entry


def _entry(block: Any, where: str, line: int) -> Locked:
    if type(block) is not dict or set(block) - {"texts"} != _BLOCK:
        raise LockFault(f"{where}: a member is missing, or one too many")
    approved = block["approved"]
    if type(approved) is not dict or set(approved) != _APPROVED or type(approved["by"]) is not list:
        raise LockFault(f"{where}: does not say who approved it")
    texts = (block["server"], block["kind"], block["name"], block["digest"], approved["reason"], approved["source"])
    if any(type(text) is not str for text in (*texts, *approved["by"])) or type(block["durable"]) is not bool:
        raise LockFault(f"{where}: a member of the wrong type")
    if block["kind"] not in KINDS:
        raise LockFault(f"{where}: of a kind this program does not know")
    if block["effect"] not in EFFECTS or not all(approved["by"]) or not approved["by"] or not block["server"]:
        raise LockFault(f"{where}: no effect, no server, or nobody who approved it")
    definition = canonical(block["definition"])
    if digest_of(definition) != block["digest"]:
        raise LockFault(f"{where}: the definition is not the one of its digest")
    try:
        checked = check(block["kind"], block["definition"])
    except ValueError as error:
        raise LockFault(f"{where}: held: {error}") from None
    if checked.name != block["name"]:
        raise LockFault(f"{where}: stands under another name than its own")
    return Locked(
        *texts[:4],
        block["effect"],
        block["durable"],
        tuple(approved["by"]),
        _seconds(approved["at"], where),
        approved["reason"],
        approved["source"],
        _seconds(approved["expires"], where) if approved["expires"] is not None else 0,
        definition,
        line,
    )


def _seconds(text: object, where: str) -> int:
    if type(text) is not str or not _STAMP.fullmatch(text):
        raise LockFault(f"{where}: a time that is not one")
    try:
        return int(datetime.strptime(text, _TIME).replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise LockFault(f"{where}: a time that is not one") from None


# writing


def _whole(
    entries: Iterable[Locked], body: bytes, digest: str, name: str, public_key: bytes, signature: bytes
) -> bytes:
    servers = [entry.server for entry in entries]
    header = {
        "format": FORMAT,
        "definitions": len(servers),
        "servers": ", ".join(dict.fromkeys(servers)),
        "digest": digest,
        "key": name,
        "public_key": base64.b64encode(public_key).decode(),
        "signature": base64.b64encode(signature).decode(),
    }
    # Everything but the last brace and its line end, which the header gives up for what follows it.
    return _text({"lock": header}).encode()[: -len(b"\n}\n")] + b",\n" + body


def _body(entries: Iterable[Locked]) -> bytes:
    return _text({"definitions": [_block(entry) for entry in entries]}).encode()[len(b"{\n") :]


def _block(entry: Locked) -> dict[str, Any]:
    definition = parse(entry.definition, _LIMITS, fold_names=False)
    made = {
        "server": entry.server,
        "kind": entry.kind,
        "name": entry.name,
        "digest": entry.digest,
        "effect": entry.effect,
        "durable": entry.durable,
        "approved": {
            "by": list(entry.by),
            "at": _stamp(entry.at),
            "reason": entry.reason,
            "source": entry.source,
            "expires": _stamp(entry.expires) if entry.expires else None,
        },
        "definition": definition,
    }
    texts = dict(_long_texts("", definition))
    return {**made, "texts": texts} if texts else made


def _stamp(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime(_TIME)
    except (ValueError, OverflowError, OSError):
        raise LockFault("a time that is not one") from None


def _text(value: Any) -> str:
    """ASCII, indented, members in the order given: definitions come sorted, blocks in the order people read."""
    return json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def _long_texts(path: str, value: Any) -> Iterator[tuple[str, list[str]]]:
    """JSON pointer (RFC 6901) and lines of every text too long to be seen whole."""
    if type(value) is dict:
        for name, member in value.items():
            yield from _long_texts(f"{path}/{name.replace('~', '~0').replace('/', '~1')}", member)
    elif type(value) is list:
        for index, member in enumerate(value):
            yield from _long_texts(f"{path}/{index}", member)
    elif type(value) is str and (len(value) > WIDTH or "\n" in value):
        yield path, [piece for line in value.split("\n") for piece in _wrapped(line)]


def _wrapped(line: str) -> Iterator[str]:
    """Pieces of at most WIDTH characters, cut after a space where there is one. Not textwrap: it may change, and then
    no lock would verify any more."""
    while len(line) > WIDTH:
        at = line.rfind(" ", 0, WIDTH) + 1 or WIDTH
        yield line[:at]
        line = line[at:]
    yield line
