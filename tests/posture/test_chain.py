"""The corridor itself: order is proven, a crash refuses, a Permit cannot be had otherwise."""

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import pytest

from limen.core.call import Call, Context, Era, Presented
from limen.core.chain import Chain, run_result
from limen.core.faults import DependencyFault, InvariantFault
from limen.core.reasons import REASONS
from limen.core.verdict import Pass, Permit, Refusal, Replace, Verdict, refuse


@dataclass(frozen=True)
class One:
    value: int = 1


@dataclass(frozen=True)
class Two:
    value: int = 2


class Guarding:
    def __init__(self, answer: Any, needs: tuple[type, ...] = (), gives: tuple[type, ...] = ()) -> None:
        self.answer, self.needs, self.gives = answer, needs, gives

    def check(self, context: Context) -> Verdict | Awaitable[Verdict]:
        return self.answer(context) if callable(self.answer) else self.answer


def context(seconds: float = 5.0) -> Context:
    call = Call(
        method="tools/call", server="s", route="s", era=Era.MODERN, revision="2026-07-28", arguments=b'{"a":[1]}'
    )
    return Context(call, Presented((b"Bearer secret",)), time.monotonic() + seconds, "ref")


def walk(chain: Chain, seconds: float = 5.0) -> Any:
    return asyncio.run(chain.run(context(seconds)))


def test_a_permit_is_minted_when_every_fact_is_proven() -> None:
    chain = Chain([Guarding(Pass((One(),)), gives=(One,)), Guarding(Pass((Two(),)), (One,), (Two,))], [One, Two])
    walked = walk(chain)
    permit = chain.permit(walked)
    assert (permit.get(One), permit.get(Two)) == (One(), Two())
    assert "secret" not in repr(permit.call)


def test_order_and_completeness_are_proven_before_anything_runs() -> None:
    with pytest.raises(InvariantFault):
        Chain([Guarding(Pass(), needs=(One,))])
    with pytest.raises(InvariantFault):
        Chain([Guarding(Pass((One(),)), gives=(One,))], [One, Two])
    with pytest.raises(InvariantFault):
        Chain([Guarding(Pass((One(),)), gives=(One,)), Guarding(Pass((One(),)), gives=(One,))])


def crash(_: Context) -> Verdict:
    raise RuntimeError("boom")


def down(_: Context) -> Verdict:
    raise DependencyFault("state", "gone")


async def late(_: Context) -> Verdict:
    await asyncio.sleep(30)
    return Pass()


BAD = {
    "crashes": (crash, "fault.guard"),
    "dependency down": (down, "fault.dependency"),
    "late": (late, "fault.dependency"),
    "forgets its fact": (Pass(), "fault.guard"),
    "another fact than promised": (Pass((Two(),)), "fault.guard"),
    "answers nothing": (lambda _: None, "fault.guard"),
    "refuses": (refuse("policy.denied", "rule 1"), "policy.denied"),
    "unknown reason": (lambda _: refuse("no.such"), "fault.guard"),
}


@pytest.mark.parametrize(("answer", "reason"), BAD.values(), ids=BAD.keys())
def test_whatever_a_guard_does_wrong_is_a_refusal(answer: Any, reason: str) -> None:
    refusal, _ = walk(Chain([Guarding(answer, gives=(One,))], [One]), 0.1)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is REASONS[reason]


@pytest.mark.parametrize(
    ("given", "good"),
    [
        ((One(), Two()), True),
        ((Two(), One()), True),
        ((One(),), False),
        ((One(), One()), False),
        ((One(), One(2), Two()), False),
        ((), False),
    ],
)
def test_a_guard_of_several_facts_establishes_each_of_them_once(given: tuple[object, ...], good: bool) -> None:
    chain = Chain([Guarding(Pass(given), gives=(One, Two))], [One, Two])
    walked = walk(chain)
    if good:
        assert (chain.permit(walked).get(One), walked.get(Two)) == (One(), Two())
        return
    refusal, known = walked
    assert refusal.reason is REASONS["fault.guard"]
    assert dict(known.facts) == {}  # and nothing of it is believed


def test_what_was_established_before_is_not_established_again() -> None:
    before = context().having((One(),))
    for gives in ((One,), (One, Two)):
        guard = Guarding(Pass(tuple(kind() for kind in gives)), gives=gives)
        refusal, known = asyncio.run(Chain([guard]).run(before))  # type: ignore[misc]
        assert refusal.reason is REASONS["fault.guard"]
        assert dict(known.facts) == {One: One()}


def test_only_the_chain_mints_permits() -> None:
    with pytest.raises(TypeError):
        Permit(object(), context().call, {}, "ref")
    chain = Chain([Guarding(Pass((One(),)), gives=(One,))], [One])
    with pytest.raises(InvariantFault):
        chain.permit(context())
    with pytest.raises(InvariantFault):
        Chain([]).permit(context())


def test_nothing_reachable_from_a_context_can_be_changed() -> None:
    held = context().having((One(),))
    for change in (
        lambda: setattr(held, "call", None),
        lambda: setattr(held.call, "name", "x"),
        lambda: held.facts.__setitem__(One, One(2)),  # type: ignore[attr-defined]
        lambda: held.having((One(2),)),
        lambda: setattr(held.get(One), "value", 2),
        lambda: held.call.trace.__setitem__("a", "b"),  # type: ignore[attr-defined]
    ):
        with pytest.raises((AttributeError, TypeError)):
            change()
    held.call.read_arguments()["a"].append(2)
    assert held.call.read_arguments() == {"a": [1]}


class Result:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def check_result(self, permit: Permit, result: dict[str, Any]) -> Any:
        return self.answer(result) if callable(self.answer) else self.answer


def test_results_are_judged_the_same_way() -> None:
    chain = Chain([Guarding(Pass((One(),)), gives=(One,))], [One])
    permit = chain.permit(walk(chain))
    assert run_result([Result(Pass())], permit, {"a": 1}) == ({"a": 1}, ())
    replaced = run_result([Result(lambda r: Replace({**r, "b": 2}, "added")), Result(Pass())], permit, {"a": 1})
    assert replaced == ({"a": 1, "b": 2}, ("Result: added",))
    for answer in (crash, None, refuse("catalog.result")):
        assert isinstance(run_result([Result(answer), Result(Pass())], permit, {}), Refusal)
