"""Every configuration and policy that was in force, with when and by whom: to compare with, and to go back to.

In the table `history`, shared by replicas:

    config/TIME       one configuration taking effect: digest of its text, policy, files it named, who; JSON
    text/DIGEST       the text, named by its SHA-256
    policies/TIME     one policy taking effect: its digest; JSON
    asked/DIGEST      who put this text into the file, and why; for a day

References stay references. What looks like a secret in the file itself is left out (`***`), and so that text cannot be
restored as it was. TIME: 20 digits, nanoseconds since the epoch.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from limen.config.document import Path as Place
from limen.config.document import parse
from limen.config.edit import edited
from limen.config.references import CREDENTIAL_NAME, CREDENTIAL_VALUE, is_environment
from limen.core.faults import ConfigFault, DependencyFault
from limen.core.ports import Table

if TYPE_CHECKING:
    from limen.config.load import Loaded

MOST: Final = 1000  # configurations, and policies, that are kept; then the oldest go
HIDDEN: Final = "***"
_REMEMBERED: Final = 86_400.0
_SECRETS: Final = frozenset({"secret", "client_secret", "client_key", "password", "pin", "token"})
_OF_ROUTES: Final = frozenset({"key", "url"})  # the address of a hook is what lets one write to it
_ARGUMENT: Final = re.compile(r"(?i)^--?[\w-]*(?:token|secret|passw|key)[\w-]*=[^\s$]|://[^/\s:@]*:[^/\s@]+@")


@dataclass(frozen=True, slots=True)
class Kept:
    """One configuration as it took effect. `hidden`: what was left out, as dotted places. `beside`: digest of each
    other file it was made of. `at`: seconds since the epoch."""

    id: str
    at: float
    by: str
    reason: str
    file: str
    digest: str
    policy: str
    hidden: tuple[str, ...]
    beside: dict[str, str]


def redacted(source: bytes, file: str) -> tuple[bytes, tuple[str, ...]]:
    """The text of a configuration without what looks like a secret in it, and where that was. Raises ConfigFault."""
    places = [place for place, value in _texts(parse(source, file).value, ()) if _is_secret(place, value)]
    if not places:
        return source, ()
    text = edited(source, file, dict.fromkeys(places, (HIDDEN,)))
    return text.encode(), tuple(json.dumps(place) for place in places)


def keep_config(table: Table, loaded: Loaded, policy: str) -> str:
    """Remember the configuration that takes effect now, once for each time it changes. Its digest. Raises
    DependencyFault."""
    text, hidden = redacted(loaded.source, str(loaded.path))
    digest = sha256(text).hexdigest()
    beside = {str(path): _digest(path) for path in (*loaded.config.include, *_lock(loaded))}
    last = next(iter(kept(table)), None)
    if last is not None and (last.digest, last.policy, last.beside) == (digest, policy, beside):
        return digest
    asked = table.get(f"asked/{digest}")
    why = (
        orjson.loads(asked) if asked is not None else {"by": f"owner of the file: {_owner(loaded.path)}", "reason": ""}
    )
    table.put(f"text/{digest}", text)
    row = {
        "at": time.time(), "by": why["by"], "reason": why["reason"], "file": str(loaded.path), "digest": digest,
        "policy": policy, "hidden": hidden, "beside": beside,
    }  # fmt: skip
    table.put(f"config/{time.time_ns():020d}", orjson.dumps(row))
    _prune(table)
    return digest


def keep_policy(table: Table, digest: str) -> None:
    """Remember that a policy takes effect now; its text is kept by `policy.kept`. Raises DependencyFault."""
    rows = list(table.scan("policies/"))
    if rows and orjson.loads(rows[-1][1])["digest"] == digest:
        return
    table.put(f"policies/{time.time_ns():020d}", orjson.dumps({"at": time.time(), "digest": digest}))
    for place, raw in rows[: max(0, len(rows) + 1 - MOST)]:
        table.swap(place, raw, None)


def tell_who(table: Table, text: bytes, by: str, reason: str) -> None:
    """For a command that is about to write this text into the file. Raises DependencyFault."""
    digest = sha256(text).hexdigest()
    table.put(f"asked/{digest}", orjson.dumps({"by": by, "reason": reason}), time.time() + _REMEMBERED)


def kept(table: Table) -> list[Kept]:
    """All configurations, the newest first. Raises DependencyFault, also for a row that cannot be read."""
    found = []
    for place, raw in table.scan("config/"):
        try:
            row = orjson.loads(raw)
            found.append(Kept(place.partition("/")[2], **{**row, "hidden": tuple(row["hidden"])}))
        except (ValueError, TypeError, KeyError):
            raise _damaged(place) from None
    return found[::-1]


def policies(table: Table) -> list[dict[str, Any]]:
    """All policies with when they took effect, the newest first. Raises DependencyFault."""
    found = []
    for place, raw in table.scan("policies/"):
        try:
            row = orjson.loads(raw)
            found.append({"at": float(row["at"]), "digest": str(row["digest"])})
        except (ValueError, TypeError, KeyError):
            raise _damaged(place) from None
    return found[::-1]


def text_of(table: Table, one: Kept) -> bytes:
    """Its text. Raises DependencyFault when it is gone or not what was kept."""
    raw = table.get(f"text/{one.digest}")
    if raw is None or sha256(raw).hexdigest() != one.digest:
        raise _damaged(f"text/{one.digest}")
    return raw


def restored(text: bytes, one: Kept, current: bytes, file: str) -> bytes:
    """The text as it can be written back: what was left out is taken from the file as it is now.

    Raises ConfigFault where the file has nothing at such a place.
    """
    if not one.hidden:
        return text
    now = parse(current, file).value
    edits: dict[Place, tuple[str, ...]] = {}
    for place in (tuple(json.loads(hidden)) for hidden in one.hidden):
        value = _at(now, place)
        if not isinstance(value, str):
            shown = ".".join(map(str, place))
            raise ConfigFault("its value was a secret and is kept nowhere; put it into the file first", shown)
        edits[place] = (value,)
    return edited(text, file, edits).encode()


def _damaged(place: str) -> DependencyFault:
    return DependencyFault("history", f"{place} is gone or damaged", retryable=False)


def _texts(value: Any, place: Place) -> Iterator[tuple[Place, str]]:
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in steps:
        if isinstance(inner, str):
            yield (*place, key), inner
        else:
            yield from _texts(inner, (*place, key))


def _is_secret(place: Place, value: str) -> bool:
    if "${" in value or not value:
        return False
    if is_environment(place) and CREDENTIAL_NAME.search(str(place[-1])):
        return True
    names = [part for part in place if isinstance(part, str)]
    if names and (names[-1] in _SECRETS or "headers" in names or "-----BEGIN" in value):
        return True
    if names[:1] == ["alerts"] and names[-1] in _OF_ROUTES:
        return True
    return bool(CREDENTIAL_VALUE.search(value)) or (place[:1] == ("mcpServers",) and bool(_ARGUMENT.search(value)))


def _at(value: Any, place: Place) -> Any:
    for part in place:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _lock(loaded: Loaded) -> tuple[Path, ...]:
    return (loaded.config.catalog.lock,) if loaded.config.catalog.lock is not None else ()


def _digest(path: Path) -> str:
    try:
        return sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except (OSError, KeyError):
        return "unknown"


def _prune(table: Table) -> None:
    rows = list(table.scan("config/"))
    if len(rows) <= MOST:
        return
    for place, raw in rows[: len(rows) - MOST]:
        table.swap(place, raw, None)
    used = {one.digest for one in kept(table)}
    for place, raw in table.scan("text/"):
        if place.partition("/")[2] not in used:
            table.swap(place, raw, None)
