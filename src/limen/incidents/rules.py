"""Rules for alerts, as data: which events, how many of them, for whom together, and what is said then."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import re2  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from limen.core.events import SEVERITIES, Category, Event, Severity
from limen.core.remembered import remembered

Seconds = Annotated[float, Field(ge=1, le=90 * 86_400)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Some = Annotated[int, Field(ge=2, le=200)]

# What of an event may be compared, grouped by and shown; anything else is a member of its record.
FIELDS: Final = (
    "log", "type", "category", "severity", "ref", "issuer", "subject", "client", "session", "peer", "agent", "server",
    "method", "name", "tool", "digest", "decision", "reason", "guard", "policy", "risk", "ms", "received", "sent",
)  # fmt: skip
_FIELDS: Final = frozenset(FIELDS)
LONGEST: Final = 200  # characters of a member
_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_LINKED: Final = re.compile(r":(?=//)|(?<=\w)\.(?=[^\W\d]{2})")
_BRACED: Final = re.compile(r"\{([^{}]*)\}")


class Part(BaseModel):
    """Unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Where(Part):
    """What one member must be. All that are given must hold; a member that is not there fits nothing."""

    equals: str | float | bool | None = None
    one_of: tuple[str, ...] = ()
    matches: str | None = Field(default=None, max_length=500, description="regular expression (RE2), anywhere in it")
    above: float | None = None

    @field_validator("matches")
    @classmethod
    def _linear(cls, value: str | None) -> str | None:
        if value is not None:
            _compiled(value)
        return value

    @model_validator(mode="after")
    def _something(self) -> Where:
        if self.equals is None and not self.one_of and self.matches is None and self.above is None:
            raise ValueError("equals, one_of, matches or above is needed")
        return self


