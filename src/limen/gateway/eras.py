"""How one judged call is put on an upstream's wire in each protocol era, and how its answer is read.

Rendered from the Permit only: there is no inbound header or body in reach here (MCP 2026-07-28 basic/transports,
MCP 2025-11-25 basic/lifecycle).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import orjson

from limen import __version__
from limen.core.call import Approved, Call, Protected, Session
from limen.core.faults import InvariantFault, UpstreamError, UpstreamFault
from limen.core.verdict import Permit
from limen.gateway.connecting import without_ours

MODERN: Final = "2026-07-28"
HANDSHAKE: Final = "2025-11-25"
HANDSHAKE_HTTP: Final = frozenset({"2025-03-26", "2025-06-18", "2025-11-25"})
HANDSHAKE_STDIO: Final = HANDSHAKE_HTTP | {"2024-11-05"}  # 2024-11-05 over HTTP is a different transport
CLIENT_INFO: Final = MappingProxyType({"name": "limen", "version": __version__})
UNSUPPORTED_REVISION: Final = -32022
METHOD_NOT_FOUND: Final = -32601
INPUT_METHODS: Final = frozenset({"tools/call", "prompts/get", "resources/read"})  # may answer input_required
_NOTHING: Final[frozenset[str]] = frozenset()
_FORM: Final = frozenset({"form"})
_BY_FORM: Final[dict[str, Any]] = {"elicitation": {"form": {}}}
_META: Final = "io.modelcontextprotocol/"
_SAFE_VALUE: Final = re.compile(r"[\x20-\x7e]*")
_SENTINEL: Final = re.compile(r"=\?base64\?(.*)\?=")


def encode_header_value(value: str) -> str:
    """Text to a header value: verbatim when printable ASCII without edge blanks, else `=?base64?..?=`."""
    if _SAFE_VALUE.fullmatch(value) and value == value.strip(" ") and not _SENTINEL.fullmatch(value):
        return value
    return f"=?base64?{base64.b64encode(value.encode()).decode('ascii')}?="


class Outgoing(NamedTuple):
    """What a permit allows to be sent, before an era dresses it."""

    method: str
    mirrored: str  # value of Mcp-Name; "" where the method has none
    members: dict[str, Any]  # params without _meta; JSON already judged is spliced in as bytes
    trace: Mapping[str, str]
    client_token: str | int | None
    request_state: str | None
    input_responses: bytes = b""
    log_level: str | None = None


def outgoing(permit: Permit) -> Outgoing:
    """Read a permit. Raises InvariantFault when it is not for one of the four methods that may be forwarded, when it
    names a kind of definition that method cannot use, or when it does not prove what forwarding needs."""
    call = permit.call
    approved = permit.find(Approved)
    if approved is None:
        raise InvariantFault("forward without an approved definition")
    row = _FORWARDED.get(call.method)
    if row is None:
        raise InvariantFault(f"{call.method} is never forwarded")
    kinds, members_of = row
    if approved.kind not in kinds:
        raise InvariantFault(f"{call.method} cannot use a {approved.kind}")
    if call.server and call.server != approved.server:
        raise InvariantFault("the approved definition belongs to another server")
    protected = permit.find(Protected)
    if protected is None:
        raise InvariantFault("forward without looking at what must be protected")
    mirrored, members = members_of(protected.over(call), approved)
    session = permit.find(Session)
    state = session.state if session is not None else None  # the server's own, opened and bound by BindSession
    level = call.log_level or (session.log_level if session is not None else None)
    answers = without_ours(call.input_responses) if call.input_responses else b""
    return Outgoing(call.method, mirrored, members, call.trace, call.progress_token, state, answers, level)


def _tool(call: Call, approved: Approved) -> tuple[str, dict[str, Any]]:
    return approved.name, {"name": approved.name, "arguments": orjson.Fragment(call.arguments or b"{}")}


def _prompt(call: Call, approved: Approved) -> tuple[str, dict[str, Any]]:
    members: dict[str, Any] = {"name": approved.name}
    if call.arguments:
        members["arguments"] = orjson.Fragment(call.arguments)
    return approved.name, members


def _resource(call: Call, approved: Approved) -> tuple[str, dict[str, Any]]:
    uri = call.name if approved.kind == "template" else approved.name
    return uri, {"uri": uri}


def _completion(call: Call, approved: Approved) -> tuple[str, dict[str, Any]]:
    """The reference is rebuilt from the approved definition; argument and context from their known members."""
    rest = call.read_rest()
    argument, context = rest.get("argument"), rest.get("context")
    if not isinstance(argument, dict):
        raise InvariantFault("completion without an argument")
    if approved.kind == "prompt":
        reference = {"type": "ref/prompt", "name": approved.name}
    else:
        reference = {"type": "ref/resource", "uri": approved.name}
    members: dict[str, Any] = {
        "ref": reference,
        "argument": {"name": argument.get("name"), "value": argument.get("value")},
    }
    if isinstance(context, dict) and isinstance(context.get("arguments"), dict):
        members["context"] = {"arguments": context["arguments"]}
    return "", members


_FORWARDED: Final[Mapping[str, tuple[frozenset[str], Callable[[Call, Approved], tuple[str, dict[str, Any]]]]]] = (
    MappingProxyType(
        {
            "tools/call": (frozenset({"tool"}), _tool),
            "prompts/get": (frozenset({"prompt"}), _prompt),
            "resources/read": (frozenset({"resource", "template"}), _resource),
            "completion/complete": (frozenset({"prompt", "resource", "template"}), _completion),
        }
    )
)


def offered(capabilities: Mapping[str, Any]) -> frozenset[str]:
    """What a client declared, as the few words Limen understands. An empty elicitation object means form mode."""
    if not capabilities:
        return _NOTHING
    if capabilities == _BY_FORM:
        return _FORM
    words: set[str] = set()
    elicitation = capabilities.get("elicitation")
    if isinstance(elicitation, Mapping):
        words.update(mode for mode in ("form", "url") if mode in elicitation)
        if not elicitation:
            words.add("form")
    words.update(word for word in ("sampling", "roots") if isinstance(capabilities.get(word), Mapping))
    return frozenset(words)


def declared(words: frozenset[str]) -> dict[str, Any]:
    """The capabilities object for those words. Members we did not name are not passed on."""
    value: dict[str, Any] = {word: {} for word in ("sampling", "roots") if word in words}
    modes: dict[str, Any] = {mode: {} for mode in ("form", "url") if mode in words}
    if modes:
        value["elicitation"] = modes if "url" in modes else {}
    return value


def wanted(method: str, params: Mapping[str, Any]) -> str:
    """The word a server-to-client request needs the client to have declared; "" for what is never let through."""
    if method == "elicitation/create":
        mode = params.get("mode", "form")
        return mode if mode in ("form", "url") else ""
    return {"sampling/createMessage": "sampling", "roots/list": "roots"}.get(method, "")


def modern_meta(words: frozenset[str], client: Mapping[str, str] = CLIENT_INFO) -> dict[str, Any]:
    """The envelope every 2026-07-28 request carries in `_meta`."""
    return {
        f"{_META}protocolVersion": MODERN,
        f"{_META}clientInfo": dict(client),
        f"{_META}clientCapabilities": declared(words),
    }


@lru_cache(maxsize=32)
def _envelope(words: frozenset[str]) -> bytes:
    return orjson.dumps(modern_meta(words))


def request(number: int, call: Outgoing, words: frozenset[str], *, modern: bool) -> bytes:
    """One JSON-RPC request; `words` is what the client offers. Its progress token is replaced by our number."""
    params = dict(call.members)
    if modern and call.request_state is not None:
        params["requestState"] = call.request_state
    if modern and call.input_responses:
        params["inputResponses"] = orjson.Fragment(call.input_responses)
    if call.client_token is not None or call.trace or (modern and call.log_level is not None):
        meta = modern_meta(words) if modern else {}
        if call.client_token is not None:
            meta["progressToken"] = number
        if modern and call.log_level is not None:
            meta[f"{_META}logLevel"] = call.log_level
        meta.update((name, call.trace[name]) for name in ("traceparent", "tracestate") if name in call.trace)
        params["_meta"] = meta
    elif modern:
        params["_meta"] = orjson.Fragment(_envelope(words))
    return orjson.dumps({"jsonrpc": "2.0", "id": number, "method": call.method, "params": params})


def plain(number: int | None, method: str, params: Mapping[str, Any] | None = None) -> bytes:
    """A request of our own, or with no number a notification."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if number is not None:
        message["id"] = number
    if params is not None:
        message["params"] = dict(params)
    return orjson.dumps(message)


