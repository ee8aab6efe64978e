"""Only the group of commands that is asked for is built, and nobody can tell."""

from __future__ import annotations

import pytest

from cli.catalog_commands import started
from limen.cli.main import COMMANDS, _asked, app

GROUPS = [one.name for one in app.registered_groups]


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("tools list", "tools"),
        ("-c tools policy show", "policy"),
        ("--config tools check", "check"),
        ("--config=tools check", "check"),
        ("-c", ""),
        ("--version", ""),
        ("--help tools", "tools"),
        ("", ""),
    ],
)
def test_what_is_asked_for(words: str, asked: str) -> None:
    assert _asked(words.split()) == asked


def test_every_command_has_one_name() -> None:
    assert {"serve", "check", "eval", "wrap"} <= COMMANDS
    assert COMMANDS.isdisjoint(GROUPS)


def test_help_and_errors_know_all_groups() -> None:
    said = started("-c", "tools", "--help").stdout.split()
    assert set(GROUPS) | COMMANDS <= set(said)
    wrong = started("polcy")
    assert wrong.returncode == 2
    assert "'policy'" in wrong.stderr


def test_a_group_is_whole_and_another_name_in_it_is_wrong() -> None:
    assert "approve" in started("tools", "--help").stdout.split()
    assert started("tools", "aprove").returncode == 2


def test_names_of_groups_are_completed() -> None:
    done = started(_LIMEN_COMPLETE="complete_bash", COMP_WORDS="limen tools a", COMP_CWORD="2")
    assert "approve" in done.stdout.split()
    done = started("check", _LIMEN_COMPLETE="complete_bash", COMP_WORDS="limen t", COMP_CWORD="1")
    assert "tools" in done.stdout.split()
