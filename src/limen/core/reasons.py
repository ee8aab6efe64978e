"""Every way a call can end, in one table. Ids are stable and never reused.

`public` is all a client is ever told; the detail of a refusal goes to the audit log. Our own JSON-RPC codes mirror HTTP
status numbers: the 2026-07-28 revision reserves -32020..-32099 and forbids inventing codes there.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final


class Severity(Enum):
    """How loudly an operator should be told."""

    INFO = "info"
    NOTICE = "notice"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Reason:
    """One row: stable id, HTTP status, JSON-RPC code, the only text a client sees, and severity."""

    id: str
    status: int
    code: int
    public: str
    severity: Severity = Severity.NOTICE


def _rows() -> dict[str, Reason]:
    info, warning, error = Severity.INFO, Severity.WARNING, Severity.ERROR
    rows = (
        Reason("wire.not_json", 400, -32700, "Parse error: the body is not one strict JSON value"),
        Reason("wire.not_request", 400, -32600, "Invalid Request: not one JSON-RPC 2.0 request or notification"),
        Reason("wire.params", 400, -32602, "Invalid params"),
        Reason("wire.header_mismatch", 400, -32020, "Header mismatch: headers and body disagree", warning),
        Reason("wire.capability", 400, -32021, "A required client capability was not declared"),
        Reason("wire.revision", 400, -32022, "Unsupported protocol version"),
        Reason("wire.unknown_method", 404, -32601, "Method not found"),
        Reason("wire.too_large", 413, 413, "Too large"),
        Reason("wire.headers_too_large", 431, 431, "Request header fields too large"),
        Reason("wire.timeout", 408, 408, "Request timeout"),
        Reason("wire.media_type", 415, 415, "Unsupported media type: send application/json in UTF-8, not encoded"),
        Reason("wire.not_acceptable", 406, 406, "Not acceptable: accept application/json and text/event-stream"),
        Reason("wire.http", 400, 400, "Bad request"),
        Reason("wire.http_method", 405, 405, "Method not allowed", info),
        Reason("wire.not_found", 404, 404, "Not found", info),
        Reason("wire.origin", 403, 403, "Forbidden", warning),
        Reason("identity.missing", 401, 401, "Authorization required", info),
        Reason("identity.invalid", 401, 401, "The access token is not valid", warning),
        Reason("identity.audience", 401, 401, "The access token is not valid", warning),
        Reason("identity.expired", 401, 401, "The access token is not valid", info),
        Reason("identity.binding", 401, 401, "The access token is not valid", warning),
        Reason("identity.proof", 401, 401, "The proof of possession is not valid", warning),
        Reason("identity.nonce", 401, 401, "A proof of possession with a fresh nonce is required", info),
        Reason("identity.exposed", 403, 403, "This credential is accepted over TLS only", warning),
        Reason("identity.forwarded", 400, 400, "Bad request", warning),
        Reason("identity.revoked", 401, 401, "The access token is not valid", warning),
        Reason("identity.ambiguous", 400, 400, "More than one credential was presented", warning),
        Reason("identity.scope", 403, 403, "Insufficient scope", info),
        Reason("identity.step_up", 401, 401, "A stronger sign-in is required", info),
        Reason("identity.risk", 403, 403, "Denied: this sign-in carries too much risk", warning),
        Reason("identity.session", 404, -32600, "Session not found"),
        Reason("identity.session_missing", 400, -32600, "Session id required"),
        Reason("identity.state", 400, -32602, "Invalid params", warning),
        Reason("policy.denied", 403, 403, "Denied by policy"),
        Reason("policy.not_visible", 200, -32602, "Unknown name"),
        Reason("policy.limit", 429, 429, "Too many requests"),
        Reason("policy.busy", 429, 429, "Too many requests"),
        Reason("policy.budget", 429, 429, "Too many requests"),
        Reason("policy.payload", 413, 413, "Too large"),
        Reason("policy.approval", 403, 403, "Held: a person must approve this call"),
        Reason("catalog.unknown", 200, -32602, "Unknown name", info),
        Reason("catalog.decoy", 403, 403, "Denied by policy", error),
        Reason("catalog.pending", 403, 403, "Held: this definition awaits approval"),
        Reason("catalog.drifted", 403, 403, "Held: the definition changed and the change awaits approval", warning),
        Reason(
            "catalog.arguments", 200, -32602, "Invalid params: the arguments do not match the approved schema", info
        ),
        Reason("catalog.result", 502, 502, "The server's answer does not match its approved definition", warning),
        Reason("catalog.cursor", 200, -32602, "Invalid params: unknown cursor", info),
        Reason("content.blocked", 403, 403, "Refused: the content of this call looks dangerous", warning),
        Reason("content.filtered", 502, 502, "The call was made; its answer looks dangerous and is withheld", warning),
        Reason("content.too_large", 413, 413, "Too large to be inspected"),
        Reason("flow.blocked", 403, 403, "Refused: data of this conversation may not go there", warning),
        Reason("incidents.contained", 403, 403, "Denied: the operator has closed this for now", warning),
        Reason("threat.blocked", 403, 403, "Refused: this call carries too much risk at the moment", warning),
        Reason("credentials.refused", 403, 403, "Denied: there is no credential for this server", warning),
        Reason("credentials.exposed", 403, 403, "Refused: the call carries the credential it came with", warning),
        Reason("credentials.interaction", 401, 401, "Sign in again: the identity provider asks for it", info),
        Reason("credentials.connect", 403, 403, "Held: connect your account at this server, then try again", info),
        Reason("credentials.person", 403, 403, "Denied: this server is for people with an account of their own"),
        Reason(
            "credentials.link", 400, 400, "This link is not good, or not any more. Make the call again for a new one"
        ),
        Reason(
            "credentials.stranger", 403, 403, "This link was made for somebody else, or for another browser", warning
        ),
        Reason("credentials.declined", 403, 403, "The account was not connected", info),
        Reason("credentials.unusable", 502, 502, "The server's own sign-in does not work at the moment", warning),
        Reason("fault.dependency", 503, 503, "Temporarily unavailable", error),
        Reason("fault.audit", 503, 503, "Temporarily unavailable", error),
        Reason("fault.overload", 503, 503, "Temporarily unavailable", warning),
        Reason("fault.upstream", 502, 502, "The server behind the gateway failed", warning),
        Reason("fault.upstream_error", 200, -32603, "The server behind the gateway reported an error", info),
        Reason(
            "fault.upstream_params", 200, -32602, "Invalid params: the server behind the gateway refused them", info
        ),
        Reason("fault.upstream_timeout", 504, 504, "The server behind the gateway did not answer in time", warning),
        Reason("fault.guard", 500, -32603, "Internal error", error),
        Reason("fault.bug", 500, -32603, "Internal error", error),
        Reason("call.cancelled", 200, 499, "Cancelled", info),
    )
    return {row.id: row for row in rows}


REASONS: Final = MappingProxyType(_rows())