class Hours(Part):
    """Working hours: what happens outside of them fits."""

    begin: int = Field(default=7, ge=0, le=23)
    end: int = Field(default=19, ge=1, le=24)
    days: tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...] = _DAYS[:5]
    zone: str = "UTC"

    @field_validator("zone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"no such time zone: {error}") from None
        return value

    def outside(self, at: float) -> bool:
        """Whether nobody works then. `at`: seconds since the epoch."""
        local = datetime.fromtimestamp(at, UTC).astimezone(ZoneInfo(self.zone))
        return _DAYS[local.weekday()] not in self.days or not self.begin <= local.hour < self.end


class Match(Part):
    """Which events. Everything that is given must hold."""

    type: str = Field(default="*", min_length=1, max_length=100, description="glob over types, such as security.*")
    category: Category | None = None
    severity: Severity | None = Field(default=None, description="at least")
    reason: str | None = Field(default=None, max_length=100, description="glob over reasons")
    where: dict[str, Where] = Field(default={}, max_length=16, description="member -> what it must be")
    outside: Hours | None = Field(default=None, description="outside of working hours")


class Count(Part):
    """So many within so many seconds."""

    at_least: Some
    within: Seconds


class Distinct(Part):
    """So many different values of one member."""

    member: str
    at_least: Some
    within: Seconds


class Then(Part):
    """Followed by another event of the same group."""

    match: Match
    within: Seconds


class First(Part):
    """Never seen before. For `learn` seconds after the first event of all, everything is taken for known."""

    members: tuple[str, ...] = Field(min_length=1, max_length=4)
    learn: Annotated[float, Field(ge=0, le=90 * 86_400)] = 0.0


class Absent(Part):
    """Nothing for so many seconds."""

    within: Seconds


class Rule(Part):
    """One rule. Without count, distinct, then, first or absent every event that matches raises the alert."""

    id: Name
    title: str = Field(min_length=1, max_length=200, description="for people; {member} stands for the event's")
    severity: Severity
    match: Match
    group: tuple[str, ...] = Field(default=(), max_length=4, description="members: one alert for each value of them")
    count: Count | None = None
    distinct: Distinct | None = None
    then: Then | None = None
    first: First | None = None
    absent: Absent | None = None
    cooldown: Seconds = Field(default=3600.0, description="seconds before an open alert is told again")

    @model_validator(mode="after")
    def _sound(self) -> Rule:
        kinds = [one for one in (self.count, self.distinct, self.then, self.first, self.absent) if one is not None]
        if len(kinds) > 1:
            raise ValueError("one of count, distinct, then, first and absent")
        if self.absent is not None and self.group:
            raise ValueError("what did not happen has no group")
        if "{" in _BRACED.sub("", self.title) or "}" in _BRACED.sub("", self.title):
            raise ValueError("a title has {member} and no other braces")
        for name in _BRACED.findall(self.title):
            if name not in (*FIELDS, *self.group):
                raise ValueError(f"a title can show {', '.join(FIELDS)}, and what the rule groups by; not {name!r}")
        return self

    def titled(self, event: Event | None) -> str:
        """The title, of this event. What strangers wrote is cut and holds no control characters."""
        return _BRACED.sub(lambda found: plain(member(event, found[1]) if event else "", 80), self.title)


def _compiled(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise ValueError(f"not a regular expression of RE2: {error}") from None


def value_of(event: Event, name: str) -> Any:
    """A field of the event or a member of its record; None where there is none."""
    if name == "tool":
        return f"{event.server}/{event.name}" if event.name else None
    found = getattr(event, name) if name in _FIELDS else event.record.get(name)
    return None if found == "" else found


def member(event: Event, name: str) -> str:
    """The same as bounded text, "" where there is none."""
    found = value_of(event, name)
    return "" if found is None else str(found)[:LONGEST]


def plain(text: str, longest: int = LONGEST) -> str:
    """On one line, without what could disguise it: controls, marks of direction, invisible and private characters."""
    shown = "".join(char if char.isprintable() else " " for char in text[: longest * 2])
    return " ".join(shown.split())[:longest]


def unlinked(text: str) -> str:
    """The same for people: what programs would make a link of is none. Names that come in a warning are believed, and
    who chose them may have chosen an address."""
    return _LINKED.sub(lambda found: f"[{found[0]}]", text)


Test = Callable[[Event], bool]


def kind_of(event: Event) -> tuple[str, ...]:
    """What most rules ask for first, and few events differ in. See `of_kind`."""
    return event.type, event.category, event.severity, event.reason


_OF_KIND: Final = frozenset({"type", "category", "severity", "reason"})


def of_kind(match: Match) -> Test:
    """What of a match is the same for all events of one `kind_of`, compiled."""
    tests = [_where(name, where) for name, where in match.where.items() if name in _OF_KIND]

    def holds(event: Event) -> bool:
        return (
            fnmatchcase(event.type, match.type)
            and (match.category is None or event.category == match.category)
            and (match.severity is None or SEVERITIES.index(event.severity) >= SEVERITIES.index(match.severity))
            and (match.reason is None or fnmatchcase(event.reason, match.reason))
            and all(test(event) for test in tests)
        )

    return holds


def test_of(match: Match) -> Test:
    """What `of_kind` leaves open, compiled."""
    tests = [_where(name, where) for name, where in match.where.items() if name not in _OF_KIND]
    if match.outside is not None:
        hours = match.outside
        tests.append(lambda event: hours.outside(event.at))

    def holds(event: Event) -> bool:
        return all(test(event) for test in tests)

    return tests[0] if len(tests) == 1 else holds


def _where(name: str, where: Where) -> Test:
    pattern = _compiled(where.matches) if where.matches is not None else None
    allowed = frozenset(where.one_of)

    @remembered(256)  # the same issuers, servers and people come again
    def fits(text: str) -> bool:
        return pattern is None or pattern.search(text) is not None

    def test(event: Event) -> bool:
        value = value_of(event, name)
        if value is None:
            return False
        if where.equals is not None and value != where.equals:
            return False
        if allowed and str(value) not in allowed:
            return False
        if pattern is not None and not fits(str(value)[:LONGEST]):
            return False
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
        return where.above is None or (number is not None and number > where.above)

    return test
