"""Composition of what people connect at servers behind us: configuration and state in; sources and pages out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from limen.core.faults import DependencyFault
from limen.core.ports import Exchange, Sealer, Table
from limen.credentials.discovery import Discovery, Place, is_inside
from limen.credentials.linking import Linking
from limen.credentials.upstream_client import Clients
from limen.credentials.user_grants import Account, UserGrants
from limen.credentials.user_source import UserSource, persons
from limen.oauth.connect import Begin, Connect, Desk
from limen.oauth.recorder import Recorder
from limen.oauth.web import Handler

if TYPE_CHECKING:
    from limen.config.model import Config
    from limen.config.servers import ServerConfig

TELLING: Final = 60.0  # seconds between attempts to tell authorization servers of ended connections
Record = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Connections:
    """`sources` by server name, for AttachCredential; the rest is for the pages and for watching."""

    sources: Mapping[str, UserSource]
    grants: UserGrants
    linking: Linking
    clients: Clients
    issuer: str

    @classmethod
    def build(
        cls,
        config: Config,
        vault: Table,
        oauth: Table,
        sealer: Sealer,
        public: Exchange,
        private: Exchange,
        record: Record,
    ) -> Connections | None:
        """None where no server has the credential `kind: user`. `private`: an exchange that also reaches private
        networks, and this machine by plain http; used only for servers the operator put there."""
        places = {name: place_of(name, server) for name, server in config.servers.items() if is_user(server)}
        if not places or config.oauth is None:
            return None
        accounts = {name: _account(config, place, public, private) for name, place in places.items()}
        base = config.listen.url
        grants = UserGrants(vault, sealer, accounts, record)
        clients = Clients(base, vault, sealer)
        discovery = Discovery(public, private, vault, record)
        linking = Linking(oauth, sealer, accounts, discovery, clients, grants, base, record)
        person = persons(config.oauth.provider.issuer, base)
        sources = {
            name: UserSource(place, grants, linking, person, header=_header(config, name), fixed=place.headers)
            for name, place in places.items()
        }
        return cls(sources, grants, linking, clients, base)

    def pages(self, begin: Begin, desk: Desk, recorder: Recorder) -> Connect:
        """The handlers; `signed_in` of it is the continuation of the purpose "connect"."""
        document = self.clients.document()
        return Connect(self.linking, begin, desk, recorder, self.issuer, document, asyncio.to_thread)

    async def tend(self) -> None:
        """Tell authorization servers of connections that were ended here. Runs until cancelled."""
        while True:
            try:
                await self.grants.tell()
            except DependencyFault as fault:
                if not fault.retryable:
                    raise
            await asyncio.sleep(TELLING)

    async def close(self) -> None:
        """What is under way is finished."""
        for source in self.sources.values():
            await source.close()
        await self.grants.close()


def endpoints(pages: Connect) -> dict[bytes, Handler]:
    """Handlers by exact path; `/oauth/connect/` is one below which the server's name stands."""
    return {b"/oauth/connected": pages.connected, b"/oauth/client": pages.document}


def is_user(server: ServerConfig) -> bool:
    """Whether each caller has an account of their own at this server."""
    credential = server.security.credential
    return credential is not None and credential.kind == "user"


def place_of(name: str, server: ServerConfig) -> Place:
    """The server as its sign-in is looked for."""
    credential = server.security.credential
    assert credential is not None
    assert server.url is not None
    own = credential.header.lower()
    return Place(
        name,
        server.url,
        credential.issuer or "",
        frozenset(credential.hosts),
        credential.private,
        credential.scopes,
        tuple(pair for pair in server.header_values() if pair[0].lower() != own),
    )


def _account(config: Config, place: Place, public: Exchange, private: Exchange) -> Account:
    credential = config.servers[place.name].security.credential
    client = credential.client if credential is not None else None
    exchange = private if is_inside(place) else public
    return Account(place, exchange, client.identity if client is not None else None)


def _header(config: Config, name: str) -> str:
    credential = config.servers[name].security.credential
    return credential.header if credential is not None else "Authorization"
