"""ASGI routes: MCP endpoints, protected resource metadata, health. No wrapping middleware, no framework.

Paths are matched byte for byte against a table built from the configuration: `/%6dcp` is not `/mcp`, and no URL in an
answer is ever built from a Host header.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from limen.core.call import Call, Context, Era, Peer, Presented
from limen.core.reasons import REASONS
from limen.core.verdict import Refusal, Refuse
from limen.gateway.answer import Headers, Scope, texts
from limen.gateway.app import Gateway
from limen.gateway.certificates import ForwardedCertificates
from limen.gateway.forwarded import Networks, client_address
from limen.gateway.pages import Pages
from limen.gateway.recording import Recording
from limen.gateway.server import Receive, Send
from limen.posture import ADMIT
from limen.protocol.inbound import Draft, Endpoint, admit
from limen.protocol.jsonrpc import REQUEST_LIMITS
from limen.protocol.naming import Bundle
from limen.protocol.outbound import Reply, refusal_reply

_JSON: Final = (b"content-type", b"application/json")
_NOT_HERE: Final = (
    b'{"error":"not_found","error_description":"no metadata at this address; a challenge (401) names the right one"}'
)
_HEAD: Final = b"cache-control: no-store\r\nx-content-type-options: nosniff\r\n"
_HEAD_JSON: Final = _HEAD + b"content-type: application/json\r\n"
_FIXED: Final = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)
Whole = Callable[[int, bytes, bytes], None]
_STREAM: Final = (
    (b"content-type", b"text/event-stream"),
    *_FIXED,
    (b"x-accel-buffering", b"no"),
)


@dataclass(frozen=True, slots=True)
class Site:
    """What the configuration says about addresses: endpoints by path, metadata by path, challenges by resource."""

    endpoints: Mapping[bytes, Endpoint]
    metadata: Mapping[bytes, bytes]
    challenge: Callable[[str, str, Mapping[str, Any], bool], str]  # reason id, resource, public members, DPoP used
    secure: bool = False  # clients are told to come over TLS, or from this machine
    certificates: ForwardedCertificates | None = None
    trusted: Networks = ()  # proxies whose X-Forwarded-For is believed


class HttpOutlet:
    """One HTTP response: JSON at once, or server-sent events from the first message on."""

    __slots__ = ("_send", "_streaming", "_whole")

    def __init__(self, send: Send, whole: Whole | None = None) -> None:
        self._send, self._whole, self._streaming = send, whole, False

    @property
    def streaming(self) -> bool:
        """Whether the response has become a stream."""
        return self._streaming

    async def open(self) -> None:
        """Begin the stream now."""
        if not self._streaming:
            self._streaming = True
            await self._send({"type": "http.response.start", "status": 200, "headers": list(_STREAM)})

    async def event(self, message: bytes, id: str = "") -> None:
        """One event; an empty message without an id is a comment that keeps the connection."""
        await self.open()
        data = b"event: message\ndata: %s\n\n" % message if message else b"data: \n\n" if id else b": \n\n"
        if id:
            data = b"id: %s\n%s" % (id.encode(), data)
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self, reply: Reply) -> None:
        """The answer: the stream's last event, or the whole response."""
        if self._streaming:
            if reply.body:
                await self.event(reply.body)
            await self._send({"type": "http.response.body", "body": b""})
            return
        if self._whole is not None:
            lines = _HEAD_JSON if reply.body else _HEAD
            for name, value in reply.headers:
                lines += b"%s: %s\r\n" % (name, value)
            self._whole(reply.status, lines, reply.body)
            return
        headers = [(b"content-length", str(len(reply.body)).encode()), *_FIXED, *reply.headers]
        if reply.body:
            headers.append(_JSON)
        await self._send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": reply.body})


