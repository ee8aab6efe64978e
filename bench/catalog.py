"""What a large catalog costs: time and memory from the store to a snapshot and a compiled policy, long histories, and
one call's way through resolve and validate. Run by hand: python bench/catalog.py [--servers 1000] [--tools 50]

The store is SQLite in a temporary directory, signed and sealed as in use; what is measured runs in its own process.
"""

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from limen.adapters.keys import FileSigner
from limen.adapters.sqlite import SqliteTable
from limen.catalog.attest import Decision, Notary
from limen.catalog.definitions import check, digest_of
from limen.catalog.records import Record
from limen.catalog.registry import Registry
from limen.catalog.resolve import Resolve
from limen.catalog.schema import ValidateArguments
from limen.catalog.snapshot import Catalog, Item
from limen.catalog.store import Store, Subject
from limen.core.announce import Announcement
from limen.core.call import Approved, Call, Caller, Context, Era, Peer, Presented
from limen.protocol.jsonrpc import canonical

HISTORY = 10_000
WORDS = "read write list search create update delete file issue page user team report budget date query".split()  # noqa: SIM905


def tool(server, number, text="", properties=6):
    name = f"{WORDS[number % len(WORDS)]}_{WORDS[(number * 7 + server) % len(WORDS)]}_{number}"
    members = {
        f"{WORDS[at % len(WORDS)]}{at}": {"type": "string", "description": f"The {WORDS[at % len(WORDS)]} to use."}
        for at in range(properties)
    }
    return {
        "name": name,
        "title": name.replace("_", " "),
        "description": f"Does {name} in system {server}. Takes what it needs and answers with the result. {text}" * 2,
        "inputSchema": {"type": "object", "properties": members, "required": list(members)[:2]},
        "annotations": {"readOnlyHint": number % 2 == 0},
    }


def loose(path):
    """A table that does not wait for the disk: filling it is not what is measured."""
    table = SqliteTable(path, "catalog")
    table._connection.execute("PRAGMA synchronous=OFF")
    return table


def fill(path, signer, servers, tools):
    """Approved tools as the registry leaves them, written without the readings and looks that come before."""
    rows, at = Rows(), time.time()
    store = Store(rows, Notary(signer))
    for server in range(servers):
        for number in range(tools):
            content = canonical(tool(server, number))
            subject, digest = Subject(f"server{server}", "tool", tool(server, number)["name"]), digest_of(content)
            record = Record(announced=digest)
            store.keep_version(subject, record, digest, content, at)
            decision = Decision(
                "approve", *subject, digest, "ann", at, "read it", "cli", "read", False, 0.0, ("ann",), digest, "none",
                at, number=1,
            )  # fmt: skip
            record.decide(decision, store.notary.sign(decision))
            store.save(subject, None, record)
            store.settle(subject, record)
    table = loose(path)
    table._connection.execute("BEGIN")
    table._connection.executemany("INSERT INTO table_catalog (key, value) VALUES (?, ?)", sorted(rows.items()))
    table._connection.execute("COMMIT")
    table.close()


class Rows(dict):
    """As much of a table as filling one takes."""

    def put(self, key, value):
        self[key] = value

    def swap(self, key, old, new):
        self[key] = new
        return True


