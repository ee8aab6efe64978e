"""A day of ten million records in the index of the log: how fast it is filled, how large it is, how fast it answers.

Run by hand: PYTHONPATH=src:tests python bench/audit_index.py --kind sqlite|postgres [--records 10000000] [--quick]
Needs 5 GB below --directory, with PostgreSQL 15 GB; it is started from there with its own defaults and 256 MB of shared
buffers. --quick fills the tables first and makes their indexes afterwards: it says nothing of the speed of filling.
--keep leaves everything in --directory, and a run with --keep asks what an earlier one left there.
"""

import argparse
import bisect
import itertools
import json
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from limen.adapters.index_sql import STORED, indexes, packed
from limen.adapters.postgres_index import PostgresIndex
from limen.adapters.sqlite_index import SqliteIndex
from limen.audit.index import Query, Row, counted, page

START = 1_700_006_400.0
DAY = 86_400
CALLERS, TOOLS, CLIENTS, SERVERS = 5000, 200, 40, 20


def popular(count, skew):
    """Cumulative weights of `count` things, the first of them the most popular."""
    return list(itertools.accumulate(1 / (rank + 1) ** skew for rank in range(count)))


def rows(count):
    """Two records for each call, spread over one day; 2 % of calls are refused."""
    dice = random.Random(11)
    callers, tools = popular(CALLERS, 0.9), popular(TOOLS, 1.1)
    step = DAY / count
    for number in range(0, count, 2):
        caller = bisect.bisect(callers, dice.random() * callers[-1])
        tool = bisect.bisect(tools, dice.random() * tools[-1])
        denied = dice.random() < 0.02
        shared = (
            "https://id.example", f"user-{caller}@example.com", f"client-{caller % CLIENTS}",
            f"{caller:08x}{number // (count // 20):04x}", f"server-{tool % SERVERS}", f"tool_{tool}", f"{tool:064x}",
        )  # fmt: skip
        ref = f"{number:016x}"
        at = START + number * step
        yield Row("limen", number, at, 0, "call.intent", "call", *shared, "allow", "", "p" * 64, ref, "", 0.0)
        kind, decision, reason = ("call.refused", "deny", "policy.denied") if denied else ("call.outcome", "allow", "")
        grave = 2 if denied else 0
        yield Row(
            "limen", number + 1, at + step, grave, kind, "call", *shared, decision, reason, "p" * 64, ref, "", 0.0
        )


QUESTIONS = {
    "one caller": Query(caller="user-700@example.com"),
    "busiest caller": Query(caller="user-0@example.com"),
    "busiest caller, denied": Query(caller="user-0@example.com", decision="deny"),
    "busiest caller, busiest tool": Query(caller="user-0@example.com", tool="tool_0"),
    "busiest caller, rare tool": Query(caller="user-0@example.com", tool="tool_199"),
    "rare caller, busiest tool": Query(caller="user-4900@example.com", tool="tool_0"),
    "busiest tool, denied, one hour": Query(tool="tool_0", decision="deny", since=START + 36_000, until=START + 39_600),
    "definition": Query(digest=f"{150:064x}"),
    "denied": Query(decision="deny"),
    "one minute": Query(since=START + 40_000, until=START + 40_060, limit=500),
    "medium and worse": Query(severity="medium"),
    "ref": Query(ref=f"{5_000_000:016x}"),
    "session": Query(session=f"{0:08x}{3:04x}"),
    "all, newest": Query(),
    "allowed": Query(decision="allow"),
    "allowed intents": Query(decision="allow", type="call.intent"),
    "busiest tool, allowed": Query(tool="tool_0", decision="allow"),
    "two that never meet": Query(tool="tool_0", server="server-1"),
    "busiest client and tool, intents": Query(client="client-0", tool="tool_0", type="call.intent"),
}


