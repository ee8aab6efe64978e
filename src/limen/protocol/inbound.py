"""The admission ladder: bytes and headers to a Call, or the first rung that fails. Pure.

Each rung is a function Draft -> Refuse | None and fills in what it established. The order stands in `posture.ADMIT`.
Decisions are taken on the body; headers that mirror it must agree with it (2026-07-28 transports).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from limen.core.call import Call, Era, Peer
from limen.core.verdict import Refuse, refuse
from limen.protocol.jsonrpc import REQUEST_LIMITS, NotJson, canonical, parse
from limen.protocol.methods import (
    HANDSHAKE_REVISIONS,
    META_CAPABILITIES,
    META_CLIENT,
    META_LOG_LEVEL,
    META_VERSION,
    METHODS,
    SUPPORTED,
    Method,
    era_of,
)
from limen.protocol.naming import Bundle

_TOKEN: Final = re.compile(r"[A-Za-z0-9$_./-]{1,128}\Z")
_SENTINEL: Final = re.compile(r"=\?base64\?(.*)\?=\Z", re.DOTALL)
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")
_ENVELOPE: Final = frozenset({"jsonrpc", "id", "method", "params"})
_NAME_MAX: Final = 2048 + 70  # the longest URI a catalog takes, under the longest scheme of a bundle
_INT53: Final = 1 << 53


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address clients may use: which server it stands for and who may speak to it from a browser."""

    server: str  # or the name of a bundle; "" is the bundle of all servers
    resource: str  # canonical URI, the audience of tokens (RFC 8707)
    origins: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    bundle: Bundle | None = None  # stands for several servers: names say which one is meant


@dataclass(slots=True)
class Draft:
    """A request on its way up the ladder. `headers` maps lower-case names to every value received."""

    body: bytes
    headers: dict[str, list[str]]
    endpoint: Endpoint
    peer: Peer
    http: bool = True
    message: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    id: str | int | None = None
    answer: bool = False  # a response to a request of ours (handshake era)
    era: Era = Era.HANDSHAKE
    revision: str = ""
    method: Method | None = None

    def one(self, name: str) -> str | None:
        """The header's only value, or None when absent. Rungs have refused repeated ones before they ask."""
        values = self.headers.get(name)
        return values[0] if values else None


Rung = Callable[[Draft], "Refuse | None"]


def size(draft: Draft) -> Refuse | None:
    """The body fits. The server has already bounded headers and time."""
    if len(draft.body) > REQUEST_LIMITS.size:
        return refuse("wire.too_large")
    return None


def origin(draft: Draft) -> Refuse | None:
    """DNS rebinding and cross-site requests: Host and Origin name us (transports, Security Warning)."""
    if not draft.http:
        return None
    hosts = draft.headers.get("host", [])
    if len(hosts) != 1 or hosts[0].lower() not in draft.endpoint.hosts:
        return refuse("wire.origin", f"Host {hosts!r}")
    origins = draft.headers.get("origin", [])
    if len(origins) > 1 or (origins and origins[0] not in draft.endpoint.origins):
        return refuse("wire.origin", f"Origin {origins!r}")
    return None


def strict_json(draft: Draft) -> Refuse | None:
    """One JSON-RPC 2.0 object with known members only, in UTF-8, not encoded."""
    if draft.http and (failed := _media(draft)):
        return failed
    try:
        message = parse(draft.body)
    except NotJson as error:
        return refuse("wire.not_json", str(error))
    if type(message) is not dict or message.get("jsonrpc") != "2.0":
        return refuse("wire.not_request", "not a JSON-RPC 2.0 object")
    if "method" not in message and ("result" in message or "error" in message):
        return _answer(draft, message)
    if not message.keys() <= _ENVELOPE:
        return refuse("wire.not_request", "unknown members in the message")
    method, params = message.get("method"), message.get("params", {})
    if type(method) is not str or not _TOKEN.match(method):
        return refuse("wire.not_request", "method")
    if "id" in message:
        draft.id = message["id"]
        if not _valid_id(draft.id):
            draft.id = None
            return refuse("wire.not_request", "id")
    if type(params) is not dict:
        return refuse("wire.params", "params is not an object")
    meta = params.get("_meta", {})
    if type(meta) is not dict:
        return refuse("wire.params", "_meta is not an object")
    draft.message, draft.params, draft.meta = message, params, meta
    return None


