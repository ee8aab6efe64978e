"""Result or Refusal to bytes and status, per era. The only place that renders answers to clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from limen.core.call import Era
from limen.core.reasons import Reason
from limen.core.verdict import Refusal
from limen.protocol.jsonrpc import render
from limen.protocol.methods import META_SERVER

CACHEABLE: Final = frozenset(
    {"tools/list", "resources/list", "resources/templates/list", "prompts/list", "resources/read", "server/discover"}
)
_SHOWN: Final = (
    *("supported", "requested", "requiredCapabilities", "scopes", "acr_values", "max_age"),
    *("approval", "retry_after", "uri", "connect"),
)


@dataclass(frozen=True, slots=True)
class Reply:
    """One finished answer: HTTP status, extra headers, JSON body (b"" for none)."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


def result_message(id_: str | int | None, result: Mapping[str, Any]) -> bytes:
    """A JSON-RPC response. `result` has passed the result guards."""
    return render({"jsonrpc": "2.0", "id": id_, "result": result})


def result_fragment(id_: str | int | None, result: bytes) -> bytes:
    """The same from a result that was rendered before: its bytes are copied once, whatever their number."""
    return b"".join((b'{"jsonrpc":"2.0","id":', render(id_), b',"result":', result, b"}"))


def complete(method: str, era: Era, result: dict[str, Any], server: Mapping[str, Any]) -> dict[str, Any]:
    """Add what 2026-07-28 asks of results: resultType, who answers, and ttlMs with a scope that is never shared."""
    if era is not Era.MODERN:
        return {name: value for name, value in result.items() if name not in ("resultType", "ttlMs", "cacheScope")}
    meta = {META_SERVER: server}
    if result.get("resultType") == "input_required":
        return {**result, "_meta": meta}
    shaped = {**result, "resultType": "complete", "_meta": meta}
    if method in CACHEABLE:
        ttl = result.get("ttlMs")
        shaped["ttlMs"] = ttl if type(ttl) is int and 0 <= ttl <= 3_600_000 else 0
        shaped["cacheScope"] = "private"  # what is listed depends on who asks: never for a shared cache
    return shaped


def error_message(refusal: Refusal, id_: str | int | None) -> bytes:
    """A JSON-RPC error: fixed text, a reference for the operator, and the few members meant for clients."""
    data: dict[str, Any] = {"reference": refusal.reference} if refusal.reference else {}
    for name in _SHOWN:
        if name in refusal.public:
            data[name] = refusal.public[name]
    error: dict[str, Any] = {"code": refusal.reason.code, "message": refusal.reason.public}
    if data:
        error["data"] = data
    return render({"jsonrpc": "2.0", "id": id_, "error": error})


def hide(refusal: Refusal, unknown: Reason, echo: Mapping[str, Any]) -> Refusal:
    """The same refusal for a caller who may not know that the target exists: exactly like an unknown name."""
    return Refusal(unknown, refusal.reference, refusal.guard, refusal.detail, echo)


def status_for(reason: Reason, era: Era) -> int:
    """HTTP status. In the handshake era 404 means "the session is gone", so nothing else may say it."""
    if era is Era.HANDSHAKE and reason.status == 404 and reason.id == "wire.unknown_method":
        return 200
    return reason.status


def notification(method: str, params: Mapping[str, Any]) -> bytes:
    """One of ours. `params` are left out where there are none."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if params:
        message["params"] = params
    return render(message)


def refusal_reply(refusal: Refusal, call_id: str | int | None, era: Era) -> Reply:
    """A refusal as the client sees it."""
    headers: list[tuple[bytes, bytes]] = []
    if "retry_after" in refusal.public:
        headers.append((b"retry-after", str(int(refusal.public["retry_after"]) or 1).encode()))
    elif refusal.reason.status == 503:
        headers.append((b"retry-after", b"1"))
    return Reply(status_for(refusal.reason, era), error_message(refusal, call_id), tuple(headers))
