"""Secrets at rest: implements `core.ports.Sealer` by envelope encryption.

Each owner has data keys of its own, wrapped by a key-encryption key that a `KeyWrap` holds. A secret is AES-256-GCM
under its owner's newest data key, with owner and place as associated data: it opens for nobody else and nowhere else.
The table holds wrapped data keys only, so whoever has the database has nothing; whoever destroys an owner's record has
destroyed every secret sealed for that owner, wherever its copies are.

In memory a data key lives in OpenSSL's cipher alone, which wipes it when it is let go of, `LIVES` seconds after it was
unwrapped and with the next use of the vault. The bytes it came in, and those of an opened secret, are Python's: their
memory is free for reuse then, and not wiped. See docs/vault.md.

An owner is a person (`owner_of`) or one of our own parts (a fixed name): each costs a record that stays, so nobody may
be able to invent owners. Sealing reads the table, and may wait for the `KeyWrap`; opening does so only when the
data key is not at hand. Both are for a thread, not for the event loop.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from limen.core.faults import ConfigFault, DependencyFault
from limen.core.ports import KeyWrap, Table

LARGEST: Final = 1 << 20  # bytes of one secret
LIVES: Final = 60.0  # seconds an unwrapped data key is kept
MOST: Final = 64  # data keys of one owner
_CACHED: Final = 1024  # unwrapped data keys
_KEY, _ID, _NONCE, _TAG = 32, 8, 12, 16
_VERSION: Final = b"\x01"
_HEAD: Final = len(_VERSION) + _ID + _NONCE
_TRIES: Final = 16
_LANES: Final = 32
_OURS: Final = ""  # the owner nobody can be: its data key proves that the key-encryption key is the right one
_PREFIX: Final = "key/"

Progress = Callable[[int, int], None]  # done, of how many


@dataclass(frozen=True, slots=True)
class Standing:
    """What is in a vault: owners, their data keys, and of those the ones that an older key-encryption key wrapped."""

    owners: int
    keys: int
    behind: int


@dataclass(frozen=True, slots=True)
class _Record:
    raw: bytes
    newest: str
    wrapped: Mapping[str, bytes]  # by id, 16 hexadecimal digits


class Vault:
    """Seals and opens for all owners of one table. Safe for several threads, processes and replicas."""

    def __init__(self, table: Table, wrap: KeyWrap, now: Callable[[], float] = time.monotonic) -> None:
        self._table, self._wrap, self._now = table, wrap, now
        self._held: OrderedDict[tuple[str, str], tuple[float, AESGCM]] = OrderedDict()  # oldest first
        self._lock = threading.Lock()
        self._lanes = tuple(threading.Lock() for _ in range(_LANES))  # one unwraps, the others wait for it

    def seal(self, owner: str, place: str, secret: bytes) -> bytes:
        """Version, data key, nonce, ciphertext. Raises DependencyFault; ValueError above 1 MiB."""
        if not owner or len(secret) > LARGEST:
            raise ValueError("nobody's secret, or too large a one")
        digest = _digest(owner)
        record = self._record(digest)
        cipher = self._at_hand(digest, record.newest) or self._cipher(digest, record.newest)
        head = _VERSION + bytes.fromhex(record.newest)
        nonce = secrets.token_bytes(_NONCE)
        return head + nonce + cipher.encrypt(nonce, secret, _bound(head, owner, place))

    def open(self, owner: str, place: str, sealed: bytes) -> bytes:
        """Raises DependencyFault: for what is not as `seal` made it for this owner and place, not worth a retry."""
        if len(sealed) < _HEAD + _TAG or sealed[:1] != _VERSION or not owner:
            raise _closed("it is cut off or not of this kind")
        digest, key = _digest(owner), sealed[1 : 1 + _ID].hex()
        cipher = self._at_hand(digest, key) or self._cipher(digest, key)
        try:
            return cipher.decrypt(sealed[1 + _ID : _HEAD], sealed[_HEAD:], _bound(sealed[: 1 + _ID], owner, place))
        except InvalidTag:
            raise _closed("it was changed, or is of another owner or place") from None

    def prove(self) -> None:
        """That the data keys there are can be unwrapped, or, in an empty vault, one is made that will tell.

        Raises ConfigFault if another key-encryption key wrapped them; DependencyFault.
        """
        digest = _digest(_OURS)
        try:
            record = self._record(digest)
            self._unwrap(digest, record.newest, record.wrapped[record.newest])
        except DependencyFault as fault:
            if fault.retryable:
                raise
            raise ConfigFault(
                f"the vault's data keys were wrapped by another key-encryption key than this ({fault}); restore the "
                "one that belongs to these records",
                "vault.keys",
            ) from None

    def rotate(self, owner: str) -> None:
        """A new data key for what is sealed from now on. Older ones still open."""
        self._add(_digest(owner), create=True)

    def rotate_all(self, progress: Progress = lambda done, of: None) -> int:
        """The same for every owner there is. Returns for how many."""
        places = [place for place, _ in self._table.scan(_PREFIX)]
        return self._each(places, lambda digest: self._add(digest, create=False), progress)

    def rewrap(self, progress: Progress = lambda done, of: None) -> int:
        """Wrap every data key anew that an older key-encryption key wrapped. Secrets stay as they are; safe to repeat,
        to interrupt, and to run while others seal, open and rewrap. Returns for how many owners it did."""
        rows = [(place, _parse(raw)) for place, raw in self._table.scan(_PREFIX)]
        wrapped = [one for _, record in rows for one in record.wrapped.values()]
        older = {one for one, is_older in zip(wrapped, self._wrap.older(wrapped), strict=True) if is_older}
        behind = [place for place, record in rows if not older.isdisjoint(record.wrapped.values())]
        return self._each(behind, self._rewrap, progress)

    def rotate_kek(self) -> None:
        """A new key-encryption key for data keys to come. Then rewrap."""
        self._wrap.rotate()

    def retire(self) -> None:
        """Give up the older key-encryption keys. Raises ConfigFault while any data key still needs one.

        What others wrap with an older one at this very moment is not seen: rewrap twice, some seconds apart, before.
        """
        # Older than this one, not than the newest by then: somebody else may rotate between our look and our act.
        mark = self._wrap.wrap(bytes(_KEY), b"limen retire")
        if behind := self.status().behind:
            raise ConfigFault(f"{behind} data keys are still wrapped by an older key; rewrap first", "vault.keys")
        self._wrap.retire(mark)

    def destroy(self, owner: str) -> bool:
        """Give up an owner's data keys: nothing sealed for it opens any more, here at once and in other processes
        within LIVES seconds. What is sealed afterwards has a new key. Whether there was anything."""
        if not owner:
            raise ValueError("the vault's own data key stays")
        digest = _digest(owner)
        with self._lane(digest):
            for _ in range(_TRIES):
                raw = self._table.get(_PREFIX + digest)
                if raw is None or self._table.swap(_PREFIX + digest, raw, None):
                    break
            else:
                raise _restless()
            with self._lock:
                for name in [name for name in self._held if name[0] == digest]:
                    del self._held[name]
        return raw is not None

    def status(self) -> Standing:
        """Counted now, by reading every record."""
        records = [_parse(raw) for _, raw in self._table.scan(_PREFIX)]
        wrapped = [one for record in records for one in record.wrapped.values()]
        ours = self._table.get(_PREFIX + _digest(_OURS)) is not None
        behind = sum(self._wrap.older(wrapped))
        return Standing(len(records) - ours, len(wrapped) - ours, behind)

    def forget(self) -> None:
        """Let go of data keys whose time is over. Happens by itself whenever the vault is used."""
        with self._lock:
            self._expire(self._now())

    def __repr__(self) -> str:
        return "Vault()"

    def _lane(self, digest: str) -> threading.Lock:
        return self._lanes[int(digest[:2], 16) % _LANES]

    def _at_hand(self, digest: str, key: str) -> AESGCM | None:
        now = self._now()
        held = self._held.get((digest, key))
        if held is not None and held[0] > now:
            return held[1]
        with self._lock:
            self._expire(now)
        return None

    def _cipher(self, digest: str, key: str) -> AESGCM:
        """The cipher of one data key. The record is read in the lane: what was destroyed does not come back to hand."""
        with self._lane(digest):
            if (cipher := self._at_hand(digest, key)) is not None:
                return cipher
            record = self._read(digest)
            wrapped = None if record is None else record.wrapped.get(key)
            if wrapped is None:
                raise _closed("its data key was destroyed, or never was here")
            cipher = self._unwrap(digest, key, wrapped)
            with self._lock:
                self._held[digest, key] = (self._now() + LIVES, cipher)
                while len(self._held) > _CACHED:
                    self._held.popitem(last=False)
            return cipher

    def _unwrap(self, digest: str, key: str, wrapped: bytes) -> AESGCM:
        with _running():
            plain = self._wrap.unwrap(wrapped, _context(digest, key))
        if len(plain) != _KEY:
            raise DependencyFault("vault", "a data key of the wrong length", retryable=False)
        return AESGCM(plain)

    def _expire(self, now: float) -> None:
        """Held under the lock. All live equally long, so the oldest stands first."""
        while self._held and (name := next(iter(self._held))) and self._held[name][0] <= now:
            del self._held[name]

    def _record(self, digest: str) -> _Record:
        """An owner's data keys, a first one made if there is none: by whoever is first, for everybody."""
        record = self._read(digest)
        if record is None:
            key, wrapped = self._fresh(digest)
            self._table.swap(_PREFIX + digest, None, _render(key, {key: wrapped}))
            record = self._read(digest)
        if record is None:
            raise DependencyFault("vault", "a record that was written is gone")
        return record

    def _read(self, digest: str) -> _Record | None:
        raw = self._table.get(_PREFIX + digest)
        return None if raw is None else _parse(raw)

    def _fresh(self, digest: str) -> tuple[str, bytes]:
        key = secrets.token_hex(_ID)
        with _running():
            return key, self._wrap.wrap(secrets.token_bytes(_KEY), _context(digest, key))

    def _each(self, places: Sequence[str], change: Callable[[str], bool], progress: Progress) -> int:
        changed = 0
        for done, place in enumerate(places, 1):
            changed += change(place.removeprefix(_PREFIX))
            progress(done, len(places))
        return changed

    def _add(self, digest: str, *, create: bool) -> bool:
        for _ in range(_TRIES):
            record = self._record(digest) if create else self._read(digest)
            if record is None:
                return False  # destroyed meanwhile
            if len(record.wrapped) >= MOST:
                raise DependencyFault("vault", "too many generations of an owner's data keys", retryable=False)
            key, wrapped = self._fresh(digest)
            if self._table.swap(_PREFIX + digest, record.raw, _render(key, {**record.wrapped, key: wrapped})):
                return True
        raise _restless()

    def _rewrap(self, digest: str) -> bool:
        for _ in range(_TRIES):
            record = self._read(digest)
            if record is None:
                return False
            older = dict(zip(record.wrapped, self._wrap.older([*record.wrapped.values()]), strict=True))
            if not any(older.values()):
                return False
            anew = {
                key: self._anew(digest, key, wrapped) if older[key] else wrapped
                for key, wrapped in record.wrapped.items()
            }
            if self._table.swap(_PREFIX + digest, record.raw, _render(record.newest, anew)):
                return True
        raise _restless()

    def _anew(self, digest: str, key: str, wrapped: bytes) -> bytes:
        context = _context(digest, key)
        return self._wrap.wrap(self._wrap.unwrap(wrapped, context), context)