_JSON_TYPE: Final = ["application/json"]
_ACCEPTED: Final = (["application/json, text/event-stream"], ["application/json,text/event-stream"])


def _media(draft: Draft) -> Refuse | None:
    """Content-Type, Content-Encoding and Accept. text/plain would be a CORS simple request (CVE-2026-33252)."""
    types = draft.headers.get("content-type", [])
    accepts = draft.headers.get("accept")
    if types == _JSON_TYPE and accepts in _ACCEPTED and "content-encoding" not in draft.headers:
        return None  # as the SDKs write it
    media, _, parameters = types[0].partition(";") if len(types) == 1 else ("", "", "")
    if media.strip().lower() != "application/json" or parameters.strip().lower() not in ("", "charset=utf-8"):
        return refuse("wire.media_type", f"Content-Type {types!r}")
    if draft.headers.get("content-encoding", ["identity"]) != ["identity"]:
        return refuse("wire.media_type", "Content-Encoding")
    accept = ",".join(accepts or ["*/*"]).lower()
    if "application/json" not in accept and "*/*" not in accept and "application/*" not in accept:
        return refuse("wire.not_acceptable", f"Accept {accept[:200]!r}")
    return None


def _answer(draft: Draft, message: dict[str, Any]) -> Refuse | None:
    """A client's response to a request of ours. Removed from the protocol in 2026-07-28."""
    if ("result" in message) == ("error" in message) or not message.keys() <= {"jsonrpc", "id", "result", "error"}:
        return refuse("wire.not_request", "not exactly one of result and error")
    if not _valid_id(message.get("id")):
        return refuse("wire.not_request", "id")
    draft.message, draft.answer = message, True
    return None


def _valid_id(value: object) -> bool:
    if type(value) is str:
        return 0 < len(value) <= 128 and value.isprintable()
    return type(value) is int and -_INT53 < value < _INT53


def revision(draft: Draft) -> Refuse | None:
    """Which era speaks. Header and body must name the same revision where both name one."""
    versions = draft.headers.get("mcp-protocol-version", [])
    if len(versions) > 1:
        return refuse("wire.header_mismatch", "MCP-Protocol-Version repeated")
    header = versions[0] if versions else None
    body = draft.meta.get(META_VERSION)
    if draft.answer:
        draft.revision = header or HANDSHAKE_REVISIONS[0]
        return None if draft.revision in HANDSHAKE_REVISIONS else refuse("wire.not_request", "responses are not taken")
    if header is not None and era_of(header) is Era.HANDSHAKE and body is None:
        draft.revision = header
        return None
    if header is None and body is None:
        return _unversioned(draft)
    return _self_contained(draft, header, body)


def _unversioned(draft: Draft) -> Refuse | None:
    """Only `initialize` and old clients leave the header out; BindSession checks it against the session."""
    draft.revision = ""
    if draft.message["method"] == "initialize" and type(draft.params.get("protocolVersion")) is not str:
        return refuse("wire.params", "protocolVersion")
    return None


def _self_contained(draft: Draft, header: str | None, body: object) -> Refuse | None:
    """2026-07-28: every request carries version and capabilities in `_meta`."""
    if draft.http and header is None:
        return refuse("wire.header_mismatch", "MCP-Protocol-Version missing")
    if body is None:
        if era_of(header or "") is None:
            return _unsupported(header)
        return refuse("wire.params", "_meta lacks the protocol version")
    if type(body) is not str:
        return refuse("wire.params", "protocol version is not a string")
    if header is not None and header != body:
        return refuse("wire.header_mismatch", "MCP-Protocol-Version disagrees with _meta")
    if era_of(body) is not Era.MODERN:
        return _unsupported(body)
    if type(draft.meta.get(META_CAPABILITIES)) is not dict:
        return refuse("wire.params", "_meta lacks the client capabilities")
    draft.era, draft.revision = Era.MODERN, body
    return None


