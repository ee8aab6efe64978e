"""The authorization server at the door: its endpoints, its flight recorder, and the duties that go with them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from limen.assemble import House, Plan
from limen.config.bundles import routes
from limen.core.faults import ConfigFault, DependencyFault
from limen.credentials.exchange_grant import GRANT
from limen.credentials.held import Held
from limen.credentials.settings import IdJag, Minted, OnBehalfOf, TokenExchange
from limen.gateway.pages import Pages
from limen.gateway.recording import Recording
from limen.identity.revoked import is_revoked
from limen.oauth.attempts import Attempts
from limen.oauth.authorize import Offer
from limen.oauth.grants import Other
from limen.oauth.model import Ability, Tokens, User
from limen.oauth.settings import RecorderSettings
from limen.opening import resources
from limen.policy.review import concerned, place_of
from limen.signin import Brought, SignIn, open_signin, publish_keys

if TYPE_CHECKING:
    from limen.config.model import Config

TELLING: Final = 60.0  # seconds between attempts to tell authorization servers of ended connections
_WHAT_PEOPLE_READ: Final = 500  # tools; the page shows some of them and counts the others
_OF_PEOPLE: Final = (TokenExchange, OnBehalfOf, IdJag)  # credentials that are made of what the provider gave


class Front:
    """Outlives configurations: what it recorded goes on, what it answers is made anew."""

    def __init__(self, house: House) -> None:
        self._house = house
        oauth = house.config.oauth
        settings = oauth.attempts if oauth is not None else RecorderSettings()
        self.attempts = Attempts(house.state.attempts, settings, house.record)

    def duties(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """What runs beside calls."""
        return self.attempts.run(), self._tend()

    def open(self, plan: Plan) -> tuple[Pages | None, Recording | None]:
        """What answers for this plan; nothing where it needs no keys. Raises ConfigFault, DependencyFault."""
        house, config = self._house, plan.config
        if house.vault is None or house.token_keys is None:
            return None, None
        secure, trusted = config.listen.secure, config.listen.proxies
        if config.oauth is None:
            return Pages(publish_keys(house.token_keys), secure, trusted), None
        recording = Recording(self.attempts, config.listen.url, trusted)
        house.on_first_use = recording.first_call
        return Pages(self._signin(plan), secure, trusted), recording

    def _signin(self, plan: Plan) -> SignIn:
        house, config = self._house, plan.config
        if house.vault is None or house.token_keys is None:
            raise ConfigFault("there are no keys", "oauth")
        offers = offered(config)
        wanted = any(isinstance(one.security.credential, _OF_PEOPLE) for one in config.servers.values())
        held = house.delegation.held(config) if wanted else None
        brought = Brought(
            house.state, house.vault, house.token_keys, self.attempts, house.record, self._can, offers,
            lambda route: required_scopes(config, route), None if held is None else partial(_keep, held),
            plan.delegated.connections, self._exchanges(config),
        )  # fmt: skip
        return open_signin(config, brought)

    def _exchanges(self, config: Config) -> dict[str, Other]:
        """RFC 8693 at our own token endpoint, where a server that got a token of ours may ask for one for another."""
        if not any(isinstance(one.security.credential, Minted) for one in config.servers.values()):
            return {}
        issuer, revocations = config.listen.url, self._house.state.revocations

        def ended(claims: Mapping[str, Any]) -> bool:
            return is_revoked(revocations, spoken_of(claims, issuer))

        return {GRANT: self._house.delegation.exchange(config, ended)}

    def _can(self, route: str, scopes: Sequence[str]) -> Sequence[Ability]:
        """The approved tools of a route that some rule allows to somebody. Whom, a sign-in will show."""
        house, found = self._house, list[Ability]()
        for server in _servers(house.config, route):
            tools = house.corridor.catalog.approved(server, "tool")
            ways = concerned(house.policy, tools)
            found += [Ability(one.server, one.name, one.effect) for one in tools if ways[place_of(one)]]
        return found[:_WHAT_PEOPLE_READ]

    async def _tend(self) -> None:
        """Connections that ended here are told where they came from; keys are renewed, and what is old is let go."""
        told = ""
        while True:
            trouble = ""
            try:
                await self._tend_once()
            except DependencyFault as fault:  # calls go on; what depends on it refuses by itself
                trouble = str(fault)
            if trouble != told:
                told = trouble
                self._house.say(f"keys and connections: {trouble or 'works again'}")
            await asyncio.sleep(TELLING)

    async def _tend_once(self) -> None:
        house = self._house
        if house.vault is not None and house.token_keys is not None:
            house.vault.forget()
            days = house.config.vault.signing.days
            if await asyncio.to_thread(house.token_keys.renew, days * 86_400):
                house.engine.event("keys", detail="the key that signs tokens was replaced")
        if (connections := house.delegation.connections) is not None:
            await connections.tell()


def spoken_of(claims: Mapping[str, Any], issuer: str) -> list[tuple[str, str, str]]:
    """By which revocations a token we minted ends: its own, the person's under each name they have, and those of every
    client that acts in it."""
    names = ("", issuer, str(claims.get("idp", "")))
    found = [("token", name, claims["jti"]) for name in names[:2]]
    found += [("user", name, claims["sub"]) for name in names]
    actors, act = [claims.get("client_id")], claims.get("act")
    while isinstance(act, dict):
        actors.append(act.get("sub"))
        act = act.get("act")
    return found + [("client", name, one) for one in actors if isinstance(one, str) for name in names]


def offered(config: Config) -> dict[str, Offer]:
    """What clients can ask tokens for: every route with the scopes that rules about its servers read, by resource. Who
    names none is asked about all of them."""
    found = {}
    for route, resource in resources(config).items():
        scopes = offered_scopes(config, route)
        found[resource] = Offer(route, scopes, scopes)
    return found


def offered_scopes(config: Config, route: str) -> tuple[str, ...]:
    """What is asked of every caller of a route, and what rules about its servers ask for: told in the metadata."""
    more = (scope for server in _servers(config, route) for scope in config.policy.scopes(server))
    return tuple(dict.fromkeys((*required_scopes(config, route), *more)))


def required_scopes(config: Config, route: str) -> tuple[str, ...]:
    """What is asked of every caller of a route: told in a challenge that needs no more."""
    servers = _servers(config, route)
    return tuple(dict.fromkeys(scope for server in servers for scope in config.servers[server].security.scopes))


def _keep(held: Held, user: User, tokens: Tokens) -> None:
    held.keep(
        user.issuer, user.subject, tokens.access, tokens.refresh, tokens.expires, tokens.scopes, tokens.identity
    )  # fmt: skip


def _servers(config: Config, route: str) -> tuple[str, ...]:
    return tuple(routes(config.bundles, config.servers).get(route, (route,)))
