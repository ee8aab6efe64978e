"""One mail through a configured server (RFC 5321), over TLS that is verified; without only on this machine."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from collections.abc import Sequence

from limen.core.addresses import is_loopback
from limen.core.faults import DependencyFault


class Smtp:
    """Implements incidents.delivery.Mailer. `tls`: "starttls", "implicit" or "none"; `context` verifies."""

    def __init__(
        self, host: str, port: int, tls: str, login: tuple[str, str] | None, *,
        timeout: float = 15.0, context: ssl.SSLContext | None = None,
    ) -> None:  # fmt: skip
        self._host, self._port, self._tls, self._login, self._timeout = host, port, tls, login, timeout
        self._context = context or ssl.create_default_context()

    async def send(self, sender: str, recipients: Sequence[str], message: bytes) -> None:
        """Raises DependencyFault: not `retryable` where the server refuses it for good (RFC 5321 section 4.2.1)."""
        await asyncio.to_thread(self._send, sender, list(recipients), message)

    def _send(self, sender: str, recipients: list[str], message: bytes) -> None:
        try:
            with self._connected() as server:
                refused = server.sendmail(sender, recipients, message)
        except smtplib.SMTPRecipientsRefused as error:
            codes = [code for code, _ in error.recipients.values()]
            raise self._fault("all recipients are refused", lasting=min(codes, default=0) >= 500) from None
        except smtplib.SMTPResponseException as error:
            raise self._fault(f"status {error.smtp_code}", lasting=error.smtp_code >= 500) from None
        except (smtplib.SMTPException, OSError, ValueError) as error:
            raise self._fault(type(error).__name__) from None
        if refused:
            raise self._fault(f"{len(refused)} of {len(recipients)} recipients are refused", lasting=True)

    def _connected(self) -> smtplib.SMTP:
        if self._tls == "implicit":
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                self._host, self._port, timeout=self._timeout, context=self._context
            )
        else:
            server = smtplib.SMTP(self._host, self._port, timeout=self._timeout)
        try:
            if self._tls == "starttls":
                server.starttls(context=self._context)  # raises where the server does not offer it: nothing is sent
            elif self._tls == "none" and (server.sock is None or not is_loopback(server.sock.getpeername()[0])):
                raise self._fault("mail to another machine without TLS", lasting=True)
            if self._login is not None:
                server.login(*self._login)
        except BaseException:
            server.close()
            raise
        return server

    def _fault(self, text: str, *, lasting: bool = False) -> DependencyFault:
        return DependencyFault("alerts", f"{self._host}: {text}", retryable=not lasting)
