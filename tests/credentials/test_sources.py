"""What was obtained is kept for the one it is for, no longer than it is good, and asked for once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import pytest

from credentials.authority import UP, asking
from limen.core.call import Caller, Context, UpstreamCredential
from limen.core.faults import DependencyFault
from limen.core.verdict import Pass, Refuse, Verdict, refuse
from limen.credentials.sources import Obtained, Remembered
from minting import NOW, Clock

ALICE = Caller("https://as.example", "alice", "editor", frozenset({"read", "write"}), acr="high", token_id="t1")


class Obtaining:
    """Counts; answers `token N` after `delay`, or what `answer` says."""

    kind = "test"

    def __init__(self, clock: Clock, personal: bool = True) -> None:
        self.clock, self.personal = clock, personal
        self.count, self.delay, self.lasts = 0, 0.0, 100.0
        self.answer: Callable[[Context], Obtained | Refuse] | None = None
        self.left = asyncio.Event()

    def differs(self, context: Context) -> Hashable:
        return context.call.name

    async def obtain(self, context: Context) -> Obtained | Refuse:
        self.count += 1
        number = self.count
        try:
            await asyncio.sleep(self.delay)
        except asyncio.CancelledError:
            self.left.set()
            raise
        if self.answer is not None:
            return self.answer(context)
        return Obtained(("authorization", f"Bearer token {number}"), self.clock() + self.lasts)


async def ask(source: Remembered, context: Context) -> Verdict:
    found = source.credential(context)
    return found if isinstance(found, Pass | Refuse) else await found


async def token(source: Remembered, caller: Caller = ALICE, **more: Any) -> str:
    verdict = await ask(source, asking(caller, **more))
    assert isinstance(verdict, Pass)
    (credential,) = verdict.facts
    assert isinstance(credential, UpstreamCredential)
    assert credential.place == UP
    return dict(credential.headers)["authorization"].removeprefix("Bearer ")


def test_it_is_kept_until_shortly_before_its_end_b3() -> None:
    async def run() -> None:
        clock = Clock()
        how = Obtaining(clock)
        source = Remembered(how, UP, (("x-key", "k"),), now=clock)
        assert await token(source) == await token(source) == "token 1"
        assert isinstance(source.credential(asking(ALICE)), Pass)  # at once, without a task
        clock.now = NOW + 79
        assert await token(source) == "token 1"
        clock.now = NOW + 80  # a fifth of its life is left
        assert await token(source) == "token 2"
        how.lasts = 10_000.0
        clock.now += 100
        assert await token(source) == "token 3"
        clock.now += 9_969
        assert await token(source) == "token 3"
        clock.now += 2
        assert await token(source) == "token 4"

    asyncio.run(run())


def test_ten_calls_wait_for_one_exchange_and_one_that_leaves_stops_none_b3() -> None:
    async def run() -> None:
        how = Obtaining(Clock())
        how.delay = 0.05
        source = Remembered(how, UP, now=how.clock)
        waiting = [asyncio.ensure_future(token(source)) for _ in range(10)]
        await asyncio.sleep(0.01)
        waiting[0].cancel()  # the one that began it
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert found[1:] == ["token 1"] * 9
        assert how.count == 1

    asyncio.run(run())


LESSER = [
    replace(ALICE, scopes=frozenset({"read"})), replace(ALICE, acr=""), replace(ALICE, subject="bob"),
    replace(ALICE, client="other"), replace(ALICE, issuer="https://other.example"), replace(ALICE, machine=True),
    replace(ALICE, groups=frozenset({"x"})), replace(ALICE, amr=frozenset({"pwd"})),
]  # fmt: skip


@pytest.mark.requirement("OA-76")
@pytest.mark.parametrize("other", LESSER)
def test_another_or_a_lesser_caller_gets_a_token_of_its_own_oa76(other: Caller) -> None:
    async def run() -> None:
        how = Obtaining(Clock())
        source = Remembered(how, UP, now=how.clock)
        assert await token(source) == "token 1"
        assert await token(source, other) == "token 2"
        assert await token(source) == "token 1"
        assert await token(source, replace(ALICE, token_id="t2")) == "token 1"  # the same standing, a newer token

    asyncio.run(run())


def test_callers_of_other_standing_do_not_share_what_is_under_way() -> None:
    async def run() -> None:
        how = Obtaining(Clock())
        how.delay = 0.02
        source = Remembered(how, UP, now=how.clock)
        found = await asyncio.gather(token(source), token(source, LESSER[0]), token(source, tool="other"))
        assert sorted(found) == ["token 1", "token 2", "token 3"]

    asyncio.run(run())


def test_one_for_all_callers_where_it_is_nobodys() -> None:
    async def run() -> None:
        how = Obtaining(Clock(), personal=False)
        source = Remembered(how, UP, now=how.clock)
        assert [await token(source, one) for one in (ALICE, *LESSER)] == ["token 1"] * 9
        source.forget(ALICE)
        assert await token(source) == "token 1"

    asyncio.run(run())


def test_a_refusal_is_remembered_for_that_token_of_the_caller_alone() -> None:
    async def run() -> None:
        how = Obtaining(Clock())
        how.answer = lambda context: refuse("credentials.refused", "no")
        source = Remembered(how, UP, now=how.clock)
        for _ in range(3):
            assert isinstance(await ask(source, asking(ALICE)), Refuse)
        assert how.count == 1
        how.answer = None
        assert await token(source, replace(ALICE, token_id="t2")) == "token 2"  # signed in again
        how.answer = lambda context: refuse("credentials.refused", "no")
        bob = replace(ALICE, subject="bob")
        assert isinstance(await ask(source, asking(bob)), Refuse)
        how.clock.now += 16
        how.answer = None
        assert await token(source, bob) == "token 4"

    asyncio.run(run())


def test_faults_are_everyones_who_waits_and_remembered_by_nobody() -> None:
    async def run() -> None:
        def broken(context: Context) -> Obtained:
            raise DependencyFault("credentials", "down")

        how = Obtaining(Clock())
        how.answer, how.delay = broken, 0.01
        source = Remembered(how, UP, now=how.clock)
        found = await asyncio.gather(*(token(source) for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in found] == [DependencyFault] * 3
        assert how.count == 1
        how.answer = None
        assert await token(source) == "token 2"

    asyncio.run(run())


@pytest.mark.requirement("OA-95")
def test_a_rejected_credential_is_replaced_once_in_a_while_and_never_in_a_loop_oa95() -> None:
    async def run() -> None:
        how = Obtaining(Clock())
        how.lasts = 1000.0
        source = Remembered(how, UP, now=how.clock)
        assert await token(source) == "token 1"
        for _ in range(20):  # the server refuses everything
            source.rejected(ALICE, 401, "Bearer")
            assert await token(source) == "token 1"
        how.clock.now += 31
        source.rejected(replace(ALICE, subject="bob"), 401, "Bearer")  # somebody else's
        source.rejected(ALICE, 403, 'Bearer error="insufficient_scope"')
        assert await token(source) == "token 1"
        source.rejected(ALICE, 401, "Bearer")
        assert await token(source) == "token 2"
        for _ in range(20):
            source.rejected(ALICE, 401, "Bearer")
            assert await token(source) == "token 2"
        assert how.count == 2

    asyncio.run(run())


@pytest.mark.parametrize(
    ("whose", "gone"),
    [(Caller("https://as.example", "alice"), True), (Caller("", "alice"), True), (Caller("", "", "editor"), True),
     (Caller("https://as.example", "bob"), False), (Caller("https://other.example", "alice"), False),
     (Caller("", "", "other"), False)],
)  # fmt: skip
def test_forgetting_a_caller(whose: Caller, gone: bool) -> None:
    async def run() -> None:
        how = Obtaining(Clock())
        source = Remembered(how, UP, now=how.clock)
        assert await token(source) == "token 1"
        source.forget(whose)
        assert await token(source) == ("token 2" if gone else "token 1")

    asyncio.run(run())


def test_what_is_obtained_while_its_caller_is_forgotten_is_not_kept() -> None:
    async def run() -> None:
        how = Obtaining(Clock())
        how.delay = 0.02
        source = Remembered(how, UP, now=how.clock)
        waiting = asyncio.ensure_future(token(source))
        await asyncio.sleep(0.005)
        source.forget(ALICE)
        assert await waiting == "token 1"
        assert await token(source) == "token 2"

    asyncio.run(run())


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    async def run() -> None:
        how = Obtaining(Clock())
        source = Remembered(how, UP, now=how.clock, limit=3)
        for name in "abc":
            await token(source, tool=name)
        assert await token(source, tool="a") == "token 1"  # used again
        assert await token(source, tool="d") == "token 4"
        assert await token(source, tool="a") == "token 1"
        assert await token(source, tool="b") == "token 5"

    asyncio.run(run())


def test_closing_ends_what_is_under_way_and_nothing_shows_a_token() -> None:
    async def run() -> None:
        how = Obtaining(Clock())
        how.delay = 30.0
        source = Remembered(how, UP, now=how.clock)
        waiting = asyncio.ensure_future(token(source))
        await asyncio.sleep(0.01)
        await source.close()
        assert how.left.is_set()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        secret = Obtained(("authorization", "Bearer canary-9"), 1.0)
        assert "canary" not in repr(secret)
        assert "canary" not in repr(Pass((UpstreamCredential((secret.header,)),)))

    asyncio.run(run())


def test_every_exchange_is_recorded_and_no_token_is() -> None:
    async def run() -> None:
        told: list[Any] = []
        how = Obtaining(Clock())
        source = Remembered(how, UP, now=how.clock, record=told.append)
        await token(source)
        await token(source)
        how.answer = lambda context: refuse("credentials.refused", "the reason")
        await ask(source, asking(replace(ALICE, subject="bob")))
        assert [one["outcome"] for one in told] == ["ok", "refused"]
        assert told[1]["sub"] == "bob"
        assert told[1]["detail"] == "the reason"
        assert "token 1" not in repr(told)

    asyncio.run(run())
