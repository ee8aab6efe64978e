"""Followers over HTTP: Splunk's event collector and signed webhooks, through the one checked way out."""

from __future__ import annotations

import asyncio
import hmac
import json
import ssl
import time
import uuid
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

import orjson

from limen.adapters.public_http import PublicHttp
from limen.audit.export import Entry, Rejected
from limen.audit.follow_settings import SplunkFollower, WebhookFollower, signing_key
from limen.audit.lines import json_record
from limen.audit.ocsf import ocsf
from limen.core.faults import DependencyFault
from limen.core.ports import Fetched

_CONTENT: Final = frozenset({400, 413, 422})  # what the other side says of a body it will never take
_ACK_POLL: Final = 0.2  # seconds between two looks for an acknowledgement
_POISON: Final = frozenset({6, 12, 13, 15})  # codes of the event collector about one event's content


class Poster:
    """POST to an address an operator configured: bounded in time as a whole, no redirects. One thread each."""

    def __init__(self, timeout: float, tls: ssl.SSLContext) -> None:
        self.timeout = timeout
        self._http = PublicHttp(private=True, timeout=timeout, tls=tls)

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Fetched:
        """The answer, whatever its status. Raises DependencyFault."""
        return asyncio.run(self._http.post(url, body, headers))


def judge(answer: Fetched, content: frozenset[int] = _CONTENT) -> bytes:
    """The body of a good answer. Raises Rejected for what the sink will never take, DependencyFault otherwise."""
    if 200 <= answer.status < 300:
        return answer.body
    text = f"status {answer.status} {printable(answer.body)}".strip()
    if answer.status in content:
        raise Rejected(text)
    asked = answer.headers.get("retry-after", "")
    raise DependencyFault("sink", text, retry_after=min(float(asked), 3600.0) if asked.isdecimal() else 0.0)


def printable(body: bytes) -> str:
    """The start of what a stranger answered, for one line."""
    return "".join(one if one.isprintable() else " " for one in body[:200].decode("utf-8", "replace"))


def shaped(form: str, entry: Entry) -> dict[str, Any]:
    """An event as `ocsf` or `record`."""
    return ocsf(entry) if form == "ocsf" else json_record(entry)


class SplunkSink:
    """Implements export.Sink for the HTTP Event Collector, with indexer acknowledgement if asked for."""

    def __init__(
        self,
        settings: SplunkFollower,
        poster: Poster,
        wait: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._poster, self._wait, self._clock = settings, poster, wait, clock
        self._base = settings.url.rstrip("/") + "/services/collector"
        self._headers = {
            "Authorization": f"Splunk {settings.token.get_secret_value()}",
            "X-Splunk-Request-Channel": str(uuid.uuid4()),
            "Content-Type": "application/json",
        }

    def send(self, entries: Sequence[Entry]) -> None:
        """Raises Rejected, DependencyFault."""
        answer = self._poster.post(f"{self._base}/event", b"".join(map(self._event, entries)), self._headers)
        if answer.status == 400 and _code(answer.body) not in _POISON:
            judge(answer, frozenset())  # a wrong index or channel is the operator's mistake, not the record's
        said = _object(judge(answer))
        if said.get("code", 0) != 0:
            raise DependencyFault("sink", f"status {answer.status}, but: {printable(answer.body)}")
        if self._settings.acknowledge:
            self._acknowledged(said.get("ackId"))

    def _event(self, entry: Entry) -> bytes:
        settings = self._settings
        found: dict[str, Any] = {
            "time": entry.event.at,
            "host": entry.event.log,
            "source": settings.source,
            "sourcetype": settings.sourcetype or f"limen:{settings.form}",
            "event": shaped(settings.form, entry),
            "fields": {"limen_id": entry.id, "limen_type": entry.event.type},
        }
        if settings.index:
            found["index"] = settings.index
        return orjson.dumps(found)

    def _acknowledged(self, number: object) -> None:
        """Until the indexers have it. Raises DependencyFault when they do not within the time of one batch."""
        if type(number) is not int:
            raise DependencyFault("sink", "acknowledgement is not enabled for this token")
        ends = self._clock() + self._poster.timeout
        while True:
            answer = self._poster.post(f"{self._base}/ack", orjson.dumps({"acks": [number]}), self._headers)
            acks = _object(judge(answer, frozenset())).get("acks")
            if isinstance(acks, dict) and acks.get(str(number)) is True:
                return
            if self._clock() >= ends:
                raise DependencyFault("sink", "not acknowledged in time")
            self._wait(_ACK_POLL)

    def close(self) -> None:
        """Nothing is held open."""


def _object(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises DependencyFault: something else answers at this address."""
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise DependencyFault("sink", "the answer is not a JSON object")
    return found


def _code(body: bytes) -> int:
    try:
        found = json.loads(body)
    except ValueError:
        return -1
    code = found.get("code") if isinstance(found, dict) else None
    return code if type(code) is int else -1


class WebhookSink:
    """Implements export.Sink: one signed POST a batch (the Standard Webhooks specification, v1 signatures).

    The id is the batch's own, so a receiver can drop what it has; each event carries its own id as well.
    """

    def __init__(self, settings: WebhookFollower, poster: Poster, clock: Callable[[], float] = time.time) -> None:
        self._settings, self._poster, self._clock = settings, poster, clock
        self._key = signing_key(settings.secret.get_secret_value())

    def send(self, entries: Sequence[Entry]) -> None:
        """Raises Rejected, DependencyFault."""
        number, stamp = batch_id(entries), int(self._clock())
        events = [{"id": entry.id, "event": shaped(self._settings.form, entry)} for entry in entries]
        body = orjson.dumps({"type": "limen.events", "timestamp": stamp, "data": {"events": events}})
        headers = {
            "Content-Type": "application/json",
            "webhook-id": number,
            "webhook-timestamp": str(stamp),
            "webhook-signature": sign(self._key, number, stamp, body),
        }
        judge(self._poster.post(self._settings.url, body, headers))

    def close(self) -> None:
        """Nothing is held open."""


def batch_id(entries: Sequence[Entry]) -> str:
    """The same for the same records."""
    return f"msg_{sha256(chr(10).join(entry.id for entry in entries).encode()).hexdigest()[:32]}"


def sign(key: bytes, number: str, stamp: int, body: bytes) -> str:
    """v1, and the base64 of HMAC-SHA-256 over id.timestamp.body."""
    mac = hmac.new(key, f"{number}.{stamp}.".encode() + body, sha256).digest()
    return f"v1,{b64encode(mac).decode()}"
