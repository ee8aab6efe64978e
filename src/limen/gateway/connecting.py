"""How a client is told that a person has to connect an account first: in the words of its era, where it has them.

2026-07-28: an input_required result with an elicitation in URL mode; 2025-11-25: error -32042. To a client that did
not say it can show URLs, the refusal itself, with the URL in its data (2026-07-28 and 2025-11-25 client elicitation).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from limen.core.call import Call, Era
from limen.core.verdict import Refusal
from limen.protocol.jsonrpc import render
from limen.protocol.outbound import Reply, complete, result_message

KEY: Final = "limen.connect"
_REQUIRED: Final = -32042  # 2025-11-25 URLElicitationRequiredError; never sent in 2026-07-28


def told(call: Call, refusal: Refusal, server: Mapping[str, Any]) -> Reply | Refusal:
    """The refusal, or what stands for it. `server`: who answers."""
    asked = refusal.public.get("elicitation")
    if refusal.reason.id != "credentials.connect" or asked is None:
        return refusal
    params = {"mode": "url", "message": asked["message"], "url": refusal.public["connect"]}
    if call.era is Era.MODERN:
        request = {"method": "elicitation/create", "params": params}
        result = {"resultType": "input_required", "inputRequests": {KEY: request}}
        return Reply(200, result_message(call.id, complete(call.method, call.era, result, server)))
    data = {"elicitations": [{**params, "elicitationId": asked["id"]}], "reference": refusal.reference}
    error = {"code": _REQUIRED, "message": refusal.reason.public, "data": data}
    return Reply(200, render({"jsonrpc": "2.0", "id": call.id, "error": error}))


def without_ours(responses: bytes) -> bytes:
    """What a client answered to a server, without what it answered to us."""
    if b'"limen.connect"' not in responses:
        return responses
    given: dict[str, Any] = orjson.loads(responses)
    given.pop(KEY, None)
    return orjson.dumps(given) if given else b""
