"""Key-encryption keys in the operating system's keyring: implements `core.ports.KeyWrap` for one user of one machine.

The ring (`adapters.kek_ring`) is one entry, as secret as the keyring of this user. Only the keyrings of the systems
themselves are used. What the `keyring` library falls back to without one (nothing, a file, whatever a plug-in offers)
is refused, whoever chose it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import keyring
from keyring.backend import KeyringBackend
from keyring.backends.chainer import ChainerBackend
from keyring.errors import KeyringError

from limen.adapters.kek_ring import KekRing, line, parse, since
from limen.adapters.private_files import PrivateFiles
from limen.core.faults import ConfigFault, DependencyFault, Fault

_TRUSTED: Final = frozenset(
    f"keyring.backends.{name}" for name in ("SecretService", "libsecret", "kwallet", "macOS", "Windows")
)
_USER: Final = "key-encryption key"
_PATIENCE: Final = 3  # times it is asked again
_MOMENT: Final = 0.1  # seconds between


class KeyringKeyWrap(PrivateFiles, KekRing):
    """One entry of the keyring. `directory` holds the lock that writers of this machine share."""

    def __init__(self, directory: Path, entry: str, *, create: bool) -> None:
        """Makes a first key if there is none and `create`. Raises ConfigFault without a keyring to trust, or without
        a key; DependencyFault when the keyring is locked or fails."""
        super().__init__(directory, "keyring")
        self._entry, self._backend = entry, _trusted(keyring.get_keyring())
        with self._failing(), self._locked():
            if self._asked() is None:
                if not create:
                    raise ConfigFault("the key-encryption key is not in the keyring; restore it", entry)
                self._keep(line(1))
        self._keks()

    def rotate(self) -> None:
        with self._failing(), self._locked():
            ring = self._text()
            self._keep(ring + line(max(parse(ring, self._entry)) + 1))

    def retire(self, wrapped: bytes) -> None:
        with self._failing(), self._locked():
            self._keep(since(self._text(), wrapped, self._entry))

    def __repr__(self) -> str:
        return f"KeyringKeyWrap({self._entry!r})"

    def _keks(self) -> dict[int, bytes]:
        with self._failing():
            return parse(self._text(), self._entry)

    def _text(self) -> bytes:
        text = self._asked()
        if text is None:
            raise DependencyFault("keyring", "the key-encryption key is gone", retryable=False)
        return text.encode("ascii", "replace")

    def _asked(self) -> str | None:
        """A service that is taking over a change of its own file knows nothing for a moment (gnome-keyring does that),
        or denies it in words of the bus it is asked over. Only what it says several times is believed: a key that is
        made where one was would lose everything under it."""
        for _ in range(_PATIENCE):
            try:
                text = self._backend.get_password(self._entry, _USER)
            except KeyringError:
                raise
            except Exception:  # noqa: BLE001 - the bus's own; asked again, and the last time it is a fault
                text = None
            if text is not None:
                return text
            time.sleep(_MOMENT)
        return self._backend.get_password(self._entry, _USER)

    def _keep(self, ring: bytes) -> None:
        self._backend.set_password(self._entry, _USER, ring.decode("ascii"))
        if self._text() != ring:
            raise DependencyFault("keyring", "what was written cannot be read", retryable=False)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """What the keyring says may quote anything: only the kind of trouble is told."""
        try:
            with self._fault():
                yield
        except Fault:
            raise
        except Exception as error:  # noqa: BLE001 - a keyring's own, the bus's, or the library's
            raise DependencyFault("keyring", f"cannot be used: {type(error).__name__}") from None


def _trusted(backend: KeyringBackend) -> KeyringBackend:
    """This keyring, or the first of a chain, if it is a system's own. Raises ConfigFault."""
    if isinstance(backend, ChainerBackend):
        backend = next(iter(backend.backends), backend)
    if type(backend).__module__ not in _TRUSTED:
        raise ConfigFault(
            f"{type(backend).__module__} is not a keyring of an operating system; keep the key in a file, a hardware "
            "module or a key service instead",
            "vault.keys",
        )
    return backend
