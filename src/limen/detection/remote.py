"""Detectors elsewhere: a text is cut into overlapping windows, which a service judges within one deadline.

No answer is no verdict. A service that is late, unreachable, overloaded or not understood gives a finding of its own,
`remote.unavailable`, which holds the content whatever its score; so does a text that is longer than what is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from limen.core.faults import DependencyFault
from limen.detection.finding import Channel, Finding
from limen.detection.settings import RemoteSettings

UNAVAILABLE: Final = "remote.unavailable"
SKIPPED: Final = "remote.skipped"
PARALLEL: Final = 8  # requests to one service at a time


class Service(Protocol):
    """One operation of a service. `window`: characters of one text, `texts`: how many texts go into one request."""

    @property
    def name(self) -> str: ...
    @property
    def window(self) -> int: ...
    @property
    def overlap(self) -> int: ...
    @property
    def texts(self) -> int: ...
    async def judge(self, texts: Sequence[str]) -> Iterable[Finding]:
        """Raises DependencyFault for anything but a whole and well-formed answer about all of them."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """`whole`: every part of the text was judged; only then is the verdict worth remembering."""

    findings: tuple[Finding, ...] = ()
    whole: bool = True


class Remote:
    """One service and the settings under which it is asked. Belongs to one event loop."""

    def __init__(self, service: Service, settings: RemoteSettings) -> None:
        self._service, self._settings = service, settings
        self.channels = frozenset(map(Channel, settings.channels))
        self._places = asyncio.Semaphore(PARALLEL)

    async def ask(self, text: str) -> Answer:
        """What the service says of all of it, within the deadline of the settings. Raises nothing it can foresee."""
        if not text.strip():
            return Answer()
        if len(text) > self._settings.most:
            return self._unjudged((), f"more than {self._settings.most} characters")
        service = self._service
        parts = windows(text, service.window, service.overlap)
        requests = [parts[start : start + service.texts] for start in range(0, len(parts), service.texts)]
        try:
            async with asyncio.timeout(self._settings.seconds):
                told = await asyncio.gather(*map(self._one, requests))
        except TimeoutError:
            return self._unjudged((), f"no verdict within {self._settings.seconds:g} s")
        found = tuple(dict.fromkeys(finding for answer in told for finding in answer.findings))
        failed = next((answer.failed for answer in told if answer.failed), "")
        return self._unjudged(found, failed) if failed else Answer(found)

    async def _one(self, texts: Sequence[str]) -> _Told:
        async with self._places:
            try:
                return _Told(tuple(await self._service.judge(texts)))
            except DependencyFault as fault:
                return _Told(failed=str(fault))

    def _unjudged(self, found: tuple[Finding, ...], why: str) -> Answer:
        """What was found nevertheless, and that something was not looked at."""
        detail = f"{self._service.name}: {why}"[:300]
        if self._settings.unsafe_continue:
            return Answer((*found, Finding(SKIPPED, "remote", 0.0, detail=detail)), whole=False)
        return Answer((*found, Finding(UNAVAILABLE, "remote", self._settings.unavailable, detail=detail)), whole=False)


@dataclass(frozen=True, slots=True)
class _Told:
    findings: tuple[Finding, ...] = ()
    failed: str = ""


def windows(text: str, size: int, overlap: int) -> list[str]:
    """Stretches of at most `size` characters that cover the text; each begins `overlap` before the last one ends.

    Who counts in UTF-16 units sees no more than `size` either.
    """
    if not text.isascii() and max(text) > "\uffff":
        size, overlap = size // 2, overlap // 2
    return [text[start : start + size] for start in range(0, max(1, len(text) - overlap), size - overlap)]
