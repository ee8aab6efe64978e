"""Composition of those who watch: suspicion, alerts, behaviour, decoys, incidents, playbooks, and the index."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limen.adapters.keys import FileSigner
from limen.alerting import open_alerting
from limen.audit.events import read_event
from limen.audit.index import Indexing
from limen.audit.note import VerifierKey, open_note
from limen.audit.read import read
from limen.config.playbooks import load_playbooks
from limen.containing import Containing
from limen.core.events import Event, Signal, Watch
from limen.detection.behavior import Behavior
from limen.detection.canaries import Canaries, DecoyWatch
from limen.incidents.approved import Approvals
from limen.incidents.incident import Incidents, IncidentWatch
from limen.incidents.runs import Playbooks
from limen.incidents.suspicion import Suspicion
from limen.storage import open_index

if TYPE_CHECKING:
    from limen.config.model import Config
    from limen.incidents.actions import Hands
    from limen.storage import State

Record = Callable[[str, Mapping[str, Any]], None]  # puts an event on record. Raises DependencyFault.


def open_watches(config: Config, state: State, record: Record, log: str) -> list[Watch]:
    """All who watch the log of this name, in the order in which each event is shown to them. Raises ConfigFault,
    DependencyFault."""

    def suspect(signal: Signal) -> None:
        record("signal", as_fields(signal))

    bus, find = state.bus, partial(find_event, config.audit.path, log)
    watches: list[Watch] = []
    if config.audit.index:
        watches.append(Indexing(open_index(config)))
    if config.behavior.enabled:
        watches.append(Behavior(state.behavior, config.behavior, suspect, log))
    watches += [
        DecoyWatch(Canaries(state.behavior, config.decoys.canary_values), record, suspect),
        Suspicion(state.threats, lambda: bus.publish("threats") if bus is not None else None),
        open_alerting(config, state, record, log),
        IncidentWatch(Incidents(state.incidents, record), config.incidents, find),
        playbook_watch(config, state, record, Containing(config, state, record), log),
    ]
    return watches


def as_fields(signal: Signal) -> dict[str, Any]:
    """A suspicion as it is recorded: event `signal`."""
    return {
        "about": signal.subject.kind, "value": signal.subject.value, "source": signal.source, "score": signal.score,
        "why": signal.why, "event": signal.event, "seconds": signal.seconds,
    }  # fmt: skip


def playbook_watch(config: Config, state: State, record: Record, hands: Hands, log: str) -> Playbooks:
    """Who carries out the playbooks of a configuration, with these hands."""
    settings = config.incidents
    approvals = Approvals(state.incidents, partial(open_note, key=own_key(config)), settings.approvers)
    incidents = Incidents(state.incidents, record)
    find = partial(find_event, config.audit.path, log)
    return Playbooks(
        hands, incidents, state.incidents, approvals, settings, lambda: load_playbooks(settings), record, find
    )


def own_key(config: Config) -> VerifierKey:
    """The public key of the log, which approvals of playbooks are signed with. Raises ConfigFault, DependencyFault."""
    signer = FileSigner.open(config.audit.key, config.audit.name, create=False)
    return VerifierKey(signer.name, signer.public_key)


def find_event(directory: Path, log: str, identifier: str) -> Event | None:
    """The event of this log with this id, or None: of another log, or not there."""
    name, _, number = identifier.rpartition(":")
    if name != log or not number.isdecimal() or len(number) > 15:
        return None
    index = int(number)
    found = next(read(directory, index), None)
    return read_event(log, index, found[1]) if found is not None and found[0] == index else None
