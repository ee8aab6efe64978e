"""A key-encryption key in Azure Key Vault: implements `core.ports.KeyWrap`.

Data keys are wrapped with RSA-OAEP-256 under the newest version of one RSA key, whose version stands beside each of
them. Anybody can encrypt for a public key, so whoever can write the database could plant a data key that they know: a
wrapped key is therefore signed as well (PS256, by the same key), together with its context, and the signature is
verified before anything is unwrapped. What else a record says decides nothing about where we ask.

Wrapping costs two requests (one of them to sign), unwrapping one; the newest version is looked up every five minutes.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from azure.core.credentials import TokenCredential
from azure.core.exceptions import AzureError, HttpResponseError
from azure.identity import ClientSecretCredential, ManagedIdentityCredential, WorkloadIdentityCredential
from azure.keyvault.keys import KeyClient, KeyType, KeyVaultKey
from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm, SignatureAlgorithm

from limen.core.faults import ConfigFault, DependencyFault
from limen.credentials.vault_settings import AzureIdentity, AzureKeys

_FRESH: Final = 300.0  # seconds the newest version is taken for the newest
_FORM: Final = b"\x01"
_LEAST_BITS: Final = 2048
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_OPTIONS: Final[dict[str, Any]] = {
    "connection_timeout": 5, "read_timeout": 10, "retry_total": 2, "retry_backoff_factor": 0.2,
}  # fmt: skip
_BUSY: Final = frozenset({408, 429, 500, 502, 503, 504})


class AzureKeyWrap:
    """One key of one vault, in all its versions."""

    def __init__(
        self,
        settings: AzureKeys,
        credential: TokenCredential | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises ConfigFault for a key that cannot be used, DependencyFault when the vault does not answer."""
        self._base, self._name = f"{settings.vault}/keys/{settings.key}/", settings.key
        self._credential = credential or identity(settings.identity)
        self._options = dict(_OPTIONS)
        if settings.ca is not None:
            self._options["connection_verify"] = str(settings.ca)
        if urlsplit(settings.vault).hostname in _LOOPBACK:
            self._options["verify_challenge_resource"] = False  # there is no domain to compare with
        self._keys = KeyClient(settings.vault, self._credential, **self._options)
        self._now, self._lock = now, threading.Lock()
        self._latest: tuple[float, str] = (-_FRESH, "")
        self._clients: dict[str, CryptographyClient] = {}
        self._newest()

    def wrap(self, key: bytes, context: bytes) -> bytes:
        version = self._newest()
        client = self._client(version)
        with _failing("wrap"):
            wrapped = client.wrap_key(KeyWrapAlgorithm.rsa_oaep_256, key).encrypted_key
            head = _FORM + bytes([len(version)]) + version.encode("ascii") + len(wrapped).to_bytes(2, "big") + wrapped
            return head + client.sign(SignatureAlgorithm.ps256, self._digest(head, context)).signature

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        version, head, sealed, signature = _parts(wrapped)
        client = self._client(version)
        with _failing("unwrap"):
            if not client.verify(SignatureAlgorithm.ps256, self._digest(head, context), signature).is_valid:
                raise DependencyFault("key vault", "a wrapped data key was changed", retryable=False)
            key: bytes = client.unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, sealed).key
        return key

    def newest(self, wrapped: bytes) -> bool:
        return _parts(wrapped)[0] == self._newest()

    def rotate(self) -> None:
        """A new version, by the vault; needs the role Key Vault Crypto Officer, or its own rotation policy does it."""
        with _failing("rotate"):
            self._keys.rotate_key(self._name)
        self._latest = (-_FRESH, "")

    def retire(self) -> None:
        raise ConfigFault("disable the older versions of the key in Key Vault", "vault.keys")

    def __repr__(self) -> str:
        return f"AzureKeyWrap({self._base!r})"

    def _digest(self, head: bytes, context: bytes) -> bytes:
        parts = (b"limen wrapped key", self._base.encode(), head, context)
        return hashlib.sha256(b"".join(len(one).to_bytes(4, "big") + one for one in parts)).digest()

    def _newest(self) -> str:
        looked, version = self._latest
        if version and self._now() - looked < _FRESH:
            return version
        with _failing("look up the key"):
            key = self._keys.get_key(self._name)
        self._keep(key)
        version = str(key.properties.version)
        self._latest = (self._now(), version)
        return version

    def _client(self, version: str) -> CryptographyClient:
        """Works with the public part here, asks the vault for the private one."""
        if (client := self._clients.get(version)) is not None:
            return client
        with _failing("look up the key"):
            key = self._keys.get_key(self._name, version)
        return self._keep(key)

    def _keep(self, key: KeyVaultKey) -> CryptographyClient:
        version = key.properties.version or ""
        modulus: bytes = getattr(key.key, "n", None) or b""
        if key.key_type not in (KeyType.rsa, KeyType.rsa_hsm) or len(modulus) * 8 < _LEAST_BITS:
            raise ConfigFault("not an RSA key of 2048 bits or more", self._base)
        if not version.isalnum() or len(version) > 64 or not version.isascii():
            raise DependencyFault("key vault", "a version that is none", retryable=False)
        with self._lock:
            return self._clients.setdefault(version, CryptographyClient(key, self._credential, **self._options))


def identity(settings: AzureIdentity) -> TokenCredential:
    """The credential of exactly that kind. Raises ConfigFault when its environment is not there."""
    try:
        if settings.kind == "managed":
            return ManagedIdentityCredential(client_id=settings.client_id)
        if settings.kind == "workload":
            named = {"tenant_id": settings.tenant, "client_id": settings.client_id}
            return WorkloadIdentityCredential(**{name: value for name, value in named.items() if value is not None})
        assert settings.tenant is not None
        assert settings.client_id is not None
        assert settings.client_secret is not None
        return ClientSecretCredential(settings.tenant, settings.client_id, settings.client_secret.get_secret_value())
    except ValueError:
        raise ConfigFault("this identity is not complete here", "vault.keys.identity") from None


def _parts(wrapped: bytes) -> tuple[str, bytes, bytes, bytes]:
    """Version, what is signed of it, the wrapped key, the signature. Raises DependencyFault."""
    size = wrapped[1] if len(wrapped) > 1 else 0
    version = wrapped[2 : 2 + size]
    end = 4 + size + int.from_bytes(wrapped[2 + size : 4 + size], "big")
    if wrapped[:1] != _FORM or len(wrapped) <= end or not version.isalnum():
        raise DependencyFault("key vault", "a wrapped data key was changed, or is of another kind", retryable=False)
    return version.decode("ascii"), wrapped[:end], wrapped[4 + size : end], wrapped[end:]


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """What the service or the library says may quote anything: only status and kind are told."""
    try:
        yield
    except HttpResponseError as error:
        status = error.status_code or 0
        raise DependencyFault(
            "key vault", f"cannot {what}: {status or type(error).__name__}", retryable=not status or status in _BUSY
        ) from None
    except AzureError as error:
        raise DependencyFault("key vault", f"cannot {what}: {type(error).__name__}") from None
    except (ValueError, NotImplementedError) as error:
        raise DependencyFault("key vault", f"cannot {what}: {type(error).__name__}", retryable=False) from None
