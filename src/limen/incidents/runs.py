"""Playbooks at work: one run for each event that triggers one, in a shared record, so that no run happens twice.

A run is named after the playbook's digest and the event: seen again after a crash, it goes on where it was. What it
does can be repeated (an action in force is in force once). Limits are counted in one shared record and by the event's
own time; beyond them nothing is done, and a critical alert says so. Waiting runs are taken up by whichever replica sees
first that a person agreed.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from hashlib import sha256
from typing import Any, Final

import orjson

from limen.core.events import Event
from limen.core.faults import DependencyFault
from limen.core.ports import Table
from limen.incidents.actions import ACTIONS, Action, Applied, Hands
from limen.incidents.approved import Approvals
from limen.incidents.incident import Find, Incidents, Record, subject_text
from limen.incidents.playbooks import (
    OURS,
    SERVERS,
    About,
    Condition,
    Loaded,
    Playbook,
    about,
    action_of,
    compares,
    protected,
    triggered,
)
from limen.incidents.ran import Run, Runs, State
from limen.incidents.response_settings import ResponseSettings

HOUR: Final = 3600.0
_SPENT = "spent"
_TRIES, _LEASE = 32, 30.0
_CALLERS, _KEYS = 50_000, 10_000
_QUIET: Final = 60.0
_MOST: Final = 20  # runs of a playbook in an hour, for each subject it may contain: the table stays small


class Playbooks:
    """A Watch: carries out what approved playbooks say. `load` reads the playbook files; `find` an event of this log
    by id. Everything about an event goes by the event's own time."""

    name = "playbooks"

    def __init__(
        self,
        hands: Hands,
        incidents: Incidents,
        table: Table,
        approvals: Approvals,
        settings: ResponseSettings,
        load: Callable[[], Sequence[Loaded]],
        record: Record,
        find: Find = lambda identifier: None,
    ) -> None:
        self._hands, self._incidents, self._table, self._record = hands, incidents, table, record
        self._approvals, self._settings, self._load, self._find = approvals, settings, load, find
        self._runs = Runs(table)
        self._active: OrderedDict[str, tuple[float, str]] = OrderedDict()  # caller -> last call, client
        self._counts: OrderedDict[tuple[str, int, str], deque[tuple[float, str]]] = OrderedDict()
        self._done: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._begun: dict[str, OrderedDict[str, float]] = {}  # digest -> events that triggered it, and when
        self._loaded: Sequence[Loaded] = ()
        self._said: dict[str, str] = {}
        self._read = float("-inf")
        self._refresh(0.0)

    # watching

    def see(self, event: Event) -> None:
        """One event."""
        if event.caller and event.type in ("call.intent", "call.local"):
            self._active[event.caller] = (event.at, event.client)
            self._active.move_to_end(event.caller)
            if len(self._active) > _CALLERS:
                self._active.popitem(last=False)
        for loaded in self._loaded:
            playbook = loaded.playbook
            if playbook is None or not triggered(playbook, event):
                continue
            if not self._approvals.in_force(playbook.playbook, loaded.digest):
                continue
            known = about(event, self._find)
            held = [self._holds(loaded, number, one, event, known) for number, one in enumerate(playbook.when)]
            if all(held) and not self._just_done(loaded.digest, playbook, event, known):
                self._run(loaded, playbook, event, known)

    def settle(self, now: float) -> None:
        """Go on with what people decided, end what waited too long, look at the files again."""
        if now - self._read >= 1.0:
            self._refresh(now)
        books = {one.digest: one.playbook for one in self._loaded if one.playbook is not None}
        for run in self._runs.all():
            if run.state in ("agreed", "running", "undo", "waits"):
                self._resume(run, books.get(run.digest), now)

    def _refresh(self, now: float) -> None:
        self._read, self._loaded = now, self._load()
        self._approvals.forget()
        for one in self._loaded:
            name = one.playbook.playbook if one.playbook else one.source
            state = one.fault or ("" if self._approvals.in_force(name, one.digest) else "not approved")
            said = f"{one.digest}{state}"
            if state and self._said.get(one.source) != said:
                act = "invalid" if one.fault else "unapproved"
                self._record("playbook", {"act": act, "playbook": name, "digest": one.digest, "detail": state[:500]})
            self._said[one.source] = said

    # conditions

    def _holds(self, loaded: Loaded, number: int, condition: Condition, event: Event, known: About) -> bool:
        """All conditions are looked at for each triggering event: counts go on whatever the others say."""
        if condition.member is not None:
            return compares(condition, event)
        if condition.count is not None:
            return self._counted(loaded.digest, number, condition, event, known)
        assert loaded.playbook is not None
        for step in loaded.playbook.then:
            if step.do == condition.not_already and (action := action_of(step, known, event.at)) is not None:
                return self._in_force(action) is None
        return True

    def _just_done(self, digest: str, playbook: Playbook, event: Event, known: About) -> bool:
        """The same thing within a minute is one run: whoever triggers it a thousand times a second fills no table."""
        planned = [action_of(step, known, 0.0) for step in playbook.then if step.do in ACTIONS]
        key = f"{digest}\n{planned}\n{known.caller or known.server if not any(planned) else ''}"
        at, by = self._done.get(key, (float("-inf"), ""))
        if by != event.id and 0 <= event.at - at < _QUIET:
            return True
        self._done[key] = (event.at, event.id)
        self._done.move_to_end(key)
        if len(self._done) > _KEYS:
            self._done.popitem(last=False)
        return False

    def _counted(self, digest: str, number: int, condition: Condition, event: Event, known: About) -> bool:
        same = str(condition.same)
        value = getattr(known, same) if same in ("caller", "client", "session", "server") else getattr(event, same, "")
        if not value:
            return False
        if same in ("name", "digest"):  # of one server: another one may announce the very same
            value = f"{event.server}/{value}"
        key = (digest, number, str(value))
        seen = self._counts.setdefault(key, deque(maxlen=condition.count))
        self._counts.move_to_end(key)
        if len(self._counts) > _KEYS:
            self._counts.popitem(last=False)
        if not seen or seen[-1][1] != event.id:
            seen.append((event.at, event.id))
        return len(seen) == condition.count and event.at - seen[0][0] <= (condition.within or 0.0)

    def _in_force(self, action: Action) -> Applied | None:
        return next((one for one in self._hands.in_force() if _same(one.action, action)), None)

    # runs

    def _run(self, loaded: Loaded, playbook: Playbook, event: Event, known: About) -> None:
        identifier = sha256(f"{loaded.digest}\n{event.id}".encode()).hexdigest()[:16]
        waits = playbook.approval == "person"
        named = {name: value for name, value in asdict(known).items() if value}
        first = Run(
            identifier, playbook.playbook, loaded.digest, event.id, event.at, "waits" if waits else "running", named,
            since=event.at, incident=self._incident_of(event),
        )  # fmt: skip
        if self._too_many(loaded.digest, playbook, event):
            self._alarm(first, "a playbook was triggered too often and is not carried out for now", known, event.at)
            return
        run = self._runs.begin(first)
        if run.state == "waits":
            if run == first:
                self._told("waits", run, title=playbook.title)
            return
        if run.state == "running":
            self._carry_out(run, playbook, event.at)

    def _too_many(self, digest: str, playbook: Playbook, event: Event) -> bool:
        most = _MOST * playbook.limits.per_hour
        seen = self._begun.setdefault(digest, OrderedDict())
        while seen and not 0 <= event.at - next(iter(seen.values())) < HOUR:
            seen.popitem(last=False)
        if event.id in seen or len(seen) < most:
            seen[event.id] = event.at
            return False
        return True

    def _incident_of(self, event: Event) -> str:
        """The one that an alert has opened: what is done about it belongs there."""
        group = event.record.get("group") if event.type == "alert" else None
        known = self._incidents.of_group(group) if isinstance(group, str) and group else None
        return known.id if known is not None else ""

    def _resume(self, run: Run, playbook: Playbook | None, now: float) -> None:
        if run.state == "waits" and (playbook is None or now - run.since > playbook.expires):
            if made := self._runs.move(run, state="expired", since=now):
                self._told("expired", made)
        elif run.state == "undo":
            self._undo(run, now)
        elif run.state == "agreed" or (run.state == "running" and now - run.since > _LEASE and now - run.at > _LEASE):
            if playbook is None or not self._approvals.in_force(run.playbook, run.digest):
                if made := self._runs.move(run, state="expired", since=now):
                    self._told("expired", made, detail="the playbook was changed or withdrawn meanwhile")
            elif made := self._runs.move(run, state="running", since=now):
                self._carry_out(made, playbook, now)

    def _carry_out(self, run: Run, playbook: Playbook, at: float) -> None:
        known = About(**run.about)
        planned = [(step, action_of(step, known, at) if step.do in ACTIONS else None) for step in playbook.then]
        incident, applied, came_to = run.incident, list[Applied](), list[str]()
        who, why = f"playbook:{playbook.playbook}", f"{playbook.title} ({run.event})"
        for step, action in sorted(planned, key=lambda one: one[0].do != "open_incident"):
            if step.do == "open_incident":
                group = f"{playbook.playbook}/{known.caller or known.tool or known.server}"
                incident = incident or self._open(run, step.title or playbook.title, step.severity, who, group, at)
                came_to.append(f"open_incident: {incident}")
            elif step.do in ("note", "alert"):
                came_to.append(self._say(run, step.do, step.title or "", step.severity, incident, at))
            elif action is None:
                came_to.append(f"{step.do}: nobody was proven to be meant")
            else:
                made, told = self._contain(run, playbook, known, action, who, why, incident, at)
                came_to.append(told)
                applied.extend(made)
        limited = any(one.endswith(": limit") for one in came_to)
        state: State = "limited" if limited and not applied else "done"
        done = self._runs.move(
            run, state=state, since=max(at, run.since), incident=incident, applied=tuple(one.id for one in applied),
            steps=tuple(came_to),
        )  # fmt: skip
        if done is not None:
            self._told("fired" if state == "done" else state, done, steps=came_to, applied=list(done.applied))
            if incident:
                self._incidents.link(
                    incident, by=who, at=at, events=[run.event], containments=list(done.applied),
                    subjects=_subjects(known),
                )  # fmt: skip

    def _contain(
        self, run: Run, playbook: Playbook, known: About, action: Action, who: str, why: str, incident: str, at: float
    ) -> tuple[list[Applied], str]:
        names = frozenset((*self._settings.protected, *playbook.protect))
        if name := protected(action, known, names, self._users_of):
            self._alarm(run, f"a playbook would have touched what is protected: {name}", known, at)
            return [], f"{action.kind}: {name} is protected"
        held = self._in_force(action)
        if held is None and not self._spend(run, playbook, action, at):
            self._alarm(run, "a playbook reached its limit and did nothing", known, at)
            return [], f"{action.kind}: limit"
        try:
            made = self._hands.apply(action, by=who, reason=why[:500], incident=incident)
        except ValueError as error:
            return [], f"{action.kind}: not done: {error}"
        if held is not None and held.by != who:  # what somebody else decided is not taken back with this run
            return [], f"{action.kind}: {made.id} was in force already"
        return [made], f"{action.kind}: {made.id}{' waits for a second person' if made.waits else ''}"

    def _open(self, run: Run, title: str, severity: str, who: str, group: str, at: float) -> str:
        """The incident of this playbook and subject, or a new one."""
        known = About(**run.about)
        links: dict[str, Any] = {"events": [run.event], "subjects": _subjects(known)}
        return self._incidents.open_group(title, severity, by=who, at=at, group=group, seed=run.event, **links).id

    def _say(self, run: Run, kind: str, title: str, severity: str, incident: str, at: float) -> str:
        if kind == "note" and incident:
            self._incidents.note(incident, title, by=f"playbook:{run.playbook}", at=at)
        elif kind == "alert":
            self._alert(run, title, severity, at, About(**run.about), "fired")
        return f"{kind}: {title}"

    def _undo(self, run: Run, now: float) -> None:
        came_to = []
        for identifier in run.applied:
            try:
                made = self._hands.release(identifier, by=run.by, reason=run.reason or "rolled back")
                came_to.append(f"{identifier} waits for a second person" if made.waits else f"released {identifier}")
            except LookupError:
                came_to.append(f"{identifier} is not in force any more")
            except ValueError as error:
                came_to.append(f"{identifier}: {error}")
        if after := self._runs.move(run, state="undone", since=now, steps=(*run.steps, *came_to)):
            self._told("rolled_back", after, steps=came_to)

    # limits

    def _users_of(self, client: str) -> set[str]:
        return {caller for caller, (_, used) in self._active.items() if used == client}

    def _spend(self, run: Run, playbook: Playbook, action: Action, at: float) -> bool:
        """Whether one more may be contained; if so, it is counted, for all replicas."""
        own, every = playbook.limits, self._settings
        weight = _weight(action, self._users_of)
        active = sum(1 for last, _ in self._active.values() if at - last <= HOUR)
        for _ in range(_TRIES):
            raw = self._table.get(_SPENT)
            rows: list[list[Any]] = [row for row in orjson.loads(raw or b"[]") if at - row[0] < HOUR]
            key = f"{action.kind}\n{action.issuer}\n{action.value}"
            if any(row[2] == key for row in rows):
                return True
            callers = weight and weight + sum(row[3] for row in rows)
            ours = weight and weight + sum(row[3] for row in rows if row[1] == run.playbook)
            mine = sum(1 for row in rows if row[1] == run.playbook)
            if mine >= own.per_hour or len(rows) >= every.per_hour:
                return False
            if weight and (ours > max(1, int(own.share * active)) or callers > max(1, int(every.share * active))):
                return False
            after = orjson.dumps([*rows, [at, run.playbook, key, weight]])
            if self._table.swap(_SPENT, raw, after):
                return True
        raise DependencyFault("incidents", "the count of what playbooks did changes faster than it can be written")

    # telling

    def _alarm(self, run: Run, text: str, known: About, at: float) -> None:
        """Once an hour for each playbook and reason: whoever causes it cannot flood those who read it."""
        place = f"alarm/{_digest(f'{run.playbook}{text}{int(at // HOUR)}')}"
        if self._table.swap(place, None, b"1", max(at, time.time()) + 2 * HOUR):
            self._alert(run, text, "critical", at, known, "limit")

    def _alert(self, run: Run, title: str, severity: str, at: float, known: About, why: str) -> None:
        subjects = _subjects(known)
        kind, _, value = subjects[0].partition(":") if subjects else ("", "", "")
        fields: dict[str, Any] = {
            "id": _digest(f"{run.id}{title}{why}")[:16], "rule": f"{OURS}{run.playbook}", "severity": severity,
            "title": title, "group": f"{OURS}{run.playbook}/{why}", "count": 1, "events": [run.event],
        }  # fmt: skip
        if kind:
            fields["about"] = {"kind": kind, "value": known.caller if kind == "caller" else value}
        self._record("alert", fields)

    def _told(self, act: str, run: Run, **more: Any) -> None:
        """What became of a run. `about` names whom it is about."""
        fields = {"act": act, "id": run.id, "playbook": run.playbook, "digest": run.digest, "trigger": run.event}
        also = {name: value for name, value in (("by", run.by), ("incident", run.incident)) if value}
        self._record("playbook", {**fields, "named": dict(run.about), **also, **more})


def _weight(action: Action, users_of: Callable[[str], set[str]]) -> int:
    """How many callers an action locks out; servers and tools are counted by the hour only."""
    if action.kind in SERVERS or action.value == "*":
        return 0
    return max(1, len(users_of(action.value))) if action.kind == "block_client" else 1


def _subjects(known: About) -> list[str]:
    """Whom or what it is about, as narrow as it can be said: an incident gathers everything about its subjects."""
    pairs = [("caller", known.caller), ("session", known.session)]
    if not known.caller:
        pairs = [("tool", known.tool)] if known.tool else [("server", known.server)]
    return [subject_text({"kind": kind, "value": value}) for kind, value in pairs if value]


def _same(one: Action, other: Action) -> bool:
    return (one.kind, one.value, one.issuer) == (other.kind, other.value, other.issuer)


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:32]
