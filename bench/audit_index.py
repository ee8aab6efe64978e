"""A day of ten million records in the index of the log: how fast it is filled, how large it is, how fast it answers.

Run by hand: PYTHONPATH=src:tests python bench/audit_index.py --kind sqlite|postgres [--records 10000000]
Needs 5 GB below --directory; PostgreSQL is started from there with its own defaults and 256 MB of shared buffers.
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

from limen.audit.index import Query, Row

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
}


def postgres(directory):
    """A server of its own; returns its URL, the process and its data."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
    user = "postgres"
    shutil.chown(directory, user)
    data = directory / "data"
    subprocess.run([programs / "initdb", "-D", data, "-U", "limen", "-A", "trust", "-E", "UTF8"], check=True,
                   user=user, cwd=directory, stdout=subprocess.DEVNULL, timeout=120)  # fmt: skip
    process = subprocess.Popen(
        [programs / "postgres", "-D", data, "-p", "55999", "-c", "listen_addresses=127.0.0.1",
         "-c", "shared_buffers=256MB",
         "-c", f"unix_socket_directories={directory}", "-c", "max_wal_size=2GB"],
        user=user, cwd=directory, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(4)
    return "postgresql://limen@127.0.0.1:55999/postgres", process, data


def size(path):
    return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())


def ask(index):
    """Milliseconds for a page of 50 and for a count, the best of three."""
    for name, query in QUESTIONS.items():
        took, counted = [], []
        for _ in range(3):
            began = time.perf_counter()
            found = len(index.find(query))
            took.append(time.perf_counter() - began)
        for _ in range(2):
            began = time.perf_counter()
            total = index.count(query)
            counted.append(time.perf_counter() - began)
        best, first = min(took) * 1000, took[0] * 1000
        page = f"{name:32} {found:5} rows {best:9.1f} ms (first {first:8.1f})"
        print(f"{page}   count {total:9} {min(counted) * 1000:9.1f} ms", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--directory", type=Path, default=None)
    chosen = parser.parse_args()
    place, process = Path(tempfile.mkdtemp(prefix="limen-bench-", dir=chosen.directory)), None
    try:
        if chosen.kind == "sqlite":
            from limen.adapters.sqlite_index import SqliteIndex

            index, data = SqliteIndex(place / "index.db"), place
        else:
            from limen.adapters.postgres_index import PostgresIndex

            url, process, data = postgres(place)
            index = PostgresIndex(url, 600)
        began, made = time.perf_counter(), 0.0
        source = rows(chosen.records)
        while True:
            before = time.perf_counter()
            batch = list(itertools.islice(source, 5000))
            made += time.perf_counter() - before
            if not batch:
                break
            index.add(batch)
        took = time.perf_counter() - began - made
        print(json.dumps({"kind": chosen.kind, "records": chosen.records, "seconds": round(took), "bytes": size(data),
                          "records_a_second": round(chosen.records / took)}), flush=True)  # fmt: skip
        if chosen.kind == "postgres":
            with index._fault() as connection:
                connection.execute("ANALYZE limen_event")
        ask(index)
        index.close()
    finally:
        if process is not None:
            process.terminate()
            process.wait(60)
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
