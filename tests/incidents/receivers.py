"""Receivers of alerts as they are: an HTTP server that can be down, slow or refusing, and mail servers with TLS."""

from __future__ import annotations

import contextlib
import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from launched import free_port


class Receiver(http.server.ThreadingHTTPServer):
    """Keeps what it was sent; answers with `status`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[tuple[str, dict[str, str], Any]] = []
        self.bodies: list[bytes] = []
        self.status, self.headers = 200, dict[str, str]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook/T0/B0/secret-part"


class _Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Silent."""

    def do_POST(self) -> None:
        server: Receiver = self.server  # type: ignore[assignment]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if server.status < 300:
            server.bodies.append(body)
            server.got.append(
                (self.path, {key.lower(): value for key, value in self.headers.items()}, json.loads(body))
            )
        self.send_response(server.status)
        for name, value in server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")


@contextlib.contextmanager
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class Box:
    """What a mail server took. `refuse`: its answer instead."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.raw: list[bytes] = []
        self.to: list[str] = []
        self.refuse = ""

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if self.refuse:
            return self.refuse
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.raw.append(envelope.content)
        self.to += envelope.rcpt_tos
        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))  # type: ignore[arg-type]
        return "250 taken"


def _login(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    good = isinstance(data, LoginPassword) and (data.login, data.password) == (b"limen", b"pass word")
    return AuthResult(success=good)


@contextlib.contextmanager
def mail_server(tls: str, authority: trustme.CA, name: str = "localhost") -> Iterator[tuple[Box, int]]:
    """`tls`: starttls, implicit, none, or missing (STARTTLS is not offered)."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    box = Box()
    more: dict[str, Any] = {}
    if tls == "implicit":
        more = {"ssl_context": context}
    elif tls == "starttls":
        more = {"tls_context": context, "require_starttls": True, "auth_required": True, "authenticator": _login}
    controller = Controller(box, hostname="127.0.0.1", port=0, **more)
    controller.port = free_port()
    controller.start()
    try:
        yield box, controller.port
    finally:
        controller.stop()
