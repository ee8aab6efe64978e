"""What each caller has read: labels that outlive connections, sessions and protocol eras, with the reads behind them.

Labels belong to issuer and subject. A session or a client would be too small a holder: opening another one must not
wash anything off. They are in the table before the content they stand for is passed on, and stay `ttl` seconds after
the last such read. The chain of reads explains them; it is bounded, never loses the first read of a label that is in
force, and may trail by a few seconds in the table. Whatever fails raises DependencyFault, and that refuses.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from typing import Any, Final

import orjson

from limen.core.faults import DependencyFault
from limen.core.ports import Table
from limen.detection.labels import Label

TTL: Final = 8 * 3600.0
MAX_READS: Final = 64
MAX_CLEARINGS: Final = 16
CLEARINGS_KEPT: Final = 90 * 86_400.0
_TRAIL_SECONDS: Final = 5.0
_HOT: Final = 10_000
_NAME: Final = 512
_TRIES: Final = 16
_PREFIX: Final = "flow/"
Principal = tuple[str, str]  # issuer, subject


@dataclass(frozen=True, slots=True)
class Read:
    """One thing that was read, `count` times between `first` and `last` (seconds since the epoch).

    `digest`: of the definition as approved. `reference`: of the first such call, as in the audit.
    """

    server: str
    kind: str
    name: str
    digest: str
    labels: frozenset[Label]
    first: float = 0.0
    last: float = 0.0
    count: int = 1
    reference: str = ""

    @property
    def key(self) -> tuple[object, ...]:
        return (self.server, self.kind, self.name, self.digest, self.labels)


@dataclass(frozen=True, slots=True)
class Clearing:
    """Who took which labels off, when and why."""

    by: str
    why: str
    at: float
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LabelSet:
    """The labels in force, immutable. `reads`: oldest first."""

    labels: frozenset[Label] = frozenset()
    reads: tuple[Read, ...] = ()

    @property
    def untrusted(self) -> bool:
        return Label.UNTRUSTED in self.labels

    @property
    def private(self) -> bool:
        """Secret is private too."""
        return Label.PRIVATE in self.labels or Label.SECRET in self.labels

    @property
    def secret(self) -> bool:
        return Label.SECRET in self.labels

    @property
    def trifecta(self) -> bool:
        """A stranger's words and private data are in the same head: only the way out is missing."""
        return self.untrusted and self.private

    def having(self, labels: Iterable[Label]) -> LabelSet:
        """With these as well, which no read explains: what a caller has by what it is."""
        more = frozenset(labels) - self.labels
        return LabelSet(self.labels | more, self.reads) if more else self

    def context(self) -> dict[str, bool]:
        """`context.flow` as policies see it."""
        return {"untrusted": self.untrusted, "private": self.private, "secret": self.secret}


_NONE: Final = LabelSet()


@dataclass(slots=True)
class _State:
    """One principal as this process knows it. `raw`: as stored. `epoch` changes when an operator clears."""

    raw: bytes | None = None
    epoch: str = ""
    expires: dict[Label, float] = field(default_factory=dict)
    reads: dict[tuple[object, ...], Read] = field(default_factory=dict)
    clearings: list[Clearing] = field(default_factory=list)
    token: object = None
    view: LabelSet = _NONE
    until: float = 0.0  # the view holds before this moment
    stored: float = 0.0
    trailing: bool = False  # reads that are not in the table yet


