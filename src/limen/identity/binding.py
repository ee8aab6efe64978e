"""What a token is bound to: reading `cnf`, and comparing it with what the request proves (RFC 7800, 8705, 9449)."""

from __future__ import annotations

from hmac import compare_digest
from typing import Any, Final

from limen.core.call import Binding, Presented
from limen.identity.keys import decode_base64url

_MEMBERS: Final = {"jkt": "jkt", "x5t#S256": "x5t"}
ANY: Final = "any"


def read_binding(value: Any) -> Binding:
    """The confirmation methods of a `cnf` claim. Raises ValueError.

    Ours to check are a DPoP key and a client certificate. A member of any other name is a proof we could not ask for,
    so the token is good for nothing here (RFC 7800 section 3.1 lets a recipient require that).
    """
    if not isinstance(value, dict) or not value:
        raise ValueError("cnf is not an object with members")
    if strange := set(value) - set(_MEMBERS):
        raise ValueError(f"cnf holds {sorted(map(str, strange))[0][:40]!r}, which cannot be proven here")
    found: dict[str, str] = {}
    for name, field in _MEMBERS.items():
        if name in value:
            if not isinstance(value[name], str) or len(decode_base64url(value[name])) != 32:
                raise ValueError(f"{name} in cnf is not a SHA-256")
            found[field] = value[name]
    return Binding(**found)


def unproven(binding: Binding | None, presented: Presented, demands: frozenset[str], *, dpop: bool) -> str:
    """What is missing besides the DPoP proof itself, for the audit; "" if nothing is.

    `dpop`: the credential came under the DPoP scheme. A bound token under the Bearer scheme is a downgrade (RFC 9449
    section 7.2), and so is the reverse: whoever sends a proof believes that it is asked for.
    """
    if binding is None:
        if dpop:
            return "the DPoP scheme with a token that is bound to no key"
        return "bound to no key, which this route demands" if demands else ""
    if bool(binding.jkt) is not dpop:
        return (
            "the DPoP scheme with a token of another binding" if dpop else "bound to a key, but sent as a bearer token"
        )
    if binding.x5t and not presented.certificate:
        return "bound to a client certificate, and none was presented"
    if binding.x5t and not compare_digest(binding.x5t, presented.certificate):
        return "bound to another client certificate"
    if missing := demands - binding.kinds - {ANY}:
        return f"not bound by {', '.join(sorted(missing))}, which this route demands"
    return ""
