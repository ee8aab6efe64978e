"""What was withheld from a client: kept for a while, readable by nobody but an operator, and by that one once.

An original is stored under AES-256-GCM with a key that is handed in; everything that is known about it is bound into
the encryption, so a record that was changed, exchanged or moved does not open. What became of it carries a MAC. Who may
write to the table can put an old record back: the audit has the release on record then, and keeps it.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import Any, Final, Literal

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from limen.core.call import Call
from limen.core.faults import DependencyFault
from limen.core.ports import Table

KEPT_SECONDS: Final = 7 * 86_400.0
MAX_ITEM: Final = 4 * 1024 * 1024
MAX_PER_SERVER: Final = 100
MAX_ITEMS: Final = 1000
MAX_BYTES: Final = 256 * 1024 * 1024
_ABOUT: Final = "quarantine/about/"
_BODY: Final = "quarantine/body/"
_NAME: Final = 512


@dataclass(frozen=True, slots=True)
class Kept:
    """What is known about one original. Times in seconds since the epoch, `size` in bytes.

    `stored` is False where it was too large: then only this record exists. `name`: tool, prompt or URI.
    """

    id: str
    state: Literal["held", "released", "discarded"]
    created: float
    expires: float
    server: str
    method: str
    name: str
    arguments_sha256: str
    reference: str
    findings: tuple[str, ...]
    size: int
    stored: bool
    decided: float = 0.0
    by: str = ""
    why: str = ""

    @property
    def bound(self) -> bytes:
        """What the encryption is bound to: all but what becomes of it later."""
        fixed = replace(self, state="held", decided=0.0, by="", why="")
        return orjson.dumps(asdict(fixed), option=orjson.OPT_SORT_KEYS)


class Tampered(DependencyFault):
    """What is stored is not what was stored."""

    def __init__(self, id: str) -> None:
        super().__init__("quarantine", f"{id} was changed since it was kept", retryable=False)


class Quarantine:
    """Originals in a table, bounded per item, per server and in all. `key`: 32 random bytes used for nothing else."""

    def __init__(
        self, table: Table, key: bytes, *, seconds: float = KEPT_SECONDS, now: Callable[[], float] = time.time
    ) -> None:
        if len(key) != 32:
            raise ValueError("the key of the quarantine is 32 bytes")
        self._table, self._seconds, self._now = table, seconds, now
        self._cipher = AESGCM(_derived(key, b"limen quarantine encryption"))
        self._mac = _derived(key, b"limen quarantine records")

    def keep(self, call: Call, reference: str, content: dict[str, Any], findings: tuple[str, ...]) -> str:
        """Store what was withheld; the id to release it by. Raises DependencyFault.

        The oldest of the same server gives way, so that one server cannot push out what others sent. What is too large
        is recorded and not kept; "" where there is no room for even that. It is withheld all the same.
        """
        body = orjson.dumps(content)
        fits = len(body) <= MAX_ITEM
        if not self._make_room(call.server, len(body) if fits else 0):
            return ""
        now, id = self._now(), f"q-{secrets.token_hex(16)}"
        kept = Kept(
            id=id,
            state="held",
            created=now,
            expires=now + self._seconds,
            server=call.server,
            method=call.method,
            name=call.name[:_NAME],
            arguments_sha256=sha256(call.arguments).hexdigest(),
            reference=reference,
            findings=tuple(finding[:80] for finding in findings[:32]),
            size=len(body),
            stored=fits,
        )
        if fits:
            nonce = secrets.token_bytes(12)
            sealed = nonce + self._cipher.encrypt(nonce, body, kept.bound)
            self._table.put(_BODY + id, sealed, kept.expires)
        self._table.put(_ABOUT + id, self._encode(kept), kept.expires)
        return id

    def items(self) -> list[Kept]:
        """Everything that is known, oldest first. Raises DependencyFault, Tampered."""
        return sorted((kept for _, kept in self._all()), key=lambda kept: (kept.created, kept.id))

    def about(self, id: str) -> Kept:
        """Raises LookupError when there is no such item (any more), DependencyFault, Tampered."""
        return self._load(id)[1]

    def release(self, id: str, by: str, why: str) -> tuple[Kept, dict[str, Any]]:
        """The original, once. Afterwards it is gone from here, and who took it and why is kept until it expires.

        Raises ValueError without a name or reason, LookupError when it is not (any more) there to be released,
        Tampered, DependencyFault.
        """
        raw, kept = self._held(id, by, why)
        if not kept.stored:
            raise LookupError(f"the original of {id} was too large to be kept ({kept.size} bytes)")
        sealed = self._table.get(_BODY + id)
        if sealed is None:
            raise LookupError(f"the original of {id} is gone")
        try:
            content: dict[str, Any] = orjson.loads(self._cipher.decrypt(sealed[:12], sealed[12:], kept.bound))
        except (InvalidTag, ValueError):
            raise Tampered(id) from None
        return self._decide(raw, kept, "released", by, why), content

    def discard(self, id: str, by: str, why: str) -> Kept:
        """Delete the original unread. Raises as `release` does."""
        raw, kept = self._held(id, by, why)
        return self._decide(raw, kept, "discarded", by, why)

    def _held(self, id: str, by: str, why: str) -> tuple[bytes, Kept]:
        if not by.strip() or not why.strip():
            raise ValueError("a release has somebody who decides it and a reason")
        raw, kept = self._load(id)
        if kept.state != "held":
            raise LookupError(f"{id} was {kept.state} by {kept.by}")
        return raw, kept

    def _decide(self, raw: bytes, kept: Kept, state: Literal["released", "discarded"], by: str, why: str) -> Kept:
        done = replace(kept, state=state, decided=self._now(), by=by[:200], why=why[:1000])
        # Of two who decide at the same moment one changes the record; only that one gets anything.
        if not self._table.swap(_ABOUT + kept.id, raw, self._encode(done), kept.expires):
            raise LookupError(f"{kept.id} was decided about meanwhile")
        self._table.swap(_BODY + kept.id, self._table.get(_BODY + kept.id), None)
        return done

    def _load(self, id: str) -> tuple[bytes, Kept]:
        raw = self._table.get(_ABOUT + id)
        if raw is None:
            raise LookupError(f"nothing is kept under {id!r}")
        kept = self._decode(id, raw)
        if kept.expires <= self._now():
            raise LookupError(f"nothing is kept under {id!r} any more")
        return raw, kept

    def _all(self) -> Iterator[tuple[bytes, Kept]]:
        for place, raw in self._table.scan(_ABOUT):
            kept = self._decode(place[len(_ABOUT) :], raw)
            if kept.expires > self._now():
                yield raw, kept

    def _make_room(self, server: str, size: int) -> bool:
        """Let the oldest of this server go until there is room; False where that does not help."""
        everything = list(self._all())
        mine = sorted((kept for _, kept in everything if kept.server == server), key=lambda kept: kept.created)
        count, total = len(everything), sum(kept.size for _, kept in everything if kept.stored)
        own = len(mine)
        for kept in mine:
            if own < MAX_PER_SERVER and count < MAX_ITEMS and total + size <= MAX_BYTES:
                break
            for place in (_BODY + kept.id, _ABOUT + kept.id):
                self._table.swap(place, self._table.get(place), None)
            own, count, total = own - 1, count - 1, total - (kept.size if kept.stored else 0)
        return own < MAX_PER_SERVER and count < MAX_ITEMS and total + size <= MAX_BYTES

    def _encode(self, kept: Kept) -> bytes:
        data = orjson.dumps(asdict(kept), option=orjson.OPT_SORT_KEYS)
        return self._tag(data) + data

    def _decode(self, id: str, raw: bytes) -> Kept:
        mark, data = raw[:64], raw[64:]
        if not hmac.compare_digest(mark, self._tag(data)):
            raise Tampered(id)
        members = orjson.loads(data)
        kept = Kept(**{**members, "findings": tuple(members["findings"])})
        if kept.id != id:
            raise Tampered(id)
        return kept

    def _tag(self, data: bytes) -> bytes:
        return hmac.new(self._mac, data, sha256).hexdigest().encode()


def filtered_notice(reference: str, id: str) -> str:
    """What a client is told in place of the content. `id`: as `keep` gave it, or "" where nothing was kept."""
    kept = f"An operator can look at it and release it as {id}." if id else "It was not kept."
    return (
        f"[Limen withheld this answer because it looks dangerous. The call itself was made. {kept}"
        f" Repeating the call will not help. Reference {reference}.]"
    )


def _derived(key: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(key)
