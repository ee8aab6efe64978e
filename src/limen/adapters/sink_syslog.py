"""A follower's syslog receiver: RFC 5424 messages over TLS (RFC 5425), TCP (octet counting) or UDP."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Sequence
from typing import Final

from limen.audit.export import Entry, Rejected
from limen.audit.follow_settings import SyslogFollower
from limen.audit.lines import framed, syslog
from limen.core.faults import DependencyFault

_DATAGRAM: Final = 65_000


class SyslogSink:
    """Implements export.Sink. Syslog acknowledges nothing, so a batch over TCP or TLS is one connection: it counts once
    the receiver, having been told that no more comes, has read to the end and closed without an error. With `confirm:
    written` it counts once the kernel took it. UDP counts at once.
    """

    def __init__(self, settings: SyslogFollower, tls: ssl.SSLContext | None) -> None:
        self._settings, self._tls = settings, tls
        self._host, self._process = socket.gethostname(), os.getpid()

    def send(self, entries: Sequence[Entry]) -> None:
        """Raises DependencyFault; Rejected for a message no datagram can carry."""
        messages = [syslog(entry, self._settings.form, self._host, self._process) for entry in entries]
        host, port = self._settings.place
        try:
            if self._settings.transport == "udp":
                self._datagrams(host, port, messages)
            else:
                self._stream(host, port, b"".join(map(framed, messages)))
        except (OSError, ssl.SSLError) as error:
            raise DependencyFault("sink", f"{host}: {type(error).__name__}: {error}") from None

    def _stream(self, host: str, port: int, data: bytes) -> None:
        ends = time.monotonic() + self._settings.timeout
        with socket.create_connection((host, port), timeout=self._settings.timeout) as plain:
            if self._tls is None:
                self._write(plain, data, ends)
                if self._settings.confirm == "close":
                    plain.shutdown(socket.SHUT_WR)
                    _drained(plain, ends)
                return
            with self._tls.wrap_socket(plain, server_hostname=host) as sealed:
                self._write(sealed, data, ends)
                if self._settings.confirm == "close":
                    sealed.settimeout(_left(ends))
                    _goodbye(sealed, ends)

    @staticmethod
    def _write(stream: socket.socket, data: bytes, ends: float) -> None:
        stream.settimeout(_left(ends))
        stream.sendall(data)

    @staticmethod
    def _datagrams(host: str, port: int, messages: Sequence[bytes]) -> None:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as datagrams:
            for message in messages:
                if len(message) > _DATAGRAM:
                    raise Rejected(f"{len(message)} bytes do not fit into a datagram")
                datagrams.sendto(message, place)

    def close(self) -> None:
        """Nothing is held open."""


def _left(ends: float) -> float:
    """Seconds until then. Raises TimeoutError."""
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError("not done in time")
    return left


def _drained(stream: socket.socket, ends: float) -> None:
    """Until the other side closes. A reset, which is what unread bytes leave behind, raises OSError."""
    while True:
        stream.settimeout(_left(ends))
        if not stream.recv(4096):
            return


def _goodbye(sealed: ssl.SSLSocket, ends: float) -> None:
    """close_notify, and whatever the other side says until its own, or its end. Receivers that close without one have
    still read to ours."""
    try:
        sealed.unwrap()
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        return
    except ssl.SSLError as error:
        if "APPLICATION_DATA_AFTER_CLOSE_NOTIFY" not in str(error):
            raise
