"""Runs every detector over one piece of content: at once where it is short, off the event loop where it is long.

What one content was judged to be is remembered by digest. A detector that crashes or takes too long is a fault, which
the chain turns into a refusal; messages of such faults name the detector and never what it was given.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, Protocol, TypeVar

from limen.core.faults import DependencyFault, InvariantFault
from limen.detection.finding import Channel, Finding
from limen.detection.remote import Remote
from limen.detection.text import Content, TooMuch, pieces
from limen.protocol.jsonrpc import canonical

INLINE: Final = 2048  # bytes judged on the event loop; longer ones would hold up other calls for milliseconds
MANIFOLD: Final = 3  # disguises a text judged there may suggest: 4 of 1000 ordinary ones suggest more, noise always
SECONDS: Final = 10.0
WORKERS: Final = 2
WAITING: Final = 64  # long contents in the queue, each up to 16 MiB: beyond it calls are refused
REMEMBERED: Final = 4096
_Done = TypeVar("_Done")
_MOST_FINDINGS: Final = 64  # a verdict of more is not worth remembering


@dataclass(frozen=True, slots=True)
class Subject:
    """What is judged, and where it comes from or goes to. `others`: names of tools of other servers."""

    server: str
    name: str
    channel: Channel
    trusted: bool = False
    value: Any = None
    definition: bytes = b""
    others: frozenset[str] = frozenset()


class Detector(Protocol):
    """Looks at all strings of a value, and at them together."""

    @property
    def name(self) -> str: ...
    def find(self, content: Content, subject: Subject) -> Iterable[Finding]: ...


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. `too_large`: nothing was looked at, because there is too much of it."""

    findings: tuple[Finding, ...] = ()
    too_large: bool = False


_CLEAN: Final = Report()
_TOO_LARGE: Final = Report(too_large=True)


class Scanner:
    """Shared by all guards. `version` tells verdicts apart that depend on more than the content: on the catalog."""

    def __init__(
        self,
        detectors: Sequence[Detector],
        *,
        remotes: Sequence[Remote] = (),
        seconds: float = SECONDS,
        inline: int = INLINE,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._detectors, self._remotes = tuple(detectors), tuple(remotes)
        self._seconds, self._inline, self._now = seconds, inline, now
        self._known: OrderedDict[bytes, Report] = OrderedDict()
        self._lock = threading.Lock()
        self._waiting = 0
        self._workers = ThreadPoolExecutor(WORKERS, "limen-scan")

    def scan(self, subject: Subject, version: str = "") -> Report | Awaitable[Report]:
        """Judge, at once or off the loop. Raises InvariantFault when a detector crashes, DependencyFault when judging
        takes too long or too much waits; so does the awaitable."""
        data = canonical(subject.value)
        key = _key(subject, data, version)
        if (known := self._recall(key)) is not None:
            return known
        if self._remotes and (asked := [one for one in self._remotes if subject.channel in one.channels]):
            return self._beyond(key, subject, len(data), asked)
        if len(data) <= self._inline:
            content = self._read(subject)
            if content is None or len(content.kinds) <= MANIFOLD:
                return self._remember(key, self._judge(subject, content))
        return self._long(key, subject)

    def scan_now(self, subject: Subject, version: str = "") -> Report:
        """The same where nobody else waits: for definitions, judged in a thread of their own."""
        key = _key(subject, canonical(subject.value), version)
        known = self._recall(key)
        return known if known is not None else self._remember(key, self._scan(subject))

    def forget(self) -> None:
        """What detectors know has changed: every verdict is made anew."""
        with self._lock:
            self._known.clear()

    def close(self) -> None:
        """Stop the threads; what is under way there is not waited for."""
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def _long(self, key: bytes, subject: Subject) -> Report:
        return self._remember(key, await self._aside(self._scan, subject))

    async def _beyond(self, key: bytes, subject: Subject, size: int, asked: Sequence[Remote]) -> Report:
        """Our own detectors, then those elsewhere at once. What one of them did not judge is not remembered."""
        short = size <= self._inline
        report = self._scan(subject) if short else await self._aside(self._scan, subject)
        if report.too_large:
            return self._remember(key, report)
        said = _plain(subject) if short else await self._aside(_plain, subject)
        answers = await asyncio.gather(*(one.ask(said) for one in asked))
        found = dict.fromkeys((*report.findings, *(finding for answer in answers for finding in answer.findings)))
        report = Report(tuple(found)) if found else _CLEAN
        return self._remember(key, report) if all(answer.whole for answer in answers) else report

    async def _aside(self, work: Callable[[Subject], _Done], subject: Subject) -> _Done:
        """In a thread. Raises DependencyFault as `scan` does."""
        with self._lock:
            if self._waiting >= WAITING:
                raise DependencyFault("inspection", "too many long contents wait to be judged")
            self._waiting += 1
        job = self._workers.submit(work, subject)
        job.add_done_callback(
            self._over
        )  # not when the wait ends: a thread cannot be stopped and still takes its place
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.wrap_future(job)
        except TimeoutError:
            raise DependencyFault("inspection", f"not done after {self._seconds:g} s") from None

    def _over(self, _: Future[Any]) -> None:
        with self._lock:
            self._waiting -= 1

    def _read(self, subject: Subject) -> Content | None:
        """None where there is too much of it."""
        try:
            return Content(subject.value)
        except TooMuch:
            return None
        except Exception as error:  # noqa: BLE001 - a fault that names no content; the chain refuses
            raise InvariantFault(f"reading the texts failed: {type(error).__name__}") from None

    def _scan(self, subject: Subject) -> Report:
        return self._judge(subject, self._read(subject))

    def _judge(self, subject: Subject, content: Content | None) -> Report:
        if content is None:
            return _TOO_LARGE
        started = self._now()
        found: list[Finding] = []
        for detector in self._detectors:
            try:
                found += detector.find(content, subject)
            except Exception as error:  # noqa: BLE001 - a fault that names no content; the chain refuses
                raise InvariantFault(f"detector {detector.name} failed: {type(error).__name__}") from None
            if self._now() - started > self._seconds:
                raise DependencyFault("inspection", f"detector {detector.name} took too long")
        return Report(tuple(dict.fromkeys(found))) if found else _CLEAN

    def _recall(self, key: bytes) -> Report | None:
        with self._lock:
            report = self._known.get(key)
            if report is not None:
                self._known.move_to_end(key)
            return report

    def _remember(self, key: bytes, report: Report) -> Report:
        if len(report.findings) <= _MOST_FINDINGS:
            with self._lock:
                self._known[key] = report
                if len(self._known) > REMEMBERED:
                    self._known.popitem(last=False)
        return report


def _plain(subject: Subject) -> str:
    """Every text in order, one a line, then the names: each once, unlike what our own detectors read."""
    found = pieces(subject.value)
    return "\n".join(piece.text for piece in sorted(found, key=lambda piece: piece.name))


def _key(subject: Subject, data: bytes, version: str) -> bytes:
    about = _about(subject.server, subject.name, subject.channel, subject.trusted, version, subject.definition).copy()
    about.update(data)
    digest: bytes = about.digest()
    return digest


@lru_cache(maxsize=1024)
def _about(server: str, name: str, channel: Channel, trusted: bool, version: str, definition: bytes) -> Any:
    """The digest that every content of one subject begins with, to be copied."""
    parts = (server, name, channel.value, "trusted" if trusted else "", version)
    about = sha256("\0".join(parts).encode())  # names hold no NUL, so no two subjects make the same text
    about.update(sha256(definition).digest())
    return about
