"""Keys that sign JSON web tokens, in a file: implements `core.ports.TokenSigner` for replicas that share a directory.

The directory and its file are what `PrivateFiles` demands. The file holds private JWKs (RFC 7517), each with when it
was made and from when it signs. A new key is published at once and signs only after `warming` seconds, when every
replica and every cached JWK set knows it. An older key stays published until the last token it can have signed has
expired, and is then overwritten. Rotation may happen in any process: every process looks again within a second.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import orjson
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from limen.adapters.private_files import PrivateFiles
from limen.core.faults import ConfigFault

Algorithm = Literal["ES256", "EdDSA", "RS256"]
WARMING: Final = 600.0  # seconds: a replica needs one, a client's cached JWK set some minutes
LIFETIME: Final = 960.0  # seconds of the longest token we sign, and clocks that disagree
_FILE: Final = "signing"
_LOOK: Final = 1.0  # seconds for which the file is not looked at again
_MAKERS: Final[Mapping[str, Callable[[], ECKey | OKPKey | RSAKey]]] = MappingProxyType(
    {
        "ES256": lambda: ECKey.generate_key("P-256"),
        "EdDSA": lambda: OKPKey.generate_key("Ed25519"),
        "RS256": lambda: RSAKey.generate_key(3072),
    }
)
_READERS: Final[Mapping[str, type[ECKey] | type[OKPKey] | type[RSAKey]]] = MappingProxyType(
    {"ES256": ECKey, "EdDSA": OKPKey, "RS256": RSAKey}
)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One key, parsed. `starts`: seconds since the epoch from when it signs. Its repr shows no secret."""

    id: str  # RFC 7638 thumbprint
    algorithm: str
    made: float
    starts: float
    key: ECKey | OKPKey | RSAKey = field(repr=False)

    @property
    def public(self) -> dict[str, Any]:
        """What verifiers need, and nothing else."""
        members: dict[str, Any] = self.key.as_dict(private=False)
        return {**members, "kid": self.id, "use": "sig", "alg": self.algorithm}


class SigningKeys(PrivateFiles):
    """The signing keys in `directory`, made with a first one if there is none. Raises as PrivateFiles does."""

    def __init__(
        self,
        directory: Path,
        *,
        algorithm: Algorithm = "ES256",
        warming: float = WARMING,
        lifetime: float = LIFETIME,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(directory, "token keys")
        self._algorithm, self._warming, self._lifetime, self._now = algorithm, warming, lifetime, now
        self._ring: tuple[SigningKey, ...] = ()  # by when they start
        self._heads: dict[tuple[str, str], bytes] = {}
        self._mark, self._looked = (0, 0), 0.0
        with self._fault(), self._locked():
            if not (directory / _FILE).exists():
                self._write(_FILE, _render([_made(algorithm, now(), now())]))
        self._look(time.monotonic())

    def sign(self, kind: str, claims: Mapping[str, object]) -> str:
        """A compact JWS of JSON claims by the newest key that has been known for long enough."""
        moment = time.monotonic()
        if moment - self._looked > _LOOK:
            self._look(moment)
        signing = self._signing(self._now())
        head = self._heads.get((signing.id, kind))
        if head is None:
            header = {"alg": signing.algorithm, "kid": signing.id, "typ": kind}
            head = self._heads[signing.id, kind] = _encoded(orjson.dumps(header))
        content = head + b"." + _encoded(orjson.dumps(claims))
        signature = JWSRegistry.algorithms[signing.algorithm].sign(content, signing.key)
        return (content + b"." + _encoded(signature)).decode("ascii")

    def key_set(self) -> bytes:
        """Public members only: of the keys that sign, are about to, or have signed what is still good."""
        self._look(time.monotonic())
        return orjson.dumps({"keys": [one.public for one in self._published(self._now())]})

    def keys(self) -> tuple[tuple[SigningKey, str], ...]:
        """Every published key and whether it is `next`, `signing` or `verifying`, newest first."""
        self._look(time.monotonic())
        now = self._now()
        signing = self._signing(now)
        return tuple(
            (one, "next" if one.starts > now else "signing" if one is signing else "verifying")
            for one in reversed(self._published(now))
        )

    def rotate(self, *, distrust: bool = False) -> str:
        """Make a new key; its id. `distrust`: it signs at once and all others are gone, as are their tokens."""
        with self._fault(), self._locked():
            self._look(time.monotonic())
            now = self._now()
            fresh = _made(self._algorithm, now, now if distrust else now + self._warming)
            kept = () if distrust else self._published(now)
            self._write(_FILE, _render([*kept, fresh]))
        self._look(time.monotonic())
        return fresh.id

    def renew(self, older_than: float) -> bool:
        """Rotate if the newest key is that many seconds old, and overwrite keys whose last token has expired. Of
        several replicas one does it. Whether there is a new key."""
        with self._fault(), self._locked():
            self._look(time.monotonic())
            now = self._now()
            due = now - max(one.made for one in self._ring) >= older_than
            kept = self._published(now)
            if due:
                kept = (*kept, _made(self._algorithm, now, now + self._warming))
            if due or len(kept) < len(self._ring):
                self._write(_FILE, _render(kept))
        self._look(time.monotonic())
        return due

    def _signing(self, now: float) -> SigningKey:
        """The last key that has begun; of a clock that was set back, the first there is."""
        for one in reversed(self._ring):
            if one.starts <= now:
                return one
        return self._ring[0]

    def _published(self, now: float) -> tuple[SigningKey, ...]:
        """A key is good until the longest token it signed is over: it stopped when the one after it began."""
        ends = [one.starts + self._lifetime for one in self._ring[1:]]
        return (*(one for one, end in zip(self._ring, ends, strict=False) if end > now), self._ring[-1])

    def _look(self, moment: float) -> None:
        with self._fault():
            about = (self._directory / _FILE).stat()
            mark = (about.st_mtime_ns, about.st_ino)
            if mark != self._mark:
                self._ring = _parse(self._read(_FILE), str(self._directory / _FILE))
                self._mark, self._heads = mark, {}
        self._looked = moment


def _made(algorithm: str, now: float, starts: float) -> SigningKey:
    key = _MAKERS[algorithm]()
    return SigningKey(key.thumbprint(), algorithm, now, starts, key)


def _render(ring: list[SigningKey] | tuple[SigningKey, ...]) -> bytes:
    rows = [
        {"alg": one.algorithm, "made": one.made, "starts": one.starts, "jwk": one.key.as_dict(private=True)}
        for one in ring
    ]
    return orjson.dumps({"version": 1, "keys": rows})


def _parse(content: bytes, where: str) -> tuple[SigningKey, ...]:
    """Raises ConfigFault, which quotes nothing."""
    try:
        held = orjson.loads(content)
        if held["version"] != 1 or not held["keys"]:
            raise ValueError("no keys, or another version")
        ring = []
        for row in held["keys"]:
            key = _READERS[row["alg"]].import_key(row["jwk"])
            if not key.is_private:
                raise ValueError("a public key")
            ring.append(SigningKey(key.thumbprint(), row["alg"], float(row["made"]), float(row["starts"]), key))
    except (ValueError, KeyError, TypeError, AttributeError, JoseError):
        raise ConfigFault("the keys that sign tokens cannot be read", where) from None
    return tuple(sorted(ring, key=lambda one: one.starts))


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
