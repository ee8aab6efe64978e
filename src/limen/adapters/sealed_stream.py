"""A file that is encrypted and authenticated as a whole while it is written and read in pieces.

Header: magic, scrypt salt (16 bytes), log2 of scrypt's N (1), nonce prefix (7). Then pieces of 1 MiB under AES-256-GCM:
nonce is prefix, number of the piece (4 bytes) and whether it is the last (1); the header is associated data of each
(the STREAM construction, Hoang et al. 2015). So a piece that is changed, moved, missing at the end or added is noticed
when it is read. The key is scrypt (RFC 7914) of a passphrase, r 8, p 1.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import BinaryIO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from limen.core.faults import ConfigFault

MAGIC: Final = b"limen sealed/1\n"
PIECE: Final = 1 << 20
COST: Final = 17  # log2 of N: 128 MiB, and half a second
LEAST_COST, MOST_COST = 14, 20
_SALT, _PREFIX, _TAG = 16, 7, 16
_HEADER: Final = len(MAGIC) + _SALT + 1 + _PREFIX


class NotSealed(ConfigFault):
    """What is read is not what was written under this passphrase. Says no more: there is nothing else to know."""


def _key(passphrase: str, salt: bytes, cost: int) -> AESGCM:
    return AESGCM(Scrypt(salt=salt, length=32, n=1 << cost, r=8, p=1).derive(passphrase.encode()))


class SealedWriter:
    """`write` as often as needed, then `close`, which does not close `sink`."""

    def __init__(self, sink: BinaryIO, passphrase: str, cost: int = COST) -> None:
        salt, prefix = secrets.token_bytes(_SALT), secrets.token_bytes(_PREFIX)
        self._header = MAGIC + salt + bytes([cost]) + prefix
        self._sink, self._cipher, self._prefix = sink, _key(passphrase, salt, cost), prefix
        self._held, self._number = bytearray(), 0
        sink.write(self._header)

    def write(self, data: bytes) -> None:
        """Raises OSError."""
        self._held += data
        while len(self._held) > PIECE:  # the last one is told from the others: one is always kept
            self._put(bytes(self._held[:PIECE]), 0)
            del self._held[:PIECE]

    def close(self) -> None:
        """The last piece. Raises OSError."""
        self._put(bytes(self._held), 1)

    def _put(self, piece: bytes, last: int) -> None:
        self._sink.write(self._cipher.encrypt(_nonce(self._prefix, self._number, last), piece, self._header))
        self._number += 1


class SealedReader:
    """Reads from the beginning of `source`. Nothing is given out that was not authenticated."""

    def __init__(self, source: BinaryIO, passphrase: str, where: str) -> None:
        """Raises NotSealed for a file of another kind."""
        source.seek(0)
        self._header, self._where = source.read(_HEADER), where
        cost = self._header[len(MAGIC) + _SALT] if len(self._header) == _HEADER else 0
        if not self._header.startswith(MAGIC) or not LEAST_COST <= cost <= MOST_COST:
            raise NotSealed("is no sealed file of Limen", where)
        self._cipher = _key(passphrase, self._header[len(MAGIC) : len(MAGIC) + _SALT], cost)
        self._source, self._pieces, self._held = source, self._each(), bytearray()

    def read(self, count: int) -> bytes:
        """Exactly so many bytes. Raises NotSealed for a wrong passphrase, anything changed, and an early end."""
        while len(self._held) < count:
            piece = next(self._pieces, None)
            if piece is None:
                raise NotSealed("ends before it should", self._where)
            self._held += piece
        found = bytes(self._held[:count])
        del self._held[:count]
        return found

    def finish(self) -> None:
        """That there is nothing after what was read. Raises NotSealed."""
        if self._held or any(self._pieces):
            raise NotSealed("goes on after its end", self._where)

    def _each(self) -> Iterator[bytes]:
        prefix, number = self._header[-_PREFIX:], 0
        here = self._source.read(PIECE + _TAG)
        while True:
            following = self._source.read(PIECE + _TAG)
            try:
                yield self._cipher.decrypt(_nonce(prefix, number, int(not following)), here, self._header)
            except InvalidTag:
                raise NotSealed("another passphrase, or the file was changed or cut off", self._where) from None
            if not following:
                return
            here, number = following, number + 1


def _nonce(prefix: bytes, number: int, last: int) -> bytes:
    return prefix + number.to_bytes(4, "big") + bytes([last])