def postgres(directory):
    """A server of its own; returns its URL, the process and its data."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
    user = "postgres"
    shutil.chown(directory, user)
    data = directory / "data"
    if not data.exists():
        subprocess.run([programs / "initdb", "-D", data, "-U", "limen", "-A", "trust", "-E", "UTF8"], check=True,
                       user=user, cwd=directory, stdout=subprocess.DEVNULL, timeout=120)  # fmt: skip
    process = subprocess.Popen(
        [programs / "postgres", "-D", data, "-p", "55999", "-c", "listen_addresses=127.0.0.1",
         "-c", "shared_buffers=256MB",
         "-c", f"unix_socket_directories={directory}", "-c", "max_wal_size=2GB"],
        user=user, cwd=directory, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 60
    while subprocess.run(
        [programs / "pg_isready", "-h", "127.0.0.1", "-p", "55999"], stdout=subprocess.DEVNULL
    ).returncode:
        assert process.poll() is None, "PostgreSQL did not start"
        assert time.monotonic() < until, "PostgreSQL does not answer"
        time.sleep(0.2)
    return "postgresql://limen@127.0.0.1:55999/postgres", process, data


def size(path):
    return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())


def timed(work, times):
    """The first answer, and the milliseconds of the first time and of the best."""
    took, first = [], None
    for _ in range(times):
        began = time.perf_counter()
        found = work()
        took.append((time.perf_counter() - began) * 1000)
        first = found if first is None else first
    return first, took[0], min(took)


def ask(index):
    """Milliseconds for a page, for a count as commands give it, and for one that takes the time it needs."""
    for name, query in QUESTIONS.items():
        shown, first, best = timed(lambda query=query: page(index, query), 3)
        print(f"{name:32} {len(shown.rows):4} rows {first:7.1f} {best:7.1f} ms {'' if shown.reached is None else 'cut'}"
              f"{'':8}", end="")  # fmt: skip
        total, first, best = timed(lambda query=query: counted(index, query), 2)
        print(
            f"count {total.number:9}{' ' if total.since is None else '+'} {first:7.1f} {best:7.1f} ms",
            end="",
            flush=True,
        )
        if total.since is not None:
            total, first, best = timed(lambda query=query: counted(index, query, None), 1)
            print(f"   exact {total.number:9} {first:7.1f} ms", end="")
        print(flush=True)


def fill(index, records):
    """Seconds it took to write them, without the time to make them up."""
    began, made = time.perf_counter(), 0.0
    source = rows(records)
    while True:
        before = time.perf_counter()
        batch = list(itertools.islice(source, 5000))
        made += time.perf_counter() - before
        if not batch:
            return time.perf_counter() - began - made
        index.add(batch)


def fill_quickly(index, kind, records):
    """Much the same day, made up by the database itself; its indexes are made when it is next opened."""
    fixed = ["call.intent", "call.outcome", "call.refused", "call", "https://id.example", "allow", "deny",
             "policy.denied", "p" * 64]  # fmt: skip
    texts = [*fixed, *(f"client-{one}" for one in range(CLIENTS)), *(f"server-{one}" for one in range(SERVERS)),
             *(f"tool_{one}" for one in range(TOOLS)), *(f"{one:064x}" for one in range(TOOLS)),
             *(f"user-{one}@example.com" for one in range(CALLERS)),
             *(f"{one:08x}{part:04x}" for one in range(CALLERS) for part in range(20))]  # fmt: skip
    first = {name: texts.index(name) + 1 for name in ("client-0", "server-0", "tool_0", f"{0:064x}")}
    tool, caller = first["tool_0"], texts.index("user-0@example.com") + 1
    slots = 1 << 16
    picked = [
        [bisect.bisect(weights, (slot + 0.5) / slots * weights[-1]) for slot in range(slots)]
        for weights in (popular(CALLERS, 0.9), popular(TOOLS, 1.1))
    ]
    sqlite, calls = kind == "sqlite", records // 2
    series = f"generate_series(0, {calls} - 1) one(i)"
    if sqlite:
        series = (
            f"(WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {calls}) SELECT i FROM n)"
        )
    slot = f"(random() & {slots - 1})" if sqlite else f"floor(random() * {slots})::int"
    part, ref = f"i / ({calls} / 20 + 1)", "printf('%016x', 2 * i)" if sqlite else "lpad(to_hex(2 * i), 16, '0')"
    row = f"""
        SELECT {packed(1, 0)} + 2 * i + k, {START} + (2 * i + k) * {DAY / records!r},
            CASE WHEN d AND k = 1 THEN 2 ELSE 0 END,
            CASE WHEN k = 0 THEN 1 WHEN d THEN 3 ELSE 2 END, 4, 5, {caller} + c.what, {first["client-0"]} + c.what % 40,
            {caller + CALLERS} + c.what * 20 + {part}, {first["server-0"]} + t.what % 20, {tool} + t.what,
            {tool + TOOLS} + t.what, CASE WHEN d AND k = 1 THEN 7 ELSE 6 END, CASE WHEN d AND k = 1 THEN 8 END, 9,
            {ref}, NULL, 0.0
        FROM made JOIN picked_0 c ON c.slot = made.caller JOIN picked_1 t ON t.slot = made.tool
        CROSS JOIN (SELECT 0 AS k UNION ALL SELECT 1) two ORDER BY i, k"""
    mark = "?" if sqlite else "%s"
    with index._fault() as connection:
        if not sqlite:
            index._make_days(connection, {int(START) // DAY})
        run = connection.cursor()
        for name in [*indexes("at"), "limen_event_at"]:
            run.execute(f"DROP INDEX IF EXISTS {name}")
        run.execute("BEGIN")
        override = "" if sqlite else "OVERRIDING SYSTEM VALUE"
        run.executemany(f"INSERT INTO limen_text (number, text) {override} VALUES ({mark}, {mark})",
                        list(enumerate(texts, 1)))  # fmt: skip
        run.execute(f"INSERT INTO limen_log (number, name) {override} VALUES (1, 'limen')")
        for number, what in enumerate(picked):
            run.execute(f"CREATE TEMPORARY TABLE picked_{number} (slot integer PRIMARY KEY, what integer)")
            run.executemany(f"INSERT INTO picked_{number} VALUES ({mark}, {mark})", list(enumerate(what)))
        run.execute("CREATE TEMPORARY TABLE made AS SELECT i, "
                    f"{slot} AS caller, {slot} AS tool, {slot} % 50 = 7 AS d FROM {series}")  # fmt: skip
        run.execute(f"INSERT INTO limen_event ({', '.join(STORED)}) {row}")
        run.execute("COMMIT")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--directory", type=Path, default=None)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--keep", action="store_true")
    chosen = parser.parse_args()
    place, process = chosen.directory if chosen.keep else None, None
    if place is None:
        place = Path(tempfile.mkdtemp(prefix="limen-bench-", dir=chosen.directory))
    filled = place / "filled"
    try:
        if chosen.kind == "sqlite":
            index, data = SqliteIndex(place / "index.db"), place
        else:
            url, process, data = postgres(place)
            index = PostgresIndex(url, 3600)
        if not filled.exists():
            took = 0.0
            if chosen.quick:
                fill_quickly(index, chosen.kind, chosen.records)
            else:
                took = fill(index, chosen.records)
            index.close()
            index.count(Query(ref="x"))  # opens it: what is missing is made
            if chosen.kind == "postgres":
                with index._fault() as connection:
                    connection.execute("VACUUM ANALYZE limen_event")  # as its own upkeep does, in the background
            rate = 0 if chosen.quick else round(chosen.records / took)
            filled.write_text(json.dumps({"kind": chosen.kind, "records": chosen.records, "bytes": size(data),
                                          "records_a_second": rate}))  # fmt: skip
        print(filled.read_text(), flush=True)
        ask(index)
        index.close()
    finally:
        if process is not None:
            process.terminate()
            process.wait(60)
        if not chosen.keep:
            shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
