"""Each requirement has a test that names it, and each named requirement exists; the published table is current."""

from __future__ import annotations

from pathlib import Path

import pytest

from requirements import document, marked, proofs, rows

ROOT = Path(__file__).resolve().parent.parent


def test_every_row_is_proven_or_explained() -> None:
    shown = proofs()
    assert [row.id for row in rows().values() if not row.why and row.id not in shown] == []


def test_an_explained_row_has_no_test() -> None:
    shown = proofs()
    assert [row.id for row in rows().values() if row.why and row.id in shown] == []
    assert all(len(row.why) > 40 for row in rows().values() if row.why)


def test_every_named_row_exists() -> None:
    assert sorted(set(proofs()) - set(rows())) == []


def test_the_table_is_current() -> None:
    assert (ROOT / "docs" / "requirements.md").read_text() == document(), (
        "python tests/requirements.py > docs/requirements.md"
    )


@pytest.mark.parametrize(
    "text",
    [
        '@pytest.mark.requirement("AUTH-01")\ndef helper() -> None: ...',
        'class Test:\n    @pytest.mark.requirement("AUTH-01")\n    def test_x(self) -> None: ...',
        'def outer() -> None:\n    @pytest.mark.requirement("AUTH-01")\n    def test_x() -> None: ...',
        "@pytest.mark.requirement(IDS)\ndef test_x() -> None: ...",
        '@pytest.mark.requirement(*["AUTH-01"])\ndef test_x() -> None: ...',
        "@pytest.mark.requirement\ndef test_x() -> None: ...",
        "@pytest.mark.requirement()\ndef test_x() -> None: ...",
        'pytestmark = pytest.mark.requirement("AUTH-01")\ndef test_x() -> None: ...',
        'ROWS = pytest.mark.requirement("AUTH-01")\n@ROWS\ndef test_x() -> None: ...',
    ],
)
def test_a_mark_that_would_count_for_nothing_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "test_it.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"requirement|ids"):
        marked(path)


def test_marks_are_read(tmp_path: Path) -> None:
    path = tmp_path / "test_it.py"
    path.write_text('@pytest.mark.requirement("A-01", "A-02")\n@pytest.mark.x\nasync def test_x() -> None: ...\n')
    assert marked(path) == {"test_x": ("A-01", "A-02")}
