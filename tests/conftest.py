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


class Descriptors:
    """What tests leave open to the collector must not pile up: parts of some libraries wait with `select`, which takes
    descriptors up to 1023 only."""

    def __init__(self) -> None:
        self.held = Path("/proc/self/fd")
        self.most = _MANY if self.held.exists() else None

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self) -> None:
        if self.most is not None and len(os.listdir(self.held)) > self.most:
            gc.collect()
            self.most = len(os.listdir(self.held)) + _MANY  # those somebody holds: looking again would not help


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Descriptors())