def _unsupported(requested: str | None) -> Refuse:
    return refuse("wire.revision", f"{requested!r:.100}", supported=list(SUPPORTED), requested=(requested or "")[:64])


def header_agreement(draft: Draft) -> Refuse | None:
    """Mcp-Method and Mcp-Name mirror the body, once each (2026-07-28). Nothing here is decided on them.

    Older revisions do not ask for them; where they are sent all the same they must not contradict the body, because
    something in front of us may have routed by them.
    """
    if draft.answer or not draft.http:
        return None
    method, names = draft.message["method"], draft.headers.get("mcp-name", [])
    if draft.era is not Era.MODERN:
        mirrored = draft.params.get("name", draft.params.get("uri"))
        honest = draft.headers.get("mcp-method", [method]) == [method] and [*map(decode_header, names)] in (
            [],
            [mirrored],
        )
        return None if honest else refuse("wire.header_mismatch", "mirrored headers contradict the body")
    if draft.headers.get("mcp-method") != [method]:
        return refuse("wire.header_mismatch", "Mcp-Method")
    row = METHODS.get(method)
    if row is not None and draft.era in row.eras and row.names and draft.id is not None:
        if len(names) != 1 or decode_header(names[0]) != draft.params.get(row.names):
            return refuse("wire.header_mismatch", "Mcp-Name")
    elif len(names) > 1:
        return refuse("wire.header_mismatch", "Mcp-Name repeated")
    return None


def known_method(draft: Draft) -> Refuse | None:
    """The method exists in this era, in this role, with members of the right shape."""
    if draft.answer:
        return None
    method = METHODS.get(draft.message["method"])
    if method is None or draft.era not in method.eras:
        return refuse("wire.unknown_method", draft.message["method"])
    if method.request != ("id" in draft.message):
        return refuse("wire.not_request", "a request needs an id and a notification has none")
    params = draft.params
    if method.names:
        name = params.get(method.names)
        if type(name) is not str or not 0 < len(name) <= _NAME_MAX or not name.isprintable():
            return refuse("wire.params", method.names)
    if method.arguments and type(params.get("arguments", {})) is not dict:
        return refuse("wire.params", "arguments is not an object")
    if "cursor" in params and (type(params["cursor"]) is not str or len(params["cursor"]) > 1024):
        return refuse("wire.params", "cursor")
    draft.method = method
    return _members(draft)


def _members(draft: Draft) -> Refuse | None:
    meta, params = draft.meta, draft.params
    if "progressToken" in meta and not _valid_id(meta["progressToken"]):
        return refuse("wire.params", "progressToken")
    if "requestState" in params and (type(params["requestState"]) is not str or len(params["requestState"]) > 65536):
        return refuse("wire.params", "requestState")
    if "inputResponses" in params and type(params["inputResponses"]) is not dict:
        return refuse("wire.params", "inputResponses")
    return None


def admit(draft: Draft, ladder: Sequence[Rung]) -> Call | Refuse:
    """Climb the ladder. The Call, or the first refusal."""
    for rung in ladder:
        if (failed := rung(draft)) is not None:
            return failed
    return _to_call(draft)


