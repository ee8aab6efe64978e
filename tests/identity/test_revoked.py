"""Revoked (B9): what is found, what is not, and that an old or damaged copy decides nothing."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import Any

import pytest

from limen.core.call import Call, Caller, Context, Era, Presented
from limen.core.chain import Chain
from limen.core.copied import MAX_AGE
from limen.core.faults import DependencyFault
from limen.core.reasons import REASONS
from limen.core.verdict import Pass, Refusal
from limen.identity.metadata import challenge
from limen.identity.revoked import (
    Epoch,
    Revocation,
    Revocations,
    Revoked,
    begin_epoch,
    revocations,
    revoke,
    session_digest,
    undo,
)
from policy.policy_material import MemoryTable

ALICE = Caller("https://id.example", "alice", "app", token_id="t-1", key_id="k-1")


class Known:
    """`gives` the caller, as Authenticate would."""

    needs: tuple[type, ...] = ()
    gives = (Caller,)

    def __init__(self, caller: Caller) -> None:
        self.caller = caller

    def check(self, context: Context) -> Pass:
        return Pass((self.caller,))


class World:
    def __init__(self, table: Any = None, *, remote: bool = False) -> None:
        self.table, self.at = table or MemoryTable(), 1000.0
        self.known = Revocations(self.table, remote=remote, monotonic=lambda: self.at)
        self.known.refresh()

    def ends(self, caller: Caller = ALICE, session: str | None = None) -> str:
        return asyncio.run(self.walk(caller, session))

    async def walk(self, caller: Caller = ALICE, session: str | None = None) -> str:
        call = Call("ping", "s", "s", Era.HANDSHAKE, "2025-11-25", session=session)
        chain = Chain([Known(caller), Revoked(self.known)])
        walked = await chain.run(Context(call, Presented(), time.monotonic() + 5, "ref"))
        return walked[0].reason.id if isinstance(walked, tuple) and isinstance(walked[0], Refusal) else ""

    def revoke(self, kind: str, value: str, **more: Any) -> Revocation:
        record = revoke(self.table, Revocation(kind, value, at=time.time(), **more))
        self.known.refresh()
        return record


@pytest.mark.parametrize(
    ("kind", "value", "twin"),
    [
        ("user", "alice", replace(ALICE, subject="bob")),
        ("token", "t-1", replace(ALICE, token_id="t-2")),
        ("client", "app", replace(ALICE, client="other")),
        ("key", "k-1", replace(ALICE, key_id="k-2")),
    ],
)
@pytest.mark.parametrize("issuer", ["", "https://id.example"])
def test_each_kind_stops_its_own_and_nobody_else(kind: str, value: str, twin: Caller, issuer: str) -> None:
    world = World()
    record = world.revoke(kind, value, issuer=issuer)
    assert world.ends() == "identity.revoked"
    assert world.ends(twin) == ""
    elsewhere = replace(ALICE, issuer="https://other.example")
    assert world.ends(elsewhere) == ("" if issuer else "identity.revoked")
    undo(world.table, record.id)
    world.known.refresh()
    assert world.ends() == ""


def test_a_value_of_one_kind_is_none_of_another() -> None:
    world = World()
    world.revoke("client", "alice")
    world.revoke("user", "t-1")
    world.revoke("token", "app")
    assert world.ends() == ""


def test_a_session_ends_like_one_that_never_was() -> None:
    world = World()
    world.revoke("session", session_digest("s-1"))
    assert world.ends(session="s-1") == "identity.session"
    assert world.ends(session="s-2") == world.ends() == ""


def test_what_was_issued_before_a_restore_counts_for_nothing_although_nothing_is_revoked() -> None:
    world, now = World(), time.time()
    old, new = (replace(ALICE, issued=now + at, expires=now + 600) for at in (-60, 60))
    assert world.ends(old) == ""
    begin_epoch(world.table, Epoch(now, now + 600))
    world.known.refresh()
    assert (world.ends(old), world.ends(new)) == ("identity.revoked", "")
    silent = replace(ALICE, expires=now + 600)  # does not say when it was issued
    local = Caller("local", "ann")
    assert (world.ends(silent), world.ends(local)) == ("identity.revoked", "")


def test_a_client_cannot_tell_it_from_an_invalid_token() -> None:
    revoked, invalid = REASONS["identity.revoked"], REASONS["identity.invalid"]
    assert (revoked.status, revoked.code, revoked.public) == (invalid.status, invalid.code, invalid.public)
    assert challenge("identity.revoked", "https://m") == challenge("identity.invalid", "https://m")


def test_it_ends_by_itself() -> None:
    world = World()
    world.revoke("user", "alice", until=time.time() + 0.3)
    assert world.ends() == "identity.revoked"
    time.sleep(0.35)
    assert world.ends() == ""
    assert revocations(world.table) == [] or world.known.find(ALICE, None) is None


class Broken(MemoryTable):
    """A table that can go away, and come back."""

    down = False

    def get(self, key: str) -> bytes | None:
        if self.down:
            raise DependencyFault("postgres", "gone")
        return super().get(key)


@pytest.mark.parametrize("remote", [False, True])
def test_an_old_copy_decides_nothing(remote: bool) -> None:
    """The guard reads anew by itself; when that fails the call is refused, and well again afterwards."""
    table = Broken()
    world = World(table, remote=remote)
    table.down = True
    assert world.ends() == ""  # fresh enough
    world.at += MAX_AGE + 0.1
    assert world.ends() == "fault.dependency"
    table.down = False
    revoke(table, Revocation("user", "alice", at=1.0))
    assert world.ends() == "identity.revoked"
    assert world.ends(replace(ALICE, subject="bob")) == ""


def test_many_calls_share_one_reading() -> None:
    async def test() -> None:
        class Counting(MemoryTable):
            reads = 0

            def get(self, key: str) -> bytes | None:
                self.reads += key == "version"  # each reading begins with it
                time.sleep(0.02)
                return super().get(key)

        table = Counting()
        world = World(table, remote=True)
        table.reads = 0
        world.at += 5
        assert await asyncio.gather(*(world.walk() for _ in range(50))) == [""] * 50
        assert table.reads == 1

    asyncio.run(test())


@pytest.mark.parametrize(
    "raw",
    [b"", b"{}", b"[1]", b'{"kind": "user"}', b'{"kind": "nobody", "value": "x"}', b'{"kind": "user", "value": "bob"}'],
)
def test_a_damaged_record_refuses_everybody_until_it_is_mended(raw: bytes) -> None:
    """It may have been the one that should stop this call."""
    world = World()
    record = world.revoke("user", "mallory")
    world.table.put("r/" + record.id, raw)
    world.at += 10
    assert world.ends() == "fault.dependency"
    world.table.put("r/" + record.id, json.dumps({"kind": "user", "value": "mallory"}).encode())
    assert world.ends() == ""


def test_what_means_nothing_is_not_written() -> None:
    table = MemoryTable()
    for wrong in (
        Revocation("nobody", "x"), Revocation("user", ""), Revocation("user", "x" * 256),
        Revocation("user", "x", at=2.0, until=1.0),
    ):  # fmt: skip
        with pytest.raises(ValueError):
            revoke(table, wrong)
    with pytest.raises(LookupError):
        undo(table, "0" * 16)
    assert revocations(table) == []


def test_others_are_told_what_was_added_and_what_is_gone() -> None:
    world, heard = World(), list[tuple[int, int]]()
    world.known.on_change = lambda added, gone: heard.append((len(added), len(gone)))
    record = world.revoke("user", "alice")
    world.known.refresh()
    undo(world.table, record.id)
    world.known.refresh()
    assert heard == [(1, 0), (0, 1)]


def test_a_writer_that_died_before_it_told_is_noticed_all_the_same() -> None:
    world = World()
    record = Revocation("user", "alice")
    world.table.put("r/" + record.id, json.dumps({"kind": "user", "value": "alice"}).encode())
    world.known.refresh()
    world.at += 6
    assert world.ends() == "identity.revoked"


@pytest.mark.parametrize(
    ("kind", "value", "held"),
    [("user", "alice", ""), ("client", "app", ""), ("token", "t-1", "identity.revoked"),
     ("key", "k-1", "identity.revoked")],
)  # fmt: skip
def test_who_is_locked_out_is_no_thief_and_who_uses_a_revoked_token_may_be(kind: str, value: str, held: str) -> None:
    """A client that tries again while its user is locked out, or its maker is, must not make suspects of them."""
    world = World()
    world.revoke(kind, value)
    call = Call("ping", "s", "s", Era.MODERN, "2026-07-28")
    context = Context(call, Presented(), 0.0, "ref", {Caller: ALICE})
    assert world.ends() == "identity.revoked"  # and is told the same
    assert world.known.held_against("identity.revoked", context) == held
    world.revoke("token", "t-1")
    assert world.known.held_against("identity.revoked", context) == "identity.revoked"
    assert world.known.held_against("identity.session", context) == "identity.session"
