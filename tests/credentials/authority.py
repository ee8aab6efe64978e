"""A strict authorization server for tests, and what a guard is asked with. In the process, or behind a real socket.

Written from RFC 6749, 7523 and 8693, the description of Entra ID of its on-behalf-of flow, and the draft of ID-JAG: what a
real one refuses is refused here.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import secrets
import threading
import time
from base64 import b64decode
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlsplit

import jwt
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from limen.core.call import Approved, Call, Caller, Context, Era, Grant, Presented, Protected, Session
from limen.core.faults import DependencyFault
from limen.core.ports import Fetched
from minting import Key

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TYPES = "urn:ietf:params:oauth:token-type:"
UP = "https://up.example/mcp"


class No(Exception):
    """An OAuth error, and what goes with it."""

    def __init__(self, code: str, status: int = 400, **more: Any) -> None:
        super().__init__(code)
        self.code, self.status, self.more = code, status, more


class Authority:
    """Implements Exchange. `asked` holds every form it was sent; `fail` is answered instead, while it is set."""

    def __init__(self, issuer: str = "https://as.example", key: Key | None = None, secret: str = "s&cret+1") -> None:
        self.issuer, self.key, self.secret = issuer, key or Key("ES256"), secret
        self.asked: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.fail: Fetched | Exception | None = None
        self.delay = 0.0
        self.lasts = 300
        self.more: dict[str, Any] = {}
        self.interaction = ""  # claims that are asked for instead of a token
        self.refresh: dict[str, str] = {}  # refresh token -> subject; each is good once
        self.spent: set[str] = set()  # jti of assertions
        self.trusted: Authority | None = None  # whose ID-JAGs are taken
        self.metadata: dict[str, Any] = {"issuer": issuer, "token_endpoint": f"{issuer}/token"}

    async def get(self, url: str, accept: str = "application/json") -> Fetched:
        return await self._slow(lambda: self._look(url))

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Fetched:
        return await self._slow(lambda: self.token(url, body, headers))

    async def _slow(self, answer: Any) -> Fetched:
        await asyncio.sleep(self.delay)
        if isinstance(self.fail, Exception):
            raise self.fail
        found: Fetched = self.fail or answer()
        return found

    def _look(self, url: str) -> Fetched:
        self.paths.append(urlsplit(url).path)
        known = url == f"{self.issuer}/.well-known/oauth-authorization-server"
        return _json(200, self.metadata) if known else _json(404, {})

    def token(self, url: str, body: bytes, headers: Mapping[str, str]) -> Fetched:
        """The token endpoint."""
        pairs = parse_qs(body.decode("ascii"), strict_parsing=True, keep_blank_values=True)
        form = {name: values[0] for name, values in pairs.items()}
        self.asked.append(form)
        try:
            if any(len(values) > 1 for name, values in pairs.items() if name not in ("resource", "audience")):
                raise No("invalid_request")
            client = self._client(form, headers)
            answer = self._grant(form, client)
        except No as no:
            return _json(no.status, {"error": no.code, "error_description": "as the test says", **no.more})
        return _json(200, {**answer, **self.more})

    def _client(self, form: Mapping[str, str], headers: Mapping[str, str]) -> str:
        given = {name.lower(): value for name, value in headers.items()}.get("authorization", "")
        if given.startswith("Basic "):
            name, _, secret = b64decode(given[6:]).decode().partition(":")
            if "client_secret" in form or unquote_plus(secret) != self.secret:
                raise No("invalid_client", 401)
            return unquote_plus(name)
        if form.get("client_secret") != self.secret:
            raise No("invalid_client", 401)
        return form["client_id"]

    def _grant(self, form: Mapping[str, str], client: str) -> dict[str, Any]:
        grant = form["grant_type"]
        if grant == "client_credentials":
            return self._issue(client, form.get("resource") or form.get("audience") or "any", form)
        if grant == "refresh_token":
            return self._refreshed(form, client)
        if grant == EXCHANGE and form.get("requested_token_type") == f"{TYPES}id-jag":
            return self._vouch(form, client)
        if grant == EXCHANGE:
            return self._exchanged(form, client)
        if grant == BEARER and "requested_token_use" in form:
            return self._on_behalf(form, client)
        if grant == BEARER:
            return self._redeemed(form, client)
        raise No("unsupported_grant_type")

    def _issue(self, subject: str, audience: str, form: Mapping[str, str], **claims: Any) -> dict[str, Any]:
        access = self.sign(subject, audience, scope=form.get("scope", ""), jti=secrets.token_hex(8), **claims)
        return {"access_token": access, "token_type": "Bearer", "expires_in": self.lasts}

    def sign(self, subject: str, audience: str, typ: str = "at+jwt", **claims: Any) -> str:
        """A token of this server's."""
        now = int(time.time())
        body = {"iss": self.issuer, "sub": subject, "aud": audience, "iat": now, "exp": now + 300, **claims}
        return jwt.encode(body, self.key.private, self.key.algorithm, {"typ": typ, "kid": "k1"})

    def read(self, token: str, audience: str | None = None) -> dict[str, Any]:
        """The claims of a token of this server's, by PyJWT. Raises No."""
        public = self.key.private.public_key()
        try:
            found: dict[str, Any] = jwt.decode(
                token, public, [self.key.algorithm], audience=audience, issuer=self.issuer,
                options={"verify_aud": audience is not None},
            )  # fmt: skip
        except jwt.InvalidTokenError as error:
            raise No("invalid_grant", error_description=str(error)) from None
        return found

    def _exchanged(self, form: Mapping[str, str], client: str) -> dict[str, Any]:
        if form.get("subject_token_type") != f"{TYPES}access_token":
            raise No("invalid_request")
        subject = self.read(form["subject_token"])
        audience = form.get("audience") or form.get("resource")
        if audience is None or "denied" in audience:
            raise No("invalid_target")
        answer = self._issue(subject["sub"], audience, form, act={"sub": client})
        return {**answer, "issued_token_type": f"{TYPES}access_token"}

    def _on_behalf(self, form: Mapping[str, str], client: str) -> dict[str, Any]:
        if form["requested_token_use"] != "on_behalf_of" or "resource" in form or not form.get("scope"):
            raise No("invalid_request")
        subject = self.read(form["assertion"], f"api://{client}")
        if subject.get("idtyp") == "app":
            raise No("invalid_grant", error_description="AADSTS50013")
        if self.interaction:
            raise No("interaction_required", claims=self.interaction)
        return {**self._issue(subject["sub"], "api://downstream", form), "ext_expires_in": self.lasts}

    def _refreshed(self, form: Mapping[str, str], client: str) -> dict[str, Any]:
        subject = self.refresh.pop(form["refresh_token"], None)
        if subject is None:
            raise No("invalid_grant")
        again = secrets.token_hex(16)
        self.refresh[again] = subject
        answer = self._issue(subject, "api://limen", form)
        return {**answer, "refresh_token": again, "id_token": self.sign(subject, client, "JWT")}

    def _vouch(self, form: Mapping[str, str], client: str) -> dict[str, Any]:
        if form.get("subject_token_type") != f"{TYPES}id_token":
            raise No("invalid_request")
        subject = self.read(form["subject_token"], client)  # an ID token for this very client (EMA-07)
        claims = {"client_id": "limen-there", "resource": form["resource"], "jti": secrets.token_hex(8)}
        assertion = self.sign(
            subject["sub"], form["audience"], "oauth-id-jag+jwt", scope=form.get("scope", ""), **claims
        )
        issued = {"access_token": assertion, "issued_token_type": f"{TYPES}id-jag"}
        return {**issued, "token_type": "N_A", "expires_in": 300}

    def _redeemed(self, form: Mapping[str, str], client: str) -> dict[str, Any]:
        assert self.trusted is not None
        if jwt.get_unverified_header(form["assertion"])["typ"] != "oauth-id-jag+jwt":
            raise No("invalid_grant")
        claims = self.trusted.read(form["assertion"], self.issuer)
        if claims["client_id"] != client or claims["jti"] in self.spent:
            raise No("invalid_grant")
        if form.get("resource", claims["resource"]) != claims["resource"]:
            raise No("invalid_target")
        self.spent.add(claims["jti"])
        return self._issue(claims["sub"], claims["resource"], {"scope": claims["scope"]})


