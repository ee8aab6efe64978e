"""The official suite's scenarios for authorization servers, against Limen with a real provider behind it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx2
import pytest

from conformance.run import REVISIONS, Suite, free_port
from oauth.scripted import Person
from oauth.signing_in import Scene, scene

SCENARIOS = ("authorization-server-metadata-endpoint", "authorization-code-grant")
KNOWN = {"suite": {"name": "Conformance suite", "redirect_uris": ["http://127.0.0.1:3000/callback"]}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    place = tmp_path_factory.mktemp("as")
    with pytest.MonkeyPatch.context() as patch, scene(place, patch, clients={"known": KNOWN}, approved=()) as found:
        yield found


def test_these_are_all_scenarios(suite: Suite) -> None:
    argv = [str(suite.node), str(suite.home / "dist" / "index.js"), "list", "--authorization"]
    listed = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout
    assert {line.split()[1] for line in listed.splitlines() if line.startswith("  - ")} == set(SCENARIOS)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("revision", REVISIONS)
def test_every_check_succeeds(suite: Suite, made: Scene, revision: str, tmp_path: Path) -> None:
    """Nothing is skipped, warned of or failed: the suite asks, a person agrees and signs in, the suite gets tokens."""
    port, out = free_port(), tmp_path / "out"
    argv = [str(suite.node), str(suite.home / "dist" / "index.js"), "authorization", "--url", made.base]
    argv += ["--client-id", "suite", "--resource", f"{made.base}/mcp/one", "-p", str(port), "-o", str(out)]
    argv += ["--spec-version", revision]
    said: list[str] = []
    running = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
    with running:
        try:
            assert running.stdout is not None
            for line in running.stdout:
                said.append(line)
                if line.startswith(f"{made.base}/oauth/authorize?"):
                    person = Person(partial(made.provider.come_back, sub="alice"))
                    came = person.authorize(line.strip())
                    assert httpx2.get(came, trust_env=False).status_code == 200
        finally:
            running.kill()
    everything = "".join(said)
    assert running.returncode == 0, everything
    found = {}
    for path in out.rglob("checks.json"):
        for check in json.loads(path.read_text()):
            found[path.parent.name, check["id"]] = check["status"], check.get("errorMessage")
    assert len(found) == 3, everything  # the metadata, its documents of clients, the grant
    assert {status for status, _ in found.values()} == {"SUCCESS"}, found
