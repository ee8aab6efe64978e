"""Sessions: memory of many live ones, and what a call pays for its handle. Prints one line each.

PYTHONPATH=src python bench/sessions.py [SESSIONS]
"""

import gc
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from limen.adapters.handlekeys import HandleKeys
from limen.adapters.sqlite import SqliteTable
from limen.core.call import Call, Caller, Context, Era, Peer, Presented
from limen.core.verdict import Pass
from limen.identity.bind_session import BindSession, SpendState, States, trail_of
from limen.identity.handles import Handles
from limen.identity.misuse import Misuse, MisuseSettings
from limen.identity.sessions import Sessions, SessionSettings


def resident() -> float:
    """MiB."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def best(work: Callable[[int], object], count: int, rounds: int = 7) -> float:
    """Microseconds of processor time for one, of the best round: the machine may have other things to do."""
    times = []
    for _ in range(rounds):
        started = time.process_time()
        for number in range(count):
            work(number)
        times.append((time.process_time() - started) / count)
    return min(times) * 1e6


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "sessions.db")
        settings = SessionSettings(total=max(count, 1))
        sessions = Sessions(SqliteTable(path, "sessions", durable=False), settings)
        handles = Handles(HandleKeys(Path(place, "keys")), SqliteTable(path, "spent"))
        states = States(handles, lambda: 600.0)
        guard = BindSession(sessions, states, Misuse(MisuseSettings(), lambda event: None), lambda event: None)
        callers = [Caller("https://id.example", f"user-{n}", "client", frozenset({"use"})) for n in range(count // 10)]
        peer = Peer("http", "192.0.2.1", "Mozilla/5.0 (X11; Linux x86_64) Desk/1.0")
        begin = Call("initialize", "one", "one", Era.HANDSHAKE, "", peer=peer)

        def opened(number: int) -> str:
            caller = callers[number % len(callers)]
            trail = trail_of(begin, caller, settings.risk, time.time())
            return sessions.open(caller, "one", "2025-11-25", {"elicitation": {}}, "desk", trail)

        before, started = resident(), time.perf_counter()
        ids = [opened(number) for number in range(count)]
        spent = time.perf_counter() - started
        own = sum(sys.getsizeof(one) for one in ids) / 2**20
        print(f"{count} sessions: {resident() - before - own:.0f} MiB, {spent / count * 1e6:.0f} us to open one")

        def context(number: int, identifier: str) -> Context:
            call = Call("tools/list", "one", "one", Era.HANDSHAKE, "2025-11-25", session=identifier, peer=peer)
            return Context(call, Presented(), 0.0, "r").having((callers[number % len(callers)],))

        hot = context(0, ids[0])
        assert isinstance(guard.check(hot), Pass)
        print(f"handle check, used a moment ago: {best(lambda _: guard.check(hot), 2000):.1f} us")
        some = random.Random(1).sample(range(count), min(count, 2000))
        cold = [context(number, ids[number]) for number in some]
        print(f"handle check, asked of the table: {best(lambda n: guard.check(cold[n]), len(cold), 1):.1f} us")
        unknown = context(0, "A" * 43)
        print(f"unknown handle: {best(lambda _: guard.check(unknown), 2000):.1f} us")
        modern = Context(Call("tools/list", "one", "one", Era.MODERN, "2026-07-28", peer=peer), Presented(), 0.0, "r")
        modern = modern.having((callers[0],))
        print(f"without a session: {best(lambda _: guard.check(modern), 5000):.1f} us")
        spend, passed = SpendState(states), hot.having(tuple(guard.check(hot).facts))
        print(f"nothing to use up: {best(lambda _: spend.check(passed), 5000):.2f} us")
        call, caller = modern.call, callers[0]
        print(f"requestState sealed: {best(lambda _: states.seal(call, caller, 's' * 200), 2000):.1f} us")
        for _ in range(3):  # churn: as many again, three times; the oldest give way
            for number in range(count):
                opened(number)
        print(f"after {3 * count} more: {len(sessions)} live, {resident() - before - own:.0f} MiB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
