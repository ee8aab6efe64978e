"""Indicators from outside: signed, versioned, swapped while calls run. A feed that is wrong changes nothing.

The file: one line `limen-feed/1 SIGNATURE` (Ed25519, standard base64), then a JSON object. The signature is over
`limen-feed/1`, a newline and the object's bytes as they stand. The object: `name`, `version` (integer, only rises) and
`indicators`, each with `id`, `kind`, `value` and optionally `score` (0..1, default 0.9). Kinds: literal (case-folded
text), pattern (RE2), sha256 (of a whole text in UTF-8), domain (it and everything below it), package (a name).
Expressions are RE2: linear in the text whoever wrote them.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import re2  # type: ignore[import-untyped]
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from limen.detection.finding import Finding
from limen.protocol.jsonrpc import JsonLimits, NotJson, parse

HEAD: Final = b"limen-feed/1"
MAX_SIZE: Final = 8 << 20
MAX_INDICATORS: Final = 50_000
MAX_PATTERNS: Final = 2_000  # literals, patterns and packages: each is looked for in every text
_LIMITS: Final = JsonLimits(size=MAX_SIZE, depth=4, members=MAX_INDICATORS * 6, string=4096)
_GROUP: Final = 64
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DOMAIN: Final = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{1,62}")
_PACKAGE: Final = re.compile(r"@?[A-Za-z0-9][A-Za-z0-9._/-]{2,213}")
_HOSTS: Final = re2.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+")
_OPTIONS: Final = re2.Options()
_OPTIONS.max_mem = 8 << 20
_OPTIONS.log_errors = False


class FeedRefused(ValueError):
    """The feed is not used; the message says why, for the operator."""


@dataclass(frozen=True, slots=True)
class Indicator:
    """One thing to look for. `score`: probability that who holds it is up to something."""

    id: str
    kind: str
    value: str
    score: float


class Indicators:
    """A whole feed, compiled. Immutable; `scan` may run in several threads."""

    def __init__(self, name: str, version: int, rows: Iterable[Indicator]) -> None:
        self.name, self.version = name, version
        by_kind: dict[str, list[Indicator]] = {}
        for row in rows:
            by_kind.setdefault(row.kind, []).append(row)
        self._hashes = {row.value: row for row in by_kind.get("sha256", [])}
        self._domains = {row.value: row for row in by_kind.get("domain", [])}
        looked = [row for kind in ("literal", "pattern", "package") for row in by_kind.get(kind, [])]
        if len(looked) > MAX_PATTERNS:
            raise FeedRefused(f"more than {MAX_PATTERNS} literals, patterns and packages")
        single = [(row, _expression(row)) for row in looked]
        # One expression over many is the gate. Single expressions, not an RE2 set: a set out of memory finds nothing.
        self._groups = [
            (_compile("|".join(f"(?:{text})" for _, text in part)), [(row, _compile(text)) for row, text in part])
            for part in (single[at : at + _GROUP] for at in range(0, len(single), _GROUP))
        ]

    def scan(self, text: str) -> list[Finding]:
        """Findings of family feed. Linear in the text."""
        found: list[Finding] = []
        for gate, members in self._groups:
            if gate.search(text) is not None:
                found += [
                    self._finding(row, match.span()) for row, one in members if (match := one.search(text)) is not None
                ]
        if self._domains and "." in text:
            for match in _HOSTS.finditer(text):
                if (row := self._listed(match.group(0).lower().rstrip("."))) is not None:
                    found.append(self._finding(row, match.span()))
        if self._hashes:
            row = self._hashes.get(sha256(text.encode("utf-8", "surrogatepass")).hexdigest())
            found += [self._finding(row, (0, len(text)))] if row is not None else []
        return found

    def _listed(self, host: str) -> Indicator | None:
        labels = host.split(".")[-12:]
        names = (".".join(labels[at:]) for at in range(len(labels) - 1))
        return next((row for name in names if (row := self._domains.get(name)) is not None), None)

    def _finding(self, row: Indicator, span: tuple[int, int]) -> Finding:
        detail = f"{self.name} {self.version}: {row.id}"
        return Finding(f"feed.{row.kind}", "feed", row.score, span=span, detail=detail)


class Feed:
    """The indicators in force from one source. `floor`: the highest version ever used, so that a restart forgets none.

    `offer` swaps; whatever is wrong with what is offered, the last good one stays.
    """

    def __init__(self, key: bytes, floor: int = 0) -> None:
        self._key = Ed25519PublicKey.from_public_bytes(key)
        self._floor = floor
        self._digest = b""
        self.current: Indicators | None = None

    def offer(self, data: bytes) -> bool:
        """Put this feed in force. False when it is the one in force already. Raises FeedRefused."""
        digest = sha256(data).digest()
        if digest == self._digest:
            return False
        document = _opened(data, self._key)
        name, version, rows = _read(document)
        if self.current is not None and name != self.current.name:
            raise FeedRefused(f"another feed than {self.current.name}")
        if version < self._floor or (self.current is not None and version == self.current.version):
            raise FeedRefused(f"version {version} does not follow version {self._floor}")
        self.current = Indicators(name, version, rows)
        self._floor, self._digest = version, digest
        return True

    def scan(self, text: str) -> list[Finding]:
        """What the feed in force says of this text."""
        current = self.current
        return current.scan(text) if current is not None else []


def signed(payload: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """A feed file. `sign`: message -> 64 bytes of Ed25519."""
    return HEAD + b" " + base64.b64encode(sign(HEAD + b"\n" + payload)) + b"\n" + payload


def _opened(data: bytes, key: Ed25519PublicKey) -> Any:
    if len(data) > MAX_SIZE:
        raise FeedRefused(f"larger than {MAX_SIZE} bytes")
    first, newline, payload = data.partition(b"\n")
    head, _, signature = first.partition(b" ")
    if head != HEAD or not newline:
        raise FeedRefused("not a feed file")
    try:
        # The signature goes first: nothing else of a file that a stranger wrote is read.
        key.verify(base64.b64decode(signature, validate=True), HEAD + b"\n" + payload)
        return parse(payload, _LIMITS)
    except (InvalidSignature, binascii.Error):
        raise FeedRefused("the signature is not by the configured key") from None
    except NotJson as fault:
        raise FeedRefused(f"not JSON: {fault}") from None


def _read(document: Any) -> tuple[str, int, list[Indicator]]:
    if type(document) is not dict or document.keys() != {"name", "version", "indicators"}:
        raise FeedRefused("not an object of name, version and indicators")
    name, version, listed = document["name"], document["version"], document["indicators"]
    if type(name) is not str or not _NAME.fullmatch(name) or type(version) is not int or version < 1:
        raise FeedRefused("name is not a name, or version not a positive integer")
    if type(listed) is not list or len(listed) > MAX_INDICATORS:
        raise FeedRefused(f"indicators are not a list of at most {MAX_INDICATORS}")
    rows = list(_rows(listed))
    if len({row.id for row in rows}) < len(rows):
        raise FeedRefused("two indicators of the same id")
    return name, version, rows


def _rows(listed: Sequence[Any]) -> Iterator[Indicator]:
    for number, one in enumerate(listed):
        if type(one) is not dict or not {"id", "kind", "value"} <= one.keys() <= {"id", "kind", "value", "score"}:
            raise FeedRefused(f"indicator {number} is not an object of id, kind, value and score")
        row = Indicator(one["id"], one["kind"], one["value"], one.get("score", 0.9))
        if not all(type(text) is str for text in (row.id, row.kind, row.value)) or not _NAME.fullmatch(row.id):
            raise FeedRefused(f"indicator {number}: id, kind or value is not text, or id no name")
        if type(row.score) not in (int, float) or not 0.0 < row.score <= 1.0:
            raise FeedRefused(f"indicator {row.id}: score is not above 0 and at most 1")
        check = _SHAPES.get(row.kind)
        if check is None or not check(row.value):
            raise FeedRefused(f"indicator {row.id}: not a usable {row.kind[:20]!r}")
        if row.kind == "pattern" and _compile(row.value).search("") is not None:
            raise FeedRefused(f"indicator {row.id}: the pattern matches the empty text, so everything")
        yield row


_SHAPES: Final[Mapping[str, Callable[[str], object]]] = {
    "literal": lambda value: 6 <= len(value.strip()) <= 512,
    "pattern": lambda value: 4 <= len(value) <= 512,
    "sha256": re.compile(r"[0-9a-f]{64}").fullmatch,
    "domain": lambda value: len(value) <= 253 and _DOMAIN.fullmatch(value),
    "package": _PACKAGE.fullmatch,
}


def _expression(row: Indicator) -> str:
    if row.kind == "pattern":
        return row.value
    plain = str(re2.escape(row.value))
    if row.kind == "literal":
        return f"(?i:{plain})"
    return rf"(?:^|[^A-Za-z0-9._/@-])(?i:{plain})(?:$|[^A-Za-z0-9._/-])"


def _compile(text: str) -> Any:
    try:
        return re2.compile(text, _OPTIONS)
    except re2.error:
        raise FeedRefused("a pattern that RE2 does not take") from None
