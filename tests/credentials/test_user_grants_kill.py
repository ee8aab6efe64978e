"""kill -9 at every step of a renewal: the grant is there afterwards, or the person is asked again; nobody is stuck."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl

import pytest

from credentials.account_kit import ALICE, House, OverHttp
from limen.credentials.discovery import Place
from limen.credentials.upstream_client import Granted, Identity
from limen.credentials.user_grants import LEASE, Held, Linked

TESTS = Path(__file__).resolve().parents[1]


class Rotating(http.server.ThreadingHTTPServer):
    """A token endpoint. The last refresh token can be repeated until its successor was used (`graceful`), or not."""

    graceful, hang = True, False
    current, before, asked = "refresh-0", "", 0


class Endpoint(http.server.BaseHTTPRequestHandler):
    server: Rotating

    def log_message(self, *_: object) -> None:
        """Silent."""

    def do_POST(self) -> None:
        form = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
        known, given = self.server, form["refresh_token"]
        known.asked += 1
        if known.hang:
            time.sleep(20)
        if given == known.current or (known.graceful and given == known.before):
            known.before, known.current = given, f"refresh-{known.asked}"
            told = {"access_token": f"access-{known.asked}", "token_type": "Bearer", "expires_in": 3600,
                    "refresh_token": known.current}  # fmt: skip
            self.answer(200, told)
        else:
            self.answer(400, {"error": "invalid_grant"})

    def answer(self, status: int, told: dict[str, object]) -> None:
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def rotating() -> Iterator[Rotating]:
    server = Rotating(("127.0.0.1", 0), Endpoint)
    server.daemon_threads, server.block_on_close = True, False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def house_of(directory: Path, url: str, later: float = 0.0) -> House:
    return House(directory, OverHttp(), Place("notes", f"{url}/mcp"), now=lambda: time.time() + later)


async def expired(house: House, url: str) -> None:
    granted = Granted("access-0", "refresh-0", 1.0, ("read",))
    await house.grants.keep(
        Linked(ALICE, "", "notes", url, f"{url}/mcp", f"{url}/token", "", Identity("c"), ("read",), granted)
    )


def child(directory: Path, url: str, point: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent / 'src'}:{TESTS}"}
    argv = [sys.executable, str(TESTS / "credentials" / "dying_refresh.py"), str(directory), url, point]
    return subprocess.Popen(argv, env=environment)


@pytest.mark.parametrize("point", ["after 1", "before 2", "after 2"])
def test_killed_between_any_two_steps_b3(tmp_path: Path, rotating: Rotating, point: str) -> None:
    url = f"http://127.0.0.1:{rotating.server_address[1]}"

    async def run() -> Held | None:
        await expired(house_of(tmp_path, url), url)
        assert await asyncio.to_thread(child(tmp_path, url, point).wait, 60) == -signal.SIGKILL
        return await house_of(tmp_path, url, LEASE + 1).grants.held(ALICE, "notes")

    held = asyncio.run(run())
    assert held is not None
    assert rotating.asked == {"after 1": 1, "before 2": 2, "after 2": 1}[point]


def test_killed_while_the_authorization_server_is_thinking_b3(tmp_path: Path, rotating: Rotating) -> None:
    url = f"http://127.0.0.1:{rotating.server_address[1]}"

    async def run() -> Held | None:
        await expired(house_of(tmp_path, url), url)
        rotating.hang = True
        process = child(tmp_path, url, "never")
        while not rotating.asked:
            await asyncio.sleep(0.05)
        process.kill()
        assert await asyncio.to_thread(process.wait, 20) == -signal.SIGKILL
        rotating.hang = False
        return await house_of(tmp_path, url, LEASE + 1).grants.held(ALICE, "notes")

    assert asyncio.run(run()) is not None


def test_where_no_refresh_token_can_be_repeated_the_person_is_asked_and_nobody_is_stuck(
    tmp_path: Path, rotating: Rotating
) -> None:
    url = f"http://127.0.0.1:{rotating.server_address[1]}"
    rotating.graceful = False

    async def run() -> None:
        await expired(house_of(tmp_path, url), url)
        await asyncio.to_thread(child(tmp_path, url, "before 2").wait, 60)
        house = house_of(tmp_path, url, LEASE + 1)
        assert await house.grants.held(ALICE, "notes") is None
        assert house.named("disconnected")

    asyncio.run(run())
