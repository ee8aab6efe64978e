"""`functools.lru_cache` for functions of one text that strangers choose."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Final, TypeVar

_Answer = TypeVar("_Answer")
LONGEST: Final = 256


def remembered(most: int, longest: int = LONGEST) -> Callable[[Callable[[str], _Answer]], Callable[[str], _Answer]]:
    """Keep the last `most` answers. Those to texts of more than `longest` characters are worked out anew: a cache
    bounded in entries only is as large as somebody's names are long."""

    def around(work: Callable[[str], _Answer]) -> Callable[[str], _Answer]:
        kept = lru_cache(maxsize=most)(work)

        @wraps(work)
        def answer(text: str) -> _Answer:
            return kept(text) if len(text) <= longest else work(text)

        return answer

    return around
