"""Sessions and the guard that binds them (C2, C3, C5, C6, C8; AU-06, AU-08): two replicas over one table."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from contracts.memory import MemoryTable
from limen.adapters.sqlite import SqliteTable
from limen.core.call import Call, Caller, Context, Era, Peer, Presented, Session
from limen.core.faults import DependencyFault
from limen.core.verdict import Pass, Refuse, Verdict
from limen.identity.bind_session import BindSession, Callers, States, trail_of
from limen.identity.handles import Handles
from limen.identity.misuse import Misuse, MisuseSettings
from limen.identity.sessions import Sessions, SessionSettings
from minting import Clock

HOME, CAFE = "192.0.2.10", "198.51.100.7"
ALICE = Caller("https://id.example", "alice", "desk", scopes=frozenset({"use"}), token_id="t1")
BOB = replace(ALICE, subject="bob", token_id="t2")
DESK = Peer("http", HOME, "Desk/1.0")


class Ring:
    key = os.urandom(32)

    def current(self) -> tuple[int, bytes]:
        return 1, self.key

    def find(self, number: int) -> bytes | None:
        return self.key if number == 1 else None


class Counted(MemoryTable):
    """Counts what is asked of it."""

    asked = 0

    def get(self, key):
        self.asked += 1
        return super().get(key)


class Replica:
    """One process, as far as sessions go."""

    def __init__(self, table: Any, clock: Clock, **settings: Any) -> None:
        self.clock, self.events = clock, list[dict[str, Any]]()
        self.sessions = Sessions(table, SessionSettings(**settings), clock)
        self.states = States(Handles(Ring(), table, clock), lambda: 600.0)
        misuse = Misuse(MisuseSettings(), self.events.append, clock)
        self.guard = BindSession(self.sessions, self.states, misuse, self.events.append, Callers(), None, clock)

    def open(self, caller: Caller = ALICE, route: str = "hr", peer: Peer = DESK) -> str:
        call = Call("initialize", route, route, Era.HANDSHAKE, "", peer=peer)
        trail = trail_of(call, caller, self.sessions.settings.risk, self.clock())
        return self.sessions.open(caller, route, "2025-11-25", {"elicitation": {}}, "t", trail)

    def check(
        self, session: str | None, caller: Caller = ALICE, peer: Peer = DESK, route: str = "hr", **rest: Any
    ) -> Verdict:
        call = Call("tools/list", route, route, Era.HANDSHAKE, "2025-11-25", session=session, peer=peer)
        return self.guard.check(Context(replace(call, **rest), Presented(), 0.0, "r").having((caller,)))

    def begin(self, caller: Caller = ALICE, peer: Peer = DESK) -> Verdict:
        call = Call("initialize", "hr", "hr", Era.HANDSHAKE, "", peer=peer)
        return self.guard.check(Context(call, Presented(), 0.0, "r").having((caller,)))

    def modern(self, caller: Caller = ALICE, peer: Peer = DESK) -> Verdict:
        call = Call("tools/list", "hr", "hr", Era.MODERN, "2026-07-28", peer=peer)
        return self.guard.check(Context(call, Presented(), 0.0, "r").having((caller,)))

    def names(self) -> list[str]:
        return [event["event"] for event in self.events]


def reason(verdict: Verdict) -> str:
    assert isinstance(verdict, Refuse), verdict
    return verdict.reason.id


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table(clock: Clock) -> Counted:
    return Counted(clock)


@pytest.fixture
def here(table: Counted, clock: Clock) -> Replica:
    return Replica(table, clock)


@pytest.fixture
def there(table: Counted, clock: Clock) -> Replica:
    return Replica(table, clock)


@pytest.mark.requirement("SES-04", "AU-06")
def test_au06_only_its_owner_on_its_route_continues_a_session(here: Replica, table: Counted) -> None:
    session = here.open()
    passed = here.check(session)
    assert isinstance(passed, Pass)
    fact = passed.facts[0]
    assert isinstance(fact, Session)
    assert session not in fact.id  # what the client holds goes no further than this guard
    assert fact.capabilities == b'{"elicitation":{}}'
    for caller, route, presented in (
        (BOB, "hr", session),
        (replace(ALICE, client="phone"), "hr", session),
        (replace(ALICE, issuer="https://other.example"), "hr", session),
        (ALICE, "pay", session),
        (ALICE, "hr", "A" * 43),
        (ALICE, "hr", session[:-1]),
        (ALICE, "hr", session + "\n"),
        (ALICE, "hr", ""),
        (ALICE, "hr", fact.id),
    ):
        table.asked = 0
        refused = here.check(presented, caller, route=route)
        assert isinstance(refused, Refuse)
        assert (refused.reason.id, refused.detail, dict(refused.public)) == ("identity.session", "", {})
        assert table.asked == 1  # whatever is wrong with it, the same is done
    assert reason(here.check(None)) == "identity.session_missing"
    assert reason(here.check(session, revision="2025-03-26")) == "wire.revision"


def test_c8_another_replica_goes_on_and_an_end_reaches_it(here: Replica, there: Replica, clock: Clock) -> None:
    session = here.open()
    assert isinstance(there.check(session), Pass)  # the replica it began in may be gone by now
    key = there.sessions.find(session, ALICE, "hr").key
    assert there.sessions.set_level(key, "info")
    clock.now += 1.1
    passed = here.check(session)
    assert isinstance(passed, Pass)
    assert passed.facts[0].log_level == "info"
    here.sessions.end(key)
    assert reason(here.check(session)) == "identity.session"  # AU-08: at once here
    clock.now += 1.1
    assert reason(there.check(session)) == "identity.session"  # and within a second there
    assert len(there.sessions) == len(here.sessions) == 0


@pytest.mark.requirement("SES-08", "AU-08")
def test_c6_idle_and_absolute_expiry(table: Counted, clock: Clock) -> None:
    replica = Replica(table, clock, idle=100, absolute=250)
    used, unused = replica.open(), replica.open()
    for _ in range(3):
        clock.now += 80
        assert isinstance(replica.check(used), Pass)
    assert reason(replica.check(unused)) == "identity.session"
    clock.now += 20
    assert reason(replica.check(used)) == "identity.session"
    assert list(table.scan("session/")) == []


def test_c6_use_in_one_replica_keeps_a_session_alive_in_the_other(here: Replica, there: Replica, clock: Clock) -> None:
    session = here.open()
    assert isinstance(there.check(session), Pass)
    for _ in range(10):
        clock.now += 600
        assert isinstance(here.check(session), Pass)
    there.sessions.sweep()
    assert isinstance(there.check(session), Pass)


def test_c6_expired_sessions_are_removed_unasked(here: Replica, table: Counted, clock: Clock) -> None:
    for number in range(20):
        here.open(replace(ALICE, subject=f"s{number}"))
    ended: list[str] = []
    here.sessions.on_end = ended.append
    clock.now += 1000
    kept = here.open()
    clock.now += 1000
    here.sessions.sweep()
    assert len(here.sessions) == 1
    assert len(ended) == 20
    assert isinstance(here.check(kept), Pass)
    assert len(list(table.scan("session/"))) == 1


def test_tr08_a_flood_of_sessions_stays_bounded(table: Counted, clock: Clock) -> None:
    replica = Replica(table, clock, per_caller=3, total=10)
    mine = []
    for _ in range(5):
        mine.append(replica.open())
        clock.now += 1
    assert [isinstance(replica.check(one), Pass) for one in mine] == [False, False, True, True, True]
    for number in range(50):
        replica.open(replace(ALICE, subject=f"s{number}"))
    assert len(replica.sessions) == 10
    assert len(list(table.scan("session/"))) == 10


@pytest.mark.requirement("AU-14")
@pytest.mark.parametrize(
    "change", [{"scopes": frozenset({"use", "admin"})}, {"roles": frozenset({"root"})}, {"acr": "2"}]
)
def test_c6_other_privileges_need_another_session(here: Replica, there: Replica, change: dict[str, Any]) -> None:
    session = here.open()
    assert isinstance(there.check(session), Pass)
    assert isinstance(here.check(session, replace(ALICE, token_id="refreshed")), Pass)  # the same privileges go on
    raised = replace(ALICE, **change)
    assert reason(here.check(session, raised)) == "identity.session"
    assert reason(here.check(session)) == "identity.session"  # the old id is dead for the old token as well
    assert isinstance(here.check(here.open(raised), raised), Pass)


def test_j1_all_sessions_of_a_caller_end(here: Replica, there: Replica, clock: Clock) -> None:
    sessions = [here.open(), there.open(), here.open(replace(ALICE, client="phone"))]
    bobs = there.open(BOB)
    assert there.sessions.end_all(ALICE.key) == 2
    assert there.sessions.end_all((ALICE.issuer, ALICE.subject)) == 1
    clock.now += 1.1
    assert [reason(here.check(one)) for one in sessions[:2]] == ["identity.session"] * 2
    assert reason(here.check(sessions[2], replace(ALICE, client="phone"))) == "identity.session"
    assert isinstance(here.check(bobs, BOB), Pass)


def test_c5_two_people_at_once_end_the_session_everywhere(here: Replica, there: Replica, clock: Clock) -> None:
    session, thief = here.open(), Peer("http", CAFE, "curl/8")
    assert isinstance(here.check(session), Pass)
    clock.now += 5
    assert isinstance(there.check(session, peer=thief), Pass)  # network and agent: 0.5 is recorded
    clock.now += 5
    assert reason(here.check(session)) == "identity.session"  # and back within a minute: 0.8
    hijack = here.events[-1]
    assert (hijack["event"], hijack["severity"], hijack["score"], hijack["ended"]) == (
        "session.hijack",
        "error",
        0.8,
        1,
    )
    assert session not in orjson.dumps(here.events + there.events).decode()
    clock.now += 1.1
    assert reason(there.check(session, peer=thief)) == "identity.session"
    assert reason(here.begin(peer=thief)) == "identity.step_up"  # nor a new one with the same token
    fresh = replace(ALICE, token_id="t9", auth_time=int(clock.now))
    assert isinstance(here.begin(fresh), Pass)


def test_c5_step_up_until_a_fresh_sign_in(here: Replica, there: Replica, clock: Clock) -> None:
    early = replace(ALICE, auth_time=int(clock.now) - 100)
    session, other = here.open(early), Peer("http", CAFE, "Desk/1.0")
    for replica, peer in ((here, DESK), (there, other)):
        clock.now += 5
        assert isinstance(replica.check(session, early, peer), Pass)
    clock.now += 5
    refused = here.check(session, early)  # back from the other network within a minute: 0.6
    assert reason(refused) == "identity.step_up"
    assert refused.public["max_age"] == 0
    clock.now += 5
    assert reason(there.check(session, early, other)) == "identity.step_up"  # in every replica
    assert reason(there.check(session, replace(early, token_id="refreshed"), other)) == "identity.step_up"
    fresh = replace(early, token_id="t3", auth_time=int(clock.now))
    assert isinstance(here.check(session, fresh), Pass)
    clock.now += 2
    assert isinstance(here.check(session, fresh), Pass)
    assert reason(there.check(session, early, other)) == "identity.step_up"  # whoever has the old token stays out
    assert [event for event in here.names() if event == "session.step_up"] == ["session.step_up"]


def test_c5_without_sessions_the_same_is_judged_per_caller(here: Replica, clock: Clock) -> None:
    other = Peer("http", CAFE, "Desk/1.0")
    assert isinstance(here.modern(), Pass)
    clock.now += 5
    assert isinstance(here.modern(peer=other), Pass)
    clock.now += 5
    assert reason(here.modern()) == "identity.step_up"
    assert isinstance(here.modern(BOB), Pass)
    assert isinstance(here.modern(replace(ALICE, token_id="new")), Pass)  # this issuer does not state sign-in times
    assert reason(here.modern(peer=other)) == "identity.step_up"


def test_c5_two_devices_of_one_person_are_let_alone(here: Replica, clock: Clock) -> None:
    phone = Peer("http", CAFE, "Phone/3")
    for _ in range(20):
        clock.now += 7
        assert isinstance(here.modern(), Pass)
        assert isinstance(here.modern(replace(ALICE, token_id="t7"), phone), Pass)
    assert set(here.names()) == {"session.changed"}
    assert len(here.events) == 1


def test_c5_a_service_cannot_sign_in_and_is_recorded_only(here: Replica, clock: Clock) -> None:
    service = replace(ALICE, subject="desk", machine=True)  # a token of its own, or an API key
    for number in range(8):
        clock.now += 5
        assert isinstance(here.modern(service, Peer("http", (HOME, CAFE)[number % 2], "bot")), Pass)
    assert set(here.names()) == {"session.changed", "token.two_networks"}


def test_callers_remembered_are_bounded(table: Counted, clock: Clock) -> None:
    replica = Replica(table, clock, risk={"callers": 50})
    for number in range(200):
        replica.modern(replace(ALICE, subject=f"s{number}"))
    assert len(replica.guard._callers) == 50


def test_an_unreadable_record_refuses(here: Replica, table: Counted, clock: Clock) -> None:
    session = here.open()
    key = here.sessions.find(session, ALICE, "hr").key
    table.put(key, b'{"rev":1}')
    clock.now += 2
    with pytest.raises(DependencyFault):
        here.check(session)


def test_sessions_survive_on_disk_and_ids_are_not_in_it(tmp_path: Path) -> None:
    path, clock = tmp_path / "s.db", Clock()
    first = Replica(SqliteTable(path, "sessions", clock, durable=False), clock)
    session = first.open()
    second = Replica(SqliteTable(path, "sessions", clock, durable=False), clock)
    assert isinstance(second.check(session), Pass)
    for file in tmp_path.iterdir():
        assert session.encode() not in file.read_bytes()
