"""Spend (A12): payload, rates of servers and tools, budgets of a day; each attack with the honest call beside it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from policy_material import caller, tool
from pydantic import ValidationError

from limen.core.call import Approved, Call, Caller, Context, Era, Presented
from limen.core.verdict import Pass, Refuse
from limen.policy.buckets import MemoryCounter
from limen.policy.limit import Limit, LimitSettings, Spend

NOW = 1_900_000_000.0


class Clock:
    at = NOW

    def __call__(self) -> float:
        return self.at


def spend(**settings: Any) -> tuple[Spend, Clock]:
    clock = Clock()
    checked = LimitSettings.model_validate(settings)
    return Spend(checked, MemoryCounter(now=clock), MemoryCounter(now=clock), clock), clock


def asked(who: Caller, server: str = "mail", name: str = "send", size: int = 2) -> Context:
    call = Call("tools/call", server, server, Era.MODERN, "2026-07-28", name=name, arguments=b"x" * size)
    return Context(call, Presented(), time.monotonic() + 5, "ref", {Caller: who, Approved: tool(server, name)})


def ends(guard: Any, *arguments: Any, **more: Any) -> str:
    verdict = guard.check(asked(*arguments, **more))
    return "" if isinstance(verdict, Pass) else verdict.reason.id


def test_a_budget_of_a_day_ends_and_begins_anew_at_midnight() -> None:
    guard, clock = spend(caller={"daily": {"calls": 3}})
    assert [ends(guard, caller()) for _ in range(4)] == ["", "", "", "policy.budget"]
    assert ends(guard, caller("bob")) == ""
    refusal = guard.check(asked(caller()))
    assert isinstance(refusal, Refuse)
    clock.at += refusal.public["retry_after"] - 2
    assert ends(guard, caller()) == "policy.budget"
    clock.at += 3
    assert ends(guard, caller()) == ""


def test_costly_tools_use_up_a_budget_of_cost() -> None:
    guard, _ = spend(caller={"daily": {"cost": 100}}, tools={"mail/*": {"cost": 40}, "mail/list": {"cost": 0}})
    assert [ends(guard, caller()) for _ in range(3)] == ["", "", "policy.budget"]
    assert ends(guard, caller(), server="files", name="read") == ""  # one unit, and there are twenty


def test_bytes_of_a_call_and_of_a_day() -> None:
    guard, _ = spend(servers={"mail": {"bytes": 1000, "daily": {"bytes": 2500}}})
    assert ends(guard, caller(), size=1001) == "policy.payload"
    assert [ends(guard, caller(), size=1000) for _ in range(3)] == ["", "", "policy.budget"]
    assert ends(guard, caller(), size=500) == ""
    assert ends(guard, caller(), server="files", size=5000) == ""


def test_what_is_refused_elsewhere_costs_nothing_here() -> None:
    guard, _ = spend(caller={"daily": {"calls": 2}}, tools={"mail/send": {"daily": {"calls": 1}}})
    assert ends(guard, caller()) == ""
    assert [ends(guard, caller()) for _ in range(5)] == ["policy.budget"] * 5
    assert ends(guard, caller(), name="list") == ""


def test_a_pattern_is_one_limit_for_all_it_names() -> None:
    guard, clock = spend(tools={"mail/s*": {"rate": 1, "burst": 2}})
    assert [ends(guard, caller(), name=name) for name in ("send", "search", "send")] == ["", "", "policy.limit"]
    assert ends(guard, caller(), name="list") == ""
    clock.at += 1
    assert ends(guard, caller()) == ""


def test_brackets_in_a_pattern_are_letters() -> None:
    guard, _ = spend(tools={"mail/[ab]": {"daily": {"calls": 1}}})
    assert [ends(guard, caller(), name="a") for _ in range(2)] == ["", ""]
    assert [ends(guard, caller(), name="[ab]") for _ in range(2)] == ["", "policy.budget"]


def test_one_caller_cannot_use_up_what_others_need() -> None:
    """A flood of one caller leaves room for the next one, who asks seldom."""
    guard, clock = spend(servers={"mail": {"rate": 10, "burst": 10}})
    refused = 0
    for turn in range(200):  # ten seconds: fifty a second against one a second
        for _ in range(3):
            ends(guard, caller("flood"))
        if turn % 20 == 0:
            refused += bool(ends(guard, caller("seldom")))
        clock.at += 0.05
    assert refused <= 2


def test_alone_a_caller_may_use_all_of_it() -> None:
    guard, clock = spend(servers={"mail": {"rate": 10, "burst": 10}})
    passed = 0
    for _ in range(100):
        passed += not ends(guard, caller())
        clock.at += 0.1
    assert passed >= 95


def test_clients_share_one_bucket_across_their_callers() -> None:
    settings = LimitSettings.model_validate({"client": {"rate": 1, "burst": 2}})
    guard = Limit(settings, MemoryCounter(now=Clock()))
    assert [ends(guard, caller(name, client="app")) for name in ("a", "b", "c")] == ["", "", "policy.limit"]
    assert ends(guard, caller("c", client="other")) == ""


def test_nothing_configured_costs_nothing() -> None:
    guard, _ = spend()
    assert guard._idle
    assert ends(guard, caller(), size=1_000_000) == ""


@pytest.mark.parametrize(
    "wrong",
    [{"caller": {"burst": 5}}, {"tools": {"a/b": {"rate": 0}}}, {"caller": {"daily": {"calls": 0}}}, {"rates": 1}],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LimitSettings.model_validate(wrong)


def test_the_keys_there_were_go_on_working() -> None:
    settings = LimitSettings.model_validate({"rate": 5, "burst": 7, "callers": 10})
    assert (settings.of_caller.rate, settings.of_caller.capacity) == (5, 7)
