"""Does what commands ask of a running gateway: see `errands`. Keys of the log, servers, certificates, the file."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from limen.errands import Errand, Errands, Handler
from limen.opening import replace_log_key
from limen.storage import Followed

if TYPE_CHECKING:
    from limen.assemble import House


class Upkeep:
    """The duty. `handlers`: what there is besides the key of the log, by what it is asked for as."""

    def __init__(self, house: House, handlers: Mapping[str, Handler]) -> None:
        self._house = house
        state = house.state
        self._errands = Errands(state.history, {"log-key": self._log_key, **handlers}, remote=state.remote)

    async def run(self) -> None:
        """Until cancelled. Raises DependencyFault when it is of no use to look again."""
        followed = Followed(self._house.state.bus, self._house.say)
        await followed.all({"errands": self._errands.look})

    async def _log_key(self, errand: Errand) -> str:
        """Each gateway has a log of its own, and so a key of its own for it."""
        house, why = self._house, "emergency" if errand.urgent else "planned"
        signer = await asyncio.to_thread(replace_log_key, house.config, house.ledger, why)
        house.logbook.signer, key = signer, signer.verifier_key
        house.engine.event("rotated", key="log", now=key, why=why, by=errand.by, reason=errand.reason)
        house.say(f"the log is signed with a new key: {key}")
        return key
