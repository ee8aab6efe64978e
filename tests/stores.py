"""Real PostgreSQL and Redis servers for tests, as processes on loopback; they can be killed and come back."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from launched import free_port


class Server:
    """One process; `start` waits until it takes connections."""

    def __init__(self, argv: list[str], port: int, user: str | None, directory: Path) -> None:
        self.argv, self.port, self.user, self.directory = argv, port, user, directory
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                self.argv, stdout=log, stderr=log, cwd=self.directory, user=self.user, start_new_session=True
            )
        for _ in range(200):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return
            assert self.process.poll() is None, (self.directory / "log").read_text()
            time.sleep(0.05)
        raise AssertionError((self.directory / "log").read_text())

    def kill(self) -> None:
        """As a power cut would."""
        if self.process is not None and self.process.poll() is None:
            self._all(signal.SIGKILL)
            self.process.wait(20)

    def pause(self) -> None:
        """It holds its connections and says nothing."""
        assert self.process is not None
        self._all(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self._all(signal.SIGCONT)

    def _all(self, number: int) -> None:
        """To it and its children: PostgreSQL's have process groups of their own."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in (self.process.pid, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _directory(prefix: str, user: str | None) -> Path:
    path = Path(tempfile.mkdtemp(prefix=prefix))
    if user is not None:
        shutil.chown(path, user)
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def _account(name: str) -> str | None:
    """Whom to become: these servers refuse to run as root."""
    if os.getuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return name if name in known else "nobody"


def postgres_program(name: str) -> str | None:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return str(found[0]) if found else shutil.which(name)


def new_postgres() -> tuple[str, Server]:
    """Its URL and the server, started. Each call is another one."""
    initdb, program = postgres_program("initdb"), postgres_program("postgres")
    if initdb is None or program is None:
        pytest.skip("PostgreSQL is not installed (initdb, postgres)")
    user = _account("postgres")
    directory, port = _directory("limen-pg-", user), free_port()
    subprocess.run(
        [initdb, "-D", str(directory / "data"), "-U", "limen", "-A", "trust", "-E", "UTF8", "--no-sync"],
        check=True, capture_output=True, user=user, cwd=directory, timeout=60,
    )  # fmt: skip
    argv = [program, "-D", str(directory / "data"), "-p", str(port), "-c", "listen_addresses=127.0.0.1",
            "-c", f"unix_socket_directories={directory}", "-c", "fsync=off", "-c", "shared_buffers=16MB"]  # fmt: skip
    server = Server(argv, port, user, directory)
    atexit.register(server.kill)
    server.start()
    url = f"postgresql://limen@127.0.0.1:{port}/postgres"
    import psycopg

    for _ in range(100):
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(url, connect_timeout=2).close()
            return url, server
        time.sleep(0.05)
    raise AssertionError((directory / "log").read_text())


def new_redis() -> tuple[str, Server]:
    """Its URL and the server, started. Each call is another one."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("Redis is not installed (redis-server)")
    directory, port = _directory("limen-redis-", None), free_port()
    argv = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = Server(argv, port, None, directory)
    atexit.register(server.kill)
    server.start()
    return f"redis://127.0.0.1:{port}/0", server


@functools.cache
def shared_postgres() -> str:
    """One for all tests that do not harm it."""
    return new_postgres()[0]


@functools.cache
def shared_redis() -> str:
    """One for all tests that do not harm it."""
    return new_redis()[0]