def _to_call(draft: Draft) -> Call:
    message, params, meta, method = draft.message, draft.params, draft.meta, draft.method
    route, modern = draft.endpoint.server, draft.era is Era.MODERN
    sessions = None if modern else draft.headers.get("mcp-session-id")
    session = ",".join(sessions) if sessions else None
    if draft.answer or method is None:
        return Call(
            method="",
            server=route,
            route=route,
            era=draft.era,
            revision=draft.revision,
            id=message["id"],
            rest=canonical(message),
            session=session,
            peer=draft.peer,
        )
    rest = {member: params[member] for member in method.carries if member in params}
    cursor = rest.pop("cursor", None)
    resumed = method.resumable and modern
    server, name = route, params[method.names] if method.names else _reference(rest)
    if (bundle := draft.endpoint.bundle) is not None and name:
        server, name = _meant(bundle, method, name, rest)
    return Call(
        message["method"],
        server,
        route,
        draft.era,
        draft.revision,
        draft.id,
        name,
        arguments=canonical(params["arguments"]) if method.arguments and "arguments" in params else b"",
        rest=canonical(rest) if rest else b"",
        progress_token=meta.get("progressToken"),
        trace=_trace(meta) if "traceparent" in meta else _NO_TRACE,
        capabilities=canonical(meta[META_CAPABILITIES]) if modern and meta[META_CAPABILITIES] else b"{}",
        client=_client(meta.get(META_CLIENT)) if modern else "",
        log_level=str(meta[META_LOG_LEVEL])[:16] if modern and META_LOG_LEVEL in meta else None,
        cursor=cursor,
        session=session,
        request_state=params.get("requestState") if resumed else None,
        input_responses=canonical(params["inputResponses"]) if resumed and "inputResponses" in params else b"",
        param_headers=_param_headers(draft) if modern else (),
        peer=draft.peer,
    )


def _meant(bundle: Bundle, method: Method, shown: str, rest: dict[str, Any]) -> tuple[str, str]:
    """Server and real name of what a bundle shows as this: from here on the call reads as on the server's own route.

    A name nobody has there keeps its spelling and gets no server, so nothing can be found under it.
    """
    if method.names:
        return (bundle.read_uri if method.names == "uri" else bundle.read_name)(shown) or ("", shown)
    kind, _, shown_ref = shown.partition(":")
    member, read = ("name", bundle.read_name) if kind == "prompt" else ("uri", bundle.read_uri)
    found = read(shown_ref) if type(rest["ref"].get(member)) is str else None
    if found is None:
        return "", shown
    rest["ref"] = {**rest["ref"], member: found[1]}
    return found[0], f"{kind}:{found[1]}"


def _reference(rest: dict[str, Any]) -> str:
    """What a completion is about, as the catalog names it."""
    ref = rest.get("ref")
    if not isinstance(ref, dict):
        return ""
    kind, member = {"ref/prompt": ("prompt", "name"), "ref/resource": ("template", "uri")}.get(
        str(ref.get("type")), ("", "")
    )
    return f"{kind}:{ref.get(member)}" if kind else ""


def _param_headers(draft: Draft) -> tuple[tuple[str, str], ...]:
    if "mcp-param-" not in " ".join(draft.headers):  # most have none: one look for all names
        return ()
    named = [name for name in draft.headers if name.startswith("mcp-param-")]
    return tuple((name, value) for name in named for value in draft.headers[name])


def _trace(meta: dict[str, Any]) -> MappingProxyType[str, str]:
    """W3C trace context; anything malformed is dropped, never passed on."""
    parent, state = meta.get("traceparent"), meta.get("tracestate")
    if type(parent) is not str or not _TRACEPARENT.match(parent):
        return _NO_TRACE
    if type(state) is str and len(state) <= 512 and state.isascii() and state.isprintable():
        return MappingProxyType({"traceparent": parent, "tracestate": state})
    return MappingProxyType({"traceparent": parent})


_NO_TRACE: Final[MappingProxyType[str, str]] = MappingProxyType({})


def _client(info: object) -> str:
    """Unverified, for logs: printable and short."""
    if not isinstance(info, dict):
        return ""
    text = f"{info.get('name', '')}/{info.get('version', '')}"[:128]
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "?" for character in text)


def decode_header(value: str) -> str | None:
    """The text behind a mirrored header value; None when its base64 sentinel is malformed or not canonical."""
    match = _SENTINEL.match(value)
    if match is None:
        return value
    try:
        raw = base64.b64decode(match[1], validate=True)
        text = raw.decode()
    except (binascii.Error, ValueError):
        return None
    return text if base64.b64encode(raw).decode() == match[1] else None
