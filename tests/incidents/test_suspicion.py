"""Which events make whom suspicious, and which do not (I7): attack and honest twin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from limen.adapters.sqlite import SqliteTable
from limen.audit.events import read_event
from limen.core.events import Event
from limen.core.faults import DependencyFault
from limen.incidents.risk import risk_of
from limen.incidents.suspicion import WEIGHTS, Suspicion
from limen.incidents.threats import KINDS, suspects

NOW = 2_000_000_000.0
WHO = {"iss": "https://id.example", "sub": "alice", "client": "app", "session": "0a1b2c3d4e5f6071"}
ALICE = ("caller", "https://id.example\0alice")
CALL = {"server": "mail", "upstream": "mail", "tool": "send", "name": "send", "method": "tools/call"}


class Log:
    def __init__(self, directory: Path) -> None:
        self.table = SqliteTable(directory / "limen.db", "threats", now=lambda: NOW)
        self.woken = 0
        self.watch, self.index = Suspicion(self.table, self._wake), 0

    def _wake(self) -> None:
        self.woken += 1

    def event(self, **record: Any) -> Event:
        self.index += 1
        return read_event("limen", self.index, orjson.dumps({"ts": NOW, **record}))

    def say(self, **record: Any) -> None:
        self.watch.see(self.event(**record))

    def risks(self) -> dict[tuple[str, str], float]:
        self.watch.settle(NOW)
        return {tuple(one.subject): round(risk_of(one.signals, NOW), 3) for one in suspects(self.table)}  # type: ignore[misc]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def test_blocked_arguments_weigh_on_those_who_sent_them(log: Log) -> None:
    log.say(t="refusal", ref="a", **WHO, **CALL, reason="content.blocked", risk=1.0, findings=["argument.shell"])
    found = log.risks()
    assert found == {ALICE: 0.2, ("session", WHO["session"]): 0.3, ("client", "app"): 0.1}
    assert log.woken == 1


def test_a_bad_answer_weighs_on_the_tool_and_not_on_its_victim(log: Log) -> None:
    log.say(t="intent", ref="a", **WHO, **CALL)
    log.say(t="outcome", ref="a", reason="ok", risk=0.9, findings=["injection.override"])
    found = log.risks()
    assert ALICE not in found
    assert found[("tool", "mail/send")] == pytest.approx(0.135)
    assert found[("session", WHO["session"])] > 0


def test_ordinary_use_makes_nobody_suspicious(log: Log) -> None:
    """Honest twin: refusals by rules and limits, errors, mild findings, refusals for risk itself."""
    for number in range(200):
        log.say(t="intent", ref=str(number), **WHO, **CALL, risk=0.3, findings=["pii.email"])
        log.say(t="outcome", ref=str(number), reason="ok", risk=0.3, findings=["pii.email"])
    for reason in ("policy.denied", "policy.limit", "threat.blocked", "catalog.arguments", "identity.expired"):
        log.say(t="refusal", ref="b", **WHO, **CALL, reason=reason, guard="Authorize", risk=0.9)
    log.say(t="egress", server="mail", what="allowed")
    log.say(t="egress", server="mail", what="learned")
    log.say(t="catalog", change="approved", server="mail", kind="tool", name="send")
    assert log.risks() == {}


@pytest.mark.parametrize(
    ("record", "about", "at_least"),
    [
        ({"t": "security", "event": "session.hijack", **WHO}, ("session", WHO["session"]), 0.8),
        ({"t": "security", "event": "token.two_networks", **WHO}, ALICE, 0.5),
        ({"t": "security", "event": "handle.probing", **WHO}, ALICE, 0.4),
        ({"t": "refusal", **WHO, **CALL, "reason": "flow.blocked"}, ("session", WHO["session"]), 0.4),
        ({"t": "refusal", **WHO, **CALL, "reason": "policy.denied", "guard": "RequireApproval"}, ALICE, 0.3),
        ({"t": "catalog", "change": "rejected_again", "server": "mail", "name": "send"}, ("tool", "mail/send"), 0.3),
        ({"t": "finding", "server": "mail", "detail": "x"}, ("server", "mail"), 0.25),
        ({"t": "egress", "server": "mail", "what": "refused"}, ("server", "mail"), 0.2),
        ({"t": "refusal", **WHO, **CALL, "reason": "content.blocked", "risk": 1, "findings": ["feed.x"]}, ALICE, 0.5),
        ({"t": "signal", "about": "caller", "value": ALICE[1], "source": "decoy", "score": 0.95, "why": "a decoy",
          "event": "limen:3", "seconds": 60}, ALICE, 0.95),
    ],
    ids=lambda value: value.get("event", value.get("reason", value["t"])) if isinstance(value, dict) else "",
)  # fmt: skip
def test_evidence_of_each_source(log: Log, record: dict[str, Any], about: tuple[str, str], at_least: float) -> None:
    log.say(**record)
    assert log.risks()[about] >= at_least


@pytest.mark.parametrize(
    "wrong",
    [
        {"about": "planet"}, {"value": ""}, {"value": 7}, {"source": "rumour"}, {"score": 2}, {"score": "0.9"},
        {"score": True}, {"score": None}, {"seconds": 0}, {"seconds": 1e12},
    ],
    ids=str,
)  # fmt: skip
def test_a_signal_that_means_nothing_changes_nothing(log: Log, wrong: dict[str, Any]) -> None:
    log.say(**{"t": "signal", "about": "caller", "value": "x", "source": "decoy", "score": 0.9, "seconds": 60, **wrong})
    assert log.risks() == {}


def test_repeated_attacks_of_one_kind_lead_to_a_person_not_to_a_lock_out(log: Log) -> None:
    for _ in range(100):
        log.say(t="refusal", ref="a", **WHO, **CALL, reason="content.blocked", risk=1.0, findings=["argument.shell"])
    found = log.risks()
    assert 0.5 <= found[("session", WHO["session"])] < 0.8
    assert found[ALICE] < 0.5


def test_whoever_can_plant_a_text_cannot_take_a_tool_away_from_others(log: Log) -> None:
    """A lock-out as an attack: answers full of known indicators, poison, and broken schemas, for hours."""
    for number in range(100):
        log.say(t="intent", ref=str(number), **{**WHO, "session": "", "sub": f"victim{number}"}, **CALL)
        found = ["feed.x", "injection.y"]
        log.say(t="outcome", ref=str(number), reason="catalog.result", risk=1.0, findings=found)
    found = log.risks()
    assert found[("tool", "mail/send")] < 0.5
    assert found[("server", "mail")] < 0.5
    assert not [kind for kind, _ in found if kind == "caller"]


def test_nothing_is_lost_while_the_table_is_away(log: Log) -> None:
    log.say(t="security", event="session.hijack", **WHO)
    real, log.watch._table = log.watch._table, Away()  # type: ignore[assignment]
    with pytest.raises(DependencyFault):
        log.watch.settle(NOW)
    log.watch._table = real
    assert log.risks()[("session", WHO["session"])] == 0.9


class Away:
    def __getattr__(self, name: str) -> Any:
        raise DependencyFault("table", "away")


def test_every_row_of_the_table_names_kinds_of_subjects() -> None:
    assert all(weight.on and set(weight.on) <= set(KINDS) for weight in WEIGHTS.values())
