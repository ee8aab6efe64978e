"""A process that serves one token request and is killed at its n-th write: `before` it is done, or right `after`.

python -m oauth.killed_endpoint FILE N before|after FORM; prints the status when it lives.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator

from limen.adapters.sqlite import SqliteTable
from oauth.granting import World


class Killing:
    """A table that takes its process with it."""

    def __init__(self, table: SqliteTable, number: int, when: str) -> None:
        self.table, self.left, self.when = table, number, when

    def get(self, key: str) -> bytes | None:
        return self.table.get(key)

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        return self.table.scan(prefix)

    def put(self, key: str, value: bytes, expires: float | None = None) -> None:
        self.before()
        self.table.put(key, value, expires)
        self.after()

    def swap(self, key: str, old: bytes | None, new: bytes | None, expires: float | None = None) -> bool:
        self.before()
        done = self.table.swap(key, old, new, expires)
        self.after()
        return done

    def before(self) -> None:
        self.left -= 1
        if self.left == 0 and self.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)

    def after(self) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    place, number, when, form = sys.argv[1:]
    world = World(Killing(SqliteTable(place, "oauth"), int(number), when), clock=time.time)  # type: ignore[arg-type]
    print(world.ask(**json.loads(form))[0])


if __name__ == "__main__":
    main()
