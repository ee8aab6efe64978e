"""How often strangers may begin something we have to remember (OA-88). Bounded itself; forgets who stays away."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from limen.oauth.web import OAuthError

_ADDRESSES: Final = 10_000  # remembered; beyond that the one that was away longest starts anew


class Arrivals:
    """A bucket for each address and one for all of them. `each` and `every`: how many in `seconds`."""

    def __init__(
        self, now: Callable[[], float], *, each: int = 300, every: int = 10_000, seconds: float = 600.0
    ) -> None:
        self._now, self._each, self._every, self._seconds = now, each, every, seconds
        self._full: tuple[float, float] = (0.0, now())  # how full the one for all is, and when that was
        self._of: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str) -> None:
        """One more. Raises OAuthError when that is too many."""
        moment = self._now()
        mine, all_of = (
            self._drained(self._of.pop(address, (0.0, moment)), self._each),
            self._drained(self._full, self._every),
        )
        if mine + 1 <= self._each and all_of + 1 <= self._every:
            mine, all_of = mine + 1, all_of + 1
            refused = False
        else:
            refused = True
        self._full, self._of[address] = (all_of, moment), (mine, moment)
        if len(self._of) > _ADDRESSES:
            self._of.popitem(last=False)
        if refused:
            raise OAuthError(
                "temporarily_unavailable", "Too many sign-ins at once. Wait a minute and try again.",
                status=429, detail=f"too many from {address}" if mine + 1 > self._each else "too many in all",
            )  # fmt: skip

    def _drained(self, bucket: tuple[float, float], most: int) -> float:
        level, since = bucket
        return max(0.0, level - max(0.0, self._now() - since) * most / self._seconds)
