"""Composition of what people connect at servers behind us: configuration and state in; sources and pages out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limen.core.faults import DependencyFault
from limen.core.ports import Exchange, Sealer, Table
from limen.credentials.discovery import Discovery, Place, is_inside
from limen.credentials.linking import Linking
from limen.credentials.upstream_client import Clients
from limen.credentials.user_grants import Account, UserGrants
from limen.credentials.user_settings import UserCredential
from limen.credentials.user_source import UserSource, persons
from limen.oauth.connect import Begin, Connect, Desk
from limen.oauth.recorder import Recorder
from limen.oauth.web import Handler, Visit

if TYPE_CHECKING:
    from limen.config.model import Config
    from limen.config.servers import ServerConfig

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
        wanted = {name: found for name, server in config.servers.items() if (found := user_credential(server))}
        if not wanted or config.oauth is None:
            return None
        places = {name: place_of(name, config.servers[name], credential) for name, credential in wanted.items()}
        accounts = {
            name: Account(
                places[name],
                private if is_inside(places[name]) else public,
                credential.client.identity if credential.client is not None else None,
            )
            for name, credential in wanted.items()
        }
        base = config.listen.url
        grants = UserGrants(vault, sealer, accounts, record)
        clients = Clients(base, vault, sealer)
        discovery = Discovery(public, private, vault, record)
        linking = Linking(oauth, sealer, accounts, discovery, clients, grants, base, record)
        person = persons(config.oauth.provider.issuer, base)
        sources = {
            name: UserSource(place, grants, linking, person, header=wanted[name].header, fixed=place.headers)
            for name, place in places.items()
        }
        return cls(sources, grants, linking, clients, base)

    def pages(self, begin: Begin, desk: Desk, recorder: Recorder, may: Callable[[Visit], Awaitable[None]]) -> Connect:
        """The handlers; `signed_in` of it is the continuation of the purpose "connect". `may`: see Connect."""
        document = self.clients.document()
        return Connect(self.linking, begin, desk, recorder, self.issuer, document, asyncio.to_thread, may)

    async def tell(self) -> None:
        """Tell authorization servers of connections that were ended here. What cannot be reached is told later."""
        try:
            await self.grants.tell()
        except DependencyFault as fault:
            if not fault.retryable:
                raise

    async def close(self) -> None:
        """What is under way is finished."""
        for source in self.sources.values():
            await source.close()
        await self.grants.close()


def endpoints(pages: Connect) -> dict[bytes, Handler]:
    """Handlers by exact path; `/oauth/connect/` is one below which the server's name stands."""
    return {b"/oauth/connected": pages.connected, b"/oauth/client": pages.document}


def user_credential(server: ServerConfig) -> UserCredential | None:
    """What is said of a server at which each caller has an account of their own; None for every other."""
    credential = server.security.credential
    return credential if isinstance(credential, UserCredential) else None


def place_of(name: str, server: ServerConfig, credential: UserCredential) -> Place:
    """The server as its sign-in is looked for."""
    own, url = credential.header.lower(), server.url
    assert url is not None
    return Place(
        name,
        url,
        credential.issuer or "",
        frozenset(credential.hosts),
        credential.private,
        credential.scopes,
        tuple(pair for pair in server.header_values() if pair[0].lower() != own),
    )
