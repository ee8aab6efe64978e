"""Takes over certificates that were renewed on disk, without dropping a connection (J3).

New connections meet the new certificate within two seconds; those there are keep theirs. Files that do not belong
together (a certificate was written, its key not yet) change nothing, and are looked at again.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from limen.core.faults import ConfigFault
from limen.errands import Errand
from limen.gateway.server import HttpServer, tls_context

if TYPE_CHECKING:
    from limen.config.model import Tls

LOOK: Final = 1.0  # seconds
Mark = tuple[tuple[int, int, int], ...]


def context_of(tls: Tls) -> ssl.SSLContext:
    """What new connections are met with. Raises ConfigFault for files that cannot be used, or not together."""
    authorities = str(tls.client_ca) if tls.client_ca is not None else None
    try:
        return tls_context(str(tls.certificate), str(tls.key), authorities, required=tls.require_client_certificate)
    except (OSError, ssl.SSLError) as fault:
        raise ConfigFault(f"the certificate and its key cannot be used: {fault}", str(tls.certificate)) from None


def describe(tls: Tls) -> dict[str, Any]:
    """Digest, times (ISO 8601) and names of the certificate on disk. Raises ConfigFault."""
    try:
        found = x509.load_pem_x509_certificates(tls.certificate.read_bytes())[0]
    except (OSError, ValueError) as fault:
        raise ConfigFault(f"the certificate cannot be read: {fault}", str(tls.certificate)) from None
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        shown = [str(one.value) for one in names]
    except x509.ExtensionNotFound:
        shown = []
    return {
        "digest": sha256(found.public_bytes(Encoding.DER)).hexdigest(),
        "begins": found.not_valid_before_utc.isoformat(timespec="seconds"),
        "ends": found.not_valid_after_utc.isoformat(timespec="seconds"),
        "names": shown,
    }


class Renewal:
    """The duty. `event` puts what happened on record."""

    def __init__(self, tls: Tls, server: HttpServer, event: Callable[..., None], say: Callable[[str], None]) -> None:
        self._tls, self._server, self._event, self._say = tls, server, event, say
        self._mark = self._looked()
        self._trouble = ""
        self._taking = asyncio.Lock()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(LOOK)
            if self._looked() != self._mark:
                try:
                    await self.take()
                except ConfigFault as fault:
                    self._troubled(str(fault))

    async def asked(self, errand: Errand) -> str:
        """Take over what is on disk, changed or not."""
        return f"certificate {(await self.take())['digest'][:16]}"

    async def take(self) -> dict[str, Any]:
        """Raises ConfigFault: then everything stays as it was."""
        async with self._taking:
            mark = self._looked()
            found, context = await asyncio.to_thread(lambda: (describe(self._tls), context_of(self._tls)))
            try:
                await self._server.renew(context)
            except OSError as fault:
                raise ConfigFault(f"cannot listen anew: {fault}", "listen") from None
            self._mark, self._trouble = mark, ""
        self._event("certificate", ok=True, **found)
        self._say(f"certificate {found['digest'][:16]} taken over, good until {found['ends']}")
        return found

    def _troubled(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self._event("certificate", ok=False, detail=trouble[:500])
            self._say(f"certificate not taken over: {trouble}")

    def _looked(self) -> Mark:
        """Of each file when it was written, which it is and how large; one that is not there is a state too."""
        paths = [self._tls.certificate, self._tls.key, *([self._tls.client_ca] if self._tls.client_ca else [])]
        return tuple(map(_mark, paths))


def _mark(path: Path) -> tuple[int, int, int]:
    try:
        about = path.stat()
    except OSError:
        return (0, 0, 0)
    return about.st_mtime_ns, about.st_ino, about.st_size
