"""Azure AI Content Safety as its specification (2024-09-01) describes it, over loopback.

It holds callers to its limits."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

KEY = "b7d1-planted-subscription-key-93ac"
TOKEN = "eyJ0eXAi.planted-entra-token.q7"
CATEGORIES = ("Hate", "SelfHarm", "Sexual", "Violence")
Play = Callable[["Service"], bool]


class Service(http.server.BaseHTTPRequestHandler):
    """`server.plays` are taken one by one and may answer instead; `server.asked` keeps what was sent."""

    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *_: Any) -> None:
        """Silent."""

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            self.server.asked.append((self.path, dict(self.headers.items()), raw))
            play = self.server.plays.pop(0) if self.server.plays else self.server.always
        with contextlib.suppress(OSError, threading.BrokenBarrierError):  # callers that gave up
            if play is None or not play(self):
                self.honest(json.loads(raw))

    def honest(self, body: dict[str, Any]) -> None:
        """As specified: 401 without a credential, 400 above the limits, else a verdict."""
        known = self.headers.get("Ocp-Apim-Subscription-Key") == KEY
        if not known and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.say(401, {"error": {"code": "401", "message": "Access denied"}})
        if self.path == "/contentsafety/text:shieldPrompt?api-version=2024-09-01":
            documents = body["documents"]
            if len(documents) > 5 or sum(map(units, documents)) > 10_000 or "userPrompt" in body:
                return self.say(400, {"error": {"code": "InvalidRequestBody", "message": "too much"}})
            return self.say(200, {"documentsAnalysis": [{"attackDetected": "EVIL" in text} for text in documents]})
        if self.path == "/contentsafety/text:analyze?api-version=2024-09-01":
            if units(body["text"]) > 10_000 or body["outputType"] != "EightSeverityLevels":
                return self.say(400, {"error": {"code": "InvalidRequestBody", "message": "too much"}})
            hate = next((number for number in range(8) if f"HATE{number}" in body["text"]), 0)
            levels = [{"category": name, "severity": hate if name == "Hate" else 0} for name in body["categories"]]
            return self.say(200, {"blocklistsMatch": [], "categoriesAnalysis": levels})
        return self.say(404, {"error": {"code": "404", "message": "Resource not found"}})

    def say(self, status: int, body: Any, **headers: str) -> None:
        """One answer; bytes are sent as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)


def units(text: str) -> int:
    """UTF-16 units, the most anybody could count."""
    return len(text.encode("utf-16-le")) // 2


def saying(status: int, body: Any, **headers: str) -> Play:
    """Say this."""

    def play(service: Service) -> bool:
        service.say(status, body, **headers)
        return True

    return play


@contextlib.contextmanager
def serving() -> Iterator[Any]:
    """The service, and its `endpoint`."""
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    server.daemon_threads, server.lock = True, threading.Lock()
    server.asked, server.plays, server.always = [], [], None
    server.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
