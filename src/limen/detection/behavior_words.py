"""What is unusual, and what is usual, in words for people. Names of tools are a server's: callers print them safely."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from limen.detection.behavior_profile import DAY, Oddity, Profile
from limen.detection.behavior_statistics import Names

_MOST: Final = 6  # reasons told at once
_SIZES: Final = ("bytes", "KiB", "MiB", "GiB")


def explain(oddities: Iterable[Oddity], said: Collection[str] = ()) -> str:
    """What was not `said` before, then the heaviest.

    Reads like "first call to hr/delete_user in 90 days, at 03:12, 14x usual volume".
    """
    ordered = sorted(oddities, key=lambda one: (one.aspect in said, -one.bits))[:_MOST]
    return ", ".join(_words(one) for one in ordered)


def _words(one: Oddity) -> str:
    if one.aspect == "tool":
        if one.usual:
            return f"first call to {one.what} after {one.value:.0f} days"
        return f"first call to {one.what} in {one.value:.0f} days"
    if one.aspect == "hour":
        return f"at {one.what}"
    if one.aspect == "server":
        return f"server {one.what} for the first time"
    if one.aspect in ("volume", "day", "size", "slow"):
        return _amount(one)
    if one.aspect == "arguments":
        return f"{one.value:.0f} different arguments within an hour" if not one.what else "unusually large arguments"
    return _NAMED[one.aspect].format(what=one.what, value=one.value, usual=one.usual)


_NAMED: Final = {
    "sequence": "in an order never seen",
    "origin": "from network {what}, never used before",
    "agent": "with program {what}, never used before",
    "refused": "{value:.0f} refusals within an hour",
    "errors": "{value:.0f} failures within an hour",
    "latency": "took {value:.0f} ms",
    "pace": "faster than ever before",
    "shift": "results of {what} have become larger",
    "destination": "reached {what} for the first time",
    "trees": "a combination rarely seen",
}  # fmt: skip


def _amount(one: Oddity) -> str:
    times = (
        f"{one.value / one.usual:.0f}x usual" if one.usual >= 1 and one.value >= 1.5 * one.usual else "more than usual"
    )
    if one.aspect == "volume":
        return f"{times} volume ({one.value:.0f} calls this {one.what})"
    if one.aspect == "day":
        return f"{times} amount of data today ({size(one.value)})"
    if one.aspect == "size":
        return f"{times} size of result ({size(one.value)})"
    return f"more data day by day ({size(one.value)}, in the long run {size(one.usual)})"


def size(count: float) -> str:
    """In the unit that fits."""
    for unit in _SIZES:
        if count < 1024 or unit == _SIZES[-1]:
            return f"{count:.0f} {unit}"
        count /= 1024
    raise AssertionError


def usual(profile: Profile, ready: bool) -> dict[str, Any]:
    """What is usual, as rows for people and members for programs."""
    spreads = profile.spreads
    return {
        "kind": profile.kind,
        "subject": profile.value.replace("\0", " "),
        "judged": ready,
        "since": profile.first,
        "last": profile.last,
        "days": profile.days,
        "calls": profile.calls,
        "calls_an_hour": _range(spreads["hourly"].quantile(0.5), spreads["hourly"].quantile(0.95)),
        "calls_a_day": _range(spreads["daily"].quantile(0.5), spreads["daily"].quantile(0.95)),
        "data_a_day": f"{size(spreads['daily_sent'].quantile(0.5))}, seldom over "
        f"{size(spreads['daily_sent'].quantile(0.95))}",
        "hours": _hours(profile.hours),
        "tools": _shares(profile.tools),
        "servers": _shares(profile.servers),
        "networks": _shares(profile.origins),
        "programs": _shares(profile.agents),
        "destinations": _shares(profile.destinations),
        "then": _steps(profile.steps),
    }


def _range(middle: float, high: float) -> str:
    return f"{middle:.0f}, seldom over {high:.0f}"


def _hours(hours: Sequence[float]) -> str:
    """Those that hold nine tenths of all, as spans: "07-18, days off 10-12"."""
    total, kept = sum(hours), set[int]()
    for place in sorted(range(len(hours)), key=lambda one: -hours[one]):
        if sum(hours[one] for one in kept) >= 0.9 * total:
            break
        kept.add(place)
    spans = [_spans(sorted(one for one in kept if one < 24)), _spans(sorted(one - 24 for one in kept if one >= 24))]
    return ", ".join([*([spans[0]] if spans[0] else []), *([f"days off {spans[1]}"] if spans[1] else [])])


def _spans(hours: Sequence[int]) -> str:
    found: list[list[int]] = []
    for hour in hours:
        if found and hour == found[-1][1] + 1:
            found[-1][1] = hour
        else:
            found.append([hour, hour])
    return " ".join(f"{first:02d}-{last + 1:02d}" for first, last in found)


def _shares(names: Names) -> list[str]:
    total = sum(row[0] for row in names.values()) or 1.0
    ordered = sorted(names.items(), key=lambda one: -one[1][0])[:8]
    return [f"{name} {100 * row[0] / total:.0f}%" for name, row in ordered]


def _steps(steps: Mapping[str, Mapping[str, float]]) -> list[str]:
    pairs = [(mass, before, after) for before, row in steps.items() for after, mass in row.items() if before]
    return [f"{before} -> {after}" for _, before, after in sorted(pairs, reverse=True)[:5]]


def ages(first: float, now: float) -> str:
    """How long ago, in days."""
    return f"{max(0.0, now - first) / DAY:.0f} days"
