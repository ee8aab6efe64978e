"""Carries out what is contained where it is more than an answer: calls under way, connections, networks of cells."""

from __future__ import annotations

from collections.abc import Awaitable

from limen.assemble import House
from limen.core.call import Caller, Context, Session
from limen.core.faults import DependencyFault
from limen.core.verdict import Permit
from limen.gateway.app import Gateway
from limen.gateway.cells import Cells
from limen.gateway.upstreams import Upstreams


def obey(house: House, gateway: Gateway, cells: Cells) -> None:
    """From now on. What stands already is carried out before anything is started."""
    known, revocations, upstreams = house.containments, house.revocations, house.upstreams
    assert isinstance(upstreams, Upstreams)

    async def barred(server: str) -> str:
        """With a copy of the records that is too old nothing leaves a cell."""
        if (reading := known.fresh()) is not None:
            try:
                await reading
            except DependencyFault:
                return "contained.unknown"
        return "contained.cut" if known.is_cut(server) else ""

    def changed() -> None:
        gateway.flights.end(known.against, "incidents.contained")
        gateway.suspensions.end(known.against)
        upstreams.cut(known.cut)
        cells.cut(known.cut)

    def unwelcome(facts: Context | Permit) -> object:
        session = facts.find(Session)
        found = revocations.find(facts.get(Caller), facts.call.session)
        return found or (session is not None and revocations.ends(session.id))

    def ours(issuer: str) -> str:
        config = house.config
        return config.listen.url if config.oauth is not None and issuer == config.oauth.provider.issuer else ""

    def revoked() -> None:
        gateway.flights.end(unwelcome, "identity.revoked")
        gateway.suspensions.end(unwelcome)

    async def anew() -> None:
        for one in (known, revocations):
            if (reading := one.fresh()) is not None:
                await reading

    def fresh() -> Awaitable[None] | None:
        return anew() if known.old or revocations.old else None

    def bars(facts: Context | Permit) -> str:
        if known.quiet and revocations.quiet:
            return ""
        if known.against(facts) is not None:
            return "incidents.contained"
        return "identity.revoked" if unwelcome(facts) else ""

    house.revocations.ours = ours
    cells.barred = barred
    gateway.flights.fresh, gateway.flights.bars = fresh, bars
    house.on_contained, house.on_revoked = changed, revoked
    changed()
