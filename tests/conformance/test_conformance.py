"""The official suite's required server scenarios, through Limen, in both protocol eras."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from conformance.run import HERE, REVISIONS, measure

EXPECTED: dict[str, dict[str, str]] = yaml.safe_load((HERE / "expected_failures.yml").read_text())


pytestmark = pytest.mark.usefixtures("suite")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("revision", REVISIONS)
def test_fixtures_conform_by_themselves(revision: str, tmp_path: Path) -> None:
    """So that whatever fails behind Limen is Limen's."""
    assert measure(revision, tmp_path / "run", direct=True) == {}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("revision", REVISIONS)
def test_limen_conforms_except_as_listed(revision: str, tmp_path: Path) -> None:
    unmet = measure(revision, tmp_path / "run")
    expected = EXPECTED[revision]
    new = {name: why for name, why in unmet.items() if name not in expected}
    assert not new, "new failures"
    assert not expected.keys() - unmet.keys(), "these succeed now: remove them from expected_failures.yml"


def test_every_expected_failure_has_a_reason() -> None:
    assert EXPECTED.keys() == set(REVISIONS)
    for revision, entries in EXPECTED.items():
        for name, reason in entries.items():
            assert ":" in name, (revision, name)
            assert len(reason) > 20, (revision, name)
