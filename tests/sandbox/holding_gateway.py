"""Starts a hostile server in a cell, prints the processes of it, and waits to be killed."""

import asyncio
import sys

from limen.adapters.processes import tree
from sandbox.cells_kit import inside


async def main() -> None:
    async with inside() as cell:
        await cell.run("found = 1")
        sys.stdout.write(" ".join(map(str, tree(cell.pid))) + "\n")
        sys.stdout.flush()
        await asyncio.sleep(600)


asyncio.run(main())
