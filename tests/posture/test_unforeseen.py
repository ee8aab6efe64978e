"""Words that nobody can foresee are each handed out once, whoever asks and however many at a time."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from limen.core.unforeseen import Unforeseen


@pytest.mark.parametrize("size", [8, 16])
def test_no_word_comes_twice(size: int) -> None:
    """Over many refills, and from several threads at once."""
    words = Unforeseen(size)
    with ThreadPoolExecutor(4) as threads:
        drawn = [one for part in threads.map(lambda _: [words.next() for _ in range(2000)], range(8)) for one in part]
    assert len(set(drawn)) == len(drawn) == 16_000
    assert all(len(one) == 2 * size and set(one) <= set("0123456789abcdef") for one in drawn)


def test_every_word_is_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them come from the operating system's generator, which is asked once for many."""
    given = bytearray()

    def urandom(count: int, ask=os.urandom) -> bytes:
        given.extend(fresh := ask(count))
        return fresh

    monkeypatch.setattr(os, "urandom", urandom)
    words = Unforeseen(16)
    drawn = {words.next() for _ in range(200)}
    assert len(given) == 4096
    assert drawn <= {given[at : at + 16].hex() for at in range(0, len(given), 16)}
