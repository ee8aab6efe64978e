"""The other side: where credentials for the servers behind us come from, asked as a call would ask."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Final

from limen.cli.oauth_legs import Finding, Leg
from limen.config.servers import ServerConfig
from limen.connections import place_of
from limen.core.faults import DependencyFault
from limen.core.ports import Exchange
from limen.credentials.discovery import Discovery
from limen.credentials.endpoint import Denied, Endpoint
from limen.credentials.exchanged import OwnToken
from limen.credentials.settings import ClientCredentials, IdJag, OnBehalfOf, Server, TokenExchange
from limen.credentials.user_settings import UserCredential
from limen.oauth.remedies import remedy

_UPSTREAM: Final = Leg("upstream credential")
_NOBODY: Final = "limen-doctor"  # a token of nobody: whoever refuses it has let us in
_JWT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_EXCHANGE: Final = {
    "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
    "subject_token": _NOBODY,
    "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
}


async def look(servers: Mapping[str, ServerConfig], public: Exchange, private: Exchange) -> AsyncIterator[Finding]:
    """One finding for each place a credential comes from. Nobody's account is used and nothing is kept."""
    for name, server in servers.items():
        credential = server.security.credential
        if isinstance(credential, ClientCredentials):
            yield await _own(name, credential, private)
        elif isinstance(credential, TokenExchange):
            yield await _let_in(name, credential, _EXCHANGE, private)
        elif isinstance(credential, OnBehalfOf):
            form = {"grant_type": _JWT, "assertion": _NOBODY, "requested_token_use": "on_behalf_of"}
            form["scope"] = " ".join(credential.scopes)
            yield await _let_in(name, credential.server, form, private)
        elif isinstance(credential, IdJag):
            yield await _let_in(name, credential.provider, _EXCHANGE, private)
            yield await _let_in(name, credential.server, {"grant_type": _JWT, "assertion": _NOBODY}, private)
        elif isinstance(credential, UserCredential):
            yield await _accounts(name, server, credential, public, private)


async def _own(name: str, credential: ClientCredentials, web: Exchange) -> Finding:
    """Client credentials are obtained for real, and thrown away."""
    try:
        await OwnToken(credential, Endpoint(credential, web)).own()
    except DependencyFault as fault:
        return _failed(name, str(fault))
    return _UPSTREAM.ok(name, "client credentials were obtained")


async def _let_in(name: str, server: Server, form: Mapping[str, str], web: Exchange) -> Finding:
    """Offer a token of nobody: to be refused for that is to be known as the client."""
    endpoint = Endpoint(server, web)
    try:
        await endpoint.token(form)
    except Denied as denied:
        said = f"{endpoint.issuer or 'the token endpoint'} refuses a made-up token: {denied}"
        if denied.code == "invalid_grant" and "AADSTS" not in said:  # Entra may look at the token before it looks at us
            return _UPSTREAM.ok(name, said)
        return _UPSTREAM.unsure(name, said, "", "Whether it knows us, the first real call will tell.")
    except DependencyFault as fault:
        return _failed(name, str(fault))
    text = "Whoever exchanges a token that nobody issued must not be trusted with real ones."
    return _UPSTREAM.failed(name, "a made-up token was taken", "token_endpoint", text)


async def _accounts(
    name: str, server: ServerConfig, credential: UserCredential, public: Exchange, private: Exchange
) -> Finding:
    """Where people connect accounts of their own: found, and not pinned by looking."""
    discovery = Discovery(public, private, _Nothing(), lambda event, fields: None)
    try:
        found = await discovery.find(place_of(name, server, credential))
    except DependencyFault as fault:
        text = "People cannot connect their accounts until the server's metadata says what the text asks for; where "
        text += "it is right and the server inside, set `private: true` or `hosts`."
        return _UPSTREAM.failed(name, str(fault), f"mcpServers.{name}.security.credential", text)
    return _UPSTREAM.ok(name, f"people connect at {found.server.issuer}, scopes {' '.join(found.scopes) or '-'}")


def _failed(name: str, why: str) -> Finding:
    field = f"mcpServers.{name}.security.credential"
    texts = {
        "invalid_client": "The authorization server does not let us in: compare client id, secret or key, and how it "
        "is sent (`send`), with the registration there.",
        "unauthorized_client": "Our client may not use this grant there: allow it in its registration.",
        "invalid_scope": "A scope is not known there, or not allowed to our client.",
        "invalid_target": "`resource` or `audience` is not one the authorization server issues tokens for.",
    }
    code = next((one for one in texts if one in why), "")
    text = remedy("provider", code or "error", "", why) if "AADSTS" in why else ""
    known = texts.get(code) or "Its token endpoint cannot be used from here; the text says why."
    return _UPSTREAM.failed(name, why, field, text or known)


class _Nothing:
    """A table that keeps nothing: to look must not pin an issuer."""

    def get(self, key: str) -> bytes | None:
        return None

    def put(self, key: str, value: bytes, expires: float | None = None) -> None:
        return None

    def swap(self, key: str, old: bytes | None, new: bytes | None, expires: float | None = None) -> bool:
        return True

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        return iter(())
