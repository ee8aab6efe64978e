"""Reading logs for an incident: its own and those of other replicas, each checked against its key."""

from __future__ import annotations

import hmac
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
import typer

from limen.audit.events import read_event
from limen.audit.evidence import Proven, prove
from limen.audit.logs import key_of, name_of
from limen.audit.note import NoteError, parse_verifier_key
from limen.audit.read import read
from limen.audit.signed import SignedRecords, Untrusted
from limen.cli.audit import key_text
from limen.cli.context import Misused, Refused
from limen.core.events import Event
from limen.incidents.forensics import AROUND, Scope, Selection, impact
from limen.incidents.incident import Incident, read_subject
from limen.policy.kept import NotKept, catalog_text, policy_text
from limen.vigil import find_event

if TYPE_CHECKING:
    from limen.catalog.registry import Registry
    from limen.config.model import Config
    from limen.core.ports import Signer, Table

_KINDS: Final = {"tools/call": ("tool",), "prompts/get": ("prompt",)}
_OTHERS: Final = ("resource", "template")
_WATCHED: Final = 20_000
_Read = tuple[int, bytes, bytes | None]  # number, leaf hash, record


@dataclass(frozen=True, slots=True)
class Log:
    """A directory and the key its checkpoint must be signed by. `name` is the key's."""

    directory: Path
    key: str
    name: str


def logs_of(config: Config, others: Iterable[str]) -> list[Log]:
    """Our own, and what `--log DIR=KEY` adds. Raises Misused, ConfigFault."""
    from limen.opening import open_signer

    own = open_signer(config)
    own = own.named(name_of(config.audit.path, own.name))
    found = [Log(config.audit.path, own.verifier_key, own.name)]
    for text in others:
        place, equals, key = text.partition("=")
        try:
            read_key = key_of(Path(place), parse_verifier_key(key_text(key)))
        except NoteError as fault:
            raise Misused(f"--log reads DIR=KEY, KEY being name+hash+key or @FILE: {fault}") from None
        if not equals or not Path(place).is_dir():
            raise Misused(f"--log {place}: there is no such directory")
        found.append(Log(Path(place), read_key.text, read_key.name))
    if len({one.name for one in found}) < len(found):
        raise Misused("two logs have one name: events of one could be taken for those of the other")
    return found


def events_of(log: Log) -> Iterator[Event]:
    """Every signed event. Raises Refused, at the end at the latest, when the log is not what was signed."""
    try:
        records = SignedRecords(log.directory, log.key)
        with _shown(records.walk(), records.size, f"reading {log.name}") as shown:
            for index, _, record in shown:
                if record is not None:
                    yield read_event(log.name, index, record)
    except Untrusted as fault:
        raise Refused(f"the log cannot be believed, so nothing is concluded from it: {fault}") from None


@contextmanager
def _shown(records: Iterable[_Read], size: int, label: str) -> Iterator[Iterable[_Read]]:
    if size < _WATCHED or not sys.stderr.isatty():
        yield records
        return
    with typer.progressbar(records, length=size, label=label, file=sys.stderr) as bar:
        yield bar


def scope_of(incident: Incident, logs: list[Log]) -> tuple[Scope, set[str]]:
    """What belongs to an incident, and the references its events share with others."""
    times, refs = [incident.at], set[str]()
    for identifier in incident.events:
        for log in logs:
            if (event := find_event(log.directory, log.name, identifier)) is not None:
                times.append(event.at)
                refs |= {event.ref} - {""}
    subjects = frozenset(read_subject(one) for one in incident.subjects)
    scope = Scope(
        incident.id, frozenset(incident.events), frozenset(incident.alerts), frozenset(incident.containments), subjects,
        since=min(times) - AROUND, until=max(*times, incident.changed) + AROUND, frame=True,
    )  # fmt: skip
    return scope, refs


def select(logs: list[Log], scope: Scope, refs: set[str]) -> list[Event]:
    """The events of a scope, of all logs."""
    found: list[Event] = []
    for log in logs:
        selection = Selection(scope, set(refs))
        found.extend(event for event in events_of(log) if selection.belongs(event))
    return found


def proven(logs: list[Log], scope: Scope, refs: set[str]) -> tuple[list[Proven], list[Event]]:
    """The same with proofs. Raises Refused."""
    made: list[Proven] = []
    found: list[Event] = []
    for log in logs:
        selection = Selection(scope, set(refs))

        def choose(index: int, record: bytes, name: str = log.name, chosen: Selection = selection) -> bool:
            event = read_event(name, index, record)
            if belongs := chosen.belongs(event):
                found.append(event)
            return belongs

        try:
            made.append(prove(log.directory, log.key, choose))
        except Untrusted as fault:
            raise Refused(f"the log cannot be believed, so nothing is concluded from it: {fault}") from None
    return made, found


