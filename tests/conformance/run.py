"""The official conformance suite against Limen, or (--direct) against the fixture server alone.

    python tests/conformance/run.py [--direct] [--revision 2026-07-28] [--keep DIR]

Prints every check of the required scenarios that did not succeed. What is expected not to succeed behind Limen, and
why, stands in expected_failures.yml; test_conformance.py compares.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
REVISIONS = ("2025-11-25", "2026-07-28")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
UNMET = ("FAILURE", "WARNING")  # a warning is a SHOULD that was not kept: we list those as well


class SuiteError(Exception):
    """The suite, the fixture server or Limen could not be installed or started, or gave no result."""


@dataclass(frozen=True)
class Suite:
    """An installed suite and the Node.js it runs on."""

    node: Path
    home: Path

    def required(self, revision: str) -> tuple[str, ...]:
        """The scenarios a server must pass for this revision: the suite's own frozen list."""
        listed = yaml.safe_load((self.home / "requirements" / f"{revision}.yaml").read_text())
        return tuple(listed["server"])


def tools_directory() -> Path:
    return Path(os.environ.get("LIMEN_TOOLS") or ROOT / ".tools") / "conformance"


def install(directory: Path | None = None) -> Suite:
    """Install the pinned suite unless it is there already. Raises SuiteError with npm's words when it cannot."""
    directory = directory or tools_directory()
    modules = directory / "node_modules"
    lock = (HERE / "package-lock.json").read_bytes()
    stamp, digest = directory / "installed", hashlib.sha256(lock).hexdigest()
    if not (stamp.is_file() and stamp.read_text() == digest):
        npm = shutil.which("npm")
        if npm is None:
            raise SuiteError("npm is not installed")
        directory.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copyfile(HERE / name, directory / name)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise SuiteError(f"npm ci failed: {done.stderr[-2000:]}")
        stamp.write_text(digest)
    nodes = sorted(modules.glob("node-linux-*/bin/node"))
    if not nodes:
        raise SuiteError("the pinned Node.js is not available for this machine")
    return Suite(nodes[0], modules / "@modelcontextprotocol" / "conformance")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that listens on `port`. Raises SuiteError with its last words when it does not come up."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env=ENVIRONMENT)
    try:
        deadline = time.monotonic() + 60
        while not listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SuiteError(f"{' '.join(command[1:4])} did not start: {log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def fixture_server(directory: Path) -> Iterator[str]:
    """The fixture server; its endpoint."""
    port = free_port()
    with running([sys.executable, str(HERE / "server.py"), str(port)], port, directory / "server.log"):
        yield f"http://127.0.0.1:{port}/mcp"


@contextmanager
def limen(upstream: str, directory: Path) -> Iterator[str]:
    """Limen in front of `upstream`, everything it offers approved, anyone allowed; its endpoint."""
    port = free_port()
    config = directory / "limen.yaml"
    settings = {
        "listen": {"url": f"http://127.0.0.1:{port}"},
        "content": {"spotlight": "off"},  # the suite compares texts as the server said them
        "mcpServers": {"conf": {"url": upstream}},
        "identity": {"unsafe_anonymous": True},
        "policy": {"rules": [{"allow": "anyone", "call": "conf/*", "operations": ["tool", "prompt", "resource"]}]},
    }
    config.write_text(json.dumps(settings))  # JSON is YAML
    command = [sys.executable, "-m", "limen", "-c", str(config)]
    kinds = [word for kind in ("tool", "prompt", "resource", "template") for word in ("--kind", kind)]
    approving = [*command, "tools", "approve", "conf", "--all", *kinds]
    approve = subprocess.run(approving, capture_output=True, text=True, timeout=120, cwd=ROOT, env=ENVIRONMENT)
    if approve.returncode:
        raise SuiteError(f"approving the fixtures failed: {approve.stdout[-2000:]}{approve.stderr[-2000:]}")
    with running([*command, "serve", "--port", str(port)], port, directory / "limen.log"):
        yield f"http://127.0.0.1:{port}/mcp/conf"


def run_suite(suite: Suite, url: str, revision: str, output: Path) -> dict[str, str]:
    """`scenario:check` -> what was wrong, for each check of a required scenario that did not succeed.

    Raises SuiteError when a required scenario left no result: silence is not success.
    """
    command = [str(suite.node), str(suite.home / "dist" / "index.js"), "server", "--url", url]
    command += ["--requirements", revision, "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=output.parent)
    unmet: dict[str, str] = {}
    for scenario in suite.required(revision):
        stamped = re.compile(rf"server-{re.escape(scenario)}-\d{{4}}-\d\d-\d\dT[\d-]+Z")
        results = [path / "checks.json" for path in output.iterdir() if stamped.fullmatch(path.name)]
        if len(results) != 1 or not (checks := json.loads(results[0].read_text())):
            raise SuiteError(f"no result for {scenario}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        for check in checks:
            if check["status"] in UNMET:
                unmet[f"{scenario}:{check['id']}"] = check.get("errorMessage") or check["status"]
    return unmet


def measure(revision: str, directory: Path, *, direct: bool = False) -> dict[str, str]:
    """Start what is needed, run one revision's required scenarios, stop everything."""
    suite = install()
    directory.mkdir(parents=True, exist_ok=True)
    output = directory / "results"
    output.mkdir()
    with ExitStack() as stack:
        url = stack.enter_context(fixture_server(directory))
        if not direct:
            url = stack.enter_context(limen(url, directory))
        return run_suite(suite, url, revision, output)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--direct", action="store_true", help="without Limen: the fixtures themselves")
    parser.add_argument("--revision", choices=REVISIONS, action="append", help="default: both")
    parser.add_argument("--keep", type=Path, help="keep logs and results in this directory")
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        for revision in options.revision or REVISIONS:
            place = (options.keep or Path(temporary)).resolve() / revision
            unmet = measure(revision, place, direct=options.direct)
            failed = failed or bool(unmet)
            print(f"{revision}: {len(unmet)} of the required checks did not succeed")
            for name, why in unmet.items():
                print(f"  {name}: {why}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
