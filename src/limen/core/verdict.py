"""What a guard may say, and the two ends of a decision. `Permit` can only be minted by `core.chain`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from limen.core.reasons import REASONS, Reason

if TYPE_CHECKING:
    from limen.core.call import Call

Fact = TypeVar("Fact")
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


def _nothing() -> Mapping[str, Any]:
    return _NOTHING


@dataclass(frozen=True, slots=True)
class Pass:
    """The guard's question is answered; these facts are proven."""

    facts: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class Refuse:
    """The call ends here. `detail` is for the audit only; `public` holds the few members a client may see
    (for example `scopes`, `retry_after`, `approval`)."""

    reason: Reason
    detail: str = field(default="", repr=False)
    public: Mapping[str, Any] = field(default_factory=_nothing)


@dataclass(frozen=True, slots=True)
class Replace:
    """Result guards only: this stands in for the upstream's result."""

    result: dict[str, Any]
    detail: str = field(default="", repr=False)


Verdict = Pass | Refuse
ResultVerdict = Pass | Refuse | Replace


def refuse(reason_id: str, detail: str = "", **public: Any) -> Refuse:
    """Shorthand: `refuse("policy.denied", "rule 3")`. An unknown id is a KeyError, which the chain refuses."""
    return Refuse(REASONS[reason_id], detail, MappingProxyType(public) if public else _NOTHING)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The end of a call that was not forwarded, or whose result was not passed on."""

    reason: Reason
    reference: str
    guard: str = ""
    detail: str = field(default="", repr=False)
    public: Mapping[str, Any] = field(default_factory=_nothing)


_SEAL: Final = object()


class Permit:
    """Proof that a chain established every required fact about this call. `forward` accepts nothing else.

    The seal guards against mistakes; hostile code inside our own process can forge anything.
    """

    __slots__ = ("_facts", "call", "reference")

    def __init__(self, seal: object, call: Call, facts: Mapping[type, object], reference: str) -> None:
        if seal is not _SEAL:
            raise TypeError("a Permit is minted by the chain only")
        object.__setattr__(self, "call", call)
        object.__setattr__(self, "_facts", facts)
        object.__setattr__(self, "reference", reference)
        self._facts: Mapping[type, Any]  # each is of the type it stands under
        self.call: Call
        self.reference: str

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Permit is immutable: {name}")

    def get(self, kind: type[Fact]) -> Fact:
        """The proven fact of this type. Raises KeyError if the chain was not asked to prove it."""
        fact: Fact = self._facts[kind]
        return fact

    def find(self, kind: type[Fact]) -> Fact | None:
        """The proven fact of this type, or None."""
        fact: Fact | None = self._facts.get(kind)
        return fact
