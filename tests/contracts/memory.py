"""The smallest thing that is a Table: what the contract is checked against besides the real adapter."""

import time


class MemoryTable:
    def __init__(self, now=time.time):
        self._rows, self._now = {}, now

    def get(self, key):
        value, expires = self._rows.get(key, (None, None))
        return value if expires is None or expires > self._now() else None

    def put(self, key, value, expires=None):
        self._rows[key] = (value, expires)

    def swap(self, key, old, new, expires=None):
        if self.get(key) != old:
            return False
        if new is None:
            self._rows.pop(key, None)
        else:
            self._rows[key] = (new, expires)
        return True

    def scan(self, prefix):
        rows = [(key, self.get(key)) for key in sorted(self._rows) if key.startswith(prefix)]
        return iter([(key, value) for key, value in rows if value is not None])