class Both:
    """Two servers, told apart by their names, as one Exchange."""

    def __init__(self, *servers: Authority) -> None:
        self.servers = servers

    def _of(self, url: str) -> Authority:
        for server in self.servers:
            if url.startswith(f"{server.issuer}/"):
                return server
        raise DependencyFault("fetch", f"nobody at {url}")

    async def get(self, url: str, accept: str = "application/json") -> Fetched:
        return await self._of(url).get(url, accept)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Fetched:
        return await self._of(url).post(url, body, headers)


def _json(status: int, document: Mapping[str, Any]) -> Fetched:
    return Fetched(status, {"content-type": "application/json"}, json.dumps(document).encode())


@contextlib.contextmanager
def listening(authority: Authority) -> Iterator[Authority]:
    """The same behind a socket of this machine; its issuer becomes that address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Silent."""

        def do_GET(self) -> None:
            self._answer(authority._look(f"{authority.issuer}{self.path}"))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(authority.token(self.path, body, dict(self.headers.items())))

        def _answer(self, found: Fetched) -> None:
            self.send_response(found.status)
            self.send_header("content-length", str(len(found.body)))
            self.end_headers()
            self.wfile.write(found.body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    authority.issuer = f"http://127.0.0.1:{server.server_port}"
    authority.metadata = {"issuer": authority.issuer, "token_endpoint": f"{authority.issuer}/token"}
    try:
        yield authority
    finally:
        server.shutdown()
        server.server_close()


class Box:
    """A Sealer: AES-GCM under one key."""

    def __init__(self) -> None:
        self._key = AESGCM(AESGCM.generate_key(256))

    def seal(self, owner: str, place: str, secret: bytes) -> bytes:
        nonce = secrets.token_bytes(12)
        return nonce + self._key.encrypt(nonce, secret, f"{owner}\0{place}".encode())

    def open(self, owner: str, place: str, sealed: bytes) -> bytes:
        return self._key.decrypt(sealed[:12], sealed[12:], f"{owner}\0{place}".encode())


class Keys:
    """A TokenSigner with one key, signing with PyJWT."""

    def __init__(self) -> None:
        self.key = Key("ES256", kid=sha256(b"test").hexdigest()[:8])

    def sign(self, kind: str, claims: Mapping[str, object]) -> str:
        return jwt.encode(dict(claims), self.key.private, "ES256", {"typ": kind, "kid": self.key.kid})

    def key_set(self) -> bytes:
        return json.dumps({"keys": [{**self.key.jwk, "kid": self.key.kid}]}).encode()


def asking(
    caller: Caller | None = None,
    token: str = "",
    tool: str = "echo",
    arguments: bytes = b'{"text":"hi"}',
    protected: bytes = b"",
    session: str = "",
    kind: str = "tool",
    shown: str = "",
    seconds: float = 30.0,
) -> Context:
    """What AttachCredential is asked with. `shown`: the tool's name on a bundle."""
    method = {"tool": "tools/call", "prompt": "prompts/get", "resource": "resources/read"}[kind]
    call = Call(method, "up", "up", Era.MODERN, "2026-07-28", 7, shown or tool, arguments)
    presented = Presented((b"Bearer " + token.encode(),) if token else (), "https://gw.example/mcp/up")
    facts = (
        caller or Caller("https://as.example", "alice", "editor", token_id="t1"),
        Session(session), Approved("up", kind, tool, "digest", b"{}"), Grant(("1",), "policy"), Protected(protected),
    )  # fmt: skip
    return Context(call, presented, time.monotonic() + seconds, "ref", {type(fact): fact for fact in facts})
