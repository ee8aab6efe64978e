"""The consent page on Limen's own server, with the smallest flow around it: authorize, the answer, and what follows."""

import asyncio
import contextlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from limen.gateway.pages import Pages
from limen.gateway.server import HttpServer
from limen.oauth.asking import Asking
from limen.oauth.model import Ability, Asked, Client
from limen.oauth.settings import ConsentSettings, ProviderSettings
from limen.oauth.web import OAuthError, Reply, Visit
from limen.signin import SignIn

KEY = bytes(range(32))
PROVIDER = ProviderSettings(issuer="https://login.example/tenant", client_id="limen", scopes=("openid", "profile"))
CLIENT = Client(
    "https://app.example/client.json", "metadata", "Example Desktop", ("https://app.example/cb",),
    uri="https://app.example/about", digest="d1",
)  # fmt: skip
ASKED = Asked(
    CLIENT.id, "d1", "https://app.example/cb", "https://limen.example/mcp/files", "files",
    ("files.read", "files.write", "offline_access"), "challenge", "client-state",
)  # fmt: skip
ABILITIES = (
    Ability("files", "delete_tree", "destructive"),
    Ability("files", "write_file", "write"),
    *(Ability("files", f"read_{number}", "read") for number in range(15)),
    Ability("files", "run_query"),
)


class Notes:
    """A flight recorder that keeps what it was told, and a log that does."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, str, dict[str, Any]]] = []
        self.events: list[tuple[str, dict[str, Any]]] = []

    def note(self, leg: str, outcome: str, **more: Any) -> None:
        self.steps.append((leg, outcome, more))

    def record(self, event: str, fields: Any) -> None:
        self.events.append((event, dict(fields)))

    def alerts(self) -> list[str]:
        return [f"{members['event']} {members['field']}" for event, members in self.events if event == "security"]


def asking(notes: Notes, issuer: str = "https://limen.example", key: bytes = KEY, **more: Any) -> Asking:
    """What is tested, with the neighbours it would have."""
    settings = ConsentSettings(explain={"files.read": "Read the files of your team."})
    more = {"can": lambda route, scopes: ABILITIES, "needed": lambda route: ("files.read",), **more}
    return Asking(issuer, key, PROVIDER, settings, notes, notes.record, **more)


@dataclass
class Scene:
    """Limen on loopback. `answers` are the decisions that came in, in order; each transaction has one."""

    issuer: str
    notes: Notes
    asking: Asking
    port: int = 0
    onward: str = ""  # where an answer leads
    client: Client = CLIENT
    asked: Asked = ASKED
    device: str = ""
    answers: list[Any] = field(default_factory=list)
    visits: list[Visit] = field(default_factory=list)
    open: set[str] = field(default_factory=set)

    async def authorize(self, visit: Visit) -> Reply:
        """What a client sends people to; "transaction" stands for what it asks."""
        self.visits.append(visit)
        transaction = visit.parameters()["transaction"]
        self.open.add(transaction)
        return self.asking.page(visit, transaction, self.asked, self.client, device=self.device)

    async def consent(self, visit: Visit) -> Reply:
        """Where the form goes."""
        self.visits.append(visit)
        decision = self.asking.decided(visit)
        if decision.transaction not in self.open:
            raise OAuthError("access_denied", "this was answered before", status=403)
        self.open.discard(decision.transaction)
        self.answers.append(decision)
        if not self.onward:
            return self.asking.done("Done", "You can close this window.")
        return self.asking.leave(self.onward, ("state=1; Path=/; Secure; HttpOnly; SameSite=Lax",))

    def handler(self, inner: Any) -> Any:
        """As the authorization endpoint does it: errors are pages."""

        async def handle(visit: Visit) -> Reply:
            try:
                return await inner(visit)
            except OAuthError as error:
                return self.asking.error(error)

        return handle


@contextlib.contextmanager
def scene(**more: Any) -> Iterator[Scene]:
    """Runs on its own thread: Playwright has the main one."""
    notes = Notes()
    place = Scene("", notes, asking(notes), **more)
    endpoints = {b"/oauth/authorize": place.handler(place.authorize), b"/oauth/consent": place.handler(place.consent)}
    pages = Pages(SignIn(endpoints), secure=True)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found = pages.find(scope["raw_path"])
        if found is None:
            await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return
        await pages.serve(found, scope, scope["extensions"]["limen.answer"].body, send)

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> HttpServer:
        server = HttpServer(app)
        place.port = await server.start("127.0.0.1", 0)
        return server

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    place.issuer = f"http://127.0.0.1:{place.port}"
    place.asking = asking(notes, place.issuer)
    try:
        yield place
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(40)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


class Other(http.server.ThreadingHTTPServer):
    """Another origin: a client's callback, a provider, or an attacker. `pages`: HTML by path."""

    def __init__(self) -> None:
        self.pages: dict[str, str] = {}
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        super().__init__(("127.0.0.1", 0), _Answer)
        self.port = self.server_address[1]


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        other: Any = self.server
        headers = {name.lower(): value for name, value in self.headers.items()}
        other.seen.append((self.command, self.path, headers))
        data = other.pages.get(self.path.partition("?")[0], "<title>elsewhere</title><p>elsewhere").encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        """Silent."""


@contextlib.contextmanager
def other() -> Iterator[Other]:
    server = Other()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def asked(**changes: Any) -> Asked:
    return replace(ASKED, **changes)


def client(**changes: Any) -> Client:
    return replace(CLIENT, **changes)