class HttpSurface:
    """The ASGI application."""

    def __init__(
        self,
        gateway: Gateway,
        site: Site,
        healthy: Callable[[], bool],
        pages: Pages | None = None,
        recording: Recording | None = None,
    ) -> None:
        self._gateway, self._site, self._healthy, self._pages = gateway, site, healthy, pages
        self._recording = recording

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        direct = scope["extensions"].get("limen.answer") if "extensions" in scope else None
        outlet = HttpOutlet(send, direct.whole if direct is not None else None)
        try:
            path, method = scope["raw_path"], scope["method"]
            endpoint = self._site.endpoints.get(path)
            if endpoint is None:
                if self._pages is not None and (handler := self._pages.find(path)) is not None:
                    body = direct.body if direct is not None else await _whole_body(receive)
                    await self._pages.serve(handler, scope, body, send)
                    return
                reply = self._plain(path, method, scope)
            else:
                if direct is not None:
                    headers, body = direct.headers, direct.body
                else:
                    headers, body = texts(scope["headers"]), await _whole_body(receive)
                reply = await self._endpoint(scope, headers, body, endpoint, outlet)
            await outlet.finish(reply)
        except ConnectionResetError:
            return  # the client left; in the handshake era that is no cancellation, so the call was finished first

    async def _endpoint(
        self, scope: Scope, headers: Headers, body: bytes, endpoint: Endpoint, outlet: HttpOutlet
    ) -> Reply:
        agent, origin, address = headers.get("user-agent"), headers.get("origin"), scope["client"][0]
        if self._site.trusted:
            address = client_address(address, headers.get("x-forwarded-for", ()), self._site.trusted)
        peer = Peer("http", address, agent[0][:256] if agent else "", origin[0][:256] if origin else "")
        draft = Draft(body, headers, endpoint, peer)
        method, certificate = scope["method"], _certificate(scope, headers, self._site.certificates)
        if isinstance(certificate, Refuse):
            return self._not_admitted(certificate, draft)
        presented = Presented(
            _raw(headers, "authorization"),
            endpoint.resource,
            method=method,
            proofs=_raw(headers, "dpop") if "dpop" in headers else (),
            api_keys=_raw(headers, "x-api-key") if "x-api-key" in headers else (),
            certificate=certificate,
            private=self._site.secure and (scope["scheme"] == "https" or _local(scope["client"][0])),
        )
        if method == "POST":
            return await self._post(scope, draft, presented, outlet)
        if method in ("GET", "DELETE"):
            return await self._session(scope, draft, presented, outlet, method)
        for rung in ADMIT[:2]:
            if (failed := rung(draft)) is not None:
                return self._not_admitted(failed, draft)
        return Reply(405, b"", ((b"allow", b"POST, GET, DELETE"),))

    async def _post(self, scope: Scope, draft: Draft, presented: Presented, outlet: HttpOutlet) -> Reply:
        call = admit(draft, ADMIT)
        if isinstance(call, Refuse):
            return self._not_admitted(call, draft)
        if call.era is Era.MODERN and call.id is not None:
            _on_disconnect(scope)  # 2026-07-28: a closed response stream is a cancellation
        if call.method == "subscriptions/listen":
            answer = await self._gateway.listen(call, presented, outlet)
        else:
            answer = await self._gateway.handle(call, presented, outlet)
        return self._reply(answer, call, presented)

    async def _session(
        self, scope: Scope, draft: Draft, presented: Presented, outlet: HttpOutlet, method: str
    ) -> Reply:
        """GET opens a session's stream of changes, DELETE ends the session (2025-11-25 transports)."""
        for rung in ADMIT[:2]:
            if (failed := rung(draft)) is not None:
                return self._not_admitted(failed, draft)
        versions, sessions = draft.headers.get("mcp-protocol-version", []), draft.headers.get("mcp-session-id", [])
        if method == "GET" and "text/event-stream" not in ",".join(draft.headers.get("accept", [])):
            return self._not_admitted(Refuse(REASONS["wire.not_acceptable"]), draft)
        call = Call(
            method="",
            server=draft.endpoint.server,
            route=draft.endpoint.server,
            era=Era.HANDSHAKE,
            revision=",".join(versions),
            session=",".join(sessions) if sessions else None,
            peer=draft.peer,
        )
        if method == "GET":
            _on_disconnect(scope)
            last = draft.headers.get("last-event-id")
            answer = await self._gateway.listen(call, presented, outlet, None if last is None else ",".join(last))
        else:
            decided, corridor = await self._gateway.engine.decide(call, presented)
            answer = decided if isinstance(decided, Refusal) else Reply(204, b"")
            if isinstance(decided, Context):
                refused = self._gateway.engine.local(decided, corridor)
                self._gateway.end_session(decided)
                answer = refused or answer
        return self._reply(answer, call, presented)

    def _reply(self, answer: Reply | Refusal, call: Call, presented: Presented) -> Reply:
        if isinstance(answer, Reply):
            return answer
        reply = refusal_reply(answer, call.id, call.era)
        if reply.status == 401 or answer.reason.id == "identity.scope":
            if self._recording is not None:
                self._recording.challenged(answer, call.peer, presented.resource)
            dpop = any(value[:5].lower() == b"dpop " for value in presented.authorization)
            challenge = self._site.challenge(answer.reason.id, presented.resource, answer.public, dpop)
            headers = (*reply.headers, (b"www-authenticate", challenge.encode("latin-1")))
            if "dpop_nonce" in answer.public:
                headers = (*headers, (b"dpop-nonce", str(answer.public["dpop_nonce"]).encode("ascii")))
            return Reply(reply.status, reply.body, headers)
        return reply

    def _not_admitted(self, failed: Refuse, draft: Draft) -> Reply:
        reference = self._gateway.engine.admission_refused(
            failed.reason, failed.detail, draft.endpoint.server, draft.peer.address
        )
        refusal = Refusal(failed.reason, reference, "admit", failed.detail, failed.public)
        return refusal_reply(refusal, draft.id, draft.era)

    def _plain(self, path: bytes, method: str, scope: Scope) -> Reply:
        if path == b"/healthz" and method in ("GET", "HEAD"):
            well = self._healthy()
            return Reply(200 if well else 503, b'{"status":"ok"}' if well else b'{"status":"unavailable"}')
        document = self._site.metadata.get(path) if method in ("GET", "HEAD") else None
        if self._recording is not None:
            self._recording.looked_up(scope, document is not None)
        if document is not None:
            return Reply(200, document, ((b"access-control-allow-origin", b"*"),))
        if b"/.well-known/" in path:  # clients try several forms; one that cannot read an empty answer gives up
            return Reply(404, _NOT_HERE, ((b"access-control-allow-origin", b"*"),))
        return Reply(404, b"")


