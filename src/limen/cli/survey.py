"""What an access review looks at: the policy as the gateway compiles it, and the log as it was signed."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import typer

from limen.audit.signed import SignedRecords, Untrusted
from limen.cli.audit import log_key
from limen.cli.context import Misused, Refused
from limen.policy.usage import Place, Usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from limen.catalog.snapshot import Catalog
    from limen.config.load import Loaded
    from limen.core.call import Approved
    from limen.policy.decision import PolicySet
    from limen.policy.rules import PolicySettings

_UNITS: Final = {"h": 3600, "d": 86_400, "w": 604_800}
_WATCHED: Final = 20_000  # records from which a progress bar is worth its place


@dataclass(frozen=True, slots=True)
class Rules:
    """The policy in force, what is approved, and which names a rule may use."""

    policy: PolicySet
    catalog: Catalog
    items: tuple[Approved, ...]
    names: frozenset[Place]
    compiles: Callable[[PolicySettings], PolicySet]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the signed log says. `size`, `root`: of its checkpoint; `later`: records nothing vouches for yet."""

    usage: Usage
    size: int
    root: str
    later: int


def rules_of(loaded: Loaded) -> Rules:
    """Compiled as `limen serve` would now. Raises ConfigFault."""
    from limen.catalog.snapshot import Catalog
    from limen.policy.compile import compile_policy
    from limen.policy.targets import ACTIONS

    config = loaded.config
    if not config.storage.path.exists():  # nothing was ever approved; reading it makes no file

        def bare(settings: PolicySettings) -> PolicySet:
            return compile_policy(settings, (), servers=config.servers)

        return Rules(bare(config.policy), Catalog(), (), frozenset(), bare)
    from limen.opening import announced, open_policy, open_registry

    registry = open_registry(config)
    catalog = registry.snapshot()
    items = tuple(item for item in catalog.approved(withheld=True) if item.kind in ACTIONS)

    def compiles(settings: PolicySettings) -> PolicySet:
        return open_policy(config.model_copy(update={"policy": settings}), registry, catalog)

    names = {(item.server, item.kind, item.name) for item in items} | announced(registry)
    return Rules(compiles(config.policy), catalog, items, frozenset(names), compiles)


def evidence_of(loaded: Loaded, rules: Rules, since: float, until: float, key: str = "") -> Evidence:
    """Read the whole log, count what falls into the period. Raises Refused when it is not what was signed."""
    audit = loaded.config.audit
    if not audit.path.is_dir():
        raise Refused(f"{audit.path}: there is no log yet, so nothing is known of use")
    usage = Usage(rules.items, rules.policy.digest, since, until)
    try:
        records = SignedRecords(audit.path, log_key(audit, key, audit.path).text)
        for record in _watched(records, records.size):
            usage.absorb(record)
    except Untrusted as fault:
        raise Refused(f"the log cannot be believed, so nothing is concluded from it: {fault}") from None
    return Evidence(usage, records.size, records.root.hex(), records.later)


def _watched(records: Iterable[bytes], size: int) -> Iterator[bytes]:
    if size < _WATCHED or not sys.stderr.isatty():
        yield from records
        return
    with typer.progressbar(records, length=size, label="reading the log", file=sys.stderr) as bar:
        yield from bar


def moment(text: str, now: float | None = None) -> float:
    """`90d`, `12h`, `6w` ago, or a date (UTC), as seconds since the epoch. Raises Misused."""
    if found := re.fullmatch(r"([1-9][0-9]{0,4})([hdw])", text):
        return (time.time() if now is None else now) - int(found[1]) * _UNITS[found[2]]
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise Misused(f"{text!r} is neither a time like 90d, 12h or 6w nor a date like 2026-01-31") from None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def shown(stamp: Any) -> str:
    """Seconds since the epoch for people; empty for none."""
    if not isinstance(stamp, int | float) or not 0 < stamp < 1e11:
        return ""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(stamp))
