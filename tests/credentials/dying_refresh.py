"""Renews a token over real HTTP and dies, as by a power cut, at one point: `dying_refresh.py DIRECTORY URL POINT`.

POINT is `before N` or `after N`: the N-th compare-and-set of the renewal; or `never`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from credentials.account_kit import ALICE, House, OverHttp
from limen.credentials.discovery import Place


class Dying:
    """A table that ends the process."""

    def __init__(self, table: Any, point: str) -> None:
        self._table, self._point, self._count = table, point, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)

    def swap(self, *given: Any) -> bool:
        self._count += 1
        if self._point == f"before {self._count}":
            os.kill(os.getpid(), signal.SIGKILL)
        swapped: bool = self._table.swap(*given)
        if self._point == f"after {self._count}":
            os.kill(os.getpid(), signal.SIGKILL)
        return swapped


async def main(directory: str, url: str, point: str) -> None:
    house = House(Path(directory), OverHttp(), Place("notes", f"{url}/mcp"), now=time.time)
    house.grants._table = Dying(house.tables["vault"], point)
    await house.grants.held(ALICE, "notes")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
