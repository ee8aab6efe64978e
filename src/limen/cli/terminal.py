"""What commands print: tables for people, JSON for programs. Text of strangers never reaches a terminal as it is."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from limen.catalog.text import printable


def as_text(value: object) -> str:
    """One cell: safe for a terminal, on one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple | set | frozenset):
        return printable(", ".join(map(str, value)))
    return printable("" if value is None else str(value))


def emit(value: Any) -> None:
    """JSON on standard output, in ASCII, so that nothing in it is obeyed by a terminal."""
    print(json.dumps(value, indent=2, ensure_ascii=True, default=str))


def line(text: str = "", *, red: bool = False) -> None:
    """One line for people."""
    safe = printable(text)
    print(f"\x1b[31m{safe}\x1b[0m" if red and sys.stdout.isatty() else safe, flush=True)


def block(text: str) -> None:
    """Several lines of our own making, each made safe."""
    for one in text.splitlines():
        line(one)


def complain(text: str) -> None:
    """One line for each thing that is wrong, on standard error."""
    for one in text.splitlines() or [""]:
        print(f"limen: {printable(one)}", file=sys.stderr, flush=True)


def table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], *, red: str = "") -> None:
    """Rows under these columns; a row whose member `red` is true stands out. Plain where nobody is watching."""
    cells = [[as_text(row.get(column)) for column in columns] for row in rows]
    if sys.stdout.isatty():
        _rich(columns, cells, [bool(red and row.get(red)) for row in rows])
        return
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for each in [list(columns), *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(each, widths, strict=True)).rstrip())


def _rich(columns: Sequence[str], cells: Sequence[Sequence[str]], loud: Sequence[bool]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(Text(column), overflow="fold")
    for row, red in zip(cells, loud, strict=True):
        shown.add_row(*(Text(cell, style="red" if red else "") for cell in row))
    Console().print(shown)