class Labels:
    """Labels of all principals, in a table that several processes may share.

    `changed` gives a value that differs whenever another process may have written (for example
    `SqliteTable.change_token`): with it reading labels costs a look-up in a dictionary, without it one in the table.
    """

    def __init__(
        self,
        table: Table,
        changed: Callable[[], object] | None = None,
        *,
        ttl: float = TTL,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._table, self._changed, self._ttl, self._now = table, changed, ttl, now
        self._hot: OrderedDict[Principal, _State] = OrderedDict()
        self._lock = threading.RLock()

    def read(self, principal: Principal) -> LabelSet:
        """The labels in force. Raises DependencyFault, and then nothing may be sent anywhere."""
        if self._changed is not None:
            state = self._hot.get(principal)
            if state is not None and state.token == self._changed() and self._now() < state.until:
                return state.view
        with self._lock:
            return self._current(principal).view

    def add(self, principal: Principal, read: Read) -> LabelSet:
        """Remember a read, before what was read is passed on. Raises DependencyFault: then it must not be passed on."""
        if not read.labels:
            return self.read(principal)
        now = self._now()
        read = replace(read, name=_bounded(read.name), first=now, last=now, count=1)
        with self._lock:
            state = self._current(principal)
            urgent = any(state.expires.get(label, 0.0) < now + self._ttl for label in read.labels)
            self._apply(state, read)
            if urgent or (state.trailing and now - state.stored >= _TRAIL_SECONDS):
                state = self._store(principal, state, read)
            else:
                state.view = _view(state, now)
            return state.view

    def clear(self, principal: Principal, by: str, why: str, labels: Iterable[Label] = frozenset(Label)) -> Clearing:
        """An operator vouches that these labels no longer describe the caller; kept with who and why.

        Raises ValueError without a name or a reason, LookupError when there is nothing to clear, DependencyFault.
        """
        if not by.strip() or not why.strip():
            raise ValueError("clearing labels has somebody who does it and a reason")
        with self._lock:
            for _ in range(_TRIES):
                state = self._current(principal, fresh=True)
                gone = state.view.labels & frozenset(labels)
                if not gone:
                    raise LookupError("this caller has none of these labels")
                done = Clearing(by[:200], why[:1000], self._now(), tuple(sorted(gone)))
                for label in gone:
                    del state.expires[label]
                left = {key: replace(read, labels=read.labels - gone) for key, read in state.reads.items()}
                state.reads = {read.key: read for read in left.values() if read.labels}
                state.clearings = [*state.clearings, done][-MAX_CLEARINGS:]
                state.epoch = secrets.token_hex(8)  # reads other processes have not stored yet are from before
                if self._swap(principal, state):
                    return done
                self._hot.pop(principal, None)
        raise DependencyFault("labels", "the record kept changing")

    def explain(self, principal: Principal) -> dict[str, Any]:
        """Which labels, until when, and the reads that led there; times in seconds since the epoch. For operators."""
        with self._lock:
            state = self._current(principal, fresh=True)
            if state.trailing:
                state = self._store(principal, state, None)
            view = state.view
            return {
                "issuer": principal[0],
                "subject": principal[1],
                "flow": view.context(),
                "labels": {
                    str(label): {
                        "expires": state.expires[label],
                        "first": next((_shown(read) for read in view.reads if label in read.labels), None),
                    }
                    for label in sorted(view.labels)
                },
                "reads": [_shown(read) for read in view.reads],
                "cleared": [asdict(clearing) for clearing in state.clearings],
            }

    def flush(self) -> None:
        """Write reads the table does not have yet; for shutting down. Labels themselves never wait for this."""
        with self._lock:
            for principal, state in list(self._hot.items()):
                if state.trailing:
                    self._store(principal, state, None)

    def _current(self, principal: Principal, *, fresh: bool = False) -> _State:
        """This principal's state, checked against the table unless nobody wrote since. Call with the lock held."""
        # The token is read first: what is written after it is noticed next time.
        token, now, state = self._changed() if self._changed else None, self._now(), self._hot.get(principal)
        if state is None or fresh or self._changed is None or state.token != token:
            raw = self._table.get(_key(principal))
            if state is None or raw != state.raw:
                found = _decode(raw)
                if state is not None and state.trailing and state.epoch == found.epoch:
                    _merge(found, state.reads.values())
                state = self._keep(principal, found)
            state.token = token
        if now >= state.until or state.view is _NONE:
            state.view = _view(state, now)
            state.until = min((moment for moment in state.expires.values() if moment > now), default=float("inf"))
        return state

    def _keep(self, principal: Principal, state: _State) -> _State:
        self._hot[principal] = state
        self._hot.move_to_end(principal)
        while len(self._hot) > _HOT:
            gone, idle = self._hot.popitem(last=False)
            if idle.trailing:
                self._store(gone, idle, None, keep=False)
        return state

    def _apply(self, state: _State, read: Read) -> None:
        now = read.last
        known = state.reads.get(read.key)
        state.reads[read.key] = replace(known, last=now, count=known.count + 1) if known else read
        state.trailing = True
        for label in read.labels:
            if state.expires.get(label, 0.0) < now + self._ttl:
                # A little longer than asked for, so that repeated reads need not be written each time.
                state.expires[label] = now + self._ttl * 1.125
                state.until = 0.0
        _trim(state, now)

    def _store(self, principal: Principal, state: _State, event: Read | None, *, keep: bool = True) -> _State:
        """Into the table, over what others wrote meanwhile; what an operator cleared does not come back."""
        for _ in range(_TRIES):
            if self._swap(principal, state, keep=keep):
                return state
            fresh = _decode(self._table.get(_key(principal)))
            if fresh.epoch == state.epoch:
                _merge(fresh, state.reads.values())
            if event is not None:
                fresh.reads.pop(event.key, None)
                self._apply(fresh, event)
            state = fresh
        self._hot.pop(principal, None)
        raise DependencyFault("labels", "the record kept changing")

    def _swap(self, principal: Principal, state: _State, *, keep: bool = True) -> bool:
        now = self._now()
        _expire(state, now)
        raw = _encode(principal, state)
        kept = [*state.expires.values(), *(clearing.at + CLEARINGS_KEPT for clearing in state.clearings)]
        token = self._changed() if self._changed else None
        try:
            if not self._table.swap(_key(principal), state.raw, raw, max(kept, default=now + self._ttl)):
                return False
        except DependencyFault:
            self._hot.pop(principal, None)  # it holds labels the table does not: the next look must start over
            raise
        # The token from before our write: it has changed by now, so the next look compares with the table once.
        state.raw, state.token, state.stored, state.trailing = raw, token, now, False
        state.view, state.until = _view(state, now), min(state.expires.values(), default=float("inf"))
        if keep:
            self._keep(principal, state)
        return True


def _key(principal: Principal) -> str:
    return _PREFIX + sha256(orjson.dumps(list(principal))).hexdigest()


def _bounded(name: str) -> str:
    """Long URIs by their beginning and their digest."""
    text = name.encode("utf-8", "replace").decode()
    return text if len(text) <= _NAME else f"{text[: _NAME - 68]}...{sha256(text.encode()).hexdigest()}"


def _view(state: _State, now: float) -> LabelSet:
    live = frozenset(label for label, moment in state.expires.items() if moment > now)
    reads = sorted((read for read in state.reads.values() if read.labels & live), key=lambda read: read.first)
    return LabelSet(live, tuple(reads))


def _expire(state: _State, now: float) -> None:
    state.expires = {label: moment for label, moment in state.expires.items() if moment > now}
    state.reads = {key: read for key, read in state.reads.items() if read.labels & state.expires.keys()}
    state.clearings = [clearing for clearing in state.clearings if clearing.at + CLEARINGS_KEPT > now]


def _merge(state: _State, reads: Iterable[Read]) -> None:
    """Reads from elsewhere: the earlier first, the later last; counts are not added, they may overlap."""
    for read in reads:
        known = state.reads.get(read.key)
        state.reads[read.key] = read if known is None else _both(known, read)
    state.trailing = True
    _trim(state, max((read.last for read in state.reads.values()), default=0.0))


def _both(one: Read, other: Read) -> Read:
    early = one if one.first <= other.first else other
    return replace(early, last=max(one.last, other.last), count=max(one.count, other.count))


def _trim(state: _State, now: float) -> None:
    """Keep the newest, and of each label in force the read that brought it."""
    if len(state.reads) <= MAX_READS:
        return
    _expire(state, now)
    by_age = sorted(state.reads.values(), key=lambda read: read.first)
    first = {next((read.key for read in by_age if label in read.labels), None) for label in state.expires}
    loose = sorted((read for read in by_age if read.key not in first), key=lambda read: read.last)
    for read in loose[: max(0, len(state.reads) - MAX_READS)]:
        del state.reads[read.key]


def _shown(read: Read) -> dict[str, Any]:
    return {**asdict(read), "labels": sorted(read.labels)}


def _encode(principal: Principal, state: _State) -> bytes:
    return orjson.dumps(
        {
            "issuer": principal[0],
            "subject": principal[1],
            "epoch": state.epoch,
            "expires": {str(label): moment for label, moment in state.expires.items()},
            "reads": [_shown(read) for read in state.reads.values()],
            "clearings": [asdict(clearing) for clearing in state.clearings],
        },
        option=orjson.OPT_SORT_KEYS,
    )


def _decode(raw: bytes | None) -> _State:
    """Raises DependencyFault: labels that cannot be read are not "none"."""
    if raw is None:
        return _State()
    try:
        data = orjson.loads(raw)
        rows = [Read(**{**row, "labels": frozenset(map(Label, row["labels"]))}) for row in data["reads"]]
        return _State(
            raw,
            str(data["epoch"]),
            {Label(label): float(moment) for label, moment in data["expires"].items()},
            {read.key: read for read in rows},
            [Clearing(**{**row, "labels": tuple(row["labels"])}) for row in data["clearings"]],
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DependencyFault("labels", f"a record cannot be read: {type(error).__name__}", retryable=False) from None
