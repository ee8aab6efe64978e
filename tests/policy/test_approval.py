"""A yes is for one call, one caller, one definition and one set of arguments, once, for a while."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from policy_material import MemoryTable, caller, context, grant, item

from limen.core.call import Approval, Caller, Context
from limen.core.faults import DependencyFault
from limen.core.verdict import Pass, Refuse
from limen.policy.approval import PENDING_PER_CALLER, RequireApproval, approve, list_approvals, reject

DELETE = item("delete_repo")
ALICE = caller()


def call(who: Caller = ALICE, arguments: bytes = b'{"owner":"me"}', **more: bytes) -> Context:
    return context(who, DELETE, grant("approval", "mfa"), name="delete_repo", arguments=arguments, **more)


def held(guard: RequireApproval, asked: Context) -> str:
    verdict = guard.check(asked)
    assert isinstance(verdict, Refuse)
    assert verdict.reason.id == "policy.approval"
    return str(verdict.public["approval"])


@pytest.fixture
def table() -> MemoryTable:
    return MemoryTable()


@pytest.fixture
def guard(table: MemoryTable) -> RequireApproval:
    return RequireApproval(table, table.now)


def test_nobody_is_asked_where_no_rule_requires_it(guard: RequireApproval, table: MemoryTable) -> None:
    assert guard.check(context(ALICE, DELETE, grant("mfa"))) == Pass((Approval(),))
    assert not table.rows


@pytest.mark.requirement("AU-17")
def test_an_approved_call_passes_once(guard: RequireApproval, table: MemoryTable) -> None:
    name = held(guard, call())
    assert held(guard, call()) == name
    done = approve(table, name, "eve", "ticket 7", now=table.now)
    assert (done.state, done.by, done.reason, done.decided) == ("approved", "eve", "ticket 7", table.time)
    assert guard.check(call()) == Pass((Approval(name, "eve"),))
    again = held(guard, call())
    assert again != name
    with pytest.raises(LookupError):
        approve(table, name, "eve", now=table.now)
    assert held(guard, call()) == again


@pytest.mark.requirement("AU-17")
@pytest.mark.parametrize(
    "other",
    [
        call(caller("bob")),
        call(caller(issuer="https://other.example")),
        call(caller(client="other")),
        call(arguments=b'{"owner":"you"}'),
        call(arguments=b""),
        call(rest=b'{"task":{}}'),
        call(input_responses=b'{"a":{}}'),
        context(ALICE, replace(DELETE, digest="0" * 64), grant("approval"), arguments=b'{"owner":"me"}'),
        context(ALICE, replace(DELETE, server="x"), grant("approval"), arguments=b'{"owner":"me"}'),
    ],
)
def test_any_other_call_does_not(guard: RequireApproval, table: MemoryTable, other: Context) -> None:
    name = held(guard, call())
    approve(table, name, "eve", now=table.now)
    assert held(guard, other) != name
    assert isinstance(guard.check(call()), Pass)


def test_rejected_stays_refused_until_decided_otherwise(guard: RequireApproval, table: MemoryTable) -> None:
    name = held(guard, call())
    reject(table, name, "eve", "no", now=table.now)
    table.time += 10_000_000
    verdict = guard.check(call())
    assert isinstance(verdict, Refuse)
    assert verdict.reason.id == "policy.denied"
    assert "eve" in verdict.detail
    assert not verdict.public
    approve(table, name, "eve", now=table.now)
    assert isinstance(guard.check(call()), Pass)


def test_an_approval_can_be_taken_back(guard: RequireApproval, table: MemoryTable) -> None:
    name = held(guard, call())
    approve(table, name, "eve", now=table.now)
    reject(table, name, "eve", now=table.now)
    assert isinstance(guard.check(call()), Refuse)


@pytest.mark.requirement("AU-17")
@pytest.mark.parametrize(("wait", "good"), [(899, True), (900, False)])
def test_an_approval_expires(guard: RequireApproval, table: MemoryTable, wait: float, good: bool) -> None:
    approve(table, held(guard, call()), "eve", now=table.now)
    table.time += wait
    assert isinstance(guard.check(call()), Pass) is good


def test_a_request_expires(guard: RequireApproval, table: MemoryTable) -> None:
    name = held(guard, call())
    table.time += 3600
    assert list_approvals(table, now=table.now) == []
    with pytest.raises(LookupError):
        approve(table, name, "eve", now=table.now)
    assert held(guard, call()) != name


def test_expiry_does_not_rest_on_the_table(table: MemoryTable) -> None:
    later = RequireApproval(table, lambda: table.time + 5000)
    now = RequireApproval(table, table.now)
    name = held(now, call())
    approve(table, name, "eve", now=table.now)
    assert held(later, call()) != name


def test_pending_requests_are_bounded_per_caller(guard: RequireApproval, table: MemoryTable) -> None:
    for number in range(PENDING_PER_CALLER):
        held(guard, call(arguments=b'{"n":%d}' % number))
    verdict = guard.check(call(arguments=b'{"n":"more"}'))
    assert isinstance(verdict, Refuse)
    assert verdict.reason.id == "policy.limit"
    assert len(table.rows) == PENDING_PER_CALLER
    assert held(guard, call(arguments=b'{"n":0}'))
    assert held(guard, call(caller("bob")))


def test_what_the_approver_sees(guard: RequireApproval, table: MemoryTable) -> None:
    held(guard, call(arguments='{"owner":"a\u202eb\x9b"}'.encode()))
    held(guard, call(arguments=b'{"owner":"' + b"x" * 5000 + b'"}'))
    first, second = sorted(list_approvals(table, "pending", now=table.now), key=lambda record: record.truncated)
    assert (first.arguments, first.truncated) == ('{"owner":"a\\u{202e}b\\u{9b}"}', False)
    assert (len(second.arguments), second.truncated, second.arguments_size) == (4096, True, 5012)
    assert (first.subject, first.server, first.name) == ("alice", "github", "delete_repo")
    assert list_approvals(table, "approved", now=table.now) == []


@pytest.mark.parametrize("name", ["", "x", "../x", "approval/1", "0" * 32 + "-" + "0" * 32 + "-" + "0" * 16])
def test_an_unknown_id_is_said_to_be_unknown(table: MemoryTable, name: str) -> None:
    for decide in (approve, reject):
        with pytest.raises(LookupError):
            decide(table, name, "eve", now=table.now)


def test_a_decision_has_a_name_and_a_bound(guard: RequireApproval, table: MemoryTable) -> None:
    name = held(guard, call())
    with pytest.raises(ValueError):
        approve(table, name, "  ", now=table.now)
    with pytest.raises(ValueError):
        approve(table, name, "eve", seconds=0, now=table.now)


@pytest.mark.parametrize("stored", [b"", b"{}", b"[]", b'{"state":"approved"}', b"\xff"])
def test_an_unreadable_record_is_no_approval(guard: RequireApproval, table: MemoryTable, stored: bytes) -> None:
    held(guard, call())
    key = next(iter(table.rows))
    table.put(key, stored)
    with pytest.raises(DependencyFault):
        guard.check(call())


@pytest.mark.requirement("AU-17")
def test_calls_at_the_same_moment_share_one_approval(tmp_path: Path) -> None:
    sqlite = pytest.importorskip("limen.adapters.sqlite")
    open_table: Callable[[], object] = lambda: sqlite.SqliteTable(tmp_path / "limen.db", "approvals")  # noqa: E731
    first = open_table()
    name = held(RequireApproval(first), call())  # type: ignore[arg-type]
    approve(first, name, "eve")  # type: ignore[arg-type]

    def attempt(_: int) -> bool:
        return isinstance(RequireApproval(open_table()).check(call()), Pass)  # type: ignore[arg-type]

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(16))) == 1


def test_the_loser_of_a_race_asks_anew(table: MemoryTable) -> None:
    guard = RequireApproval(table, table.now)
    name = held(guard, call())
    approve(table, name, "eve", now=table.now)
    honest = table.swap

    def beaten(key: str, old: bytes | None, new: bytes | None, expires: float | None = None) -> bool:
        table.swap = honest  # type: ignore[method-assign]
        assert honest(key, old, None)  # somebody else was faster
        return honest(key, old, new, expires)

    table.swap = beaten  # type: ignore[method-assign]
    assert held(guard, call()) != name
