"""What the network of a cell did, as events for the audit: each thing once a minute, however often it is tried."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from limen.core.faults import Fault
from limen.sandbox.egress import Denied, Egress, Route
from limen.sandbox.egress_rules import Rule

AGAIN: Final = 60.0
DISTINCT: Final = 120  # different refusals recorded a minute; a server must not be able to fill the log

Record = Callable[[dict[str, Any]], None]


class Report:
    """Events of one cell. `record` may raise a Fault: then what would be allowed is refused."""

    def __init__(self, egress: Egress, cell: int, record: Record, counters: Counter[str]) -> None:
        self._egress, self._cell, self._record, self.counters = egress, cell, record, counters
        self._minute = -AGAIN
        self._seen: Counter[tuple[str, str, str]] = Counter()
        self._unrecorded = 0

    def refused(self, denied: Denied) -> None:
        """Counted always, recorded the first time in a minute."""
        self.counters["refused"] += 1
        self.counters[denied.reason] += 1
        now = time.monotonic()
        if now - self._minute >= AGAIN:
            self._minute = now
            self._unrecorded += sum(count - 1 for count in self._seen.values())
            self._seen.clear()
        key = (denied.reason, denied.target, denied.rule)
        if key not in self._seen and len(self._seen) >= DISTINCT:
            self._unrecorded += 1
            return
        self._seen[key] += 1
        if self._seen[key] > 1:
            return
        more = {"unrecorded": self._unrecorded} if self._unrecorded else {}
        self._unrecorded = 0
        what = "learned" if denied.reason == "learn.wanted" else "refused"
        self._event(
            what, reason=denied.reason, target=denied.target, rule=denied.rule, detail=denied.detail,
            say=self._egress.say(denied), **more,
        )  # fmt: skip

    def allowed(self, route: Route, name: str, rule: Rule) -> bool:
        """Before anything is sent. False: it could not be recorded, so it must not be done."""
        self.counters["allowed"] += 1
        return self._event("allowed", name=name, address=str(route.address), port=route.port, rule=rule.text)

    def ended(self, route: Route, name: str, sent: int, received: int, seconds: float) -> None:
        """An allowed connection is over."""
        self.counters["sent"] += sent
        self.counters["received"] += received
        self._event(
            "ended", name=name, address=str(route.address), port=route.port,
            sent=sent, received=received, seconds=round(seconds, 3),
        )  # fmt: skip

    def closed(self) -> None:
        """The cell is gone: what was counted and not recorded one by one."""
        missing = self._unrecorded + sum(count - 1 for count in self._seen.values())
        if missing:
            self._event("summary", unrecorded=missing)

    def _event(self, what: str, **members: Any) -> bool:
        event = {"t": "egress", "ts": time.time(), "server": self._egress.server, "cell": self._cell, "what": what}
        try:
            self._record({**event, **members})
        except Fault:
            self.counters["fault.audit"] += 1
            return False
        return True
