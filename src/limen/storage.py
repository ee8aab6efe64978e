"""What Limen keeps, wherever it is kept, and how one process notices what another one wrote."""

from __future__ import annotations

import asyncio
import importlib
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import orjson

from limen.adapters.counting import TableCounter
from limen.audit.index import Index
from limen.core.faults import ConfigFault, DependencyFault
from limen.core.ports import Bus, Counter, Kept
from limen.policy.buckets import MemoryCounter
from limen.policy.leases import Leased
from limen.policy.limit import LimitSettings
from limen.policy.slots import Slots

if TYPE_CHECKING:
    from limen.config.kept import StorageConfig
    from limen.config.model import Config

TABLES: Final = (
    "catalog", "approvals", "marks", "labels", "quarantine", "revocations", "counts", "told", "keys", "seen",
    "sessions", "spent", "reviews", "oauth", "consents", "vault", "attempts", "cursors", "contained", "threats",
    "behavior", "alerts", "incidents", "history", "logs",
)  # fmt: skip
KEYS: Final = 60.0  # seconds between looks at the age of the key that seals handles
POLL: Final = 0.25  # seconds between looks at the state other processes may have changed
SPACING: Final = 0.02  # and at least, however much is written
_WAKING: Final = (
    "",
    "catalog",
    "revocations",
    "told",
    "contained",
    "threats",
    "history",
)  # other tables are read when a call needs them
# Drivers of other machines' stores are extras: imported when a configuration names one.
_DRIVERS: Final = MappingProxyType(
    {
        "sqlite": ("limen.adapters.sqlite", "open_tables", ""),
        "postgres": ("limen.adapters.postgres", "open_tables", "postgres"),
        "postgres bus": ("limen.adapters.postgres", "PostgresBus", "postgres"),
        "sqlite index": ("limen.adapters.sqlite_index", "SqliteIndex", ""),
        "postgres index": ("limen.adapters.postgres_index", "PostgresIndex", "postgres"),
        "redis": ("limen.adapters.redis", "RedisCounter", "redis"),
        "redis bus": ("limen.adapters.redis", "RedisBus", "redis"),
    }
)


def driver(name: str) -> Any:
    """The class or function of the table above. Raises ConfigFault when its libraries are not installed."""
    module, member, extra = _DRIVERS[name]
    try:
        return getattr(importlib.import_module(module), member)
    except ModuleNotFoundError as error:
        raise ConfigFault(f"needs {error.name}: pip install 'limen[{extra}]'", "storage") from None


@dataclass(slots=True)
class State:
    """What is kept: definitions and their approvals, held calls, how far the log has followed them, labels,
    quarantine, revocations and counts; what commands did; API keys as digests, proofs that were used and when keys
    were, sessions, states that were used, and reviews; of the authorization server its clients and grants, what people
    consented to, sealed secrets, and the steps of attempts to sign in; how far followers of the log have come, what is
    contained, suspicions, what is usual, alerts that are to be delivered, incidents, former configurations, and of
    the logs who writes which, what is held, and the last statement over all."""

    catalog: Kept
    approvals: Kept
    marks: Kept
    labels: Kept
    quarantine: Kept
    revocations: Kept
    counts: Kept
    told: Kept
    keys: Kept
    seen: Kept
    sessions: Kept
    spent: Kept
    reviews: Kept
    oauth: Kept
    consents: Kept
    vault: Kept
    attempts: Kept
    cursors: Kept
    contained: Kept
    threats: Kept
    behavior: Kept
    alerts: Kept
    incidents: Kept
    history: Kept
    logs: Kept
    remote: bool = False  # reading waits for a network
    counter: Counter | None = None  # counts all replicas share; None: this process is alone
    bus: Bus | None = None

    @classmethod
    def open(cls, config: Config) -> State:
        """Raises DependencyFault when the database cannot be used, ConfigFault when its driver is not installed."""
        storage = config.storage
        if storage.kind == "sqlite":
            storage.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        tables: dict[str, Kept] = driver(storage.kind)(storage.place, TABLES)
        counter, bus = _shared(storage, tables["counts"])
        more: dict[str, Any] = {**tables, "remote": storage.kind != "sqlite", "counter": counter, "bus": bus}
        return cls(**more)

    def close(self) -> None:
        """Close the database."""
        for name in TABLES:
            getattr(self, name).close()

    def tell(self, event: str, **fields: object) -> None:
        """For commands: what an operator did, for the log. The running gateway, or the next one, writes it there."""
        key = f"{time.time_ns():020d}.{secrets.token_hex(4)}"
        self.told.put(key, orjson.dumps({"event": event, "at": time.time(), **fields}))


def open_index(config: Config) -> Index:
    """The index of the log: beside it, or with PostgreSQL the one of all replicas. Opened when it is first used.

    Raises ConfigFault when the driver is not installed."""
    storage = config.storage
    place = index_path(config.audit.path) if storage.kind == "sqlite" else storage.place
    made: Index = driver(f"{storage.kind} index")(place)
    return made


