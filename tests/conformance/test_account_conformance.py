"""The official suite's required client scenarios about authorization, against Limen's way to a connected account."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from conformance.run import HERE, ROOT, UNMET, Suite

# As required by the frozen list of 2026-07-28; that the list is still this one is a test as well.
SCENARIOS = (
    "metadata-default", "metadata-var1", "metadata-var2", "metadata-var3", "basic-cimd", "scope-from-www-authenticate",
    "scope-from-scopes-supported", "scope-omitted-when-undefined", "scope-step-up", "scope-retry-limit",
    "token-endpoint-auth-basic", "token-endpoint-auth-post", "token-endpoint-auth-none", "pre-registration",
    "resource-mismatch", "offline-access-scope", "offline-access-not-supported", "authorization-server-migration",
    "iss-supported", "iss-not-advertised", "iss-supported-missing", "iss-wrong-issuer", "iss-unexpected",
    "iss-normalized", "metadata-issuer-mismatch",
)  # fmt: skip


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a process that has everything imported waits."""
    place = tmp_path_factory.mktemp("client") / "s"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"}
    with subprocess.Popen([sys.executable, str(HERE / "account_client.py"), str(place)], env=environment) as process:
        try:
            deadline = time.monotonic() + 60
            while not place.exists():
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
            yield place
        finally:
            process.kill()


def test_these_are_the_required_scenarios(suite: Suite) -> None:
    listed = yaml.safe_load((suite.home / "requirements" / "2026-07-28.yaml").read_text())["client"]
    assert {name for name in listed if name.startswith("auth/")} == {f"auth/{name}" for name in SCENARIOS}


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.requirement("CLI-01", "CLI-06", "CLI-14", "CLI-20")
def test_scenario_cli01_cli06_cli14_cli20(suite: Suite, scenario: str, tmp_path: Path, waiting: Path) -> None:
    command = shlex.join([sys.executable, "-IS", str(HERE / "account_command.py"), str(waiting)])
    argv = [str(suite.node), str(suite.home / "dist" / "index.js"), "client", "--command", command]
    argv += ["--scenario", f"auth/{scenario}", "-o", str(tmp_path / "out")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, cwd=tmp_path)
    results = list((tmp_path / "out").rglob("checks.json"))
    assert len(results) == 1, done.stdout[-2000:] + done.stderr[-2000:]
    checks = json.loads(results[0].read_text())
    unmet = {check["id"]: check.get("errorMessage") for check in checks if check["status"] in UNMET}
    assert any(check["status"] == "SUCCESS" for check in checks)  # silence is not success
    assert not unmet, done.stderr[-2000:]
