"""Azure Key Vault's keys (api-version 2025-07-01) as its reference describes them, over loopback and TLS.

It challenges who comes without a token, knows versions, and does what needs the private key: unwrap and sign."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import trustme
from azure.core.credentials import AccessToken
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

KEY_NAME = "limen-kek"
BEARER = "planted-entra-token-7c1d"
OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
PSS = padding.PSS(padding.MGF1(hashes.SHA256()), 32)


class Credential:
    """Azure's TokenCredential, with a token that is known beforehand."""

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        assert scopes == ("https://vault.azure.net/.default",)
        return AccessToken(BEARER, int(time.time()) + 3600)


class Service:
    """One vault with one key. `asked` keeps every path; `trouble` is the status of the next answers, 0 for none."""

    def __init__(self) -> None:
        self.versions: dict[str, rsa.RSAPrivateKey] = {}
        self.asked: list[str] = []
        self.trouble: int | None = None
        self.endpoint, self.authority = "", Path()
        self.rotate()

    def rotate(self) -> str:
        version = f"{len(self.versions) + 1:032x}"
        self.versions[version] = rsa.generate_private_key(65537, 2048)
        return version

    def public(self, version: str) -> dict[str, Any]:
        numbers = self.versions[version].public_key().public_numbers()
        key = {
            "kid": f"{self.endpoint}/keys/{KEY_NAME}/{version}", "kty": "RSA",
            "key_ops": ["wrapKey", "unwrapKey", "sign", "verify"],
            "n": encoded(numbers.n.to_bytes(256, "big")), "e": encoded(numbers.e.to_bytes(3, "big")),
        }  # fmt: skip
        attributes = {"enabled": True, "created": 1, "updated": 1, "recoveryLevel": "Recoverable"}
        return {"key": key, "attributes": attributes}

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        parts = path.strip("/").split("/")
        if parts[:2] != ["keys", KEY_NAME]:
            return 404, error("KeyNotFound")
        rest = [part for part in parts[2:] if part]
        if method == "GET" and len(rest) < 2:
            version = rest[0] if rest else list(self.versions)[-1]
            return (200, self.public(version)) if version in self.versions else (404, error("KeyNotFound"))
        if method == "POST" and rest == ["rotate"]:
            return 200, self.public(self.rotate())
        if method != "POST" or len(rest) != 2 or rest[0] not in self.versions:
            return 404, error("KeyNotFound")
        key, value = self.versions[rest[0]], decoded(body["value"])
        if rest[1] == "unwrapkey" and body["alg"] == "RSA-OAEP-256":
            try:
                result = key.decrypt(value, OAEP)
            except ValueError:
                return 400, error("BadParameter")
        elif rest[1] == "sign" and body["alg"] == "PS256" and len(value) == 32:
            result = key.sign(value, PSS, Prehashed(hashes.SHA256()))
        else:
            return 400, error("BadParameter")
        return 200, {"kid": f"{self.endpoint}/keys/{KEY_NAME}/{rest[0]}", "value": encoded(result)}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def handle_one(self, method: str) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        service, (path, _, query) = self.server.service, self.path.partition("?")
        service.asked.append(f"{method} {path}")
        if self.headers.get("Authorization") != f"Bearer {BEARER}":
            authorization = "https://login.microsoftonline.com/00000000-0000-0000-0000-000000000001"
            challenge = f'Bearer authorization="{authorization}", resource="https://vault.azure.net"'
            return self.say(401, error("Unauthorized"), {"WWW-Authenticate": challenge})
        if service.trouble is not None:
            if service.trouble == 0:
                self.close_connection = True  # gone, without a word
                return None
            busy = {"Retry-After": "0"} if service.trouble in (429, 503) else {}
            return self.say(service.trouble, error("Trouble"), busy)
        if "api-version=2025-07-01" not in query:
            return self.say(400, error("BadParameter"), {})
        return self.say(*service.answer(method, path, json.loads(raw) if raw else None), {})

    def do_GET(self) -> None:
        self.handle_one("GET")

    def do_POST(self) -> None:
        self.handle_one("POST")

    def say(self, status: int, body: Any, headers: dict[str, str]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[Service]:
    """The service, listening with a certificate of its own authority."""
    service, authority = Service(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    service.authority = directory / "authority.pem"
    authority.cert_pem.write_to_path(str(service.authority))
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.service = True, service
    server.socket = context.wrap_socket(server.socket, server_side=True)
    service.endpoint = f"https://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()


def error(code: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": "planted message of the service"}}


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
