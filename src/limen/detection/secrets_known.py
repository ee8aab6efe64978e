"""Values that must never leave, the vault's own secrets and canaries: found by keyed hash in every usual form.

Nothing here keeps a value. Of each form of a value (plain, reversed, base64 at every alignment, base32, hex, escapes,
character codes, halves) 20 bits of a keyed hash of its first eight signs and a keyed digest of the whole are kept; the
key is random and lives as long as the object. Text and forms are compared without anything but ASCII letters and
digits and without case, so separators, line breaks, split fields and changed case hide nothing.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from limen.detection.sensitive_hit import Hit, hits
from limen.detection.sensitive_pattern import Span

LEAST: Final = 8  # letters and digits; anything shorter occurs by chance
LARGEST: Final = 64 << 10
MOST: Final = 10_000
_LONG: Final = 192  # longer values (key files) are looked for by pieces
_PIECE: Final = 64
_PIECES: Final = 12
_GRAM: Final = 8
_BITS: Final = 20
_KEPT: Final = np.zeros(256, dtype=bool)
_LOWER: Final = np.arange(256, dtype=np.uint8)
for _sign in (string.ascii_letters + string.digits).encode():
    _KEPT[_sign] = True
for _sign in string.ascii_uppercase.encode():
    _LOWER[_sign] = _sign + 32

Kind = Literal["known_secret", "canary"]


@dataclass(frozen=True, slots=True)
class _Form:
    length: int
    digest: bytes
    kind: Kind
    confidence: float


def memorable(value: bytes) -> bool:
    """Whether `KnownSecrets.add` takes the value: what is too short or too plain stands in ordinary texts as well."""
    squeezed = _squeeze(value)[0].tobytes()
    return len(squeezed) >= LEAST and len(set(squeezed)) >= 5 and len(value) <= LARGEST


class KnownSecrets:
    """A set of values with `find`. Not safe for concurrent writers; readers see a whole set."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._multiplier = np.uint64(int.from_bytes(secrets.token_bytes(8), "little") | 1)
        self._forms: dict[int, tuple[_Form, ...]] = {}
        self._filter: npt.NDArray[np.bool_] = np.zeros(1 << _BITS, dtype=bool)
        self._values: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"KnownSecrets({len(self._values)} values)"

    def add(self, value: bytes, kind: Kind = "known_secret") -> None:
        """From now on `value` is found. Adding it again changes nothing.

        Raises ValueError for a value that text would hold by chance (under 8 letters and digits, or under 5 different
        ones), that is over 64 KiB, or when 10,000 are held.
        """
        squeezed = _squeeze(value)[0].tobytes()
        if len(squeezed) < LEAST or len(set(squeezed)) < 5:
            raise ValueError("the value is too short or too plain to be told from ordinary text")
        if len(value) > LARGEST:
            raise ValueError("the value is too long")
        name = self._digest(value)
        if name in self._values:
            return
        if len(self._values) >= MOST:
            raise ValueError("too many known secrets")
        for form, confidence in _forms(value):
            needle = _squeeze(form)[0]
            if len(needle) < LEAST:
                continue
            bucket = int(self._buckets(needle[:_GRAM])[0])
            entry = _Form(len(needle), self._digest(needle.tobytes()), kind, confidence)
            held = self._forms.get(bucket, ())
            if entry not in held:
                self._forms[bucket] = (*held, entry)
            self._filter[bucket] = True
        self._values.add(name)

    def find(self, text: str) -> list[Hit]:
        """Where known values stand in `text`, in any form. Family "secret", kind "known_secret" or "canary"."""
        if not self._values or len(text) < LEAST:
            return []
        raw = text.encode("utf-8", "surrogatepass")
        signs, places = _squeeze(raw)
        if len(signs) < LEAST:
            return []
        buckets = self._buckets(signs)
        stream = signs.tobytes()
        spans: list[Span] = []
        for start in np.flatnonzero(self._filter[buckets]).tolist():
            for form in self._forms[int(buckets[start])]:
                end = start + form.length
                if end <= len(stream) and secrets.compare_digest(self._digest(stream[start:end]), form.digest):
                    spans.append(Span(form.kind, int(places[start]), int(places[end - 1]) + 1, form.confidence))
        return hits((("secret", span) for span in spans), raw, text)

    def _digest(self, value: bytes) -> bytes:
        return hashlib.blake2b(value, key=self._key, digest_size=32).digest()

    def _buckets(self, signs: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
        """A keyed 20-bit hash of the eight signs that start at each place."""
        count = len(signs) - _GRAM + 1
        words = np.ndarray((count,), np.dtype("<u8"), buffer=signs.data, strides=(1,))  # every eight neighbours
        mixed = words * self._multiplier
        mixed ^= mixed >> np.uint64(29)
        mixed *= self._multiplier
        return mixed >> np.uint64(64 - _BITS)


def mint_canary() -> bytes:
    """A new value that exists nowhere else: plant it, `add` it as a canary, and whoever sends it has read the place."""
    alphabet = string.ascii_letters + string.digits
    return "".join(secrets.choice(alphabet) for _ in range(40)).encode()


def _squeeze(raw: bytes) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.intp]]:
    """Letters and digits in lower case, and where each stood."""
    array = np.frombuffer(raw, dtype=np.uint8)
    places = np.flatnonzero(_KEPT[array])
    return _LOWER[array[places]], places


