"""Halted and Contained (J1): what is stopped and what is not, and that an old or damaged copy decides nothing."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from limen.core.call import Approved, Call, Caller, Context, Era, Presented, Session
from limen.core.chain import Chain
from limen.core.copied import MAX_AGE, RECORD, tell
from limen.core.faults import DependencyFault
from limen.core.verdict import Pass, Refusal
from limen.incidents.contain import Contained, Containments, Halted, Shown, Standing, session_name
from policy.policy_material import MemoryTable

ALICE = Caller("https://id.example", "alice", "app")
READ = Approved("mail", "tool", "read", "d", b"{}", "read")
SEND = Approved("mail", "tool", "send", "d", b"{}", "write")
ODD = Approved("mail", "tool", "odd", "d", b"{}")
OTHER = Approved("notes", "tool", "send", "d", b"{}", "write")
PAGE = Approved("mail", "resource", "mail://inbox", "d", b"{}", "read")
PROMPT = Approved("mail", "prompt", "send", "d", b"{}", "read")


class Gives:
    """Facts, as the guards above would establish them."""

    needs: tuple[type, ...] = ()

    def __init__(self, *facts: object) -> None:
        self.facts, self.gives = facts, tuple(type(fact) for fact in facts)

    def check(self, context: Context) -> Pass:
        return Pass(self.facts)


class Broken(MemoryTable):
    """A table that can go away, and come back."""

    down = False

    def get(self, key: str) -> bytes | None:
        if self.down:
            raise DependencyFault("postgres", "gone")
        return super().get(key)


class World:
    def __init__(self, *, remote: bool = False) -> None:
        self.table, self.at, self.clock = Broken(), 1000.0, time.time()
        self.table.time = self.clock
        self.known = Containments(self.table, remote=remote, now=lambda: self.clock, monotonic=lambda: self.at)
        self.known.abroad = frozenset({"mail"})
        self.ended: set[str] = set()
        self.known.refresh()

    def contain(self, kind: str, value: str, until: float | None = None, reason: str = "") -> Standing:
        record = Standing(kind, value, by="ann", reason=reason, at=self.clock, until=until)
        self.table.put(RECORD + record.id, record.dump(), until)
        tell(self.table)
        self.known.refresh()
        return record

    def release(self, record: Standing) -> None:
        self.table.swap(RECORD + record.id, record.dump(), None)
        tell(self.table)
        self.known.refresh()

    def walk(self, approved: Approved | None = None, *, ours: str = "", **changes: Any) -> Refusal | None:
        call = replace(Call("tools/call", "mail", "mail", Era.MODERN, "2026-07-28"), **changes)
        guards: list[Any] = [Gives(ALICE, Session(ours)), Halted(self.known, self.ended.__contains__)]
        if approved is not None:
            guards += [Gives(approved), Contained(self.known)]
        walked = asyncio.run(Chain(guards).run(Context(call, Presented(), time.monotonic() + 5, "ref")))
        return walked[0] if isinstance(walked, tuple) else None

    def ends(self, approved: Approved | None = None, **changes: Any) -> str:
        refusal = self.walk(approved, **changes)
        return refusal.reason.id if refusal is not None else ""


def test_op_stop_all_stops_everything_and_its_release_nothing() -> None:
    world = World()
    assert world.ends(READ) == world.ends(method="tools/list") == ""
    record = world.contain("stop_all", "*", reason="attack under way, seen by ann")
    for method in ("tools/call", "tools/list", "initialize", "ping", "server/discover", "subscriptions/listen", ""):
        assert world.ends(method=method) == "incidents.contained"
    assert world.ends(route="", server="") == world.ends(route="bundle", server="notes") == "incidents.contained"
    refusal = world.walk()
    assert refusal is not None
    assert "ann" in refusal.detail
    assert "attack" not in refusal.reason.public
    assert refusal.public == {}
    world.release(record)
    assert world.ends(READ) == world.ends(method="tools/list") == ""


def test_a_quarantined_server_has_no_way_in_and_its_neighbour_has() -> None:
    """By its own route whatever the method, by a bundle whatever it is called there: tools, prompts, resources and
    completion all name an approved definition of that server."""
    world = World()
    record = world.contain("quarantine_server", "mail")
    for method in ("tools/list", "resources/list", "prompts/list", "initialize", "ping"):
        assert world.ends(method=method) == "incidents.contained"
    for approved in (READ, SEND, PAGE, PROMPT):
        for method in ("tools/call", "resources/read", "prompts/get", "completion/complete"):
            assert world.ends(approved, route="", method=method) == "incidents.contained"
            assert world.ends(approved, route="both", method=method) == "incidents.contained"
    assert world.ends(OTHER, route="", server="notes") == world.ends(route="", server="") == ""
    world.release(record)
    assert world.ends(READ) == world.ends(PAGE, route="") == ""


def test_a_quarantined_tool_is_one_definition_of_one_server() -> None:
    world = World()
    record = world.contain("quarantine_tool", "mail/send")
    assert world.ends(SEND) == world.ends(SEND, route="", name="mail__send") == "incidents.contained"
    assert world.ends(PROMPT) == "incidents.contained"  # of whatever kind: nobody need know it to contain it
    assert world.ends(READ) == world.ends(OTHER, server="notes", route="notes") == world.ends() == ""
    world.release(record)
    assert world.ends(SEND) == ""


@pytest.mark.parametrize("value", ["mail", "*"])
def test_read_only_lets_pass_what_was_approved_as_reading_and_nothing_unknown(value: str) -> None:
    world = World()
    record = world.contain("read_only", value)
    assert world.ends(READ) == world.ends(PAGE) == world.ends(method="tools/list") == ""
    assert world.ends(SEND) == world.ends(ODD) == "incidents.contained"
    assert world.ends(replace(SEND, effect="destructive")) == world.ends(replace(SEND, effect="READ")) != ""
    assert world.ends(OTHER, route="notes") == ("incidents.contained" if value == "*" else "")
    world.release(record)
    assert world.ends(SEND) == world.ends(ODD) == ""


def test_cut_off_a_remote_server_is_not_called_and_a_local_one_is_without_a_network() -> None:
    world = World()
    world.contain("cut_egress", "mail")
    world.contain("cut_egress", "notes")
    assert world.ends(READ) == "incidents.contained"
    assert world.ends(OTHER, route="notes") == ""
    assert world.known.cut == {"mail", "notes"}
    assert world.known.is_cut("notes")
    assert not world.known.is_cut("other")


def test_an_ended_session_is_as_if_it_never_was_by_either_of_its_names() -> None:
    world = World()
    for name in ("s-ours", "s-theirs"):
        record = world.contain("end_session", session_name(name))
        assert world.ends(ours="s-ours", session="s-theirs") == "identity.session"
        assert world.ends(ours="other", session="another") == world.ends() == ""
        world.release(record)
        assert world.ends(ours="s-ours", session="s-theirs") == ""
    world.ended.add("s-revoked")
    assert world.ends(ours="s-revoked", session="any") == "identity.session"


def test_it_ends_by_itself_and_others_hear_of_it_then() -> None:
    world, heard = World(), list[tuple[int, int]]()
    world.known.on_change = lambda added, gone: heard.append((len(added), len(gone)))
    world.contain("stop_all", "*", until=world.clock + 10)
    before = world.known.version
    assert world.ends() == "incidents.contained"
    world.clock += 10
    assert world.ends() == ""
    world.table.time = world.clock
    world.known.refresh()
    assert heard == [(1, 0), (0, 1)]
    assert before and world.known.version == ""


@pytest.mark.parametrize("remote", [False, True])
def test_an_old_copy_decides_nothing(remote: bool) -> None:
    """Both guards read anew by themselves; when that fails the call is refused, and well again afterwards."""
    world = World(remote=remote)
    world.table.down = True
    assert world.ends(READ) == ""  # fresh enough
    world.at += MAX_AGE + 0.1
    assert world.ends(READ) == world.ends(method="ping") == "fault.dependency"
    world.table.down = False
    record = Standing("quarantine_tool", "mail/read")
    world.table.put(RECORD + record.id, record.dump())
    tell(world.table)
    assert world.ends(READ) == "incidents.contained"
    assert world.ends(SEND) == ""


def test_what_took_too_long_to_read_decides_nothing_and_a_second_reading_may() -> None:
    """J1: a database that hangs hands over what stood before somebody contained something meanwhile."""
    world = World(remote=True)
    look, slow = world.known._look, [3.0, 3.0, 3.0, 0.0]

    def hangs() -> Any:
        found = look()
        world.at += slow.pop(0)
        return found

    world.known._look = hangs  # type: ignore[method-assign]
    world.at += MAX_AGE + 1
    assert world.ends(READ) == "fault.dependency"
    assert world.ends(READ) == ""
    assert slow == []


def test_the_second_guard_reads_anew_as_well() -> None:
    """A call that waited between the two is judged by what is so now."""
    world = World()
    context = Context(
        Call("tools/call", "mail", "mail", Era.MODERN, "2026-07-28"),
        Presented(),
        0.0,
        "r",
        {Approved: READ, Caller: ALICE},
    )
    record = Standing("quarantine_tool", "mail/read")
    world.table.put(RECORD + record.id, record.dump())
    tell(world.table)
    world.at += MAX_AGE + 0.1

    async def check() -> Any:
        return await Contained(world.known).check(context)  # type: ignore[misc]  # it waits: the copy is old

    assert asyncio.run(check()).reason.id == "incidents.contained"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[1]",
        b'{"kind": "stop_all"}',
        b'{"kind": "nothing", "value": "*"}',
        b'{"kind": "stop_all", "value": "x"}',
    ],
)
def test_a_damaged_record_refuses_everybody_until_it_is_mended(raw: bytes) -> None:
    world = World()
    record = world.contain("quarantine_server", "notes")
    world.table.put(RECORD + record.id, raw)
    world.at += 10
    assert world.ends(READ) == "fault.dependency"
    world.table.put(RECORD + record.id, record.dump())
    assert world.ends(READ) == ""


def test_a_writer_that_died_before_it_told_is_noticed_all_the_same() -> None:
    world = World()
    record = Standing("stop_all", "*")
    world.table.put(RECORD + record.id, record.dump())
    world.known.refresh()
    world.at += 6
    assert world.ends() == "incidents.contained"


def test_lists_show_what_could_be_called_and_say_when_that_changes() -> None:
    class Everything:
        def visible(self, caller: Caller, items: Any) -> list[Approved]:
            return list(items)

    world = World()
    shown = Shown(world.known, Everything())
    every = [READ, SEND, ODD, OTHER, PAGE]
    assert shown.visible(ALICE, every) == every
    versions = [shown.version]
    for kind, value, left in (
        ("quarantine_tool", "mail/send", [READ, ODD, OTHER, PAGE]),
        ("read_only", "*", [READ, PAGE]),
        ("quarantine_server", "mail", []),
    ):
        world.contain(kind, value)
        assert shown.visible(ALICE, every) == left
        assert all((one in left) == (world.ends(one, route="") == "") for one in every)  # seen is what can be called
        versions.append(shown.version)
    assert len(set(versions)) == 4
    twin = Containments(world.table)
    twin.refresh()
    assert twin.version == versions[-1]  # every replica names it alike


def test_what_is_under_way_is_judged_as_a_new_call_would_be() -> None:
    world = World()
    call = Call("tools/call", "mail", "mail", Era.MODERN, "2026-07-28")
    flying = Context(call, Presented(), 0.0, "r", {Caller: ALICE, Session: Session(), Approved: SEND})
    stream = Context(replace(call, method="subscriptions/listen"), Presented(), 0.0, "r", {Caller: ALICE})
    record = world.contain("quarantine_tool", "mail/send")
    assert world.known.against(flying) == record
    assert world.known.against(stream) is None
    world.contain("quarantine_server", "mail")
    assert world.known.against(stream) is not None


def test_decoys_are_not_what_is_left_when_their_neighbours_are_gone_i9() -> None:
    world = World()
    lure = Approved("mail", "tool", "export", "d", b"{}")
    offered = Contained(world.known).offered(lambda caller, kind, servers: [lure])
    for kind, value in (
        ("quarantine_server", "mail"), ("read_only", "*"), ("cut_egress", "mail"), ("quarantine_tool", "mail/export"),
    ):  # fmt: skip
        assert offered(ALICE, "tool", ["mail"]) == [lure]
        record = world.contain(kind, value)
        assert offered(ALICE, "tool", ["mail"]) == []
        world.release(record)
