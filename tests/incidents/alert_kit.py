"""A log, a clock and a table for tests of alerts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from limen.adapters.sqlite import SqliteTable
from limen.audit.events import read_event
from limen.core.events import Event
from limen.incidents.alert_settings import AlertSettings
from limen.incidents.alerts import Alert, Alerting, alerts
from limen.incidents.outbox import Entry, entries

NOW = 2_000_000_000.0
WHO = {"iss": "https://id.example", "sub": "alice", "client": "app"}


class Desk:
    """One replica: its log is named `log`; the table is shared."""

    def __init__(self, directory: Path, settings: Mapping[str, Any] | None = None, log: str = "limen") -> None:
        self.table = SqliteTable(directory / "limen.db", "alerts", now=lambda: self.now)
        self.settings = AlertSettings.model_validate(dict(settings or {}))
        self.log, self.now, self.index = log, NOW, -1
        self.recorded: list[tuple[str, dict[str, Any]]] = []
        self.events: list[Event] = []
        self.watch = self.started()

    def started(self) -> Alerting:
        """As after a start of the process."""
        return Alerting(
            self.table, self.settings.in_force, self.log,
            lambda kind, fields: self.recorded.append((kind, dict(fields))), self.settings.told,
        )  # fmt: skip

    def say(self, _count: int = 1, /, **record: Any) -> Event:
        """An event, or several alike, a tenth of a second apart."""
        for _ in range(_count):
            self.index += 1
            self.now += 0.1
            event = read_event(self.log, self.index, orjson.dumps({"ts": self.now, **record}))
            self.events.append(event)
            self.watch.see(event)
        return event

    def settle(self) -> None:
        self.watch.settle(self.now)

    def open(self) -> list[Alert]:
        self.settle()
        return alerts(self.table)

    def waiting(self) -> Sequence[Entry]:
        return entries(self.table)

    def ids(self) -> list[str]:
        """Rules of which an alert is open."""
        return sorted(one.rule for one in self.open())


def refusal(reason: str, **more: Any) -> dict[str, Any]:
    return {"t": "refusal", "ref": "r", **WHO, "server": "mail", "name": "send", "reason": reason, **more}


def rule(**more: Any) -> dict[str, Any]:
    return {"id": "ours", "title": "It happened", "severity": "high", "match": {"type": "call.refused"}, **more}


def only(*rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Settings under which these rules alone are in force."""
    from limen.incidents.alert_settings import shipped

    return {"rules": list(rules), "disable": [one.id for one in shipped()], **more}
