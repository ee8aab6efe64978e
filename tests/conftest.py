"""What holds for every test."""

from __future__ import annotations

import functools
import gc
import os
from pathlib import Path

import pytest
import typer.testing

_MANY = 300
# The runner builds all commands anew for each one it runs, which costs more than most of them.
typer.testing._get_command = functools.cache(typer.testing._get_command)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """What tests leave open to the collector must not pile up: parts of some libraries wait with `select`, which takes
    descriptors up to 1023 only."""
    held = Path("/proc/self/fd")
    if held.exists() and len(os.listdir(held)) > _MANY:
        gc.collect()
