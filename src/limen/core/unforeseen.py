"""Words that nobody can foresee, from the operating system's generator: asked once for many of them."""

from __future__ import annotations

import os

_FETCHED = 4096  # bytes asked for at once


class Unforeseen:
    """Each of `size` random bytes, in hexadecimal, and handed out once. From any thread; not across a fork."""

    def __init__(self, size: int) -> None:
        self._digits = 2 * size
        self._ready: list[str] = []

    def next(self) -> str:
        """2 * size hexadecimal digits."""
        try:
            return self._ready.pop()
        except IndexError:  # none left; what another thread fetches meanwhile is as good
            digits, each = os.urandom(_FETCHED).hex(), self._digits
            fetched = [digits[at : at + each] for at in range(0, len(digits), each)]
            word = fetched.pop()
            self._ready = fetched
            return word
