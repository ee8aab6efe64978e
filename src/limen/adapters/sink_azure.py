"""Azure Monitor Logs Ingestion (2023-01-01): rows for a stream of a data collection rule."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, urlencode

import orjson

from limen.adapters.sink_http import Poster, judge
from limen.audit.export import Entry, Rejected
from limen.audit.follow_settings import AzureFollower
from limen.audit.ocsf import ocsf
from limen.core.faults import DependencyFault

VERSION: Final = "2023-01-01"
SCOPE: Final = "https://monitor.azure.com/.default"
_MOST: Final = 1_000_000  # bytes of one body
_SPARE: Final = 120.0  # seconds before its end in which a token is not used any more


class AzureSink:
    """Implements export.Sink. It answers 204 and says nothing of single rows; `EventId` is for dropping doubles."""

    def __init__(self, settings: AzureFollower, poster: Poster, clock: Callable[[], float] = time.time) -> None:
        self._settings, self._poster, self._clock = settings, poster, clock
        place = f"/dataCollectionRules/{quote(settings.rule)}/streams/{quote(settings.stream)}"
        self._url = f"{settings.url.rstrip('/')}{place}?api-version={VERSION}"
        self._token, self._ends = "", 0.0

    def send(self, entries: Sequence[Entry]) -> None:
        """Raises Rejected, DependencyFault."""
        token = self._bearer()
        for body in _bodies(entries):
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            answer = self._poster.post(self._url, body, headers)
            if answer.status == 401:
                self._ends = 0.0
            judge(answer)
            if answer.status != 204:  # whoever says so has not taken rows: a page for people, a proxy
                raise DependencyFault("sink", f"status {answer.status} where 204 is the answer")

    def _bearer(self) -> str:
        """A token for our own application (RFC 6749 section 4.4). Raises DependencyFault."""
        if self._clock() < self._ends - _SPARE:
            return self._token
        settings = self._settings
        form = {
            "grant_type": "client_credentials",
            "client_id": settings.client_id,
            "client_secret": settings.client_secret.get_secret_value(),
            "scope": SCOPE,
        }
        url = f"{settings.authority}/{quote(settings.tenant)}/oauth2/v2.0/token"
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = self._poster.post(url, urlencode(form).encode(), kind)
        if answer.status != 200:
            raise DependencyFault("sink", f"no token: status {answer.status}")  # its text may quote what was sent
        found: Any = orjson.loads(answer.body) if answer.body[:1] == b"{" else {}
        token, seconds = found.get("access_token"), found.get("expires_in")
        if not isinstance(token, str) or not isinstance(seconds, int | float):
            raise DependencyFault("sink", "no token: the answer is not one of RFC 6749")
        self._token, self._ends = token, self._clock() + seconds
        return token

    def close(self) -> None:
        """Nothing is held open."""


def _bodies(entries: Sequence[Entry]) -> Iterator[bytes]:
    """JSON arrays of rows, each within bounds. Raises Rejected for a row that is too large by itself."""
    rows: list[bytes] = []
    size = 2
    for entry in entries:
        row = _row(entry)
        if len(row) + 2 > _MOST:
            raise Rejected("larger than one request may be")
        if rows and size + len(row) + 1 > _MOST:
            yield b"[" + b",".join(rows) + b"]"
            rows, size = [], 2
        rows.append(row)
        size += len(row) + 1
    if rows:
        yield b"[" + b",".join(rows) + b"]"


def _row(entry: Entry) -> bytes:
    """Columns of the table; `Event` is the whole OCSF event."""
    event = entry.event
    return orjson.dumps(
        {
            "TimeGenerated": datetime.fromtimestamp(event.at, UTC).isoformat(),
            "EventId": entry.id,
            "EventType": event.type,
            "Category": event.category,
            "Severity": event.severity,
            "Caller": event.subject,
            "Server": event.server,
            "Name": event.name,
            "Reason": event.reason,
            "LogName": event.log,
            "LogIndex": event.index,
            "Leaf": entry.leaf,
            "Event": ocsf(entry),
        }
    )
