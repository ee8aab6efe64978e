"""Limen as real processes, forked from one that has everything imported.

Python and the product take a second or two to start, and tests start gateways and commands by the hundred. What is
forked has arguments, a directory, an environment, files and an end of its own, and does what `python -m limen` does.
Tests of how a program starts use the interpreter.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import functools
import gc
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_CODE = "import sys; from launched import _main; _main(int(sys.argv[1]))"
_LARGEST = 1 << 17
_PATH = os.environ.get("PYTHONPATH", "")


def readable(file: socket.socket | IO[bytes] | int, seconds: float | None) -> bool:
    """Whether there is something to read, or an end, within that time; `select` takes descriptors up to 1023 only."""
    waiting = select.poll()
    waiting.register(file, select.POLLIN)
    return bool(waiting.poll(None if seconds is None else seconds * 1000))


class Program:
    """A process: what tests need of `subprocess.Popen`."""

    def __init__(self, args: Sequence[str], told: socket.socket) -> None:
        self.args, self._told, self._said = ["limen", *args], told, b""
        self.returncode: int | None = None
        self.pid = int(self._line(60))

    def _line(self, seconds: float | None) -> str:
        until = None if seconds is None else time.monotonic() + seconds
        while b"\n" not in self._said:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not readable(self._told, left):
                raise subprocess.TimeoutExpired(self.args, seconds or 0)
            more = self._told.recv(64)
            if not more:
                raise ChildProcessError("what starts programs for tests has ended")
            self._said += more
        line, _, self._said = self._said.partition(b"\n")
        return line.decode()

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(int(self._line(timeout)))
            self._told.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    arguments: Sequence[str], *, out: IO[Any], err: IO[Any] | None = None, given: IO[Any] | None = None,
    env: Mapping[str, str] | None = None, cwd: Path | str | None = None,
) -> Program | subprocess.Popen[bytes]:  # fmt: skip
    """`limen ARGUMENTS`, on its way. With a PYTHONPATH of its own it is started by the interpreter, which heeds it."""
    environment = dict(os.environ if env is None else env)
    if environment.get("PYTHONPATH", _PATH) != _PATH:
        argv = [sys.executable, "-m", "limen", *arguments]
        return subprocess.Popen(argv, stdin=given, stdout=out, stderr=err or out, env=environment, cwd=cwd)
    ours, theirs = socket.socketpair()
    asked = {"argv": list(arguments), "env": environment, "cwd": str(cwd or os.getcwd())}
    with theirs, open(os.devnull) as nothing:
        files = [(given or nothing).fileno(), out.fileno(), (err or out).fileno(), theirs.fileno()]
        control, lock = _starter()
        with lock:
            control.sendmsg(
                [json.dumps(asked).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))]
            )
    return Program(arguments, ours)


def limen(
    *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | str | None = None, given: str = "",
    check: bool = False, timeout: float = 60,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """`limen ARGUMENTS` to its end. Raises CalledProcessError if `check`, TimeoutExpired."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, tempfile.TemporaryFile("w+") as text:
        text.write(given)
        text.seek(0)
        program = start(arguments, out=out, err=err, given=text, env=env, cwd=cwd)
        try:
            status = program.wait(timeout)
        finally:
            program.kill()
        told: list[str] = []
        for file in (out, err):
            file.seek(0)
            told.append(file.read())
    if check and status:
        raise subprocess.CalledProcessError(status, program.args, *told)
    return subprocess.CompletedProcess(program.args, status, *told)


def free_port() -> int:
    """Nobody listens there, and the system gives it to nobody who does not ask for it by number."""
    while True:
        number = 12_000 + secrets.randbelow(20_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", number))
            return number


@functools.cache
def _starter() -> tuple[socket.socket, threading.Lock]:
    """One for each process that runs tests."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-c", _CODE, str(theirs.fileno())],
        pass_fds=[theirs.fileno()], env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait(10)

    atexit.register(end)
    return ours, threading.Lock()


# From here on: in the process that forks.


def _main(number: int) -> None:
    """Fork for everyone who asks; the child returns from `_serve` and is the program."""
    import typer.main

    import limen.cli.main
    import limen.config.model
    import limen.gateway.run

    limen.config.model.Config.model_validate({})
    typer.main.get_command = functools.cache(typer.main.get_command)
    typer.main.get_command(limen.cli.main.app)
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=number) as control:
        _serve(control)
    limen.cli.main.run()


def _serve(control: socket.socket) -> None:
    """Until nobody can ask any more; returns in a child."""
    awake, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, int] = {}  # pid -> where its end is told
    while True:
        ready, _, _ = select.select([control, awake], [], [])
        if awake in ready:
            awake.recv(4096)
            _reap(running)
        if control not in ready:
            continue
        message, files, _, _ = socket.recv_fds(control, _LARGEST, 4)
        if not message:
            os._exit(0)
        told = files.pop()
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for number in (told, awake.detach(), wake.detach(), *running.values()):
                os.close(number)
            _become(json.loads(message), files)
            return
        for file in files:
            os.close(file)
        running[pid] = told
        _tell(told, pid)


def _reap(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        told = running.pop(pid)
        _tell(told, status)
        os.close(told)


def _tell(told: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
        os.write(told, b"%d\n" % number)


def _become(asked: dict[str, Any], files: list[int]) -> None:
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv = ["limen", *asked["argv"]]
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
