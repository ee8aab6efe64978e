"""The demonstration ends well: every step of it is what the first reader of the project sees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(300)
def test_every_step_of_the_demonstration_ends_as_it_should(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "limen", "demo", "--once"], cwd=tmp_path, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout
    assert "untrusted-data" not in done.stdout  # marks are for models