def _forms(value: bytes) -> Iterator[tuple[bytes, float]]:
    """What a value looks like in transit, and how sure its sight is."""
    if len(value) > _LONG:
        # Not the start: headers of key files are the same for all.
        for start in range(len(value) // 4, len(value) - _PIECE, max(_PIECE, len(value) // _PIECES)):
            # Line ends are escaped in some texts: from each stretch the part up to or after one.
            part = max(value[start : start + _PIECE].splitlines() or [b""], key=len)
            for form in _encoded(part):
                yield form, 0.99
        return
    for form in _encoded(value):
        yield form, 0.99
    if len(_squeeze(value)[0]) >= 4 * LEAST:
        half = len(value) // 2
        for part in (value[:half], value[half:]):
            yield part, 0.85
            yield part[::-1], 0.85


def _encoded(value: bytes) -> Iterator[bytes]:
    yield value
    yield value[::-1]
    yield _rot13(value)
    yield value.hex().encode()
    yield value[::-1].hex().encode()
    yield value.hex().encode()[::-1]
    yield "".join(f"x{byte:02x}" for byte in value).encode()
    yield "".join(f"0x{byte:02x}" for byte in value).encode()
    yield "".join(f"u{byte:04x}" for byte in value).encode()
    yield "".join(str(byte) for byte in value).encode()
    yield " ".join(f"{byte:03o}" for byte in value).encode()
    yield quote(value, safe="").encode()
    for turned in (value, value[::-1]):
        for offset in range(3):
            inner = _base64_inner(turned, offset)
            yield inner
            yield inner[::-1]
    for offset in range(5):
        yield _base32_inner(value, offset)
    for offset in range(3):  # encoded twice, where the outer one starts with the inner
        yield _base64_inner(base64.b64encode(value), offset)


def _base64_inner(value: bytes, offset: int) -> bytes:
    """The signs of base64 that do not depend on what stands before and after."""
    encoded = base64.b64encode(bytes(offset) + value).rstrip(b"=")
    last = len(encoded) - 1 if (offset + len(value)) % 3 else len(encoded)
    return encoded[(0, 2, 3)[offset] : last]


def _base32_inner(value: bytes, offset: int) -> bytes:
    encoded = base64.b32encode(bytes(offset) + value).rstrip(b"=")
    last = len(encoded) - 1 if (offset + len(value)) % 5 else len(encoded)
    return encoded[(0, 2, 4, 5, 7)[offset] : last]


def _rot13(value: bytes) -> bytes:
    lower, upper = string.ascii_lowercase, string.ascii_uppercase
    table = bytes.maketrans((lower + upper).encode(), (lower[13:] + lower[:13] + upper[13:] + upper[:13]).encode())
    return value.translate(table)
