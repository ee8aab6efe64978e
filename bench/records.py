"""What the records of a call cost: what they were before outcomes said who and what, and what they are. Run by hand:
python bench/records.py [--rounds 20000]

Microseconds of processor time for the intent and the outcome of one call, best of nine, as rendered and appended to a
real log. The size of a result is known from its answer, which is rendered before: it costs nothing here.
"""

import argparse
import asyncio
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import orjson

from limen import records
from limen.adapters.keys import FileSigner
from limen.audit.ledger import Ledger
from limen.core.call import (
    Approval,
    Approved,
    Call,
    Caller,
    Context,
    Era,
    Grant,
    Peer,
    Presented,
    Session,
    UpstreamCredential,
)

CALL = Call(
    "tools/call", "up", "up", Era.MODERN, "2026-07-28", 1, "echo", b'{"text":"' + b"x" * 400 + b'"}', client="desk 1.0",
    trace={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}, peer=Peer("http", "192.0.2.7"),
)  # fmt: skip
FACTS = (
    Caller("https://idp.example", "user-7", "client", frozenset({"read"}), token_id="t7", expires=9e9), Session(),
    Approved("up", "tool", "echo", "d" * 64, b"{}"), Grant(("anyone",), "p" * 64), UpstreamCredential(), Approval(),
)  # fmt: skip
CORRIDOR = SimpleNamespace(catalog=SimpleNamespace(version="c" * 64), policy="p" * 64)


def before(facts, log, result):
    """As it was: an intent with who and what, and an outcome with a reference."""
    approved, grant = facts.get(Approved), facts.get(Grant)
    record = {"t": "intent", "ts": time.time(), **records.who(facts)}
    record |= {
        "ref": facts.reference, "server": CALL.server, "method": CALL.method, "name": CALL.name,
        "args": sha256(CALL.arguments).hexdigest(), "revision": CALL.revision, "agent": CALL.client,
        "trace": CALL.trace.get("traceparent", ""), "upstream": approved.server, "tool": approved.name,
        "digest": approved.digest, "drifted": approved.drifted, "decision": "allow", "rules": grant.rules,
        "policy": grant.policy, "catalog": CORRIDOR.catalog.version, "credential": "headers",
    }  # fmt: skip
    log.append(orjson.dumps(record))
    outcome = {"t": "outcome", "ref": facts.reference, "reason": "ok", "ms": 1.25, "detail": "", "ts": time.time()}
    log.defer(orjson.dumps(outcome))


def after(facts, log, result, met=records.Met()):  # noqa: B008 - one for all rounds, as in the engine
    """As it is."""
    if (new := met.first(facts)) is not None:
        met.know(new)
    common = records.shared(facts, CORRIDOR)
    log.append(records.joined({"t": "intent", "ts": time.time()}, common))
    log.defer(records.joined(records.outcome("ok", time.monotonic(), "", result, 2_000), common))


def best(way, facts, result, rounds):
    """Microseconds of one call: of the thread that calls, and of all threads, with those that hash and write."""
    found = []
    for _ in range(9):
        with tempfile.TemporaryDirectory() as place:
            log = Ledger.open(Path(place, "log"), FileSigner.open(Path(place, "key"), "bench"))
            thread, process = time.thread_time(), time.process_time()
            for _ in range(rounds):
                way(facts, log, result)
            thread, process = time.thread_time() - thread, time.process_time() - process
            asyncio.run(log.close())
            found.append((thread / rounds * 1e6, process / rounds * 1e6))
    return tuple(min(column) for column in zip(*found, strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1_000)
    rounds = parser.parse_args().rounds
    facts = Context(CALL, Presented(), float("inf"), "r" * 16, {type(one): one for one in FACTS})
    result = {"content": [{"type": "text", "text": "a b c d "}], "isError": False}
    old, new = best(before, facts, result, rounds), best(after, facts, result, rounds)
    for name, one, other in zip(("calling thread", "all threads"), old, new, strict=True):
        print(f"{name:<14}: {one:6.1f} -> {other:6.1f} us, {other - one:+6.1f} us")


if __name__ == "__main__":
    main()
