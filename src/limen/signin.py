"""Composition root of the authorization server: settings and state in, its endpoints by path out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, cast

from limen.adapters.public_http import PublicHttp
from limen.adapters.secret_file import secret_file
from limen.catalog.lookalike import lookalike_letters, plain, squat_key
from limen.connections import Connections, endpoints
from limen.core.faults import ConfigFault
from limen.core.ports import Sealer, TokenSigner
from limen.core.urls import read_url
from limen.identity.client_keys import ALGORITHMS, ClientKeys
from limen.identity.keys import AlgorithmList, VerificationKey, read_key_set, signature_holds
from limen.identity.token import Compact, TokenRefused, read_compact
from limen.issuing import Parts, open_grants, withdrawal
from limen.oauth.asking import Asking, Can
from limen.oauth.assertion import Assertions
from limen.oauth.authorize import Judge, Offer
from limen.oauth.clients import Clients, known_clients
from limen.oauth.consent import Consents
from limen.oauth.device import Devices
from limen.oauth.documents import Documents
from limen.oauth.flow import Flow, Grantor
from limen.oauth.grants import JWKS, Grants, Other
from limen.oauth.metadata import Metadata, server_metadata
from limen.oauth.model import Tokens, User
from limen.oauth.provider import Provider
from limen.oauth.provider_metadata import Jose
from limen.oauth.recorder import Recorder
from limen.oauth.redirects import allowed
from limen.oauth.registration import Registration
from limen.oauth.settings import OAuthSettings
from limen.oauth.throttle import may_begin
from limen.oauth.transactions import Transactions
from limen.oauth.trust import Letters, Trust
from limen.oauth.web import Handler, Reply, Visit
from limen.policy.buckets import MemoryCounter

if TYPE_CHECKING:
    from limen.config.model import Config
    from limen.storage import State

CONSENT_KEY: Final = "consent.key"  # beside the storage; shared by replicas
Record = Callable[[str, Mapping[str, Any]], None]


@dataclass(slots=True)
class SignIn:
    """The endpoints of the authorization server. Without `oauth` in the configuration there are none."""

    endpoints: Mapping[bytes, Handler] = field(default_factory=dict)  # by exact path
    below: Mapping[bytes, Handler] = field(default_factory=dict)  # by the path before its last segment, with the slash


@dataclass(frozen=True, slots=True)
class Brought:
    """What the authorization server needs of the gateway it belongs to."""

    state: State
    vault: Sealer
    keys: TokenSigner
    recorder: Recorder
    record: Record
    can: Can  # what a client could do
    offers: Mapping[str, Offer]  # by resource
    needed: Callable[[str], Sequence[str]]  # scopes without which a route is of no use
    keep: Callable[[User, Tokens], None] | None = None  # the provider's tokens, where a credential is made of them
    connections: Connections | None = None
    exchanges: Mapping[str, Other] = field(default_factory=dict)  # grants of other rooms, by type


def open_signin(config: Config, house: Brought) -> SignIn:
    """The authorization server of this configuration, which has `oauth`. Raises ConfigFault, DependencyFault."""
    settings = cast("OAuthSettings", config.oauth)
    issuer, state, recorder, record = config.listen.url, house.state, house.recorder, house.record
    key = secret_file(config.storage.path.with_name(CONSENT_KEY))
    asking = Asking(issuer, key, settings.provider, settings.consent, recorder, record, house.can, house.needed)
    clients, registration = _clients(config, settings, house)
    judge = Judge(clients.find, allowed, house.offers)
    provider = Provider(
        settings.provider, f"{issuer}/oauth/callback", state.oauth, house.vault, PublicHttp(private=True), jose(),
        asking.browser,
    )  # fmt: skip
    later: list[Flow] = []  # devices ask by the flow, which answers devices

    async def start(*asked: Any) -> Any:
        return await later[0].start(*asked)

    consents = Consents(state.consents, record, settings.consent, time.time, withdrawal(config, state))
    parts = Parts(
        house.keys, house.vault, clients, consents.holds, recorder, record, judge.device, start, house.exchanges
    )
    grants, devices = open_grants(config, state, parts)
    connect, counter = None, state.counter or MemoryCounter()
    if house.connections is not None:
        connect = house.connections.pages(provider.begin, asking, recorder, partial(may_begin, counter))
    grantor = Grantor(consents, grants, devices, house.keep)
    continuations = {"connect": connect.signed_in} if connect is not None else {}
    flow = Flow(
        issuer, judge, Transactions(state.oauth), asking, provider, grantor, recorder, record,
        counter, continuations,
    )  # fmt: skip
    later.append(flow)
    proofs = config.identity.dpop.algorithms
    document = server_metadata(
        issuer, settings, house.offers, algorithms=ALGORITHMS, proofs=proofs, grants=house.exchanges
    )
    found: dict[bytes, Handler] = {
        **Metadata(document, recorder).endpoints(),
        **_endpoints(flow, grants, devices),
        **({} if connect is None else endpoints(connect)),
    }
    below: dict[bytes, Handler] = {} if connect is None else {b"/oauth/connect/": connect.page}
    if settings.clients.registration:
        found[b"/oauth/register"] = registration.register
        below[b"/oauth/register/"] = registration.manage
    return SignIn(found, below)


def check_signin(config: Config) -> None:
    """What only building it shows to be wrong. Raises ConfigFault; touches nothing."""
    if config.oauth is not None:
        known_clients(config.oauth.clients, _own(config.listen.url, config.oauth), ClientKeys())


def _own(issuer: str, settings: OAuthSettings) -> set[str]:
    """Origins no code may be sent to. Raises ConfigFault."""
    try:
        return {read_url(issuer).origin, read_url(settings.provider.issuer).origin}
    except ValueError as error:
        raise ConfigFault(f"the issuer's address has {error}", "oauth.provider.issuer") from None


def _clients(config: Config, settings: OAuthSettings, house: Brought) -> tuple[Clients, Registration]:
    issuer, table, known = config.listen.url, house.state.oauth, settings.clients
    own = _own(issuer, settings)
    public, keys, counter = PublicHttp(), ClientKeys(), house.state.counter or MemoryCounter()
    trust = Trust(known.documents, Letters(squat_key, plain, lookalike_letters))
    inside = PublicHttp(private=True)
    documents = Documents(public, known.documents, trust, keys, own, house.record, inside=inside)
    assertions = Assertions(table, keys, public, issuer)
    clients = Clients(known, table, documents, assertions, counter, own, house.recorder)
    registration = Registration(known, table, counter, trust, issuer, own, house.recorder, house.record)
    return clients, registration


def _endpoints(flow: Flow, grants: Grants, devices: Devices | None) -> dict[bytes, Handler]:
    found: dict[bytes, Handler] = {
        b"/oauth/authorize": flow.authorize,
        b"/oauth/consent": flow.consent,
        b"/oauth/callback": flow.callback,
        b"/oauth/token": grants.token,
        b"/oauth/revoke": grants.revoke,
        b"/oauth/introspect": grants.introspect,
        b"/oauth/jwks": grants.jwks,
    }
    if devices is not None:
        found |= {b"/oauth/device": devices.page, b"/oauth/device_authorization": devices.authorization}
    return found


def publish_keys(keys: TokenSigner) -> SignIn:
    """Our keys alone, for servers that are given tokens of ours. There is no authorization server."""

    async def jwks(visit: Visit) -> Reply:
        if visit.method not in ("GET", "HEAD"):
            return Reply(405, b"", (("allow", "GET, HEAD"),))
        return Reply(200, await asyncio.to_thread(keys.key_set), JWKS)

    return SignIn({b"/oauth/jwks": jwks})


def jose() -> Jose:
    """ID tokens are taken apart and their signatures checked by what does so for access tokens."""
    listed = cache(AlgorithmList)

    def read(token: bytes) -> Compact:
        try:
            return read_compact(token)
        except TokenRefused as refused:
            raise ValueError(refused.detail) from None

    def holds(token: bytes, key: VerificationKey, algorithms: tuple[str, ...]) -> bool:
        return signature_holds(token, key, listed(algorithms))

    return Jose(read, read_key_set, holds)
