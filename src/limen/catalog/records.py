"""How one name of one server is remembered: every version seen, what was decided, what is announced now."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final

import orjson

SEPARATOR: Final = "\x1f"
MAX_UNREVIEWED: Final = 32
GONE: Final = ""
HELD: Final = "held"
EFFECTS: Final = ("read", "write", "destructive", "unknown")


def key(*parts: str) -> str:
    """A table key. No part can hold the separator: definitions with control characters are held."""
    if any(SEPARATOR in part for part in parts):
        raise ValueError("a key part with a control character")
    return SEPARATOR.join(parts)


@dataclass(frozen=True, slots=True)
class Decision:
    """Who approved which digest, when and why, and what was decided about it."""

    digest: str
    by: str
    at: float
    reason: str
    effect: str
    durable: bool


@dataclass(frozen=True, slots=True)
class Version:
    """One observed definition and its standing: pending, approved, superseded, rejected or observed."""

    digest: str
    first_seen: float
    state: str


@dataclass(slots=True)
class Record:
    """The stored form. `announced`: a digest, GONE or HELD. `withheld`: why calls are refused despite approval."""

    announced: str
    approved: Decision | None = None
    pending: str = ""
    withheld: str = ""
    held: str = ""
    rejected: list[str] = field(default_factory=list)
    superseded: list[str] = field(default_factory=list)
    versions: list[tuple[str, float]] = field(default_factory=list)

    @classmethod
    def load(cls, raw: bytes) -> Record:
        """Raises ValueError, KeyError or TypeError for bytes that are no record."""
        data: dict[str, Any] = orjson.loads(raw)
        approved = data.pop("approved")
        versions = [(str(digest), float(seen)) for digest, seen in data.pop("versions")]
        return cls(approved=Decision(**approved) if approved else None, versions=versions, **data)

    def dump(self) -> bytes:
        """Canonical bytes: equal records compare equal in the table."""
        return orjson.dumps(asdict(self), option=orjson.OPT_SORT_KEYS)

    @property
    def reviewed(self) -> bool:
        """Whether a person ever decided anything about this name."""
        return bool(self.approved or self.rejected or self.superseded)

    @property
    def drifted(self) -> bool:
        """The server announces something else than what is approved."""
        return self.approved is not None and self.announced != self.approved.digest

    @property
    def state(self) -> str:
        """pending, approved, drifted, rejected, held or gone."""
        if self.approved is not None:
            return "drifted" if self.drifted else "approved"
        if self.announced == HELD:
            return "held"
        if self.announced == GONE:
            return "gone"
        return "pending" if self.pending else "rejected"

    def standing(self, digest: str) -> str:
        """State of one version."""
        if self.approved is not None and self.approved.digest == digest:
            return "approved"
        if digest == self.pending:
            return "pending"
        if digest in self.rejected:
            return "rejected"
        return "superseded" if digest in self.superseded else "observed"

    def knows(self, digest: str) -> bool:
        """Whether this definition was observed and is still kept."""
        return any(digest == known for known, _ in self.versions)

    def remember(self, digest: str, at: float) -> list[str]:
        """Add a version. Returns digests that were forgotten: a server that changes at every reading must not fill
        the disk, so of those nobody ever decided about only the newest are kept."""
        if self.knows(digest):
            return []
        self.versions.append((digest, at))
        loose = [known for known, _ in self.versions if self.standing(known) == "observed" and known != digest]
        forgotten = loose[: max(0, len(loose) - MAX_UNREVIEWED)]
        self.versions = [version for version in self.versions if version[0] not in forgotten]
        return forgotten
