"""Attacks put among the days of an organisation, each in several strengths. What they do is theirs, not a detector's.

theft: somebody else uses a caller's credential (another network, other hours; the quiet one knows the victim's hours).
exfiltration: a caller takes more data each day, over two weeks, in usual hours and with usual tools.
abuse: a session runs one usual tool over everything it can name (an injected agent).
insider: a caller uses permitted tools nobody of that task uses, some of it late.
server: a compromised server's results grow, it answers later, and its processes reach somewhere new.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from simulation.organisations import DAY, START, Call, Organisation, Person, make, reaches

KINDS = ("theft", "exfiltration", "abuse", "insider", "server")
STRENGTHS = {
    "theft": (6, 20, 80),  # calls in all
    "exfiltration": (2.0, 4.0, 12.0),  # times the usual bytes
    "abuse": (15, 60, 250),  # calls in a session
    "insider": (2, 6, 15),  # calls over three days
    "server": (0, 1, 2),  # step of results' growth and of new destinations
}


@dataclass
class Attack:
    kind: str
    strength: int  # 0, 1, 2
    day: int
    days: int
    victims: set[tuple[str, str]]  # kind and value of whom a detector should name
    subject: str = ""
    server: str = ""
    begun: float = 0.0  # time of the first hostile act
    days_seen: set[int] = field(default_factory=set)  # days with a hostile act


def plan(organisation: Organisation, seed: int, first: int, last: int, each: int = 1) -> list[Attack]:
    """`each` attacks of every kind and strength, on different callers who were there for a month."""
    draw = random.Random(f"attacks/{organisation.name}/{seed}")
    there = [one for one in organisation.people if one.since < first - 30 and one.until > last and one.moves is None]
    draw.shuffle(there)
    servers = sorted({tool.server for tool in organisation.tools.values()})
    draw.shuffle(servers)
    made = []
    for kind in KINDS:
        for strength in range(3):
            for _ in range(each):
                days = {"exfiltration": 14, "insider": 3, "server": 4}.get(kind, 1)
                day = draw.randrange(first, max(first + 1, last - days))
                if kind == "server":
                    if servers:
                        server = servers.pop()
                        keys = [one.key for one in organisation.tools.values() if one.server == server]
                        victims = {("server", server), *(("tool", key) for key in keys)}
                        made.append(Attack(kind, strength, day, days, victims, server=server))
                    continue
                if not there:
                    continue
                one = there.pop()
                while day in one.away or day % 7 >= 5:
                    day = draw.randrange(first, max(first + 1, last - days))
                name = f"https://login.example\0{one.subject}"
                made.append(Attack(kind, strength, day, days, {("caller", name)}, subject=one.subject))
    return made


def hostile(
    organisation: Organisation, attacks: list[Attack], seed: int, day: int, usual: list[Call]
) -> tuple[list[Call], list[tuple[float, str, str]]]:
    """The day's calls with those of attacks, and all that servers reach: (time, server, host)."""
    calls, reached = list(usual), reaches(organisation, seed, day)
    for attack in attacks:
        if not attack.day <= day < attack.day + attack.days:
            continue
        draw = random.Random(f"{attack.kind}/{attack.subject}{attack.server}/{seed}/{day}")
        if attack.kind == "server":
            calls = [_poisoned(attack, draw, one) if one.tool.server == attack.server else one for one in calls]
            if attack.strength and day == attack.day:
                at = START + day * DAY + draw.uniform(8, 12) * 3600
                reached += [(at + n, attack.server, f"drop{n}.example") for n in range(attack.strength)]
                _began(attack, at)
        else:
            one = next(one for one in organisation.people if one.subject == attack.subject)
            more = _DOES[attack.kind](organisation, one, attack, draw, day, usual)
            for call in more:
                _began(attack, call.at)
            calls += more
    calls.sort(key=lambda call: call.at)
    return calls, reached


def _began(attack: Attack, at: float) -> None:
    attack.begun = min(attack.begun or at, at)
    attack.days_seen.add(int((at - START) // DAY))


def _poisoned(attack: Attack, draw: random.Random, call: Call) -> Call:
    _began(attack, call.at)
    grown = (1.5, 4.0, 15.0)[attack.strength]
    return replace(
        call, sent=int(call.sent * grown * draw.uniform(0.7, 1.3)), ms=call.ms * (1.1, 1.6, 3.0)[attack.strength]
    )


def _theft(
    organisation: Organisation, one: Person, attack: Attack, draw: random.Random, day: int, usual: list[Call]
) -> list[Call]:
    quiet = attack.strength == 0
    begin = START + day * DAY - one.zone * 3600
    at = begin + (draw.uniform(one.begins + 1, one.begins + 6) if quiet else draw.uniform(0, 24)) * 3600
    peer = f"185.{draw.randrange(250)}.{draw.randrange(250)}.7"
    agent = one.agent if quiet else "python 3.12"
    keys = [key for key in organisation.teams[one.team] if organisation.tools[key].since <= day]
    made = []
    for _ in range(int(STRENGTHS["theft"][attack.strength])):
        key = draw.choice(keys) if draw.random() < 0.8 else draw.choice(list(organisation.tools))
        call = make(draw, organisation, one, organisation.tools[key], at, peer, agent)
        call.args = f"{draw.getrandbits(64):016x}"
        if key not in organisation.teams[one.team]:
            call.refused, call.reason, call.sent = True, "policy.denied", 0
        made.append(call)
        at += draw.expovariate(1 / 12.0) + 0.5
    return made


def _exfiltration(
    organisation: Organisation, one: Person, attack: Attack, draw: random.Random, day: int, usual: list[Call]
) -> list[Call]:
    own = [call for call in usual if call.subject == one.subject]
    factor = float(STRENGTHS["exfiltration"][attack.strength]) - 1
    made = []
    for call in own:
        more = call.sent * factor
        if more > 0:
            made.append(replace(call, at=call.at + 3, sent=int(more), args=f"{draw.getrandbits(64):016x}"))
    return made


def _abuse(
    organisation: Organisation, one: Person, attack: Attack, draw: random.Random, day: int, usual: list[Call]
) -> list[Call]:
    own = [call for call in usual if call.subject == one.subject]
    at = own[len(own) // 2].at if own else START + day * DAY + (one.begins + 3 - one.zone) * 3600
    peer = own[0].peer if own else one.office
    tool = organisation.tools[max(one.weights, key=lambda key: one.weights[key])]
    made = []
    for _ in range(int(STRENGTHS["abuse"][attack.strength])):
        call = make(draw, organisation, one, tool, at, peer)
        call.args = f"{draw.getrandbits(64):016x}"
        made.append(call)
        at += draw.expovariate(1 / 4.0) + 0.2
    return made


def _insider(
    organisation: Organisation, one: Person, attack: Attack, draw: random.Random, day: int, usual: list[Call]
) -> list[Call]:
    own = [call for call in usual if call.subject == one.subject]
    late = attack.strength > 0 and draw.random() < 0.5
    begin = START + day * DAY - one.zone * 3600
    at = begin + (draw.uniform(20, 23) if late else one.begins + draw.uniform(1, 6)) * 3600
    peer = own[0].peer if own else one.office
    rare = [key for key in organisation.teams[one.team] if organisation.tools[key].rare]
    made = []
    for _ in range(max(1, int(STRENGTHS["insider"][attack.strength]) // 3)):
        made.append(make(draw, organisation, one, organisation.tools[draw.choice(rare)], at, peer))
        at += draw.expovariate(1 / 60.0) + 5
    return made


_DOES = {"theft": _theft, "exfiltration": _exfiltration, "abuse": _abuse, "insider": _insider}