def in_use(table: Table) -> bool:
    """Whether there are data keys: then the key-encryption key must be there too, and is never made anew."""
    return next(iter(table.scan(_PREFIX)), None) is not None


def _digest(owner: str) -> str:
    """Owners are people: the table does not name them."""
    return hashlib.sha256(b"limen owner\x00" + owner.encode("utf-8", "surrogatepass")).hexdigest()


def _context(digest: str, key: str) -> bytes:
    """What a wrapped data key is bound to, so that those of two owners cannot be exchanged."""
    return b"limen vault key\x00" + bytes.fromhex(digest) + bytes.fromhex(key)


def _bound(head: bytes, owner: str, place: str) -> bytes:
    """Associated data: one reading for each owner and place."""
    who = owner.encode("utf-8", "surrogatepass")
    return b"limen sealed\x00%b%d:%b%b" % (head, len(who), who, place.encode("utf-8", "surrogatepass"))


@contextmanager
def _running() -> Iterator[None]:
    """A key that was good at the start and is not now (others may read its file, say) is a dependency that fails."""
    try:
        yield
    except ConfigFault as fault:
        raise DependencyFault("vault", str(fault), retryable=False) from None


def _closed(why: str) -> DependencyFault:
    return DependencyFault("vault", f"a sealed secret cannot be opened: {why}", retryable=False)


def _restless() -> DependencyFault:
    return DependencyFault("vault", "an owner's record does not hold still")


def _render(newest: str, wrapped: Mapping[str, bytes]) -> bytes:
    keys = {key: b64encode(one).decode() for key, one in wrapped.items()}
    return orjson.dumps({"version": 1, "newest": newest, "keys": keys})


def _parse(raw: bytes) -> _Record:
    """Raises DependencyFault for a record that is not one of ours."""
    try:
        held = orjson.loads(raw)
        if held["version"] != 1 or len(bytes.fromhex(held["newest"])) != _ID:
            raise ValueError("another version")
        wrapped = {str(key): b64decode(one, validate=True) for key, one in held["keys"].items()}
        if held["newest"] not in wrapped:
            raise ValueError("no newest")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DependencyFault("vault", "an owner's record cannot be read", retryable=False) from None
    return _Record(raw, held["newest"], wrapped)
