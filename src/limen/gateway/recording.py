"""What the flight recorder sees at the door: challenges, metadata that is read or looked for in vain, first calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson

from limen.core.call import Caller, Peer
from limen.core.verdict import Refusal
from limen.gateway.answer import Scope
from limen.gateway.forwarded import Networks, client_address
from limen.oauth.recorder import Leg, Recorder
from limen.oauth.web import Visit

_RESOURCE: Final = b"/.well-known/oauth-protected-resource"
_SERVER: Final = (b"/.well-known/oauth-authorization-server", b"/.well-known/openid-configuration")


class Recording:
    """Notes for the recorder what no endpoint of the authorization server sees. None of it is on the way of a call
    that goes well, but for the first use of a token."""

    def __init__(self, recorder: Recorder, url: str, trusted: Networks = ()) -> None:
        self._recorder, self._url, self._trusted = recorder, url, trusted

    def challenged(self, refusal: Refusal, peer: Peer, resource: str) -> None:
        """A request was answered with a challenge. That none was brought is how every sign-in begins."""
        reason = refusal.reason.id
        beginning = reason == "identity.missing"
        self._recorder.note(
            "challenge",
            "ok" if beginning else reason,
            visit=Visit("POST", "", headers={"user-agent": (peer.user_agent,)}, address=peer.address),
            resource=resource,
            field="" if beginning else "Authorization",
            detail="" if beginning else refusal.detail,
        )

    def looked_up(self, scope: Scope, found: bool) -> None:
        """Metadata was read, or looked for where there is none."""
        path: bytes = scope["raw_path"]
        if not path.startswith((_RESOURCE, *_SERVER)):
            return
        leg: Leg = "resource_metadata" if path.startswith(_RESOURCE) else "server_metadata"
        resource = ""
        if found and leg == "resource_metadata":
            resource = self._url + (path[len(_RESOURCE) :].decode("latin-1") or "/mcp")
        self._recorder.note(
            leg,
            "ok" if found else "not_found",
            visit=self._visit(scope),
            resource=resource,
            field="" if found else "path",
            detail="" if found else path[:300].decode("latin-1"),
        )

    def first_call(self, caller: Caller, resource: str) -> None:
        """A token was verified that was not known before. Only those we issued are the end of a sign-in of ours."""
        if caller.issuer != self._url:
            return
        claims = orjson.loads(caller.claims) if caller.claims else {}
        family = claims.get("sid") if isinstance(claims, Mapping) else None
        self._recorder.note(
            "first_call",
            "ok",
            client=caller.client,
            resource=resource,
            grant=family if isinstance(family, str) else "",
            user=caller.subject,
        )

    def _visit(self, scope: Scope) -> Visit:
        agent, forwarded = "", []
        for name, value in scope["headers"]:
            if name == b"user-agent":
                agent = value.decode("latin-1")
            elif name == b"x-forwarded-for":
                forwarded.append(value.decode("latin-1"))
        address = scope["client"][0]
        if self._trusted:
            address = client_address(address, forwarded, self._trusted)
        return Visit(scope["method"], "", headers={"user-agent": (agent[:256],)}, address=address)
