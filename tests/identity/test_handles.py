"""Bound handles (C1, C2, AU-06, AU-07, AU-10, AU-11): each attack beside its honest twin, and all failures alike."""

import math
import os
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from contracts.memory import MemoryTable
from limen.adapters.handlekeys import HandleKeys
from limen.adapters.sqlite import SqliteTable
from limen.core.call import Call, Caller, Context, Era, Presented, Session
from limen.core.faults import ConfigFault
from limen.core.verdict import Pass, Refuse
from limen.identity import handles
from limen.identity.bind_session import SpendState, States
from limen.identity.handles import EVENT, STATE, Handles
from minting import Clock

ALICE = ("https://id.example", "alice", "desk")


class Ring:
    """Keys in memory."""

    def __init__(self) -> None:
        self.keys = {1: os.urandom(32)}
        self.asked = 0

    def current(self) -> tuple[int, bytes]:
        number = max(self.keys)
        return number, self.keys[number]

    def find(self, number: int) -> bytes | None:
        self.asked += 1
        return self.keys.get(number)


class Counting:
    """Counts what is done to the cipher."""

    def __init__(self, inner, counts):
        self.inner, self.counts = inner, counts

    def decrypt(self, *arguments):
        self.counts["decrypt"] += 1
        return self.inner.decrypt(*arguments)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ring() -> Ring:
    return Ring()


@pytest.fixture
def made(ring: Ring, clock: Clock) -> Handles:
    return Handles(ring, MemoryTable(clock), clock)


def flip(text: str, at: int) -> str:
    return text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]


@pytest.mark.requirement("SES-03", "SES-05", "SES-06", "SES-16", "AU-07")
def test_c1_ids_are_256_random_bits_in_base64url() -> None:
    ids = [handles.new_id() for _ in range(5000)]
    assert len(set(ids)) == 5000
    assert all(
        len(one) == 43 and set(one) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
        for one in ids
    )
    counts = Counter("".join(one[:42] for one in ids))  # the last letter carries four bits only
    expected = 5000 * 42 / 64
    chi = sum((counts[letter] - expected) ** 2 / expected for letter in counts)
    assert len(counts) == 64
    assert chi < 63 + 6 * math.sqrt(2 * 63)
    assert len({one[:8] for one in ids}) > 4990


@pytest.mark.requirement("SES-16")
def test_c2_sealed_handles_are_opaque_and_never_the_same_twice(made: Handles) -> None:
    texts = {made.seal(STATE, ALICE, "hr", b"the server's own", 60) for _ in range(100)}
    assert len(texts) == 100
    for text in texts:
        assert b"server" not in handles._decoded(text)
        assert made.open(STATE, ALICE, "hr", text).data == b"the server's own"


def attacks(made: Handles, clock: Clock) -> dict[str, tuple]:
    """Arguments of `open`, by what is wrong with them."""
    good = made.seal(STATE, ALICE, "hr", b"x", 60, ("exact",))
    late = made.seal(STATE, ALICE, "hr", b"x", 60, ("exact",))
    wrong = {
        "subject": (STATE, ("https://id.example", "bob", "desk"), "hr", good, ("exact",)),
        "issuer": (STATE, ("https://other.example", "alice", "desk"), "hr", good, ("exact",)),
        "client": (STATE, ("https://id.example", "alice", "phone"), "hr", good, ("exact",)),
        "shifted": (STATE, ("https://id.example", "alicedesk", ""), "hr", good, ("exact",)),
        "route": (STATE, ALICE, "pay", good, ("exact",)),
        "purpose": (EVENT, ALICE, "hr", good, ("exact",)),
        "about": (STATE, ALICE, "hr", good, ("other",)),
        "tampered": (STATE, ALICE, "hr", flip(good, 40), ("exact",)),
        "tag": (STATE, ALICE, "hr", flip(good, len(good) - 2), ("exact",)),
        "nonce": (STATE, ALICE, "hr", flip(good, 8), ("exact",)),
        "key number": (STATE, ALICE, "hr", flip(good, 3), ("exact",)),
        "unknown": (STATE, ALICE, "hr", "A" * 80, ("exact",)),
        "short": (STATE, ALICE, "hr", "A" * 10, ("exact",)),
        "empty": (STATE, ALICE, "hr", "", ("exact",)),
        "not base64url": (STATE, ALICE, "hr", good[:-1] + "+", ("exact",)),
        "padded": (STATE, ALICE, "hr", good + "=", ("exact",)),
        "newline": (STATE, ALICE, "hr", good + "\n", ("exact",)),
        "longer": (STATE, ALICE, "hr", good + "AAAA", ("exact",)),
        "surrogate": (STATE, ALICE, "hr", "\ud800" * 60, ("exact",)),
    }
    assert made.open(STATE, ALICE, "hr", good, ("exact",)) is not None  # the honest twin
    clock.now += 61
    wrong["expired"] = (STATE, ALICE, "hr", late, ("exact",))
    return wrong