def _certificate(
    scope: Scope, headers: Mapping[str, list[str]], forwarded: ForwardedCertificates | None
) -> str | Refuse:
    own = scope["extensions"].get("limen.certificate", "") if "extensions" in scope else ""
    if forwarded is None:
        return str(own)
    return forwarded.read(scope["client"][0], headers.get(forwarded.header, ()), own)


def _raw(headers: Mapping[str, list[str]], name: str) -> tuple[bytes, ...]:
    values = headers.get(name)
    return tuple(value.encode("latin-1") for value in values) if values else ()


def _local(address: str) -> bool:
    """Whether it is this machine's own; any unusual way to write that counts as another."""
    return address.startswith("127.") or address == "::1"


def _on_disconnect(scope: Scope) -> None:
    """End the call when the client leaves. Servers without the extension tell of it only when written to."""
    watch, task = scope.get("extensions", {}).get("limen.on_disconnect"), asyncio.current_task()
    if watch is not None and task is not None:
        watch(task.cancel)


async def _whole_body(receive: Receive) -> bytes:
    parts, more, size = [], True, 0
    while more and size <= REQUEST_LIMITS.size:  # one byte more is refused by the first rung
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
    return b"".join(parts)


def endpoints(
    base: str, servers: Iterable[str], bundles: Mapping[str, Bundle], hosts: frozenset[str], origins: frozenset[str]
) -> dict[bytes, Endpoint]:
    """`/mcp/NAME` for each server and bundle, `/mcp` for the bundle of all; each its own resource (RFC 8707)."""
    table: dict[bytes, Endpoint] = {}
    for name in (*bundles, *servers):
        path = f"/mcp/{name}" if name else "/mcp"
        table[path.encode()] = Endpoint(name, base + path, origins, hosts, bundles.get(name))
    return table