def rss():
    """Peak resident memory of this process in MB; getrusage would count what its parent held as well."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def seconds(what, repeat=1):
    taken, answer = [], None
    for _ in range(repeat):
        started = time.perf_counter()
        answer = what()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken), answer


def measure_large(path, key):
    """From a cold store to what calls are judged by. One JSON line."""
    from limen import opening
    from limen.config.model import Config

    table, signer = SqliteTable(path, "catalog"), FileSigner.open(key, "bench")
    before = rss()
    registry = Registry(table, signer=signer)
    snapshot, catalog = seconds(registry.snapshot)
    at_snapshot = rss()
    names = {one.server for one in catalog.approved()}
    config = Config.model_validate(
        {
            "mcpServers": {name: {"url": f"https://{name}.example/mcp"} for name in sorted(names)},
            "policy": {"rules": [{"allow": "role:user", "call": "*/*"}]},
        }
    )
    entries, _ = seconds(registry.entries)
    names, _ = seconds(lambda: list(registry.names()))
    policy, _ = seconds(lambda: opening.open_policy(config, registry, catalog))
    at_policy = rss()
    again, _ = seconds(registry.snapshot)
    first = catalog.approved()[0]
    registry.reject(first.server, first.kind, first.name, "ann", "x", digest=first.digest)
    changed, _ = seconds(registry.snapshot)
    print(
        json.dumps(
            {
                "approved": len(catalog.approved()),
                "snapshot": snapshot,
                "again": again,
                "changed": changed,
                "entries": entries,
                "names": names,
                "policy": policy,
                "rss_before": before,
                "rss_snapshot": at_snapshot,
                "rss_policy": at_policy,
            }
        )
    )


def measure_history(path, signer):
    """One name with a history as long as is kept."""
    table = loose(path)
    registry = Registry(table, signer=signer)
    registry.observe(Announcement("one", "2026-07-28", tools=(tool(0, 0),)))
    name = tool(0, 0)["name"]
    registry.approve("one", "tool", name, "ann", "read it")
    store, subject = registry._store, Subject("one", "tool", name)
    raw, record, _ = store.load(subject)
    for number in range(HISTORY - 2):
        content = canonical(tool(0, 0, f"v{number}"))
        store.keep_version(subject, record, digest_of(content), content, float(number))
    assert store.save(subject, raw, record)
    adds = [
        seconds(lambda n=n: registry.observe(Announcement("one", "2026-07-28", tools=(tool(0, 0, f"new{n}"),))))[0]
        for n in range(3)
    ]
    entries, found = seconds(registry.entries, 5)
    versions, all_ = seconds(lambda: registry.versions("one", "tool", name), 3)
    print(f"one name, {len(all_)} versions ({found[-1].versions} counted)")
    row("entries()", f"{entries * 1e3:.2f} ms", "wanted < 50 ms")
    row("versions()", f"{versions * 1e3:.1f} ms", "all of them, with who, when and why")
    row("one more version", f"{adds[0] * 1e3:.1f} ms", "a whole reading, without waiting for the disk")
    row("one too many", f"{max(adds) * 1e3:.1f} ms", "a hundred of the oldest are dropped")


def measure_call():
    """Resolve and validate, as one call does it."""
    definition = check("tool", tool(0, 0, properties=20))
    approved = Approved("s", "tool", definition.name, definition.digest, definition.canonical, "read")
    catalog = Catalog([Item("s", "tool", definition.name, "approved", approved)])
    resolve, validate = Resolve(catalog), ValidateArguments(catalog)
    members = json.loads(definition.canonical)["inputSchema"]["properties"]
    call = Call(
        method="tools/call", server="s", route="s", era=Era.MODERN, revision="2026-07-28", name=definition.name,
        arguments=canonical(dict.fromkeys(members, "a plain value")), peer=Peer("http"),
    )  # fmt: skip
    caller = Context(call, Presented(), time.monotonic() + 3600, "ref", {Caller: Caller("i", "ann")})

    def once():
        passed = resolve.check(caller)
        answer = validate.check(caller.having(passed.facts))
        return asyncio.run(answer) if asyncio.iscoroutine(answer) else answer

    assert type(once()).__name__ == "Pass", once()
    rounds = [seconds(lambda: [once() for _ in range(2000)])[0] / 2000 for _ in range(7)]
    print("one call, a schema of 20 properties")
    row(
        "resolve + validate",
        f"{statistics.median(rounds) * 1e6:.1f} us",
        f"best {min(rounds) * 1e6:.1f}; wanted < 20 us",
    )


def measure_list():
    """tools/list of 500 approved tools, beside the same answer with nothing done for it but sending the bytes."""
    from limen.corridor import Corridor
    from limen.gateway.app import Gateway
    from limen.policy.authorize import Authorize
    from limen.policy.compile import compile_policy
    from limen.policy.rules import PolicySettings
    from limen.protocol.outbound import Reply, result_fragment

    found = [check("tool", tool(0, number)) for number in range(500)]
    approved = [Approved("s", "tool", one.name, one.digest, one.canonical, "read") for one in found]
    catalog = Catalog([Item("s", "tool", one.name, "approved", one) for one in approved])
    rules = PolicySettings.model_validate({"rules": [{"allow": "anyone", "call": "s/*"}]})
    policy = compile_policy(rules, approved)
    corridor = Corridor(None, None, (), Authorize(policy), catalog, policy.digest, None)
    gateway = Gateway(None, None, None, lambda _: False, {})
    call = Call(
        method="tools/list", server="s", route="s", era=Era.HANDSHAKE, revision="2025-11-25", id=1, peer=Peer("http")
    )
    context = Context(call, Presented(), time.monotonic() + 3600, "ref", {Caller: Caller("i", "ann")})
    first, answer = seconds(lambda: gateway._list(context, corridor, "tool"))
    body = corridor.lists.get(next(iter(corridor.lists._known)))
    whole = body + b"}"

    def bare():
        return Reply(200, result_fragment(1, whole))

    assert bare().body == answer.body
    rounds = []
    for _ in range(9):
        mine, _ = seconds(lambda: [gateway._list(context, corridor, "tool") for _ in range(200)])
        theirs, _ = seconds(lambda: [bare() for _ in range(200)])
        rounds.append(mine / theirs)
    print(f"one list of 500 tools, {len(answer.body) >> 10} KB")
    row("first, for a caller", f"{first * 1e3:.1f} ms", "every tool decided")
    row("again / bytes only", f"{statistics.median(rounds):.2f}", "wanted < 1.5")


def row(name, value, remark=""):
    print(f"  {name:<22}{value:>12}  {remark}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, default=1000)
    parser.add_argument("--tools", type=int, default=50)
    parser.add_argument("--measure", nargs=2, metavar=("STATE", "KEY"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure_large(*map(Path, given.measure))
        return
    with tempfile.TemporaryDirectory() as work:
        key = Path(work, "audit.key")
        signer = FileSigner.open(key, "bench")
        measure_call()
        measure_list()
        measure_history(Path(work, "history.db"), signer)
        filling, _ = seconds(lambda: fill(Path(work, "large.db"), signer, given.servers, given.tools))
        size = Path(work, "large.db").stat().st_size >> 20
        print(f"{given.servers} servers x {given.tools} tools; store {size} MB, filled in {filling:.0f} s")
        ran = subprocess.run(
            [sys.executable, __file__, "--measure", str(Path(work, "large.db")), str(key)], stdout=subprocess.PIPE
        )
        if ran.returncode:
            sys.exit("measuring failed")
        got = json.loads(ran.stdout.splitlines()[-1])
        row("snapshot, cold", f"{got['snapshot']:.2f} s", f"{got['approved']} approved")
        row("snapshot, unchanged", f"{got['again']:.2f} s")
        row("snapshot, one changed", f"{got['changed']:.2f} s")
        row("entries()", f"{got['entries']:.2f} s")
        row("names()", f"{got['names']:.2f} s")
        row("open_policy", f"{got['policy']:.2f} s", "compile_policy and what it asks of the registry")
        row("snapshot + policy", f"{got['snapshot'] + got['policy']:.2f} s", "wanted < 5 s")
        row("memory, started", f"{got['rss_before']:.0f} MB", "peak resident")
        row("memory, snapshot", f"{got['rss_snapshot']:.0f} MB")
        row("memory, policy", f"{got['rss_policy']:.0f} MB", "wanted < 500 MB")


if __name__ == "__main__":
    main()