@pytest.mark.requirement("MRTR-02", "MRTR-03", "SES-15", "SES-16", "SES-17", "AU-10")
def test_c2_every_wrong_handle_fails_alike_and_by_the_same_steps(made: Handles, ring: Ring, clock: Clock) -> None:
    counts: Counter[str] = Counter()
    wrong = attacks(made, clock)
    made._nobodys = Counting(made._nobodys, counts)  # type: ignore[assignment]
    inner = made._cipher
    made._cipher = lambda key: Counting(inner(key), counts)  # type: ignore[assignment,method-assign,return-value]
    for what, arguments in wrong.items():
        counts.clear()
        ring.asked = 0
        assert made.open(*arguments) is None, what
        assert (counts["decrypt"], ring.asked) == (1, 1), what


@pytest.mark.requirement("SES-17", "AU-10")
def test_c2_stored_handles_of_others_are_not_found_at_all() -> None:
    identifier = handles.new_id()
    mine = handles.name("session", ALICE, "hr", identifier)
    assert mine == handles.name("session", ALICE, "hr", identifier)
    others = {
        handles.name("session", ("https://id.example", "bob", "desk"), "hr", identifier),
        handles.name("session", ("https://other.example", "alice", "desk"), "hr", identifier),
        handles.name("session", ("https://id.example", "alice", "phone"), "hr", identifier),
        handles.name("session", ALICE, "pay", identifier),
        handles.name("state", ALICE, "hr", identifier),
        handles.name("session", ("https://id.exampl", "ealice", "desk"), "hr", identifier),
    }
    assert len(others) == 6
    assert mine not in others
    assert identifier not in mine
    assert mine.startswith(handles.prefix("session", ALICE))
    assert mine.startswith(handles.prefix("session", ALICE[:2]))
    assert not mine.startswith(handles.prefix("session", ("https://id.example", "bob")))


def test_keys_rotate_while_handles_are_under_way(ring: Ring, made: Handles) -> None:
    before = made.seal(STATE, ALICE, "hr", b"before", 60)
    ring.keys[2] = os.urandom(32)
    after = made.seal(STATE, ALICE, "hr", b"after", 60)
    assert [made.open(STATE, ALICE, "hr", one).data for one in (before, after)] == [b"before", b"after"]
    del ring.keys[1]  # retired: what it sealed is like unknown
    assert made.open(STATE, ALICE, "hr", before) is None
    assert made.open(STATE, ALICE, "hr", after).data == b"after"


