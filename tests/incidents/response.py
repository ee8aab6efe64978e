"""A gateway under attack, and what answers: the gateway's own watches where they have hands, else the same parts here.

Until the gateway is built with hands (`limen.containing`), the same watches run in the test process on the gateway's
log and database, with hands that use its revocations; everything else is the real thing.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gateway.running import Running
from limen.audit.events import read_event
from limen.audit.read import read
from limen.config.load import load_config
from limen.identity.revoked import Revocation, revocations, revoke, undo
from limen.incidents.actions import Action, Applied
from limen.incidents.incident import Incidents, IncidentWatch
from limen.storage import State
from limen.vigil import playbook_watch

JOINED = find_spec("limen.containing") is not None
_KINDS = {"lock_caller": "user", "block_client": "client", "revoke_token": "token", "end_session": "session"}


class Shifting(http.server.BaseHTTPRequestHandler):
    """An MCP server whose tools say and return what the test wants."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        method, params = message.get("method"), message.get("params", {})
        words: dict[str, str] = self.server.words  # type: ignore[attr-defined]
        schema = {"type": "object", "properties": {"text": {"type": "string"}}}
        tools = [{"name": n, "description": d, "inputSchema": schema} for n, d in words.items()]
        results: dict[str, Any] = {
            "server/discover": {
                "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}},
                "serverInfo": {"name": "shifting", "version": "1"},
            },
            "tools/list": {"tools": tools},
            "tools/call": {"content": [{"type": "text", "text": self.server.says}]},  # type: ignore[attr-defined]
        }  # fmt: skip
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": message.get("id")}
        found = results.get(method)
        if found is None:
            answer["error"] = {"code": -32601, "message": "Method not found"}
        else:
            answer["result"] = {**found, "resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
        if method == "tools/call":
            self.server.called.append(params)  # type: ignore[attr-defined]
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def shifting(**words: str) -> Iterator[Any]:
    """Such a server; `.words`, `.says` and `.called` can be changed and read."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shifting)
    server.daemon_threads = True
    server.words, server.says, server.called = dict(words), "fine", []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class RevokingHands:
    """Hands that reach as far as revocations do; what they cannot reach is only noted."""

    def __init__(self, state: State) -> None:
        self._state, self._noted = state, dict[str, Applied]()

    def apply(self, action: Action, *, by: str, reason: str, incident: str = "") -> Applied:
        identifier = sha256(f"{action.kind}/{action.issuer}/{action.value}".encode()).hexdigest()[:16]
        now = time.time()
        if action.kind in _KINDS:
            row = Revocation(_KINDS[action.kind], action.value, action.issuer, reason, by, now, action.until)
            identifier = revoke(self._state.revocations, row).id
        self._noted[identifier] = made = Applied(identifier, action, by, reason, now, incident)
        fields = {"action": action.kind, "value": action.value, "issuer": action.issuer, "by": by, "reason": reason}
        self._state.tell("contained", id=identifier, **fields, incident=incident, until=action.until, waits=False)
        return made

    def release(self, identifier: str, *, by: str, reason: str) -> Applied:
        held = self._noted.pop(identifier)
        if any(one.id == identifier for one in revocations(self._state.revocations)):
            undo(self._state.revocations, identifier)
        self._state.tell(
            "released", id=identifier, action=held.action.kind, by=by, reason=reason, incident=held.incident
        )
        return held

    def in_force(self) -> list[Applied]:
        return list(self._noted.values())


@dataclass
class Responder:
    """Watches a running gateway from outside, as its own thread does inside."""

    gateway: Running
    playbooks: tuple[str, ...]
    protected: tuple[str, ...] = ()
    stop: threading.Event = field(default_factory=threading.Event)
    faults: list[BaseException] = field(default_factory=list)

    def run(self) -> None:
        config = load_config(self.gateway.config).config
        settings = config.incidents.model_copy(update={"playbooks": self.playbooks, "protected": self.protected})
        config = config.model_copy(update={"incidents": settings})
        state = State.open(config)

        def record(event: str, fields: Any) -> None:
            state.tell(event, **fields)

        watches = [IncidentWatch(Incidents(state.incidents, record), settings)]
        watches.append(playbook_watch(config, state, record, RevokingHands(state)))
        following = 0
        try:
            while not self.stop.wait(0.1):
                for index, raw in read(config.audit.path, following):
                    event = read_event(config.audit.name, index, raw)
                    for watch in watches:
                        watch.see(event)
                    following = index + 1
                for watch in watches:
                    watch.settle(time.time())
        except BaseException as error:  # the test looks at it
            self.faults.append(error)
        finally:
            state.close()


@contextlib.contextmanager
def responding(gateway: Running, *playbooks: str, protected: tuple[str, ...] = ()) -> Iterator[None]:
    """Playbooks are in force while this lasts: approved by the command people use."""
    for one in playbooks:
        gateway.limen("playbook", "approve", one, "--by", "ann", "--reason", "reviewed")
    if JOINED:
        yield
        return
    responder = Responder(gateway, playbooks, protected)
    thread = threading.Thread(target=responder.run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        responder.stop.set()
        thread.join(20)
    assert not responder.faults, responder.faults


def settings(*playbooks: str) -> dict[str, Any]:
    """What the gateway's own configuration says of them."""
    return {"incidents": {"playbooks": list(playbooks), "share": 1.0}} if JOINED else {}


def incident_of(gateway: Running, title: str) -> dict[str, Any]:
    """Wait for the incident with this title, and for what was contained for it to be linked."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        rows = json.loads(gateway.limen("incident", "list", "--json"))
        found[:] = [one for one in rows if one["title"] == title and one["containments"]]
        return bool(found)

    gateway.until(there, 20)
    return found[0]


def proven(gateway: Running, incident: str, place: Path) -> dict[str, bytes]:
    """Evidence by the documented commands alone; returns the files of the bundle."""
    import subprocess
    import sys

    from limen.audit.bundle_check import unpack

    key = gateway.limen("audit", "key").strip()
    gateway.until(lambda: json.loads(gateway.limen("audit", "verify", "--json"))["tail"] == 0, 10)
    gateway.limen("incident", "evidence", incident, "-o", str(place / "bundle.zip"))
    assert "verified" in gateway.limen("incident", "verify", str(place / "bundle.zip"), "--key", key)
    (place / "verify.py").write_text(gateway.limen("incident", "verifier"))
    command = [sys.executable, "-I", "-S", str(place / "verify.py"), str(place / "bundle.zip"), "--key", key]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return unpack((place / "bundle.zip").read_bytes())
