"""Who watches and responds, for `limen posture`, `check` and `doctor`: as configured, and as it is just now."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from limen.core.faults import DependencyFault

if TYPE_CHECKING:
    from limen.audit.follow_settings import FollowerSettings
    from limen.config.model import Config
    from limen.storage import State

Found = tuple[str, bool, str]  # what was looked at, whether it is well, what was found


def configured(config: Config) -> dict[str, Any]:
    """What the file alone says of it."""
    audit, incidents, kept = config.audit, config.incidents, config.audit.retention
    bounds = [f"{kept.days:g} days"] if kept.days is not None else []
    bounds += [f"{kept.size >> 20} MiB"] if kept.size is not None else []
    return {
        "followers": [f"{one.name} ({one.kind}, {_late(one)})" for one in audit.followers],
        "metrics": audit.metrics.bind if audit.metrics is not None else None,
        "retention": " or ".join(bounds) or "everything is kept",
        "behavior": config.behavior.enabled,
        "decoys": len(config.decoys.tools),
        "alerts": [f"{one.name} ({one.kind}, from {one.severity})" for one in config.alerts.routes],
        "playbooks": list(incidents.playbooks),
        "release_approvers": incidents.release_approvers,
    }


def rows(config: Config) -> list[tuple[str, str, str, str]]:
    """Controls, what enforces them, its state, what shows it: one for each part that watches or responds."""
    audit, said = config.audit, configured(config)
    evidence = "tests/export/test_export_engine.py"
    found = [("I3", f"follower {one.name}", f"{one.kind}, {_late(one)}", evidence) for one in audit.followers]
    if audit.metrics is not None:
        found.append(("I3", "metrics", audit.metrics.bind, "tests/export/test_export_gateway.py"))
    told = f"{len(config.alerts.in_force)} rules, {len(config.alerts.routes)} told"
    people = config.incidents.release_approvers
    found += [
        ("A10", "index", "on" if audit.index else "off", "tests/audit/test_audit_index.py"),
        ("I2", "retention", said["retention"], "tests/audit/test_audit_prune.py"),
        (
            "I4 I5 I6 E10",
            "behavior",
            "on" if config.behavior.enabled else "off",
            "tests/simulation/test_behavior_simulation.py",
        ),
        ("I8", "alerts", told, "tests/incidents/test_alerts.py"),
        ("J1", "release", "two people" if people > 1 else "one person", "tests/incidents/test_containing.py"),
    ]
    return found + [("J2", name, state, "tests/incidents/test_playbooks.py") for name, _, state in _playbooks(config)]


def found(config: Config) -> list[Found]:
    """How it is just now, from what is kept. Changes nothing."""
    try:
        state = _kept(config)
    except DependencyFault as fault:
        return [("storage", False, str(fault))]
    if state is None:
        return _playbooks(config)
    try:
        return [*_followers(config, state), _contained(config, state), *_alerts(config, state), *_playbooks(config)]
    except DependencyFault as fault:
        return [("storage", False, str(fault))]
    finally:
        state.close()


def _late(one: FollowerSettings) -> str:
    return "stops calls when behind" if one.when_behind == "refuse" else "calls go on when it is behind"


def _kept(config: Config) -> State | None:
    """What is kept, or None before a gateway ever ran here: looking makes no file."""
    from limen.storage import State

    if config.storage.kind == "sqlite" and not config.storage.path.exists():
        return None
    return State.open(config)


def _followers(config: Config, state: State) -> list[Found]:
    from limen.audit.follow import read_standing, state_key
    from limen.audit.logs import name_of

    log, now, rows = name_of(config.audit.path, config.audit.name), time.time(), list[Found]()
    for one in config.audit.followers:
        standing = read_standing(state.cursors.get(state_key(log, one.name)))
        records, seconds = standing.lag(now)
        text = f"{records} records, {seconds:.0f} s behind{f'; {standing.error}' if standing.error else ''}"
        rows.append((f"follower {one.name}", not standing.behind, text))
    return rows


def _contained(config: Config, state: State) -> Found:
    from limen.containing import Containing

    held = Containing(config, state, lambda event, fields: None).in_force()
    actions = sorted({one.action.kind for one in held if not one.waits})
    return "containment", True, f"in force: {', '.join(actions)} (limen contain list)" if actions else "nothing"


def _alerts(config: Config, state: State) -> list[Found]:
    from limen.incidents.alerts import alerts
    from limen.incidents.outbox import entries

    given_up, raised = len(entries(state.alerts, dead=True)), len(alerts(state.alerts, closed=False))
    text = f"{given_up} given up (limen alerts dead)" if given_up else f"{len(config.alerts.routes)} are told"
    return [("alerts", True, f"{raised} open (limen alerts list)"), ("alert delivery", not given_up, text)]


def _playbooks(config: Config) -> list[Found]:
    """Each that is named, whether it is carried out, and why not."""
    from limen.config.playbooks import load_playbooks

    named = load_playbooks(config.incidents)
    if not named:
        return []
    try:
        approved = _approved(config, [(one.playbook.playbook, one.digest) for one in named if one.playbook is not None])
    except DependencyFault as fault:
        return [(f"playbook {one.source}", False, f"unknown: {fault}") for one in named]
    rows = list[Found]()
    for one in named:
        good = one.playbook is not None and one.digest in approved
        state = one.fault or ("in force" if good else "waits for `limen playbook approve`")
        rows.append((f"playbook {one.source}", good, state))
    return rows


def _approved(config: Config, wanted: list[tuple[str, str]]) -> set[str]:
    """Digests of those that enough people approved."""
    from functools import partial

    from limen.audit.note import open_note
    from limen.incidents.approved import Approvals
    from limen.vigil import own_key

    if not config.audit.key.exists() or (state := _kept(config)) is None:
        return set()
    try:
        held = Approvals(state.incidents, partial(open_note, key=own_key(config)), config.incidents.approvers)
        return {digest for name, digest in wanted if held.in_force(name, digest)}
    finally:
        state.close()
