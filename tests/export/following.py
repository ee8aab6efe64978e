"""What tests of followers share: a log with signed records, a clock that is turned by hand, sinks that misbehave, and a
small real HTTP server that answers what it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson

from limen.adapters.keys import FileSigner
from limen.adapters.sqlite import open_tables
from limen.audit.events import read_event
from limen.audit.export import Entry, Rejected, Selection
from limen.audit.follow import Course, Lane
from limen.audit.ledger import Ledger
from limen.audit.note import parse_verifier_key
from limen.audit.tree import leaf_hash
from limen.core.faults import DependencyFault
from limen.core.ports import Table


def outcome(number: int, **more: object) -> dict[str, Any]:
    """A finished call, as the engine writes it."""
    return {
        "t": "outcome", "ts": 1_790_000_000.0 + number, "ref": f"r{number}", "reason": "ok", "ms": 12.5, "iss": "https://idp.example",
        "sub": "ann", "client": "desk", "session": "ab12", "peer": "192.0.2.7", "agent": "desk/1", "server": "files",
        "upstream": "files", "method": "tools/call", "name": "read_file", "digest": "d" * 64, "decision": "allow",
        "policy": "p1", "rules": ["r"], "trace": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", **more,
    }  # fmt: skip


def entry(record: Mapping[str, Any], index: int = 0, size: int = 1000) -> Entry:
    raw = orjson.dumps(record)
    return Entry(read_event("limen", index, raw), raw, leaf_hash(raw).hex(), size)


class Clock:
    def __init__(self, now: float = 1_790_001_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeSink:
    """Takes everything, but for what `behave` raises."""

    behave: Callable[[Sequence[Entry]], None] = lambda entries: None
    got: list[str] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    closed: bool = False

    def send(self, entries: Sequence[Entry]) -> None:
        self.behave(entries)
        self.batches.append(len(entries))
        self.got += [one.id for one in entries]

    def close(self) -> None:
        self.closed = True

    @property
    def indexes(self) -> list[int]:
        return [int(one.split(":")[1]) for one in self.got]


def down(entries: Sequence[Entry]) -> None:
    raise DependencyFault("sink", "connection refused")


def refusing(*bad: int) -> Callable[[Sequence[Entry]], None]:
    """Refuses every batch that holds one of these records."""

    def behave(entries: Sequence[Entry]) -> None:
        if any(one.event.index in bad for one in entries):
            raise Rejected("status 400 mapping conflict")

    return behave


class Log:
    """A ledger in a directory, with followers' cursors beside it."""

    def __init__(self, home: Path) -> None:
        self.home, self.place = home, home / "audit"
        self.ledger = Ledger.open(self.place, FileSigner.open(home / "key", "limen"), checkpoint_interval=0.02)
        self.cursors: Table = open_tables(home / "limen.db", ("cursors",))["cursors"]
        self.told: list[dict[str, Any]] = []
        self.aside: list[tuple[int, str]] = []

    def fill(self, count: int, **more: object) -> None:
        """So many records, under a signed checkpoint."""
        start = self.ledger.size
        for number in range(start, start + count):
            self.ledger.append(orjson.dumps(outcome(number, **more)))
        self.signed()

    def signed(self) -> None:
        for _ in range(500):
            if int(self.ledger.checkpoint.split(b"\n")[1]) == self.ledger.size:
                return
            time.sleep(0.01)
        raise AssertionError("not signed")

    def lane(self, sink: Any, clock: Clock, batch: int = 50, selection: Selection | None = None, **more: Any) -> Lane:
        def aside(one: Entry, why: str) -> None:
            self.aside.append((one.event.index, why))

        key = parse_verifier_key((self.home / "key.pub").read_text())
        course = Course(self.place, key, "siem", selection or Selection(), batch, more.pop("since", "beginning"))
        record = lambda kind, fields: self.told.append({"t": kind, **fields})  # noqa: E731
        return Lane(course, sink, self.cursors, more.pop("aside", aside), record, clock, lambda: 0.5)


def turns(lane: Lane, clock: Clock, seconds: float = 0.0, most: int = 400) -> int:
    """Run until it idles, or until so many seconds of the clock have passed. Returns the number of turns."""
    ends = clock.now + seconds
    for count in range(1, most + 1):
        wait = lane.turn()
        clock.now += wait
        if (not seconds and wait and not lane.standing.error) or (seconds and clock.now >= ends):
            return count
    raise AssertionError("no end")


@dataclass
class Heard:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes


Answer = tuple[int, bytes] | tuple[int, bytes, str]


@contextmanager
def http_server(answer: Callable[[Heard], Answer | None]) -> Iterator[tuple[str, list[Heard]]]:
    """A real server on loopback: status, body, type. None: no answer at all, the connection stays open."""
    heard: list[Heard] = []
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            one = Heard(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            heard.append(one)
            said = answer(one)
            if said is None:
                stop.wait(20)
                return
            self.send_response(said[0])
            self.send_header("Content-Length", str(len(said[1])))
            if len(said) > 2:
                self.send_header("Content-Type", said[2])
            self.end_headers()
            self.wfile.write(said[1])

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", heard
    finally:
        stop.set()
        server.shutdown()
        server.server_close()
