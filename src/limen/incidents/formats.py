"""What each kind of receiver is told of an alert, in its own format. Nothing an attacker wrote can act there.

Titles and members are of one line, bounded (`rules.plain`), and no links (`rules.unlinked`). Slack: only `plain_text`
objects and escaped text, so neither mrkdwn nor <!channel> means anything. Teams: only `TextRun`s, which know neither
Markdown nor mentions. Mail: one plain text part; headers are of one line or are refused by the library.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from types import MappingProxyType
from typing import Any, Final

import orjson

from limen.incidents.outbox import Act, Entry
from limen.incidents.rules import plain, unlinked

_SLACK_HEADER: Final = 150  # characters of a header block
_SUMMARY: Final = 1024  # of a PagerDuty summary
_PAGER: Final = MappingProxyType(
    {"info": "info", "low": "info", "medium": "warning", "high": "error", "critical": "critical"}
)
_COLOUR: Final = MappingProxyType(
    {"info": "Default", "low": "Accent", "medium": "Warning", "high": "Attention", "critical": "Attention"}
)
_ACTS: Final[Mapping[Act, str]] = MappingProxyType(
    {"trigger": "", "acknowledge": "taken up: ", "resolve": "closed: ", "test": "test: "}
)


def title(entry: Entry) -> str:
    """One line."""
    alert = entry.alert
    return unlinked(plain(f"[{alert['severity']}] {_ACTS[entry.act]}{alert['title']}", 250))[:250]


def facts(entry: Entry) -> list[tuple[str, str]]:
    """Names and values for people; ids and numbers, and what the rule groups by."""
    alert = entry.alert
    rows = [("rule", alert["rule"]), *alert["about"], ("events", alert["count"]),
            ("first", _when(alert["first"])), ("last", _when(alert["last"])), ("alert", alert["id"])]  # fmt: skip
    if alert.get("by"):
        rows.append(("by", alert["by"]))
    return [(plain(str(name), 40), unlinked(plain(str(value), 200))) for name, value in rows]


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def webhook(entry: Entry) -> bytes:
    """The alert itself. `id` is that of the delivery, the same when it comes twice."""
    alert = {name: value for name, value in entry.alert.items() if name not in ("untold", "told", "key")}
    alert["about"] = dict(alert["about"])
    return orjson.dumps({"id": entry.id, "type": f"alert.{entry.act}", "timestamp": _when(entry.since), "data": alert})


def signature(secret: bytes, identifier: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Headers by which a receiver knows that it was us, and when (Standard Webhooks 1.0: HMAC-SHA256 over
    `id.timestamp.body`). `timestamp`: seconds since the epoch."""
    signed = b".".join((identifier.encode(), str(timestamp).encode(), body))
    proof = base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
    return {"webhook-id": identifier, "webhook-timestamp": str(timestamp), "webhook-signature": f"v1,{proof}"}


def slack(entry: Entry) -> bytes:
    """Blocks for an incoming webhook. `text` is what notifications show and is mrkdwn, so it is escaped."""
    lines = "\n".join(f"{name}: {value}" for name, value in facts(entry))
    head = title(entry)
    return orjson.dumps(
        {
            "text": head.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "@\u200b"),
            "parse": "none",
            "link_names": False,
            "unfurl_links": False,
            "unfurl_media": False,
            "blocks": [
                {"type": "header", "text": {"type": "plain_text", "text": head[:_SLACK_HEADER], "emoji": False}},
                {"type": "section", "text": {"type": "plain_text", "text": lines[:3000], "emoji": False}},
            ],
        }
    )


def teams(entry: Entry) -> bytes:
    """An Adaptive Card, as the workflow "when a Teams webhook request is received" takes it."""
    rows = [_runs(name, value) for name, value in facts(entry)]
    head = {"type": "TextRun", "text": title(entry), "weight": "Bolder", "color": _COLOUR[entry.alert["severity"]]}
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [{"type": "RichTextBlock", "inlines": [head]}, *rows],
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return orjson.dumps({"type": "message", "attachments": [attachment]})


def _runs(name: str, value: str) -> dict[str, Any]:
    label = {"type": "TextRun", "text": f"{name}: ", "weight": "Bolder"}
    return {"type": "RichTextBlock", "inlines": [label, {"type": "TextRun", "text": value or "-"}]}


def pagerduty(entry: Entry, routing_key: str, source: str) -> bytes:
    """Events API v2. One incident there for each alert: `dedup_key`."""
    act = "trigger" if entry.act == "test" else entry.act
    event: dict[str, Any] = {"routing_key": routing_key, "event_action": act, "dedup_key": f"limen-{entry.alert['id']}"}
    if act == "trigger":
        event["client"] = "Limen"
        event["payload"] = {
            "summary": title(entry)[:_SUMMARY],
            "source": source,
            "severity": _PAGER[entry.alert["severity"]],
            "timestamp": _when(entry.alert["last"]),
            "component": "limen",
            "class": entry.alert["rule"],
            "custom_details": dict(facts(entry)),
        }
    return orjson.dumps(event)


def mail(entry: Entry, sender: str, recipients: tuple[str, ...]) -> bytes:
    """One plain text message. Raises ValueError for an address or a subject that would break out of its header."""
    message = EmailMessage(policy=SMTP)
    message["From"] = Address(addr_spec=sender)
    message["To"] = [Address(addr_spec=one) for one in recipients]
    message["Subject"] = title(entry)
    message["Date"] = datetime.fromtimestamp(entry.since, UTC)
    message["Message-ID"] = f"<{entry.id}@limen.invalid>"  # the same when it comes twice
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's holiday answers it
    message["X-Priority"] = "1" if entry.alert["severity"] == "critical" else "3"
    message.set_content("\n".join([title(entry), "", *(f"{name}: {value}" for name, value in facts(entry)), ""]))
    return message.as_bytes()
