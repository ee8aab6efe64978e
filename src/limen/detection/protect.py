"""Reversible protection: a text becomes a token that only its tenant's key turns back.

Each tenant has data keys of its own, wrapped by a key-encryption key that a `KeyStore` holds. Texts are sealed with
AES-256-SIV (RFC 5297), which needs no nonce: without one, equal texts give equal tokens, for joins and look-ups; with a
random one they do not, which is the default. Tenant, kind and key number are authenticated with the text. Destroying a
tenant destroys its wrapped keys, and with them everything ever protected for it, wherever the tokens are.

A token reads `lp1.<kind>.<base64url>`. It shows its kind and, in steps of 16 bytes, its length. Whoever sees `equal`
tokens can tell which texts are equal: use it only where that is wanted, and not for texts that can be guessed.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from limen.core.faults import DependencyFault, InvariantFault
from limen.detection.sensitive_hit import Hit, settle

KEY_BYTES: Final = 64  # AES-256-SIV
LARGEST: Final = 1 << 20  # bytes of one text
MOST_KEYS: Final = 1000  # generations of one tenant
_CACHED: Final = 1024  # tenants
_TRIES: Final = 16
_NONCE: Final = 16
_KIND: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_TOKEN: Final = re.compile(r"\blp1\.([a-z][a-z0-9_]{0,39})\.([A-Za-z0-9_-]{32,1500000})(?![A-Za-z0-9_-])")


class NotRevealed(Exception):
    """The token is not one, was changed, or belongs to another tenant or a lost key: which of them is not said."""

    def __init__(self) -> None:
        super().__init__("this token cannot be revealed here")


class KeyDestroyed(Exception):
    """The tenant's keys were destroyed: nothing can be protected for it or revealed any more."""


class KeyStore(Protocol):
    """A key-encryption key that never leaves it, and one record per tenant. All methods raise DependencyFault."""

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """`key` sealed under the newest key-encryption key, bound to `context`."""
        ...

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """The key, whichever key-encryption key sealed it. DependencyFault if it was changed or bound elsewhere."""
        ...

    def read(self, tenant: str) -> bytes | None:
        """The tenant's record, or None. Must see at once what another process has written."""
        ...

    def swap(self, tenant: str, old: bytes | None, new: bytes) -> bool:
        """Durably write `new` only if the record is `old`; True if it was. The old bytes must not stay readable."""
        ...


@dataclass(frozen=True, slots=True)
class _Keys:
    """A tenant's record, read: wrapped keys by number. Empty: destroyed."""

    record: bytes
    wrapped: dict[int, bytes]

    @property
    def newest(self) -> int:
        return max(self.wrapped)


