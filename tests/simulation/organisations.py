"""Organisations that do not exist, and what their people and programs ask of MCP servers on each day. Seeded.

What a day brings: shifts, weekends, holidays, vacations, people on call, newcomers, changes of role, new tools, work
from home and on the road, outages and the rush after them. Nothing in here knows what a detector looks at.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

START = 1_767_571_200.0  # Monday, 2026-01-05, 00:00 UTC
DAY = 86_400.0
ISSUER = "https://login.example"


@dataclass
class Tool:
    server: str
    name: str
    size: float  # median bytes of a result
    spread: float  # of its logarithm
    ms: float
    rare: bool = False  # for few, seldom
    since: int = 0  # day it was released

    @property
    def key(self) -> str:
        return f"{self.server}/{self.name}"


@dataclass
class Call:
    at: float
    subject: str
    client: str
    agent: str
    peer: str
    tool: Tool
    args: str
    received: int
    sent: int
    ms: float
    reason: str = "ok"
    refused: bool = False


@dataclass
class Person:
    subject: str
    team: str
    zone: float  # hours from UTC
    begins: float  # hour of the day work begins
    hours: float
    sessions: float  # a day
    length: float  # calls of a session
    weekend: float  # chance of working on a day off
    office: str
    home: str
    agent: str
    client: str = "editor"
    remote: float = 0.3  # chance of working from home
    travels: float = 0.01
    since: int = 0
    until: int = 10_000
    away: set[int] = field(default_factory=set)
    moves: tuple[int, str] | None = None  # day, new team
    shifts: tuple[float, ...] = ()  # rotating beginnings, a week each
    machine: tuple[float, ...] = ()  # hours of the day a job runs at
    weights: dict[str, float] = field(default_factory=dict)  # own liking of each tool
    paths: list[list[str]] = field(default_factory=list)  # its usual ways through tools


@dataclass
class Organisation:
    name: str
    people: list[Person]
    tools: dict[str, Tool]
    teams: dict[str, list[str]]  # team -> tools
    holidays: set[int]
    outages: dict[int, tuple[str, float]]  # day -> server, hour
    rush: set[int]  # days with twice the work
    analysts: int = 1


# name: people, shape of work, servers and tools each, analysts
SHAPES: dict[str, dict[str, float]] = {
    "startup": {"people": 12, "begins": 10, "spread": 2.0, "hours": 9, "sessions": 6, "length": 9, "weekend": 0.15},
    "hospital": {"people": 90, "begins": 7, "spread": 0.3, "hours": 8, "sessions": 5, "length": 4, "weekend": 0.7},
    "ci": {"people": 20, "begins": 0, "spread": 1, "hours": 24, "sessions": 10, "length": 6, "weekend": 1.0},
    "bank": {"people": 400, "begins": 8, "spread": 0.7, "hours": 9, "sessions": 3, "length": 4, "weekend": 0.01},
    "support": {"people": 60, "begins": 8, "spread": 0.4, "hours": 8, "sessions": 12, "length": 4, "weekend": 0.25},
    "agency": {"people": 30, "begins": 9, "spread": 1.5, "hours": 9, "sessions": 4, "length": 7, "weekend": 0.08},
}
TUNED = ("startup", "hospital", "ci")
HELD_OUT = ("bank", "support", "agency")
_VERBS = ("search", "get", "list", "read", "create", "update", "comment", "export", "query", "send", "close", "tag")
_RARE = ("delete_user", "export_all", "grant_access", "rotate_key", "purge", "transfer", "download_archive")
_TEAMS = {"startup": 2, "hospital": 5, "ci": 3, "bank": 9, "support": 3, "agency": 5}


def build(name: str, seed: int, days: int, people: int | None = None) -> Organisation:
    """An organisation of this shape; `people`: fewer than usual."""
    draw = random.Random(f"{name}/{seed}")
    shape = SHAPES[name]
    teams_count = _TEAMS[name]
    tools, teams = _tools(draw, name, teams_count, days)
    count = people or int(shape["people"])
    staff = [_person(draw, name, number, shape, list(teams), days) for number in range(count)]
    for person in staff:
        _likes(draw, person, teams, tools, person.team)
    holidays = {day for day in range(days) if draw.random() < 0.025}
    servers = sorted({one.server for one in tools.values()})
    outages = {draw.randrange(days): (draw.choice(servers), draw.uniform(8, 18)) for _ in range(max(1, days // 30))}
    rush = {day for day in range(days) if draw.random() < 0.04}
    return Organisation(name, staff, tools, teams, holidays, outages, rush)


def _tools(draw: random.Random, name: str, teams_count: int, days: int) -> tuple[dict[str, Tool], dict[str, list[str]]]:
    tools: dict[str, Tool] = {}
    teams: dict[str, list[str]] = {}
    shared = _server(draw, tools, f"{name}-wiki", 5, days)
    for number in range(teams_count):
        own = _server(draw, tools, f"{name}-{number}", draw.randint(6, 12), days)
        teams[f"team{number}"] = [*own, *shared]
    return tools, teams


def _server(draw: random.Random, tools: dict[str, Tool], server: str, count: int, days: int) -> list[str]:
    made = []
    for verb in draw.sample(_VERBS, min(count, len(_VERBS))):
        since = draw.randrange(days) if draw.random() < 0.08 else 0
        tool = Tool(server, verb, draw.lognormvariate(7.5, 1.2), draw.uniform(0.4, 1.1), draw.lognormvariate(5, 0.7))
        tool.since = since
        tools[tool.key] = tool
        made.append(tool.key)
    for verb in draw.sample(_RARE, 2):
        tool = Tool(server, verb, draw.lognormvariate(9.5, 0.8), 0.8, draw.lognormvariate(6, 0.5), rare=True)
        tools[tool.key] = tool
        made.append(tool.key)
    return made


def _person(
    draw: random.Random, name: str, number: int, shape: dict[str, float], teams: list[str], days: int
) -> Person:
    machine: tuple[float, ...] = ()
    if name == "ci" or (name == "bank" and number % 25 == 0):
        machine = tuple(
            sorted(draw.choice(range(24)) + draw.choice((0.0, 0.25, 0.5)) for _ in range(draw.randint(2, 6)))
        )
    one = Person(
        subject=f"{name}-{number:04d}",
        team=draw.choice(teams),
        zone=draw.choice((-5.0, 1.0, 5.5)) if name in ("support", "agency") else 1.0,
        begins=draw.gauss(shape["begins"], shape["spread"]),
        hours=shape["hours"],
        sessions=shape["sessions"] * draw.lognormvariate(0, 0.45),
        length=shape["length"] * draw.lognormvariate(0, 0.3),
        weekend=shape["weekend"] * draw.uniform(0.5, 1.5),
        office=f"10.{teams_number(name)}.{draw.randrange(3)}.{draw.randrange(2, 250)}",
        home=f"93.{draw.randrange(1, 250)}.{draw.randrange(250)}.{draw.randrange(2, 250)}",
        agent=draw.choice(("editor 1.9", "editor 1.9", "desk 4.2", "shell 0.7")),
        client=draw.choice(("editor", "desk")) if not machine else "service",
        remote=0.0 if machine or name in ("hospital",) else draw.uniform(0.0, 0.6),
        travels=0.0 if machine else (0.05 if name == "agency" else 0.008),
        machine=machine,
    )
    if name == "hospital":
        one.shifts = (7.0, 15.0, 23.0)
    elif name == "bank" and number % 4 == 0 and not machine:
        one.shifts = (6.0, 14.0)
    if draw.random() < 0.08:
        one.since = draw.randrange(days)
    if draw.random() < 0.05:
        one.until = draw.randrange(days)
    if draw.random() < 0.06 and not machine:
        one.moves = (draw.randrange(days), draw.choice(teams))
    if not machine:
        for _ in range(max(1, days // 60)):
            begin = draw.randrange(days)
            one.away |= set(range(begin, begin + draw.choice((3, 5, 7, 14))))
    return one


def teams_number(name: str) -> int:
    return sum(name.encode()) % 250


def _likes(draw: random.Random, one: Person, teams: dict[str, list[str]], tools: dict[str, Tool], team: str) -> None:
    one.weights = {}
    for key in teams[team]:
        weight = draw.lognormvariate(0, 1.1)
        if tools[key].rare:  # a few people of a team have it among their tasks
            weight = 0.03 if draw.random() < 0.15 else 0.0008
        one.weights[key] = weight
    common = [key for key in teams[team] if not tools[key].rare]
    one.paths = [[draw.choice(common) for _ in range(draw.randint(2, 5))] for _ in range(5)]


def calls(organisation: Organisation, seed: int, first: int, last: int) -> Iterator[list[Call]]:
    """What is called on each day, in order of time. Days are independent of each other: any range can be had alone."""
    for day in range(first, last):
        draw = random.Random(f"{organisation.name}/{seed}/{day}")
        made: list[Call] = []
        for one in organisation.people:
            if one.moves is not None and one.moves[0] == day:
                _likes(random.Random(one.subject), one, organisation.teams, organisation.tools, one.moves[1])
            if one.since <= day < one.until:
                made.extend(_day(draw, organisation, one, day))
        made.sort(key=lambda call: call.at)
        yield made


def _day(draw: random.Random, organisation: Organisation, one: Person, day: int) -> Iterator[Call]:
    midnight = START + day * DAY - one.zone * 3600
    if one.machine:
        for hour in one.machine:
            begin = midnight + hour * 3600 + draw.uniform(0, 60)
            path = one.paths[int(hour) % len(one.paths)]
            for _ in range(2 if draw.random() < 0.05 else 1):  # now and then a job is run again
                yield from _session(draw, organisation, one, day, begin, path * 2, one.office)
        return
    off = day % 7 >= 5 or day in organisation.holidays
    if day in one.away or (off and draw.random() > one.weekend) or draw.random() < 0.03:
        if draw.random() < 0.004:  # called on a free day, at any hour
            path = draw.choice(one.paths)
            yield from _session(draw, organisation, one, day, midnight + draw.uniform(0, 24) * 3600, path, one.home)
        return
    begins = one.shifts[(day // 7 + len(one.subject) + ord(one.subject[-1])) % len(one.shifts)] if one.shifts else (
        one.begins + draw.gauss(0, 0.4)
    )  # fmt: skip
    peer = one.home if draw.random() < one.remote else one.office
    if draw.random() < one.travels:
        peer = f"{draw.choice((81, 109, 151))}.{draw.randrange(250)}.{draw.randrange(250)}.9"
    busy = (2.0 if day in organisation.rush else 1.0) * (0.6 if off else 1.0) * draw.lognormvariate(0, 0.3)
    for _ in range(_poisson(draw, one.sessions * busy)):
        at = midnight + (begins + one.hours * draw.betavariate(1.4, 1.6)) * 3600
        if draw.random() < 0.015:  # stays late
            at += draw.uniform(1, 5) * 3600
        steps = max(1, _poisson(draw, one.length))
        path: list[str] = []
        while len(path) < steps:
            path += draw.choice(one.paths) if draw.random() < 0.7 else [_any(draw, organisation, one, day)]
        yield from _session(draw, organisation, one, day, at, path[:steps], peer)


def _any(draw: random.Random, organisation: Organisation, one: Person, day: int) -> str:
    if draw.random() < 0.002:  # helps another team out
        return draw.choice(list(organisation.tools))
    return draw.choices(list(one.weights), list(one.weights.values()))[0]


def _session(
    draw: random.Random, organisation: Organisation, one: Person, day: int, at: float, path: list[str], peer: str
) -> Iterator[Call]:
    for key in path:
        tool = organisation.tools[key]
        if tool.since > day:
            continue
        yield make(draw, organisation, one, tool, at, peer)
        at += draw.expovariate(1 / 25.0) + 1


def make(
    draw: random.Random, organisation: Organisation, one: Person, tool: Tool, at: float, peer: str, agent: str = ""
) -> Call:
    """One call as it comes out on that day."""
    reason, ms, refused = "ok", tool.ms * draw.lognormvariate(0, 0.4), False
    outage = organisation.outages.get(int((at - START) // DAY))
    if outage is not None and outage[0] == tool.server and 0 <= (at - START) % DAY / 3600 - outage[1] < 2:
        reason, ms = "fault.upstream", ms * 8
    elif draw.random() < 0.01:
        reason = "fault.upstream_error"
    elif draw.random() < 0.004:
        refused, reason = True, "policy.denied"
    sent = 0 if reason != "ok" else int(tool.size * draw.lognormvariate(0, tool.spread))
    args = f"{draw.randrange(40 if not one.machine else 3):x}{tool.name}".ljust(16, "0")
    received = int(draw.lognormvariate(4.5, 0.6))
    return Call(at, one.subject, one.client, agent or one.agent, peer, tool, args, received, sent, ms, reason, refused)


def reaches(organisation: Organisation, seed: int, day: int) -> list[tuple[float, str, str]]:
    """Where servers' processes connect to on a day: (time, server, host). Most know a few hosts and rarely a new one;
    one in four reads the web and meets new ones daily."""
    draw = random.Random(f"reach/{organisation.name}/{seed}/{day}")
    found = []
    for number, server in enumerate(sorted({one.server for one in organisation.tools.values()})):
        for _ in range(draw.randrange(4, 14)):
            if number % 4 == 3:
                host = f"site{int(draw.paretovariate(0.8)) % 5_000}.example"
            elif draw.random() < 0.004:
                host = f"new{draw.randrange(10_000)}.example"
            else:
                host = f"api{draw.randrange(3)}.{server}.example"
            found.append((START + day * DAY + draw.uniform(6, 20) * 3600, server, host))
    return found


def _poisson(draw: random.Random, mean: float) -> int:
    if mean > 30:
        return max(0, round(draw.gauss(mean, math.sqrt(mean))))
    limit, product, count = math.exp(-mean), draw.random(), 0
    while product > limit:
        product *= draw.random()
        count += 1
    return count