def index_path(log: Path) -> Path:
    """The file of a log's own index."""
    return log.with_name(f"{log.name}-index.db")


def _shared(storage: StorageConfig, counts: Kept) -> tuple[Counter | None, Bus | None]:
    """The counter and the bus of a configuration for several replicas; of one process, nothing."""
    if storage.redis is not None:
        url = storage.redis.url.get_secret_value()
        return driver("redis")(url), driver("redis bus")(url)
    if storage.kind == "postgres":
        return TableCounter(counts), driver("postgres bus")(storage.place)
    return None, None


class Counts:
    """What was counted so far. Outlives a configuration: a reload empties no bucket."""

    def __init__(self, state: State, settings: LimitSettings, say: Callable[[str], None]) -> None:
        shared = state.counter
        self.rates: Counter = MemoryCounter(settings.callers) if shared is None else Leased(shared, say)
        self.budgets: Counter = Leased(TableCounter(state.counts), say) if shared is None else self.rates
        self.slots = Slots(settings, shared)

    async def close(self) -> None:
        """Give back what is left, so that other replicas have it at once."""
        with suppress(DependencyFault):  # it runs out by itself
            await self.slots.close()
            await self.budgets.close()


class Followed:
    """Looks at what others may have changed, four times a second and whenever the bus says so.

    What cannot be read is said once, and looked at again: calls that depend on it are refused meanwhile.
    """

    def __init__(self, bus: Bus | None, say: Callable[[str], None]) -> None:
        self._bus, self._say = bus, say
        self._heard = asyncio.Event()
        self._troubled: dict[str, str] = {}

    async def follow(self, what: str, look: Callable[[], Any]) -> None:
        """Run `look` over and over; `what` names it for the operator. Runs until cancelled.

        Raises DependencyFault when it is of no use to try again, or the log cannot be written.
        """
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL):
                    await self._heard.wait()
                    await asyncio.sleep(SPACING)  # many writes at once are one reason to look
            self._heard.clear()
            try:
                await look()
            except DependencyFault as fault:
                if not fault.retryable or fault.port == "audit":
                    raise
                self._trouble(what, str(fault))
            else:
                self._well(what)

    async def all(self, looks: Mapping[str, Callable[[], Any]], *beside: Coroutine[Any, Any, None]) -> None:
        """`follow` each of these by its name, listen, and run what else there is. Like `follow`, until cancelled."""
        duties = (*(self.follow(what, look) for what, look in looks.items()), self.listen(), *beside)
        tasks = [asyncio.create_task(duty) for duty in duties]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def listen(self) -> None:
        """Be told by the bus, as long as there is one. Without it, looking four times a second has to do."""
        while self._bus is not None:
            try:
                await self._bus.listen(self._hear)
            except DependencyFault as fault:
                self._trouble("bus", str(fault))
            await asyncio.sleep(POLL)

    def _hear(self, topic: str) -> None:
        self._well("bus")
        if topic in _WAKING:
            self._heard.set()

    def _trouble(self, what: str, detail: str) -> None:
        if what not in self._troubled:
            self._troubled[what] = detail
            self._say(f"{what}: {detail}")

    def _well(self, what: str) -> None:
        if self._troubled.pop(what, None) is not None:
            self._say(f"{what}: works again")


class Look:
    """Compares the catalog's records and the clock with what is in force, and tells the log what commands did."""

    def __init__(
        self,
        state: State,
        event: Callable[..., None],
        renew_keys: Callable[[], bool],
        due: Callable[[], float],
        swap: Callable[[], None],
    ) -> None:
        self._state, self._event, self._renew_keys, self._due, self._swap = state, event, renew_keys, due, swap
        self._keys_seen = -KEYS
        self._seen: tuple[int, ...] | None = None
        self._told: tuple[int, ...] | None = None

    async def once(self) -> None:
        """Raises DependencyFault when the records cannot be read."""
        if time.monotonic() - self._keys_seen >= KEYS:
            self._keys_seen = time.monotonic()
            if self._renew_keys():
                self._event("keys", detail="the key that seals handles was replaced")
        if (told := await self._token(self._state.told)) != self._told:
            self._told = told
            self._record_told()
        token = await self._token(self._state.catalog)
        if token != self._seen or self._due() <= time.time():
            self._seen = token
            self._swap()

    def _record_told(self) -> None:
        """What commands did goes to the log, and is dropped here once it is there."""
        for key, raw in list(self._state.told.scan("")):
            fields = orjson.loads(raw)
            self._event(fields.pop("event"), **fields)
            self._state.told.swap(key, raw, None)

    async def _token(self, table: Kept) -> tuple[int, ...]:
        return await asyncio.to_thread(table.change_token) if self._state.remote else table.change_token()
