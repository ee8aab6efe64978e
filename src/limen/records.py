"""What the log is told of a call: who, what, by which rules, and what came of it. Ids, digests and numbers.

Everything a record shares with the next one of its call is rendered once. Names and texts of strangers are members of
JSON, so that whatever they hold, a record is one object without a line break.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any, Final

import orjson

from limen.core.call import Approval, Approved, Call, Caller, Context, Grant, Session, UpstreamCredential
from limen.core.verdict import Permit
from limen.corridor import Corridor

_DETAIL: Final = 500
_URIS: Final = 32
_URI: Final = 200  # characters of each: a record holds 65 535 bytes, and some characters take six of them
_MET: Final = 10_000


def who(facts: Context | Permit) -> dict[str, Any]:
    """Who asks, as far as that is proven."""
    caller, session = facts.find(Caller), facts.find(Session)
    if caller is None:
        return {"peer": facts.call.peer.address}
    found: dict[str, Any] = {
        "iss": caller.issuer,
        "sub": caller.subject,
        "client": caller.client,
        "token": caller.token_id,
        "session": sha256(session.id.encode()).hexdigest()[:16] if session and session.id else "",
        "peer": facts.call.peer.address,
    }
    if caller.binding is not None:
        found["bound"] = sorted(caller.binding.kinds)
    return found


def what(record: dict[str, Any], call: Call, reference: str) -> dict[str, Any]:
    """Add what was asked."""
    record["ref"] = reference
    record["server"] = call.server
    record["method"] = call.method
    record["name"] = call.name
    record["args"] = sha256(call.arguments).hexdigest() if call.arguments else ""
    record["in"] = len(call.arguments)
    record["revision"] = call.revision
    record["agent"] = call.client
    record["trace"] = call.trace.get("traceparent", "")
    return record


def shared(permit: Permit, corridor: Corridor) -> bytes:
    """The members that intent and outcome have in common: the end of a JSON object, behind its first members."""
    approved, grant, approval = permit.get(Approved), permit.get(Grant), permit.get(Approval)
    record = what(who(permit), permit.call, permit.reference)
    record["upstream"] = approved.server
    record["tool"] = approved.name
    record["digest"] = approved.digest
    record["drifted"] = approved.drifted
    record["decision"] = "allow"
    record["rules"] = grant.rules
    record["policy"] = grant.policy
    record["catalog"] = corridor.catalog.version
    record["credential"] = permit.get(UpstreamCredential).kind
    if approval.id:
        record["approval"] = approval.id
        record["approved_by"] = approval.by
    return b"," + orjson.dumps(record)[1:]


def joined(record: Mapping[str, Any], common: bytes) -> bytes:
    """One object of both; they have no member in common."""
    return orjson.dumps(record)[:-1] + common


def local(context: Context, corridor: Corridor) -> dict[str, Any]:
    """A call answered here."""
    record = {
        "t": "local", **who(context), "decision": "allow", "policy": corridor.policy,
        "catalog": corridor.catalog.version,
    }  # fmt: skip
    return what(record, context.call, context.reference)


def refusal(corridor: Corridor, facts: Context | Permit, reason: str, guard: str, detail: str) -> dict[str, Any]:
    """A call that was refused, with as much as was known of it by then."""
    approved, grant = facts.find(Approved), facts.find(Grant)
    record = {
        "t": "refusal", **who(facts), "digest": approved.digest if approved else "", "decision": "deny",
        "reason": reason, "guard": guard, "detail": detail[:_DETAIL], "policy": corridor.policy,
        "catalog": corridor.catalog.version,
    }  # fmt: skip
    if approved is not None:
        record["upstream"], record["tool"] = approved.server, approved.name
    if grant is not None:
        record["rules"] = grant.rules
    return what(record, facts.call, facts.reference)


def outcome(
    reason: str, started: float, detail: str, result: dict[str, Any] | None = None, sent: int = 0, plain: bool = False
) -> dict[str, Any]:
    """What came of a call. `started`: of the monotonic clock; `result`: what passed the result guards, if anything,
    and `sent` the bytes of it as its caller is given it."""
    record: dict[str, Any] = {
        "t": "outcome",
        "ts": time.time(),
        "reason": reason,
        "ms": round((time.monotonic() - started) * 1000, 2),
        "detail": detail[:_DETAIL],
    }
    if result is not None:
        record["out"] = sent
        if result.get("isError") is True:
            record["isError"] = True
        if found := list(_resources(result)):
            told = dict.fromkeys(found[: _URIS + 1])
            record["resources"] = [one[:_URI] if plain else uri_digest(one) for one in list(told)[:_URIS]]
            if len(found) > _URIS:
                record["more_resources"] = len(found) - _URIS
    return record


def uri_digest(uri: str) -> str:
    """How a URI is named in records where it does not stand itself."""
    return sha256(uri.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _resources(result: Mapping[str, Any]) -> Iterator[str]:
    """URIs of the resources in a result: what was read, embedded, or linked to."""
    for name in ("contents", "content"):
        blocks = result.get(name)
        for block in blocks if isinstance(blocks, list) else ():
            if not isinstance(block, dict):
                continue
            embedded = block.get("resource")
            uri = embedded.get("uri") if isinstance(embedded, dict) else block.get("uri")
            if isinstance(uri, str):
                yield uri


class Met:
    """Credentials this process has seen accepted, of a bounded number of them."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], None] = {}

    def first(self, facts: Context) -> dict[str, Any] | None:
        """The record of an authentication when this caller's credential is new here. `know` it once it is written."""
        caller = facts.find(Caller)
        if caller is None or (caller.issuer, caller.subject, caller.token_id) in self._known:
            return None
        call = facts.call
        return {
            "t": "authenticated", **who(facts), "ref": facts.reference, "server": call.route, "agent": call.client,
            "trace": call.trace.get("traceparent", ""), "transport": call.peer.transport, "amr": sorted(caller.amr),
            "acr": caller.acr, "auth_time": caller.auth_time, "expires": caller.expires, "key": caller.key_id,
            "machine": caller.machine,
        }  # fmt: skip

    def know(self, record: Mapping[str, Any]) -> None:
        """That one is on record."""
        if len(self._known) >= _MET:
            del self._known[next(iter(self._known))]
        self._known[record["iss"], record["sub"], record["token"]] = None
