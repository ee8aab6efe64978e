"""Events as text: CEF (ArcSight Common Event Format, version 0), syslog (RFC 5424), and JSON with its proof. Pure.

What a stranger wrote (names, agents, details) stands in these lines: it is escaped or made harmless, so that it can
neither begin another line nor another field.
"""

from __future__ import annotations

import re
import time
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any, Final

import orjson

from limen import __version__
from limen.audit.export import Entry
from limen.audit.ocsf import ocsf

FACILITY: Final = 13  # log audit (RFC 5424 section 6.2.1)
ENTERPRISE: Final = "32473"  # RFC 5612: for documentation, as long as nobody has registered a number
_SYSLOG: Final = MappingProxyType({"info": 6, "low": 5, "medium": 4, "high": 3, "critical": 2})
_CEF: Final = MappingProxyType({"info": 1, "low": 3, "medium": 5, "high": 8, "critical": 10})
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_MOST: Final = 1023  # characters of one CEF field


def json_record(entry: Entry) -> dict[str, Any]:
    """The record as it is, and where it stands. `raw` is what was hashed."""
    event = entry.event
    proof = {"origin": event.log, "index": event.index, "leaf": entry.leaf, "size": entry.size}
    base = {"id": entry.id, "type": event.type, "category": event.category, "severity": event.severity, "proof": proof}
    return {**base, "record": dict(event.record), "raw": entry.raw.decode("utf-8", "backslashreplace")}


def render(form: str, entry: Entry) -> bytes:
    """One line without its end, in UTF-8: cef, ocsf or record."""
    if form == "cef":
        return cef(entry).encode("utf-8", "replace")
    return orjson.dumps(ocsf(entry) if form == "ocsf" else json_record(entry))


def cef(entry: Entry) -> str:
    """CEF:0|vendor|product|version|event class id|name|severity|extension."""
    event = entry.event
    head = ("Limen", "Limen", __version__, event.type, _title(entry), str(_CEF[event.severity]))
    fields: list[tuple[str, object]] = [
        ("rt", int(event.at * 1000)), ("externalId", entry.id), ("cat", event.category), ("act", event.decision),
        ("outcome", event.reason), ("suser", event.subject), ("sntdom", event.issuer), ("spriv", event.client),
        ("requestClientApplication", event.agent), ("dhost", event.server), ("requestMethod", event.method),
        ("fname", event.name), ("fileHash", event.digest), ("msg", event.detail), ("in", event.received),
        ("out", event.sent), ("cn1", round(event.risk * 100) if event.risk else None), ("cs1", event.ref),
        ("cs2", event.session), ("cs3", event.policy), ("cs4", " ".join(event.rules)), ("cs5", entry.leaf),
        ("cs6", " ".join(event.findings)), ("cn2", entry.size), ("cfp1", event.ms),
    ]  # fmt: skip
    try:
        fields.append(("src" if ip_address(event.peer).version == 4 else "c6a2", event.peer))
    except ValueError:
        fields.append(("shost", event.peer))
    labels = {
        "cs1": "reference", "cs2": "session", "cs3": "policy", "cs4": "rules", "cs5": "leaf", "cs6": "findings",
        "cn1": "risk", "cn2": "checkpoint", "cfp1": "milliseconds", "c6a2": "Source IPv6 Address",
    }  # fmt: skip
    given = [(key, value) for key, value in fields if value not in ("", None)]
    given += [(f"{key}Label", labels[key]) for key, _ in given if key in labels]
    extension = " ".join(f"{key}={_value(str(value))}" for key, value in given)
    return f"CEF:0|{'|'.join(map(_header, head))}|{extension}"


def _title(entry: Entry) -> str:
    event = entry.event
    return " ".join(part for part in (event.type, event.reason) if part)


def _header(text: str) -> str:
    return _CONTROL.sub(" ", text)[:_MOST].replace("\\", "\\\\").replace("|", "\\|")


def _value(text: str) -> str:
    return _CONTROL.sub(" ", text)[:_MOST].replace("\\", "\\\\").replace("=", "\\=")


def syslog(entry: Entry, form: str, host: str, process: int) -> bytes:
    """One RFC 5424 message: header, structured data with id and proof, then the event in `form`."""
    event = entry.event
    priority = FACILITY * 8 + _SYSLOG[event.severity]
    whole, part = divmod(event.at, 1)
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int(part * 1e6):06d}Z"
    proof = {"id": entry.id, "leaf": entry.leaf, "size": str(entry.size)}
    data = " ".join(f'{name}="{_parameter(value)}"' for name, value in proof.items())
    head = f"<{priority}>1 {stamp} {_token(host, 255)} limen {process} {_token(event.type, 32)}"
    return f"{head} [limen@{ENTERPRISE} {data}] ".encode() + render(form, entry)


def framed(message: bytes) -> bytes:
    """Octet counting (RFC 5425 section 4.3, RFC 6587 section 3.4.1): no byte inside can end it early."""
    return b"%d " % len(message) + message


def _token(text: str, most: int) -> str:
    """Printable ASCII without spaces, at most so long; "-" for nothing (section 6)."""
    return "".join(one for one in text if "!" <= one <= "~")[:most] or "-"


def _parameter(text: str) -> str:
    """Section 6.3.3: quotation mark, backslash and closing bracket are escaped."""
    return _CONTROL.sub(" ", text).replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