def initialize(number: int, words: frozenset[str], client: Mapping[str, str] = CLIENT_INFO) -> bytes:
    """The first message of the handshake era."""
    return plain(
        number,
        "initialize",
        {"protocolVersion": HANDSHAKE, "capabilities": declared(words), "clientInfo": dict(client)},
    )


def agreed(server: str, result: Mapping[str, Any], accepted: frozenset[str]) -> str:
    """The revision an initialize result settled on. Raises UpstreamFault when we did not offer to speak it."""
    revision = result.get("protocolVersion")
    if not isinstance(revision, str) or revision not in accepted:
        raise UpstreamFault(server, f"answered initialize with revision {str(revision)[:40]!r}")
    return revision


def answer(server: str, message: Any, number: int, *, unidentified: bool = False) -> dict[str, Any]:
    """The result in a response to request `number`.

    Raises UpstreamError for a JSON-RPC error, UpstreamFault for anything that is not exactly one response to exactly
    this request. `unidentified` admits an error whose id is null (JSON-RPC 2.0 section 5: the request was not read).
    """
    if type(message) is not dict or message.get("jsonrpc") != "2.0" or "method" in message:
        raise UpstreamFault(server, "answered with something that is not one JSON-RPC response")
    identity = message.get("id")
    if not (type(identity) is int and identity == number) and not (
        unidentified and identity is None and "error" in message
    ):
        raise UpstreamFault(server, "answered with an id that is not the request's")
    if ("result" in message) == ("error" in message):
        raise UpstreamFault(server, "answered with both or neither of result and error")
    if "result" in message:
        result = message["result"]
        if type(result) is not dict:
            raise UpstreamFault(server, "answered with a result that is not an object")
        return result
    error = message["error"]
    if type(error) is not dict or type(error.get("code")) is not int or not isinstance(error.get("message"), str):
        raise UpstreamFault(server, "answered with a malformed error")
    raise UpstreamError(server, error["code"], error["message"][:2000], error.get("data"))


def complete(server: str, call: Outgoing, result: dict[str, Any], *, modern: bool) -> bool:
    """Whether this is the final result, rather than a request for input. Raises UpstreamFault where input may not be
    requested this way: in the handshake era, or by a method that does not have it (2026-07-28 patterns/mrtr)."""
    kind = result.get("resultType", "complete")
    if kind == "complete":
        return True
    if not modern or kind != "input_required" or call.method not in INPUT_METHODS:
        raise UpstreamFault(server, f"answered {call.method} with result type {str(kind)[:40]!r}")
    state = result.get("requestState")
    if not (state is None or isinstance(state, str)) or (state is None and not result.get("inputRequests")):
        raise UpstreamFault(server, "asked for input without saying which")
    return False
