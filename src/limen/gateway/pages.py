"""The authorization server's endpoints on the network: bytes to a Visit, a Reply to bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from limen.core.faults import DependencyFault
from limen.gateway.answer import Scope
from limen.gateway.forwarded import Networks, client_address, within
from limen.gateway.server import Send
from limen.oauth.web import Handler, OAuthError, Visit, error_reply
from limen.signin import SignIn

_MOST: Final = 64 << 10  # bytes of a form


@dataclass(frozen=True, slots=True)
class Pages:
    """Where the authorization server answers."""

    signin: SignIn
    secure: bool  # clients are told to come over TLS, or from this machine
    trusted: Networks = ()

    def find(self, path: bytes) -> Handler | None:
        """Who answers at this path, compared byte for byte."""
        found = self.signin.endpoints.get(path)
        if found is None and self.signin.below:
            found = self.signin.below.get(path[: path.rfind(b"/") + 1])
        return found

    async def serve(self, handler: Handler, scope: Scope, body: bytes, send: Send) -> None:
        """One request. Whatever goes wrong is said in OAuth's words and in no others."""
        try:
            reply = await handler(self._visit(scope, body))
        except OAuthError as error:
            reply = error_reply(error)
        except DependencyFault:
            reply = error_reply(OAuthError("temporarily_unavailable", status=503))
        headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in reply.all_headers]
        headers.append((b"content-length", str(len(reply.body)).encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body if scope["method"] != "HEAD" else b""})

    def _visit(self, scope: Scope, body: bytes) -> Visit:
        if len(body) > _MOST:
            raise OAuthError("invalid_request", "too large", status=413)
        headers: dict[str, tuple[str, ...]] = {}
        for name, value in scope["headers"]:
            label = name.decode("latin-1")
            headers[label] = (*headers.get(label, ()), value.decode("latin-1"))
        address: Any = scope["client"][0]
        sealed = scope["scheme"] == "https" or address.startswith("127.") or address == "::1"
        if not sealed and headers.get("x-forwarded-proto") == ("https",):
            sealed = within(address, self.trusted)  # the operator's proxy says that it took it over TLS
        if self.trusted:
            address = client_address(address, headers.get("x-forwarded-for", ()), self.trusted)
        return Visit(
            scope["method"],
            scope["raw_path"].decode("latin-1"),
            scope["query_string"].decode("latin-1"),
            headers,
            body,
            address,
            self.secure and sealed,
        )
