"""Guard Weigh (I7): what is suspected of those who take part, with what the call itself shows, decides. Both halves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from limen.adapters.sqlite import SqliteTable
from limen.core.call import Approved, Call, Caller, Cleared, Context, Era, Inspected, Presented, Session, Weighed
from limen.core.chain import Chain
from limen.core.events import Signal, Subject
from limen.core.faults import DependencyFault
from limen.core.verdict import Pass, Refuse, Verdict
from limen.detection.settings import ContentSettings
from limen.incidents.risk_settings import ThreatSettings
from limen.incidents.threats import Threats, note
from limen.incidents.weigh import Weigh

NOW = 2_000_000_000.0
CALLER = Caller("https://id.example", "alice", "app")
ALICE = Subject("caller", "https://id.example\0alice")
APPROVED = Approved("mail", "tool", "send", "d", b"{}")
CALL = Call("tools/call", "mail", "mail", Era.MODERN, "2026-07-28", 1, "send")


class Desk:
    def __init__(self, directory: Path, settings: ThreatSettings | None = None, **content: object) -> None:
        self.table = SqliteTable(directory / "limen.db", "threats", now=lambda: NOW)
        self.clock = 0.0
        self.threats = Threats(self.table, lambda: self.clock)
        self.threats.refresh()
        self.seen: dict[str, Inspected] = {}
        limits = ContentSettings.model_validate(content).limits
        self.guard = Weigh(self.threats, settings or ThreatSettings(), limits, self.seen, lambda: NOW)

    def suspect(self, score: float, about: Subject = ALICE, source: str = "session", event: str = "log:7") -> None:
        note(self.table, about, [Signal(about, source, score, "because", NOW, event)], NOW)
        self.threats.refresh()

    def check(self, *facts: object) -> Verdict | Awaitable[Verdict]:
        given = {type(one): one for one in (CALLER, Session(), APPROVED, Inspected(), Cleared())}
        given |= {type(one): one for one in facts}
        return self.guard.check(Context(CALL, Presented(), time.monotonic() + 9, "ref", given))

    def weighed(self, *facts: object) -> Weighed:
        verdict = self.check(*facts)
        assert isinstance(verdict, Pass)
        assert isinstance(verdict.facts[0], Weighed)
        return verdict.facts[0]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_nothing_known_weighs_nothing(desk: Desk) -> None:
    assert desk.weighed() == Weighed()


@pytest.mark.parametrize(
    ("score", "outcome"), [(0.1, "passes"), (0.2, "closely"), (0.5, "asks"), (0.79, "asks"), (0.8, "stops")]
)
def test_thresholds_i7(desk: Desk, score: float, outcome: str) -> None:
    desk.suspect(score)
    verdict = desk.check()
    if outcome == "stops":
        assert isinstance(verdict, Refuse)
        assert verdict.reason.id == "threat.blocked"
        assert "log:7" in verdict.detail
        assert not verdict.public  # nothing of it reaches the client
        assert desk.seen["ref"].risk == pytest.approx(0.8)
        return
    weighed = desk.weighed()
    assert (weighed.closely, weighed.ask) == (outcome in ("closely", "asks"), outcome == "asks")
    assert weighed.parts == (("session", score),)
    assert weighed.because == ("log:7",)


@pytest.mark.parametrize(
    "about",
    [
        Subject("client", "app"),
        Subject("server", "mail"),
        Subject("tool", "mail/send"),
        Subject("session", sha256(b"s1").hexdigest()[:16]),
    ],
    ids=lambda about: about.kind,
)
def test_all_who_take_part_count_and_others_do_not(desk: Desk, about: Subject) -> None:
    desk.suspect(0.9, about)
    assert isinstance(desk.check(Session("s1")), Refuse)
    other = Caller("https://id.example", "bob", "other")
    elsewhere = replace(APPROVED, server="files", name="read")
    assert desk.weighed(other, elsewhere, Session("s2")) == Weighed()


def test_a_person_of_another_issuer_is_another_person(desk: Desk) -> None:
    desk.suspect(0.9)
    assert desk.weighed(Caller("https://other.example", "alice", "app")) == Weighed()


def test_two_kinds_of_evidence_add_up_and_one_event_counts_once(desk: Desk) -> None:
    desk.suspect(0.4)
    desk.suspect(0.4, Subject("session", sha256(b"s1").hexdigest()[:16]))  # the same source
    assert desk.weighed(Session("s1")).risk == pytest.approx(0.4)
    desk.suspect(0.4, source="flow", event="log:8")
    assert desk.weighed(Session("s1")).risk == pytest.approx(0.64)


def test_what_the_call_shows_adds_to_what_is_known(desk: Desk) -> None:
    own = Inspected(0.45, ("injection.x",))
    assert not desk.weighed(own).ask
    desk.suspect(0.3)
    assert desk.weighed(own).ask
    assert desk.weighed(replace(APPROVED, drifted=True)).risk > desk.weighed().risk
    assert desk.weighed(Cleared(("flow.x",))).risk > desk.weighed().risk


def test_content_an_operator_lets_pass_is_not_caught_here(tmp_path: Path) -> None:
    """Honest twin: max_risk of a tool goes on to mean what it says; a stricter one holds for suspicion as well."""
    servers = {"mail": {"tools": {"send": {"max_risk": 0.7}, "read": {"max_risk": 0.3}}}}
    desk = Desk(tmp_path, ThreatSettings(ask=0.7, block=0.95), servers=servers)
    assert not desk.weighed(Inspected(0.7, ("x.y",))).ask
    desk.suspect(0.4)
    assert desk.weighed(replace(APPROVED, name="read")).ask  # though everybody else is asked from 0.7 on
    assert not desk.weighed().ask


def test_observing_stops_nothing_and_records_everything(tmp_path: Path) -> None:
    desk = Desk(tmp_path, ThreatSettings(unsafe_observe=True))
    desk.suspect(0.9)
    weighed = desk.weighed()
    assert (weighed.risk, weighed.ask, weighed.closely) == (0.9, False, True)


def test_an_old_copy_is_read_anew_and_an_unreadable_table_is_not_no_risk(desk: Desk) -> None:
    desk.suspect(0.9)
    desk.clock = 60.0
    again = desk.check()
    assert not isinstance(again, Pass | Refuse)

    async def wait(verdict: Awaitable[Verdict]) -> Verdict:
        return await verdict

    assert isinstance(asyncio.run(wait(again)), Refuse)
    desk.clock = 120.0
    desk.table.close()
    later = desk.check()
    assert not isinstance(later, Pass | Refuse)
    with pytest.raises(DependencyFault):
        asyncio.run(wait(later))


def test_it_fits_into_a_chain(desk: Desk) -> None:
    with pytest.raises(Exception, match=r"Caller|Session"):
        Chain([desk.guard], (Weighed,))


def test_nothing_known_costs_next_to_nothing(desk: Desk) -> None:
    """A ratio, not a time: less than sixty dictionary look-ups by attribute of the same machine."""
    given = {type(one): one for one in (CALLER, Session(), APPROVED, Inspected(), Cleared())}
    context = Context(CALL, Presented(), 0.0, "ref", given)

    def best(work: object, count: int = 2000) -> float:
        times = []
        for _ in range(7):
            began = time.perf_counter()
            for _ in range(count):
                work()  # type: ignore[operator]
            times.append((time.perf_counter() - began) / count)
        return min(times)

    unit = best(lambda: context.get(Caller))
    assert best(lambda: desk.guard.check(context)) < 60 * unit


@pytest.mark.parametrize(
    ("about", "most"), [(ALICE, 0.79), (Subject("server", "mail"), 0.49), (Subject("client", "app"), 0.49)]
)
def test_what_is_only_unusual_refuses_nobody_and_holds_up_nobody_else_i5_i7(
    desk: Desk, about: Subject, most: float
) -> None:
    """However often it is said. Another kind of evidence on top of it counts in full."""
    for number in range(6):
        desk.suspect(0.99, about, "behaviour", f"log:{number}")
    weighed = desk.weighed()
    assert (weighed.risk, weighed.ask) == (most, about is ALICE)
    desk.suspect(0.5, about, "operator", "log:9")
    verdict = desk.check()
    assert isinstance(verdict, Refuse) == (about is ALICE)
    assert about is ALICE or desk.weighed().ask


def test_one_caller_cannot_take_a_server_from_the_others_by_what_it_asks_for(desk: Desk) -> None:
    """Blocked destinations, planted answers, odd numbers, and a canary it had looked up: four sources, one hand."""
    for source, about in (("sandbox", "server"), ("content", "tool"), ("behaviour", "server"), ("decoy", "server")):
        name = "mail/send" if about == "tool" else "mail"
        desk.suspect(0.45, Subject(about, name), source, f"log:{source}")  # type: ignore[arg-type] # one of them
    bystander = desk.weighed(Caller("https://id.example", "bob", "other"))
    assert (bystander.ask, bystander.closely) == (False, True)
    desk.suspect(0.25, Subject("server", "mail"), "catalog", "log:9")  # what the server does by itself
    assert desk.weighed().ask


def test_the_one_whose_doing_it_is_is_asked(desk: Desk) -> None:
    """Honest twin of the one above: what is suspected of the caller as well counts in full."""
    desk.suspect(0.45, Subject("server", "mail"), "sandbox", "log:1")
    desk.suspect(0.3, ALICE, "content", "log:2")
    assert desk.weighed().ask
    assert not desk.weighed(Caller("https://id.example", "bob", "other")).ask


def test_a_reading_that_took_too_long_decides_nothing(desk: Desk) -> None:
    look, slow = desk.threats.refresh, [30.0, 30.0, 30.0, 0.0]

    def hangs() -> None:
        look()
        desk.clock += slow.pop(0)

    desk.threats.refresh = hangs  # type: ignore[method-assign]
    desk.clock += 30.0

    async def asked() -> Verdict:
        answer = desk.check()
        assert isinstance(answer, Awaitable)
        return await answer

    with pytest.raises(DependencyFault, match="too long"):
        asyncio.run(asked())
    assert isinstance(asyncio.run(asked()), Pass)