class Protector:
    """Protects and reveals for all tenants of one KeyStore. Safe to use from several threads and processes."""

    def __init__(self, keys: KeyStore) -> None:
        self._store = keys
        self._opened: OrderedDict[tuple[str, int], tuple[bytes, AESSIV]] = OrderedDict()

    def protect(self, kind: str, text: str, tenant: str, *, equal: bool = False) -> str:
        """A token for `text`. `equal`: the same text gives the same token, until the tenant's key is rotated.

        Raises KeyDestroyed, DependencyFault; ValueError for a kind that is no lower-case name or more than 1 MiB.
        """
        plain = text.encode("utf-8", "surrogatepass")
        if _KIND.fullmatch(kind) is None or not tenant or len(plain) > LARGEST:
            raise ValueError("not a kind of token, no tenant, or too much text")
        keys = self._keys(tenant)
        number = keys.newest
        nonce = b"" if equal else secrets.token_bytes(_NONCE)
        padded = plain + b"\x80" + bytes(-(len(plain) + 1) % 16)
        sealed = self._open(tenant, keys, number).encrypt(padded, _bound(tenant, kind, number, nonce))
        return f"lp1.{kind}.{_encode(number.to_bytes(4, 'big') + bytes([len(nonce)]) + nonce + sealed)}"

    def reveal(self, token: str, tenant: str) -> str:
        """The text of a token. Raises NotRevealed, KeyDestroyed (of this very tenant) or DependencyFault."""
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise NotRevealed
        kind, body = match[1], _decode(match[2])
        number, size = int.from_bytes(body[:4], "big"), body[4]
        nonce, sealed = body[5 : 5 + size], body[5 + size :]
        record = self._store.read(tenant) if tenant else None
        if record is None:
            raise NotRevealed
        keys = _parse(record)
        if not keys.wrapped:
            raise KeyDestroyed(tenant)
        if size not in (0, _NONCE) or number not in keys.wrapped or len(sealed) < 32:
            raise NotRevealed
        try:
            padded = self._open(tenant, keys, number).decrypt(sealed, _bound(tenant, kind, number, nonce))
        except InvalidTag:
            raise NotRevealed from None
        return padded.rstrip(b"\x00")[:-1].decode("utf-8", "surrogatepass")

    def cover(self, text: str, hits: Sequence[Hit], tenant: str, *, equal: bool = False) -> str:
        """The text with every hit replaced by a token of its kind."""
        parts, position = [], 0
        for hit in settle(hits):
            start, end = max(0, hit.start), min(len(text), hit.end)
            if end > start:
                parts += [text[position:start], self.protect(hit.kind, text[start:end], tenant, equal=equal)]
                position = end
        return "".join(parts) + text[position:]

    def uncover(self, text: str, tenant: str) -> str:
        """The text with every token of this tenant revealed; what only looks like one stays as it is."""

        def shown(match: re.Match[str]) -> str:
            try:
                return self.reveal(match[0], tenant)
            except NotRevealed:
                return match[0]

        return _TOKEN.sub(shown, text)

    def rotate(self, tenant: str) -> None:
        """New texts get a new key from now on; older tokens can still be revealed. Raises KeyDestroyed."""

        def add(keys: _Keys) -> dict[int, bytes]:
            if len(keys.wrapped) >= MOST_KEYS:
                raise InvariantFault("too many generations of a tenant's keys")
            return {**keys.wrapped, **self._new(tenant, keys.newest + 1)}

        self._change(tenant, self._keys(tenant), add)

    def rewrap(self, tenant: str) -> None:
        """Wrap the tenant's keys anew, after the key-encryption key was rotated. Tokens stay as they are."""

        def again(keys: _Keys) -> dict[int, bytes]:
            plain = {n: self._store.unwrap(w, _context(tenant, n)) for n, w in keys.wrapped.items()}
            return {n: self._store.wrap(key, _context(tenant, n)) for n, key in plain.items()}

        self._change(tenant, self._keys(tenant), again)

    def renew(self, token: str, tenant: str, *, equal: bool = False) -> str:
        """The same text under the tenant's newest key."""
        kind = token.split(".", 2)[1] if token.count(".") == 2 else ""
        return self.protect(kind, self.reveal(token, tenant), tenant, equal=equal)

    def destroy(self, tenant: str) -> None:
        """Give up the tenant's keys for good, here and in every process. There is no way back."""
        if not tenant:
            raise ValueError("no tenant")
        for _ in range(_TRIES):
            if self._store.swap(tenant, self._store.read(tenant), _render({})):
                break
        else:
            raise DependencyFault("key store", "the tenant's record does not hold still")
        for name in [name for name in list(self._opened) if name[0] == tenant]:
            self._opened.pop(name, None)

    def __repr__(self) -> str:
        return "Protector()"

    def _keys(self, tenant: str) -> _Keys:
        """The tenant's keys, a first one made if there are none. Raises KeyDestroyed."""
        record = self._store.read(tenant)
        if record is None:
            fresh = _render(self._new(tenant, 1))
            record = fresh if self._store.swap(tenant, None, fresh) else self._store.read(tenant)
        if record is None:
            raise DependencyFault("key store", "a record that was written cannot be read")
        keys = _parse(record)
        if not keys.wrapped:
            raise KeyDestroyed(tenant)
        return keys

    def _change(self, tenant: str, keys: _Keys, change: _Change) -> None:
        for _ in range(_TRIES):
            if self._store.swap(tenant, keys.record, _render(change(keys))):
                return
            keys = self._keys(tenant)
        raise DependencyFault("key store", "the tenant's record does not hold still")

    def _new(self, tenant: str, number: int) -> dict[int, bytes]:
        return {number: self._store.wrap(secrets.token_bytes(KEY_BYTES), _context(tenant, number))}

    def _open(self, tenant: str, keys: _Keys, number: int) -> AESSIV:
        """The cipher of one key. What is kept is only used while the store still holds exactly that wrapped key."""
        wrapped = keys.wrapped[number]
        held = self._opened.get((tenant, number))
        if held is not None and held[0] == wrapped:
            return held[1]
        key = self._store.unwrap(wrapped, _context(tenant, number))
        if len(key) != KEY_BYTES:
            raise DependencyFault("key store", "a data key of the wrong length", retryable=False)
        cipher = AESSIV(key)
        self._opened[tenant, number] = (wrapped, cipher)
        while len(self._opened) > _CACHED:
            self._opened.popitem(last=False)
        return cipher


class _Change(Protocol):
    def __call__(self, keys: _Keys) -> dict[int, bytes]: ...


def _context(tenant: str, number: int) -> bytes:
    """What a wrapped key is bound to, so that records of two tenants cannot be exchanged."""
    return b"limen data key\x00" + number.to_bytes(4, "big") + tenant.encode("utf-8", "surrogatepass")


def _bound(tenant: str, kind: str, number: int, nonce: bytes) -> list[bytes]:
    """Associated data, each part a component of its own (RFC 5297 section 2.4); the nonce comes last."""
    who = tenant.encode("utf-8", "surrogatepass")
    return [b"limen token 1", who, kind.encode(), number.to_bytes(4, "big"), nonce or b"equal"]


def _render(wrapped: dict[int, bytes]) -> bytes:
    keys = {str(number): base64.b64encode(key).decode() for number, key in sorted(wrapped.items())}
    return json.dumps({"version": 1, "keys": keys}, separators=(",", ":")).encode()


def _parse(record: bytes) -> _Keys:
    """Raises DependencyFault for a record that is not one of ours."""
    try:
        held = json.loads(record)
        if held["version"] != 1:
            raise ValueError("unknown version")
        return _Keys(record, {int(n): base64.b64decode(key, validate=True) for n, key in held["keys"].items()})
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise DependencyFault("key store", "a tenant's record cannot be read", retryable=False) from fault


def _encode(body: bytes) -> str:
    return base64.urlsafe_b64encode(body).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """Strictly: one text for one value. Raises NotRevealed."""
    try:
        body = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise NotRevealed from None
    if _encode(body) != text:
        raise NotRevealed
    return body