def impact_of(logs: list[Log], **meant: Any) -> dict[str, Any]:
    """Of a tool, a definition or callers (see `forensics.impact`), in two passes and without holding whole logs."""
    server, name, digest = (meant.get(one, "") for one in ("server", "name", "digest"))
    wanted = meant.get("callers", frozenset())
    callers: set[str] = set()
    servers: set[str] = set()
    for log in logs:
        for event in events_of(log):
            fits = (not server or event.server == server) and (not name or event.name == name)
            fits = fits and (not digest or event.digest == digest) and (not wanted or event.caller in wanted)
            if fits and event.type in ("call.intent", "call.local"):
                callers.add(event.caller or event.peer)
                servers.add(event.server)
    kept: list[Event] = []
    for log in logs:
        refs: set[str] = set()
        for event in events_of(log):
            by = event.type in ("call.intent", "call.local") and (event.caller or event.peer) in callers
            if by and event.ref:
                refs.add(event.ref)
            if by or (event.type == "call.outcome" and event.ref in refs):
                kept.append(event._replace(record={"flow": event.record.get("flow")}))
            elif event.record.get("t") == "egress" and event.server in servers:
                kept.append(event)
    return impact(kept, **meant)


def impact_of_incident(incident: Incident, scope: Scope, logs: list[Log]) -> dict[str, Any]:
    """What its callers did; without callers, who used its tools and servers."""
    within = {"since": scope.since, "until": scope.until}
    callers = frozenset(one.value for one in scope.subjects if one.kind == "caller")
    if callers:
        return impact_of(logs, callers=callers, **within)
    for kind in ("tool", "server"):
        for one in sorted(scope.subjects):
            if one.kind == kind:
                server, _, name = one.value.partition("/")
                return impact_of(logs, server=server, name=name, **within)
    return {"calls": 0, "sent": 0, "unknown_sizes": 0, "callers": [], "egress": [], "why": "no subject is linked"}


def beside(events: Iterable[Event], registry: Registry, history: Table) -> tuple[dict[str, bytes], list[str]]:
    """Definitions, policies and catalogs of these events by their digests, and what of them is not kept any more."""
    files: dict[str, bytes] = {}
    gaps: dict[str, None] = {}
    for event in events:
        if event.digest and event.server and (event.method or event.record.get("kind")):
            place = f"definitions/{event.digest}.json"
            if place not in files and (content := definition_of(event, registry)) is not None:
                files[place] = content
            elif place not in files:
                gaps[f"definition {event.digest} of {event.server}/{event.name} is not kept"] = None
        for folder, digest, text in (
            ("policies", event.policy, policy_text),
            ("catalogs", event.catalog, catalog_text),
        ):
            place = f"{folder}/{digest}.{'txt' if folder == 'policies' else 'json'}"
            if digest and place not in files:
                try:
                    found: Any = text(history, digest)
                    files[place] = found.encode() if isinstance(found, str) else found
                except NotKept as fault:
                    gaps[str(fault)] = None
    return files, list(gaps)


def definition_of(event: Event, registry: Registry) -> bytes | None:
    """The definition an event is about, as it was announced or approved; None when it is not kept."""
    stated = event.record.get("kind")
    kinds = (stated,) if isinstance(stated, str) else _KINDS.get(event.method, _OTHERS)
    names = dict.fromkeys((str(event.record.get("tool") or ""), event.name))
    for kind in kinds:
        for name in filter(None, names):
            try:
                content = registry.definition(event.server, kind, name, event.digest)
            except LookupError:
                continue
            if sha256(content).hexdigest() == event.digest:
                return content
    return None


def redactor(signer: Signer, incident: str, names: Iterable[str]) -> Callable[[Any], Any]:
    """Replaces these names in JSON values by a keyed digest, the same for the same name in all evidence of an incident.

    The key is the signer's signature of a fixed text, which nobody else can make and which is never shown.
    """
    key = sha256(signer.sign(f"limen.redaction/1\n{incident}\n".encode())).digest()
    chosen = {one: f"redacted-{hmac.digest(key, one.encode(), 'sha256').hex()[:16]}" for one in names if one}
    longest = sorted(chosen, key=len, reverse=True)
    found = re.compile("|".join(rf"(?<![\w-]){re.escape(one)}(?![\w-])" for one in longest)) if longest else None

    def hide(value: Any) -> Any:
        if isinstance(value, str):
            return found.sub(lambda match: chosen[match[0]], value) if found is not None else value
        if isinstance(value, dict):
            return {hide(name): hide(one) for name, one in value.items()}
        return [hide(one) for one in value] if isinstance(value, list | tuple) else value

    return hide


def redacted_record(hide: Callable[[Any], Any], record: bytes) -> bytes | None:
    """Another text for a record that names somebody, None for one that does not."""
    before = orjson.loads(record)
    after = hide(before)
    return None if after == before else orjson.dumps(after)


def known_log(config: Config) -> bool:
    """Whether there is a log at all."""
    return config.audit.path.is_dir() and next(iter(read(config.audit.path)), None) is not None
