"""How much is remembered: a server that changes at every reading must not fill the disk.

What is in use is never dropped. Of the rest, versions nobody ever decided about go first, the oldest of them first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from limen.catalog.history import STORE, Row
from limen.catalog.records import Mark, Record
from limen.catalog.store import Store, Subject

MAX_VERSIONS: Final = 10_000  # of one name
MAX_BYTES: Final = 32 << 20  # of all versions of one server
_SPARE: Final = 0.01  # what goes beyond that when something has to: the next versions cost no search then

_Found = tuple[Subject, str, Mark]


def make_room(store: Store, server: str, now: float) -> list[Row]:
    """Drop versions of this server until it is within bounds. Returns a history row for each name that lost some."""
    records = {subject: loaded.record for subject, loaded in store.scan(server) if not loaded.fault}
    rows: list[Row] = []
    for subject, record in records.items():
        if record.versions > MAX_VERSIONS:
            found = _marks(store, *subject)
            lost = _choose(found, records, count=len(found) - int(MAX_VERSIONS * (1 - _SPARE)))
            rows.extend(_drop(store, lost, now, f"more than {MAX_VERSIONS} versions"))
    if store.weight(server) > MAX_BYTES:
        found = _marks(store, server)
        total = sum(mark.size for _, _, mark in found)
        store.weighed(server, total)
        if total > MAX_BYTES:
            lost = _choose(found, records, size=total - int(MAX_BYTES * (1 - _SPARE)))
            rows.extend(_drop(store, lost, now, f"the server's versions take more than {MAX_BYTES} bytes"))
    return rows


def _marks(store: Store, *parts: str) -> list[_Found]:
    """Versions with their marks. One whose mark was altered counts as undecided and old: it goes first."""
    return [(subject, digest, mark or Mark(0, 0.0, 0)) for subject, digest, mark in store.marks(*parts)]


def _choose(found: list[_Found], records: dict[Subject, Record], *, count: int = 0, size: int = 0) -> list[_Found]:
    """What to drop: so many versions, or so many bytes."""
    kept = {subject: record.kept() for subject, record in records.items()}
    loose = [one for one in found if one[1] not in kept.get(one[0], ())]
    loose.sort(key=lambda one: (bool(one[2].verdict), one[2].seen, one[2].number))
    chosen: list[_Found] = []
    for one in loose:
        if len(chosen) >= count and size <= 0:
            break
        chosen.append(one)
        size -= one[2].size
    return chosen


def _drop(store: Store, lost: Iterable[_Found], now: float, why: str) -> list[Row]:
    by_subject: dict[Subject, list[_Found]] = {}
    for one in lost:
        by_subject.setdefault(one[0], []).append(one)
    rows: list[Row] = []
    for subject, versions in by_subject.items():
        while (loaded := store.load(subject)) is not None and not loaded.fault:
            # A person may have decided meanwhile: what is in use now stays.
            kept = loaded.record.kept()
            gone = [(digest, mark.size) for _, digest, mark in versions if digest not in kept]
            loaded.record.versions = max(0, loaded.record.versions - len(gone))
            if store.save(subject, loaded.raw, loaded.record):
                store.forget(subject, gone)
                decided = sum(1 for _, digest, mark in versions if mark.verdict and digest not in kept)
                text = f"{len(gone)} of the oldest versions ({decided} decided about): {why}"
                rows.append(Row(0, now, STORE, "dropped", *subject, "", text))
                break
    return rows
