"""Killed processes and full disks, for real: a child process appends, and is killed or runs into a limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import limen
from limen.adapters.keys import FileSigner
from limen.audit.ledger import Ledger
from limen.audit.read import read
from limen.audit.verify import verify

HEAD = """
import resource, sys, time
from pathlib import Path
from limen.adapters.keys import FileSigner
from limen.audit.ledger import Ledger
from limen.audit.read import read
from limen.audit.verify import verify
from limen.core.faults import DependencyFault
home = Path(sys.argv[1])
signer = FileSigner.open(home / "key", "log.example/audit")
"""

APPENDER = """
ledger = Ledger.open(home / "log", signer, fsync_interval=0.005)
while True:
    size = ledger.size
    index = ledger.append(b"%d " % size + b"x" * (size * 7919 % 9000))
    sys.stdout.write(f"{index}\\n")
    sys.stdout.flush()
"""

FULL = """
ledger = Ledger.open(home / "log", signer, fsync_interval=0.005)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
written = 0
try:
    while True:
        ledger.append(b"%d" % written + b"y" * 120)
        written += 1
except DependencyFault as fault:
    assert "record could not be written" in str(fault), fault
assert 30 < written < 45, written
assert (home / "log/journal/000").stat().st_size < 5000
assert len(list(read(home / "log"))) == written
assert not ledger.healthy
for _ in range(3):
    try:
        ledger.append(b"z" * 500)
    except DependencyFault:
        continue
    raise SystemExit("appended to a full disk")
assert verify(home / "log", signer.verifier_key).ok
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
for _ in range(2000):
    if ledger.healthy:
        break
    time.sleep(0.005)
assert ledger.healthy, "notices by itself that there is space again"
assert ledger.append(b"after") == written
ledger.close_now()
report = verify(home / "log", signer.verifier_key)
assert report.ok and report.size == written + 1, report
assert list(read(home / "log", written)) == [(written, b"after")]
"""


def child(code: str, home: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(limen.__file__).parent.parent)}
    command = [sys.executable, "-c", HEAD + code, str(home)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_kill_9_loses_nothing_that_was_appended(tmp_path: Path) -> None:
    signer = FileSigner.open(tmp_path / "key", "log.example/audit")
    seen: bytes | None = None
    for delay in (0.02, 0.11, 0.23):
        process = child(APPENDER, tmp_path)
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        rest, trouble = process.communicate(timeout=20)
        assert process.returncode == -signal.SIGKILL, trouble
        printed = [int(line) for line in [first, *rest.splitlines(keepends=True)] if line.endswith("\n")]
        assert verify(tmp_path / "log", signer.verifier_key, at_least=seen).ok, "also before it is opened again"
        ledger = Ledger.open(tmp_path / "log", signer)
        assert ledger.size > printed[-1]
        ledger.close_now()
        found = dict(read(tmp_path / "log"))
        for index in printed:
            assert found[index].startswith(b"%d " % index)
        report = verify(tmp_path / "log", signer.verifier_key, at_least=seen)
        assert report.ok, report.problem
        assert report.size == len(found)
        seen = (tmp_path / "log/checkpoint").read_bytes()


def test_second_process_is_refused(tmp_path: Path) -> None:
    signer = FileSigner.open(tmp_path / "key", "log.example/audit")
    ledger = Ledger.open(tmp_path / "log", signer)
    process = child(APPENDER, tmp_path)
    _, trouble = process.communicate(timeout=20)
    assert process.returncode != 0
    assert "another process writes the ledger" in trouble
    ledger.close_now()


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits are POSIX")
def test_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    process = child(FULL, tmp_path)
    _, trouble = process.communicate(timeout=30)
    assert process.returncode == 0, trouble
