"""The records of one call: the index says where they are, the log what they say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from limen.cli.terminal import complain
from limen.core.faults import DependencyFault

if TYPE_CHECKING:
    from limen.config.model import Config

_MOST = 1000  # records of one call that the index is asked for


def records_of(config: Config, reference: str, *, scan: bool = False) -> dict[int, dict[str, Any]]:
    """Number -> record, of this replica's log, of the call with this reference; empty: there is none in the log.

    The index is believed of nothing: what it names is read from the log and compared, what it does not hold yet is read
    as well, and the whole log where it knows nothing, says something else, cannot be read or is not kept. `scan`: the
    whole log at once. Raises DependencyFault, ValueError.
    """
    from limen.audit.read import read

    found, start = dict[int, dict[str, Any]](), 0
    if config.audit.index and not scan:
        try:
            found, start = _indexed(config, reference)
        except (DependencyFault, ValueError) as fault:
            complain(f"warning: the index is of no use ({fault}); reading the whole log")
    wanted = orjson.dumps(reference)
    for number, raw in read(config.audit.path, start):
        if wanted in raw:
            record = orjson.loads(raw)
            if isinstance(record, dict) and record.get("ref") == reference:
                found[number] = record
    return found if found or not start else records_of(config, reference, scan=True)


def _indexed(config: Config, reference: str) -> tuple[dict[int, dict[str, Any]], int]:
    """What the index found, and the first record behind all that it holds. Raises ValueError where it says something
    else than the log, DependencyFault."""
    from limen.audit.events import read_event
    from limen.audit.index import Query, row_of
    from limen.audit.logs import name_of
    from limen.audit.proofs import record_at
    from limen.storage import open_index

    directory, log = config.audit.path, name_of(config.audit.path, config.audit.name)
    index, found = open_index(config), dict[int, dict[str, Any]]()
    try:
        rows = [row for row, _ in index.find(Query(ref=reference, log=log, newest_first=False, limit=_MOST))]
        newest = index.find(Query(log=log, limit=1))
    finally:
        index.close()
    for row in rows:
        raw = record_at(directory, row.number)
        if raw is None:
            continue  # removed, and the index not told yet
        event = read_event(log, row.number, raw)
        if row_of(event) != row:
            raise ValueError(f"{log}:{row.number} is something else in the log: limen audit index check")
        found[row.number] = dict(event.record)
    return found, newest[0][0].number + 1 if newest else 0
