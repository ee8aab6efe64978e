"""How often strangers may try, counted by where they come from."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Final

from limen.core.ports import Counter, Quota, Taken
from limen.oauth.web import OAuthError, Visit

# Questions that may be begun, of one address and in all: what is remembered of strangers is bounded (OA-88).
_EACH: Final = Quota(300, 0.5)
_EVERY: Final = Quota(10_000, 17)


def network(address: str) -> str:
    """Who is counted as one: an IPv4 address, or the /64 of an IPv6 address, which is what one customer has."""
    try:
        found = ip_address(address)
    except ValueError:
        return "unknown"
    if found.version == 4:
        return str(found)
    inner = found.ipv4_mapped
    return str(inner) if inner is not None else str(ip_network((found, 64), strict=False))


async def take(counter: Counter, key: str, quota: Quota, amount: float = 1) -> None:
    """One try, or -1 to have it not count. Raises OAuthError when there were too many, DependencyFault."""
    taken = counter.take(key, amount, quota)
    if not isinstance(taken, Taken):
        taken = await taken
    if amount > 0 and taken.granted <= 0:
        wait = str(max(1, min(3600, int(taken.wait) + 1)))
        raise OAuthError(
            "temporarily_unavailable", "too many attempts", status=429, detail=f"too many: {key}",
            headers=(("retry-after", wait),),
        )  # fmt: skip


async def may_begin(counter: Counter, visit: Visit) -> None:
    """Whether a browser may begin one more way that something has to be remembered of. Raises OAuthError,
    DependencyFault."""
    await take(counter, f"oauth:authorize:{network(visit.address)}", _EACH)
    await take(counter, "oauth:authorize", _EVERY)
