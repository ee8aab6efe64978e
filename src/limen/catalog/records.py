"""How one name of one server is remembered: what was decided, what is announced now, and every version seen.

The record is small whatever the number of versions: these, their contents and the decisions have rows of their own.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final

import orjson

from limen.catalog.attest import FORCE, Decision, Unattested, read_note

SEPARATOR: Final = "\x1f"
MAX_VOTES: Final = 64  # kept at a time, of all versions of one name
GONE: Final = ""
HELD: Final = "held"
EFFECTS: Final = ("read", "write", "destructive", "unknown")


def key(*parts: str) -> str:
    """A table key. No part can hold the separator: definitions with control characters are held."""
    joined = SEPARATOR.join(parts)
    if joined.count(SEPARATOR) != len(parts) - 1:
        raise ValueError("a key part with a control character")
    return joined


@dataclass(frozen=True, slots=True)
class Version:
    """One observed definition and its standing: pending, approved, superseded, rejected or observed.

    `size` is in bytes, `by`, `at`, `reason` and `source` are those of the newest of its `decisions` (oldest first).
    """

    digest: str
    first_seen: float
    state: str
    size: int = 0
    by: str = ""
    at: float = 0.0
    reason: str = ""
    source: str = ""
    decisions: tuple[Decision, ...] = ()


@dataclass(slots=True)
class Mark:
    """The stored standing of one version: its number among those of its name, and what was last decided about it."""

    number: int
    seen: float
    size: int
    verdict: str = ""  # "", "approved" (once) or "rejected"

    @classmethod
    def load(cls, raw: bytes) -> Mark:
        """Raises Unattested for bytes that are no mark."""
        try:
            return cls(**orjson.loads(raw))
        except (ValueError, TypeError):
            raise Unattested("is no version mark") from None

    def dump(self) -> bytes:
        """Canonical bytes."""
        return orjson.dumps(asdict(self), option=orjson.OPT_SORT_KEYS)


_STORED: Final = (
    "announced", "note", "final", "pending", "withheld", "held", "votes", "risk", "score", "chain", "decisions",
    "versions", "serial",
)  # fmt: skip


@dataclass(slots=True)
class Record:
    """The stored form. `announced`: a digest, GONE or HELD. `withheld`: why calls are refused despite approval.

    `note`: the signed approval in force, "" without one. `final`: the newest decision where that is another. `votes`:
    signed approvals of people that are not enough yet. `risk`, `score`: of what waits. `chain`, `decisions`: which
    chain of decisions is current, and how long it is. `versions`: how many are kept; `serial`: how many there were.
    """

    announced: str
    note: str = ""
    final: str = ""
    pending: str = ""
    withheld: str = ""
    held: str = ""
    votes: list[str] = field(default_factory=list)
    risk: str = ""
    score: float = 0.0
    chain: int = 0
    decisions: int = 0
    versions: int = 0
    serial: int = 0
    approved: Decision | None = None

    @classmethod
    def load(cls, raw: bytes) -> Record:
        """Raises Unattested for bytes that are no record."""
        try:
            data: dict[str, Any] = orjson.loads(raw)
            made = cls(**data)
        except (ValueError, TypeError):
            raise Unattested("is no record") from None
        if len(data) != len(_STORED) or "approved" in data:
            raise Unattested("is no record")
        if made.note:
            made.approved = read_note(made.note)
            if made.approved.act not in FORCE:
                raise Unattested("names as approval what is none")
        return made

    def dump(self) -> bytes:
        """Canonical bytes: equal records compare equal in the table."""
        return orjson.dumps({name: getattr(self, name) for name in _STORED}, option=orjson.OPT_SORT_KEYS)

    @property
    def last(self) -> str:
        """The newest decision, "" before the first."""
        return self.final or self.note

    @property
    def reviewed(self) -> bool:
        """Whether anybody ever decided anything about this name, as far as can be told."""
        return self.decisions > 0 or self.chain > 0

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

    def standing(self, digest: str, verdict: str) -> str:
        """State of one version of this verdict."""
        if self.approved is not None and self.approved.digest == digest:
            return "approved"
        if digest == self.pending:
            return "pending"
        return {"approved": "superseded", "rejected": "rejected"}.get(verdict, "observed")

    def decide(self, decision: Decision, note: str) -> None:
        """Make this the newest decision, with what it puts into service or takes out of it."""
        self.decisions = decision.number
        if decision.act in FORCE:
            self.approved, self.note, self.final = decision, note, ""
        else:
            if decision.act == "reject" and self.approved is not None and self.approved.digest == decision.digest:
                self.approved, self.note = None, ""
            self.final = note
        if decision.act == "vote":
            self.votes = [*self.votes, note][-MAX_VOTES:]
        else:
            self.votes = [vote for vote in self.votes if read_note(vote).digest != decision.digest]
            if self.pending == decision.digest:
                self.wait("")

    def wait(self, digest: str, risk: str = "", score: float = 0.0) -> None:
        """What waits for a person now, and its risk; "": nothing."""
        self.pending, self.risk, self.score = digest, risk, score

    def kept(self) -> set[str]:
        """Digests of versions that are in use and never dropped."""
        used = {self.announced, self.pending} | {read_note(vote).digest for vote in self.votes}
        return used | ({self.approved.digest, self.approved.base} if self.approved is not None else set())
