"""What holds for every test."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

_MANY = 300


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """What tests leave open to the collector must not pile up: parts of some libraries wait with `select`, which takes
    descriptors up to 1023 only."""
    held = Path("/proc/self/fd")
    if held.exists() and len(os.listdir(held)) > _MANY:
        gc.collect()
