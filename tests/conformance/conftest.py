"""The official suite, installed once for all tests of this folder."""

from __future__ import annotations

import pytest

from conformance.run import Suite, SuiteError, install


@pytest.fixture(scope="session")
def suite() -> Suite:
    try:
        return install()
    except SuiteError as fault:
        if "npm is not installed" in str(fault):
            pytest.skip("the conformance suite needs npm, which is not installed")
        raise
