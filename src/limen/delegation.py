"""Composition root of the credentials servers are given: settings and state in, what AttachCredential asks out.

Built once, outlives configurations: what was obtained for a server is kept as long as its settings stay as they are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limen.connections import Connections, user_credential
from limen.core.call import Caller, UpstreamCredential
from limen.core.faults import ConfigFault, UpstreamFault
from limen.core.ports import Exchange, Sealer, Table, TokenSigner
from limen.core.verdict import Permit
from limen.credentials.attach import AttachCredential, checked
from limen.credentials.endpoint import Endpoint
from limen.credentials.exchange_grant import ExchangeGrant, NotExchanged
from limen.credentials.exchange_grant import Server as MintedFor
from limen.credentials.exchanged import Exchanged, OnBehalf, OwnToken, Vouched
from limen.credentials.held import Held
from limen.credentials.minted import EachCall, MintedToken
from limen.credentials.settings import (
    ClientCredentials,
    IdJag,
    Minted,
    OnBehalfOf,
    OwnClient,
    Server,
    TokenExchange,
)
from limen.credentials.sources import Obtained, Remembered, Source
from limen.credentials.subjects import Subjects
from limen.credentials.user_settings import UserCredential
from limen.identity.revoked import Revocation
from limen.oauth.model import Client
from limen.oauth.web import OAuthError, Reply, json_reply

if TYPE_CHECKING:
    from limen.config.model import Config
    from limen.config.servers import ServerConfig

Obtainable = ClientCredentials | TokenExchange | OnBehalfOf | IdJag | Minted
Own = Callable[[], Awaitable[UpstreamCredential]]
Record = Callable[[str, Mapping[str, object]], None]


@dataclass(frozen=True, slots=True)
class Delegated:
    """How the credentials of one configuration are come by. Nothing of it is in force before `Delegation.adopt`."""

    built: Mapping[str, tuple[object, Source, Own | None]]
    connections: Connections | None = None  # accounts of people
    connected: object = None  # what was said about them

    @property
    def sources(self) -> dict[str, Source]:
        """A Source for each server whose credential is obtained."""
        people = self.connections.sources if self.connections is not None else {}
        return {**people, **{name: source for name, (_, source, _) in self.built.items()}}

    def serve(self, upstreams: Mapping[str, object]) -> None:
        """Have these read with a credential of our own, where there is one for that."""
        for name, upstream in upstreams.items():
            if name in self.built and hasattr(upstream, "own_credential"):
                upstream.own_credential = self.built[name][2]

    async def close(self) -> None:
        """Let go of what is being obtained for people."""
        if self.connections is not None:
            await self.connections.close()


class Delegation:
    """`vault` keeps the provider's tokens in `table`; `keys` sign what is minted. Without one of them, credentials that
    need it are a ConfigFault, never something weaker."""

    def __init__(
        self,
        table: Table,
        links: Table,
        public: Exchange,
        private: Exchange,
        record: Record,
        vault: Sealer | None = None,
        keys: TokenSigner | None = None,
    ) -> None:
        self._table, self._links, self._public, self._web, self._record = table, links, public, private, record
        self.vault, self.keys = vault, keys
        self.connections: Connections | None = None  # accounts of people, in force
        self._held: tuple[object, Held | None] = (None, None)
        self.attach: AttachCredential | None = None  # the guard in force

    def plan(self, config: Config, before: Delegated | None) -> Delegated:
        """What a configuration says about credentials, sharing with `before` what it says alike. Raises ConfigFault."""
        built: dict[str, tuple[object, Source, Own | None]] = {}
        kept = before.built if before is not None else {}
        held = self.held(config)
        for name, server in config.servers.items():
            credential = server.security.credential
            if credential is None or isinstance(credential, UserCredential):
                continue
            known = (config.listen.url, config.oauth and config.oauth.provider, server.url, server.headers, credential)
            if name in kept and kept[name][0] == known:
                built[name] = kept[name]
            else:
                built[name] = (known, *self._build(name, server, credential, config, held))
        return Delegated(built, *self._connect(config, before))

    def _connect(self, config: Config, before: Delegated | None) -> tuple[Connections | None, object]:
        """Accounts of people stay as they are as long as what is said about them does."""
        users = {name: server for name, server in config.servers.items() if user_credential(server) is not None}
        wanted = (users, config.listen.url, config.oauth)
        if before is not None and wanted == before.connected:
            return before.connections, wanted
        if users and self.vault is None:
            raise ConfigFault("accounts of people need `oauth` and `vault`", f"mcpServers.{next(iter(users))}")
        vault, ways = self.vault, (self._public, self._web)
        built = Connections.build(config, self._table, self._links, vault, *ways, self._record) if vault else None
        return built, wanted

    def adopt(self, delegated: Delegated, attach: AttachCredential) -> None:
        """Put a plan in force."""
        self.connections, self.attach = delegated.connections, attach

    def rejected(self, permit: Permit, fault: UpstreamFault) -> None:
        """A server answered 401 or 403 to what it was given."""
        if self.attach is not None:
            self.attach.rejected(permit, fault)

    def forget(self, records: Iterable[Revocation]) -> None:
        """Keep nothing in memory of users and clients that are revoked. Who else is has no call that could use it."""
        for record in records:
            if self.attach is not None and record.kind in ("user", "client"):
                user, client = (record.value, "") if record.kind == "user" else ("", record.value)
                self.attach.forget(Caller(record.issuer, user, client))

    async def close(self) -> None:
        """Let go of what is being obtained."""
        if self.attach is not None:
            await self.attach.close()
        if self.connections is not None:
            await self.connections.close()

    def held(self, config: Config) -> Held | None:
        """The provider's tokens of those who signed in here; None without a provider or a vault."""
        provider = config.oauth.provider if config.oauth is not None else None
        if provider is None or self.vault is None:
            return None
        if self._held[0] != provider:
            secret, key = provider.client_secret, provider.client_key
            client = OwnClient(
                id=provider.client_id, secret=secret, send="none" if secret is None and key is None else "header",
                key=key, key_id=provider.client_key_id, certificate=provider.client_certificate or None,
            )  # fmt: skip
            endpoint = Endpoint(Server(issuer=provider.issuer, client=client), self._web)
            self._held = (provider, Held(self._table, self.vault, endpoint))
        return self._held[1]

    def exchange(
        self, config: Config, ended: Callable[[Mapping[str, Any]], bool]
    ) -> Callable[[Mapping[str, str], Client], Reply]:
        """The token endpoint's answer to `exchange_grant.GRANT`, for clients that have proven who they are. `ended`
        says whether the token with these claims was revoked. The answer raises OAuthError, DependencyFault."""
        credentials = [(name, one.url, one.security.credential) for name, one in config.servers.items()]
        servers = tuple(
            MintedFor(name, chosen.audience or url or "", chosen)
            for name, url, chosen in credentials
            if isinstance(chosen, Minted)
        )
        keys = self.keys
        grant = None
        if keys is not None and servers:
            grant = ExchangeGrant(config.listen.url, servers, keys, ended, record=self._record)

        def answer(form: Mapping[str, str], client: Client) -> Reply:
            if grant is None or client.auth_method == "none":
                raise OAuthError("unauthorized_client", "no tokens are exchanged here")
            try:
                return json_reply(grant.exchange(form, client.id))
            except NotExchanged as refused:
                raise OAuthError(refused.code, detail=refused.detail) from None

        return answer

    def _build(
        self, name: str, server: ServerConfig, credential: Obtainable, config: Config, held: Held | None
    ) -> tuple[Source, Own | None]:
        place, fixed = server.url or "", checked(name, server.header_values())
        if isinstance(credential, Minted):
            return self._minted(name, credential, place, fixed, config)
        if isinstance(credential, ClientCredentials):
            plain = OwnToken(credential, Endpoint(credential, self._web))
            return Remembered(plain, place, fixed, record=self._noted(name)), _own(plain.own, fixed, place)
        if isinstance(credential, IdJag) and held is None and credential.subject != "access_token":
            raise ConfigFault("needs `oauth` and `vault`", f"mcpServers.{name}.security.credential")
        subjects = Subjects(config.listen.url, config.oauth.provider.issuer if config.oauth else "", held)
        how: Exchanged | OnBehalf | Vouched
        if isinstance(credential, TokenExchange):
            how = Exchanged(credential, place, Endpoint(credential, self._web), subjects)
        elif isinstance(credential, OnBehalfOf):
            how = OnBehalf(credential, Endpoint(credential.server, self._web), subjects)
        else:
            ends = Endpoint(credential.provider, self._web), Endpoint(credential.server, self._web)
            how = Vouched(credential, place, *ends, subjects)
        return Remembered(how, place, fixed, record=self._noted(name)), self._described(credential, place, fixed)

    def _minted(
        self, name: str, credential: Minted, place: str, fixed: tuple[tuple[str, str], ...], config: Config
    ) -> tuple[Source, Own | None]:
        if self.keys is None:
            raise ConfigFault("minted credentials need signing keys", f"mcpServers.{name}.security.credential")
        token = MintedToken(credential, place, config.listen.url, self.keys)

        async def own() -> Obtained:
            return token.own()

        if credential.bind == "call":
            return EachCall(token, place, fixed), _own(own, fixed, place)
        return Remembered(token, place, fixed, record=self._noted(name)), _own(own, fixed, place)

    def _described(
        self, credential: TokenExchange | OnBehalfOf | IdJag, place: str, fixed: tuple[tuple[str, str], ...]
    ) -> Own | None:
        """With `describe: client`: the same scopes and resource, for ourselves."""
        if isinstance(credential, IdJag) or credential.describe == "headers":
            return None
        server = credential.server if isinstance(credential, OnBehalfOf) else credential
        resource = credential.resource if isinstance(credential, TokenExchange) else ()
        audience = credential.audience if isinstance(credential, TokenExchange) else ()
        settings = ClientCredentials(
            kind="client_credentials", issuer=server.issuer, token_endpoint=server.token_endpoint, client=server.client,
            header=credential.header, scheme=credential.scheme, scopes=credential.scopes,
            resource=next(iter(resource), None), audience=next(iter(audience), None),
        )  # fmt: skip
        return _own(OwnToken(settings, Endpoint(settings, self._web)).own, fixed, place)

    def _noted(self, name: str) -> Callable[[Mapping[str, object]], None]:
        return lambda fields: self._record("credential", {"server": name, **fields})


def _own(obtain: Callable[[], Awaitable[Obtained]], fixed: tuple[tuple[str, str], ...], place: str) -> Own:
    async def credential() -> UpstreamCredential:
        return UpstreamCredential((*fixed, (await obtain()).header), "own", "own", place)

    return credential
