"""Every attack on definitions and content that is known here has a test that carries its id, an honest twin, and a
row in docs/threats.md."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent
# TP: definitions. PI: words that give orders. EX: what must not leave. CI: what arguments make a server do.
ATTACKS = {
    "TP-01": "orders in a description",
    "TP-02": "orders anywhere else in a definition",
    "TP-03": "invisible text in a definition",
    "TP-04": "terminal sequences in a definition",
    "TP-05": "text that is read before any tool is called",
    "TP-06": "rug pull",
    "TP-07": "cloaked rug pull",
    "TP-08": "other behaviour under an unchanged definition",
    "TP-09": "shadowing of another server's tool",
    "TP-10": "colliding and squatted names",
    "TP-11": "praise that wants to be chosen",
    "TP-12": "parameters that collect the conversation",
    "TP-13": "hints that lie",
    "TP-14": "schema bombs and remote references",
    "TP-15": "a flood of definitions",
    "TP-16": "headers by a schema",
    "TP-17": "content that a client renders",
    "TP-18": "lists and answers shared between callers",
    "PI-01": "orders in a result",
    "PI-02": "a ticket that has the database read out",
    "PI-03": "orders a page hides",
    "PI-04": "orders in an error",
    "PI-05": "orders in a log, encoded",
    "PI-06": "orders in a resource, embedded or linked",
    "PI-07": "orders in a prompt or in instructions",
    "PI-08": "a server uses the client's model",
    "PI-09": "a form that fishes for secrets",
    "PI-10": "data that leaves when a text is shown",
    "PI-11": "poison where a filter does not look",
    "PI-12": "encoded and split orders",
    "PI-13": "orders in a picture or in sound",
    "PI-14": "orders put into a memory",
    "PI-15": "a stranger's words, private data and a way out",
    "PI-16": "orders in a notification",
    "PI-17": "fake turns and ends of data",
    "PI-18": "orders behind more text than is read",
    "PI-19": "a question to the approver that shows something else",
    "PI-20": "completions and roots",
    "EX-01": "secrets in an answer",
    "EX-02": "secrets in resources and prompts",
    "EX-03": "secrets in arguments for a stranger",
    "EX-04": "secrets encoded or split",
    "EX-05": "data in an address",
    "EX-06": "personal data for everybody",
    "EX-07": "secrets in what is kept",
    "EX-08": "another's answer",
    "EX-09": "a credential sent to a host the caller names",
    "EX-10": "a copy to somebody else",
    "CI-01": "commands",
    "CI-02": "options",
    "CI-03": "paths out of a directory",
    "CI-04": "links out of a directory",
    "CI-05": "repositories anywhere",
    "CI-06": "files that are run later",
    "CI-07": "SQL",
    "CI-08": "internal addresses",
    "CI-09": "templates, code, serialised objects",
    "CI-10": "other interpreters",
    "CI-11": "path parameters",
    "CI-12": "markup shown in a console",
    "CI-13": "one call that costs too much",
    "CI-14": "an allowed tool with the effect of a denied one",
    "CI-15": "destruction without consent",
}
ELSEWHERE = {  # shown by tests of other rooms, which have ids of their own
    "EX-08": "whose answer it is is decided on the wire",
    "CI-04": "no text shows a link: the cell holds",
}
TWINS = {  # without the id
    "TP-07": "gateway/test_rugpull.py::test_honest_servers_are_left_alone",
    "TP-18": "gateway/test_gateway.py::test_lists_show_exactly_what_could_be_called",
}
_RANGE = re.compile(r"\b([A-Z]{2})-(\d\d) to (?:[A-Z]{2}-)?(\d\d)\b")


@cache
def rows() -> dict[str, list[str]]:
    """Tests by id, as the document names them."""
    found: dict[str, list[str]] = {}
    for line in (TESTS.parent / "docs" / "threats.md").read_text().splitlines():
        if match := re.match(r"\| ([A-Z]{2}-\d\d): ", line):
            assert match[1] not in found, f"{match[1]} stands there twice"
            found[match[1]] = re.findall(r"`([\w/]+\.py::\w+)`", line.split(" | ")[2])
    return found


@cache
def carried(file: str) -> dict[str, str]:
    """What each test of a file says that it shows, ranges written out."""
    tree = ast.parse((TESTS / file).read_text())

    def written_out(said: str) -> str:
        return said + " ".join(f"{m[1]}-{n:02}" for m in _RANGE.finditer(said) for n in range(int(m[2]), int(m[3]) + 1))

    return {
        node.name: written_out(ast.get_docstring(node) or "")
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }


def test_the_document_has_exactly_these_attacks() -> None:
    assert set(rows()) == set(ATTACKS)
    assert set(ELSEWHERE) <= set(ATTACKS)


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_has_a_test_that_carries_its_id(attack: str) -> None:
    tests = rows()[attack]
    assert tests, ATTACKS[attack]
    shown = [test for test in tests if attack in carried(test.partition("::")[0]).get(test.partition("::")[2], "")]
    assert shown or attack in ELSEWHERE, f"{attack} ({ATTACKS[attack]}): none of {tests} says so"


@pytest.mark.parametrize("attack", [attack for attack in ATTACKS if attack not in ELSEWHERE])
def test_every_attack_has_an_honest_twin(attack: str) -> None:
    """A control that stops everything stops the attack, too: somewhere a twin of it passes."""
    if attack in TWINS:
        file, _, name = TWINS[attack].partition("::")
        assert name in carried(file)
        return
    files = {test.partition("::")[0] for test in rows()[attack]}
    files |= {path.relative_to(TESTS).as_posix() for path in (TESTS / "attacks").glob("test_c*_attacks*.py")}
    assert any(
        attack in said and ("twin" in said or (name in rows()[attack] and "honest" in said))
        for file in files
        for name, said in carried(file).items()
    ), ATTACKS[attack]
