"""What a record costs the thread that watches, part by part. Run by hand: python bench/watching.py [--calls 3000]

Microseconds of that thread's processor time a record, each batch the best of the rounds: two records for each call, of
64 callers of one tool, as the gateway writes them. Others on the machine make it dearer: read ratios, in turns.
"""

import argparse
import gc
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import orjson

from limen.adapters.sqlite import open_tables
from limen.adapters.sqlite_index import SqliteIndex
from limen.audit.events import read_event
from limen.audit.index import Indexing
from limen.detection.behavior import Behavior
from limen.detection.behavior_settings import BehaviorSettings
from limen.incidents.alert_settings import AlertSettings
from limen.incidents.alerts import Alerting
from limen.incidents.suspicion import Suspicion

BATCH = 64


def records(calls):
    """As `limen.records` writes them."""
    found = []
    for number in range(calls):
        at, ref = 1_795_000_000.0 + number / 900, sha256(str(number).encode()).hexdigest()[:16]
        common = {
            "iss": "https://idp.example", "sub": f"agent-{number % 64}", "client": "bench", "token": "t", "session": "",
            "peer": "127.0.0.1", "ref": ref, "server": "up", "method": "tools/call", "name": "echo", "args": "a" * 64,
            "in": 320, "revision": "2026-07-28", "agent": "wrk 1", "trace": "", "upstream": "up", "tool": "echo",
            "digest": "d" * 64, "drifted": False, "decision": "allow", "rules": ["anyone"], "policy": "p" * 64,
            "catalog": "c" * 64, "credential": "none",
        }  # fmt: skip
        first = {
            "t": "outcome",
            "ts": at + 0.02,
            "reason": "ok",
            "ms": 0.6 + number % 300 / 10,
            "detail": "",
            "out": 480,
        }
        found += [orjson.dumps({"t": "intent", "ts": at} | common), orjson.dumps(first | common)]
    return found


def measured(lines, place, best):
    """One round; `best` keeps the shortest time of each part and batch."""
    tables, settings = open_tables(place / "limen.db", ("behavior", "threats", "alerts")), AlertSettings()
    watches = [
        Indexing(SqliteIndex(place / "index.db")),
        Behavior(tables["behavior"], BehaviorSettings(), print, "limen"),
        Suspicion(tables["threats"]),
        Alerting(tables["alerts"], settings.in_force, "limen", print, settings.told),
    ]

    def timed(name, at, do):
        begun = time.thread_time()
        done = do()
        took = time.thread_time() - begun
        best[name, at] = min(took, best.get((name, at), took))
        return done

    for at in range(0, len(lines), BATCH):
        part = list(enumerate(lines[at : at + BATCH], at))
        events = timed("read", at, lambda part=part: [read_event("limen", index, line) for index, line in part])
        for watch in watches:
            timed(watch.name, at, lambda see=watch.see, events=events: [see(event) for event in events])
        if at % (BATCH * 28) == 0 or at + BATCH >= len(lines):  # about a second of 900 calls
            timed("index, written", at, lambda: watches[0].settle(0.0))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    lines, best = records(options.calls), {}
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # as in the gateway
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as place:
            measured(lines, Path(place), best)
    for part in dict.fromkeys(name for name, _ in best):
        print(f"{part:<15} {sum(took for (name, _), took in best.items() if name == part) / len(lines) * 1e6:6.1f} us")


if __name__ == "__main__":
    main()