@pytest.mark.requirement("MRTR-04", "AU-11")
def test_au11_a_handle_is_used_up_once_even_by_many_at_once(tmp_path: Path, ring: Ring) -> None:
    path = tmp_path / "spent.db"
    replicas = [Handles(ring, SqliteTable(path, "spent")) for _ in range(2)]
    opened = replicas[0].open(STATE, ALICE, "hr", replicas[0].seal(STATE, ALICE, "hr", b"", 60))
    won: list[bool] = []

    def take(replica: Handles) -> None:
        won.append(replica.spend(opened.id, opened.expires))

    threads = [threading.Thread(target=take, args=(replicas[number % 2],)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(won) == [False] * 7 + [True]


def call(**members) -> Call:
    plain = {"method": "tools/call", "server": "hr", "route": "hr", "era": Era.MODERN, "revision": "2026-07-28"}
    return Call(**{**plain, "name": "pay", "arguments": b'{"to":"bob"}', **members})


@pytest.mark.requirement("MRTR-03", "MRTR-04", "SES-15", "AU-11", "MRTR-07")
def test_au11_a_request_state_is_good_for_one_repetition_of_exactly_one_call(made: Handles) -> None:
    states = States(made, lambda: 60.0)
    alice = Caller(*ALICE)
    sealed = states.seal(call(), alice, "the server's")
    for other in (
        call(request_state=sealed, arguments=b'{"to":"mallory"}'),
        call(request_state=sealed, name="refund"),
        call(request_state=sealed, method="prompts/get"),
        call(request_state=sealed, server="pay"),
        call(request_state=sealed, route=""),
    ):
        assert states.open(other, alice) is None
    assert states.open(call(request_state=sealed), Caller("https://id.example", "bob", "desk")) is None
    session = states.open(call(request_state=sealed), alice)
    assert session is not None
    assert (session.state, session.suspended) == ("the server's", "")
    guard = SpendState(states)

    def check() -> Pass | Refuse:
        again = states.open(call(request_state=sealed), alice)
        context = Context(call(), Presented(), 0.0, "r").having((again,))
        return guard.check(context)

    assert isinstance(check(), Pass)
    replay = check()
    assert isinstance(replay, Refuse)
    assert replay.reason.id == "identity.state"
    without = Context(call(), Presented(), 0.0, "r").having((Session(),))
    assert isinstance(guard.check(without), Pass)


@pytest.mark.requirement("OA-92")
def test_the_key_file_is_shared_private_and_renewed_in_place(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    one, other = HandleKeys(directory), HandleKeys(directory)
    assert stat.S_IMODE((directory / "kek").stat().st_mode) == 0o600
    assert one.current() == other.current()
    here, there = (Handles(ring, MemoryTable()) for ring in (one, other))
    sealed = here.seal(STATE, ALICE, "hr", b"x", 60)
    assert one.renew()
    assert not one.renew(older_than=3600)  # somebody was first
    assert one.current()[0] == 1  # not used before every replica has seen it
    assert there.open(STATE, ALICE, "hr", sealed).data == b"x"
    one._changed -= 10
    assert one.current()[0] == 2
    time.sleep(0.06)
    assert there.open(STATE, ALICE, "hr", here.seal(STATE, ALICE, "hr", b"y", 60)).data == b"y"
    one.renew()
    time.sleep(0.06)
    assert one.find(1) is None
    directory.chmod(0o755)
    with pytest.raises(ConfigFault, match="others can use"):
        HandleKeys(directory)


@pytest.mark.requirement("SES-19")
def test_another_process_opens_what_this_one_sealed(tmp_path: Path) -> None:
    sealed = Handles(HandleKeys(tmp_path / "keys"), MemoryTable()).seal(STATE, ALICE, "hr", b"across", 60)
    program = (
        "import sys; from pathlib import Path; from limen.adapters.handlekeys import HandleKeys\n"
        "from limen.identity.handles import Handles\n"
        "opened = Handles(HandleKeys(Path(sys.argv[1])), None).open("
        "'state', ('https://id.example', sys.argv[3], 'desk'), 'hr', sys.argv[2])\n"
        "print(opened and opened.data.decode())"
    )
    argv = [sys.executable, "-c", program, str(tmp_path / "keys"), sealed]
    said = [subprocess.run([*argv, who], capture_output=True, text=True, timeout=60).stdout for who in ("alice", "bob")]
    assert said == ["across\n", "None\n"]
