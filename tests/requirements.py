"""What Limen owes: rules of the Model Context Protocol and the attacks that break them, each with its tests.

A test says which of them it proves with `@pytest.mark.requirement("AUTH-05", "AU-03")`. test_requirements.py holds that
each row has a test that exists or says why it has none. `python tests/requirements.py > docs/requirements.md` writes
the table.

The sentences are ours and short; what counts is the page.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from requirement_rows import ATTACKS, OAUTH, PAGES, PROTOCOL
from requirement_rows_oauth import CLIENT, FACADE, REFRESH, SERVER

TESTS = Path(__file__).resolve().parent
MARK = "pytest.mark.requirement"
_PARTS = (
    ("The protocol", PROTOCOL),
    ("AS: the authorization server", SERVER),
    ("CLI: a client of other authorization servers", CLIENT),
    ("AU: callers and sessions", ATTACKS),
    ("OA: signing in, codes and tokens", tuple(sorted((*FACADE, *OAUTH, *REFRESH)))),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One requirement. `era`: revisions it belongs to, "" for an attack. `why`: why it has no test, "" if it must."""

    id: str
    era: str
    source: str
    sentence: str
    why: str = ""


def rows() -> dict[str, Row]:
    """All rows by id, in the order of the table. Raises ValueError for an id or a sentence that is there twice."""
    table: dict[str, Row] = {}
    for row in (Row(*cells) for _, part in _PARTS for cells in part):
        if row.id in table or any(row.sentence == other.sentence for other in table.values()):
            raise ValueError(f"{row.id} is there twice")
        table[row.id] = row
    return table


def marked(path: Path) -> dict[str, tuple[str, ...]]:
    """Tests of one file that pytest collects, with the ids they name: functions `test_*` of the module itself.

    Raises ValueError for a mark whose ids are not written out, or on something that is no such test.
    """
    found: dict[str, tuple[str, ...]] = {}
    tree, seen = ast.parse(path.read_text()), 0
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not node.name.startswith("test_"):
            continue
        ids: list[str] = []
        for mark in node.decorator_list:
            if not isinstance(mark, ast.Call) or ast.unparse(mark.func) != MARK:
                continue
            seen += 1
            words = [word.value for word in mark.args if isinstance(word, ast.Constant)]
            if not words or len(words) != len(mark.args) or mark.keywords:
                raise ValueError(f"{path.name}::{node.name}: ids are written out")
            ids += map(str, words)
        if ids:
            found[node.name] = tuple(ids)
    everywhere = sum(isinstance(node, ast.Attribute) and ast.unparse(node) == MARK for node in ast.walk(tree))
    if everywhere != seen:
        raise ValueError(f"{path.name}: a requirement is marked where no test is")
    return found


def proofs() -> dict[str, list[str]]:
    """`file::test` by requirement id, over the whole tree."""
    table: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        if MARK not in path.read_text():
            continue
        for test, ids in marked(path).items():
            for one in ids:
                table.setdefault(one, []).append(f"{path.relative_to(TESTS).as_posix()}::{test}")
    return table


def document() -> str:
    """docs/requirements.md."""
    table, shown = rows(), proofs()
    explained = [row for row in table.values() if row.why]
    lines = [
        "# Requirements",
        "",
        "Rules of the [Model Context Protocol](https://modelcontextprotocol.io/specification) for whoever receives "
        "or issues tokens, is a client of others that do, speaks Streamable HTTP or stdio, and keeps sessions; attacks "
        "on identity, authorization and sessions (AU); attacks on signing in, codes, tokens and proofs (OA). Each is "
        "named by the tests that prove it, marked "
        '`@pytest.mark.requirement("AUTH-05")`; `tests/test_requirements.py` fails for a row without a test and for a '
        "test without a row. Written by `python tests/requirements.py > docs/requirements.md`.",
        "",
        f"{len(table)} rows: {len(table) - len(explained)} have tests, {len(explained)} are explained.",
        "",
        "Sources are pages of the specification: "
        + "; ".join(f"**{code}** {page}" for code, page in PAGES.items())
        + ". Otherwise an OWASP MCP Top 10 class or an RFC.",
    ]
    for title, cells in _PARTS:
        lines += ["", f"## {title}", "| Id | Rule or attack | Revision | Source | Tests, or why there is none |"]
        lines.append("|---|---|---|---|---|")
        for one in cells:
            row = table[one[0]]
            told = row.why or "<br>".join(f"`{test}`" for test in shown.get(row.id, ["**missing**"]))
            lines.append(f"| {row.id} | {row.sentence} | {row.era or '-'} | {row.source} | {told} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(document(), end="")
