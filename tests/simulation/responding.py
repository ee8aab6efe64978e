"""What behaviour's suspicions lead to: alerts by all shipped rules, and calls that are held or refused for their risk.

The parts are the real ones: watches Suspicion and Alerting, the table between them, and guard Weigh, which is asked
about every call before anybody has seen its outcome. Nobody answers: alerts stay open, and what is held counts as held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from contracts.memory import MemoryTable
from limen.core.call import Approved, Call, Caller, Cleared, Context, Era, Inspected, Presented, Session, Weighed
from limen.core.events import Event, Signal
from limen.core.verdict import Pass
from limen.incidents.alert_settings import AlertSettings
from limen.incidents.alerts import Alerting
from limen.incidents.risk import REFERENCE, Limits
from limen.incidents.risk_settings import ThreatSettings
from limen.incidents.suspicion import Suspicion
from limen.incidents.threats import Threats
from limen.incidents.weigh import Weigh
from simulation.organisations import DAY, START

if TYPE_CHECKING:
    from simulation.measures import Result

_SETTLED: Final = 60.0  # seconds of the simulated clock
Of = Callable[[Any, str, str, float], bool]


class Told(NamedTuple):
    """One notice of an alert. `about`: kind and value of whom it is about, where it says."""

    rule: str
    at: float
    about: tuple[str, str]


class Stopped(NamedTuple):
    """A call that was held for a person (`how`: ask) or refused (block)."""

    how: str
    at: float
    caller: str
    server: str


class Responding:
    """A Watch as `measures.run` takes it in `others`."""

    name = "responding"

    def __init__(self, signal: Callable[[Signal], None]) -> None:
        del signal  # raises none itself
        self._now = self._settled = 0.0
        threats, alerts = MemoryTable(lambda: self._now), MemoryTable(lambda: self._now)
        settings = AlertSettings()
        self._suspicion, self._threats = Suspicion(threats), Threats(threats)
        self._alerting = Alerting(alerts, settings.in_force, "sim", self._record, settings.told)
        self._weigh = Weigh(self._threats, ThreatSettings(), _reference, {}, lambda: self._now)
        self._threats.refresh()
        self.calls = 0
        self.alerts: list[Told] = []
        self.stopped: list[Stopped] = []

    def see(self, event: Event) -> None:
        self._now = event.at
        if event.type in ("call.outcome", "call.refused"):
            self.calls += 1
            if self._threats.known:
                self._judge(event)
        self._suspicion.see(event)
        self._alerting.see(event)
        if event.type in ("signal", "call.refused") or event.at - self._settled >= _SETTLED:
            self.settle(event.at)

    def settle(self, now: float) -> None:
        self._settled = now
        self._suspicion.settle(now)
        self._alerting.settle(now)
        self._threats.refresh()

    def _judge(self, event: Event) -> None:
        facts = {
            Caller: Caller(event.issuer, event.subject, event.client, frozenset()), Session: Session(),
            Approved: Approved(event.server, "tool", event.name, "d" * 64, b"{}"), Inspected: Inspected(),
            Cleared: Cleared(),
        }  # fmt: skip
        call = Call("tools/call", event.server, event.server, Era.MODERN, "2026-07-28", 1, event.name, b"{}")
        verdict = self._weigh.check(Context(call, Presented(), float("inf"), "r", facts))
        how = "block"
        if isinstance(verdict, Pass):
            (weighed,) = verdict.facts
            assert isinstance(weighed, Weighed)
            if not weighed.ask:
                return
            how = "ask"
        self.stopped.append(Stopped(how, event.at, event.caller, event.server))

    def _record(self, event: str, fields: Mapping[str, Any]) -> None:
        if event == "alert":
            self.alerts.append(Told(str(fields["rule"]), self._now, _about(fields["about"])))


def _reference(server: str, name: str) -> Limits:
    return REFERENCE


def _about(about: Mapping[str, str]) -> tuple[str, str]:
    if "value" in about:  # on one line, as people are shown it
        return about["about"], about["value"].replace(" ", "\0") if about["about"] == "caller" else about["value"]
    if "subject" in about:
        return "caller", f"{about['issuer']}\0{about['subject']}"
    return ("server", about["server"]) if "server" in about else ("", "")


def responses(result: Result, responding: Responding, of: Of) -> dict[str, Any]:
    """From the first judged day on: who was told of what, what was stopped, of whom, how soon, and what for nothing."""
    since, days = START + result.first * DAY, result.last - result.first
    told = [one for one in responding.alerts if one.at >= since]
    stopped = [one for one in responding.stopped if one.at >= since]
    found: dict[str, list[dict[str, float | None]]] = {}
    for attack in result.attacks:
        if not attack.begun:
            continue
        alerted = [one.at for one in told if of(attack, *one.about, one.at)]
        held = [(one.how, one.at) for one in stopped if _of(attack, one, of)]
        moments = {"alert": alerted, "held": [at for _, at in held]}
        moments["refused"] = [at for how, at in held if how == "block"]
        first = {name: min(times) - attack.begun if times else None for name, times in moments.items()}
        found.setdefault(f"{attack.kind}/{attack.strength}", []).append(first)
    rules: dict[str, int] = {}
    for one in told:
        rules[one.rule] = rules.get(one.rule, 0) + 1
    true = sum(any(of(attack, *one.about, one.at) for attack in result.attacks) for one in told)
    wrong = [one for one in stopped if not any(_of(attack, one, of) for attack in result.attacks)]
    return {
        "found": found, "alerts": len(told), "true": true, "alerts_a_day": len(told) / days, "rules": rules,
        "calls": responding.calls, "held_a_day": sum(one.how == "ask" for one in wrong) / days,
        "refused_a_day": sum(one.how == "block" for one in wrong) / days,
    }  # fmt: skip


def _of(attack: Any, one: Stopped, of: Of) -> bool:
    return of(attack, "caller", one.caller, one.at) or of(attack, "server", one.server, one.at)


def only(result: Result) -> Responding:
    """The one of a run."""
    return next(one for one in result.others if isinstance(one, Responding))


def responded(answered: Mapping[str, list[tuple[dict[str, Any], dict[str, Any]]]]) -> dict[str, Any]:
    """Of several runs by organisation, each with attacks and without: one table."""
    pairs = [pair for runs in answered.values() for pair in runs]
    rows: dict[str, dict[str, Any]] = {}
    for place in sorted({place for told, _ in pairs for place in told["found"]}):
        attacks = [one for told, _ in pairs for one in told["found"].get(place, ())]
        rows[place] = {"attacks": len(attacks)}
        for name in ("alert", "held", "refused"):
            hits = [one[name] for one in attacks if one[name] is not None]
            delay = round(median(hits) / 60, 1) if hits else None
            rows[place] |= {f"{name}_recall": round(len(hits) / len(attacks), 2), f"{name}_delay_minutes": delay}
    alerts, rules = sum(told["alerts"] for told, _ in pairs), dict[str, int]()
    for _, quiet in pairs:
        for rule, count in quiet["rules"].items():
            rules[rule] = rules.get(rule, 0) + count
    clean = {
        name: {
            key: round(sum(quiet[key] for _, quiet in runs) / len(runs), 3)
            for key in ("alerts_a_day", "held_a_day", "refused_a_day", "calls")
        }
        for name, runs in answered.items()
    }
    precision = round(sum(told["true"] for told, _ in pairs) / max(1, alerts), 3)
    return {"alerts": alerts, "precision": precision, "clean": clean, "clean_rules": rules, "attacks": rows}
